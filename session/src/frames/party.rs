//! `party.*`: every request is answered by `party.state` as the asker sees the party then; who is in none sees one without members.

use std::{sync::Arc, time::Duration};

use asobi_store::parties::{self, Changed, Party, PartyError};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Asker, Call, Work, fields};
use crate::hub::Hub;

const DEADLINE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
enum Deed {
    Create,
    Invite(Uuid),
    Accept(Uuid),
    Decline(Uuid),
    Leave,
    Kick(Uuid),
    Promote(Uuid),
    Disband,
}

pub(super) fn create(call: &Call<'_>) -> Option<Work> {
    later(call, Deed::Create)
}

pub(super) fn invite(call: &Call<'_>) -> Option<Work> {
    let guest = player_id(call)?;
    let inviter = call.conn.player()?;
    let limit = call.hub.config.matchmaker.invites_per_minute;
    if !call.hub.queue.invites.allows(inviter, limit, std::time::Instant::now()) {
        call.error("rate_limited", "Too many invitations: wait a moment.");
        return None;
    }
    later(call, Deed::Invite(guest))
}

pub(super) fn accept(call: &Call<'_>) -> Option<Work> {
    later(call, Deed::Accept(party_id(call)?))
}

pub(super) fn decline(call: &Call<'_>) -> Option<Work> {
    later(call, Deed::Decline(party_id(call)?))
}

pub(super) fn leave(call: &Call<'_>) -> Option<Work> {
    later(call, Deed::Leave)
}

pub(super) fn kick(call: &Call<'_>) -> Option<Work> {
    later(call, Deed::Kick(player_id(call)?))
}

pub(super) fn promote(call: &Call<'_>) -> Option<Work> {
    later(call, Deed::Promote(player_id(call)?))
}

pub(super) fn disband(call: &Call<'_>) -> Option<Work> {
    later(call, Deed::Disband)
}

/// Answers the error itself when the field is not there or names nothing.
fn id(call: &Call<'_>, field: &str, unknown: &PartyError) -> Option<Uuid> {
    let payload: Map<String, Value> = fields::object(call.payload);
    let Some(text) = fields::text(&payload, field) else {
        call.missing(field);
        return None;
    };
    let id = Uuid::try_parse(text).ok();
    if let (None, Some((reason, message))) = (id, unknown.reason()) {
        call.error(reason, message);
    }
    id
}

fn player_id(call: &Call<'_>) -> Option<Uuid> {
    id(call, "player_id", &PartyError::PlayerNotFound)
}

fn party_id(call: &Call<'_>) -> Option<Uuid> {
    id(call, "party_id", &PartyError::NotFound)
}

fn later(call: &Call<'_>, deed: Deed) -> Option<Work> {
    let player = call.conn.player()?;
    let (hub, asker) = (Arc::clone(call.hub), call.asker());
    Some(Box::pin(async move { answer(&hub, &asker, player, deed).await }))
}

async fn answer(hub: &Hub, asker: &Asker, player: Uuid, deed: Deed) {
    let done = tokio::time::timeout(DEADLINE, act(hub, player, deed)).await;
    match done.unwrap_or(Err(PartyError::Db(asobi_store::Error::Deadline(DEADLINE)))) {
        Ok(party) => asker.reply("party.state", party.payload()),
        Err(error) => match error.reason() {
            Some((reason, message)) => asker.error(reason, message),
            None => {
                tracing::warn!(%error, player.id = %player, "A party could not be changed.");
                asker.not_ready();
            }
        },
    }
}

async fn act(hub: &Hub, player: Uuid, deed: Deed) -> Result<Party, PartyError> {
    let (pool, most) = (&hub.pool, hub.config.matchmaker.party_size);
    let Changed { party, told, tickets } = match deed {
        Deed::Create => parties::create(pool, player).await?,
        Deed::Invite(guest) => parties::invite(pool, player, guest, most).await?,
        Deed::Accept(party) => parties::accept(pool, player, party, most).await?,
        Deed::Decline(party) => {
            parties::decline(pool, player, party).await?;
            return Ok(Party::left(party));
        }
        Deed::Leave => parties::leave(pool, player).await?,
        Deed::Kick(member) => parties::kick(pool, player, member).await?,
        Deed::Promote(member) => parties::promote(pool, player, member).await?,
        Deed::Disband => parties::disband(pool, player).await?,
    };
    hub.publish_told(&told);
    for ticket in tickets {
        hub.wake_leader(ticket, true);
    }
    Ok(party)
}
