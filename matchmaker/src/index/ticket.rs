//! What strategies see: tickets, the rules of their mode, and groups. Pure data.

use std::{fmt, sync::Arc};

use asobi_proto::{
    mode::ModeSettings,
    query::{Facts, Query},
};
use asobi_store::allocation::Pending;
use serde_json::Value;
use uuid::Uuid;

/// Age within a mode: when it was submitted (microseconds of the Unix epoch, by the database's clock), then the id. The smaller, the older.
pub type Age = (i64, Uuid);

/// Round trips by region, ms.
pub type Latencies = Box<[(Box<str>, f64)]>;

/// Regions of one mode that count; of more, the first.
pub const MAX_REGIONS: usize = 64;
/// Any region.
pub const ANYWHERE: u64 = u64::MAX;

/// One ticket: a single player, or a party that is matched together or not at all.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub submitted_us: i64,
    /// The head's row.
    pub ticket_id: Uuid,
    /// Its players with their rows, the head's first; never empty.
    pub members: Box<[Member]>,
    /// `skill` as the rows state it: the mean of the members who do, 0 where nobody does.
    pub skill: f64,
    /// The head's properties.
    pub facts: Facts,
    /// Round trips by region, ms; none where the ticket says nothing of them.
    pub latencies: Option<Latencies>,
    /// None: accepts everybody. One that cannot be read counts as none.
    pub query: Option<Query>,
    /// Of whoever queued, where their trace is recorded.
    pub traceparent: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub row: Uuid,
    pub player_id: Uuid,
}

impl Waiting {
    /// From the rows of one ticket. None: without its head's row it is no ticket.
    pub fn of(rows: &[Pending]) -> Option<Self> {
        let head = rows.iter().find(|row| row.head.is_none())?;
        let rest = rows.iter().filter(|row| row.id != head.id);
        let members = std::iter::once(head).chain(rest).map(|row| Member { row: row.id, player_id: row.player_id });
        let stated: Vec<f64> = rows.iter().filter_map(|row| row.properties.get("skill")?.as_f64()).collect();
        let skill = if stated.is_empty() { 0.0 } else { stated.iter().sum::<f64>() / stated.len() as f64 };
        Some(Self {
            submitted_us: i64::try_from(head.submitted_at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX),
            ticket_id: head.id,
            members: members.collect(),
            skill,
            facts: Facts::of(&head.properties),
            latencies: latencies(&head.properties),
            query: head.query.as_deref().and_then(|text| Query::parse(text).ok()),
            traceparent: head.traceparent.as_deref().map(Into::into),
        })
    }

    pub fn age(&self) -> Age {
        (self.submitted_us, self.ticket_id)
    }

    /// Players.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    pub fn players(&self) -> impl Iterator<Item = Uuid> {
        self.members.iter().map(|member| member.player_id)
    }

    /// Whether it has waited that long.
    pub fn has_waited(&self, us: i64, now_us: i64) -> bool {
        now_us.saturating_sub(self.submitted_us) >= us
    }

    /// Whether both filters accept the other.
    pub fn suits(&self, other: &Self) -> bool {
        let accepts = |one: &Self, other: &Self| one.query.as_ref().is_none_or(|q| q.accepts(&one.facts, &other.facts));
        accepts(self, other) && accepts(other, self)
    }

    fn latency(&self, region: &str) -> Option<f64> {
        self.latencies.as_ref()?.iter().find(|(name, _)| **name == *region).map(|(_, ms)| *ms)
    }
}

fn latencies(properties: &Value) -> Option<Latencies> {
    let stated = properties.get("latencies")?.as_object()?;
    let known = stated.iter().take(MAX_REGIONS).filter_map(|(name, ms)| Some((name.as_str().into(), ms.as_f64()?)));
    Some(known.collect())
}

/// How a full match is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Teams; one where there are none.
    pub teams: usize,
    /// Players of each.
    pub size: usize,
    /// Players that will do after `relax_us`.
    pub least: usize,
    /// Whether players are told of teams.
    pub named: bool,
}

impl Shape {
    pub fn full(&self) -> usize {
        self.teams * self.size
    }

    /// Team sizes below the full one that a relaxed match may have, the largest first: teams stay equal.
    pub fn relaxed_sizes(&self, players: usize) -> impl Iterator<Item = usize> + use<> {
        let most = (players / self.teams).min(self.size - 1);
        (self.least.div_ceil(self.teams).max(1)..=most).rev().take(MAX_RELAXED)
    }
}

