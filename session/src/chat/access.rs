//! Who may use a channel. What the id alone decides is decided at once; what rows decide is remembered for a moment.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use uuid::Uuid;

use super::ChannelId;
use crate::hub::{Hub, Player};

/// How long an answer from rows counts: what ends a membership ends it everywhere within a second.
const FRESH: Duration = Duration::from_millis(700);
/// Answers remembered; past it all are forgotten, which costs reads.
const REMEMBERED: usize = 50_000;
const DEADLINE: Duration = Duration::from_secs(2);
/// How long somebody who may have left a group is believed in while that is looked up.
const TO_EXPEL: Duration = Duration::from_millis(500);

/// Why a channel is not for this player.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NotAuthorized,
    /// One of the two blocks the other.
    Blocked,
    /// It cannot be told now.
    Unavailable,
}

/// What a no of the rows means.
fn no_to(channel: &ChannelId) -> Refusal {
    match channel {
        ChannelId::Dm(..) => Refusal::Blocked,
        _ => Refusal::NotAuthorized,
    }
}

#[derive(Default)]
pub(super) struct Cache(Mutex<State>);

#[derive(Default)]
struct State {
    answers: Answers,
    /// How often something was forgotten: what was read before then may be what was to be forgotten.
    forgotten: u64,
}

/// Whether a player may use a channel, and when that was read.
type Answers = HashMap<(Uuid, ChannelId), (bool, Instant), foldhash::fast::RandomState>;

impl Cache {
    fn get(&self, player: Uuid, channel: &ChannelId) -> Option<bool> {
        let state = self.0.lock();
        let answer = state.answers.get(&(player, channel.clone()));
        answer.filter(|(_, at)| at.elapsed() < FRESH).map(|(allowed, _)| *allowed)
    }

    /// To be asked for before the read whose answer is to be put.
    fn forgotten(&self) -> u64 {
        self.0.lock().forgotten
    }

    fn put(&self, player: Uuid, channel: &ChannelId, allowed: bool, forgotten: u64) {
        let mut state = self.0.lock();
        if state.forgotten != forgotten {
            return;
        }
        if state.answers.len() >= REMEMBERED {
            state.answers.clear();
        }
        state.answers.insert((player, channel.clone()), (allowed, Instant::now()));
    }

    fn forget(&self, player: Uuid, channel: &ChannelId) {
        let mut state = self.0.lock();
        state.forgotten += 1;
        state.answers.remove(&(player, channel.clone()));
    }
}

impl Hub {
    /// Whether a player may use a channel, where that can be told without a read. What was read a moment ago counts.
    pub(crate) fn known_access(&self, player: Uuid, channel: &ChannelId) -> Option<Result<(), Refusal>> {
        self.access_by_id(player, channel).or_else(|| {
            self.chat.cache.get(player, channel).map(|allowed| if allowed { Ok(()) } else { Err(no_to(channel)) })
        })
    }

    /// What the id alone decides.
    fn access_by_id(&self, player: Uuid, channel: &ChannelId) -> Option<Result<(), Refusal>> {
        match channel {
            ChannelId::Global(name) if self.chat.globals.contains(name) => Some(Ok(())),
            ChannelId::Global(_) | ChannelId::Closed => Some(Err(Refusal::NotAuthorized)),
            ChannelId::Dm(a, b) if player != *a && player != *b => Some(Err(Refusal::NotAuthorized)),
            ChannelId::Dm(..) | ChannelId::Match(_) | ChannelId::Room(_) => None,
        }
    }

    /// Whether a player may use a channel, to read as to write, as the rows say now: who was put out a moment ago does not join again.
    ///
    /// # Errors
    /// [`Refusal`]
    pub async fn may_use(&self, player: Uuid, channel: &ChannelId) -> Result<(), Refusal> {
        if let Some(decided) = self.access_by_id(player, channel) {
            return decided;
        }
        let forgotten = self.chat.cache.forgotten();
        match self.look_ups.access.ask((player, channel.clone()), DEADLINE).await {
            Ok(allowed) => {
                self.chat.cache.put(player, channel, allowed, forgotten);
                if allowed { Ok(()) } else { Err(no_to(channel)) }
            }
            Err(why) => {
                tracing::warn!(?why, player.id = %player, "Whether a player may use a channel could not be read.");
                Err(Refusal::Unavailable)
            }
        }
    }

    /// Two players' friendship has changed: a block may have begun or ended.
    pub(crate) fn forget_direct(&self, a: Uuid, b: Uuid) {
        let channel = ChannelId::Dm(a.min(b), a.max(b));
        self.chat.cache.forget(a, &channel);
        self.chat.cache.forget(b, &channel);
    }

    /// A player came into a group or left it. Who is no member now, or may not be one any more for all that can be learnt in
    /// time, is out of the group's channel.
    pub(crate) async fn group_changed(&self, player: Uuid, group: Uuid) {
        let room = ChannelId::Room(group);
        self.chat.cache.forget(player, &room);
        let id = ChannelId::room(group);
        if self.chat.channels.find(&id).is_none() {
            return;
        }
        let member = tokio::time::timeout(TO_EXPEL, self.may_use(player, &room)).await;
        if !matches!(member, Ok(Ok(()))) {
            self.chat.channels.expel(&id, player);
        }
    }

    /// Not every change of a player's groups was heard of: all their rooms are looked at.
    pub(crate) async fn recheck_rooms(&self, player: &Player) {
        let mut rooms = Vec::new();
        for conn in player.conns() {
            rooms.extend(conn.local().channels.iter().filter_map(|id| match ChannelId::parse(id) {
                Some(ChannelId::Room(group)) => Some(group),
                _ => None,
            }));
        }
        rooms.sort_unstable();
        rooms.dedup();
        for group in rooms {
            self.group_changed(player.id, group).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_it_was_to_be_forgotten_is_not_remembered() {
        let (cache, player, room) = (Cache::default(), Uuid::from_u128(1), ChannelId::Room(Uuid::from_u128(2)));
        let before = cache.forgotten();
        cache.put(player, &room, true, before);
        assert_eq!(cache.get(player, &room), Some(true));
        cache.forget(player, &room);
        cache.put(player, &room, true, before);
        assert_eq!(cache.get(player, &room), None);
        cache.put(player, &room, false, cache.forgotten());
        assert_eq!(cache.get(player, &room), Some(false));
    }
}
