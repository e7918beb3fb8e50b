//! `asobi.matchmaker.v1`, answered by every replica from the rows.

use std::sync::Arc;

use asobi_proto::{
    bus::{TicketItem, Topic},
    error::ErrorCode,
    matchmaker_v1::{
        CancelTicketRequest, CancelTicketResponse, CreateTicketRequest, CreateTicketResponse, GetStatusRequest,
        GetStatusResponse, GetTicketRequest, GetTicketResponse, Ticket, TicketState,
        matchmaker_service_server::{MatchmakerService, MatchmakerServiceServer},
    },
};
use asobi_service_kit::grpc::status;
use asobi_store::{
    tickets::{self, TicketError},
    within,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::deps::Deps;

pub fn service(deps: Arc<Deps>) -> MatchmakerServiceServer<impl MatchmakerService> {
    MatchmakerServiceServer::new(Api { deps })
}

struct Api {
    deps: Arc<Deps>,
}

impl Api {
    fn publish(&self, ticket_id: Uuid, gone: bool) {
        // A leader that missed it finds the row by its next resync; a full queue is counted by the publisher.
        let _ = self.deps.publisher.publish(Topic::Queue, &TicketItem { ticket_id, gone, backfill: false });
    }

    async fn bounded<T>(&self, work: impl Future<Output = asobi_store::Result<T>>) -> Result<T, Status> {
        within(self.deps.limits.database, work).await.map_err(unavailable)
    }
}

fn unavailable(error: asobi_store::Error) -> Status {
    tracing::warn!(%error, "A matchmaker call failed at the database.");
    status(ErrorCode::NOT_READY, "the database does not answer")
}

fn id(text: &str, field: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| status(ErrorCode::INVALID_PAYLOAD, format!("{field} is not a UUID")))
}

fn properties(json: &str) -> Result<serde_json::Value, Status> {
    let text = if json.is_empty() { "{}" } else { json };
    match serde_json::from_str(text) {
        Ok(value @ serde_json::Value::Object(_)) if !text.contains("\\u0000") => Ok(value),
        _ => Err(status(ErrorCode::INVALID_PAYLOAD, "properties_json is not a JSON object without NUL characters")),
    }
}

fn wire(ticket: tickets::Ticket) -> Ticket {
    let state = match ticket.state {
        tickets::TicketState::Pending => TicketState::Pending,
        tickets::TicketState::Matched => TicketState::Matched,
        tickets::TicketState::Cancelled => TicketState::Cancelled,
        tickets::TicketState::Expired => TicketState::Expired,
        tickets::TicketState::Failed => TicketState::Failed,
    };
    Ticket {
        ticket_id: ticket.id.to_string(),
        player_id: ticket.player_id.to_string(),
        mode: ticket.mode,
        state: state.into(),
        properties_json: ticket.properties.to_string(),
        submitted_at: Some(prost_types::Timestamp {
            seconds: ticket.submitted_at.unix_timestamp(),
            nanos: i32::try_from(ticket.submitted_at.nanosecond()).unwrap_or(0),
        }),
        match_id: ticket.match_id.map(|id| id.to_string()).unwrap_or_default(),
        ..Ticket::default()
    }
}

#[tonic::async_trait]
impl MatchmakerService for Api {
    async fn create_ticket(
        &self,
        request: Request<CreateTicketRequest>,
    ) -> Result<Response<CreateTicketResponse>, Status> {
        let request = request.into_inner();
        let player = id(&request.player_id, "player_id")?;
        let properties = properties(&request.properties_json)?;
        let modes = self.bounded(asobi_store::modes::all(&self.deps.pool)).await?;
        let (_, settings) = modes
            .into_iter()
            .find(|(mode, _)| *mode == request.mode)
            .ok_or_else(|| status(ErrorCode::MATCHMAKER_UNKNOWN_MODE, "no host serves the mode"))?;
        let (pool, max) = (&self.deps.pool, self.deps.limits.max_queue);
        let creating = async { Ok(tickets::create(pool, player, &request.mode, &properties, &settings, max).await) };
        let created = match self.bounded(creating).await? {
            Ok(created) => created,
            Err(TicketError::QueueFull) => {
                return Err(status(ErrorCode::MATCHMAKER_QUEUE_FULL, "the queue of this mode is full"));
            }
            Err(TicketError::AlreadyInMatch) => {
                return Err(Status::failed_precondition("the player is in a match"));
            }
            Err(TicketError::Db(error)) => return Err(unavailable(error)),
        };
        self.publish(created.ticket.id, false);
        Ok(Response::new(CreateTicketResponse {
            ticket: Some(wire(created.ticket)),
            already_queued: created.already_queued,
            players_needed: i32::try_from(settings.match_size).unwrap_or(i32::MAX),
            ..CreateTicketResponse::default()
        }))
    }

    async fn cancel_ticket(
        &self,
        request: Request<CancelTicketRequest>,
    ) -> Result<Response<CancelTicketResponse>, Status> {
        let ticket_id = id(&request.into_inner().ticket_id, "ticket_id")?;
        if !self.bounded(tickets::cancel_any(&self.deps.pool, ticket_id)).await? {
            return Err(status(ErrorCode::MATCHMAKER_TICKET_NOT_FOUND, "no such ticket waits"));
        }
        self.publish(ticket_id, true);
        Ok(Response::new(CancelTicketResponse {}))
    }

    async fn get_ticket(&self, request: Request<GetTicketRequest>) -> Result<Response<GetTicketResponse>, Status> {
        let ticket_id = id(&request.into_inner().ticket_id, "ticket_id")?;
        let ticket = self.bounded(tickets::get(&self.deps.pool, ticket_id)).await?;
        let ticket = ticket.ok_or_else(|| status(ErrorCode::MATCHMAKER_TICKET_NOT_FOUND, "there is no such ticket"))?;
        Ok(Response::new(GetTicketResponse { ticket: Some(wire(ticket)) }))
    }

    async fn list_estimates(
        &self,
        _: Request<asobi_proto::matchmaker_v1::ListEstimatesRequest>,
    ) -> Result<Response<asobi_proto::matchmaker_v1::ListEstimatesResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn request_backfill(
        &self,
        _: Request<asobi_proto::matchmaker_v1::RequestBackfillRequest>,
    ) -> Result<Response<asobi_proto::matchmaker_v1::RequestBackfillResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn get_queue_stats(
        &self,
        _: Request<asobi_proto::matchmaker_v1::GetQueueStatsRequest>,
    ) -> Result<Response<asobi_proto::matchmaker_v1::GetQueueStatsResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn pause_mode(
        &self,
        _: Request<asobi_proto::matchmaker_v1::PauseModeRequest>,
    ) -> Result<Response<asobi_proto::matchmaker_v1::PauseModeResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn resume_mode(
        &self,
        _: Request<asobi_proto::matchmaker_v1::ResumeModeRequest>,
    ) -> Result<Response<asobi_proto::matchmaker_v1::ResumeModeResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn set_mode_settings(
        &self,
        _: Request<asobi_proto::matchmaker_v1::SetModeSettingsRequest>,
    ) -> Result<Response<asobi_proto::matchmaker_v1::SetModeSettingsResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    type WatchTicketStream =
        futures_util::stream::Empty<Result<asobi_proto::matchmaker_v1::WatchTicketResponse, Status>>;

    async fn watch_ticket(
        &self,
        _: Request<asobi_proto::matchmaker_v1::WatchTicketRequest>,
    ) -> Result<Response<Self::WatchTicketStream>, Status> {
        Err(Status::unimplemented("not yet"))
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
