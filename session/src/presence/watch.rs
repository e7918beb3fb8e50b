//! Telling friends: who watches whom on this node, and whose rows are to be looked at.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_proto::frame;
use asobi_store::{
    friends,
    sessions::{self, PlayerStatus},
    welcome::Friend,
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
/// The least time between two changes of one player that a watcher is told of.
const PAUSE: Duration = Duration::from_secs(1);

/// What a watcher was last told of a player.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    status: Arc<str>,
    /// When that was a change; none: as a part of a snapshot.
    told: Option<Instant>,
}

impl Seen {
    fn quietly(status: &str) -> Self {
        Self { status: status.into(), told: None }
    }
}

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
    /// Players to be looked at again when the pause of one of their watchers is over.
    later: BTreeSet<(Instant, Uuid)>,
    /// Until when a missing row proves nothing.
    doubt: Option<Instant>,
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
        let State { watchers, dirty, .. } = &mut *state;
        dirty.extend(players.into_iter().filter(|player| watchers.contains_key(player)));
        if !dirty.is_empty() {
            self.wake.notify_one();
        }
    }

    pub(super) fn suspect_all(&self) {
        let mut state = self.state.lock();
        let State { watchers, dirty, .. } = &mut *state;
        dirty.extend(watchers.keys().copied());
        self.wake.notify_one();
    }

    /// The database may have forgotten its unlogged rows, and the nodes that hold the sessions are about to write them again:
    /// nobody is told to be gone before a lease is over.
    pub(super) fn doubt(&self, until: Instant) {
        self.state.lock().doubt = Some(until);
    }

    fn in_doubt(&self, now: Instant) -> Option<Instant> {
        self.state.lock().doubt.filter(|until| *until > now)
    }

    fn suspect_later(&self, player: Uuid, due: Instant) {
        self.state.lock().later.insert((due, player));
    }

    fn next_due(&self) -> Option<Instant> {
        self.state.lock().later.first().map(|(due, _)| *due)
    }

    /// Has those looked at whose pause is over.
    fn suspect_due(&self, now: Instant) {
        let due = {
            let mut state = self.state.lock();
            let waiting = state.later.split_off(&(now + Duration::from_nanos(1), Uuid::nil()));
            std::mem::replace(&mut state.later, waiting)
        };
        if !due.is_empty() {
            self.suspect(due.into_iter().map(|(_, player)| player));
        }
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
    let watchers = &hub.presence.watchers;
    let mut sweep = Instant::now() + SWEEP;
    loop {
        let due = watchers.next_due().map_or(sweep, |due| due.min(sweep));
        tokio::select! {
            () = watchers.wake.notified() => {}
            () = tokio::time::sleep_until(due.into()) => {}
        }
        let now = Instant::now();
        watchers.suspect_due(now);
        if now >= sweep {
            sweep = now + SWEEP.mul_f64(rand::random_range(0.7..1.3));
            watchers.suspect_all();
        }
        let players = watchers.take_dirty();
        if players.is_empty() {
            continue;
        }
        match within(DEADLINE, sessions::statuses(&hub.pool, &players)).await {
            Ok(statuses) => {
                let by_player: HashMap<Uuid, PlayerStatus> = statuses.into_iter().map(|s| (s.player_id, s)).collect();
                let now = Instant::now();
                let doubt = watchers.in_doubt(now);
                for player in players {
                    if let (Some(until), false) = (doubt, by_player.contains_key(&player)) {
                        watchers.suspect_later(player, until);
                    } else if let Some(due) = tell(&watchers.of(player), player, by_player.get(&player), now) {
                        watchers.suspect_later(player, due);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, players = players.len(), "Presence could not be read; it is tried again.");
                watchers.suspect(players);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Tells those watchers to whom it is news. The frame is written once, and only if somebody needs it. Answers when the next
/// of those may be told who heard of the player less than a [`PAUSE`] ago.
fn tell(watchers: &[Arc<Conn>], player: Uuid, seen: Option<&PlayerStatus>, now: Instant) -> Option<Instant> {
    let status: Arc<str> = seen.map_or(OFFLINE, |s| s.status.as_str()).into();
    let mut written: Option<Frame> = None;
    let mut next: Option<Instant> = None;
    for conn in watchers {
        {
            let mut local = conn.local();
            let Some(told) = local.told.as_mut().and_then(|told| told.get_mut(&player)) else { continue };
            if *told.status == *status {
                continue;
            }
            if let Some(due) = told.told.map(|at| at + PAUSE).filter(|due| *due > now) {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            *told = Seen { status: Arc::clone(&status), told: Some(now) };
        }
        let frame = written.get_or_insert_with(|| changed(player, &status, seen.map(|s| s.node_id.as_str())));
        conn.push(frame.clone());
    }
    next
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
        let Ok(seen) = hub.look_ups.friends.ask(player, DEADLINE).await else {
            tracing::warn!(player.id = %player, "A player's friends could not be read; their presence is not told.");
            return;
        };
        let status = |friend: &'_ Friend| friend.status.clone().unwrap_or_else(|| OFFLINE.to_owned());
        let listed: Vec<_> =
            seen.iter().map(|friend| json!({"player_id": friend.player_id, "status": status(friend)})).collect();
        let friends: Vec<Uuid> = seen.iter().map(|friend| friend.player_id).collect();
        let stale = {
            let mut local = conn.local();
            local.told = Some(seen.iter().map(|f| (f.player_id, Seen::quietly(&status(f)))).collect());
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
    told.extend(come.iter().map(|f| (*f, Seen::quietly(OFFLINE))));
    let lost: Vec<Uuid> =
        gone.iter().filter(|f| told.remove(f).is_some_and(|seen| &*seen.status != OFFLINE)).copied().collect();
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
        conn.local().told = Some(told.iter().map(|(p, s)| (*p, Seen::quietly(s))).collect());
        conn
    }

    fn frames(conn: &Conn) -> Vec<String> {
        std::iter::from_fn(|| conn.outbox.pop()).map(|f| f.as_str().to_owned()).collect()
    }

    #[test]
    fn watchers_hear_differences_once() {
        let (bo, conn) = (Uuid::now_v7(), watcher(&[]));
        conn.local().told = Some([(bo, Seen::quietly(OFFLINE))].into_iter().collect());
        let online = PlayerStatus { player_id: bo, status: "online".into(), node_id: "gw-1".into() };
        let (watchers, now) = ([Arc::clone(&conn)], Instant::now());
        tell(&watchers, bo, Some(&online), now);
        tell(&watchers, bo, Some(&online), now);
        tell(&watchers, Uuid::now_v7(), Some(&online), now);
        let frames = frames(&conn);
        assert_eq!(frames.len(), 1);
        assert!(frames[0].contains("\"node_id\":\"gw-1\"") && frames[0].contains("presence.changed"));
    }

    #[test]
    fn who_flaps_is_told_of_once_a_second_and_in_the_end_as_they_are() {
        let (bo, start) = (Uuid::now_v7(), Instant::now());
        let (conn, watchers) = (watcher(&[(bo, OFFLINE)]), Watchers::default());
        watchers.watch(&[bo], &conn);
        let online = PlayerStatus { player_id: bo, status: "online".into(), node_id: "gw-1".into() };
        let mut told = Vec::new();
        // Five seconds of coming and going, a hundred times a second, looked at after each; then he stays away.
        for step in 0..600_u32 {
            let now = start + Duration::from_millis(10) * step;
            watchers.suspect_due(now);
            let there = (step < 500 && step % 2 == 0).then_some(&online);
            if let Some(due) = tell(&watchers.of(bo), bo, there, now) {
                watchers.suspect_later(bo, due);
            }
            told.extend(frames(&conn).into_iter().map(|frame| (step, frame.contains("online"))));
        }
        assert_eq!(told.first(), Some(&(0, true)), "the first change at once");
        assert!(told.windows(2).all(|two| two[1].0 - two[0].0 >= 100), "{told:?}");
        assert_eq!(told.last().map(|last| last.1), Some(false), "{told:?}");
        assert!((5..=6).contains(&told.len()), "{told:?}");
    }

    #[test]
    fn a_change_that_was_held_back_is_looked_at_when_the_pause_is_over() {
        let (bo, start, watchers) = (Uuid::now_v7(), Instant::now(), Watchers::default());
        watchers.watch(&[bo], &watcher(&[(bo, OFFLINE)]));
        watchers.suspect_later(bo, start + PAUSE);
        watchers.suspect_later(bo, start + PAUSE);
        watchers.suspect_due(start + PAUSE - Duration::from_millis(1));
        assert!(watchers.take_dirty().is_empty());
        assert_eq!(watchers.next_due(), Some(start + PAUSE));
        watchers.suspect_due(start + PAUSE);
        assert_eq!((watchers.take_dirty(), watchers.next_due()), (vec![bo], None));
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
