//! `asobi.ops.v1.MatchService`: what the rows say of matches, and what their hosts do with them.

use std::{sync::Arc, time::Duration};

use asobi_proto::{
    match_v1::{self, match_host_service_client::MatchHostServiceClient},
    ops_v1::{
        EndHostedMatchRequest, EndMatchRequest, EndMatchResponse, GetMatchRequest, GetMatchResponse,
        InspectHostedMatchRequest, InspectMatchRequest, InspectMatchResponse, ListMatchesRequest, ListMatchesResponse,
        Match, MatchCheckpoint, MatchListing, MatchSeat, MatchState, MoveMatchRequest, MoveMatchResponse,
        WatchMatchRequest,
        match_service_server::{MatchService, MatchServiceServer},
    },
};
use asobi_service_kit::grpc::{Caller, invalid, refusal, with_deadline};
use asobi_store::{
    lookup::matches::{self, Detail, Line, Wanted},
    within,
};
use serde_json::{Map, Value, json};
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use super::{
    hosted::{self, Hosting, Hosts},
    lists::{id, next_token, optional_id, optional_text, page_after, page_size, timestamp, unread},
    watch::{self, Watch, Watching},
};
use crate::desk::{Deed, Desk};

const DEADLINE: Duration = Duration::from_secs(4);
/// How long a host may take for what operators ask of a match, all tries together: shorter than the tools wait.
const ASK: Duration = Duration::from_millis(4_500);
const MATCHES: (i64, i64) = (50, 200);
const NAME_BYTES: usize = 64;
/// What is told to players.
const REASON_BYTES: usize = 256;
const RESULT_BYTES: usize = 16 * 1024;
/// Matches that are watched through one process at the same time; more are refused.
const WATCHERS: usize = 128;

/// `draining` ends the streams.
pub(super) fn service(
    pool: PgPool,
    hosts: Hosts,
    desk: Desk,
    draining: CancellationToken,
) -> MatchServiceServer<impl MatchService> {
    MatchServiceServer::new(Matches { pool, hosts, desk, draining, watchers: Arc::new(Semaphore::new(WATCHERS)) })
}

struct Matches {
    pool: PgPool,
    hosts: Hosts,
    desk: Desk,
    draining: CancellationToken,
    watchers: Arc<Semaphore>,
}

#[tonic::async_trait]
impl MatchService for Matches {
    async fn list_matches(
        &self,
        request: Request<ListMatchesRequest>,
    ) -> Result<Response<ListMatchesResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, MATCHES.0, MATCHES.1)?;
        let wanted = wanted(request)?;
        let mut found = within(DEADLINE, matches::list(&self.pool, &wanted, size + 1)).await.map_err(unread)?;
        let next_page_token = next_token(&mut found, size, |line| line.id.to_string());
        Ok(Response::new(ListMatchesResponse { matches: found.into_iter().map(line).collect(), next_page_token }))
    }

    async fn get_match(&self, request: Request<GetMatchRequest>) -> Result<Response<GetMatchResponse>, Status> {
        let match_id = id(&request.get_ref().match_id, "match_id")?;
        let found = within(DEADLINE, matches::detail(&self.pool, match_id)).await.map_err(unread)?;
        let found = found.ok_or_else(not_found)?;
        Ok(Response::new(detail(found)))
    }

    async fn inspect_match(
        &self,
        request: Request<InspectMatchRequest>,
    ) -> Result<Response<InspectMatchResponse>, Status> {
        let request = request.into_inner();
        let match_id = id(&request.match_id, "match_id")?;
        optional_id(&request.player_id, "player_id")?;
        let asked = InspectHostedMatchRequest { match_id: match_id.to_string(), player_id: request.player_id.clone() };
        let ask = |host: Hosting| {
            let asked = with_deadline(asked.clone(), ASK);
            async move { host.client().inspect_hosted_match(asked).await.map(Response::into_inner) }
        };
        let answer = self.hosts.ask(&self.pool, match_id, ASK, ask).await?;
        Ok(Response::new(InspectMatchResponse { inspection: answer.inspection }))
    }

    type WatchMatchStream = Watch;

    async fn watch_match(&self, request: Request<WatchMatchRequest>) -> Result<Response<Watch>, Status> {
        let request = request.into_inner();
        let match_id = id(&request.match_id, "match_id")?;
        optional_id(&request.player_id, "player_id")?;
        let place = Arc::clone(&self.watchers).try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted("too many matches are watched through this node"))?;
        // Whether there is such a match is known before the stream begins.
        let row = hosted::row(&self.pool, match_id).await?;
        let watching = Watching::new(self.pool.clone(), self.hosts.clone(), match_id, request, row, place);
        Ok(Response::new(watch::stream(watching, self.draining.clone())))
    }

    async fn end_match(&self, request: Request<EndMatchRequest>) -> Result<Response<EndMatchResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let match_id = id(&request.match_id, "match_id")?;
        let result = result(&request)?;
        let detail = json!({"reason": request.reason});
        let deed = |detail| deed(&caller, "MatchService/EndMatch", &request.request_id, match_id, detail);
        if let Some(answer) = self.desk.before(&deed(detail.clone()), &request).await? {
            return Ok(Response::new(answer));
        }
        let answer = self.end(match_id, result).await?;
        let detail = json!({"reason": request.reason, "ended": answer.ended});
        Ok(Response::new(self.desk.record(deed(detail), &request, answer).await?))
    }

    async fn move_match(&self, request: Request<MoveMatchRequest>) -> Result<Response<MoveMatchResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let match_id = id(&request.match_id, "match_id")?;
        if request.to_node.is_empty() {
            return Err(invalid("to_node", "must be a match host's id"));
        }
        let deed = |detail| deed(&caller, "MatchService/MoveMatch", &request.request_id, match_id, detail);
        if let Some(answer) = self.desk.before(&deed(json!({})), &request).await? {
            return Ok(Response::new(answer));
        }
        let answer = self.move_to(match_id, &request.to_node).await?;
        let detail = json!({"from": answer.from_node, "to": request.to_node, "epoch": answer.epoch});
        Ok(Response::new(self.desk.record(deed(detail), &request, answer).await?))
    }
}

