//! What operators do to boards: once per request id, with an entry in the audit, then in memory and on the bus.

use asobi_cluster::desk::{Deed, Did};
use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        BoardSettings, CreateBoardRequest, CreateBoardResponse, DeleteBoardRequest, DeleteBoardResponse,
        GetBoardRequest, GetBoardResponse, LeaderboardEntry, ListBoardsRequest, ListBoardsResponse, ListPeriodsRequest,
        ListPeriodsResponse, RemoveEntryRequest, RemoveEntryResponse, ResetBoardRequest, ResetBoardResponse,
        SubmitScoreRequest, SubmitScoreResponse, UpdateBoardRequest, UpdateBoardResponse,
    },
};
use asobi_service_kit::grpc::{Caller, invalid, refusal, status};
use asobi_store::{
    boards::{self, NewBoard, Submission, Wrote},
    within,
};
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use super::{Leaderboards, board_id, settings, signed, stands, wire};
use crate::{
    boards::Board,
    wire::{id, limit, unavailable},
};

/// Boards or periods of one page.
const PAGE: i32 = 100;
const PAGE_MOST: i32 = 1_000;

fn no_board(id: &str) -> Status {
    status(ErrorCode::OPS_NOT_FOUND, format!("there is no leaderboard {id:?}"))
}

/// What the audit keeps of settings: all that was given.
fn detail(given: &BoardSettings, fields: &[&str]) -> Value {
    json!({
        "title": given.title,
        "order": given.order().as_str_name(),
        "operator": given.operator().as_str_name(),
        "reset_schedule": given.reset_schedule,
        "min_score": given.min_score,
        "max_score": given.max_score,
        "client_submit": given.client_submit,
        "periods_kept": given.periods_kept,
        "fields": fields,
    })
}

