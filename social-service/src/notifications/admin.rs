//! `NotificationAdminService`: jobs and templates, as operators create them and look at them. [`super::jobs`] carries the jobs out.

use std::{sync::Arc, time::Duration};

use asobi_cluster::desk::{Deed as Order, Desk};
use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        CancelNotificationJobRequest, CancelNotificationJobResponse, CreateNotificationJobRequest,
        CreateNotificationJobResponse, DeleteTemplateRequest, DeleteTemplateResponse, GetNotificationJobRequest,
        GetNotificationJobResponse, GetTemplateRequest, GetTemplateResponse, ListNotificationJobsRequest,
        ListNotificationJobsResponse, ListTemplatesRequest, ListTemplatesResponse, NotificationJob,
        NotificationJobState as WireState, NotificationTemplate, PlayerFilter, PutTemplateRequest, PutTemplateResponse,
        TemplateText, WatchNotificationJobRequest, WatchNotificationJobResponse,
        create_notification_job_request::Target, notification_admin_service_server::NotificationAdminService,
    },
};
use asobi_service_kit::grpc::{Caller, invalid, refusal, status};
use asobi_store::{
    groups,
    notifications::{
        jobs::{self, Filter, Job, JobState, NewJob},
        templates::{self, Template},
    },
    within,
};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde_json::{Value, json};
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::message::{self, Asked, Message};
use crate::{
    deeds::{Deeds, Done},
    wire::{cut, id, optional_id, page_size, time, timestamp, unavailable},
};

/// Players that one job can list.
const PLAYERS: usize = 10_000;
/// Jobs that are not over.
const OPEN_JOBS: i64 = 100;
const TEMPLATES: i64 = 1_000;
/// Who watches at one service.
const WATCHERS: usize = 64;
/// Between two looks at a job that is watched.
const LOOK: Duration = Duration::from_millis(500);

pub struct NotificationAdmin {
    pub deeds: Deeds,
    pub desk: Desk,
    /// Wakes this process's worker.
    pub wake: Arc<Notify>,
    pub draining: CancellationToken,
    watchers: Arc<Semaphore>,
}

pub(super) fn no_template() -> Status {
    status(ErrorCode::OPS_NOT_FOUND, "there is no such template")
}

fn no_job() -> Status {
    status(ErrorCode::OPS_NOT_FOUND, "there is no such job")
}

/// What a stored template says.
pub(super) fn message(template: &Template) -> Result<Message, Status> {
    serde_json::from_value(template.message.clone()).map_err(|error| {
        tracing::error!(%error, template.id = template.id, "A template cannot be read.");
        status(ErrorCode::INTERNAL, "the template cannot be read")
    })
}

fn stored(message: &Message) -> Result<Value, Status> {
    serde_json::to_value(message).map_err(|_| status(ErrorCode::INTERNAL, "the message cannot be written"))
}

fn wire_template(template: Template) -> Result<NotificationTemplate, Status> {
    let message = message(&template)?;
    let texts = message.texts.into_iter().map(|(language, text)| TemplateText {
        language,
        subject: text.subject,
        content_json: text.content.to_string(),
    });
    Ok(NotificationTemplate {
        id: template.id,
        r#type: message.kind,
        default_language: message.default_language,
        texts: texts.collect(),
        updated_at: timestamp(template.updated_at),
        updated_by: template.updated_by,
    })
}

fn wire_job(job: Job) -> NotificationJob {
    let state = match job.state {
        JobState::Waiting => WireState::Waiting,
        JobState::Running => WireState::Running,
        JobState::Done => WireState::Done,
        JobState::Cancelled => WireState::Cancelled,
        JobState::Failed => WireState::Failed,
    };
    let message = serde_json::from_value::<Message>(job.message).ok();
    let subject = message.as_ref().and_then(|message| message.default_text()).map(|text| text.subject.clone());
    NotificationJob {
        id: job.id.to_string(),
        state: state.into(),
        created_by: job.created_by,
        created_at: timestamp(job.created_at),
        started_at: job.started_at.and_then(timestamp),
        finished_at: job.finished_at.and_then(timestamp),
        total: job.total,
        done: job.done,
        told: job.told,
        failed: job.done - job.told,
        subject: subject.unwrap_or_default(),
        r#type: message.map(|message| message.kind).unwrap_or_default(),
        expires_at: job.expires_at.and_then(timestamp),
        failure: job.failure.unwrap_or_default(),
    }
}

