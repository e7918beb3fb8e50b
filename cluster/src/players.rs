//! What operators do to players: `asobi.ops.v1.PlayerService`, answered by every process. The rows decide; the nodes
//! that hold the player's sockets hear of it over the bus.
//!
//! | what | the row | how nodes hear of it | when that is lost |
//! | --- | --- | --- | --- |
//! | ban, log-out, erasure | a revocation | its hint | they read: within a second in doubt, else within 15 s |
//! | kick | an event of the player's inbox | its hint | they read: at once after a doubt, else within 10 s |
//! | mute | the mute, under a version | a wake-up | they compare versions every few seconds |

mod export;
mod wire;

use std::{sync::Arc, time::Duration};

use asobi_bus::Publisher;
use asobi_proto::{
    bus::{InboxAction, InboxEvent, RevokedItem, Topic, WakeItem},
    ops_v1::{
        BanPlayerRequest, BanPlayerResponse, ErasePlayerRequest, ErasePlayerResponse, ExportPlayerRequest,
        KickPlayerRequest, KickPlayerResponse, ListMutesRequest, ListMutesResponse, LogOutPlayerRequest,
        LogOutPlayerResponse, MutePlayerRequest, MutePlayerResponse, UnbanPlayerRequest, UnbanPlayerResponse,
        UnmutePlayerRequest, UnmutePlayerResponse,
        player_service_server::{PlayerService, PlayerServiceServer},
    },
};
use asobi_service_kit::grpc::Caller;
use asobi_store::{
    bans::{self, Ban, REASON_BYTES},
    inbox,
    mutes::{self, CHANNEL_BYTES, NewMute},
    players,
    tokens::Revocation,
    within,
};
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use self::wire::{end, page_size, player_id, text, unavailable, unknown};
use crate::{
    desk::{Deed, Desk},
    erasure,
};

const DEADLINE: Duration = Duration::from_secs(5);
/// An erasure deletes in one transaction whatever there is of a player.
const ERASURE: Duration = Duration::from_secs(60);

/// The service, to be added to a process's routes. `access_ttl`: how long access tokens live, on whichever node.
#[must_use]
pub fn service(pool: PgPool, publisher: Publisher, access_ttl: Duration) -> PlayerServiceServer<impl PlayerService> {
    PlayerServiceServer::new(Players {
        desk: Desk::new(pool.clone(), DEADLINE),
        erasures: Desk::new(pool, ERASURE),
        publisher,
        access_ttl_s: access_ttl.as_secs_f64(),
        exports: Arc::new(Semaphore::new(export::AT_ONCE)),
    })
}

struct Players {
    desk: Desk,
    erasures: Desk,
    publisher: Publisher,
    access_ttl_s: f64,
    /// Full: whoever asks for one more is refused.
    exports: Arc<Semaphore>,
}

