//! `match.*`.

use std::{sync::Arc, time::Duration};

use asobi_store::{
    matches::{self, ListFilter, LiveSeat},
    within,
};
use serde_json::{Value, json, value::RawValue};
use uuid::Uuid;

use super::{Asker, Call, Work, ctx, fields, input as inputs};
use crate::{
    conn::limits::joins_share,
    hub::Hub,
    link::LinkError,
    quick_play,
    seat::{self, Attached},
};

const DEADLINE: Duration = Duration::from_secs(3);
/// How often a client is told that its inputs go nowhere.
const NOT_IN_MATCH_EVERY: Duration = Duration::from_secs(5);

pub(super) fn list(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let filter = match filter(&payload) {
        Ok(filter) => filter,
        Err(reason) => {
            call.error(reason, "A filter is of the wrong type.");
            return None;
        }
    };
    let (hub, asker) = (Arc::clone(call.hub), call.asker());
    Some(Box::pin(async move {
        match within(DEADLINE, matches::list_live(&hub.pool, &filter)).await {
            Ok(listings) => {
                let listings: Vec<Value> = listings
                    .iter()
                    .map(|l| {
                        json!({"match_id": l.match_id, "mode": l.mode, "status": l.status, "player_count": l.player_count,
                               "max_players": l.max_players, "joinable": l.joinable})
                    })
                    .collect();
                asker.reply("match.list", json!({"matches": listings}));
            }
            Err(error) => {
                tracing::warn!(%error, "The live matches could not be read.");
                asker.not_ready();
            }
        }
    }))
}

fn filter(payload: &serde_json::Map<String, Value>) -> Result<ListFilter, &'static str> {
    Ok(ListFilter {
        mode: fields::optional(payload, "mode").map_err(|()| "invalid_mode_filter")?,
        has_capacity: fields::optional(payload, "has_capacity").map_err(|()| "invalid_has_capacity_filter")?,
        joinable: fields::optional(payload, "joinable").map_err(|()| "invalid_joinable_filter")?,
    })
}

pub(super) fn join(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let Some(match_id) = fields::text(&payload, "match_id") else {
        call.missing("match_id");
        return None;
    };
    let ctx = match ctx::check(&payload) {
        Ok(ctx) => ctx,
        Err(reason) => {
            call.error(reason, "The ctx is a flat object of few small values.");
            return None;
        }
    };
    if !may_join(call) {
        return None;
    }
    let Ok(match_id) = Uuid::try_parse(match_id) else {
        call.error("match_not_found", "There is no such match.");
        return None;
    };
    let (hub, asker) = (Arc::clone(call.hub), call.asker());
    Some(Box::pin(async move { take_seat(&hub, &asker, match_id, ctx).await }))
}

/// Counts a join against the player's rate.
fn may_join(call: &Call<'_>) -> bool {
    let Some(player) = call.conn.player() else { return false };
    let limit = joins_share(call.hub.config.limits.joins_per_minute, call.hub.directory.gateways());
    let allowed = call.hub.joins.allows(player, limit, std::time::Instant::now());
    if !allowed {
        call.error("join_rate_limited", "Too many joins: wait a moment.");
    }
    allowed
}

async fn take_seat(hub: &Arc<Hub>, asker: &Asker, match_id: Uuid, ctx: String) {
    let Some(player) = asker.conn.player() else { return };
    let looked = tokio::join!(
        within(DEADLINE, matches::live_of(&hub.pool, player)),
        within(DEADLINE, matches::live(&hub.pool, match_id))
    );
    let (held, wanted) = match looked {
        (Ok(held), Ok(wanted)) => (held, wanted),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, match.id = %match_id, "A match could not be looked up.");
            return asker.not_ready();
        }
    };
    match (held, wanted) {
        (Some(held), _) if held.match_id == match_id => answer(hub, asker, &held, None).await,
        (Some(_), _) => asker.error("already_in_match", "You are in another match."),
        (None, Some(wanted)) => answer(hub, asker, &wanted, Some(ctx)).await,
        (None, None) => asker.error("match_not_found", "There is no such match."),
    }
}