/// Who is to be told, as it was asked.
struct Recipients {
    players: Option<Vec<Uuid>>,
    group: Option<Uuid>,
    filter: Filter,
}

impl Recipients {
    fn read(target: Option<&Target>) -> Result<Self, Status> {
        match target {
            None => Err(invalid("target", "must be players or a filter; an empty filter is everybody")),
            Some(Target::Players(list)) if !(1..=PLAYERS).contains(&list.player_ids.len()) => {
                Err(invalid("players.player_ids", "must be 1 to 10000"))
            }
            Some(Target::Players(list)) => {
                let players = list.player_ids.iter().map(|text| id(text, "players.player_ids"));
                Ok(Self { players: Some(players.collect::<Result<_, _>>()?), group: None, filter: Filter::default() })
            }
            Some(Target::Filter(asked)) => {
                let group = optional_id(&asked.group_id, "filter.group_id")?;
                Ok(Self { players: None, group, filter: filter(asked)? })
            }
        }
    }

    /// For the audit.
    fn detail(&self) -> Value {
        json!({
            "players": self.players.as_ref().map(Vec::len),
            "group_id": self.group,
            "registered_after": self.filter.registered_after.map(OffsetDateTime::unix_timestamp),
            "registered_before": self.filter.registered_before.map(OffsetDateTime::unix_timestamp),
            "guest": self.filter.guest,
            "language": self.filter.language,
        })
    }
}

fn filter(asked: &PlayerFilter) -> Result<Filter, Status> {
    let language = match asked.language.as_str() {
        "" => None,
        tag => Some(
            message::language(tag).ok_or_else(|| invalid("filter.language", "is no language such as de or pt-BR"))?,
        ),
    };
    Ok(Filter {
        registered_after: asked.registered_after.map(|at| time(at, "filter.registered_after")).transpose()?,
        registered_before: asked.registered_before.map(|at| time(at, "filter.registered_before")).transpose()?,
        guest: asked.guest,
        language,
    })
}

/// Stores a job. A group's members are listed as they are now.
async fn create(
    conn: &mut PgConnection,
    recipients: &Recipients,
    mut new: NewJob,
) -> asobi_store::Result<Result<Done<Job>, Status>> {
    if let Some(group) = recipients.group {
        if groups::lock(conn, group).await?.is_none() {
            return Ok(Err(status(ErrorCode::SOCIAL_GROUP_NOT_FOUND, "there is no such group")));
        }
        new.players = Some(jobs::members(conn, group, &recipients.filter).await?);
    }
    Ok(match jobs::insert(conn, new, OPEN_JOBS).await? {
        Some(job) => Ok(Done::quietly(job)),
        None => Err(refusal("too_many_jobs", "100 jobs are open; wait for them, or cancel some")),
    })
}

impl NotificationAdmin {
    pub fn new(deeds: Deeds, desk: Desk, wake: Arc<Notify>, draining: CancellationToken) -> Self {
        Self { deeds, desk, wake, draining, watchers: Arc::new(Semaphore::new(WATCHERS)) }
    }

    async fn job(&self, job: Uuid) -> Result<Job, Status> {
        within(self.deeds.bound, jobs::get(&self.deeds.pool, job))
            .await
            .map_err(|e| unavailable(&e))?
            .ok_or_else(no_job)
    }
}