impl Matches {
    async fn end(&self, match_id: Uuid, result: String) -> Result<EndMatchResponse, Status> {
        let asked = EndHostedMatchRequest { match_id: match_id.to_string(), result_json: result.clone() };
        let ask = |host: Hosting| {
            let asked = with_deadline(asked.clone(), ASK);
            async move { host.client().end_hosted_match(asked).await.map(Response::into_inner) }
        };
        let Err(refused) = self.hosts.ask(&self.pool, match_id, ASK, ask).await else {
            return Ok(EndMatchResponse { ended: true, result_json: result });
        };
        // Over before it could be ended; or by an attempt whose answer was lost.
        let row = hosted::row(&self.pool, match_id).await?;
        if hosted::is_over(&row) {
            let result_json = row.result.map(|result| result.to_string()).unwrap_or_default();
            return Ok(EndMatchResponse { ended: false, result_json });
        }
        Err(refused)
    }

    async fn move_to(&self, match_id: Uuid, to_node: &str) -> Result<MoveMatchResponse, Status> {
        let asked = match_v1::MoveMatchRequest { match_id: match_id.to_string(), to_node: to_node.to_owned() };
        self.hosts.ask(&self.pool, match_id, ASK, |host| carry(host, asked.clone())).await
    }
}

async fn carry(host: Hosting, asked: match_v1::MoveMatchRequest) -> Result<MoveMatchResponse, Status> {
    let from_node = host.row.host_node.clone();
    if from_node == asked.to_node {
        return Ok(MoveMatchResponse { from_node, epoch: host.row.epoch });
    }
    let mut client = MatchHostServiceClient::new(host.channel);
    let moved = client.move_match(with_deadline(asked, ASK)).await.map_err(|status| match status.code() {
        Code::FailedPrecondition => refusal("match_cannot_move", status.message()),
        Code::InvalidArgument => invalid("to_node", format!("is not possible: {}", status.message())),
        _ => status,
    })?;
    Ok(MoveMatchResponse { from_node, epoch: moved.into_inner().epoch })
}

fn deed<'a>(caller: &'a Caller, action: &'static str, request_id: &'a str, match_id: Uuid, detail: Value) -> Deed<'a> {
    Deed { caller, action, request_id, subject: match_id.to_string(), detail }
}

fn not_found() -> Status {
    asobi_service_kit::grpc::status(asobi_proto::error::ErrorCode::MATCH_NOT_FOUND, "there is no such match")
}

/// The result that players and the row get.
fn result(request: &EndMatchRequest) -> Result<String, Status> {
    if request.reason.len() > REASON_BYTES || request.reason.contains('\0') {
        return Err(invalid("reason", format!("must have at most {REASON_BYTES} bytes of text")));
    }
    let given = request.result_json.as_str();
    if given.len() > RESULT_BYTES || given.contains("\\u0000") {
        return Err(invalid("result_json", format!("must have at most {RESULT_BYTES} bytes, without NUL characters")));
    }
    let mut result: Map<String, Value> = serde_json::from_str(if given.is_empty() { "{}" } else { given })
        .map_err(|_| invalid("result_json", "must be a JSON object"))?;
    result.entry("reason").or_insert_with(|| "ended_by_operator".into());
    if !request.reason.is_empty() {
        result.entry("message").or_insert_with(|| request.reason.as_str().into());
    }
    Ok(Value::Object(result).to_string())
}