/// Team sizes tried for a relaxed match.
const MAX_RELAXED: usize = 32;

/// What a mode asks of its matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    pub shape: Shape,
    /// When `shape.least` will do.
    pub relax_us: Option<i64>,
    pub skill_window: f64,
    /// Per microsecond of waiting.
    pub widening: f64,
    /// Where its matches may run; empty: anywhere.
    pub regions: Vec<String>,
    pub max_latency_ms: Option<f64>,
}

impl From<&ModeSettings> for Rules {
    fn from(settings: &ModeSettings) -> Self {
        let whole = |n: u32| usize::try_from(n.max(1)).unwrap_or(1);
        let (teams, size) = match settings.teams {
            Some(teams) => (whole(teams.count), whole(teams.size)),
            None => (1, whole(settings.match_size)),
        };
        let least = whole(settings.min_players).min(teams * size);
        let sound = |n: f64| if n.is_finite() { n.max(0.0) } else { 0.0 };
        Self {
            shape: Shape { teams, size, least, named: settings.teams.is_some() },
            relax_us: settings.relax_after_ms.map(|ms| i64::try_from(ms.saturating_mul(1_000)).unwrap_or(i64::MAX)),
            skill_window: sound(settings.skill_window),
            widening: sound(settings.skill_expand_rate) / 5_000_000.0,
            regions: settings.regions.iter().take(MAX_REGIONS).cloned().collect(),
            max_latency_ms: settings.max_latency_ms.map(f64::from),
        }
    }
}

impl Rules {
    /// When time lets fewer do for this ticket.
    pub fn relaxes_us(&self, ticket: &Waiting) -> Option<i64> {
        if self.shape.least >= self.shape.full() {
            return None;
        }
        self.relax_us.map(|us| ticket.submitted_us.saturating_add(us))
    }

    pub fn is_relaxed(&self, ticket: &Waiting, now_us: i64) -> bool {
        self.relaxes_us(ticket).is_some_and(|at| at <= now_us)
    }

    /// The mode's regions that will do for a ticket, as bits: by its `latencies` where it states them, else its `region`, else all. No bit:
    /// it cannot be matched and waits for its expiry.
    pub fn regions_of(&self, ticket: &Waiting) -> u64 {
        if self.regions.is_empty() {
            return ANYWHERE;
        }
        let bound = self.max_latency_ms.unwrap_or(f64::INFINITY);
        let own = ticket.facts.text("region");
        let does = |name: &str| match &ticket.latencies {
            Some(_) => ticket.latency(name).is_some_and(|ms| ms <= bound),
            None => own.is_none_or(|own| own == name),
        };
        self.regions.iter().enumerate().filter(|(_, name)| does(name)).fold(0, |bits, (n, _)| bits | 1 << n)
    }

    /// Regions of these bits by name, the best for the tickets first: where the worst round trip is the shortest.
    pub fn ranked(&self, bits: u64, tickets: &[Arc<Waiting>]) -> Vec<String> {
        let worst = |name: &str| tickets.iter().filter_map(|t| t.latency(name)).fold(0.0_f64, f64::max);
        let common = self.regions.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
        let mut ranked: Vec<&String> = common.map(|(_, name)| name).collect();
        ranked.sort_by(|a, b| worst(a).total_cmp(&worst(b)));
        ranked.into_iter().cloned().collect()
    }
}

/// Orders as the numbers do.
pub(super) fn ordered(number: f64) -> i64 {
    // Both zeros are one number.
    let bits = (number + 0.0).to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// Tickets that make a match together.
#[derive(Clone, PartialEq, Default)]
pub struct Group {
    /// By team, in seat order; one team where the mode has none.
    pub teams: Vec<Vec<Arc<Waiting>>>,
}

impl Group {
    pub fn tickets(&self) -> impl Iterator<Item = &Arc<Waiting>> {
        self.teams.iter().flatten()
    }

    #[cfg(test)]
    pub fn ids(&self) -> Vec<u128> {
        self.tickets().map(|t| t.ticket_id.as_u128()).collect()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tickets().map(|t| t.ticket_id)).finish()
    }
}

/// A running match that wants players.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub match_id: Uuid,
    pub places: usize,
    /// Where it runs; empty: its host does not say.
    pub region: String,
    /// What the match says of itself, as if it waited: with its `skill` where it states one.
    pub as_ticket: Waiting,
    pub states_skill: bool,
}
