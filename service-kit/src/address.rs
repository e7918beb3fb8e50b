//! Whom a connection stands for: the peer, or what proxies the operator trusts say of whom they stand for.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName};

/// The header in which proxies say for whom they stand.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Trusted proxies in a row that are believed; no network has so many.
const HOPS: usize = 32;

/// A network as in `http.trusted_proxies`: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    base: u128,
    bits: u32,
}

/// The proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<Network>);

impl Proxies {
    /// Entries that are no networks are left out and logged: nobody is trusted by mistake.
    #[must_use]
    pub fn new(entries: &[String]) -> Self {
        let parsed = entries.iter().filter_map(|entry| {
            let network = Network::parse(entry);
            if network.is_none() {
                tracing::error!(entry, "http.trusted_proxies has an entry that is no network; it is not trusted.");
            }
            network
        });
        Self(parsed.collect())
    }

    /// Whether what this address says of others is believed.
    #[must_use]
    pub fn trusts(&self, ip: IpAddr) -> bool {
        let ip = wide(ip);
        self.0.iter().any(|network| network.contains(ip))
    }

    /// The last address of the chain that the lines of `x-forwarded-for`, in their order, and the peer make that is no
    /// trusted proxy itself; IPv4 addresses in their own form.
    ///
    /// Proxies append, to the last line or as a line of their own: so it is read from the right, byte by byte of what came, and what
    /// stands left of the first hop that nobody vouches for is never looked at.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        if !self.trusts(nearest) {
            return nearest;
        }
        // What the map hands out backwards are the lines of one name.
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        for hop in lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b',')).take(HOPS) {
            // What cannot be read was not written by a proxy of ours: whoever is nearest is held responsible.
            let Some(ip) = hop_address(hop) else { return nearest };
            nearest = ip;
            if !self.trusts(nearest) {
                return nearest;
            }
        }
        nearest
    }
}

/// An address as proxies write it: alone, in brackets, with a port.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim_matches([' ', '\t']);
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']'));
    let ip = hop.parse().ok().or_else(|| bare?.parse().ok().map(IpAddr::V6));
    ip.or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip())).map(|ip| ip.to_canonical())
}

/// What a limit counts: an address, or in IPv6, where one customer has 2^64 of them, its network.
#[must_use]
pub fn limited_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Network {
    fn parse(entry: &str) -> Option<Self> {
        let (ip, length) = entry.split_once('/').map_or((entry, None), |(ip, length)| (ip, Some(length)));
        let ip: IpAddr = ip.trim().parse().ok()?;
        let (offset, most) = if ip.is_ipv4() { (96, 32) } else { (0, 128) };
        let length: u32 = length.map_or(Some(most), |length| length.trim().parse().ok())?;
        (length <= most).then(|| Self { base: wide(ip), bits: offset + length })
    }

    fn contains(self, ip: u128) -> bool {
        self.bits == 0 || (self.base ^ ip) >> (128 - self.bits) == 0
    }
}

/// IPv4 addresses as the IPv6 addresses they are mapped to, so that both spellings are one.
fn wide(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(trusted: &[&str], peer: &str, lines: &[&[u8]]) -> String {
        let proxies = Proxies::new(&trusted.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, http::HeaderValue::from_bytes(line).unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    fn client(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        asked(trusted, peer, &forwarded.iter().map(|line| line.as_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(client(&[], "10.0.0.1", &["1.2.3.4"]), "10.0.0.1");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &["9.9.9.9, 1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &["1.2.3.4", "10.0.0.7"]), "1.2.3.4");
        assert_eq!(client(&["10.0.0.0/8"], "11.0.0.1", &["1.2.3.4"]), "11.0.0.1");
        assert_eq!(client(&["10.0.0.1"], "10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client(&["10.0.0.1"], "10.0.0.1", &["1.2.3.4, nonsense"]), "10.0.0.1");
        assert_eq!(client(&["::/0"], "::1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(client(&["0.0.0.0/0"], "10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&["nonsense", "10.0.0.0/33"], "10.0.0.1", &["1.2.3.4"]), "10.0.0.1");
    }

    #[test]
    fn both_spellings_of_an_address_are_one() {
        assert_eq!(client(&["10.0.0.0/8"], "::ffff:10.0.0.1", &["::ffff:1.2.3.4"]), "1.2.3.4");
        assert_eq!(client(&[" 10.0.0.1 "], "10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
    }

    #[test]
    fn hops_may_have_ports_and_brackets() {
        let of = |hop: &str| client(&["10.0.0.1"], "10.0.0.1", &[hop]);
        assert_eq!(of("1.2.3.4:5678"), "1.2.3.4");
        assert_eq!(of("[2001:db8::1]:443"), "2001:db8::1");
        assert_eq!(of("[2001:db8::1]"), "2001:db8::1");
        assert_eq!(of("\t2001:db8::1 "), "2001:db8::1");
        for wrong in [
            "1.2.3.4:",
            "1.2.3.4:99999",
            "[1.2.3.4]",
            "[::1",
            "::1]:4",
            "for=1.2.3.4",
            "unknown",
            "",
            "1.2.3.4 5.6.7.8",
        ] {
            assert_eq!(of(wrong), "10.0.0.1", "{wrong}");
        }
    }

    #[test]
    fn a_line_that_is_no_text_hides_nothing() {
        // The client sends two lines, the second of bytes that are no text; the proxy appends to the last one.
        assert_eq!(asked(&["10.0.0.1"], "10.0.0.1", &[b"6.6.6.6", b"\xff\xfe, 1.2.3.4"]), "1.2.3.4");
        assert_eq!(asked(&["10.0.0.1"], "10.0.0.1", &[b"6.6.6.6", b"\xff\xfe"]), "10.0.0.1");
    }

    #[test]
    fn a_chain_without_end_is_read_to_its_bound() {
        let long = format!("6.6.6.6{}", ",10.0.0.2".repeat(3_000));
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &[&long]), "10.0.0.2");
    }

    proptest::proptest! {
        /// Whatever a client writes, a proxy that appends the client's address to it is the one that is believed.
        #[test]
        fn nobody_can_pretend_to_be_another(
            forged in proptest::collection::vec(proptest::collection::vec(0x20_u8..=0xff, 0..60), 0..6),
            hops in 0_usize..4,
            joins in proptest::bool::ANY,
        ) {
            let forged: Vec<Vec<u8>> = forged.into_iter().map(|mut line| { line.retain(|&b| b != 0x7f); line }).collect();
            let mut lines = forged;
            for hop in std::iter::once("203.0.113.9".to_owned()).chain((0..hops).map(|n| format!("10.0.0.{n}"))) {
                match lines.last_mut().filter(|_| joins) {
                    Some(last) => last.extend(format!(", {hop}").bytes()),
                    None => lines.push(hop.into_bytes()),
                }
            }
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            proptest::prop_assert_eq!(asked(&["10.0.0.0/8"], "10.9.9.9", &lines), "203.0.113.9");
        }
    }

    #[test]
    fn a_v6_network_counts_as_one() {
        let of = |text: &str| limited_as(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("1.2.3.4"), "1.2.3.4");
        assert_eq!(of("::ffff:1.2.3.4"), "1.2.3.4");
    }
}
