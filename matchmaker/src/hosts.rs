//! Which host takes the next match: the one with the least load for its capacity, by the rows plus what was given to it since.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use asobi_store::allocation::Host;

/// How long a host that did not answer is passed over while there is another.
const SUSPICION: Duration = Duration::from_secs(3);
/// What an unlimited host's load is measured against.
const NOMINAL: i64 = 5_000;

/// One incarnation of a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostId {
    pub node: String,
    pub incarnation: i64,
}

/// Why no host was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHost {
    /// No live host serves the mode.
    Unserved,
    /// Those that do are full, or were excluded.
    Full,
}

/// The hosts as they were read last.
#[derive(Debug, Default)]
pub struct Hosts {
    /// False until the first read: an empty list then says nothing.
    read: bool,
    known: Vec<Host>,
    suspects: HashMap<HostId, Instant>,
}

impl Hosts {
    /// Takes what was read; matches given out before that read are counted in it.
    pub fn replace(&mut self, hosts: Vec<Host>, now: Instant) {
        self.read = true;
        self.known = hosts;
        self.suspects.retain(|_, until| *until > now);
    }

    /// Whether the hosts were read at all.
    pub fn are_known(&self) -> bool {
        self.read
    }

    /// Passes the host over for a while: a call to it failed.
    pub fn suspect(&mut self, host: &HostId, now: Instant) {
        self.suspects.insert(host.clone(), now + SUSPICION);
    }

    /// Where that incarnation listens, if it is live.
    pub fn address(&self, id: &HostId) -> Option<&str> {
        self.known
            .iter()
            .find(|h| h.node_id == id.node && h.incarnation == id.incarnation)
            .map(|h| h.grpc_addr.as_str())
    }

    /// Whether a match of the mode could be placed now.
    pub fn check(&self, mode: &str) -> Result<(), NoHost> {
        let mut serving = self.known.iter().filter(|h| serves(h, mode)).peekable();
        if serving.peek().is_none() {
            return Err(NoHost::Unserved);
        }
        if serving.any(|h| !is_full(h)) { Ok(()) } else { Err(NoHost::Full) }
    }

    /// Regions in which a host has room for the mode; a host that names none is in the region "".
    pub fn open_regions(&self, mode: &str) -> Vec<String> {
        let open = self.known.iter().filter(|h| serves(h, mode) && !is_full(h));
        let mut regions: Vec<String> = open.map(|h| h.region.clone()).collect();
        regions.sort_unstable();
        regions.dedup();
        regions
    }

    /// Chooses the host of one match and counts the match to it: in the first of `regions` that has room, where any are named; a host without
    /// a region will do for each. Suspects, and those in `tried`, only where nobody else is left; of equally loaded ones the first by
    /// name.
    pub fn choose(&mut self, mode: &str, regions: &[String], tried: &[HostId], now: Instant) -> Result<HostId, NoHost> {
        self.check(mode)?;
        let suspects = &self.suspects;
        let place = |h: &Host| regions.iter().position(|region| *region == h.region).unwrap_or(regions.len());
        let allows = |h: &Host| regions.is_empty() || h.region.is_empty() || regions.contains(&h.region);
        let rank = |h: &Host| {
            let id = id_of(h);
            let doubtful = tried.contains(&id) || suspects.get(&id).is_some_and(|until| *until > now);
            (doubtful, place(h), load_ppm(h), h.open, h.node_id.clone())
        };
        let fitting = self.known.iter_mut().filter(|h| serves(h, mode) && !is_full(h) && allows(h));
        let host = fitting.min_by_key(|h| rank(h)).ok_or(NoHost::Full)?;
        host.open += 1;
        Ok(id_of(host))
    }
}

fn id_of(host: &Host) -> HostId {
    HostId { node: host.node_id.clone(), incarnation: host.incarnation }
}

fn serves(host: &Host, mode: &str) -> bool {
    host.modes.iter().any(|m| m == mode)
}

fn is_full(host: &Host) -> bool {
    host.capacity > 0 && host.open >= i64::from(host.capacity)
}

/// Load in parts per million of the capacity.
fn load_ppm(host: &Host) -> i64 {
    let capacity = if host.capacity > 0 { i64::from(host.capacity) } else { NOMINAL };
    host.open.saturating_mul(1_000_000) / capacity
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(node: &str, open: i64, capacity: i32) -> Host {
        Host {
            node_id: node.into(),
            incarnation: 1,
            grpc_addr: format!("{node}:1"),
            region: String::new(),
            capacity,
            open,
            modes: vec!["arena".into()],
        }
    }

    fn hosts(known: Vec<Host>) -> Hosts {
        Hosts { known, ..Hosts::default() }
    }

    #[test]
    fn the_least_loaded_for_its_capacity_is_chosen_and_counted() {
        let mut hosts = hosts(vec![host("a", 5, 10), host("b", 8, 100), host("c", 0, 0)]);
        let now = Instant::now();
        let mut chosen: HashMap<String, u32> = HashMap::new();
        for _ in 0..30 {
            *chosen.entry(hosts.choose("arena", &[], &[], now).expect("there is room").node).or_default() += 1;
        }
        assert_eq!(chosen.get("a"), None);
        assert_eq!(chosen.get("c"), Some(&30));
        assert_eq!(hosts.known[2].open, 30);
    }

    #[test]
    fn equals_take_turns() {
        let mut hosts = hosts(vec![host("a", 0, 10), host("b", 0, 10)]);
        let names: Vec<String> =
            (0..4).map(|_| hosts.choose("arena", &[], &[], Instant::now()).expect("room").node).collect();
        assert_eq!(names, ["a", "b", "a", "b"]);
    }

    #[test]
    fn suspects_and_those_tried_come_last() {
        let mut hosts = hosts(vec![host("a", 0, 10), host("b", 9, 10)]);
        let (now, a) = (Instant::now(), HostId { node: "a".into(), incarnation: 1 });
        hosts.suspect(&a, now);
        assert_eq!(hosts.choose("arena", &[], &[], now).expect("room").node, "b");
        assert_eq!(hosts.choose("arena", &[], &[], now).expect("only a has room").node, "a");
        assert_eq!(hosts.choose("arena", &[], &[a], now + SUSPICION).expect("only a has room").node, "a");
    }

    #[test]
    fn no_host_says_why() {
        let mut hosts = hosts(vec![host("a", 10, 10)]);
        assert_eq!(hosts.choose("arena", &[], &[], Instant::now()), Err(NoHost::Full));
        assert_eq!(hosts.choose("chess", &[], &[], Instant::now()), Err(NoHost::Unserved));
    }

    #[test]
    fn the_best_region_with_room_is_chosen_and_no_other_than_those_named() {
        let at = |node: &str, region: &str, open| Host { region: region.into(), ..host(node, open, 10) };
        let mut hosts = hosts(vec![at("a", "eu", 9), at("b", "us", 0), at("c", "asia", 0)]);
        assert_eq!(hosts.open_regions("arena"), ["asia", "eu", "us"]);
        let regions = ["eu".to_owned(), "us".to_owned()];
        let mut choose = || hosts.choose("arena", &regions, &[], Instant::now()).map(|host| host.node);
        assert_eq!(choose().as_deref(), Ok("a"), "the better region, though it is fuller");
        assert_eq!(choose().as_deref(), Ok("b"));
        assert_eq!(hosts.choose("arena", &["mars".to_owned()], &[], Instant::now()), Err(NoHost::Full));
        hosts.known.push(at("d", "", 5));
        assert_eq!(hosts.choose("arena", &["mars".to_owned()], &[], Instant::now()).expect("anywhere").node, "d");
    }
}
