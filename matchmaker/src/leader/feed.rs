//! Keeps the index like the table: in a leader before each round, in a standby all the time, so that it can lead at once.
//!
//! Announcements say what changed; every few seconds, and whenever one may have been missed, the ids of all pending tickets are compared
//! and those that are lacking are read. A ticket that is in the index and not in the table costs a claim that comes to nothing; one
//! that is in the table and not in the index waits for the next comparison. A standby does not hear of claims: it compares.

use std::{
    collections::HashSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use asobi_bus::{BusEvent, Notification, Subscription};
use asobi_proto::{
    bus::{TicketItem, Topic},
    query::Facts,
};
use asobi_store::{allocation, backfill, within};
use futures_util::FutureExt as _;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use crate::{
    deps::{Clock, Deps, Result, lock},
    hosts::Hosts,
    index::{self, Member, Waiting, Wanted},
};

/// Tickets of one read.
const READ: usize = 10_000;
/// Announced tickets that may wait to be read; past it the whole queue is compared.
const ARRIVALS: usize = 20_000;
/// Running matches that are served at once; more wait.
const WANTED: i64 = 1_000;
/// Between two comparisons of a standby.
const STANDBY_PERIOD: Duration = Duration::from_secs(3);
const AFTER_ERROR: Duration = Duration::from_millis(500);

pub struct Feed {
    events: Subscription,
    /// Announced and not read yet.
    arrivals: Vec<Uuid>,
    /// The index may lack something, or have too much: compare it with the table.
    pub resync: bool,
    /// Hosts, modes or the requests of running matches may have changed.
    pub refresh: bool,
}

impl Feed {
    pub fn new(events: Subscription) -> Self {
        Self { events, arrivals: Vec::new(), resync: true, refresh: true }
    }

    /// Follows the queue while another leads. Ends with the bus only; dropping it is safe when the feed is resynced afterwards.
    pub async fn stand_by(&mut self, deps: &Deps) {
        let mut tick = interval(STANDBY_PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = self.next() => if !heard { return },
                _ = tick.tick() => (self.resync, self.refresh) = (true, true),
            }
            if let Err(error) = self.read(deps, None).await {
                tracing::debug!(%error, "A standby could not follow the queue for now.");
                self.resync = true;
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }

    /// Waits for an announcement and takes those that are there. False: there will be none any more.
    pub async fn next(&mut self) -> bool {
        let Some(event) = self.events.next().await else { return false };
        self.heard(&event);
        self.drain();
        true
    }

    /// Takes the announcements that are there.
    pub fn drain(&mut self) {
        while let Some(Some(event)) = self.events.next().now_or_never() {
            self.heard(&event);
        }
    }

    /// Tickets to be looked for in the rows.
    pub fn look_for(&mut self, tickets: Vec<Uuid>) {
        self.resync |= self.arrivals.len() + tickets.len() > ARRIVALS;
        if !self.resync {
            self.arrivals.extend(tickets);
        }
    }

    fn heard(&mut self, event: &BusEvent) {
        match event {
            BusEvent::Resync => (self.resync, self.refresh) = (true, true),
            BusEvent::Batch(notification) if notification.topic == Topic::Queue => self.tickets(notification),
            BusEvent::Batch(_) => self.refresh = true,
        }
    }

    fn tickets(&mut self, notification: &Notification) {
        for item in notification.items() {
            match serde_json::from_str::<TicketItem>(item.get()) {
                Ok(item) if item.backfill => self.refresh = true,
                // Read as well: who is gone is not found and leaves the index, in order with who came.
                Ok(item) => self.look_for(vec![item.ticket_id]),
                // One that cannot be read is a ticket we may lack.
                Err(_) => self.resync = true,
            }
        }
    }

    /// Makes the index like the rows, as far as they may differ. `hosts`: of a leader.
    ///
    /// # Errors
    /// When the database fails; what was announced is then to be found by a resync.
    pub async fn read(&mut self, deps: &Deps, hosts: Option<&Mutex<Hosts>>) -> Result<()> {
        if self.refresh {
            read_modes(deps, hosts).await?;
            self.refresh = false;
        }
        if self.resync {
            metrics::counter!("asobi_matchmaker_resyncs_total").increment(1);
            self.arrivals.clear();
            compare(deps).await?;
            self.resync = false;
        }
        let arrivals = std::mem::take(&mut self.arrivals);
        for arrivals in arrivals.chunks(READ) {
            read_tickets(deps, arrivals).await?;
        }
        Ok(())
    }
}

async fn read_modes(deps: &Deps, hosts: Option<&Mutex<Hosts>>) -> Result<()> {
    let pool = &deps.pool;
    let reading = Instant::now();
    let (modes, known, wanted, clock) = within(deps.limits.database, async {
        tokio::try_join!(
            asobi_store::modes::list(pool),
            async { if hosts.is_some() { allocation::hosts(pool).await } else { Ok(Vec::new()) } },
            backfill::wanted(pool, WANTED),
            allocation::clock(pool)
        )
    })
    .await?;
    {
        let mut index = lock(&deps.index);
        index.set_modes(modes);
        index.set_wanted(wanted.into_iter().map(wanted_of).collect());
    }
    if let Some(hosts) = hosts {
        lock(hosts).replace(known, reading);
    }
    let us = i64::try_from(clock.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
    *lock(&deps.clock) = Clock { read: reading, us };
    Ok(())
}

/// The request as a ticket among tickets.
fn wanted_of(row: backfill::Wanted) -> (String, Wanted) {
    let backfill::Wanted { request, region } = row;
    let facts = Facts::of(&request.properties);
    let skill = facts.number("skill");
    let as_ticket = Waiting {
        submitted_us: i64::try_from(request.requested_at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX),
        ticket_id: request.match_id,
        members: [Member { row: request.match_id, player_id: request.match_id }].into(),
        skill: skill.unwrap_or(0.0),
        facts,
        latencies: None,
        query: None,
        traceparent: None,
    };
    let places = usize::try_from(request.wanted).unwrap_or(0);
    let wanted = Wanted { match_id: request.match_id, places, region, as_ticket, states_skill: skill.is_some() };
    (request.mode, wanted)
}

async fn compare(deps: &Deps) -> Result<()> {
    let pending: HashSet<Uuid> =
        within(deps.limits.database, allocation::pending_heads(&deps.pool)).await?.into_iter().collect();
    let lacking = lock(&deps.index).keep_only(&pending);
    tracing::debug!(tickets = pending.len(), tickets.lacking = lacking.len(), "The queue was compared with the table.");
    for lacking in lacking.chunks(READ) {
        read_tickets(deps, lacking).await?;
    }
    Ok(())
}

/// Reads tickets anew: those that do not wait leave the index.
async fn read_tickets(deps: &Deps, heads: &[Uuid]) -> Result<()> {
    let rows = within(deps.limits.database, allocation::pending_of(&deps.pool, heads)).await?;
    let tickets = index::tickets(rows);
    let waiting: HashSet<Uuid> = tickets.iter().map(|t| t.waiting.ticket_id).collect();
    let mut index = lock(&deps.index);
    for gone in heads.iter().filter(|id| !waiting.contains(id)) {
        index.remove(*gone);
    }
    tickets.into_iter().for_each(|ticket| index.insert(ticket));
    Ok(())
}
