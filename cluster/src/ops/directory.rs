//! `asobi.ops.v1.PlayerDirectoryService`: who there is, from the rows.

use std::time::Duration;

use asobi_proto::{
    error::ErrorCode,
    ops_v1::{
        GetPlayerRequest, GetPlayerResponse, ListSessionsRequest, ListSessionsResponse, PlayerBan, PlayerParty,
        PlayerSeat, PlayerSession, PlayerSummary, PlayerTicket, SearchPlayersRequest, SearchPlayersResponse,
        player_directory_service_server::{PlayerDirectoryService, PlayerDirectoryServiceServer},
    },
};
use asobi_service_kit::grpc::status;
use asobi_store::{
    lookup::players::{self, Detail, Search, Session, Summary},
    within,
};
use sqlx::PgPool;
use tonic::{Request, Response, Status};

use super::lists::{id, next_token, optional_id, optional_text, page_after, page_size, page_token, timestamp, unread};

const DEADLINE: Duration = Duration::from_secs(4);
const PLAYERS: (i64, i64) = (50, 200);
const SESSIONS: (i64, i64) = (100, 1_000);
const NAME_BYTES: usize = 64;

pub(super) fn service(pool: PgPool) -> PlayerDirectoryServiceServer<impl PlayerDirectoryService> {
    PlayerDirectoryServiceServer::new(Players { pool })
}

struct Players {
    pool: PgPool,
}

#[tonic::async_trait]
impl PlayerDirectoryService for Players {
    async fn search_players(
        &self,
        request: Request<SearchPlayersRequest>,
    ) -> Result<Response<SearchPlayersResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, PLAYERS.0, PLAYERS.1)?;
        let prefix = optional_text(request.username_prefix, "username_prefix", NAME_BYTES)?;
        let search = Search {
            player_id: optional_id(&request.player_id, "player_id")?,
            prefix: prefix.unwrap_or_default(),
            online: request.online,
            after: page_token(&request.page_token)?.to_owned(),
        };
        let mut found = within(DEADLINE, players::search(&self.pool, &search, size + 1)).await.map_err(unread)?;
        let next_page_token = next_token(&mut found, size, |player| player.key.clone());
        Ok(Response::new(SearchPlayersResponse { players: found.into_iter().map(summary).collect(), next_page_token }))
    }

    async fn get_player(&self, request: Request<GetPlayerRequest>) -> Result<Response<GetPlayerResponse>, Status> {
        let player = id(&request.get_ref().player_id, "player_id")?;
        let found = within(DEADLINE, players::detail(&self.pool, player)).await.map_err(unread)?;
        let found = found.ok_or_else(|| status(ErrorCode::PLAYER_NOT_FOUND, "there is no such player"))?;
        Ok(Response::new(detail(found)))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, SESSIONS.0, SESSIONS.1)?;
        let (player, after) = (optional_id(&request.player_id, "player_id")?, page_after(&request.page_token)?);
        let node = optional_text(request.node_id, "node_id", NAME_BYTES)?;
        let reading = players::sessions(&self.pool, player, node.as_deref(), after, size + 1);
        let mut found = within(DEADLINE, reading).await.map_err(unread)?;
        let next_page_token = next_token(&mut found, size, |session| session.session_id.to_string());
        Ok(Response::new(ListSessionsResponse { sessions: found.into_iter().map(session).collect(), next_page_token }))
    }
}

fn summary(player: Summary) -> PlayerSummary {
    PlayerSummary {
        player_id: player.id.to_string(),
        username: player.username,
        display_name: player.display_name.unwrap_or_default(),
        guest: player.guest,
        online: player.online,
        banned: player.banned,
        created_at: Some(timestamp(player.inserted_at)),
    }
}

fn session(session: Session) -> PlayerSession {
    PlayerSession {
        session_id: session.session_id.to_string(),
        player_id: session.player_id.to_string(),
        node_id: session.node_id,
        incarnation: session.incarnation,
        status: session.status,
        connected_at: Some(timestamp(session.connected_at)),
        leaving: session.leaving,
    }
}

fn detail(found: Detail) -> GetPlayerResponse {
    let count = |n: i64| i32::try_from(n).unwrap_or(i32::MAX);
    GetPlayerResponse {
        player: Some(summary(found.player)),
        avatar_url: found.avatar_url.unwrap_or_default(),
        metadata_json: found.metadata.to_string(),
        updated_at: Some(timestamp(found.updated_at)),
        sessions: found.sessions.into_iter().map(session).collect(),
        ban: found.ban.map(|ban| PlayerBan {
            reason: ban.reason,
            until: ban.until.map(timestamp),
            banned_at: Some(timestamp(ban.banned_at)),
        }),
        seat: found.seat.map(|seat| PlayerSeat {
            match_id: seat.match_id.to_string(),
            mode: seat.mode,
            state: seat.state,
            host_node: seat.host_node,
            joined_at: Some(timestamp(seat.joined_at)),
            place: seat.place.unwrap_or_default(),
        }),
        tickets: found
            .tickets
            .into_iter()
            .map(|ticket| PlayerTicket {
                ticket_id: ticket.id.to_string(),
                mode: ticket.mode,
                submitted_at: Some(timestamp(ticket.submitted_at)),
                party_id: ticket.party_id.map(|id| id.to_string()).unwrap_or_default(),
            })
            .collect(),
        party: found.party.map(|party| PlayerParty {
            party_id: party.id.to_string(),
            leader_id: party.leader_id.to_string(),
            members: count(party.members),
        }),
        groups: count(found.groups),
        friends: count(found.friends),
        unread: count(found.unread),
    }
}
