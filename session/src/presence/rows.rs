//! Writing this node's session rows, in natural batches.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use asobi_cluster::lock_keys::PLAYER_PRESENCE;
use asobi_proto::bus::{PresenceItem, Topic};
use asobi_store::{
    sessions::{self, NewSession, Owner},
    within,
};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

use super::DEADLINE;
use crate::{chat::now_ms, hub::Hub};

const BATCH: usize = 512;
/// Rows that one statement writes at most.
const AT_ONCE: usize = 1_000;
const RETRY: Duration = Duration::from_millis(250);

pub(crate) enum Write {
    Arrive { session_id: Uuid, player: Uuid },
    Status { player: Uuid, status: String },
    Depart { session_id: Uuid, player: Uuid, due: Instant },
}

/// What is to be written, kept until it was.
#[derive(Default)]
struct Rows {
    arrivals: Vec<NewSession>,
    statuses: HashMap<Uuid, String>,
    /// Sessions whose sockets are gone: they hold no place from now on, though their rows stay for the grace.
    leaving: Vec<Uuid>,
    /// In order of their grace's end, which is the same for all.
    departures: VecDeque<(Uuid, Uuid, Instant)>,
    /// What players here said of themselves, for a database that has forgotten.
    said: HashMap<Uuid, String>,
}