/// Attaches, or takes a seat where a ctx is given, and answers.
async fn answer(hub: &Arc<Hub>, asker: &Asker, live: &LiveSeat, ctx: Option<String>) {
    asker.conn.outbox.hold();
    let attached = match ctx {
        Some(ctx) => seat::join(hub, &asker.conn, live.into(), ctx).await,
        None => seat::attach(hub, &asker.conn, live.into()).await,
    };
    report(hub, asker, attached);
    asker.conn.outbox.release();
}

/// Answers a join that went through or did not.
pub(crate) fn report(hub: &Hub, asker: &Asker, attached: Result<Attached, LinkError>) {
    match attached {
        Ok(Attached { view, at }) => {
            match RawValue::from_string(view) {
                Ok(view) => asker.reply("match.joined", view),
                Err(error) => {
                    tracing::error!(%error, match.id = %at.match_id, "A host's view of a match is no JSON.");
                    asker.error("internal", "The match cannot be shown.");
                }
            }
            seat::offer_migration(hub, &asker.conn, &at, "joined");
        }
        Err(error) => refuse(asker, &error),
    }
}

fn refuse(asker: &Asker, error: &LinkError) {
    use asobi_proto::frame::ErrorFrame;
    match error {
        LinkError::Refused { reason, refused_reason } => {
            let mut frame = ErrorFrame::for_reason(reason, "The match refuses you.");
            if let Some(own) = refused_reason {
                frame = frame.detail("refused_reason", own.as_str());
            }
            asker.refuse(frame);
        }
        LinkError::Unavailable => asker.not_ready(),
        LinkError::Full => asker.error("rate_limited", "Too much waits for the match."),
    }
}

pub(super) fn find_or_create(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let Some(mode) = fields::text(&payload, "mode") else {
        call.missing("mode");
        return None;
    };
    if !may_join(call) {
        return None;
    }
    let (hub, asker, mode) = (Arc::clone(call.hub), call.asker(), mode.to_owned());
    Some(Box::pin(async move { quick_play::find_or_create(&hub, &asker, &mode).await }))
}

pub(super) fn leave(call: &Call<'_>) -> Option<Work> {
    let Some(seat) = call.conn.seat() else {
        call.reply("match.left", json!({"success": true}));
        return None;
    };
    let (hub, asker) = (Arc::clone(call.hub), call.asker());
    Some(Box::pin(async move {
        match seat::leave(&hub, &asker.conn, seat.match_id).await {
            Ok(()) | Err(LinkError::Refused { .. }) => {
                // The match's chat is its players'.
                super::chat::forget(&hub, &asker.conn, &format!("match:{}", seat.match_id));
                asker.reply("match.left", json!({"success": true}));
            }
            Err(LinkError::Unavailable) => asker.not_ready(),
            Err(LinkError::Full) => asker.error("rate_limited", "Too much waits for the match."),
        }
    }))
}

pub(super) fn input(call: &Call<'_>) -> Option<Work> {
    let Ok(payload) = inputs::unwrapped(call.payload) else {
        call.error("invalid_payload", "data is neither an object nor the text of one.");
        return None;
    };
    match call.conn.input(payload) {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            metrics::counter!("asobi_session_frames_dropped_total", "reason" => "input").increment(1);
            if call.cid.is_some() {
                refuse(&call.asker(), &error);
            }
        }
        None => {
            let told = call.conn.local().not_in_match.allows(NOT_IN_MATCH_EVERY, std::time::Instant::now());
            // Whoever waits for a cid is answered each time.
            if call.cid.is_some() || told {
                call.asker().typed().error("not_in_match", "You are in no match.");
            }
        }
    }
    None
}
