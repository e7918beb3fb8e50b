//! Telling friends: who watches whom on this node, and whose rows are to be looked at.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use asobi_proto::frame;
use asobi_store::{
    friends,
    sessions::{self, PlayerStatus},
    within,
};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{DEADLINE, Presence};
use crate::{
    conn::Conn,
    frame::Frame,
    hub::{Hub, Player},
};

const OFFLINE: &str = "offline";
/// Players of one read.
const BATCH: usize = 1_000;
const RETRY: Duration = Duration::from_millis(250);
/// How often everybody watched is looked at, whatever the bus says.
const SWEEP: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Watchers {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// By the player who is watched.
    watchers: HashMap<Uuid, Vec<Arc<Conn>>, RandomState>,
    /// Watched players whose rows are to be looked at.
    dirty: HashSet<Uuid, RandomState>,
}

impl Watchers {
    fn watch<'a>(&self, players: impl IntoIterator<Item = &'a Uuid>, conn: &Arc<Conn>) {
        let mut state = self.state.lock();
        for player in players {
            let watchers = state.watchers.entry(*player).or_default();
            if watchers.iter().all(|w| w.no != conn.no) {
                watchers.push(Arc::clone(conn));
            }
        }
    }

    pub(super) fn unwatch<'a>(&self, players: impl IntoIterator<Item = &'a Uuid>, conn: &Conn) {
        let mut state = self.state.lock();
        for player in players {
            if let Some(watchers) = state.watchers.get_mut(player) {
                watchers.retain(|w| w.no != conn.no);
                if watchers.is_empty() {
                    state.watchers.remove(player);
                    state.dirty.remove(player);
                }
            }
        }
    }

    /// Has the rows of these players looked at, as far as somebody here watches them.
    pub(super) fn suspect(&self, players: impl IntoIterator<Item = Uuid>) {
        let mut state = self.state.lock();
        let State { watchers, dirty } = &mut *state;
        dirty.extend(players.into_iter().filter(|player| watchers.contains_key(player)));
        if !dirty.is_empty() {
            self.wake.notify_one();
        }
    }

    pub(super) fn suspect_all(&self) {
        let mut state = self.state.lock();
        let State { watchers, dirty } = &mut *state;
        dirty.extend(watchers.keys().copied());
        self.wake.notify_one();
    }

    fn take_dirty(&self) -> Vec<Uuid> {
        let mut state = self.state.lock();
        if state.dirty.len() <= BATCH {
            return std::mem::take(&mut state.dirty).into_iter().collect();
        }
        let some: Vec<Uuid> = state.dirty.iter().take(BATCH).copied().collect();
        for player in &some {
            state.dirty.remove(player);
        }
        self.wake.notify_one();
        some
    }

    fn of(&self, player: Uuid) -> Vec<Arc<Conn>> {
        self.state.lock().watchers.get(&player).cloned().unwrap_or_default()
    }
}

