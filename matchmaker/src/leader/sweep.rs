//! What nobody announces: tickets that expire or belong to ghosts, work an earlier leader left, rows nobody needs any more. (Hosts that die
//! are watched for more often, see [`super::watch`].) One pass a second; each part is one statement over a partial index, and one fenced transaction where there is
//! something to do.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_proto::bus::InboxEvent;
use asobi_store::{
    allocation::{self, QueueNote},
    tickets::COUNTED,
};
use uuid::Uuid;

use super::{
    resume::{self, Work},
    rounds::Rounds,
};
use crate::{
    deps::{Labels, Reign, Result, lock},
    frames,
    hosts::NoHost,
    stats::ModeStats,
};

/// Rows of one statement.
const ROWS: i64 = 1_000;
/// Tickets whose players are looked up in one pass; a long queue takes several.
const GHOST_SLICE: usize = 5_000;
/// How long a mode may be without a host before its tickets fail: long enough for a host's restart.
const UNSERVED: Duration = Duration::from_secs(10);
/// Passes between two purges.
const PURGE_EVERY: u64 = 10;
/// Passes between two looks for tickets that were written and never announced, because their gateway died in between.
const RECONCILE_EVERY: u64 = 5;
/// How old such tickets may be, seconds: several looks.
const UNANNOUNCED_S: f64 = 30.0;
/// Passes between two looks for tickets of any age: those that wait again since a commit whose answer was lost are in nobody's index.
const RECONCILE_ALL_EVERY: u64 = 20;
/// Longer than any ticket waits, seconds.
const ANY_AGE_S: f64 = 1e6;

pub struct Sweep {
    reign: Arc<Reign>,
    work: Work,
    /// Where the next slice of ghost-hunting begins.
    cursor: Uuid,
    /// Tickets whose player has no session, and since when that was seen. A subset of the index.
    absent: HashMap<Uuid, Instant>,
    unserved: HashMap<String, Instant>,
    /// What the rows say of each mode: whether its queue is long, and its estimate.
    noted: HashMap<String, (bool, Option<i64>)>,
    passes: u64,
}

impl Sweep {
    pub fn new(reign: Arc<Reign>, work: Work) -> Self {
        Self {
            reign,
            work,
            cursor: Uuid::nil(),
            absent: HashMap::new(),
            unserved: HashMap::new(),
            noted: HashMap::new(),
            passes: 0,
        }
    }
}

impl Rounds for Sweep {
    const PERIOD: Duration = Duration::from_secs(1);
    const FAILED: &'static str = "A sweep could not be finished; the next one goes on.";

    async fn round(&mut self) -> Result<()> {
        self.passes += 1;
        // Before the hosts were read every one looks gone, and what an earlier leader left would be given up.
        if lock(&self.reign.hosts).are_known() {
            resume::matches(&self.reign, &self.work).await?;
            resume::joins(&self.reign, &self.work).await?;
            self.fail_unserved().await?;
        }
        self.expire().await?;
        // Sessions are judged only by who was itself in contact for long enough.
        if self.reign.deps.membership.may_judge() {
            self.withdraw_ghosts().await?;
        } else {
            self.absent.clear();
        }
        self.note_queues().await?;
        if self.passes.is_multiple_of(RECONCILE_EVERY) {
            self.find_unannounced().await?;
        }
        if self.passes.is_multiple_of(PURGE_EVERY) {
            self.purge().await?;
        }
        Ok(())
    }
}

impl Sweep {
    async fn find_unannounced(&self) -> Result<()> {
        let reign = &self.reign;
        let age = if self.passes.is_multiple_of(RECONCILE_ALL_EVERY) { ANY_AGE_S } else { UNANNOUNCED_S };
        let mut ids = reign.bounded(async { Ok(allocation::pending_ids(&reign.deps.pool, age).await?) }).await?;
        {
            let index = lock(&reign.deps.index);
            ids.retain(|id| !index.contains(*id));
        }
        // Those being claimed at this moment are among them; they are read again before they are believed.
        reign.requeue(ids);
        Ok(())
    }

    async fn expire(&self) -> Result<()> {
        loop {
            let ended =
                self.end_tickets(async |conn| Ok(allocation::expire(conn, ROWS).await?), frames::expired).await?;
            metrics::counter!("asobi_matchmaker_tickets_ended_total", "reason" => "expired").increment(ended as u64);
            if ended < rows() {
                return Ok(());
            }
        }
    }

    /// Ends tickets in one fenced transaction with what their players hear of it.
    async fn end_tickets(
        &self,
        end: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<Vec<(Uuid, Uuid)>>,
        tell: impl Fn(Uuid) -> InboxEvent,
    ) -> Result<usize> {
        let reign = &self.reign;
        let (ended, events, seqs) = reign
            .bounded(async {
                let mut tx = reign.begin().await?;
                let ended = end(&mut tx).await?;
                let events: Vec<_> = ended.iter().map(|(ticket, player)| (*player, tell(*ticket))).collect();
                let seqs = asobi_store::inbox::append(&mut tx, &events).await?;
                tx.commit().await?;
                Ok((ended, events, seqs))
            })
            .await?;
        reign.publish(&seqs, &events);
        let mut index = lock(&reign.deps.index);
        for (ticket, _) in &ended {
            index.remove(*ticket);
        }
        Ok(ended.len())
    }

