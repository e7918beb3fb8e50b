//! Who is connected here: sessions by number, players with their sessions.

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{conn::Conn, inbox::Mailbox, link::SessionNo};

const SHARDS: usize = 32;

/// A player with at least one session here.
pub(crate) struct Player {
    pub id: Uuid,
    conns: Mutex<Vec<Arc<Conn>>>,
    pub mailbox: Mailbox,
}

impl Player {
    pub(crate) fn conns(&self) -> Vec<Arc<Conn>> {
        self.conns.lock().clone()
    }

    pub(crate) fn each(&self, mut deed: impl FnMut(&Arc<Conn>)) {
        self.conns.lock().iter().for_each(&mut deed);
    }
}

type Players = HashMap<Uuid, Arc<Player>, RandomState>;

pub(crate) struct Registry {
    /// All open sockets: reads (one per recipient of a match's frame) dominate.
    conns: papaya::HashMap<u64, Arc<Conn>, RandomState>,
    next: AtomicU64,
    players: Box<[Mutex<Players>]>,
    hasher: RandomState,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            conns: papaya::HashMap::with_hasher(RandomState::default()),
            next: AtomicU64::new(1),
            players: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
        }
    }

    pub(crate) fn next_no(&self) -> SessionNo {
        SessionNo(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn open(&self, conn: &Arc<Conn>) {
        self.conns.pin().insert(conn.no.0, Arc::clone(conn));
    }

    pub(crate) fn close(&self, no: SessionNo) {
        self.conns.pin().remove(&no.0);
    }

    pub(crate) fn conn(&self, no: SessionNo) -> Option<Arc<Conn>> {
        self.conns.pin().get(&no.0).cloned()
    }

    /// Calls with each of the sessions that is here.
    pub(crate) fn among(&self, sessions: &[SessionNo], mut deed: impl FnMut(&Arc<Conn>)) {
        let conns = self.conns.pin();
        for no in sessions {
            if let Some(conn) = conns.get(&no.0) {
                deed(conn);
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Conn>> {
        self.conns.pin().values().cloned().collect()
    }

    /// Open sockets, authenticated or not.
    pub(crate) fn count(&self) -> usize {
        self.conns.len()
    }

    /// Adds a session to its player's. How many those may be is decided by the rows of all nodes, not here.
    pub(crate) fn join(&self, player: Uuid, conn: &Arc<Conn>) -> Arc<Player> {
        let mut players = self.shard(player).lock();
        let entry = players
            .entry(player)
            .or_insert_with(|| Arc::new(Player { id: player, conns: Mutex::default(), mailbox: Mailbox::default() }));
        entry.conns.lock().push(Arc::clone(conn));
        Arc::clone(entry)
    }

    pub(crate) fn part(&self, player: Uuid, no: SessionNo) {
        let mut players = self.shard(player).lock();
        let Some(entry) = players.get(&player) else { return };
        let mut conns = entry.conns.lock();
        conns.retain(|conn| conn.no != no);
        let last = conns.is_empty();
        drop(conns);
        if last {
            players.remove(&player);
        }
    }

    pub(crate) fn player(&self, player: Uuid) -> Option<Arc<Player>> {
        self.shard(player).lock().get(&player).cloned()
    }

    pub(crate) fn players(&self) -> Vec<Arc<Player>> {
        self.players.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    fn shard(&self, player: Uuid) -> &Mutex<Players> {
        let hash = usize::try_from(self.hasher.hash_one(player) >> 32).unwrap_or(0);
        &self.players[hash % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::Bounds;

    fn conn(registry: &Registry) -> Arc<Conn> {
        let conn = Arc::new(Conn::new(registry.next_no(), Bounds { frames: 4, bytes: 100 }));
        registry.open(&conn);
        conn
    }

    #[test]
    fn players_come_and_go_with_their_sessions() {
        let (registry, player) = (Registry::new(), Uuid::now_v7());
        let (a, b, c) = (conn(&registry), conn(&registry), conn(&registry));
        for conn in [&a, &b] {
            registry.join(player, conn);
        }
        let joined = registry.join(player, &c);
        registry.part(player, a.no);
        assert_eq!(joined.conns().iter().map(|conn| conn.no).collect::<Vec<_>>(), [b.no, c.no]);
        registry.part(player, b.no);
        assert!(registry.player(player).is_some());
        registry.part(player, c.no);
        assert!(registry.player(player).is_none());
        registry.close(a.no);
        assert!(registry.conn(a.no).is_none() && registry.count() == 2);
    }
}
