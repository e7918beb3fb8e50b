//! `asobi.matchmaker.v1`, answered by every replica from the rows; what only the leader knows, by the leader alone.

mod deeds;
mod modes;
mod tickets;
mod watch;

use std::sync::Arc;

use asobi_cluster::desk::{Deed, Desk};
use asobi_proto::{
    bus::{TicketItem, Topic},
    error::ErrorCode,
    matchmaker_v1::{
        CancelTicketRequest, CancelTicketResponse, CreateTicketRequest, CreateTicketResponse, GetQueueStatsRequest,
        GetQueueStatsResponse, GetStatusRequest, GetStatusResponse, GetTicketRequest, GetTicketResponse,
        ListEstimatesRequest, ListEstimatesResponse, PauseModeRequest, PauseModeResponse, RequestBackfillRequest,
        RequestBackfillResponse, ResumeModeRequest, ResumeModeResponse, SetModeSettingsRequest,
        SetModeSettingsResponse, WatchTicketRequest,
        matchmaker_service_server::{MatchmakerService, MatchmakerServiceServer},
    },
};
use asobi_service_kit::grpc::{Caller, NOT_LEADING, invalid, refusal, status};
use asobi_store::{inbox::StoredEvent, within};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::deps::Deps;

/// Tickets of one question for estimates.
const ESTIMATES: usize = 10_000;
/// Streams that watch a ticket at the same time; each costs a row's read a second. More are refused.
const WATCHERS: usize = 256;

/// `draining` ends the streams.
pub fn service(deps: Arc<Deps>, draining: CancellationToken) -> MatchmakerServiceServer<impl MatchmakerService> {
    let desk = Desk::new(deps.pool.clone(), deps.limits.database);
    MatchmakerServiceServer::new(Api { deps, desk, draining, watchers: Arc::new(Semaphore::new(WATCHERS)) })
}

struct Api {
    deps: Arc<Deps>,
    desk: Desk,
    draining: CancellationToken,
    watchers: Arc<Semaphore>,
}

impl Api {
    /// A leader that missed it finds the row by its next look; a full queue is counted by the publisher.
    fn publish(&self, item: &TicketItem) {
        let _ = self.deps.publisher.publish(Topic::Queue, item);
    }

    fn publish_told(&self, told: &[StoredEvent]) {
        for told in told {
            asobi_bus::inbox::publish(&self.deps.publisher, told.player_id, told.seq, &told.event);
        }
    }

    async fn bounded<T>(&self, work: impl Future<Output = asobi_store::Result<T>>) -> Result<T, Status> {
        within(self.deps.limits.database, work).await.map_err(unavailable)
    }
}

fn unavailable(error: asobi_store::Error) -> Status {
    tracing::warn!(%error, "A matchmaker call failed at the database.");
    status(ErrorCode::NOT_READY, "the database does not answer")
}

fn not_leading() -> Status {
    refusal(NOT_LEADING, "this replica does not lead; the registry names who does")
}

fn id(text: &str, field: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| invalid(field, "must be a UUID"))
}

/// A JSON object; empty counts as {}.
fn object(json: &str, field: &str) -> Result<serde_json::Value, Status> {
    let text = if json.is_empty() { "{}" } else { json };
    match serde_json::from_str(text) {
        Ok(value @ serde_json::Value::Object(_)) if !text.contains("\\u0000") => Ok(value),
        _ => Err(invalid(field, "must be a JSON object without NUL characters")),
    }
}