pub(super) async fn run(hub: Arc<Hub>, mut writes: mpsc::Receiver<Write>) {
    let (mut rows, mut batch) = (Rows::default(), Vec::new());
    let mut database = hub.membership.database_incarnation();
    let mut lapses = hub.membership.lapses();
    // A sweep that began while the lease was out may take rows away for so long.
    let mut once_more: Option<Instant> = None;
    loop {
        let due = rows.departures.front().map(|d| d.2);
        tokio::select! {
            taken = writes.recv_many(&mut batch, BATCH) => if taken == 0 { return },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            changed = database.changed() => {
                if changed.is_err() {
                    return;
                }
                hub.presence.compare.store(true, Ordering::Release);
            }
            changed = lapses.changed() => {
                if changed.is_err() {
                    return;
                }
                hub.presence.compare.store(true, Ordering::Release);
                once_more = Some(Instant::now() + DEADLINE);
            }
            () = tokio::time::sleep_until(once_more.unwrap_or_else(Instant::now)), if once_more.is_some() => {
                hub.presence.compare.store(true, Ordering::Release);
                once_more = None;
            }
        }
        for write in batch.drain(..) {
            rows.take(write);
        }
        while !rows.write(&hub).await {
            tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }
}

impl Rows {
    fn take(&mut self, write: Write) {
        match write {
            Write::Arrive { session_id, player } => {
                self.arrivals.push(NewSession { session_id, player_id: player, status: None, age_s: 0.0 });
            }
            Write::Status { player, status } => {
                self.said.insert(player, status.clone());
                self.statuses.insert(player, status);
            }
            Write::Depart { session_id, player, due } => {
                self.leaving.push(session_id);
                self.departures.push_back((session_id, player, due));
            }
        }
    }

    /// Writes what is due. False when the database did not answer; what is not written stays.
    async fn write(&mut self, hub: &Hub) -> bool {
        if hub.presence.compare.swap(false, Ordering::AcqRel) && !self.compare(hub).await {
            hub.presence.compare.store(true, Ordering::Release);
            return false;
        }
        self.arrive(hub).await && self.mark(hub).await && self.say(hub).await && self.depart(hub).await
    }

    async fn arrive(&mut self, hub: &Hub) -> bool {
        while !self.arrivals.is_empty() {
            // Of a node whose rows the database has forgotten, all sessions at once: too many for one statement's time.
            let some = self.arrivals.len().min(AT_ONCE);
            let writing = sessions::insert(&hub.pool, owner(hub), &self.arrivals[..some]);
            let Ok(written) = within(DEADLINE, writing).await else { return false };
            let written: HashMap<Uuid, String> = written.into_iter().collect();
            let players = self.arrivals.drain(..some);
            let players = players.filter_map(|s| Some((s.player_id, written.get(&s.session_id)?.clone())));
            announce(hub, players, Some(hub.node_id()));
        }
        true
    }

    async fn mark(&mut self, hub: &Hub) -> bool {
        if self.leaving.is_empty() {
            return true;
        }
        if within(DEADLINE, sessions::mark_leaving(&hub.pool, &self.leaving)).await.is_err() {
            return false;
        }
        self.leaving.clear();
        true
    }

    async fn say(&mut self, hub: &Hub) -> bool {
        if self.statuses.is_empty() {
            return true;
        }
        let mut said: Vec<(Uuid, String)> = self.statuses.iter().map(|(p, s)| (*p, s.clone())).collect();
        // One order of row locks for all nodes.
        said.sort_unstable();
        if within(DEADLINE, sessions::set_statuses(&hub.pool, &said)).await.is_err() {
            return false;
        }
        self.statuses.clear();
        announce(hub, said, Some(hub.node_id()));
        true
    }

    async fn depart(&mut self, hub: &Hub) -> bool {
        let now = Instant::now();
        loop {
            let due = self.departures.iter().take_while(|d| d.2 <= now).take(sessions::LOCKED).count();
            if due == 0 {
                return true;
            }
            if !self.remove(hub, due).await {
                return false;
            }
        }
    }

    /// Removes the rows of the first so many that departed.
    async fn remove(&mut self, hub: &Hub, due: usize) -> bool {
        let going: Vec<(Uuid, Uuid)> = self.departures.iter().take(due).map(|d| (d.0, d.1)).collect();
        let Ok(gone) = within(DEADLINE, sessions::remove(&hub.pool, PLAYER_PRESENCE, &going)).await else {
            return false;
        };
        self.departures.drain(..due);
        for (_, player) in &going {
            if hub.registry.player(*player).is_none() {
                self.said.remove(player);
            }
        }
        announce(hub, gone.into_iter().map(|player| (player, "offline".to_owned())), None);
        hub.presence.left(due);
        true
    }

    /// Makes the rows what the sessions here are: after the database forgot them, or we forgot to write.
    async fn compare(&mut self, hub: &Hub) -> bool {
        let here: Vec<NewSession> = hub
            .registry
            .all()
            .iter()
            .filter_map(|conn| {
                let player_id = conn.player()?;
                let (session_id, status) = (conn.session_id, self.said.get(&player_id).cloned());
                Some(NewSession { session_id, player_id, status, age_s: age_s(session_id) })
            })
            .collect();
        let Ok(rows) = within(DEADLINE, sessions::owned(&hub.pool, owner(hub))).await else { return false };
        // Those that wait to be written are no news: twice in one statement, they would never be.
        let known: HashSet<Uuid> =
            rows.iter().map(|row| row.0).chain(self.arrivals.iter().map(|s| s.session_id)).collect();
        let alive: HashSet<Uuid> =
            here.iter().map(|s| s.session_id).chain(self.departures.iter().map(|d| d.0)).collect();
        let missing = here.into_iter().filter(|s| !known.contains(&s.session_id));
        self.arrivals.extend(missing);
        let due = Instant::now();
        for (session, player) in rows.into_iter().filter(|row| !alive.contains(&row.0)) {
            hub.presence.leaving.fetch_add(1, Ordering::AcqRel);
            self.departures.push_front((session, player, due));
        }
        true
    }
}

/// For how long a session has been there, by the clock that its id was made with.
fn age_s(session_id: Uuid) -> f64 {
    let Some((s, ns)) = session_id.get_timestamp().map(|at| at.to_unix()) else { return 0.0 };
    let made_ms = i64::try_from(s).unwrap_or(i64::MAX / 2_000) * 1_000 + i64::from(ns) / 1_000_000;
    (now_ms() - made_ms).max(0) as f64 / 1_000.0
}

pub(super) fn owner(hub: &Hub) -> Owner<'_> {
    let identity = hub.membership.identity();
    Owner { node_id: &identity.node_id, incarnation: identity.incarnation }
}

/// Hints to every node that these players' rows have changed. A lost hint is found by the next resync or sweep.
pub(super) fn announce(hub: &Hub, players: impl IntoIterator<Item = (Uuid, String)>, node_id: Option<&str>) {
    for (player_id, status) in players {
        let item = PresenceItem { player_id, status, node_id: node_id.map(ToOwned::to_owned) };
        let _ = hub.publisher.publish(Topic::Presence, &item);
    }
}