/// Looks at the rows of suspects and tells their watchers what is new to them.
pub(super) async fn run(hub: Arc<Hub>) {
    loop {
        tokio::select! {
            () = hub.presence.watchers.wake.notified() => {}
            () = tokio::time::sleep(SWEEP.mul_f64(rand::random_range(0.7..1.3))) => hub.presence.watchers.suspect_all(),
        }
        let players = hub.presence.watchers.take_dirty();
        if players.is_empty() {
            continue;
        }
        match within(DEADLINE, sessions::statuses(&hub.pool, &players)).await {
            Ok(statuses) => {
                let by_player: HashMap<Uuid, PlayerStatus> = statuses.into_iter().map(|s| (s.player_id, s)).collect();
                for player in players {
                    tell(&hub.presence.watchers.of(player), player, by_player.get(&player));
                }
            }
            Err(error) => {
                tracing::debug!(%error, players = players.len(), "Presence could not be read; it is tried again.");
                hub.presence.watchers.suspect(players);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Tells those watchers to whom it is news. The frame is written once, and only if somebody needs it.
fn tell(watchers: &[Arc<Conn>], player: Uuid, seen: Option<&PlayerStatus>) {
    let status: Arc<str> = seen.map_or(OFFLINE, |s| s.status.as_str()).into();
    let mut written: Option<Frame> = None;
    for conn in watchers {
        {
            let mut local = conn.local();
            let Some(told) = local.told.as_mut().and_then(|told| told.get_mut(&player)) else { continue };
            if **told == *status {
                continue;
            }
            *told = Arc::clone(&status);
        }
        let frame = written.get_or_insert_with(|| changed(player, &status, seen.map(|s| s.node_id.as_str())));
        conn.push(frame.clone());
    }
}

fn changed(player: Uuid, status: &str, node_id: Option<&str>) -> Frame {
    Frame::from(match node_id {
        Some(node) => frame::push("presence.changed", json!({"player_id": player, "status": status, "node_id": node})),
        None => frame::push("presence.changed", json!({"player_id": player, "status": status})),
    })
}

impl Presence {
    /// Begins to watch a player's friends for one of their connections, and tells how they are seen now.
    pub(crate) async fn snapshot(&self, hub: &Hub, conn: &Arc<Conn>, player: Uuid) {
        conn.local().friends_changed = false;
        let friends = match within(DEADLINE, friends::accepted_ids(&hub.pool, player)).await {
            Ok(friends) => friends,
            Err(error) => {
                tracing::warn!(%error, player.id = %player, "A player's friends could not be read; their presence is not told.");
                return;
            }
        };
        let statuses = within(DEADLINE, sessions::statuses(&hub.pool, &friends)).await.unwrap_or_default();
        let seen: HashMap<Uuid, String> = statuses.into_iter().map(|s| (s.player_id, s.status)).collect();
        let status = |friend: &Uuid| seen.get(friend).map_or(OFFLINE, String::as_str);
        let listed: Vec<_> = friends.iter().map(|f| json!({"player_id": f, "status": status(f)})).collect();
        let stale = {
            let mut local = conn.local();
            local.told = Some(friends.iter().map(|f| (*f, Arc::from(status(f)))).collect());
            std::mem::take(&mut local.friends_changed)
        };
        conn.push(Frame::from(frame::push("presence.snapshot", json!({"friends": listed}))));
        self.watchers.watch(&friends, conn);
        // Whatever changed between the read and the watch is told as a difference.
        self.watchers.suspect(friends.iter().copied());
        if hub.registry.conn(conn.no).is_none() {
            self.watchers.unwatch(&friends, conn);
        }
        if stale {
            self.compare(hub, player, std::slice::from_ref(conn)).await;
        }
    }

    /// The player's friendships have changed: their connections watch the difference.
    pub(crate) async fn friends_changed(&self, hub: &Arc<Hub>, player: &Arc<Player>) {
        let watches = |conn: &Arc<Conn>| {
            let mut local = conn.local();
            // For a snapshot under way, which may have read the friends already.
            local.friends_changed = local.told.is_none();
            local.told.is_some()
        };
        let conns: Vec<_> = player.conns().into_iter().filter(watches).collect();
        if !conns.is_empty() {
            self.compare(hub, player.id, &conns).await;
        }
    }

    /// Makes these connections of a player watch the friends that are in the rows now.
    async fn compare(&self, hub: &Hub, player: Uuid, conns: &[Arc<Conn>]) {
        let Ok(friends) = within(DEADLINE, friends::accepted_ids(&hub.pool, player)).await else {
            tracing::warn!(player.id = %player, "A player's changed friends could not be read.");
            return;
        };
        for conn in conns {
            let (come, gone) = difference(conn, &friends);
            self.watchers.unwatch(&gone, conn);
            self.watchers.watch(&come, conn);
            self.watchers.suspect(come);
            if hub.registry.conn(conn.no).is_none() {
                self.watchers.unwatch(&friends, conn);
            }
        }
    }
}

/// Makes what a client was told fit its friends now: those that came count as offline until their rows were read, those
/// that went are told to be.
fn difference(conn: &Conn, friends: &[Uuid]) -> (Vec<Uuid>, Vec<Uuid>) {
    let mut local = conn.local();
    let Some(told) = local.told.as_mut() else { return (Vec::new(), Vec::new()) };
    let now: HashSet<Uuid> = friends.iter().copied().collect();
    let come: Vec<Uuid> = friends.iter().filter(|f| !told.contains_key(f)).copied().collect();
    let gone: Vec<Uuid> = told.keys().filter(|f| !now.contains(f)).copied().collect();
    told.extend(come.iter().map(|f| (*f, Arc::from(OFFLINE))));
    let lost: Vec<Uuid> = gone.iter().filter(|f| told.remove(f).is_some_and(|s| &*s != OFFLINE)).copied().collect();
    drop(local);
    for friend in lost {
        conn.push(changed(friend, OFFLINE, None));
    }
    (come, gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conn::Bounds, link::SessionNo};

    fn watcher(told: &[(Uuid, &str)]) -> Arc<Conn> {
        let conn = Arc::new(Conn::new(SessionNo(1), Bounds { frames: 10, bytes: 10_000 }));
        conn.local().told = Some(told.iter().map(|(p, s)| (*p, Arc::from(*s))).collect());
        conn
    }

    fn frames(conn: &Conn) -> Vec<String> {
        std::iter::from_fn(|| conn.outbox.pop()).map(|f| f.as_str().to_owned()).collect()
    }

    #[test]
    fn watchers_hear_differences_once() {
        let (bo, conn) = (Uuid::now_v7(), watcher(&[]));
        conn.local().told = Some([(bo, Arc::from(OFFLINE))].into_iter().collect());
        let online = PlayerStatus { player_id: bo, status: "online".into(), node_id: "gw-1".into() };
        let watchers = [Arc::clone(&conn)];
        tell(&watchers, bo, Some(&online));
        tell(&watchers, bo, Some(&online));
        tell(&watchers, Uuid::now_v7(), Some(&online));
        let frames = frames(&conn);
        assert_eq!(frames.len(), 1);
        assert!(frames[0].contains("\"node_id\":\"gw-1\"") && frames[0].contains("presence.changed"));
    }

    #[test]
    fn changed_friends_are_a_difference() {
        let (bo, cleo, dan) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let conn = watcher(&[(bo, "online"), (cleo, OFFLINE)]);
        let (come, gone) = difference(&conn, &[dan]);
        assert_eq!(come, [dan]);
        assert_eq!(gone.into_iter().collect::<HashSet<_>>(), HashSet::from([bo, cleo]));
        assert!(frames(&conn).concat().contains("\"offline\""));
        assert_eq!(conn.local().told.as_ref().map(std::collections::HashMap::len), Some(1));
    }

    #[test]
    fn only_watched_players_are_suspects() {
        let (bo, conn, watchers) = (Uuid::now_v7(), watcher(&[]), Watchers::default());
        watchers.watch(&[bo], &conn);
        watchers.suspect([bo, Uuid::now_v7()]);
        assert_eq!(watchers.take_dirty(), [bo]);
        watchers.unwatch(&[bo], &conn);
        watchers.suspect([bo]);
        assert!(watchers.take_dirty().is_empty() && watchers.of(bo).is_empty());
    }
}
