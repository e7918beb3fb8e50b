//! Which host takes the next match: the one with the least load for its capacity, by the rows plus what was given to it since. And what is
//! known of hosts besides: who is doubtful, who is dead, who lives without the database.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use asobi_store::allocation::Host;

/// How long a host that did not answer is passed over while there is another.
const SUSPICION: Duration = Duration::from_secs(3);

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
    /// Those that do are full, have another version of the script, or were excluded.
    Full,
}

/// What a host is sought for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    pub mode: &'a str,
    /// The first that has room, where any are named; a host without a region will do for each.
    pub regions: &'a [String],
    /// Of the script the match started with; empty: any will do.
    pub version: &'a str,
    /// They come last.
    pub tried: &'a [HostId],
}

/// The hosts as they were read last.
#[derive(Debug, Default)]
pub struct Hosts {
    /// False until the first read: an empty list then says nothing.
    read: bool,
    known: Vec<Host>,
    suspects: HashMap<HostId, Instant>,
    /// Incarnations that will never be back. A handful of bytes for each host that ends while one leader leads.
    buried: HashSet<HostId>,
    /// Hosts whose lease has run out and that answer: where, and since when.
    silent: HashMap<HostId, (String, Instant)>,
    draining: bool,
    /// When matches were last given to other hosts because theirs was gone.
    failed_over: Option<Instant>,
}

