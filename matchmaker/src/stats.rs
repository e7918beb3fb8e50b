//! What the leader knows of waiting: where a ticket stands and how long it may take, from those who were matched lately.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::deps::{Deps, lock};

/// Where a waiting ticket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    pub ticket_id: Uuid,
    pub waited_ms: i64,
    /// What is left, from recent history; none: unknown.
    pub estimated_wait_ms: Option<i64>,
    /// From 1, by age within the mode. Up to a second old.
    pub position: i64,
}

/// One mode's queue.
#[derive(Debug, Clone, PartialEq)]
pub struct ModeStats {
    pub mode: String,
    pub tickets: i64,
    pub players: i64,
    /// 0 when nobody waits.
    pub oldest_wait_ms: i64,
    /// Of the players matched in the last five minutes; none: nobody was.
    pub wait_p50_ms: Option<i64>,
    pub wait_p95_ms: Option<i64>,
    /// Mean of the last minute.
    pub matches_per_second: f64,
    pub paused: bool,
    /// Players that running matches ask for.
    pub backfill_wanted: i64,
}

impl Deps {
    /// Where those of the tickets stand that wait; a party's is known by its head's id. None: this process does not lead.
    pub fn estimates(&self, tickets: &[Uuid]) -> Option<Vec<Estimate>> {
        if !self.status.read().0 {
            return None;
        }
        let (now_us, now) = (lock(&self.clock).now_us(), Instant::now());
        let standings = lock(&self.index).standings(tickets, now);
        let mut history = lock(&self.history);
        let estimates = standings.into_iter().map(|standing| {
            let waited_ms = (now_us.saturating_sub(standing.submitted_us) / 1_000).max(0);
            let estimated_wait_ms = history.left_ms(&standing.mode, waited_ms, now);
            Estimate { ticket_id: standing.ticket_id, waited_ms, estimated_wait_ms, position: standing.position }
        });
        Some(estimates.collect())
    }

    /// Every mode that was announced or that somebody waits in, by name. None: this process does not lead.
    pub fn stats(&self) -> Option<Vec<ModeStats>> {
        if !self.status.read().0 {
            return None;
        }
        let (now_us, now) = (lock(&self.clock).now_us(), Instant::now());
        let depths = lock(&self.index).depths();
        let mut history = lock(&self.history);
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let stats = depths.into_iter().map(|depth| ModeStats {
            tickets: count(depth.tickets),
            players: count(depth.players),
            oldest_wait_ms: depth.oldest_us.map_or(0, |oldest| (now_us.saturating_sub(oldest) / 1_000).max(0)),
            wait_p50_ms: history.percentile_ms(&depth.mode, 50, now),
            wait_p95_ms: history.percentile_ms(&depth.mode, 95, now),
            matches_per_second: history.rate(&depth.mode, now),
            paused: depth.paused,
            backfill_wanted: depth.backfill_wanted,
            mode: depth.mode,
        });
        Some(stats.collect())
    }
}

/// How long a wait counts for estimates.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Waits remembered per mode: the newest. Enough for a percentile, and bounded whatever the rate.
const SAMPLES: usize = 1_024;
/// Seconds over which matches are counted.
const RATE_S: u64 = 60;

/// Per mode, the waits of those who were matched lately, and how many matches each of the last seconds made.
pub struct History {
    started: Instant,
    modes: HashMap<String, Recent>,
}

#[derive(Default)]
struct Recent {
    waits: VecDeque<(Instant, i64)>,
    /// Milliseconds, ascending; rebuilt at most once a second.
    sorted: Vec<i64>,
    sorted_at: Option<Instant>,
    /// (second since the start, matches), newest last.
    matches: VecDeque<(u64, u64)>,
}

