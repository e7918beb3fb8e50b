//! Whom a connection stands for: the peer, or what proxies the operator trusts say of whom they stand for.

use std::net::{IpAddr, Ipv6Addr};

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

    fn trusts(&self, ip: IpAddr) -> bool {
        let ip = wide(ip);
        self.0.iter().any(|network| network.contains(ip))
    }

    /// The last address of the chain that `x-forwarded-for` (all of its lines, in their order) and the peer make that is no
    /// trusted proxy itself; IPv4 addresses in their own form.
    pub fn client<'a>(&self, peer: IpAddr, forwarded: impl IntoIterator<Item = &'a str>) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let chain: Vec<&str> = forwarded.into_iter().flat_map(|header| header.split(',')).collect();
        let mut nearest = peer;
        for hop in chain.iter().rev() {
            // What cannot be read was not written by a proxy of ours: whoever is nearest is held responsible.
            let Ok(ip) = hop.trim().parse::<IpAddr>() else { return nearest };
            nearest = ip.to_canonical();
            if !self.trusts(nearest) {
                return nearest;
            }
        }
        nearest
    }
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

    fn client(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let proxies = Proxies::new(&trusted.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        proxies.client(peer.parse().unwrap(), forwarded.iter().copied()).to_string()
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
    fn a_v6_network_counts_as_one() {
        let of = |text: &str| limited_as(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("1.2.3.4"), "1.2.3.4");
        assert_eq!(of("::ffff:1.2.3.4"), "1.2.3.4");
    }
}
