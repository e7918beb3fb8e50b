//! What values are right, beyond their type. Each rule says it in words, for the error.

use std::net::IpAddr;

use toml::Value;

enum Rule {
    /// Whole numbers from … to …, both included.
    Whole(i64, i64),
    Number(f64, f64),
    OneOf(&'static [&'static str]),
    /// A text, or each entry of a list, for which the function holds; and what it asks for.
    Text(fn(&str) -> bool, &'static str),
}

const HOUR_MS: i64 = 3_600_000;
const YEAR_S: i64 = 31_536_000;
const GIB: i64 = 1 << 30;

/// `Err` says what would be right.
pub(super) fn check(key: &str, value: &Value) -> Result<(), String> {
    let Some(rule) = rule(key) else { return Ok(()) };
    match (rule, value) {
        (Rule::Whole(min, max), Value::Integer(n)) if (min..=max).contains(n) => Ok(()),
        (Rule::Whole(min, max), _) => Err(format!("a whole number from {min} to {max}")),
        (Rule::Number(min, max), Value::Float(n)) if (min..=max).contains(n) => Ok(()),
        (Rule::Number(min, max), _) => Err(format!("a number from {min:.1} to {max:.1}")),
        (Rule::OneOf(words), Value::String(text)) if words.contains(&text.as_str()) => Ok(()),
        (Rule::OneOf(words), _) => Err(format!("one of {}", words.join(", "))),
        (Rule::Text(holds, words), Value::Array(entries)) => {
            match entries.iter().filter_map(Value::as_str).find(|entry| !holds(entry)) {
                None => Ok(()),
                Some(wrong) => Err(format!("each entry to be {words}, but one is {wrong:?}")),
            }
        }
        (Rule::Text(holds, _), Value::String(text)) if holds(text) => Ok(()),
        (Rule::Text(_, words), _) => Err(words.to_owned()),
    }
}

