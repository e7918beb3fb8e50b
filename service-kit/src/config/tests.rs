use std::io::Write as _;

use super::*;

fn with_env(variables: &[(&str, &str)], args: &ConfigArgs) -> Result<Config, ConfigErrors> {
    load_from(args, variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

fn sets(set: &[&str]) -> ConfigArgs {
    ConfigArgs { set: set.iter().map(|s| (*s).to_owned()).collect(), ..ConfigArgs::default() }
}

fn problems(result: Result<Config, ConfigErrors>) -> Vec<String> {
    result.expect_err("a mistake").0.iter().map(ToString::to_string).collect()
}

#[test]
fn the_defaults_are_a_configuration() {
    let config = with_env(&[], &ConfigArgs::default()).unwrap();
    assert_eq!(config.limits.frames_per_second, 60);
    assert_eq!(config.matches.capacity, 5_000);
    assert_eq!(config.node.lease_ms, 5_000);
    assert_eq!(config.matchmaker.max_queue, 100_000);
    assert!(!config.auth.guest);
    assert!(config.chat.global_channels.is_empty());
    assert_eq!(config.database.direct(), "postgres://localhost/asobi");
    assert_eq!(config.log.format, LogFormat::Pretty);
}

#[test]
fn every_number_has_a_range_and_every_default_keeps_its_rule() {
    let config = with_env(&[], &ConfigArgs::default()).unwrap();
    let table: toml::Table = DEFAULT_TOML.parse().unwrap();
    for value in config.provenance.values() {
        let (section, key) = value.key.split_once('.').unwrap();
        let default = &table[section][key];
        assert_eq!(rules::check(&value.key, default), Ok(()), "{}", value.key);
        if default.is_integer() || default.is_float() {
            assert!(rules::has_rule(&value.key), "{} has no range", value.key);
        }
    }
}

#[test]
fn later_layers_win() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(
        file,
        "[limits]\nframes_per_second = 1\nauth_per_second = 1\njoins_per_minute = 1\n[http]\nlisten = '[::]:1'"
    )
    .unwrap();
    let args = ConfigArgs {
        config: Some(file.path().to_owned()),
        http_listen: Some("127.0.0.1:4".to_owned()),
        ..sets(&["limits.joins_per_minute=3", "http.listen=127.0.0.1:3"])
    };
    let env = [("ASOBI_LIMITS_AUTH_PER_SECOND", "2"), ("ASOBI_LIMITS_JOINS_PER_MINUTE", "2"), ("HOME", "/")];
    let config = with_env(&env, &args).unwrap();
    assert_eq!(config.limits.frames_per_second, 1);
    assert_eq!(config.limits.auth_per_second, 2);
    assert_eq!(config.limits.joins_per_minute, 3);
    assert_eq!(config.http.listen, "127.0.0.1:4");
    let source = |key: &str| {
        let value = config.provenance.values().iter().find(|value| value.key == key).unwrap();
        value.source.to_string()
    };
    assert_eq!(source("limits.frames_per_second"), format!("{}:2", file.path().display()));
    assert_eq!(source("limits.auth_per_second"), "ASOBI_LIMITS_AUTH_PER_SECOND");
    assert_eq!(source("http.listen"), "--http-listen");
    assert_eq!(source("chat.queue"), "default");
}

#[test]
fn presets_lie_under_everything_but_the_defaults() {
    let presets = ["auth.guest=true", "auth.registration=false", "chat.batch=7"].map(ToOwned::to_owned);
    let args = ConfigArgs { defaults: presets.to_vec(), ..sets(&["auth.registration=true"]) };
    let config = with_env(&[("ASOBI_AUTH_GUEST", "false")], &args).unwrap();
    assert!(!config.auth.guest && config.auth.registration);
    assert_eq!(config.chat.batch, 7);
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "auth.guest = true").unwrap();
    let path = file.path().to_str().unwrap();
    assert!(with_env(&[("ASOBI_CONFIG", path)], &ConfigArgs::default()).unwrap().auth.guest);
    assert!(!with_env(&[("ASOBI_CONFIG", "")], &ConfigArgs::default()).unwrap().auth.guest);
}

