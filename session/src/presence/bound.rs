//! Bounding how many sessions a player has in the whole cluster. Whenever a player's rows have changed, each node that holds
//! sessions of theirs asks which of its own are past the newest `session.max_per_player`, and closes those. All nodes rank
//! by the same rows, so nobody has to be told which: the oldest go, wherever they are, and never the one that just came.

use std::{collections::HashSet, sync::Arc, time::Duration};

use asobi_store::{sessions, within};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use super::{DEADLINE, rows};
use crate::{close::Close, hub::Hub};

/// Players of one read.
const BATCH: usize = 1_000;
const RETRY: Duration = Duration::from_millis(250);
/// How often everybody here is looked at, whatever the bus says.
const SWEEP: Duration = Duration::from_secs(30);

/// Players whose number of sessions is to be looked at.
#[derive(Default)]
pub(super) struct Crowds {
    players: Mutex<HashSet<Uuid, RandomState>>,
    wake: Notify,
}

impl Crowds {
    /// Has these players looked at, as far as they have a session here.
    pub(super) fn suspect(&self, hub: &Hub, players: impl IntoIterator<Item = Uuid>) {
        let here: Vec<Uuid> = players.into_iter().filter(|player| hub.registry.player(*player).is_some()).collect();
        if !here.is_empty() {
            self.players.lock().extend(here);
            self.wake.notify_one();
        }
    }

    pub(super) fn suspect_all(&self, hub: &Hub) {
        self.suspect(hub, hub.registry.players().iter().map(|player| player.id));
    }

    fn take(&self) -> Vec<Uuid> {
        let mut players = self.players.lock();
        let some: Vec<Uuid> = players.iter().take(BATCH).copied().collect();
        for player in &some {
            players.remove(player);
        }
        if !players.is_empty() {
            self.wake.notify_one();
        }
        some
    }
}

pub(super) async fn run(hub: Arc<Hub>) {
    let crowds = &hub.presence.crowds;
    let most = i64::try_from(hub.config.session.max_per_player).unwrap_or(i64::MAX);
    let mut sweep = Instant::now() + SWEEP;
    loop {
        tokio::select! {
            () = crowds.wake.notified() => {}
            () = tokio::time::sleep_until(sweep) => {
                sweep = Instant::now() + SWEEP.mul_f64(rand::random_range(0.7..1.3));
                crowds.suspect_all(&hub);
            }
        }
        let players = crowds.take();
        if players.is_empty() {
            continue;
        }
        match within(DEADLINE, sessions::surplus(&hub.pool, rows::owner(&hub), &players, most)).await {
            Ok(surplus) => surplus.into_iter().for_each(|(session, player)| replace(&hub, session, player)),
            Err(error) => {
                tracing::debug!(%error, "The sessions of players could not be counted; it is tried again.");
                crowds.suspect(&hub, players);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn replace(hub: &Hub, session: Uuid, player: Uuid) {
    let Some(player) = hub.registry.player(player) else { return };
    player.each(|conn| {
        if conn.session_id == session {
            conn.close(Close::Replaced);
        }
    });
}
