//! Who may use a channel. What the id alone decides is decided at once; what rows decide is remembered for a moment.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use asobi_store::{friends, matches, within};
use parking_lot::Mutex;
use uuid::Uuid;

use super::ChannelId;
use crate::hub::Hub;

/// How long an answer from rows counts: what ends a membership ends it everywhere within a second.
const FRESH: Duration = Duration::from_millis(700);
/// Answers remembered; past it all are forgotten, which costs reads.
const REMEMBERED: usize = 50_000;
const DEADLINE: Duration = Duration::from_secs(2);

/// Why a channel is not for this player.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NotAuthorized,
    /// One of the two blocks the other.
    Blocked,
    /// It cannot be told now.
    Unavailable,
}

#[derive(Default)]
pub(super) struct Cache(Mutex<Answers>);

/// Whether a player may use a channel, and when that was read.
type Answers = HashMap<(Uuid, ChannelId), (bool, Instant), foldhash::fast::RandomState>;

impl Cache {
    fn get(&self, player: Uuid, channel: &ChannelId) -> Option<bool> {
        let answers = self.0.lock();
        answers.get(&(player, channel.clone())).filter(|(_, at)| at.elapsed() < FRESH).map(|(allowed, _)| *allowed)
    }

    fn put(&self, player: Uuid, channel: &ChannelId, allowed: bool) {
        let mut answers = self.0.lock();
        if answers.len() >= REMEMBERED {
            answers.clear();
        }
        answers.insert((player, channel.clone()), (allowed, Instant::now()));
    }
}

impl Hub {
    /// Whether a player may use a channel, where that can be told without a read.
    pub(crate) fn known_access(&self, player: Uuid, channel: &ChannelId) -> Option<Result<(), Refusal>> {
        let verdict = |allowed, refusal| if allowed { Ok(()) } else { Err(refusal) };
        match channel {
            ChannelId::Global(name) => Some(verdict(self.chat.globals.contains(name), Refusal::NotAuthorized)),
            ChannelId::Closed => Some(Err(Refusal::NotAuthorized)),
            ChannelId::Dm(a, b) if player != *a && player != *b => Some(Err(Refusal::NotAuthorized)),
            ChannelId::Dm(..) => self.chat.cache.get(player, channel).map(|ok| verdict(ok, Refusal::Blocked)),
            ChannelId::Match(_) => self.chat.cache.get(player, channel).map(|ok| verdict(ok, Refusal::NotAuthorized)),
        }
    }

    /// Whether a player may use a channel, to read as to write.
    ///
    /// # Errors
    /// [`Refusal`]
    pub async fn may_use(&self, player: Uuid, channel: &ChannelId) -> Result<(), Refusal> {
        if let Some(known) = self.known_access(player, channel) {
            return known;
        }
        let (allowed, refusal) = match channel {
            ChannelId::Dm(a, b) => {
                let blocked = within(DEADLINE, friends::blocked_between(&self.pool, *a, *b)).await;
                (blocked.map(|blocked| !blocked), Refusal::Blocked)
            }
            ChannelId::Match(id) => {
                (within(DEADLINE, matches::has_seat(&self.pool, *id, player)).await, Refusal::NotAuthorized)
            }
            ChannelId::Global(_) | ChannelId::Closed => return Err(Refusal::NotAuthorized),
        };
        match allowed {
            Ok(allowed) => {
                self.chat.cache.put(player, channel, allowed);
                if allowed { Ok(()) } else { Err(refusal) }
            }
            Err(error) => {
                tracing::warn!(%error, player.id = %player, "Whether a player may use a channel could not be read.");
                Err(Refusal::Unavailable)
            }
        }
    }
}
