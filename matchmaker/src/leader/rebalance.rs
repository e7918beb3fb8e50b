//! Whether matches should be moved from a full host to an empty one. Modest: a few at a time, and only where the difference is large.

use asobi_store::allocation::Host;

/// Matches of one move, and how far apart two hosts are at least.
const STEP: i64 = 10;
/// A host with no more than that is left alone.
const FEW: i64 = 20;

/// Up to that many matches, from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shift<'a> {
    pub from: &'a Host,
    pub to: &'a Host,
    pub matches: usize,
}

/// From the host with the most load for its capacity to the one with the least that serves the same modes: where it has more than
/// twenty matches, half as much load again, and at least ten more.
pub fn shift(hosts: &[Host]) -> Option<Shift<'_>> {
    let from = hosts.iter().max_by_key(|host| host.burden())?;
    let serves_all = |host: &&Host| from.modes.keys().all(|mode| host.serves(mode));
    let others = hosts.iter().filter(|host| host.node_id != from.node_id && !host.is_full());
    let to = others.filter(serves_all).min_by_key(|host| host.burden())?;
    let uneven =
        from.open > FEW && from.open >= to.open.saturating_add(STEP) && from.load_ppm() > to.load_ppm() * 3 / 2;
    // Not more than makes them even.
    let matches = usize::try_from(((from.open - to.open) / 2).min(STEP)).ok()?;
    uneven.then_some(Shift { from, to, matches })
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

    fn shifted(hosts: &[Host]) -> Option<(String, String, usize)> {
        shift(hosts).map(|shift| (shift.from.node_id.clone(), shift.to.node_id.clone(), shift.matches))
    }

    #[test]
    fn the_fullest_gives_to_the_emptiest() {
        let hosts = [host("a", 90, 100), host("b", 50, 100), host("c", 0, 100)];
        assert_eq!(shifted(&hosts), Some(("a".into(), "c".into(), 10)));
        assert_eq!(shifted(&hosts[..2]), Some(("a".into(), "b".into(), 10)));
    }

    #[test]
    fn it_is_the_load_for_the_capacity_that_counts() {
        assert_eq!(shifted(&[host("a", 90, 1_000), host("b", 40, 100)]), None, "the fuller one has fewer matches");
        assert_eq!(shifted(&[host("a", 60, 0), host("b", 30, 0)]), Some(("a".into(), "b".into(), 10)));
    }

    #[test]
    fn small_differences_are_left_alone() {
        assert_eq!(shifted(&[host("a", 20, 100), host("b", 0, 100)]), None, "few");
        assert_eq!(shifted(&[host("a", 21, 100), host("b", 12, 100)]), None, "nine more");
        assert_eq!(shifted(&[host("a", 90, 100), host("b", 61, 100)]), None, "less than half as much again");
        assert_eq!(shifted(&[host("a", 90, 100)]), None);
        assert_eq!(shifted(&[]), None);
    }

    #[test]
    fn a_host_that_lacks_a_mode_or_is_full_takes_none() {
        let other = Host { modes: [("chess".to_owned(), String::new())].into(), ..host("b", 0, 100) };
        assert_eq!(shifted(&[host("a", 90, 100), other]), None);
        assert_eq!(shifted(&[host("a", 90, 100), host("b", 1, 1)]), None);
    }

    #[test]
    fn two_hosts_come_to_rest() {
        let mut hosts = [host("a", 400, 1_000), host("b", 0, 1_000)];
        let mut moves = 0;
        while let Some(Shift { matches, .. }) = shift(&hosts) {
            let n = i64::try_from(matches).expect("small");
            hosts[0].open -= n;
            hosts[1].open += n;
            moves += 1;
            assert!(moves < 100 && hosts[0].open >= hosts[1].open, "{hosts:?}");
        }
        assert_eq!((hosts[0].open, hosts[1].open), (240, 160));
    }
}