#[test]
fn lists_are_separated_by_commas() {
    let channels = |text: &str| {
        let set = format!("chat.global_channels={text}");
        with_env(&[], &sets(&[&set])).map(|config| config.chat.global_channels)
    };
    assert_eq!(channels("lobby, c0,c1").unwrap(), ["lobby", "c0", "c1"]);
    assert_eq!(channels("[\"lobby\", \"c0\"]").unwrap(), ["lobby", "c0"]);
    assert!(channels("").unwrap().is_empty());
    assert!(channels("global:lobby").is_err());
    assert!(channels("[1]").is_err());
    let env = [("ASOBI_CHAT_GLOBAL_CHANNELS", "lobby")];
    assert_eq!(with_env(&env, &ConfigArgs::default()).unwrap().chat.global_channels, ["lobby"]);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "[auth]\nguest = 'yes'\ngusts = true\n[nodes]\nid = 'a'\n[limits]\nframes_per_second = -1").unwrap();
    let path = file.path().display().to_string();
    let args = ConfigArgs {
        config: Some(file.path().to_owned()),
        node_id: Some("no spaces".to_owned()),
        ..sets(&["chat.batch=many", "chat.bath=1", "auth.guest", "telemetry.sample_ratio=2"])
    };
    let env = [("ASOBI_LIMITS_FRAME_PER_SECOND", "1"), ("ASOBI_LOG_FORMAT", "xml"), ("ASOBI_POSTGRES_BIN", "/x")];
    assert_eq!(
        problems(with_env(&env, &args)),
        [
            format!("auth.guest ({path}:2): \"yes\" is wrong; expected true or false"),
            format!("auth.gusts ({path}:3): no such key; did you mean auth.guest?"),
            format!("limits.frames_per_second ({path}:7): -1 is wrong; expected a whole number from 0 to 1000000"),
            format!("nodes.id ({path}:5): no such key; did you mean node.id?"),
            "ASOBI_LIMITS_FRAME_PER_SECOND (ASOBI_LIMITS_FRAME_PER_SECOND): no such key; did you mean \
             ASOBI_LIMITS_FRAMES_PER_SECOND?"
                .to_owned(),
            "log.format (ASOBI_LOG_FORMAT): \"xml\" is wrong; expected one of pretty, json".to_owned(),
            "chat.batch (--set): \"many\" is wrong; expected a whole number from 1 to 10000".to_owned(),
            "chat.bath (--set): no such key; did you mean chat.batch?".to_owned(),
            "auth.guest (--set): has no '='; expected key=value".to_owned(),
            "telemetry.sample_ratio (--set): 2.0 is wrong; expected a number from 0.0 to 1.0".to_owned(),
            "node.id (--node-id): \"no spaces\" is wrong; expected empty, or 1 to 63 of letters, digits, '-', '_' \
             and '.'"
                .to_owned(),
        ]
    );
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_named() {
    let args = |path: &std::path::Path| ConfigArgs { config: Some(path.to_owned()), ..ConfigArgs::default() };
    let missing = problems(with_env(&[], &args("/nonexistent/asobi.toml".as_ref())));
    assert!(missing[0].starts_with("/nonexistent/asobi.toml"), "{missing:?}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "[auth]\nguest = = true").unwrap();
    let broken = problems(with_env(&[], &args(file.path())));
    assert!(broken[0].contains(":2)"), "{broken:?}");
}

#[test]
fn secrets_are_never_shown() {
    let config =
        with_env(&[], &sets(&["cluster.key=0123456789abcdefgh", "database.url=postgres://a:hunter2@h/d"])).unwrap();
    let all = format!("{config:?}");
    assert!(!all.contains("hunter2") && !all.contains("0123456789abcdefgh"), "{all}");
    let wrong = problems(with_env(&[], &sets(&["cluster.key=hunter2", "database.url=psql://a:hunter2@h"])));
    assert!(wrong.iter().all(|problem| !problem.contains("hunter2")), "{wrong:?}");
}

#[test]
fn a_node_without_a_name_gets_one_of_its_role() {
    let mut config = Config::with_sets([("node.id", "")]).unwrap();
    config.name_node("gateway");
    assert!(config.node.id.starts_with("gateway-") && config.node.id.len() == 16);
    let mut named = Config::with_sets([("node.id", "g0")]).unwrap();
    named.name_node("gateway");
    assert_eq!(named.node.id, "g0");
}

#[test]
fn a_balancer_for_migration_needs_its_address() {
    let error = Config::with_sets([("migrate.via", "affinity")]).unwrap_err().to_string();
    assert!(error.contains("migrate.url"), "{error}");
    let config = Config::with_sets([("migrate.via", "affinity"), ("migrate.url", "wss://play.example/ws")]).unwrap();
    assert_eq!(config.migrate.via, MigrateVia::Affinity);
}

#[test]
fn what_comes_together_is_asked_for_together() {
    let problem = |sets: &[(&str, &str)]| Config::with_sets(sets.iter().copied()).unwrap_err().to_string();
    assert!(problem(&[("grpc.tls_cert", "node.pem")]).contains("grpc.tls_key"));
    assert!(problem(&[("http.tls_key", "play.key")]).contains("http.tls_cert"));
    assert!(problem(&[("http.proxy_protocol", "require")]).contains("http.trusted_proxies"));
    let plain = [("http.tls_cert", "a"), ("http.tls_key", "b"), ("http.public_url", "http://play.example")];
    assert!(problem(&plain).contains("https://"));
    // All at once.
    let both = problem(&[("http.tls_key", "b"), ("migrate.via", "affinity")]);
    assert!(both.contains("http.tls_cert") && both.contains("migrate.url"), "{both}");
    assert!(problem(&[("grpc.tls_cert", "node.pem"), ("grpc.tls_key", "node.key")]).contains("grpc.tls_ca"));
    assert!(problem(&[("grpc.tls_key", "node.key"), ("grpc.tls_ca", "ca.pem")]).contains("grpc.tls_cert"));
    // What only calls shows a token, and knows whom to.
    assert!(Config::with_sets([("grpc.tls_ca", "ca.pem")]).is_ok());
    let alone = problem(&[("cluster.previous_key", "a key of some length".replace(' ', "-").as_str())]);
    assert!(alone.contains("cluster.previous_key") && !alone.contains("some-length"), "{alone}");
}
