//! `LeaderboardService`: ranks from memory, scores into rows before they are answered.

use std::sync::Arc;

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        LeaderboardEntry, ListAroundRequest, ListAroundResponse, ListTopRequest, ListTopResponse, SubmitScoreRequest,
        SubmitScoreResponse, leaderboard_service_server::LeaderboardService,
    },
};
use asobi_service_kit::grpc::status;
use asobi_store::boards::{Entry, ID_BYTES, Submission, Written};
use tonic::{Request, Response, Status};

use crate::{
    boards::{Boards, Full, Writer},
    wire::{id, limit, timestamp, unavailable},
};

pub struct Leaderboards {
    pub boards: Arc<Boards>,
    pub writer: Writer,
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

fn wire(board: &str, rank: usize, entry: &Entry) -> LeaderboardEntry {
    LeaderboardEntry {
        leaderboard_id: board.to_owned(),
        player_id: entry.player_id.to_string(),
        score: entry.score,
        sub_score: entry.sub_score,
        rank: i64::try_from(rank).unwrap_or(i64::MAX),
        updated_at: timestamp(entry.updated_at),
    }
}

#[tonic::async_trait]
impl LeaderboardService for Leaderboards {
    async fn submit_score(
        &self,
        request: Request<SubmitScoreRequest>,
    ) -> Result<Response<SubmitScoreResponse>, Status> {
        let request = request.into_inner();
        board_id(&request.leaderboard_id)?;
        let player_id = id(&request.player_id, "player_id")?;
        if !request.score.is_finite() || !request.sub_score.is_finite() {
            return Err(status(ErrorCode::VALIDATION_FAILED, "score and sub_score must be finite"));
        }
        let board = request.leaderboard_id;
        let submission =
            Submission { board: board.clone(), player_id, score: request.score, sub_score: request.sub_score };
        let written = match self.writer.submit(submission).await {
            Ok(Some(written)) => written,
            Ok(None) => return Err(status(ErrorCode::NOT_READY, "the score may not have been written")),
            Err(Full) => return Err(status(ErrorCode::NOT_READY, "too many scores wait to be written")),
        };
        let entry = match written {
            Written::Changed(entry) | Written::Kept(entry) => entry,
            Written::NoRoom => {
                return Err(status(
                    ErrorCode::LEADERBOARD_CAPACITY_REACHED,
                    "there is no room for another leaderboard",
                ));
            }
        };
        let rank = self.boards.look(&board, |b| b.rank(&entry)).await.map_err(|e| unavailable(&e))?;
        // The board was just written to; without it the entry is alone.
        let entry = wire(&board, rank.unwrap_or(1), &entry);
        Ok(Response::new(SubmitScoreResponse { entry: Some(entry) }))
    }

    async fn list_top(&self, request: Request<ListTopRequest>) -> Result<Response<ListTopResponse>, Status> {
        let request = request.into_inner();
        let board = request.leaderboard_id;
        board_id(&board)?;
        let limit = size(limit(request.limit, 100, 100));
        let top = self.boards.look(&board, |b| b.at_rank(1, limit)).await.map_err(|e| unavailable(&e))?;
        let entries = top.unwrap_or_default().iter().map(|(rank, entry)| wire(&board, *rank, entry)).collect();
        Ok(Response::new(ListTopResponse { entries }))
    }

    async fn list_around(&self, request: Request<ListAroundRequest>) -> Result<Response<ListAroundResponse>, Status> {
        let request = request.into_inner();
        let board = request.leaderboard_id;
        board_id(&board)?;
        let player = id(&request.player_id, "player_id")?;
        let range = size(limit(request.range, 5, 50));
        let around = self.boards.look(&board, |b| b.around(player, range)).await.map_err(|e| unavailable(&e))?;
        let entries = around.unwrap_or_default().iter().map(|(rank, entry)| wire(&board, *rank, entry)).collect();
        Ok(Response::new(ListAroundResponse { entries }))
    }
}
