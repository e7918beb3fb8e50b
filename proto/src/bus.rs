//! What travels in NOTIFY payloads. Field names are short because a payload ends below 8000 bytes; unknown fields are
//! ignored and new ones are optional, so that two releases can share a bus.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// A PostgreSQL notification channel. Chat channels and players hash onto a fixed number of topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// [`ChatItem`]s
    Chat(u8),
    /// [`InboxItem`]s
    Inbox(u8),
    /// [`PresenceItem`]s
    Presence,
    /// [`RevokedItem`]s
    Revoked,
    /// [`WakeItem`]s: a host announced modes
    Modes,
    /// [`WakeItem`]s: a node came, changed its state, or went
    Nodes,
    /// [`TicketItem`]s: for the leading matchmaker
    Queue,
    /// [`WakeItem`]s: a leader resigned
    Leader,
    /// [`WakeItem`]s: effects of a match wait to be applied
    Effects,
    /// [`ScoreItem`]s and [`BoardItem`]s
    Boards,
    /// [`WakeItem`]s: a token was revoked, or the cluster's key changes
    Access,
    /// [`WakeItem`]s: a mute, a deleted message or a word of the filter
    Moderation,
}

/// Topics of each hashed kind. Part of the wire: nodes of two releases must agree.
pub const SHARDS: u8 = 16;

impl Topic {
    #[must_use]
    pub fn chat(channel_id: &str) -> Self {
        Self::Chat(shard(channel_id.as_bytes()))
    }

    #[must_use]
    pub fn inbox(player_id: Uuid) -> Self {
        Self::Inbox(shard(player_id.as_bytes()))
    }

    pub fn all_chat() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self::Chat)
    }

    pub fn all_inbox() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self::Inbox)
    }

    /// The name PostgreSQL knows it by.
    #[must_use]
    pub fn channel(self) -> String {
        match self {
            Self::Chat(n) => format!("asobi_chat_{n}"),
            Self::Inbox(n) => format!("asobi_inbox_{n}"),
            Self::Presence => "asobi_presence".into(),
            Self::Revoked => "asobi_revoked".into(),
            Self::Modes => "asobi_modes".into(),
            Self::Nodes => "asobi_nodes".into(),
            Self::Queue => "asobi_queue".into(),
            Self::Leader => "asobi_leader".into(),
            Self::Effects => "asobi_effects".into(),
            Self::Boards => "asobi_boards".into(),
            Self::Access => "asobi_access".into(),
            Self::Moderation => "asobi_moderation".into(),
        }
    }
}

// FNV-1a: tiny, and the same on every node and release.
fn shard(bytes: &[u8]) -> u8 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    // The last bytes move the low bits only.
    u8::try_from((hash ^ (hash >> 32)) % u64::from(SHARDS)).unwrap_or(0)
}

/// One NOTIFY payload: a batch of items of one topic.
#[derive(Debug, Serialize, Deserialize)]
pub struct Batch<'a> {
    /// Who published: `node_id#incarnation`.
    #[serde(rename = "o")]
    pub origin: &'a str,
    /// Counts up per origin: equal payloads in one transaction would collapse into one.
    #[serde(rename = "n")]
    pub number: u64,
    /// W3C trace context of the first item that had one. What earlier releases read.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<&'a str>,
    /// That of each item that has one, with the item's place.
    #[serde(rename = "ts", borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<(usize, &'a str)>,
    #[serde(rename = "i", borrow)]
    pub items: Vec<&'a RawValue>,
}

impl Batch<'_> {
    /// The trace context of one item; nearly none has one.
    #[must_use]
    pub fn trace_of(&self, item: usize) -> Option<&str> {
        match self.traces.as_slice() {
            // From an earlier release, which does not say whose it is.
            [] => self.traceparent.filter(|_| item == 0),
            traces => traces.iter().find(|(place, _)| *place == item).map(|(_, trace)| *trace),
        }
    }
}

/// A stored chat message.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChatItem<'a> {
    #[serde(rename = "c", borrow)]
    pub channel_id: std::borrow::Cow<'a, str>,
    #[serde(rename = "s")]
    pub seq: i64,
    /// The whole `chat.message` frame; none when it was too long for a payload: read the row.
    #[serde(rename = "f", borrow, default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<&'a RawValue>,
    /// When the sender's node took the message, unix microseconds by its own clock; for measuring only.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub taken_us: Option<u64>,
}

/// A new event in a player's inbox.
#[derive(Debug, Serialize, Deserialize)]
pub struct InboxItem<'a> {
    #[serde(rename = "p")]
    pub player_id: Uuid,
    #[serde(rename = "s")]
    pub seq: i64,
    /// An [`InboxEvent`]; none when it was too long for a payload: read the row.
    #[serde(rename = "e", borrow, default, skip_serializing_if = "Option::is_none")]
    pub event: Option<&'a RawValue>,
}