/// Somebody who watches a job.
struct Watch {
    deeds: Deeds,
    job: Uuid,
    draining: CancellationToken,
    /// As it was told last.
    seen: Option<Job>,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    /// The job when it has come further; none: it was over, or this process drains.
    async fn next(mut self) -> Option<(Result<WatchNotificationJobResponse, Status>, Self)> {
        loop {
            if let Some(seen) = &self.seen {
                if seen.state.is_over() {
                    return None;
                }
                tokio::select! {
                    () = self.draining.cancelled() => return None,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            let job = match within(self.deeds.bound, jobs::get(&self.deeds.pool, self.job)).await {
                Ok(Some(job)) => job,
                Ok(None) => return self.seen.is_none().then(|| (Err(no_job()), self)),
                Err(error) if self.seen.is_none() => return Some((Err(unavailable(&error)), self)),
                // It will be back, and the job with it.
                Err(_) => continue,
            };
            if self.seen.as_ref() != Some(&job) {
                self.seen = Some(job.clone());
                return Some((Ok(WatchNotificationJobResponse { job: Some(wire_job(job)) }), self));
            }
        }
    }
}

fn template_id(text: &str) -> Result<&str, Status> {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if fits { Ok(text) } else { Err(invalid("template.id", "must be 1 to 64 of A-Z, a-z, 0-9, _, - and .")) }
}

#[tonic::async_trait]
impl NotificationAdminService for NotificationAdmin {
    type WatchNotificationJobStream = BoxStream<'static, Result<WatchNotificationJobResponse, Status>>;

    async fn create_notification_job(
        &self,
        request: Request<CreateNotificationJobRequest>,
    ) -> Result<Response<CreateNotificationJobResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let recipients = Recipients::read(request.target.as_ref())?;
        let asked = Asked {
            kind: request.r#type.clone(),
            subject: request.subject.clone(),
            content_json: request.content_json.clone(),
            template_id: request.template_id.clone(),
            params: request.params.clone(),
        };
        let message = super::message(&self.deeds, &asked).await?;
        let new = NewJob {
            created_by: caller.to_string(),
            message: stored(&message)?,
            expires_at: request.expires_at.map(|at| time(at, "expires_at")).transpose()?,
            players: recipients.players.clone(),
            filter: recipients.filter.clone(),
        };
        let order = Order {
            caller: &caller,
            action: "NotificationAdminService/CreateNotificationJob",
            request_id: &request.request_id,
            subject: String::new(),
            detail: json!({"type": message.kind, "template_id": request.template_id, "to": recipients.detail()}),
        };
        let deed = async |conn: &mut PgConnection| create(conn, &recipients, new).await;
        let answer = |job| CreateNotificationJobResponse { job: Some(wire_job(job)) };
        let answer = self.deeds.order(&self.desk, order, &request, deed, answer).await?;
        self.wake.notify_one();
        Ok(Response::new(answer))
    }

    async fn get_notification_job(
        &self,
        request: Request<GetNotificationJobRequest>,
    ) -> Result<Response<GetNotificationJobResponse>, Status> {
        let job = self.job(id(&request.into_inner().job_id, "job_id")?).await?;
        Ok(Response::new(GetNotificationJobResponse { job: Some(wire_job(job)) }))
    }

    async fn list_notification_jobs(
        &self,
        request: Request<ListNotificationJobsRequest>,
    ) -> Result<Response<ListNotificationJobsResponse>, Status> {
        let request = request.into_inner();
        let (size, before) = (page_size(request.page_size), optional_id(&request.page_token, "page_token")?);
        let rows = within(self.deeds.bound, jobs::list(&self.deeds.pool, before, i64::from(size) + 1)).await;
        let mut rows = rows.map_err(|e| unavailable(&e))?;
        let next_page_token = cut(&mut rows, size, |job| job.id.to_string());
        Ok(Response::new(ListNotificationJobsResponse {
            jobs: rows.into_iter().map(wire_job).collect(),
            next_page_token,
        }))
    }

    async fn cancel_notification_job(
        &self,
        request: Request<CancelNotificationJobRequest>,
    ) -> Result<Response<CancelNotificationJobResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let job = id(&request.job_id, "job_id")?;
        let order = Order {
            caller: &caller,
            action: "NotificationAdminService/CancelNotificationJob",
            request_id: &request.request_id,
            subject: job.to_string(),
            detail: json!({}),
        };
        let deed = async |conn: &mut PgConnection| {
            let ended = jobs::end(conn, job, JobState::Cancelled, None).await?;
            Ok(ended.map(Done::quietly).ok_or_else(no_job))
        };
        let answer = |job| CancelNotificationJobResponse { job: Some(wire_job(job)) };
        Ok(Response::new(self.deeds.order(&self.desk, order, &request, deed, answer).await?))
    }