#[tonic::async_trait]
impl MatchmakerService for Api {
    async fn create_ticket(
        &self,
        request: Request<CreateTicketRequest>,
    ) -> Result<Response<CreateTicketResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let detail = json!({"mode": request.mode, "party_id": request.party_id});
        let deed = Deed {
            caller: &caller,
            action: "MatchmakerService/CreateTicket",
            request_id: &request.request_id,
            subject: request.player_id.clone(),
            detail,
        };
        self.once(deed, &request, async || self.create(&request).await).await
    }

    async fn cancel_ticket(
        &self,
        request: Request<CancelTicketRequest>,
    ) -> Result<Response<CancelTicketResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let deed = Deed {
            caller: &caller,
            action: "MatchmakerService/CancelTicket",
            request_id: &request.request_id,
            subject: request.ticket_id.clone(),
            detail: json!({}),
        };
        self.once(deed, &request, async || self.cancel(&request).await).await
    }

    async fn get_ticket(&self, request: Request<GetTicketRequest>) -> Result<Response<GetTicketResponse>, Status> {
        let ticket_id = id(&request.into_inner().ticket_id, "ticket_id")?;
        let ticket = self.ticket(ticket_id).await?;
        Ok(Response::new(GetTicketResponse { ticket: Some(tickets::written(ticket)) }))
    }

    type WatchTicketStream = watch::Watch;

    async fn watch_ticket(&self, request: Request<WatchTicketRequest>) -> Result<Response<watch::Watch>, Status> {
        let ticket_id = id(&request.into_inner().ticket_id, "ticket_id")?;
        self.watch(ticket_id).await.map(Response::new)
    }

    async fn list_estimates(
        &self,
        request: Request<ListEstimatesRequest>,
    ) -> Result<Response<ListEstimatesResponse>, Status> {
        let asked = request.into_inner().ticket_ids;
        if asked.len() > ESTIMATES {
            return Err(invalid("ticket_ids", "must be at most 10000"));
        }
        let ids: Vec<Uuid> = asked.iter().map(|text| id(text, "ticket_ids")).collect::<Result<_, _>>()?;
        let estimates = self.deps.estimates(&ids).ok_or_else(not_leading)?;
        let estimates = estimates.into_iter().map(watch::written).collect();
        Ok(Response::new(ListEstimatesResponse { estimates }))
    }

    async fn request_backfill(
        &self,
        request: Request<RequestBackfillRequest>,
    ) -> Result<Response<RequestBackfillResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let deed = Deed {
            caller: &caller,
            action: "MatchmakerService/RequestBackfill",
            request_id: &request.request_id,
            subject: request.match_id.clone(),
            detail: json!({"players": request.players}),
        };
        self.once(deed, &request, async || self.backfill(&request).await).await
    }

    async fn get_queue_stats(
        &self,
        request: Request<GetQueueStatsRequest>,
    ) -> Result<Response<GetQueueStatsResponse>, Status> {
        self.stats(&request.into_inner()).map(Response::new)
    }

    async fn pause_mode(&self, request: Request<PauseModeRequest>) -> Result<Response<PauseModeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let deed = Deed {
            caller: &caller,
            action: "MatchmakerService/PauseMode",
            request_id: &request.request_id,
            subject: request.mode.clone(),
            detail: json!({}),
        };
        let pausing = async || self.set_paused(&request.mode, true).await.map(|()| PauseModeResponse {});
        self.once(deed, &request, pausing).await
    }

    async fn resume_mode(&self, request: Request<ResumeModeRequest>) -> Result<Response<ResumeModeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let deed = Deed {
            caller: &caller,
            action: "MatchmakerService/ResumeMode",
            request_id: &request.request_id,
            subject: request.mode.clone(),
            detail: json!({}),
        };
        let resuming = async || self.set_paused(&request.mode, false).await.map(|()| ResumeModeResponse {});
        self.once(deed, &request, resuming).await
    }

    async fn set_mode_settings(
        &self,
        request: Request<SetModeSettingsRequest>,
    ) -> Result<Response<SetModeSettingsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let deed = Deed {
            caller: &caller,
            action: "MatchmakerService/SetModeSettings",
            request_id: &request.request_id,
            subject: request.mode.clone(),
            detail: json!({"settings": request.settings_json.chars().take(1_000).collect::<String>()}),
        };
        self.once(deed, &request, async || self.set_settings(&request).await).await
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let (leading, mut term, depth) = self.deps.status.read();
        if !leading {
            // What others lead under is in the rows.
            let nodes = asobi_cluster::ops::nodes(&self.deps.pool).await.map_err(|error| {
                tracing::warn!(%error, "The registry could not be read for GetStatus.");
                status(ErrorCode::NOT_READY, "the database does not answer")
            })?;
            term = nodes.iter().find(|node| node.leading).map_or(term, |node| node.term.max(term));
        }
        Ok(Response::new(GetStatusResponse { leading, term, depth }))
    }
}
