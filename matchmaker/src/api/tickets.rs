//! Putting tickets in and taking them out, for internal tools.

use asobi_proto::{
    bus::TicketItem,
    error::ErrorCode,
    matchmaker_v1::{
        CancelTicketRequest, CancelTicketResponse, CreateTicketRequest, CreateTicketResponse, Ticket, TicketState,
    },
    mode::ModeSettings,
};
use asobi_service_kit::grpc::{invalid, refusal, status};
use asobi_store::{
    modes, players,
    tickets::{self, Created, TicketError, Wish, WishError},
};
use tonic::Status;
use uuid::Uuid;

use super::{Api, id, object, unavailable};

impl Api {
    pub(super) async fn create(&self, request: &CreateTicketRequest) -> Result<CreateTicketResponse, Status> {
        let player = id(&request.player_id, "player_id")?;
        let party = (!request.party_id.is_empty()).then(|| id(&request.party_id, "party_id")).transpose()?;
        let properties = object(&request.properties_json, "properties_json")?;
        let mode = self.bounded(modes::get(&self.deps.pool, &request.mode)).await?;
        let settings =
            mode.ok_or_else(|| status(ErrorCode::MATCHMAKER_UNKNOWN_MODE, "no host has announced the mode"))?.settings;
        let query = (!request.query.is_empty()).then_some(request.query.as_str());
        let wish = Wish { properties: &properties, query };
        tickets::check(wish, &settings).map_err(|error| match error {
            WishError::Properties(what) => invalid("properties_json", what),
            WishError::Query { position, message } => invalid("query", format!("{message} (at byte {position})")),
        })?;
        if self.bounded(players::get(&self.deps.pool, player)).await?.is_none() {
            return Err(status(ErrorCode::PLAYER_NOT_FOUND, "there is no such player"));
        }
        let writing = async { Ok(self.write(party, player, &request.mode, wish, &settings).await) };
        let created = self.bounded(writing).await?.map_err(refused)?;
        if !created.already_queued {
            self.publish(&TicketItem { ticket_id: created.ticket.id, ..TicketItem::default() });
        }
        Ok(CreateTicketResponse {
            already_queued: created.already_queued,
            players_needed: i32::try_from(settings.match_size).unwrap_or(i32::MAX),
            estimated_wait_ms: created.estimated_wait_ms,
            position: created.position,
            ticket: Some(written(created.ticket)),
        })
    }

    async fn write(
        &self,
        party: Option<Uuid>,
        player: Uuid,
        mode: &str,
        wish: Wish<'_>,
        settings: &ModeSettings,
    ) -> Result<Created, TicketError> {
        let (pool, max) = (&self.deps.pool, self.deps.limits.max_queue);
        let Some(party) = party else {
            return tickets::create(pool, player, mode, wish, settings, max).await;
        };
        let created = tickets::create_party(pool, party, player, mode, wish, settings, max).await?;
        self.publish_told(&created.told);
        Ok(created.created)
    }

    pub(super) async fn cancel(&self, request: &CancelTicketRequest) -> Result<CancelTicketResponse, Status> {
        let ticket_id = id(&request.ticket_id, "ticket_id")?;
        let cancelled = self.bounded(tickets::cancel_any(&self.deps.pool, ticket_id)).await?;
        let cancelled =
            cancelled.ok_or_else(|| status(ErrorCode::MATCHMAKER_TICKET_NOT_FOUND, "no such ticket waits"))?;
        self.publish_told(&cancelled.told);
        self.publish(&TicketItem { ticket_id, gone: true, backfill: false });
        Ok(CancelTicketResponse {})
    }

    pub(super) async fn ticket(&self, ticket_id: Uuid) -> Result<tickets::Ticket, Status> {
        let ticket = self.bounded(tickets::get(&self.deps.pool, ticket_id)).await?;
        ticket.ok_or_else(|| status(ErrorCode::MATCHMAKER_TICKET_NOT_FOUND, "there is no such ticket"))
    }
}

fn refused(error: TicketError) -> Status {
    match error {
        TicketError::Db(error) => unavailable(error),
        TicketError::QueueFull => status(ErrorCode::MATCHMAKER_QUEUE_FULL, error.to_string()),
        error => refusal(error.reason().map_or("internal", |(reason, _)| reason), error.to_string()),
    }
}

pub(super) fn written(ticket: tickets::Ticket) -> Ticket {
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
        players: ticket.players.iter().map(Uuid::to_string).collect(),
        party_id: ticket.party_id.map(|id| id.to_string()).unwrap_or_default(),
        query: ticket.query.unwrap_or_default(),
    }
}