impl Leaderboards {
    pub(super) async fn create(&self, request: Request<CreateBoardRequest>) -> Result<CreateBoardResponse, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        board_id(&request.leaderboard_id)?;
        let given = request.settings.clone().unwrap_or_default();
        let deed = Deed {
            caller: &caller,
            action: "LeaderboardAdminService/CreateBoard",
            request_id: &request.request_id,
            subject: request.leaderboard_id.clone(),
            detail: detail(&given, &[]),
        };
        let new = NewBoard { id: request.leaderboard_id.clone(), settings: settings::read(given)? };
        let did = self.desk.once(deed, &request, async |conn| {
            Ok(match boards::create(conn, &new).await? {
                Some(board) => Ok((CreateBoardResponse { board: Some(settings::board(&board)) }, ())),
                None => Err(refusal("board_exists", "there is a leaderboard of that id; update it instead")),
            })
        });
        self.told(&request.leaderboard_id, did.await?).await
    }

    pub(super) async fn update(&self, request: Request<UpdateBoardRequest>) -> Result<UpdateBoardResponse, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        board_id(&request.leaderboard_id)?;
        let given = request.settings.clone().unwrap_or_default();
        let fields = settings::fields(request.update_mask.clone())?;
        let deed = Deed {
            caller: &caller,
            action: "LeaderboardAdminService/UpdateBoard",
            request_id: &request.request_id,
            subject: request.leaderboard_id.clone(),
            detail: detail(&given, &fields),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let changed = boards::update(conn, &request.leaderboard_id, |old| settings::change(old, &given, &fields));
            Ok(changed.await?.and_then(|board| match board {
                Some(board) => Ok((UpdateBoardResponse { board: Some(settings::board(&board)) }, ())),
                None => Err(no_board(&request.leaderboard_id)),
            }))
        });
        self.told(&request.leaderboard_id, did.await?).await
    }

    pub(super) async fn delete(&self, request: Request<DeleteBoardRequest>) -> Result<DeleteBoardResponse, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        board_id(&request.leaderboard_id)?;
        let deed = Deed {
            caller: &caller,
            action: "LeaderboardAdminService/DeleteBoard",
            request_id: &request.request_id,
            subject: request.leaderboard_id.clone(),
            detail: json!({}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let deleted = boards::delete(conn, &request.leaderboard_id).await?;
            Ok(if deleted { Ok((DeleteBoardResponse {}, ())) } else { Err(no_board(&request.leaderboard_id)) })
        });
        self.told(&request.leaderboard_id, did.await?).await
    }

    pub(super) async fn reset(&self, request: Request<ResetBoardRequest>) -> Result<ResetBoardResponse, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        board_id(&request.leaderboard_id)?;
        let deed = Deed {
            caller: &caller,
            action: "LeaderboardAdminService/ResetBoard",
            request_id: &request.request_id,
            subject: request.leaderboard_id.clone(),
            detail: json!({}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let period = boards::reset(conn, &request.leaderboard_id).await?;
            Ok(period
                .map(|period| (ResetBoardResponse { period }, ()))
                .ok_or_else(|| no_board(&request.leaderboard_id)))
        });
        self.told(&request.leaderboard_id, did.await?).await
    }

    pub(super) async fn remove(&self, request: Request<RemoveEntryRequest>) -> Result<RemoveEntryResponse, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        board_id(&request.leaderboard_id)?;
        let player = id(&request.player_id, "player_id")?;
        let deed = Deed {
            caller: &caller,
            action: "LeaderboardAdminService/RemoveEntry",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({"board": request.leaderboard_id, "period": request.period}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let removed = boards::remove_entry(conn, &request.leaderboard_id, player, request.period).await?;
            Ok(removed
                .map(|entry| {
                    let entry = Some(wire(&request.leaderboard_id, 0, &entry));
                    (RemoveEntryResponse { entry }, ())
                })
                .ok_or_else(|| status(ErrorCode::OPS_NOT_FOUND, "the player is not on that leaderboard")))
        });
        self.told(&request.leaderboard_id, did.await?).await
    }

    /// A score of an operator's own service, once.
    pub(super) async fn submit_once(
        &self,
        caller: &Caller,
        request: &SubmitScoreRequest,
        new: Submission,
    ) -> Result<Option<LeaderboardEntry>, Status> {
        let (board, player) = (new.board.clone(), new.player_id);
        let deed = Deed {
            caller,
            action: "LeaderboardService/SubmitScore",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({"board": board, "score": new.score, "sub_score": new.sub_score}),
        };
        let did = self.desk.once(deed, request, async |conn| {
            let Wrote { outcomes, reset } = boards::write(conn, std::slice::from_ref(&new)).await?;
            Ok(outcomes.into_iter().next().map_or_else(
                || Err(status(ErrorCode::INTERNAL, "a score came to nothing")),
                |written| {
                    let entry = Some(wire(&board, 0, &stands(&written)?));
                    Ok((SubmitScoreResponse { entry }, (written, reset)))
                },
            ))
        });
        let did = did.await?;
        if let Some((written, reset)) = did.after {
            for id in &reset {
                self.boards.changed(id).await;
            }
            self.boards.written([(new, written)]);
        }
        let rank = self.boards.look(&board, |b| b.entry(player).map(|entry| b.rank(&entry))).await;
        let rank = rank.map_err(|e| unavailable(&e))?.flatten().map_or(1, signed);
        Ok(did.answer.entry.map(|entry| LeaderboardEntry { rank, ..entry }))
    }

    /// What was done a moment ago is so in memory, and the others hear of it.
    async fn told<A>(&self, board: &str, did: Did<A, ()>) -> Result<A, Status> {
        if did.after.is_some() {
            self.boards.changed(board).await;
        }
        Ok(did.answer)
    }

    pub(super) async fn get(&self, request: Request<GetBoardRequest>) -> Result<Response<GetBoardResponse>, Status> {
        let board = request.into_inner().leaderboard_id;
        board_id(&board)?;
        let pool = self.boards.pool();
        let row = within(self.bound, boards::get(pool, &board)).await.map_err(|e| unavailable(&e))?;
        let row = row.ok_or_else(|| no_board(&board))?;
        let entries = self.boards.look(&board, Board::len).await.map_err(|e| unavailable(&e))?;
        let entries = signed(entries.unwrap_or_default());
        Ok(Response::new(GetBoardResponse { board: Some(settings::board(&row)), entries }))
    }

    pub(super) async fn list(
        &self,
        request: Request<ListBoardsRequest>,
    ) -> Result<Response<ListBoardsResponse>, Status> {
        let ListBoardsRequest { page_size, page_token } = request.into_inner();
        if page_token.contains('\0') {
            return Err(invalid("page_token", "is none that was given out"));
        }
        let most = limit(page_size, PAGE, PAGE_MOST);
        let pool = self.boards.pool();
        let rows = within(self.bound, boards::list(pool, &page_token, most.into())).await;
        let rows = rows.map_err(|e| unavailable(&e))?;
        let full = i32::try_from(rows.len()).unwrap_or(i32::MAX) >= most;
        let next_page_token = rows.last().filter(|_| full).map(|board| board.id.clone()).unwrap_or_default();
        Ok(Response::new(ListBoardsResponse { boards: rows.iter().map(settings::board).collect(), next_page_token }))
    }

    pub(super) async fn periods(
        &self,
        request: Request<ListPeriodsRequest>,
    ) -> Result<Response<ListPeriodsResponse>, Status> {
        let ListPeriodsRequest { leaderboard_id, page_size, page_token } = request.into_inner();
        board_id(&leaderboard_id)?;
        let below = match page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| invalid("page_token", "is none that was given out"))?),
        };
        let most = limit(page_size, PAGE, PAGE_MOST);
        let read = within(self.bound, async {
            let pool = self.boards.pool();
            let board = boards::get(pool, &leaderboard_id).await?;
            Ok((board, boards::list_periods(pool, &leaderboard_id, below, most.into()).await?))
        });
        let (board, rows) = read.await.map_err(|e| unavailable(&e))?;
        let current = board.ok_or_else(|| no_board(&leaderboard_id))?.period;
        let full = i32::try_from(rows.len()).unwrap_or(i32::MAX) >= most;
        let next_page_token = rows.last().filter(|_| full).map(|row| row.period.to_string()).unwrap_or_default();
        let periods = rows.iter().map(settings::period).collect();
        Ok(Response::new(ListPeriodsResponse { periods, next_page_token, current }))
    }
}