#[tonic::async_trait]
impl PlayerService for Players {
    async fn ban_player(&self, request: Request<BanPlayerRequest>) -> Result<Response<BanPlayerResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let player = player_id(&request.player_id)?;
        let reason = text("reason", &request.reason, REASON_BYTES)?.to_owned();
        let ban = Ban { reason, until: request.until.map(end).transpose()? };
        let deed = Deed {
            caller: &caller,
            action: "PlayerService/BanPlayer",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({"reason": ban.reason, "until": ban.until.map(wire::rfc3339)}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let banned = bans::ban(conn, player, &ban, self.access_ttl_s).await?;
            Ok(banned.map(|revocation| (BanPlayerResponse {}, revocation)).ok_or_else(unknown))
        });
        let did = did.await?;
        if let Some(revocation) = did.after {
            self.revoked(revocation);
            tracing::info!(player.id = %player, until = ?ban.until, "A player was banned.");
        }
        Ok(Response::new(did.answer))
    }

    async fn unban_player(
        &self,
        request: Request<UnbanPlayerRequest>,
    ) -> Result<Response<UnbanPlayerResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let player = player_id(&request.player_id)?;
        let deed = Deed {
            caller: &caller,
            action: "PlayerService/UnbanPlayer",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let known = bans::unban(conn, player).await?;
            Ok(known.then_some((UnbanPlayerResponse {}, ())).ok_or_else(unknown))
        });
        Ok(Response::new(did.await?.answer))
    }

    async fn log_out_player(
        &self,
        request: Request<LogOutPlayerRequest>,
    ) -> Result<Response<LogOutPlayerResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let player = player_id(&request.player_id)?;
        let deed = Deed {
            caller: &caller,
            action: "PlayerService/LogOutPlayer",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let ended = bans::log_out(conn, player, self.access_ttl_s).await?;
            Ok(ended.map(|revocation| (LogOutPlayerResponse {}, revocation)).ok_or_else(unknown))
        });
        let did = did.await?;
        if let Some(revocation) = did.after {
            self.revoked(revocation);
        }
        Ok(Response::new(did.answer))
    }

    async fn kick_player(&self, request: Request<KickPlayerRequest>) -> Result<Response<KickPlayerResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let player = player_id(&request.player_id)?;
        let reason = text("reason", &request.reason, REASON_BYTES)?.to_owned();
        let deed = Deed {
            caller: &caller,
            action: "PlayerService/KickPlayer",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({"reason": reason}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            if players::credentials(conn, player).await?.is_none() {
                return Ok(Err(unknown()));
            }
            let event = InboxEvent { frame: None, action: Some(InboxAction::Kicked { reason }) };
            let events = [(player, event)];
            let seqs = inbox::append(conn, &events).await?;
            Ok(Ok((KickPlayerResponse {}, events.into_iter().zip(seqs).next())))
        });
        let did = did.await?;
        if let Some(((player, event), seq)) = did.after.flatten() {
            asobi_bus::inbox::publish(&self.publisher, player, seq, &event);
            tracing::info!(player.id = %player, "A player was kicked.");
        }
        Ok(Response::new(did.answer))
    }

    async fn mute_player(&self, request: Request<MutePlayerRequest>) -> Result<Response<MutePlayerResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let player = player_id(&request.player_id)?;
        let channel_id = text("channel_id", &request.channel_id, CHANNEL_BYTES)?;
        let reason = text("reason", &request.reason, mutes::REASON_BYTES)?;
        let until = request.until.map(end).transpose()?;
        let muted_by = caller.to_string();
        let mute = NewMute { player_id: player, channel_id, reason, until, muted_by: &muted_by };
        let deed = Deed {
            caller: &caller,
            action: "PlayerService/MutePlayer",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({"channel_id": channel_id, "reason": reason, "until": until.map(wire::rfc3339)}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let known = mutes::mute(conn, mute).await?;
            Ok(known.then_some((MutePlayerResponse {}, ())).ok_or_else(unknown))
        });
        let did = did.await?;
        if did.after.is_some() {
            self.wake();
            tracing::info!(player.id = %player, channel.id = channel_id, ?until, "A player was muted.");
        }
        Ok(Response::new(did.answer))
    }

    async fn unmute_player(
        &self,
        request: Request<UnmutePlayerRequest>,
    ) -> Result<Response<UnmutePlayerResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let player = player_id(&request.player_id)?;
        let channel_id = text("channel_id", &request.channel_id, CHANNEL_BYTES)?;
        let deed = Deed {
            caller: &caller,
            action: "PlayerService/UnmutePlayer",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({"channel_id": channel_id}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let known = mutes::unmute(conn, player, channel_id).await?;
            Ok(known.then_some((UnmutePlayerResponse {}, ())).ok_or_else(unknown))
        });
        let did = did.await?;
        if did.after.is_some() {
            self.wake();
        }
        Ok(Response::new(did.answer))
    }

    async fn list_mutes(&self, request: Request<ListMutesRequest>) -> Result<Response<ListMutesResponse>, Status> {
        let request = request.into_inner();
        let player = match request.player_id.as_str() {
            "" => None,
            id => Some(player_id(id)?),
        };
        let after = wire::mutes_after(&request.page_token)?;
        let limit = page_size(request.page_size, 100, 500)?;
        let after = after.as_ref().map(|(player, channel)| (*player, channel.as_str()));
        let page = mutes::list(self.desk.pool(), player, after, limit);
        let page = within(DEADLINE, page).await.map_err(|error| unavailable(&error))?;
        let full = i64::try_from(page.len()).is_ok_and(|n| n >= limit);
        let next_page_token = page.last().filter(|_| full).map(wire::mutes_token).unwrap_or_default();
        Ok(Response::new(ListMutesResponse { mutes: page.into_iter().map(wire::mute).collect(), next_page_token }))
    }

    async fn erase_player(
        &self,
        request: Request<ErasePlayerRequest>,
    ) -> Result<Response<ErasePlayerResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let player = player_id(&request.player_id)?;
        let deed = Deed {
            caller: &caller,
            action: "PlayerService/ErasePlayer",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({}),
        };
        if let Some(answer) = self.erasures.before(&deed, &request).await? {
            return Ok(Response::new(answer));
        }
        let leaving = erasure::leave_party(self.erasures.pool(), &self.publisher, player);
        within(DEADLINE, leaving).await.map_err(|error| unavailable(&error))?;
        let did = self.erasures.once(deed, &request, async |conn| {
            let ended = erasure::erase(conn, player, self.access_ttl_s).await?;
            Ok(ended.map(|ended| (ErasePlayerResponse {}, ended)).ok_or_else(unknown))
        });
        let did = did.await?;
        if let Some(ended) = did.after {
            self.revoked(ended.revocation);
            erasure::withdrawn(&self.publisher, ended.tickets);
            tracing::info!(player.id = %player, "A player was erased by an operator.");
        }
        Ok(Response::new(did.answer))
    }

    type ExportPlayerStream = export::Records;

    async fn export_player(
        &self,
        request: Request<ExportPlayerRequest>,
    ) -> Result<Response<Self::ExportPlayerStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let player = player_id(&request.player_id)?;
        let permit = Arc::clone(&self.exports).try_acquire_owned().map_err(|_| export::too_many())?;
        let there = within(DEADLINE, players::get(self.desk.pool(), player)).await;
        there.map_err(|error| unavailable(&error))?.ok_or_else(unknown)?;
        let deed = Deed {
            caller: &caller,
            action: "PlayerService/ExportPlayer",
            request_id: "",
            subject: player.to_string(),
            detail: json!({}),
        };
        self.desk.record(deed, &request, ()).await?;
        Ok(Response::new(export::records(self.desk.pool().clone(), player, permit)))
    }
}

impl Players {
    /// A lost one is found by the nodes' own reads.
    fn revoked(&self, revocation: Revocation) {
        if let Err(error) = self.publisher.publish(Topic::Revoked, &RevokedItem::from(revocation)) {
            tracing::warn!(%error, "A revocation was not published; nodes find it by reading.");
        }
    }

    /// Has the nodes read what changed; whom that does not reach finds it a moment later.
    fn wake(&self) {
        let _ = self.publisher.publish(Topic::Moderation, &WakeItem {});
    }
}
