//! Who must be silent, in memory: all mutes that hold, since a player may come to any node. Where there are none, a look costs one load.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

use asobi_store::mutes::Changed;
use foldhash::fast::RandomState;
use parking_lot::RwLock;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Muted;

type Players = HashMap<Uuid, Vec<Entry>, RandomState>;

#[derive(Default)]
pub(super) struct Mutes {
    any: AtomicBool,
    players: RwLock<Players>,
}

struct Entry {
    /// Empty: everywhere.
    channel: Box<str>,
    until: Option<OffsetDateTime>,
}

impl Mutes {
    /// The mute that holds longest.
    pub fn of(&self, player: Uuid, channel: &str, now: impl Fn() -> OffsetDateTime) -> Option<Muted> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let players = self.players.read();
        let entries = players.get(&player)?;
        let now = now();
        let here = entries.iter().filter(|entry| entry.channel.is_empty() || *entry.channel == *channel);
        here.filter(|entry| entry.until.is_none_or(|until| until > now))
            .map(|entry| Muted { until: entry.until })
            .max_by_key(|muted| (muted.until.is_none(), muted.until))
    }

    /// Takes changes in the order of their versions. `anew`: they are all there is.
    pub fn apply(&self, changes: Vec<Changed>, anew: bool, now: OffsetDateTime) {
        let mut players = self.players.write();
        if anew {
            players.clear();
        }
        for change in changes {
            let entries = players.entry(change.player_id).or_default();
            entries.retain(|entry| *entry.channel != *change.channel_id);
            if !change.lifted && change.until.is_none_or(|until| until > now) {
                entries.push(Entry { channel: change.channel_id.into(), until: change.until });
            }
            if entries.is_empty() {
                players.remove(&change.player_id);
            }
        }
        metrics::gauge!("asobi_chat_muted_players").set(players.len() as f64);
        self.any.store(!players.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn change(player: u128, channel: &str, seconds: Option<i64>, lifted: bool) -> Changed {
        Changed {
            version: 0,
            player_id: Uuid::from_u128(player),
            channel_id: channel.into(),
            until: seconds.map(|s| NOW + Duration::seconds(s)),
            lifted,
        }
    }

    fn ends(mutes: &Mutes, player: u128, channel: &str, at: i64) -> Option<Option<i64>> {
        let muted = mutes.of(Uuid::from_u128(player), channel, || NOW + Duration::seconds(at))?;
        Some(muted.until.map(OffsetDateTime::unix_timestamp))
    }

    #[test]
    fn a_mute_holds_in_its_channel_until_it_ends_or_is_lifted() {
        let mutes = Mutes::default();
        mutes.apply(vec![change(1, "global:x", Some(10), false), change(2, "", None, false)], false, NOW);
        assert_eq!(ends(&mutes, 1, "global:x", 9), Some(Some(10)));
        assert_eq!((ends(&mutes, 1, "global:x", 10), ends(&mutes, 1, "global:y", 0)), (None, None));
        assert_eq!((ends(&mutes, 2, "dm:a:b", 99), ends(&mutes, 3, "global:x", 0)), (Some(None), None));
        // The longest counts.
        mutes.apply(vec![change(1, "", Some(20), false)], false, NOW);
        assert_eq!(ends(&mutes, 1, "global:x", 0), Some(Some(20)));
        mutes.apply(vec![change(1, "", None, true), change(1, "global:x", Some(10), true)], false, NOW);
        assert_eq!(ends(&mutes, 1, "global:x", 0), None);
    }

    #[test]
    fn what_is_read_anew_is_all_there_is() {
        let mutes = Mutes::default();
        mutes.apply(vec![change(1, "", None, false), change(2, "", None, false)], true, NOW);
        mutes.apply(vec![change(2, "", None, false), change(3, "", Some(0), false)], true, NOW);
        assert_eq!((ends(&mutes, 1, "x", 0), ends(&mutes, 2, "x", 0)), (None, Some(None)));
        assert_eq!(mutes.players.read().len(), 1, "what is over is not held");
        mutes.apply(Vec::new(), true, NOW);
        assert!(!mutes.any.load(Ordering::Acquire));
    }
}
