//! `LeaderboardService`: ranks from memory, scores into rows before they are answered. And `LeaderboardAdminService`, in [`ops`].

mod ops;
mod settings;

use std::{sync::Arc, time::Duration};

use asobi_cluster::desk::Desk;
use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        CreateBoardRequest, CreateBoardResponse, DeleteBoardRequest, DeleteBoardResponse, GetBoardRequest,
        GetBoardResponse, GetStandingRequest, GetStandingResponse, LeaderboardEntry, ListAroundRequest,
        ListAroundResponse, ListBoardsRequest, ListBoardsResponse, ListCircleRequest, ListCircleResponse,
        ListPeriodsRequest, ListPeriodsResponse, ListTopRequest, ListTopResponse, RemoveEntryRequest,
        RemoveEntryResponse, ResetBoardRequest, ResetBoardResponse, SubmitClientScoreRequest,
        SubmitClientScoreResponse, SubmitScoreRequest, SubmitScoreResponse, UpdateBoardRequest, UpdateBoardResponse,
        leaderboard_admin_service_server::LeaderboardAdminService, leaderboard_service_server::LeaderboardService,
        list_circle_request::Circle,
    },
};
use asobi_service_kit::grpc::{Caller, invalid, status};
use asobi_store::{
    boards::{self as rows, Entry, ID_BYTES, Submission, Written},
    friends, groups, within,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    boards::{Board, Boards, Full, Writer},
    wire::{id, limit, timestamp, unavailable},
};

/// Players of a circle who are looked up at most.
const CIRCLE: usize = 10_000;

pub struct Leaderboards {
    pub boards: Arc<Boards>,
    pub writer: Writer,
    pub desk: Desk,
    /// Of one read.
    pub bound: Duration,
}

fn board_id(text: &str) -> Result<(), Status> {
    if text.is_empty() || text.len() > ID_BYTES || text.contains('\0') {
        return Err(status(ErrorCode::VALIDATION_FAILED, format!("leaderboard_id must have 1 to {ID_BYTES} bytes")));
    }
    Ok(())
}

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn wire(board: &str, rank: usize, entry: &Entry) -> LeaderboardEntry {
    LeaderboardEntry {
        leaderboard_id: board.to_owned(),
        player_id: entry.player_id.to_string(),
        score: entry.score,
        sub_score: entry.sub_score,
        rank: signed(rank),
        updated_at: timestamp(entry.updated_at),
        overall_rank: 0,
    }
}

fn wires(board: &str, entries: Option<Vec<(usize, Entry)>>) -> Vec<LeaderboardEntry> {
    entries.unwrap_or_default().iter().map(|(rank, entry)| wire(board, *rank, entry)).collect()
}

fn closed_to_clients() -> Status {
    status(ErrorCode::LEADERBOARD_CLIENT_SUBMIT_DISABLED, "This board takes scores from game servers only.")
}

/// What the player has now, or why the submission came to nothing.
fn stands(written: &Written) -> Result<Entry, Status> {
    Err(match written {
        Written::Changed(entry) | Written::Kept(entry) => return Ok(*entry),
        Written::NoRoom => status(ErrorCode::LEADERBOARD_CAPACITY_REACHED, "there is no room for another leaderboard"),
        Written::OutOfBounds => status(ErrorCode::VALIDATION_FAILED, "the score is not within the board's bounds"),
        Written::ClosedToClients => closed_to_clients(),
    })
}

fn submission(
    board: String,
    player_id: &str,
    (score, sub_score): (f64, f64),
    by_client: bool,
) -> Result<Submission, Status> {
    board_id(&board)?;
    let player_id = id(player_id, "player_id")?;
    Ok(Submission { board, player_id, score, sub_score, by_client })
}

fn is_finite(new: &Submission) -> Result<(), Status> {
    if new.score.is_finite() && new.sub_score.is_finite() {
        return Ok(());
    }
    Err(status(ErrorCode::VALIDATION_FAILED, "score and sub_score must be finite"))
}

