//! `ModerationService`: reports, deleted messages and the list of words. What operators do is done at the desk; the nodes that hold
//! players are woken after each commit and read what changed.

mod wire;

use std::time::Duration;

use asobi_bus::Publisher;
use asobi_cluster::desk::{Deed, Desk};
use asobi_proto::{
    bus::{InboxEvent, Topic, WakeItem},
    error::ErrorCode,
    social_v1::{
        AddWordRequest, AddWordResponse, DeleteMessageRequest, DeleteMessageResponse, GetReportRequest,
        GetReportResponse, ListReportsRequest, ListReportsResponse, ListWordsRequest, ListWordsResponse,
        RemoveWordRequest, RemoveWordResponse, ReportPlayerRequest, ReportPlayerResponse, ResolveReportRequest,
        ResolveReportResponse, WordAction, moderation_service_server::ModerationService,
    },
};
use asobi_service_kit::grpc::{Caller, invalid, refusal, status};
use asobi_store::{
    chat::deletions,
    reports::{self, Filter, NewReport, Refusal, Report},
    within, words,
};
use serde_json::json;
use sqlx::PgPool;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use self::wire::{message, new_word, open_only, optional_id, page_size, report, text};
use crate::wire::{id, unavailable};

pub struct Moderation {
    desk: Desk,
    publisher: Publisher,
    /// Of one transaction.
    bound: Duration,
}

impl Moderation {
    pub fn new(pool: PgPool, publisher: Publisher, bound: Duration) -> Self {
        Self { desk: Desk::new(pool, bound), publisher, bound }
    }

    /// A lost wake-up is found by the nodes' own looks.
    fn wake(&self) {
        let _ = self.publisher.publish(Topic::Moderation, &WakeItem {});
    }

    async fn report(&self, which: Uuid) -> Result<Report, Status> {
        let read = within(self.bound, async {
            let mut conn = self.desk.pool().acquire().await?;
            reports::get(&mut conn, which).await
        });
        read.await.map_err(|error| unavailable(&error))?.ok_or_else(no_report)
    }
}

fn no_report() -> Status {
    status(ErrorCode::OPS_NOT_FOUND, "there is no such report")
}

fn refused(why: Refusal) -> Status {
    let wrong = |message| status(ErrorCode::VALIDATION_FAILED, message);
    match why {
        Refusal::NoMessage => wrong("there is no such message"),
        Refusal::NotTheirs => wrong("the message is another player's"),
        Refusal::Oneself => wrong("nobody reports themself"),
        Refusal::NoPlayer => status(ErrorCode::PLAYER_NOT_FOUND, "there is no such player"),
        Refusal::TooMany => status(ErrorCode::RATE_LIMITED, "too many reports of this player are open"),
    }
}

#[tonic::async_trait]
impl ModerationService for Moderation {
    async fn report_player(
        &self,
        request: Request<ReportPlayerRequest>,
    ) -> Result<Response<ReportPlayerResponse>, Status> {
        let request = request.into_inner();
        let channel = text("channel_id", &request.channel_id, deletions::CHANNEL_BYTES)?;
        let message = match channel {
            "" => None,
            channel => Some((channel, message(request.seq, &request.message_id)?)),
        };
        let new = NewReport {
            reporter_id: id(&request.reporter_id, "reporter_id")?,
            player_id: optional_id(&request.player_id, "player_id")?,
            message,
            kind: wire::kind(&request.kind)?,
            note: text("note", &request.note, reports::NOTE_BYTES)?,
        };
        let reporting = within(self.bound, async {
            let mut tx = asobi_store::begin(self.desk.pool()).await?;
            let made = reports::create(&mut tx, &new).await?;
            if made.is_ok() {
                tx.commit().await?;
            }
            Ok(made)
        });
        let made = reporting.await.map_err(|error| unavailable(&error))?.map_err(refused)?;
        metrics::counter!("asobi_social_reports_total").increment(1);
        Ok(Response::new(ReportPlayerResponse { report: Some(report(made)) }))
    }

    async fn list_reports(
        &self,
        request: Request<ListReportsRequest>,
    ) -> Result<Response<ListReportsResponse>, Status> {
        let request = request.into_inner();
        let filter = Filter {
            open: open_only(request.state()),
            player_id: optional_id(&request.player_id, "player_id")?,
            reporter_id: optional_id(&request.reporter_id, "reporter_id")?,
            before: optional_id(&request.page_token, "page_token")?,
        };
        let limit = page_size(request.page_size, 50, 500)?;
        let page = within(self.bound, reports::list(self.desk.pool(), &filter, limit)).await;
        let page = page.map_err(|error| unavailable(&error))?;
        let full = i64::try_from(page.len()).is_ok_and(|n| n >= limit);
        let next_page_token = page.last().filter(|_| full).map(|last| last.id.to_string()).unwrap_or_default();
        Ok(Response::new(ListReportsResponse { reports: page.into_iter().map(report).collect(), next_page_token }))
    }