impl Hosts {
    /// Takes what was read; matches given out before that read are counted in it.
    pub fn replace(&mut self, hosts: Vec<Host>, now: Instant) {
        self.read = true;
        self.known = hosts;
        self.known.retain(|h| !self.buried.contains(&id_of(h)));
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

    /// Gives nothing more to a host that is dead. `for_good`: not to this incarnation; else until the rows name it again.
    pub fn bury(&mut self, host: &HostId, for_good: bool) {
        self.known.retain(|h| id_of(h) != *host);
        if for_good {
            self.buried.insert(host.clone());
        }
    }

    /// What the rows say of hosts that drain.
    pub fn note_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    pub fn note_failover(&mut self, now: Instant) {
        self.failed_over = Some(now);
    }

    /// A host answers without a lease. True: that is news.
    pub fn note_silent(&mut self, host: &HostId, address: &str, now: Instant) -> bool {
        if self.silent.contains_key(host) {
            return false;
        }
        self.silent.insert(host.clone(), (address.to_owned(), now));
        true
    }

    /// Forgets those that are no longer so.
    pub fn keep_silent(&mut self, hosts: &HashSet<HostId>) {
        self.silent.retain(|host, _| hosts.contains(host));
    }

    /// Hosts that have answered without a lease for that long, with their addresses.
    pub fn silent_for(&self, time: Duration, now: Instant) -> Vec<(HostId, String)> {
        let long = self.silent.iter().filter(|(_, (_, since))| now.duration_since(*since) >= time);
        long.map(|(host, (address, _))| (host.clone(), address.clone())).collect()
    }

    /// The hosts, unless something is going on that makes their numbers unsteady: one drains or is suspect, or matches had to be given to
    /// other hosts within `quiet`.
    pub fn settled(&self, quiet: Duration, now: Instant) -> Option<&[Host]> {
        let unsettled = self.draining
            || !self.silent.is_empty()
            || self.suspects.values().any(|until| *until > now)
            || self.failed_over.is_some_and(|at| now.duration_since(at) < quiet);
        (!unsettled).then_some(&self.known)
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
        let mut serving = self.known.iter().filter(|h| h.serves(mode)).peekable();
        if serving.peek().is_none() {
            return Err(NoHost::Unserved);
        }
        if serving.any(|h| !h.is_full()) { Ok(()) } else { Err(NoHost::Full) }
    }

    /// Regions in which a host has room for the mode; a host that names none is in the region "".
    pub fn open_regions(&self, mode: &str) -> Vec<String> {
        let open = self.known.iter().filter(|h| h.serves(mode) && !h.is_full());
        let mut regions: Vec<String> = open.map(|h| h.region.clone()).collect();
        regions.sort_unstable();
        regions.dedup();
        regions
    }

    /// Chooses the host of one match and counts the match to it. Suspects, and those that were tried, only where nobody else is left; of
    /// equally loaded ones the first by name.
    pub fn choose(&mut self, wish: &Wish<'_>, now: Instant) -> Result<HostId, NoHost> {
        self.check(wish.mode)?;
        let (regions, suspects) = (wish.regions, &self.suspects);
        let place = |h: &Host| regions.iter().position(|region| *region == h.region).unwrap_or(regions.len());
        let rank = |h: &Host| {
            let id = id_of(h);
            let doubtful = wish.tried.contains(&id) || suspects.get(&id).is_some_and(|until| *until > now);
            (doubtful, place(h), h.burden())
        };
        let fits = |h: &Host| h.continues(wish.mode, wish.version) && !h.is_full() && is_in(h, regions);
        let host = self.known.iter_mut().filter(|h| fits(h)).min_by_key(|h| rank(h)).ok_or(NoHost::Full)?;
        host.open += 1;
        Ok(id_of(host))
    }

    /// The same for a match that runs already: better far away than not at all.
    pub fn choose_for_running(&mut self, wish: &Wish<'_>, now: Instant) -> Result<HostId, NoHost> {
        self.choose(wish, now).or_else(|_| self.choose(&Wish { regions: &[], ..*wish }, now))
    }
}

/// Whether a match may be on the host as far as its region goes.
pub fn is_in(host: &Host, regions: &[String]) -> bool {
    regions.is_empty() || host.region.is_empty() || regions.contains(&host.region)
}

pub fn id_of(host: &Host) -> HostId {
    HostId { node: host.node_id.clone(), incarnation: host.incarnation }
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
            modes: [("arena".to_owned(), String::new())].into(),
        }
    }

    fn arena<'a>(regions: &'a [String], tried: &'a [HostId]) -> Wish<'a> {
        Wish { mode: "arena", regions, version: "", tried }
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
            *chosen.entry(hosts.choose(&arena(&[], &[]), now).expect("there is room").node).or_default() += 1;
        }
        assert_eq!(chosen.get("a"), None);
        assert_eq!(chosen.get("c"), Some(&30));
        assert_eq!(hosts.known[2].open, 30);
    }

    #[test]
    fn equals_take_turns() {
        let mut hosts = hosts(vec![host("a", 0, 10), host("b", 0, 10)]);
        let names: Vec<String> =
            (0..4).map(|_| hosts.choose(&arena(&[], &[]), Instant::now()).expect("room").node).collect();
        assert_eq!(names, ["a", "b", "a", "b"]);
    }

    #[test]
    fn suspects_and_those_tried_come_last() {
        let mut hosts = hosts(vec![host("a", 0, 10), host("b", 9, 10)]);
        let (now, a) = (Instant::now(), HostId { node: "a".into(), incarnation: 1 });
        hosts.suspect(&a, now);
        assert_eq!(hosts.choose(&arena(&[], &[]), now).expect("room").node, "b");
        assert_eq!(hosts.choose(&arena(&[], &[]), now).expect("only a has room").node, "a");
        assert_eq!(hosts.choose(&arena(&[], &[a]), now + SUSPICION).expect("only a has room").node, "a");
    }

    #[test]
    fn no_host_says_why() {
        let mut hosts = hosts(vec![host("a", 10, 10)]);
        assert_eq!(hosts.choose(&arena(&[], &[]), Instant::now()), Err(NoHost::Full));
        assert_eq!(hosts.choose(&Wish { mode: "chess", ..arena(&[], &[]) }, Instant::now()), Err(NoHost::Unserved));
    }

    #[test]
    fn the_best_region_with_room_is_chosen_and_no_other_than_those_named() {
        let at = |node: &str, region: &str, open| Host { region: region.into(), ..host(node, open, 10) };
        let mut hosts = hosts(vec![at("a", "eu", 9), at("b", "us", 0), at("c", "asia", 0)]);
        assert_eq!(hosts.open_regions("arena"), ["asia", "eu", "us"]);
        let regions = ["eu".to_owned(), "us".to_owned()];
        let mut choose = || hosts.choose(&arena(&regions, &[]), Instant::now()).map(|host| host.node);
        assert_eq!(choose().as_deref(), Ok("a"), "the better region, though it is fuller");
        assert_eq!(choose().as_deref(), Ok("b"));
        let mars = ["mars".to_owned()];
        assert_eq!(hosts.choose(&arena(&mars, &[]), Instant::now()), Err(NoHost::Full));
        let far = hosts.choose_for_running(&arena(&mars, &[]), Instant::now());
        assert_eq!(far.expect("it runs already").node, "c");
        hosts.known.push(at("d", "", 5));
        assert_eq!(hosts.choose(&arena(&mars, &[]), Instant::now()).expect("anywhere").node, "d");
    }

    #[test]
    fn the_dead_are_given_nothing_whatever_was_read() {
        let read = || vec![host("a", 0, 10), host("b", 9, 10)];
        let mut hosts = hosts(read());
        let (now, a) = (Instant::now(), HostId { node: "a".into(), incarnation: 1 });
        hosts.bury(&a, false);
        assert_eq!(hosts.choose(&arena(&[], &[]), now).expect("room").node, "b");
        hosts.replace(read(), now);
        assert_eq!(hosts.choose(&arena(&[], &[]), now).expect("it is back").node, "a");
        hosts.bury(&a, true);
        hosts.replace(read(), now);
        assert_eq!(hosts.choose(&arena(&[], &[]), now).expect("room").node, "b");
    }

    #[test]
    fn a_running_match_goes_on_with_the_script_it_started_with() {
        let with = |node: &str, version: &str, open| Host {
            modes: [("arena".to_owned(), version.to_owned())].into(),
            ..host(node, open, 10)
        };
        let mut hosts = hosts(vec![with("a", "old", 5), with("b", "new", 0)]);
        let now = Instant::now();
        let mut on = |version| hosts.choose_for_running(&Wish { version, ..arena(&[], &[]) }, now).map(|h| h.node);
        assert_eq!(on("old").as_deref(), Ok("a"));
        assert_eq!(on("older"), Err(NoHost::Full));
        assert_eq!(on("").as_deref(), Ok("b"));
    }

    #[test]
    fn numbers_are_settled_when_nobody_drains_is_suspect_or_died_lately() {
        let mut hosts = hosts(vec![host("a", 0, 10)]);
        let (now, quiet) = (Instant::now(), Duration::from_secs(30));
        let a = HostId { node: "a".into(), incarnation: 1 };
        assert!(hosts.settled(quiet, now).is_some());
        hosts.note_draining(true);
        assert!(hosts.settled(quiet, now).is_none());
        hosts.note_draining(false);
        hosts.suspect(&a, now);
        assert!(hosts.settled(quiet, now).is_none());
        hosts.note_failover(now);
        assert!(hosts.settled(quiet, now + SUSPICION).is_none());
        assert!(hosts.settled(quiet, now + quiet).is_some());
        assert!(hosts.note_silent(&a, "a:1", now) && !hosts.note_silent(&a, "a:1", now + quiet));
        assert!(hosts.settled(quiet, now + quiet).is_none());
        assert_eq!(hosts.silent_for(quiet, now + quiet), [(a, "a:1".to_owned())]);
        assert!(hosts.silent_for(quiet, now).is_empty());
        hosts.keep_silent(&HashSet::new());
        assert!(hosts.settled(quiet, now + quiet).is_some());
    }
}
