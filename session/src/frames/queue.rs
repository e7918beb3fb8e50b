//! `matchmaker.*`: tickets are rows, written by whichever node took the wish; the leader is woken.

use std::{sync::Arc, time::Duration};

use asobi_proto::bus::{TicketItem, Topic};
use asobi_store::tickets::{self, CancelError, TicketError};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Asker, Call, Work, fields};
use crate::hub::Hub;

const DEADLINE: Duration = Duration::from_secs(3);
/// A ticket's properties as JSON text.
const PROPERTIES_BYTES: usize = 4_096;

pub(super) fn add(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let mode = match payload.get("mode") {
        None | Some(Value::Null) => "default".to_owned(),
        Some(Value::String(mode)) => mode.clone(),
        Some(_) => {
            call.asker().typed().error("unknown_mode", "There is no such mode.");
            return None;
        }
    };
    let properties = match payload.get("properties") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(given @ Value::Object(_)) if given.to_string().len() <= PROPERTIES_BYTES && storable(given) => {
            given.clone()
        }
        Some(_) => {
            call.asker().typed().error("invalid_payload", "The properties must be an object of at most 4 KiB.");
            return None;
        }
    };
    let (hub, asker) = (Arc::clone(call.hub), call.asker().typed());
    Some(Box::pin(async move { queue(&hub, &asker, &mode, &properties).await }))
}

/// PostgreSQL's JSON holds no NUL.
fn storable(value: &Value) -> bool {
    !value.to_string().contains("\\u0000")
}

async fn queue(hub: &Hub, asker: &Asker, mode: &str, properties: &Value) {
    let Some(player) = asker.conn.player() else { return };
    let Some(settings) = hub.modes.get(mode).await else {
        return asker.error("unknown_mode", "There is no such mode.");
    };
    let most = i64::try_from(hub.config.matchmaker.max_queue).unwrap_or(i64::MAX);
    let creating = tickets::create(&hub.pool, player, mode, properties, &settings, most);
    match tokio::time::timeout(DEADLINE, creating).await {
        Ok(Ok(created)) => {
            let ticket_id = created.ticket.id;
            // A lost wake-up costs the leader's own look into the rows.
            let _ = hub.publisher.publish(Topic::Queue, &TicketItem { ticket_id, gone: false, backfill: false });
            asker.reply(
                "matchmaker.queued",
                json!({"ticket_id": ticket_id, "status": "pending", "players_needed": settings.match_size,
                       "already_queued": created.already_queued, "estimated_wait_ms": null, "position": null}),
            );
        }
        Ok(Err(TicketError::QueueFull)) => asker.error("queue_full", "The queue is full; try again later."),
        Ok(Err(TicketError::AlreadyInMatch)) => asker.error("already_in_match", "You are in a match."),
        Ok(Err(TicketError::Db(error))) => {
            tracing::warn!(%error, player.id = %player, "A ticket could not be written.");
            asker.not_ready();
        }
        Err(_) => asker.not_ready(),
    }
}

pub(super) fn remove(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let Some(ticket) = fields::text(&payload, "ticket_id") else {
        call.missing("ticket_id");
        return None;
    };
    let (hub, asker) = (Arc::clone(call.hub), call.asker().typed());
    let Ok(ticket) = Uuid::try_parse(ticket) else {
        asker.error("not_found", "No such ticket waits.");
        return None;
    };
    Some(Box::pin(async move { withdraw(&hub, &asker, ticket).await }))
}

async fn withdraw(hub: &Hub, asker: &Asker, ticket_id: Uuid) {
    let Some(player) = asker.conn.player() else { return };
    match tokio::time::timeout(DEADLINE, tickets::cancel(&hub.pool, ticket_id, player)).await {
        Ok(Ok(())) => {
            let _ = hub.publisher.publish(Topic::Queue, &TicketItem { ticket_id, gone: true, backfill: false });
            asker.reply("matchmaker.removed", json!({"success": true}));
        }
        Ok(Err(CancelError::NotFound)) => asker.error("not_found", "No such ticket waits."),
        Ok(Err(CancelError::NotOwner)) => asker.error("not_owner", "The ticket is another player's."),
        Ok(Err(CancelError::Db(error))) => {
            tracing::warn!(%error, player.id = %player, "A ticket could not be withdrawn.");
            asker.not_ready();
        }
        Err(_) => asker.not_ready(),
    }
}