    async fn get_report(&self, request: Request<GetReportRequest>) -> Result<Response<GetReportResponse>, Status> {
        let found = self.report(id(&request.get_ref().report_id, "report_id")?).await?;
        Ok(Response::new(GetReportResponse { report: Some(report(found)) }))
    }

    async fn resolve_report(
        &self,
        request: Request<ResolveReportRequest>,
    ) -> Result<Response<ResolveReportResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let which = id(&request.report_id, "report_id")?;
        let resolution = text("resolution", &request.resolution, reports::RESOLUTION_BYTES)?;
        if resolution.is_empty() {
            return Err(invalid("resolution", "must say in a word what was done"));
        }
        let remark = text("remark", &request.remark, reports::NOTE_BYTES)?;
        let by = caller.to_string();
        let deed = Deed {
            caller: &caller,
            action: "ModerationService/ResolveReport",
            request_id: &request.request_id,
            subject: self.report(which).await?.player_id.to_string(),
            detail: json!({"report_id": which, "resolution": resolution}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            Ok(match reports::resolve(conn, which, resolution, remark, &by).await? {
                reports::Resolved::Now(resolved) => Ok((ResolveReportResponse { report: Some(report(*resolved)) }, ())),
                reports::Resolved::Before => Err(refusal("already_resolved", "the report was resolved before")),
                reports::Resolved::Unknown => Err(no_report()),
            })
        });
        Ok(Response::new(did.await?.answer))
    }

    async fn delete_message(
        &self,
        request: Request<DeleteMessageRequest>,
    ) -> Result<Response<DeleteMessageResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let channel = text("channel_id", &request.channel_id, deletions::CHANNEL_BYTES)?;
        let which = message(request.seq, &request.message_id)?;
        let found = within(self.bound, async {
            let mut conn = self.desk.pool().acquire().await?;
            deletions::find(&mut conn, channel, which).await
        });
        let no_message = || status(ErrorCode::OPS_NOT_FOUND, "there is no such message, or it is kept no longer");
        let found = found.await.map_err(|error| unavailable(&error))?.ok_or_else(no_message)?;
        let deed = Deed {
            caller: &caller,
            action: "ModerationService/DeleteMessage",
            request_id: &request.request_id,
            subject: found.sender_id.to_string(),
            detail: json!({"channel_id": channel, "seq": found.seq, "message_id": found.message_id}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            let deleted = deletions::delete(conn, channel, deletions::Which::Seq(found.seq)).await?;
            Ok(deleted.map(|deleted| (answer(&deleted), deleted.events)).ok_or_else(no_message))
        });
        let did = did.await?;
        if let Some(events) = did.after {
            self.publish(&events);
            self.wake();
        }
        Ok(Response::new(did.answer))
    }

    async fn list_words(&self, _: Request<ListWordsRequest>) -> Result<Response<ListWordsResponse>, Status> {
        let all = within(self.bound, words::list(self.desk.pool())).await.map_err(|error| unavailable(&error))?;
        Ok(Response::new(ListWordsResponse { words: all.into_iter().map(wire::word).collect() }))
    }

    async fn add_word(&self, request: Request<AddWordRequest>) -> Result<Response<AddWordResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (word, whole) = (new_word(&request.word)?, request.whole);
        let refuses = request.action() == WordAction::Refuse;
        let by = caller.to_string();
        let deed = Deed {
            caller: &caller,
            action: "ModerationService/AddWord",
            request_id: &request.request_id,
            subject: String::new(),
            detail: json!({"word": word, "refuses": refuses, "whole": whole}),
        };
        let full = || invalid("word", format!("would be one more than the {} there may be", words::MOST));
        let did = self.desk.once(deed, &request, async |conn| {
            let added = words::add(conn, &word, refuses, whole, &by).await?;
            Ok(added.map(|added| (AddWordResponse { word: Some(wire::word(added)) }, ())).ok_or_else(full))
        });
        let did = did.await?;
        self.wake();
        Ok(Response::new(did.answer))
    }

    async fn remove_word(&self, request: Request<RemoveWordRequest>) -> Result<Response<RemoveWordResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let word = new_word(&request.word)?;
        let deed = Deed {
            caller: &caller,
            action: "ModerationService/RemoveWord",
            request_id: &request.request_id,
            subject: String::new(),
            detail: json!({"word": word}),
        };
        let did = self.desk.once(deed, &request, async |conn| {
            words::remove(conn, &word).await?;
            Ok(Ok((RemoveWordResponse {}, ())))
        });
        let did = did.await?;
        self.wake();
        Ok(Response::new(did.answer))
    }
}

impl Moderation {
    fn publish(&self, events: &[(Uuid, i64, InboxEvent)]) {
        for (player, seq, event) in events {
            asobi_bus::inbox::publish(&self.publisher, *player, *seq, event);
        }
    }
}

fn answer(deleted: &deletions::Deleted) -> DeleteMessageResponse {
    DeleteMessageResponse { seq: deleted.seq, message_id: deleted.message_id.to_string() }
}
