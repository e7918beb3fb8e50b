//! Turns what waits in the index into claimed matches as tickets arrive. While one claim is under way the next tickets gather: an idle queue
//! is matched at once, a busy one in batches.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_store::{allocation::Open, backfill};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::feed::Feed;
use crate::{
    allocate::{self, Batch},
    deps::{Error, Reign, Result, lock},
    hosts::Wish,
    index::Taken,
};

/// Groups of one claim.
const BATCH: usize = 256;
/// Running matches that are served between two claims.
const BACKFILLS: usize = 32;
/// Hosts, modes and the clock are read this often at least.
const REFRESH: Duration = Duration::from_secs(1);
const AFTER_ERROR: Duration = Duration::from_millis(250);
/// How long a busy queue gathers more before it is looked at: one claim for many groups costs little more than for one.
const DEBOUNCE: Duration = Duration::from_millis(3);
/// Groups of one round after which the queue counts as busy.
const BUSY: usize = 16;

pub struct Grouping {
    pub reign: Arc<Reign>,
    pub creates: mpsc::Sender<Open>,
    pub joins: mpsc::Sender<backfill::Open>,
}

impl Grouping {
    pub async fn run(self, feed: Arc<tokio::sync::Mutex<Feed>>, quiet: CancellationToken) {
        // Free, since this process does not stand by any more.
        let mut feed = feed.lock().await;
        (feed.resync, feed.refresh) = (true, true);
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut formed = 0;
        loop {
            let due = self.until_due();
            tokio::select! {
                () = quiet.cancelled() => return,
                heard = feed.next() => if !heard { return },
                _ = tick.tick() => {
                    feed.refresh = true;
                    feed.look_for(self.reign.requeued(Instant::now()));
                }
                () = tokio::time::sleep(due) => {}
            }
            if formed >= BUSY {
                tokio::time::sleep(DEBOUNCE).await;
                feed.drain();
            }
            match self.round(&mut feed, &quiet).await {
                Ok(groups) => formed = groups,
                Err(Error::Over) => return,
                Err(error) => {
                    tracing::warn!(%error, "The queue could not be served for now; it is read again.");
                    feed.resync = true;
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    /// How long until time alone makes a group; not less than a moment, since a group may wait for a host.
    fn until_due(&self) -> Duration {
        let due = lock(&self.reign.deps.index).due_us();
        let now_us = lock(&self.reign.deps.clock).now_us();
        let left =
            due.map_or(REFRESH, |due| Duration::from_micros(u64::try_from(due.saturating_sub(now_us)).unwrap_or(0)));
        left.clamp(Duration::from_millis(20), REFRESH)
    }

    /// Answers how many groups were formed.
    async fn round(&self, feed: &mut Feed, quiet: &CancellationToken) -> Result<usize> {
        let reign = &self.reign;
        feed.read(&reign.deps, Some(&reign.hosts)).await?;
        let mut formed = 0;
        while !quiet.is_cancelled() {
            // Matches that run come first: their players wait already.
            let joining = self.backfill();
            for (match_id, taken) in joining {
                if allocate::claim_for(reign, match_id, taken).await? {
                    self.send_joins(match_id).await?;
                }
            }
            let batch = self.form();
            if batch.is_empty() {
                break;
            }
            formed += batch.len();
            for made in allocate::claim(reign, batch).await? {
                // Closed only when this leadership is over.
                self.creates.send(made).await.map_err(|_| Error::Over)?;
            }
        }
        reign.deps.status.set_depth(lock(&reign.deps.index).len());
        Ok(formed)
    }

    async fn send_joins(&self, match_id: Uuid) -> Result<()> {
        let reign = &self.reign;
        if !reign.take_joining(match_id) {
            // They are asked about when that is done.
            return Ok(());
        }
        let open = reign.bounded(async { Ok(backfill::open_of(&reign.deps.pool, match_id).await?) }).await;
        match open {
            Ok(Some(open)) => self.joins.send(open).await.map_err(|_| Error::Over),
            other => {
                reign.let_joining_go(match_id);
                other.map(drop)
            }
        }
    }

    /// Tickets for running matches.
    fn backfill(&self) -> Vec<(Uuid, Taken)> {
        let now_us = lock(&self.reign.deps.clock).now_us();
        let mut index = lock(&self.reign.deps.index);
        let mut joining = Vec::new();
        for mode in index.wanting_modes() {
            while joining.len() < BACKFILLS
                && let Some(taken) = index.take_backfill(&mode, now_us)
            {
                joining.push(taken);
            }
        }
        joining
    }

    /// Groups that can be placed now, each with its host.
    fn form(&self) -> Batch {
        let (now_us, now) = (lock(&self.reign.deps.clock).now_us(), Instant::now());
        let mut index = lock(&self.reign.deps.index);
        let mut hosts = lock(&self.reign.hosts);
        let mut batch = Batch::new();
        for mode in index.waiting_modes() {
            while batch.len() < BATCH {
                let open = hosts.open_regions(&mode);
                if open.is_empty() {
                    break;
                }
                let Some(taken) = index.take_group(&mode, &open, now_us) else { break };
                match hosts.choose(&Wish { mode: &mode, regions: &taken.regions, version: "", tried: &[] }, now) {
                    Ok(host) => batch.push((taken, host)),
                    Err(_) => {
                        index.put_back(taken, |_| true);
                        break;
                    }
                }
            }
        }
        batch
    }
}
