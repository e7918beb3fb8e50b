//! `match.find_or_create`: simultaneous callers land in one match, on whatever node they are. They take turns at the rows,
//! per mode; whoever finds nothing to join makes the row and calls the least loaded host, the others wait for it.

use std::{sync::Arc, time::Duration};

use asobi_proto::match_v1::{CreateMatchRequest, match_host_service_client::MatchHostServiceClient};
use asobi_service_kit::{grpc, telemetry};
use asobi_store::{
    matches::{self, LiveSeat, QuickPlay},
    modes, within,
};
use tokio::time::Instant;

use crate::{
    frames::{Asker, report},
    hub::Hub,
    link::LinkError,
    seat,
};

const DEADLINE: Duration = Duration::from_secs(3);
/// How long a caller is willing to wait for a match that another one is making.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(40);

pub(crate) async fn find_or_create(hub: &Arc<Hub>, asker: &Asker, mode: &str) {
    let Some(player) = asker.conn.player() else { return };
    let Some(settings) = hub.modes().get(mode).await else {
        return asker.error("unknown_mode", "There is no such mode.");
    };
    if !settings.quick_play {
        return asker.error("quick_play_disabled", "This mode has no quick play.");
    }
    let held = match within(DEADLINE, matches::live_of(&hub.pool, player)).await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "A player's match could not be looked up.");
            return asker.not_ready();
        }
    };
    asker.conn.outbox.hold();
    match held {
        Some(held) if held.mode == mode => {
            let attached = seat::attach(hub, &asker.conn, (&held).into()).await;
            report(hub, asker, attached);
        }
        Some(_) => asker.error("already_in_match", "You are in another match."),
        None => look(hub, asker, mode).await,
    }
    asker.conn.outbox.release();
}

async fn look(hub: &Arc<Hub>, asker: &Asker, mode: &str) {
    let until = Instant::now() + PATIENCE;
    let mut failures = 0_usize;
    while Instant::now() < until {
        let step = within(DEADLINE, async {
            let hosts = modes::hosts(&hub.pool, mode).await?;
            // After a host that failed the next one is tried.
            let Some((node, incarnation)) = hosts.get(failures % hosts.len().max(1)) else {
                // Hosts that are full take no new match; those they have may have seats.
                return Ok(matches::with_a_free_seat(&hub.pool, mode).await?.map(QuickPlay::Found));
            };
            Ok(Some(matches::quick_play(&hub.pool, mode, (node.as_str(), *incarnation)).await?))
        })
        .await;
        let live = match step {
            Ok(Some(QuickPlay::Found(live))) => live,
            Ok(Some(QuickPlay::Formed(live))) => {
                if !create(hub, &live).await {
                    failures += 1;
                    continue;
                }
                live
            }
            Ok(Some(QuickPlay::Forming(_))) => {
                tokio::time::sleep(LOOK_AGAIN.mul_f64(rand::random_range(0.7..1.3))).await;
                continue;
            }
            Ok(None) => return asker.not_ready(),
            Err(error) => {
                tracing::warn!(%error, mode, "Quick play could not look for a match.");
                return asker.not_ready();
            }
        };
        match seat::join(hub, &asker.conn, (&live).into(), String::new()).await {
            // Somebody was faster, or its listing is a moment old.
            Err(LinkError::Refused { reason, .. })
                if ["match_full", "match_locked", "match_not_found"].contains(&reason.as_str()) =>
            {
                tokio::time::sleep(LOOK_AGAIN.mul_f64(rand::random_range(0.7..1.3))).await;
            }
            attached => return report(hub, asker, attached),
        }
    }
    asker.not_ready();
}

/// Calls the host. When it does not take the match, the row is given up so that nobody waits for it.
async fn create(hub: &Hub, live: &LiveSeat) -> bool {
    let Some(addr) =
        hub.directory.incarnation(&live.host_node, live.host_incarnation).and_then(|host| host.grpc_addr.clone())
    else {
        return abandon(hub, live).await;
    };
    let request = CreateMatchRequest {
        teams: Vec::new(),
        match_id: live.match_id.to_string(),
        mode: live.mode.clone(),
        epoch: live.epoch,
        term: 0,
        host_incarnation: live.host_incarnation,
        players: Vec::new(),
        restore: false,
        traceparent: telemetry::traceparent().unwrap_or_default(),
    };
    let mut client = MatchHostServiceClient::new(hub.channels.get(&addr));
    let deadline = hub.config.matchmaker.create_timeout();
    let calling = client.create_match(grpc::with_deadline(request, deadline));
    match tokio::time::timeout(deadline, calling).await {
        Ok(Ok(_)) => true,
        Ok(Err(status)) => {
            tracing::warn!(%status, match.id = %live.match_id, host.id = live.host_node, "A host did not take a match.");
            abandon(hub, live).await
        }
        Err(_) => {
            tracing::warn!(match.id = %live.match_id, host.id = live.host_node, "A host did not answer in time.");
            abandon(hub, live).await
        }
    }
}

/// True when the host has claimed the match after all.
async fn abandon(hub: &Hub, live: &LiveSeat) -> bool {
    match within(DEADLINE, matches::abandon(&hub.pool, live.match_id)).await {
        Ok(gone) => !gone && matches!(within(DEADLINE, matches::live(&hub.pool, live.match_id)).await, Ok(Some(_))),
        Err(error) => {
            tracing::warn!(%error, match.id = %live.match_id, "A match that nobody took could not be given up; it counts as lost in some seconds.");
            false
        }
    }
}