fn rule(key: &str) -> Option<Rule> {
    Some(match key {
        "node.id" => Rule::Text(is_node_id, "empty, or 1 to 63 of letters, digits, '-', '_' and '.'"),
        "node.region" => Rule::Text(is_node_id, "empty, or at most 63 of letters, digits, '-', '_' and '.'"),
        "node.lease_ms" => Rule::Whole(500, HOUR_MS),
        "database.url" => Rule::Text(is_database_url, "postgres://[user[:password]@]host[:port]/database"),
        "database.direct_url" | "database.replica_url" | "database.bus_url" => Rule::Text(
            |url| url.is_empty() || is_database_url(url),
            "empty, or postgres://[user[:password]@]host[:port]/database",
        ),
        "database.max_connections" => Rule::Whole(2, 1_000),
        "database.timeout_ms" => Rule::Whole(100, HOUR_MS),
        "cluster.key" | "cluster.previous_key" => Rule::Text(
            |key| key.is_empty() || (key.len() >= 16 && key.bytes().all(|b| b.is_ascii_graphic())),
            "empty, or at least 16 visible ASCII characters",
        ),
        "http.listen" | "grpc.listen" | "metrics.listen" => {
            Rule::Text(is_address, "host:port, such as 0.0.0.0:8080 or [::]:8080")
        }
        "grpc.tls_name" => Rule::Text(|name| is_word(name, 253), "empty, or a DNS name"),
        "grpc.advertise" => Rule::Text(|a| a.is_empty() || is_address(a), "empty, or host:port"),
        "http.public_url" => Rule::Text(
            |url| url.is_empty() || is_http_url(url),
            "empty, or http(s)://host[:port] without a slash at the end",
        ),
        "http.allowed_origins" => Rule::Text(is_http_url, "http(s)://host[:port] without a path"),
        "http.cors_origins" => {
            Rule::Text(|o| o == "*" || is_http_url(o), "\"*\", or http(s)://host[:port] without a path")
        }
        "http.proxy_protocol" => Rule::OneOf(&["off", "require"]),
        "http.trusted_proxies" => Rule::Text(is_network, "an IP address, or a network such as 10.0.0.0/8"),
        "limits.frame_bytes" => Rule::Whole(1_024, 16 << 20),
        "limits.chat_bytes" => Rule::Whole(1, 1 << 20),
        "limits.chat_channels" => Rule::Whole(1, 10_000),
        _ if key.starts_with("limits.") => Rule::Whole(0, 1_000_000),
        "session.queue_frames" => Rule::Whole(8, 1_000_000),
        "session.queue_bytes" => Rule::Whole(65_536, GIB),
        "session.max_per_player" => Rule::Whole(1, 10_000),
        "session.max_sockets" => Rule::Whole(0, 10_000_000),
        "session.connects_under_way" => Rule::Whole(0, 1_000_000),
        "session.connect_wait_ms" => Rule::Whole(100, 60_000),
        "session.auth_timeout_ms" | "session.silence_ms" | "session.slow_ms" => Rule::Whole(100, 24 * HOUR_MS),
        "migrate.via" => Rule::OneOf(&["url", "affinity", "pod", "off"]),
        "migrate.url" => {
            Rule::Text(|url| url.is_empty() || is_ws_url(url), "empty, or ws(s)://host[:port]/path without a fragment")
        }
        "migrate.cookie" | "migrate.query" => {
            Rule::Text(|name| !name.is_empty() && is_word(name, 64), "1 to 64 of letters, digits, '-', '_' and '.'")
        }
        "chat.global_channels" => {
            Rule::Text(is_channel_name, "1 to 64 of letters, digits, '-', '_' and '.', without \"global:\"")
        }
        "chat.batch" => Rule::Whole(1, 10_000),
        "chat.gap_ms" => Rule::Whole(1, 10_000),
        "chat.queue" => Rule::Whole(1, 1_000_000),
        "chat.retention_days" => Rule::Whole(0, 36_500),
        "chat.filter_url" => Rule::Text(
            |url| url.is_empty() || url.strip_prefix("http://").is_some_and(is_address),
            "empty, or http://host:port without a path",
        ),
        "chat.filter_timeout_ms" => Rule::Whole(1, 60_000),
        "chat.filter_on_failure" => Rule::OneOf(&["allow", "refuse"]),
        "chat.filter_in_flight" => Rule::Whole(1, 100_000),
        "presence.grace_ms" | "matchmaker.disconnect_grace_ms" => Rule::Whole(0, HOUR_MS),
        "auth.access_ttl_s" => Rule::Whole(10, YEAR_S),
        "auth.refresh_ttl_s" => Rule::Whole(60, 10 * YEAR_S),
        "auth.key_rotation_s" => Rule::Whole(60, 10 * YEAR_S),
        "auth.hash_threads" => Rule::Whole(0, 256),
        "auth.hash_queue" => Rule::Whole(1, 1_000_000),
        "leaderboards.client_submit" => {
            Rule::Text(|id| !id.is_empty() && id.len() <= 128, "the id of a board, at most 128 bytes")
        }
        "leaderboards.memory_entries" => Rule::Whole(1_000, 1_000_000_000),
        "leaderboards.preload_entries" => Rule::Whole(0, 1_000_000_000),
        "matchmaker.max_queue" => Rule::Whole(1, 100_000_000),
        "matchmaker.party_size" => Rule::Whole(1, 100),
        "matchmaker.invites_per_minute" => Rule::Whole(0, 1_000_000),
        "matchmaker.failover_timeout_ms" => Rule::Whole(0, HOUR_MS),
        "matchmaker.create_timeout_ms" | "social.timeout_ms" => Rule::Whole(10, HOUR_MS),
        "social.groups_per_player" => Rule::Whole(1, 10_000),
        "social.notification_days" => Rule::Whole(1, 3_650),
        "social.notifications_kept" => Rule::Whole(1, 10_000),
        "match.capacity" => Rule::Whole(0, 1_000_000),
        "match.workers" => Rule::Whole(0, 1_024),
        "match.memory_bytes" => Rule::Whole(1 << 20, 16 * GIB),
        "match.callback_ms" => Rule::Whole(1, 60_000),
        "match.input_queue" => Rule::Whole(1, 1_000_000),
        "match.move_to" => Rule::OneOf(&["same", "any"]),
        "match.games" => Rule::Text(|dir| !dir.is_empty(), "the path of a folder"),
        "log.format" => Rule::OneOf(&["pretty", "json"]),
        "log.filter" => Rule::Text(
            |filter| crate::telemetry::parse_filter(filter).is_ok(),
            "a level (error, warn, info, debug, trace, off), or directives such as info,asobi_session=debug",
        ),
        "log.lines_per_site" => Rule::Whole(0, 1_000_000),
        "shutdown.ready_delay_ms" | "shutdown.grace_ms" => Rule::Whole(0, HOUR_MS),
        "telemetry.sample_ratio" => Rule::Number(0.0, 1.0),
        "telemetry.slow_ms" => Rule::Whole(0, HOUR_MS),
        "telemetry.always_per_second" | "telemetry.client_per_second" => Rule::Whole(0, 100_000),
        _ => return None,
    })
}

