//! What everybody remembers.

/// Matchmakers and hosts: two of each.
pub const NODES: usize = 2;
/// Matches that can be formed.
pub const MATCHES: usize = 5;
/// Tickets of a match.
pub const GROUP: u32 = 2;
/// Failures after which a match is given up. The code has three; two reach the same places with fewer faults.
pub const ATTEMPTS: u8 = 2;

/// What is checked.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// Solo tickets, all waiting in one mode from the start.
    pub tickets: u8,
    /// Faults of one run.
    pub faults: u8,
    pub flaw: Option<Flaw>,
}

/// A precaution that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Transactions do not look at the term.
    NoFence,
    /// They look at it, and take no lock: the term can be raised before they commit.
    FenceWithoutLock,
    /// The claim does not look at tickets and seats.
    ClaimBlindly,
    /// A host's claim does not compare the epoch.
    NoEpochInClaim,
    /// A host's claim does not compare host and incarnation, nor the epoch.
    NoHostInClaim,
    /// Players are told once `CreateMatch` was sent.
    TellBeforeRunning,
    /// A match is given to another host whatever its row says.
    ReassignBlindly,
    /// A host is buried without a probe, and by a leader that was itself out of contact.
    BuryWithoutProbe,
    /// Tickets that wait again after a commit whose answer was lost are in nobody's index.
    UnknownGiveUpForgotten,
    /// Hosts take calls of any term.
    NoTermAtHost,
    /// A host keeps a match whose row is not its own any more.
    NoCompare,
}

impl Protocol {
    pub(crate) fn lacks(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

/// Everything there is at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    // The database.
    pub(crate) term: u8,
    /// Whose session holds the advisory lock.
    pub(crate) lock: Option<u8>,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) matches: Vec<Match>,
    pub(crate) nodes: [NodeRow; NODES],
    // The processes.
    pub(crate) matchmakers: [Matchmaker; NODES],
    pub(crate) hosts: [Host; NODES],
    // What is under way, sorted: order says nothing.
    pub(crate) calls: Vec<Call>,
    pub(crate) claims: Vec<Claim>,
    /// Those that may still happen.
    pub(crate) faults: u8,
    pub(crate) seen: Seen,
    /// Nobody has anything left to do.
    pub(crate) quiet: bool,
}

/// A ticket's row; its player has a seat while that match is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ticket {
    Pending,
    Matched(u8),
    /// Withdrawn: its player has taken a seat elsewhere, or gone away.
    Withdrawn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchState {
    Allocating,
    Running,
    Over,
}

/// A match's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Match {
    pub state: MatchState,
    pub host: u8,
    pub incarnation: u8,
    pub epoch: u8,
    pub attempts: u8,
    pub told: bool,
    /// A bit for each ticket it was formed of.
    pub tickets: u8,
    /// How often a host began to run it. Nobody in the protocol knows.
    pub runs: u8,
}

impl Match {
    pub fn is_open(&self) -> bool {
        self.state != MatchState::Over
    }
}

/// A host's row in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeRow {
    pub incarnation: u8,
    pub lease: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Matchmaker {
    /// None: it stands by.
    pub reign: Option<Reign>,
}

/// What a leader holds in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reign {
    pub term: u8,
    /// False: the queue is to be read (again).
    pub read: bool,
    /// A bit for each ticket that it knows to wait.
    pub index: u8,
    /// Its contact with the database was unbroken for a lease.
    pub judges: bool,
    /// What it has in hand, by match.
    pub jobs: [Option<Job>; MATCHES + 1],
    /// Match and epoch of a dead host, about to be buried.
    pub burying: Option<(u8, u8)>,
    pub transaction: Option<Transaction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Job {
    /// `calling`: `CreateMatch` was sent; false: it was refused, or not answered in time.
    Create {
        host: u8,
        epoch: u8,
        attempts: u8,
        calling: bool,
    },
    Tell,
}