impl Recent {
    fn sorted(&mut self, now: Instant) -> &[i64] {
        if self.sorted_at.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1)) {
            while self.waits.front().is_some_and(|(at, _)| now.duration_since(*at) > REMEMBERED) {
                self.waits.pop_front();
            }
            self.sorted = self.waits.iter().map(|(_, wait)| *wait).collect();
            self.sorted.sort_unstable();
            self.sorted_at = Some(now);
        }
        &self.sorted
    }
}

impl Default for History {
    fn default() -> Self {
        Self { started: Instant::now(), modes: HashMap::new() }
    }
}

impl History {
    /// A match was formed of players who waited that long.
    pub fn matched(&mut self, mode: &str, waits_ms: impl IntoIterator<Item = i64>, now: Instant) {
        let second = now.duration_since(self.started).as_secs();
        if !self.modes.contains_key(mode) {
            self.modes.insert(mode.to_owned(), Recent::default());
        }
        let Some(recent) = self.modes.get_mut(mode) else { return };
        match recent.matches.back_mut() {
            Some((last, count)) if *last == second => *count += 1,
            _ => recent.matches.push_back((second, 1)),
        }
        while recent.matches.front().is_some_and(|(at, _)| at + RATE_S < second) {
            recent.matches.pop_front();
        }
        for wait in waits_ms {
            if recent.waits.len() == SAMPLES {
                recent.waits.pop_front();
            }
            recent.waits.push_back((now, wait.max(0)));
        }
    }

    /// Nearest rank.
    pub fn percentile_ms(&mut self, mode: &str, percent: usize, now: Instant) -> Option<i64> {
        let sorted = self.modes.get_mut(mode)?.sorted(now);
        sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
    }

    /// The median of those who waited longer than that, less what was waited already. None: nobody did lately.
    pub fn left_ms(&mut self, mode: &str, waited_ms: i64, now: Instant) -> Option<i64> {
        let sorted = self.modes.get_mut(mode)?.sorted(now);
        let longer = &sorted[sorted.partition_point(|wait| *wait <= waited_ms)..];
        longer.get(longer.len() / 2).map(|wait| wait - waited_ms)
    }

    /// Matches per second, mean of the last minute; of a shorter time where this process leads for less.
    pub fn rate(&self, mode: &str, now: Instant) -> f64 {
        let second = now.duration_since(self.started).as_secs();
        let Some(recent) = self.modes.get(mode) else { return 0.0 };
        let count: u64 = recent.matches.iter().filter(|(at, _)| at + RATE_S > second).map(|(_, count)| *count).sum();
        count as f64 / second.clamp(1, RATE_S) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_come_from_those_matched_lately() {
        let mut history = History::default();
        let start = Instant::now();
        assert_eq!(history.percentile_ms("duel", 50, start), None, "unknown is not nought");
        history.matched("duel", (1..=100).map(|n| n * 100), start);
        assert_eq!(history.percentile_ms("duel", 50, start), Some(5_000));
        assert_eq!(history.percentile_ms("duel", 95, start), Some(9_500));
        assert_eq!(history.left_ms("duel", 0, start), Some(5_100));
        assert_eq!(history.left_ms("duel", 9_000, start), Some(600), "of those who waited longer still");
        assert_eq!(history.left_ms("duel", 10_000, start), None, "nobody waited that long");
        let later = start + REMEMBERED + Duration::from_secs(2);
        assert_eq!(history.percentile_ms("duel", 50, later), None, "what is old says nothing");
    }

    #[test]
    fn the_rate_is_of_the_last_minute_and_memory_is_bounded() {
        let mut history = History::default();
        let start = history.started;
        for second in 0..120 {
            for _ in 0..30 {
                history.matched("duel", [5, 6], start + Duration::from_secs(second));
            }
        }
        let rate = history.rate("duel", start + Duration::from_secs(120));
        assert!((29.0..=30.0).contains(&rate), "{rate}");
        assert_eq!(history.modes["duel"].waits.len(), SAMPLES);
        assert!(history.modes["duel"].matches.len() <= 62);
    }
}
