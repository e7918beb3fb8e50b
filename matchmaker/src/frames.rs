//! The client frames a leader sends through players' inboxes.

use asobi_proto::{
    bus::{InboxAction, InboxEvent},
    frame,
};
use asobi_store::{allocation::Told, backfill::Joined};
use serde_json::{json, value::RawValue};
use uuid::Uuid;

fn event(kind: &str, payload: &serde_json::Value, action: Option<InboxAction>) -> InboxEvent {
    // A frame we wrote is JSON; without one the action alone is still right.
    InboxEvent { frame: RawValue::from_string(frame::push(kind, payload)).ok(), action }
}

/// `match.matched`, to everybody who was.
pub fn matched(told: &Told) -> InboxEvent {
    let payload = json!({"match_id": told.id, "players": told.players, "mode": told.mode, "teams": told.teams});
    event("match.matched", &payload, Some(InboxAction::Matched { match_id: told.id }))
}

/// `match.matched` to who joins a match that runs: with everybody who has a seat.
pub fn joined(match_id: Uuid, joined: &Joined) -> InboxEvent {
    let payload = json!({"match_id": match_id, "players": joined.players, "mode": joined.mode, "teams": joined.teams});
    event("match.matched", &payload, Some(InboxAction::Matched { match_id }))
}

/// `matchmaker.removed`, to a party of which somebody is gone.
pub fn member_gone(ticket_id: Uuid) -> InboxEvent {
    event("matchmaker.removed", &json!({"success": true, "ticket_id": ticket_id, "reason": "member_gone"}), None)
}

/// `match.finished` of a match whose host can no longer say so.
pub fn finished(match_id: Uuid, result: &serde_json::Value) -> InboxEvent {
    let payload = json!({"match_id": match_id, "result": result});
    event("match.finished", &payload, Some(InboxAction::MatchGone { match_id }))
}

/// To who has a seat in a match that goes on at another host: nothing to see, only to do.
pub fn moved(match_id: Uuid) -> InboxEvent {
    InboxEvent { frame: None, action: Some(InboxAction::Moved { match_id }) }
}

/// What became of an orphan, as its `matches.result` says too.
pub fn host_lost() -> serde_json::Value {
    json!({"error": "host_lost"})
}

pub fn expired(ticket_id: Uuid) -> InboxEvent {
    event("match.matchmaker_expired", &json!({"ticket_id": ticket_id}), None)
}

/// `reason`: `match_start_failed` or `no_game_module`.
pub fn failed(reason: &str) -> InboxEvent {
    event("match.matchmaker_failed", &json!({"reason": reason}), None)
}