    async fn watch_notification_job(
        &self,
        request: Request<WatchNotificationJobRequest>,
    ) -> Result<Response<Self::WatchNotificationJobStream>, Status> {
        let job = id(&request.into_inner().job_id, "job_id")?;
        self.job(job).await?;
        let place = Arc::clone(&self.watchers).try_acquire_owned();
        let place = place.map_err(|_| status(ErrorCode::RATE_LIMITED, "64 watch already; ask GetNotificationJob"))?;
        let watch =
            Watch { deeds: self.deeds.clone(), job, draining: self.draining.clone(), seen: None, _place: place };
        Ok(Response::new(stream::unfold(watch, Watch::next).boxed()))
    }

    async fn put_template(
        &self,
        request: Request<PutTemplateRequest>,
    ) -> Result<Response<PutTemplateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let template = request.template.clone().ok_or_else(|| invalid("template", "is missing"))?;
        let which = template_id(&template.id)?;
        let texts = template.texts.into_iter().map(|text| (text.language, text.subject, text.content_json));
        let message = Message::of_template(&template.r#type, &template.default_language, texts)?;
        let (message, by) = (stored(&message)?, caller.to_string());
        let order = Order {
            caller: &caller,
            action: "NotificationAdminService/PutTemplate",
            request_id: &request.request_id,
            subject: which.to_owned(),
            detail: json!({"type": template.r#type, "default_language": template.default_language}),
        };
        let deed = async |conn: &mut PgConnection| {
            let put = templates::put(conn, which, &message, &by, TEMPLATES).await?;
            let Some(template) = put else {
                return Ok(Err(refusal("too_many_templates", "there are 1000 templates; delete some")));
            };
            Ok(wire_template(template).map(Done::quietly))
        };
        let answer = |template| PutTemplateResponse { template: Some(template) };
        Ok(Response::new(self.deeds.order(&self.desk, order, &request, deed, answer).await?))
    }

    async fn get_template(
        &self,
        request: Request<GetTemplateRequest>,
    ) -> Result<Response<GetTemplateResponse>, Status> {
        let which = request.into_inner().template_id;
        let found = within(self.deeds.bound, templates::get(&self.deeds.pool, template_id(&which)?)).await;
        let template = found.map_err(|e| unavailable(&e))?.ok_or_else(no_template)?;
        Ok(Response::new(GetTemplateResponse { template: Some(wire_template(template)?) }))
    }

    async fn list_templates(
        &self,
        request: Request<ListTemplatesRequest>,
    ) -> Result<Response<ListTemplatesResponse>, Status> {
        let request = request.into_inner();
        if !request.page_token.is_empty() {
            template_id(&request.page_token).map_err(|_| crate::wire::bad_token())?;
        }
        let size = page_size(request.page_size);
        let rows = templates::list(&self.deeds.pool, &request.page_token, i64::from(size) + 1);
        let mut rows = within(self.deeds.bound, rows).await.map_err(|e| unavailable(&e))?;
        let next_page_token = cut(&mut rows, size, |template| template.id.clone());
        let templates = rows.into_iter().map(wire_template).collect::<Result<_, _>>()?;
        Ok(Response::new(ListTemplatesResponse { templates, next_page_token }))
    }

    async fn delete_template(
        &self,
        request: Request<DeleteTemplateRequest>,
    ) -> Result<Response<DeleteTemplateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let which = template_id(&request.template_id)?;
        let order = Order {
            caller: &caller,
            action: "NotificationAdminService/DeleteTemplate",
            request_id: &request.request_id,
            subject: which.to_owned(),
            detail: json!({}),
        };
        let deed = async |conn: &mut PgConnection| {
            templates::delete(conn, which).await?;
            Ok(Ok::<_, Status>(Done::quietly(())))
        };
        let answer = self.deeds.order(&self.desk, order, &request, deed, |()| DeleteTemplateResponse {}).await?;
        Ok(Response::new(answer))
    }
}