fn wanted(request: ListMatchesRequest) -> Result<Wanted, Status> {
    let mut states: Vec<String> = Vec::new();
    for state in request.states() {
        states.push(name(state).ok_or_else(|| invalid("states", "has a state there is not"))?.to_owned());
    }
    states.sort_unstable();
    states.dedup();
    if states.is_empty() {
        states = vec!["allocating".to_owned(), "running".to_owned()];
    }
    Ok(Wanted {
        states,
        player: optional_id(&request.player_id, "player_id")?,
        before: page_after(&request.page_token)?,
        mode: optional_text(request.mode, "mode", NAME_BYTES)?,
        host: optional_text(request.host_node, "host_node", NAME_BYTES)?,
    })
}

/// As rows have it.
fn name(state: MatchState) -> Option<&'static str> {
    match state {
        MatchState::Allocating => Some("allocating"),
        MatchState::Running => Some("running"),
        MatchState::Finished => Some("finished"),
        MatchState::Failed => Some("failed"),
        MatchState::Unspecified => None,
    }
}

pub(super) fn state(name: &str) -> MatchState {
    match name {
        "allocating" => MatchState::Allocating,
        "running" => MatchState::Running,
        "finished" => MatchState::Finished,
        "failed" => MatchState::Failed,
        _ => MatchState::Unspecified,
    }
}

fn line(line: Line) -> Match {
    Match {
        match_id: line.id.to_string(),
        state: state(&line.state).into(),
        mode: line.mode,
        host_node: line.host_node,
        host_incarnation: line.host_incarnation,
        epoch: line.epoch,
        players: i32::try_from(line.players).unwrap_or(i32::MAX),
        failovers: line.failovers,
        version: line.version,
        created_at: Some(timestamp(line.inserted_at)),
        started_at: line.started_at.map(timestamp),
        finished_at: line.finished_at.map(timestamp),
    }
}

fn detail(found: Detail) -> GetMatchResponse {
    let json = |value: Option<Value>| value.map(|value| value.to_string()).unwrap_or_default();
    GetMatchResponse {
        r#match: Some(line(found.line)),
        formed_with: found.formed_with.iter().map(Uuid::to_string).collect(),
        seats: found
            .seats
            .into_iter()
            .map(|seat| MatchSeat { player_id: seat.player_id.to_string(), joined_at: Some(timestamp(seat.joined_at)) })
            .collect(),
        listing: found.listing.map(|listing| MatchListing {
            status: listing.status,
            player_count: listing.player_count,
            max_players: listing.max_players,
            joinable: listing.joinable,
            listed: listing.listed,
        }),
        checkpoint: found.checkpoint.map(|checkpoint| MatchCheckpoint {
            number: checkpoint.number,
            age_ms: (checkpoint.age_s * 1_000.0) as i64,
            bytes: i64::from(checkpoint.bytes),
        }),
        result_json: json(found.result),
        backfill_wanted: found.backfill_wanted,
        teams_json: json(found.teams),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(reason: &str, result_json: &str) -> EndMatchRequest {
        EndMatchRequest { reason: reason.into(), result_json: result_json.into(), ..EndMatchRequest::default() }
    }

    #[test]
    fn a_result_says_who_has_ended_the_match_unless_it_says_something_itself() {
        let said = |reason: &str, json: &str| result(&asked(reason, json)).unwrap();
        assert_eq!(said("", ""), r#"{"reason":"ended_by_operator"}"#);
        assert_eq!(said("maintenance", ""), r#"{"message":"maintenance","reason":"ended_by_operator"}"#);
        assert_eq!(said("x", r#"{"reason":"draw","message":"y"}"#), r#"{"message":"y","reason":"draw"}"#);
        for wrong in ["[1]", "1", "{", r#"{"a":"\u0000"}"#, &format!("{{\"a\":\"{}\"}}", "x".repeat(RESULT_BYTES))] {
            assert!(result(&asked("", wrong)).is_err(), "{wrong}");
        }
        assert!(result(&asked(&"x".repeat(257), "")).is_err());
    }

    #[test]
    fn without_a_state_the_open_ones_are_wanted() {
        assert_eq!(wanted(ListMatchesRequest::default()).unwrap().states, ["allocating", "running"]);
        let states = vec![MatchState::Failed.into(), MatchState::Failed.into()];
        assert_eq!(wanted(ListMatchesRequest { states, ..Default::default() }).unwrap().states, ["failed"]);
        for name in ["allocating", "running", "finished", "failed"] {
            assert_eq!(super::name(state(name)), Some(name));
        }
    }
}
