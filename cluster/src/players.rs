//! What operators do to players: `asobi.ops.v1.PlayerService`, answered by every process. The rows decide; the nodes
//! that hold the player's sockets hear of it over the bus.

use std::time::Duration;

use asobi_bus::Publisher;
use asobi_proto::{
    bus::{RevokedItem, Topic},
    error::ErrorCode,
    ops_v1::{
        BanPlayerRequest, BanPlayerResponse, LogOutPlayerRequest, LogOutPlayerResponse, UnbanPlayerRequest,
        UnbanPlayerResponse,
        player_service_server::{PlayerService, PlayerServiceServer},
    },
};
use asobi_service_kit::grpc::status;
use asobi_store::{
    bans::{self, Ban, REASON_BYTES},
    tokens::Revocation,
    within,
};
use sqlx::PgPool;
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(5);

/// The service, to be added to a process's routes. `access_ttl`: how long access tokens live, on whichever node.
#[must_use]
pub fn service(pool: PgPool, publisher: Publisher, access_ttl: Duration) -> PlayerServiceServer<impl PlayerService> {
    PlayerServiceServer::new(Players { pool, publisher, access_ttl_s: access_ttl.as_secs_f64() })
}

struct Players {
    pool: PgPool,
    publisher: Publisher,
    access_ttl_s: f64,
}

#[tonic::async_trait]
impl PlayerService for Players {
    async fn ban_player(&self, request: Request<BanPlayerRequest>) -> Result<Response<BanPlayerResponse>, Status> {
        let request = request.into_inner();
        let player = player_id(&request.player_id)?;
        if request.reason.len() > REASON_BYTES || request.reason.contains('\0') {
            return Err(invalid(format!("the reason must be at most {REASON_BYTES} bytes of text")));
        }
        let ban = Ban { reason: request.reason, until: request.until.map(end).transpose()? };
        let banning = bans::ban(&self.pool, player, &ban, self.access_ttl_s);
        self.tell(found(within(DEADLINE, banning).await)?);
        tracing::info!(player.id = %player, until = ?ban.until, "A player was banned.");
        Ok(Response::new(BanPlayerResponse {}))
    }

    async fn unban_player(
        &self,
        request: Request<UnbanPlayerRequest>,
    ) -> Result<Response<UnbanPlayerResponse>, Status> {
        let player = player_id(&request.get_ref().player_id)?;
        found(within(DEADLINE, bans::unban(&self.pool, player)).await.map(|known| known.then_some(())))?;
        tracing::info!(player.id = %player, "A player's ban was lifted.");
        Ok(Response::new(UnbanPlayerResponse {}))
    }

    async fn log_out_player(
        &self,
        request: Request<LogOutPlayerRequest>,
    ) -> Result<Response<LogOutPlayerResponse>, Status> {
        let player = player_id(&request.get_ref().player_id)?;
        self.tell(found(within(DEADLINE, bans::log_out(&self.pool, player, self.access_ttl_s)).await)?);
        tracing::info!(player.id = %player, "A player was logged out by an operator.");
        Ok(Response::new(LogOutPlayerResponse {}))
    }
}

impl Players {
    /// A lost one is found by the nodes' own reads.
    fn tell(&self, revocation: Revocation) {
        if let Err(error) = self.publisher.publish(Topic::Revoked, &RevokedItem::from(revocation)) {
            tracing::warn!(%error, "A revocation was not published; nodes find it by reading.");
        }
    }
}

fn player_id(text: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| invalid("the player_id is no UUID"))
}

/// The end of a ban, as long as time stamps reach.
fn end(until: prost_types::Timestamp) -> Result<OffsetDateTime, Status> {
    let nanos = u32::try_from(until.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    OffsetDateTime::from_unix_timestamp(until.seconds)
        .ok()
        .zip(nanos)
        .and_then(|(second, nanos)| second.replace_nanosecond(nanos).ok())
        .ok_or_else(|| invalid("until is no time"))
}

fn invalid(message: impl Into<String>) -> Status {
    status(ErrorCode::INVALID_PAYLOAD, message)
}

fn found<T>(read: asobi_store::Result<Option<T>>) -> Result<T, Status> {
    match read {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(status(ErrorCode::PLAYER_NOT_FOUND, "there is no such player")),
        Err(error) => {
            tracing::warn!(%error, "What an operator asked could not be written.");
            Err(status(ErrorCode::NOT_READY, "the database does not answer"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_bans_are_times() {
        let at = |seconds, nanos| end(prost_types::Timestamp { seconds, nanos });
        assert_eq!(at(1_785_312_000, 5).ok().map(OffsetDateTime::unix_timestamp), Some(1_785_312_000));
        assert!(at(i64::MAX, 0).is_err() && at(0, -1).is_err() && at(0, 1_000_000_000).is_err());
    }
}
