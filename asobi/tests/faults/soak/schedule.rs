//! What happens to whom, and when: a pure function of a seed, so that a failure can be had again.
//!
//! Faults overlap, as far as one process of each role is left well. How long a process needs to be well again is assumed
//! here; where it needs longer the play waits before it harms the next one of that role.

use std::{collections::BTreeMap, fmt, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

/// The cluster: the roles of the ready file, what their nodes are called, how many there are.
pub const ROLES: [(&str, &str, usize); 4] = [
    ("gateways", "gateway", 2),
    ("match_hosts", "match", 3),
    ("matchmakers", "matchmaker", 2),
    ("social_services", "social", 2),
];

/// The default of `node.lease_ms`.
const LEASE: Duration = Duration::from_secs(5);
/// Everybody has come in and plays before the first fault.
const UNDISTURBED: Duration = Duration::from_secs(3);

/// What is done to a process, or to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9`; its supervisor starts it again.
    Kill,
    /// SIGSTOP, and SIGCONT when it is over.
    Stop,
    /// SIGTERM; its supervisor starts it again.
    Drain,
    /// Its connections to PostgreSQL are ended, and each new one.
    Cut,
    /// As [`Self::Cut`], by resets.
    Reset,
    /// Nothing passes between it and PostgreSQL; what was held back arrives when it is over.
    BlackHole,
    /// PostgreSQL is restarted: everybody's.
    Database,
}

const OF_PROCESSES: [Kind; 6] = [Kind::Kill, Kind::Stop, Kind::Drain, Kind::Cut, Kind::Reset, Kind::BlackHole];

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: Duration,
    /// Zero for what happens in a moment.
    pub lasts: Duration,
    pub kind: Kind,
    /// Empty for the database.
    pub node: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, lasts, kind, node } = self;
        let node = if node.is_empty() { "PostgreSQL" } else { node };
        write!(f, "{:6.2} s  {node:12}  {kind:?}", at.as_secs_f64())?;
        if lasts.is_zero() { Ok(()) } else { write!(f, " for {:.2} s", lasts.as_secs_f64()) }
    }
}

impl Kind {
    /// For how long, where that is the adversary's to say: shorter than a lease, or longer.
    fn lasts(self, random: &mut StdRng) -> Duration {
        let lease = u64::try_from(LEASE.as_millis()).unwrap_or_default();
        let ms = match self {
            Self::Kill | Self::Drain | Self::Database => 0,
            _ if random.random_bool(0.5) => random.random_range(300..lease / 2),
            _ => random.random_range(lease + 500..lease + 4_000),
        };
        Duration::from_millis(ms)
    }

    /// What a process takes afterwards until it is as before: a start, what was in flight when it drained, a new lease.
    fn recovers(self) -> Duration {
        Duration::from_secs(match self {
            Self::Kill => 5,
            Self::Drain => 9,
            _ => 3,
        })
    }
}

impl Fault {
    /// When its process is thought to be well again.
    fn well_at(&self) -> Duration {
        self.at + self.lasts + self.kind.recovers()
    }
}

/// The faults of so long a time, in their order.
pub fn schedule(seed: u64, length: Duration) -> Vec<Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let database = length.mul_f64(random.random_range(0.35..0.65));
    let mut faults = vec![Fault { at: database, lasts: Duration::ZERO, kind: Kind::Database, node: String::new() }];
    let mut unwell = BTreeMap::<String, Duration>::new();
    let mut at = UNDISTURBED;
    while at < length {
        let mut roles = ROLES;
        roles.shuffle(&mut random);
        // One role may have nobody who can be spared.
        let victim = roles.iter().find_map(|(_, stem, n)| {
            let nodes = (0..*n).map(|i| format!("{stem}-{i}"));
            let well: Vec<String> = nodes.filter(|node| unwell.get(node).is_none_or(|until| *until <= at)).collect();
            (well.len() > 1).then(|| well[random.random_range(0..well.len())].clone())
        });
        if let Some(node) = victim {
            let kind = OF_PROCESSES[random.random_range(0..OF_PROCESSES.len())];
            let fault = Fault { at, lasts: kind.lasts(&mut random), kind, node };
            unwell.insert(fault.node.clone(), fault.well_at());
            faults.push(fault);
        }
        at += Duration::from_millis(random.random_range(1_500..5_000));
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(90);

    #[test]
    fn a_seed_says_everything() {
        assert_eq!(schedule(7, LENGTH), schedule(7, LENGTH));
        assert_ne!(schedule(7, LENGTH), schedule(8, LENGTH));
    }

    #[test]
    fn every_role_keeps_one_who_is_well() {
        for seed in 0..500 {
            let faults = schedule(seed, LENGTH);
            for (_, stem, n) in ROLES {
                let of_role = |fault: &&Fault| fault.node.rsplit_once('-').is_some_and(|(role, _)| role == stem);
                for one in faults.iter().filter(of_role) {
                    let meanwhile = |other: &&Fault| other.at <= one.at && one.at < other.well_at();
                    let unwell: Vec<&str> =
                        faults.iter().filter(of_role).filter(meanwhile).map(|fault| fault.node.as_str()).collect();
                    let different: BTreeSet<&str> = unwell.iter().copied().collect();
                    assert!(different.len() < n, "seed {seed}: {unwell:?} at {:?}", one.at);
                    assert_eq!(different.len(), unwell.len(), "seed {seed}: two at once for one process");
                }
            }
        }
    }

    #[test]
    fn faults_come_every_few_seconds_and_the_database_once() {
        for seed in 0..500 {
            let faults = schedule(seed, LENGTH);
            assert_eq!(faults.iter().filter(|fault| fault.kind == Kind::Database).count(), 1);
            assert!(faults.len() >= 15, "seed {seed}: {} faults", faults.len());
            let longest = faults.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap_or_default();
            assert!(longest < Duration::from_secs(15), "seed {seed}: nothing happens for {longest:?}");
            assert!(faults.iter().all(|fault| fault.at < LENGTH));
        }
    }

    #[test]
    fn everything_happens_to_everybody() {
        let faults = (0..100).flat_map(|seed| schedule(seed, LENGTH));
        let (short, long): (BTreeSet<_>, BTreeSet<_>) = faults
            .filter(|fault| !fault.node.is_empty())
            .map(|fault| (fault.node, fault.kind, fault.lasts > LEASE))
            .partition(|(_, _, longer)| !longer);
        let nodes: usize = ROLES.iter().map(|(_, _, n)| n).sum();
        assert_eq!(short.len(), nodes * OF_PROCESSES.len());
        assert_eq!(long.len(), nodes * (OF_PROCESSES.len() - 2), "what happens in a moment lasts for none");
    }

    #[test]
    fn a_fault_reads_as_a_line() {
        let fault = Fault {
            at: Duration::from_millis(12_340),
            lasts: Duration::from_millis(6_500),
            kind: Kind::Stop,
            node: "match-1".into(),
        };
        assert_eq!(fault.to_string(), " 12.34 s  match-1       Stop for 6.50 s");
    }
}