impl Leaderboards {
    async fn submit(&self, submission: Submission) -> Result<LeaderboardEntry, Status> {
        let board = submission.board.clone();
        let written = match self.writer.submit(submission).await {
            Ok(Some(written)) => written,
            Ok(None) => return Err(status(ErrorCode::NOT_READY, "the score may not have been written")),
            Err(Full) => return Err(status(ErrorCode::NOT_READY, "too many scores wait to be written")),
        };
        let entry = stands(&written)?;
        let rank = self.boards.look(&board, |b| b.rank(&entry)).await.map_err(|e| unavailable(&e))?;
        // The board was just written to; without it the entry is alone.
        Ok(wire(&board, rank.unwrap_or(1), &entry))
    }

    /// Refuses what a client submits to a board that is not open, before it waits with the others. What is in memory may be old where it
    /// refuses; where it allows, the row has the last word.
    async fn open_to_clients(&self, board: &str) -> Result<(), Status> {
        if self.boards.glance(board, |b| b.head().client_submit) == Some(true) {
            return Ok(());
        }
        let open = within(self.bound, rows::client_submit(self.boards.pool(), board)).await;
        if open.map_err(|e| unavailable(&e))? == Some(true) { Ok(()) } else { Err(closed_to_clients()) }
    }

    async fn circle(&self, circle: Option<Circle>) -> Result<Vec<Uuid>, Status> {
        let pool = self.boards.pool();
        let mut players = match circle {
            Some(Circle::FriendsOf(player)) => {
                let player = id(&player, "friends_of")?;
                let friends = within(self.bound, friends::accepted_ids(pool, player)).await;
                let mut friends = friends.map_err(|e| unavailable(&e))?;
                friends.insert(0, player);
                friends
            }
            Some(Circle::GroupId(group)) => {
                let group = id(&group, "group_id")?;
                let most = i64::try_from(CIRCLE).unwrap_or(i64::MAX);
                let members = within(self.bound, async {
                    let found = groups::get(pool, group).await?;
                    Ok((found.is_some(), groups::members(pool, group, most).await?))
                });
                let (found, members) = members.await.map_err(|e| unavailable(&e))?;
                if !found {
                    return Err(status(ErrorCode::SOCIAL_GROUP_NOT_FOUND, "there is no such group"));
                }
                members.into_iter().map(|member| member.player_id).collect()
            }
            None => return Err(invalid("circle", "must be friends_of or group_id")),
        };
        players.truncate(CIRCLE);
        Ok(players)
    }
}