/// What is wrong of values that are right each by itself: keys, and what they should be.
pub(super) fn check_together<'a>(
    value: impl Fn(&str) -> Option<&'a Value>,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let text = |key: &str| value(key).and_then(Value::as_str);
    let empty = |key: &str| match value(key) {
        Some(Value::Array(entries)) => entries.is_empty(),
        other => other.and_then(Value::as_str).is_none_or(str::is_empty),
    };
    // Tools that only call may have no more than the authority.
    let grpc = ["grpc.tls_cert", "grpc.tls_key", "grpc.tls_ca"];
    let grpc_tls = grpc[..2].iter().any(|key| !empty(key));
    let grpc_lacks = grpc.into_iter().find(|key| grpc_tls && empty(key));
    let http = ["http.tls_cert", "http.tls_key"];
    let http_tls = http.iter().any(|key| !empty(key));
    let http_lacks = http.into_iter().find(|key| http_tls && empty(key));
    let when = |wrong: bool, key: &'static str, right: &'static str| wrong.then_some((key, right));
    [
        when(
            text("migrate.via") == Some("affinity") && empty("migrate.url"),
            "migrate.url",
            "the balancer's ws(s)://host[:port]/path, because migrate.via is \"affinity\"",
        ),
        when(
            empty("cluster.key") && !empty("cluster.previous_key"),
            "cluster.previous_key",
            "empty, because cluster.key is: keys in the database are rotated there",
        ),
        when(
            text("http.proxy_protocol") == Some("require") && empty("http.trusted_proxies"),
            "http.trusted_proxies",
            "the addresses of the balancers, because http.proxy_protocol is \"require\"",
        ),
        when(
            http_tls && text("http.public_url").is_some_and(|url| url.starts_with("http://")),
            "http.public_url",
            "empty, or https://host[:port], because http.tls_cert is set",
        ),
        http_lacks.map(|key| (key, "the path of a file, because http.tls_cert and http.tls_key come together")),
        grpc_lacks
            .map(|key| (key, "the path of a file, because grpc.tls_cert, grpc.tls_key and grpc.tls_ca come together")),
    ]
    .into_iter()
    .flatten()
}

/// Whether a rule exists; a test holds every number to it, so that no value outside its field's type gets through.
#[cfg(test)]
pub(super) fn has_rule(key: &str) -> bool {
    rule(key).is_some()
}

fn is_word(text: &str, max: usize) -> bool {
    text.len() <= max && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_node_id(id: &str) -> bool {
    is_word(id, 63)
}

fn is_channel_name(name: &str) -> bool {
    !name.is_empty() && is_word(name, 64)
}

fn is_database_url(url: &str) -> bool {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
}

/// `host:port`, where an IPv6 address stands in brackets.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host_is_right = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && is_word(host, 253),
    };
    host_is_right && port.parse::<u16>().is_ok()
}

fn is_http_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|authority| is_address(authority) || is_address(&format!("{authority}:0")))
}

fn is_ws_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("wss://").or_else(|| url.strip_prefix("ws://")) else { return false };
    let Some((authority, path)) = rest.split_once('/') else { return false };
    let path_is_right = path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    path_is_right && is_http_url(&format!("http://{authority}"))
}

fn is_network(network: &str) -> bool {
    let (address, bits) = network.split_once('/').unwrap_or((network, "0"));
    match address.parse() {
        Ok(IpAddr::V4(_)) => bits.parse().is_ok_and(|bits: u8| bits <= 32),
        Ok(IpAddr::V6(_)) => bits.parse().is_ok_and(|bits: u8| bits <= 128),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_urls() {
        for right in ["0.0.0.0:8080", "[::]:0", "localhost:80", "gateway-1.internal:65535"] {
            assert!(is_address(right), "{right}");
        }
        for wrong in ["8080", ":8080", "host", "host:65536", "::1:80", "http://host:80", "[x]:1"] {
            assert!(!is_address(wrong), "{wrong}");
        }
        for right in ["http://127.0.0.1:8080", "https://play.example.com"] {
            assert!(is_http_url(right), "{right}");
        }
        for wrong in ["play.example.com", "https://host/", "https://", "ws://host"] {
            assert!(!is_http_url(wrong), "{wrong}");
        }
        for right in ["wss://play.example.com/ws", "ws://10.0.0.1:80/ws?x=1", "ws://[::1]:80/"] {
            assert!(is_ws_url(right), "{right}");
        }
        for wrong in
            ["wss://play.example.com", "https://play.example.com/ws", "ws:///ws", "ws://host/ws#x", "ws://host/w s"]
        {
            assert!(!is_ws_url(wrong), "{wrong}");
        }
        assert!(is_network("10.0.0.0/8") && is_network("::1") && !is_network("10.0.0.0/33"));
    }
}