/// What an inbox row holds: a client frame, and what the player's nodes must do before they push it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InboxEvent {
    /// The whole client frame to push, if the player is to see anything.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<Box<RawValue>>,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub action: Option<InboxAction>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "snake_case")]
pub enum InboxAction {
    /// The player has a seat in this match: attach every session, then push the frame, then offer `match.migrate`.
    Matched { match_id: Uuid },
    /// The player's friendship with another changed: presence subscriptions are to be read again.
    Friends { friend_id: Uuid },
    /// The player came into a group or left it: what was remembered of their rights in its channel is void, and who left is out of it.
    Group { group_id: Uuid, member: bool },
    /// The match is over or the seat is gone without the host saying so itself (its host died).
    MatchGone { match_id: Uuid },
    /// The match goes on elsewhere after its host was lost: look it up, and attach every session there. Comes without a frame.
    Moved { match_id: Uuid },
    /// An operator closes the player's sockets: of those that connected before this event, which is told to nobody who comes later.
    Kicked { reason: String },
}

/// A player's presence as all watchers shall see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceItem {
    #[serde(rename = "p")]
    pub player_id: Uuid,
    /// `offline` when the last session is gone.
    #[serde(rename = "st")]
    pub status: String,
    #[serde(rename = "nd", default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
}

/// Tokens and sockets that end now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedItem {
    /// A token family or a player.
    #[serde(rename = "s")]
    pub subject: Uuid,
    /// True: every family of the player `subject`.
    #[serde(rename = "pl", default)]
    pub player: bool,
    /// The `session.revoked` reason.
    #[serde(rename = "r")]
    pub reason: String,
    /// Tokens issued up to then, unix microseconds.
    #[serde(rename = "b")]
    pub issued_before: i64,
    /// When the revocation may be forgotten, unix seconds.
    #[serde(rename = "x")]
    pub expires_at: i64,
}

/// A ticket came or went. A party's is known by its head's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketItem {
    #[serde(rename = "t")]
    pub ticket_id: Uuid,
    /// True: withdrawn.
    #[serde(rename = "g", default)]
    pub gone: bool,
    /// True: `ticket_id` is a running match, whose request for players changed.
    #[serde(rename = "b", default, skip_serializing_if = "std::ops::Not::not")]
    pub backfill: bool,
}

/// Nothing but a wake-up: read the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeItem {}

/// A board's row changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreItem {
    #[serde(rename = "l")]
    pub leaderboard_id: String,
    #[serde(rename = "p")]
    pub player_id: Uuid,
    #[serde(rename = "v")]
    pub score: f64,
    #[serde(rename = "u")]
    pub sub_score: f64,
    /// The board's sequence number of this change.
    #[serde(rename = "s")]
    pub seq: i64,
    /// Unix ms.
    #[serde(rename = "at")]
    pub updated_at: i64,
}

/// A board changed otherwise than by a score: its settings, its period, or an entry was taken off. Read the rows. On [`Topic::Boards`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardItem {
    #[serde(rename = "l")]
    pub leaderboard_id: String,
    #[serde(rename = "ch")]
    pub changed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_spread_and_stay() {
        assert_eq!(Topic::chat("global:lobby"), Topic::chat("global:lobby"));
        let used: std::collections::HashSet<_> = (0..200).map(|i| Topic::chat(&format!("global:c{i}"))).collect();
        assert_eq!(used.len(), usize::from(SHARDS));
        assert!(Topic::Chat(15).channel().len() < 63);
    }

    #[test]
    fn each_item_has_its_own_trace() {
        let read = |text: &str, item| {
            let batch: Batch<'_> = serde_json::from_str(text).expect("reads");
            batch.trace_of(item).map(ToOwned::to_owned)
        };
        let both = r#"{"o":"a#1","n":1,"t":"x","ts":[[1,"x"],[2,"y"]],"i":[0,1,2]}"#;
        assert_eq!([read(both, 0), read(both, 1), read(both, 2)], [None, Some("x".into()), Some("y".into())]);
        let earlier = r#"{"o":"a#1","n":1,"t":"x","i":[0,1]}"#;
        assert_eq!([read(earlier, 0), read(earlier, 1)], [Some("x".into()), None]);
        assert_eq!(read(r#"{"o":"a#1","n":1,"i":[0]}"#, 0), None);
    }

    #[test]
    fn items_of_the_next_release_are_read() {
        let text = r#"{"c":"global:lobby","s":3,"f":{"type":"chat.message","payload":{}},"zz":1}"#;
        let item: ChatItem<'_> = serde_json::from_str(text).expect("unknown fields are ignored");
        assert_eq!(item.seq, 3);
        let event: InboxEvent =
            serde_json::from_str(r#"{"a":{"k":"matched","match_id":"01a2032f-ecc7-70e7-855c-218110e89759"}}"#)
                .expect("reads");
        assert!(matches!(event.action, Some(InboxAction::Matched { .. })));
    }
}