/// Begun with the fence, not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Transaction {
    /// The term's row is locked FOR SHARE.
    pub locks: bool,
    pub work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    Claim {
        tickets: u8,
        host: u8,
        incarnation: u8,
    },
    Reassign {
        id: u8,
        epoch: u8,
        host: u8,
        incarnation: u8,
    },
    GiveUp {
        id: u8,
        epoch: u8,
    },
    /// Of a match whose host is gone: given up when untold, failed when told.
    Bury {
        id: u8,
        epoch: u8,
    },
    Tell {
        id: u8,
    },
}

/// A match host's process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    pub up: bool,
    pub stopped: bool,
    pub incarnation: u8,
    /// The highest term it was shown.
    pub term: u8,
    pub matches: [Option<Here>; MATCHES + 1],
}

/// A match in a host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Here {
    pub epoch: u8,
    pub running: bool,
    /// A bit for each matchmaker whose call waits for the start.
    pub waiting: u8,
}

/// A `CreateMatch` under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    pub host: u8,
    pub incarnation: u8,
    pub id: u8,
    pub epoch: u8,
    pub term: u8,
    pub from: u8,
}

/// A host's statement allocating → running, on its way to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    pub host: u8,
    pub incarnation: u8,
    pub id: u8,
    pub epoch: u8,
}

/// What nobody in the protocol knows and the properties are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    pub told_too_early: bool,
    pub wrote_under_an_old_term: bool,
    pub buried_in_good_health: bool,
    /// A bit for each host that was ever stopped or killed.
    pub stumbled: u8,
}

impl State {
    pub(crate) fn new(protocol: &Protocol) -> Self {
        let host = Host { up: true, stopped: false, incarnation: 1, term: 0, matches: [None; MATCHES + 1] };
        Self {
            term: 0,
            lock: None,
            tickets: vec![Ticket::Pending; usize::from(protocol.tickets)],
            matches: Vec::new(),
            nodes: [NodeRow { incarnation: 1, lease: true }; NODES],
            matchmakers: [Matchmaker::default(), Matchmaker::default()],
            hosts: [host.clone(), host],
            calls: Vec::new(),
            claims: Vec::new(),
            faults: protocol.faults,
            seen: Seen::default(),
            quiet: false,
        }
    }

    /// A bit for each pending ticket.
    pub(crate) fn pending(&self) -> u8 {
        let bits = self.tickets.iter().enumerate().filter(|(_, t)| **t == Ticket::Pending).map(|(i, _)| 1 << i);
        bits.fold(0, |all, bit: u8| all | bit)
    }

    pub(crate) fn row(&self, id: u8) -> &Match {
        &self.matches[usize::from(id)]
    }

    pub(crate) fn row_mut(&mut self, id: u8) -> &mut Match {
        &mut self.matches[usize::from(id)]
    }

    /// Whether that very incarnation is in the registry with a valid lease.
    pub(crate) fn is_live(&self, host: u8, incarnation: u8) -> bool {
        let node = self.nodes[usize::from(host)];
        node.lease && node.incarnation == incarnation
    }

    pub(crate) fn reign(&self, matchmaker: u8) -> Option<&Reign> {
        self.matchmakers[usize::from(matchmaker)].reign.as_ref()
    }

    /// The reign of a matchmaker that is known to lead.
    pub(crate) fn reign_mut(&mut self, matchmaker: u8) -> &mut Reign {
        self.matchmakers[usize::from(matchmaker)].reign.as_mut().expect("only who leads takes a leader's step")
    }

    pub(crate) fn send(&mut self, call: Call) {
        let at = self.calls.partition_point(|other| *other < call);
        self.calls.insert(at, call);
    }

    /// A claim that is under way already, again, is the same one.
    pub(crate) fn submit(&mut self, claim: Claim) {
        if let Err(at) = self.claims.binary_search(&claim) {
            self.claims.insert(at, claim);
        }
    }
}
