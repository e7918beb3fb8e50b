//! `matchmaker.*`: tickets are rows, written by whichever node took the wish.

use std::sync::Arc;

use asobi_proto::frame::ErrorFrame;
use asobi_store::tickets::{CancelError, TicketError, WishError};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Asker, Call, Work, fields};
use crate::{
    hub::Hub,
    queue::{Enqueue, EnqueueError},
};

pub(super) fn add(call: &Call<'_>) -> Option<Work> {
    let player = call.conn.player()?;
    let mut payload = fields::object(call.payload);
    let asker = call.asker().typed();
    let mode = match payload.remove("mode") {
        None | Some(Value::Null) => "default".to_owned(),
        Some(Value::String(mode)) => mode,
        Some(_) => {
            asker.error("unknown_mode", "There is no such mode.");
            return None;
        }
    };
    let properties = match payload.remove("properties") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(given) => given,
    };
    let Ok(query) = fields::optional::<String>(&payload, "query") else {
        asker.refuse(bad_query(0, "The query must be a string."));
        return None;
    };
    let Ok(party) = fields::optional::<Uuid>(&payload, "party_id") else {
        asker.error("party_not_found", "You are in no such party.");
        return None;
    };
    let hub = Arc::clone(call.hub);
    let asked = Enqueue { player, mode, properties, query, party };
    Some(Box::pin(async move { queue(&hub, &asker, &asked).await }))
}

fn bad_query(position: usize, message: &str) -> ErrorFrame<'_> {
    ErrorFrame::for_reason("invalid_query", message).detail("position", position)
}

async fn queue(hub: &Hub, asker: &Asker, asked: &Enqueue) {
    match hub.enqueue(asked).await {
        Ok((created, settings)) => asker.reply("matchmaker.queued", created.payload(&settings)),
        Err(EnqueueError::UnknownMode) => asker.error("unknown_mode", "There is no such mode."),
        Err(EnqueueError::Wish(WishError::Properties(what))) => {
            asker.error("invalid_payload", &format!("The properties are not as they must be: {what}."));
        }
        Err(EnqueueError::Wish(WishError::Query { position, message })) => asker.refuse(bad_query(position, &message)),
        Err(EnqueueError::Ticket(error)) => refuse(asker, asked.player, &error),
    }
}

fn refuse(asker: &Asker, player: Uuid, error: &TicketError) {
    match error.reason() {
        Some((reason, message)) => asker.error(reason, message),
        None => {
            tracing::warn!(%error, player.id = %player, "A ticket could not be written.");
            asker.not_ready();
        }
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
    match hub.withdraw(ticket_id, player).await {
        Ok(()) => asker.reply("matchmaker.removed", json!({"success": true})),
        Err(CancelError::NotFound) => asker.error("not_found", "No such ticket waits."),
        Err(CancelError::NotOwner) => asker.error("not_owner", "The ticket is another's; a party's is its leader's."),
        Err(CancelError::Db(error)) => {
            tracing::warn!(%error, player.id = %player, "A ticket could not be withdrawn.");
            asker.not_ready();
        }
    }
}