    async fn fail_unserved(&mut self) -> Result<()> {
        let now = Instant::now();
        let unserved: HashSet<String> = {
            let waiting = lock(&self.reign.deps.index).waiting_modes();
            let hosts = lock(&self.reign.hosts);
            waiting.into_iter().filter(|mode| hosts.check(mode) == Err(NoHost::Unserved)).collect()
        };
        self.unserved.retain(|mode, _| unserved.contains(mode));
        for mode in unserved {
            let since = *self.unserved.entry(mode.clone()).or_insert(now);
            if now.duration_since(since) < UNSERVED {
                continue;
            }
            tracing::warn!(mode, "No host serves a mode that players wait for; their tickets fail.");
            loop {
                let ended = self
                    .end_tickets(
                        async |conn| Ok(allocation::fail_unserved(conn, &mode, ROWS).await?),
                        |_| frames::failed("no_game_module"),
                    )
                    .await?;
                metrics::counter!("asobi_matchmaker_tickets_ended_total", "reason" => "no_game_module")
                    .increment(ended as u64);
                if ended < rows() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn withdraw_ghosts(&mut self) -> Result<()> {
        let reign = &self.reign;
        let (now, grace) = (Instant::now(), reign.deps.limits.ghost_grace);
        let slice = {
            let index = lock(&reign.deps.index);
            self.absent.retain(|ticket, _| index.contains(*ticket));
            index.slice(self.cursor, GHOST_SLICE)
        };
        self.cursor =
            if slice.len() < GHOST_SLICE { Uuid::nil() } else { slice.last().map_or(Uuid::nil(), |(id, _)| *id) };
        if slice.is_empty() {
            return Ok(());
        }
        let players: Vec<Uuid> = slice.iter().flat_map(|(_, players)| players).copied().collect();
        let reading = async { Ok(allocation::without_session(&reign.deps.pool, &players).await?) };
        let gone: HashSet<Uuid> = reign.bounded(reading).await?.into_iter().collect();
        let mut ghosts = Vec::new();
        for (ticket, players) in slice {
            if !players.iter().any(|player| gone.contains(player)) {
                self.absent.remove(&ticket);
            } else if now.duration_since(*self.absent.entry(ticket).or_insert(now)) >= grace {
                ghosts.push(ticket);
            }
        }
        if ghosts.is_empty() {
            return Ok(());
        }
        let withdrawn = self
            .end_tickets(async |conn| Ok(allocation::withdraw_ghosts(conn, &ghosts).await?), frames::member_gone)
            .await?;
        metrics::counter!("asobi_matchmaker_tickets_ended_total", "reason" => "ghost").increment(withdrawn as u64);
        Ok(())
    }

    async fn note_queues(&mut self) -> Result<()> {
        let reign = &self.reign;
        let stats = reign.deps.stats().unwrap_or_default();
        show_queues(&mut lock(&reign.deps.labels), &stats);
        // Short queues are counted by who adds to them; estimates are told when they change by a noticeable part.
        let notes: Vec<QueueNote> = stats
            .into_iter()
            .map(|stats| QueueNote {
                mode: stats.mode,
                queued: i32::try_from(stats.players).unwrap_or(i32::MAX),
                estimated_wait_ms: stats.wait_p50_ms.map(rounded),
            })
            .filter(|note| i64::from(note.queued) >= LONG || self.noted.get(&note.mode) != Some(&note.shown()))
            .collect();
        if notes.is_empty() {
            return Ok(());
        }
        reign
            .bounded(async {
                let mut tx = reign.begin().await?;
                allocation::note_queues(&mut tx, &notes).await?;
                Ok(tx.commit().await?)
            })
            .await?;
        self.noted.extend(notes.into_iter().map(|note| (note.mode.clone(), note.shown())));
        Ok(())
    }

    async fn purge(&self) -> Result<()> {
        let reign = &self.reign;
        loop {
            let purged = reign
                .bounded(async {
                    let mut tx = reign.begin().await?;
                    let abandoned = allocation::fail_abandoned(&mut tx).await?;
                    if abandoned > 0 {
                        tracing::info!(matches = abandoned, "Quick-play matches that no host claimed were given up.");
                    }
                    let purged = allocation::purge(&mut tx, ROWS).await?;
                    tx.commit().await?;
                    Ok(purged)
                })
                .await?;
            if purged < ROWS.unsigned_abs() {
                return Ok(());
            }
        }
    }
}

/// Of the modes that have no label of their own the sums, and the longest wait.
fn show_queues(labels: &mut Labels, stats: &[ModeStats]) {
    let mut shown: BTreeMap<String, (i64, i64, i64)> = BTreeMap::new();
    for stats in stats {
        let (players, oldest_ms, wanted) = shown.entry(labels.of(&stats.mode)).or_default();
        *players += stats.players;
        *oldest_ms = stats.oldest_wait_ms.max(*oldest_ms);
        *wanted += stats.backfill_wanted;
    }
    for (mode, (players, oldest_ms, wanted)) in shown {
        metrics::gauge!("asobi_matchmaker_queue_depth", "mode" => mode.clone()).set(players as f64);
        metrics::gauge!("asobi_matchmaker_oldest_wait_seconds", "mode" => mode.clone()).set(oldest_ms as f64 / 1e3);
        metrics::gauge!("asobi_matchmaker_backfill_wanted", "mode" => mode).set(wanted as f64);
    }
}

/// Players from which on the leader's number counts.
const LONG: i64 = COUNTED / 2;

/// To a tenth of its size, so that an estimate that hardly moves is not written each second.
fn rounded(ms: i64) -> i64 {
    let step = 10_i64.pow(ms.max(1).ilog10()) / 10;
    if step > 1 { ms / step * step } else { ms }
}

trait Shown {
    /// What makes it worth a write.
    fn shown(&self) -> (bool, Option<i64>);
}

impl Shown for QueueNote {
    fn shown(&self) -> (bool, Option<i64>) {
        (i64::from(self.queued) >= LONG, self.estimated_wait_ms)
    }
}

fn rows() -> usize {
    usize::try_from(ROWS).unwrap_or(usize::MAX)
}
