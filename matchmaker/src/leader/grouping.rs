//! Keeps the index like the table, and turns what waits in it into claimed matches as tickets arrive. While one claim is under way the next
//! tickets gather: an idle queue is matched at once, a busy one in batches.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_bus::{BusEvent, Notification, Subscription};
use asobi_proto::bus::{TicketItem, Topic};
use asobi_store::allocation::{self, Open};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    allocate::{self, Batch},
    deps::{Clock, Error, Reign, Result, lock},
    index::Ticket,
};

/// Groups of one claim.
const BATCH: usize = 256;
/// Tickets read by id at once; when more have gathered the whole queue is read.
const READ: usize = 20_000;
/// Hosts, modes and the clock are read this often at least.
const REFRESH: Duration = Duration::from_secs(1);
const AFTER_ERROR: Duration = Duration::from_millis(250);

pub struct Grouping {
    reign: Arc<Reign>,
    events: Subscription,
    creates: mpsc::Sender<Open>,
    /// Announced and not read yet.
    arrivals: Vec<Uuid>,
    /// The index may lack something: read the whole queue.
    resync: bool,
    /// Hosts or modes may have changed.
    refresh: bool,
}

impl Grouping {
    pub fn new(reign: Arc<Reign>, events: Subscription, creates: mpsc::Sender<Open>) -> Self {
        Self { reign, events, creates, arrivals: Vec::new(), resync: true, refresh: true }
    }

    pub async fn run(mut self, quiet: CancellationToken) {
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.until_due();
            tokio::select! {
                () = quiet.cancelled() => return,
                event = self.events.next() => match event {
                    Some(event) => self.take(&event),
                    None => return,
                },
                _ = tick.tick() => {
                    self.refresh = true;
                    self.arrivals.extend(self.reign.requeued(Instant::now()));
                }
                () = tokio::time::sleep(due) => {}
            }
            while let Some(Some(event)) = self.events.next().now_or_never() {
                self.take(&event);
            }
            match self.round(&quiet).await {
                Ok(()) => {}
                Err(Error::Over) => return,
                Err(error) => {
                    tracing::warn!(%error, "The queue could not be served for now; it is read again.");
                    self.resync = true;
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    /// How long until time alone makes a group; not less than a moment, since a group may wait for a host.
    fn until_due(&self) -> Duration {
        let due = lock(&self.reign.deps.index).due_us();
        let left = due.map_or(REFRESH, |due| {
            Duration::from_micros(u64::try_from(due.saturating_sub(lock(&self.reign.deps.clock).now_us())).unwrap_or(0))
        });
        left.clamp(Duration::from_millis(20), REFRESH)
    }

    fn take(&mut self, event: &BusEvent) {
        match event {
            BusEvent::Resync => {
                self.resync = true;
                self.refresh = true;
            }
            BusEvent::Batch(notification) if notification.topic == Topic::Queue => self.take_tickets(notification),
            BusEvent::Batch(_) => self.refresh = true,
        }
    }

    fn take_tickets(&mut self, notification: &Notification) {
        let mut index = lock(&self.reign.deps.index);
        for item in notification.items() {
            // One that cannot be read is a ticket we may lack.
            let Ok(item) = serde_json::from_str::<TicketItem>(item.get()) else {
                self.resync = true;
                continue;
            };
            if item.gone {
                index.remove(item.ticket_id);
            } else if self.arrivals.len() < READ {
                self.arrivals.push(item.ticket_id);
            } else {
                self.resync = true;
            }
        }
    }

    async fn round(&mut self, quiet: &CancellationToken) -> Result<()> {
        if self.refresh {
            self.read_hosts().await?;
        }
        self.read_tickets().await?;
        while !quiet.is_cancelled() {
            let batch = self.form();
            if batch.is_empty() {
                break;
            }
            for made in allocate::claim(&self.reign, batch).await? {
                // Closed only when this leadership is over.
                self.creates.send(made).await.map_err(|_| Error::Over)?;
            }
        }
        self.reign.deps.status.set_depth(lock(&self.reign.deps.index).len());
        Ok(())
    }

    async fn read_hosts(&mut self) -> Result<()> {
        let (reign, pool) = (&self.reign, &self.reign.deps.pool);
        let reading = Instant::now();
        let (modes, hosts, clock) = reign
            .bounded(async {
                Ok(tokio::try_join!(asobi_store::modes::all(pool), allocation::hosts(pool), allocation::clock(pool))?)
            })
            .await?;
        lock(&reign.deps.index).set_modes(modes);
        lock(&reign.hosts).replace(hosts, reading);
        let us = i64::try_from(clock.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
        *lock(&reign.deps.clock) = Clock { read: reading, us };
        self.refresh = false;
        Ok(())
    }

    async fn read_tickets(&mut self) -> Result<()> {
        let (reign, pool) = (&self.reign, &self.reign.deps.pool);
        if self.resync {
            let rows = reign.bounded(async { Ok(allocation::pending(pool).await?) }).await?;
            tracing::info!(tickets = rows.len(), "The queue was read.");
            lock(&reign.deps.index).reload(rows.into_iter().map(Ticket::from));
            self.arrivals.clear();
            self.resync = false;
        } else if !self.arrivals.is_empty() {
            let ids = std::mem::take(&mut self.arrivals);
            let rows = reign.bounded(async { Ok(allocation::pending_of(pool, &ids).await?) }).await?;
            let mut index = lock(&reign.deps.index);
            rows.into_iter().for_each(|row| index.insert(Ticket::from(row)));
        }
        Ok(())
    }

    /// Groups that can be placed now, each with its host.
    fn form(&self) -> Batch {
        let (now_us, now) = (lock(&self.reign.deps.clock).now_us(), Instant::now());
        let mut index = lock(&self.reign.deps.index);
        let mut hosts = lock(&self.reign.hosts);
        let mut batch = Batch::new();
        for mode in index.waiting_modes() {
            while batch.len() < BATCH && hosts.check(&mode).is_ok() {
                let Some(group) = index.take_group(&mode, now_us) else { break };
                match hosts.choose(&mode, &[], now) {
                    Ok(host) => batch.push((group, host)),
                    Err(_) => {
                        index.put_back(group, |_| true);
                        break;
                    }
                }
            }
        }
        batch
    }
}