#[tonic::async_trait]
impl LeaderboardService for Leaderboards {
    async fn submit_score(
        &self,
        request: Request<SubmitScoreRequest>,
    ) -> Result<Response<SubmitScoreResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let scores = (request.score, request.sub_score);
        let new = submission(request.leaderboard_id.clone(), &request.player_id, scores, false)?;
        is_finite(&new)?;
        let entry = match request.request_id.as_str() {
            "" => Some(self.submit(new).await?),
            _ => self.submit_once(&caller, &request, new).await?,
        };
        Ok(Response::new(SubmitScoreResponse { entry }))
    }

    async fn submit_client_score(
        &self,
        request: Request<SubmitClientScoreRequest>,
    ) -> Result<Response<SubmitClientScoreResponse>, Status> {
        let SubmitClientScoreRequest { leaderboard_id: board, player_id, score, sub_score } = request.into_inner();
        let new = submission(board, &player_id, (score, sub_score), true)?;
        self.open_to_clients(&new.board).await?;
        is_finite(&new)?;
        let entry = self.submit(new).await?;
        Ok(Response::new(SubmitClientScoreResponse { entry: Some(entry) }))
    }

    async fn list_top(&self, request: Request<ListTopRequest>) -> Result<Response<ListTopResponse>, Status> {
        let ListTopRequest { leaderboard_id: board, limit: most, period } = request.into_inner();
        board_id(&board)?;
        let most = size(limit(most, 100, 100));
        let top = self.boards.look_at(&board, period, |b| b.at_rank(1, most)).await.map_err(|e| unavailable(&e))?;
        Ok(Response::new(ListTopResponse { entries: wires(&board, top) }))
    }

    async fn list_around(&self, request: Request<ListAroundRequest>) -> Result<Response<ListAroundResponse>, Status> {
        let ListAroundRequest { leaderboard_id: board, player_id, range, period } = request.into_inner();
        board_id(&board)?;
        let player = id(&player_id, "player_id")?;
        let range = size(limit(range, 5, 50));
        let around = self.boards.look_at(&board, period, |b| b.around(player, range)).await;
        Ok(Response::new(ListAroundResponse { entries: wires(&board, around.map_err(|e| unavailable(&e))?) }))
    }

    async fn get_standing(
        &self,
        request: Request<GetStandingRequest>,
    ) -> Result<Response<GetStandingResponse>, Status> {
        let GetStandingRequest { leaderboard_id: board, player_id, period } = request.into_inner();
        board_id(&board)?;
        let player = id(&player_id, "player_id")?;
        let see = |b: &Board| {
            let standing = b.entry(player).map(|entry| (b.rank(&entry), entry));
            let percentile = standing.map_or(0.0, |(rank, _)| b.percentile(rank));
            let entry = standing.map(|(rank, entry)| wire(&board, rank, &entry));
            GetStandingResponse { entry, total: signed(b.len()), percentile }
        };
        let standing = self.boards.look_at(&board, period, see).await.map_err(|e| unavailable(&e))?;
        Ok(Response::new(standing.unwrap_or_default()))
    }

    async fn list_circle(&self, request: Request<ListCircleRequest>) -> Result<Response<ListCircleResponse>, Status> {
        let ListCircleRequest { leaderboard_id: board, circle, limit: most, period } = request.into_inner();
        board_id(&board)?;
        let players = self.circle(circle).await?;
        let among = self.boards.look_at(&board, period, |b| b.among(&players)).await.map_err(|e| unavailable(&e))?;
        let ranked = among.unwrap_or_default().into_iter().take(size(limit(most, 100, 100))).enumerate();
        let entry = |(i, (overall, entry)): (usize, (usize, Entry))| LeaderboardEntry {
            overall_rank: signed(overall),
            ..wire(&board, i + 1, &entry)
        };
        Ok(Response::new(ListCircleResponse { entries: ranked.map(entry).collect() }))
    }

    async fn list_periods(&self, r: Request<ListPeriodsRequest>) -> Result<Response<ListPeriodsResponse>, Status> {
        self.periods(r).await
    }
}

#[tonic::async_trait]
impl LeaderboardAdminService for Leaderboards {
    async fn create_board(&self, r: Request<CreateBoardRequest>) -> Result<Response<CreateBoardResponse>, Status> {
        self.create(r).await.map(Response::new)
    }

    async fn update_board(&self, r: Request<UpdateBoardRequest>) -> Result<Response<UpdateBoardResponse>, Status> {
        self.update(r).await.map(Response::new)
    }

    async fn get_board(&self, r: Request<GetBoardRequest>) -> Result<Response<GetBoardResponse>, Status> {
        self.get(r).await
    }

    async fn list_boards(&self, r: Request<ListBoardsRequest>) -> Result<Response<ListBoardsResponse>, Status> {
        self.list(r).await
    }

    async fn delete_board(&self, r: Request<DeleteBoardRequest>) -> Result<Response<DeleteBoardResponse>, Status> {
        self.delete(r).await.map(Response::new)
    }

    async fn reset_board(&self, r: Request<ResetBoardRequest>) -> Result<Response<ResetBoardResponse>, Status> {
        self.reset(r).await.map(Response::new)
    }

    async fn remove_entry(&self, r: Request<RemoveEntryRequest>) -> Result<Response<RemoveEntryResponse>, Status> {
        self.remove(r).await.map(Response::new)
    }
}
