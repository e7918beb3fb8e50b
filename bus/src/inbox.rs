//! Publishing what was just appended to players' inboxes.

use asobi_proto::bus::{InboxEvent, InboxItem, Topic};
use serde_json::value::to_raw_value;
use uuid::Uuid;

use crate::{PublishError, Publisher};

/// Publishes one event; too long a one as a reference, so that nodes read its row.
pub fn publish(publisher: &Publisher, player_id: Uuid, seq: i64, event: &InboxEvent) {
    let topic = Topic::inbox(player_id);
    let body = to_raw_value(event).ok();
    let item = InboxItem { player_id, seq, event: body.as_deref() };
    // Full is counted by the publisher, and the row is found by the next resync.
    if publisher.publish(topic, &item) == Err(PublishError::TooLarge) {
        let _ = publisher.publish(topic, &InboxItem { event: None, ..item });
    }
}
