//! Two releases share a bus while one replaces the other. Every kind of item as this release writes it stays readable, and so
//! does one of a later release: with keys that this one does not know. What is stored here is never edited; a release that
//! writes otherwise adds its own.

use asobi_proto::bus::{
    Batch, ChatItem, InboxAction, InboxEvent, InboxItem, PresenceItem, RevokedItem, ScoreItem, TicketItem, WakeItem,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::uuid;

/// The payload and the same with more in it.
fn releases(stored: &str) -> [String; 2] {
    let mut later: Value = serde_json::from_str(stored).expect("JSON");
    later["zz"] = json!({"later": [1, null, "x"]});
    [stored.to_owned(), later.to_string()]
}

/// Reads an item of both releases, and writes what this one does.
fn read<T: DeserializeOwned + Serialize>(stored: &str) -> T {
    let [this, later] = releases(stored);
    let written = |item: &T| serde_json::to_value(item).expect("JSON");
    let item: T = serde_json::from_str(&this).expect("reads what this release wrote");
    let same: T = serde_json::from_str(&later).expect("reads what a later release wrote");
    let stored: Value = serde_json::from_str(stored).expect("JSON");
    assert_eq!(written(&item), stored, "writes what others read");
    assert_eq!(written(&same), stored, "passes over what it does not know");
    item
}

#[test]
fn batches() {
    for text in releases(
        r#"{"o":"gateway-0#12","n":7,"t":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","i":[{"a":1},{}]}"#,
    ) {
        let batch: Batch<'_> = serde_json::from_str(&text).expect("reads");
        assert_eq!((batch.origin, batch.number, batch.items.len()), ("gateway-0#12", 7, 2));
        assert!(batch.traceparent.is_some_and(|t| t.starts_with("00-4bf9")));
    }
    let bare: Batch<'_> = serde_json::from_str(r#"{"o":"a#1","n":0,"i":[]}"#).expect("reads");
    assert!(bare.traceparent.is_none());
    assert_eq!(serde_json::to_string(&bare).expect("JSON"), r#"{"o":"a#1","n":0,"i":[]}"#);
}

#[test]
fn chat() {
    let frame = r#"{"type":"chat.message","payload":{"channel_id":"global:lobby","content":"hé"}}"#;
    for text in releases(&format!(r#"{{"c":"global:lobby","s":42,"f":{frame}}}"#)) {
        let item: ChatItem<'_> = serde_json::from_str(&text).expect("reads");
        assert_eq!((&*item.channel_id, item.seq), ("global:lobby", 42));
        let read: Value = serde_json::from_str(item.frame.expect("a frame").get()).expect("JSON");
        assert_eq!(read["payload"]["content"], "hé");
    }
    for text in releases(&format!(r#"{{"c":"global:lobby","s":43,"f":{frame},"w":1764244800000123}}"#)) {
        let item: ChatItem<'_> = serde_json::from_str(&text).expect("reads");
        assert_eq!((item.seq, item.taken_us), (43, Some(1_764_244_800_000_123)));
    }
    for text in releases(r#"{"c":"global:a\"b","s":1}"#) {
        let item: ChatItem<'_> = serde_json::from_str(&text).expect("reads");
        assert_eq!(item.taken_us, None, "of a release before");
        assert!(item.frame.is_none() && item.channel_id == "global:a\"b", "too long for a payload, with an escape");
    }
}

#[test]
fn inboxes() {
    let player = uuid!("01a2032f-ecc7-70e7-855c-218110e89759");
    let event = r#"{"f":{"type":"dm.message","payload":{}}}"#;
    for text in releases(&format!(r#"{{"p":"{player}","s":3,"e":{event}}}"#)) {
        let item: InboxItem<'_> = serde_json::from_str(&text).expect("reads");
        assert_eq!((item.player_id, item.seq), (player, 3));
        assert!(item.event.is_some());
    }
    for text in releases(&format!(r#"{{"p":"{player}","s":4}}"#)) {
        assert!(serde_json::from_str::<InboxItem<'_>>(&text).expect("reads").event.is_none());
    }
    let id = uuid!("01a2032f-0000-70e7-855c-218110e89759");
    for (action, expected) in [
        (format!(r#"{{"k":"matched","match_id":"{id}"}}"#), InboxAction::Matched { match_id: id }),
        (format!(r#"{{"k":"friends","friend_id":"{id}"}}"#), InboxAction::Friends { friend_id: id }),
        (
            format!(r#"{{"k":"group","group_id":"{id}","member":true}}"#),
            InboxAction::Group { group_id: id, member: true },
        ),
        (format!(r#"{{"k":"match_gone","match_id":"{id}"}}"#), InboxAction::MatchGone { match_id: id }),
        (format!(r#"{{"k":"moved","match_id":"{id}"}}"#), InboxAction::Moved { match_id: id }),
        (r#"{"k":"kicked","reason":"spam"}"#.to_owned(), InboxAction::Kicked { reason: "spam".into() }),
    ] {
        // Whoever adds an action adds its text above.
        match &expected {
            InboxAction::Matched { .. }
            | InboxAction::Friends { .. }
            | InboxAction::Group { .. }
            | InboxAction::MatchGone { .. }
            | InboxAction::Moved { .. }
            | InboxAction::Kicked { .. } => {}
        }
        assert_eq!(read::<InboxAction>(&action), expected);
        let stored = format!(r#"{{"f":{{"type":"x","payload":{{}}}},"a":{action}}}"#);
        let event: InboxEvent = read(&stored);
        assert_eq!(event.action, Some(expected));
        assert!(event.frame.is_some());
    }
    assert!(read::<InboxEvent>("{}").action.is_none());
}

#[test]
fn presence_and_revocations() {
    let player = "01a2032f-ecc7-70e7-855c-218110e89759";
    let there: PresenceItem = read(&format!(r#"{{"p":"{player}","st":"online","nd":"gateway-0"}}"#));
    assert_eq!(there.node_id.as_deref(), Some("gateway-0"));
    let gone: PresenceItem = read(&format!(r#"{{"p":"{player}","st":"offline"}}"#));
    assert_eq!((gone.status.as_str(), gone.node_id), ("offline", None));
    let stored = format!(r#"{{"s":"{player}","pl":true,"r":"banned","b":1795349847609000,"x":1795353447}}"#);
    let revoked: RevokedItem = read(&stored);
    assert_eq!((revoked.player, revoked.reason.as_str(), revoked.expires_at), (true, "banned", 1_795_353_447));
    let family: RevokedItem = serde_json::from_str(&stored.replace(r#""pl":true,"#, "")).expect("reads");
    assert!(!family.player);
}

#[test]
fn tickets_scores_and_wakes() {
    let id = "01a2032f-ecc7-70e7-855c-218110e89759";
    let came: TicketItem = read(&format!(r#"{{"t":"{id}","g":false}}"#));
    assert!(!came.gone && !came.backfill);
    assert!(read::<TicketItem>(&format!(r#"{{"t":"{id}","g":true}}"#)).gone);
    assert!(read::<TicketItem>(&format!(r#"{{"t":"{id}","g":false,"b":true}}"#)).backfill);
    let bare: TicketItem = serde_json::from_str(&format!(r#"{{"t":"{id}"}}"#)).expect("reads");
    assert!(!bare.gone);
    let score: ScoreItem = read(&format!(r#"{{"l":"weekly","p":"{id}","v":10.5,"u":-1.0,"s":9,"at":1795349847609}}"#));
    assert_eq!((score.score, score.sub_score, score.seq), (10.5, -1.0, 9));
    read::<WakeItem>("{}");
}
