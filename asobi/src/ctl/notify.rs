//! `asobi ctl notify`: telling players something, many at once, in their languages. A social service answers; which of them carries a job out
//! is theirs to say.

mod templates;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use asobi_cluster::Role;
use asobi_proto::social_v1::{
    CancelNotificationJobRequest, CreateNotificationJobRequest, GetNotificationJobRequest, ListNotificationJobsRequest,
    NotificationJob, NotificationJobState, PlayerFilter, PlayerList, WatchNotificationJobRequest,
    create_notification_job_request::Target, notification_admin_service_client::NotificationAdminServiceClient,
};
use asobi_service_kit::grpc::{ClusterChannel, with_deadline};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};
use tonic::{Response, Status, Streaming};
use uuid::Uuid;

use super::{
    Ctl, DEADLINE,
    given::{duration, request_id, timestamp},
    output, refusal,
    shown::when,
};

/// Tell players something: to some by their ids, or to all who are of a kind
#[derive(Debug, Args)]
pub struct NotifyArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Create a job that tells players, each once; it goes on whatever dies
    Send(Box<SendArgs>),
    /// The jobs there are, newest first; one of them, its progress, its end
    Jobs {
        #[command(subcommand)]
        order: Option<JobOrder>,
    },
    /// The texts that notifications are made of
    Templates {
        #[command(subcommand)]
        order: Option<templates::TemplateOrder>,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).multiple(true))]
struct SendArgs {
    /// A player; may be repeated
    #[arg(long, value_name = "PLAYER", group = "target", conflicts_with_all = ["all", "guest", "language", "group", "registered_after", "registered_before"])]
    to: Vec<Uuid>,
    /// A file of players, one id a line
    #[arg(long, value_name = "FILE", group = "target", conflicts_with_all = ["all", "guest", "language", "group", "registered_after", "registered_before"])]
    to_file: Option<PathBuf>,
    /// Every player there is
    #[arg(long, group = "target")]
    all: bool,
    /// Guests only (true), or accounts only (false)
    #[arg(long, value_name = "BOOL", group = "target")]
    guest: Option<bool>,
    /// Players of this language, by metadata.language: de is also de-AT's
    #[arg(long, value_name = "TAG", group = "target")]
    language: Option<String>,
    /// Members of this group
    #[arg(long, value_name = "GROUP", group = "target")]
    group: Option<Uuid>,
    /// Players who registered after this: 2026-11-27, or 2026-11-27T12:00:00Z
    #[arg(long, value_name = "TIME", group = "target", value_parser = moment)]
    registered_after: Option<OffsetDateTime>,
    /// Players who registered before this
    #[arg(long, value_name = "TIME", group = "target", value_parser = moment)]
    registered_before: Option<OffsetDateTime>,
    /// What kind of notification it is, for the client
    #[arg(long = "type", value_name = "TYPE", required_unless_present = "template")]
    kind: Option<String>,
    #[arg(long, value_name = "TEXT", conflicts_with = "template")]
    subject: Option<String>,
    /// A JSON object
    #[arg(long, value_name = "JSON", conflicts_with = "template")]
    content: Option<String>,
    /// A template's texts instead: each player has the one of their language
    #[arg(long, value_name = "ID", conflicts_with = "kind")]
    template: Option<String>,
    /// What a placeholder of the template stands for; may be repeated
    #[arg(long, value_name = "NAME=VALUE", requires = "template", value_parser = pair)]
    param: Vec<(String, String)>,
    /// How long it is shown: 30m, 12h, 7d. Without it, until it is old
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires_in: Option<Duration>,
    /// Whoever sends the same under the same id has sent it once
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Watch it until it is over
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Subcommand)]
enum JobOrder {
    /// All of them, newest first
    List,
    /// One as it is now
    Show { id: Uuid },
    /// One until it is over
    Watch { id: Uuid },
    /// Tell nobody else; who was told stays told
    Cancel { id: Uuid },
}

type Admin = NotificationAdminServiceClient<ClusterChannel>;

pub async fn run(args: &NotifyArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        Order::Send(args) => send(args, ctl).await,
        Order::Jobs { order: None | Some(JobOrder::List) } => list_jobs(ctl).await,
        Order::Jobs { order: Some(JobOrder::Show { id }) } => {
            let request = GetNotificationJobRequest { job_id: id.to_string() };
            let answer = ask(ctl, request, async |mut c, r| c.get_notification_job(with_deadline(r, DEADLINE)).await);
            show(ctl, &answer.await?.job.unwrap_or_default());
            Ok(())
        }
        Order::Jobs { order: Some(JobOrder::Watch { id }) } => watch(ctl, &id.to_string()).await,
        Order::Jobs { order: Some(JobOrder::Cancel { id }) } => {
            let request = CancelNotificationJobRequest { request_id: request_id(), job_id: id.to_string() };
            let answer =
                ask(ctl, request, async |mut c, r| c.cancel_notification_job(with_deadline(r, DEADLINE)).await);
            show(ctl, &answer.await?.job.unwrap_or_default());
            Ok(())
        }
        Order::Templates { order } => templates::run(order.as_ref(), ctl).await,
    }
}

/// Any social service will do, and another one when that is away: orders carry a request id.
async fn ask<M: Clone, T>(
    ctl: &Ctl,
    message: M,
    call: impl AsyncFn(Admin, M) -> Result<Response<T>, Status>,
) -> anyhow::Result<T> {
    ctl.ask(Some(Role::Social), async |channel| call(Admin::new(channel), message.clone()).await).await
}

async fn send(args: &SendArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let request = CreateNotificationJobRequest {
        request_id: args.request_id.clone().unwrap_or_else(request_id),
        target: Some(target(args)?),
        r#type: args.kind.clone().unwrap_or_default(),
        subject: args.subject.clone().unwrap_or_default(),
        content_json: args.content.clone().unwrap_or_default(),
        template_id: args.template.clone().unwrap_or_default(),
        params: args.param.iter().cloned().collect(),
        expires_at: args.expires_in.map(|life| timestamp(OffsetDateTime::now_utc() + life)),
    };
    let answer = ask(ctl, request, async |mut c, r| c.create_notification_job(with_deadline(r, DEADLINE)).await);
    let job = answer.await?.job.unwrap_or_default();
    if args.watch {
        return watch(ctl, &job.id).await;
    }
    show(ctl, &job);
    Ok(())
}

fn target(args: &SendArgs) -> anyhow::Result<Target> {
    let mut players: Vec<String> = args.to.iter().map(Uuid::to_string).collect();
    if let Some(file) = &args.to_file {
        players.extend(ids(&read(file)?)?);
        ensure!(!players.is_empty(), "{} names no players", file.display());
    }
    if !players.is_empty() {
        return Ok(Target::Players(PlayerList { player_ids: players }));
    }
    Ok(Target::Filter(PlayerFilter {
        registered_after: args.registered_after.map(timestamp),
        registered_before: args.registered_before.map(timestamp),
        guest: args.guest,
        group_id: args.group.map(|id| id.to_string()).unwrap_or_default(),
        language: args.language.clone().unwrap_or_default(),
    }))
}

fn ids(text: &str) -> anyhow::Result<Vec<String>> {
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    let id = |(n, line): (usize, &str)| {
        let id = Uuid::parse_str(line).with_context(|| format!("line {} is no player's id: {line}", n + 1))?;
        anyhow::Ok(id.to_string())
    };
    lines.map(id).collect()
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

async fn list_jobs(ctl: &Ctl) -> anyhow::Result<()> {
    let (mut jobs, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListNotificationJobsRequest { page_size: 100, page_token };
        let answer = ask(ctl, request, async |mut c, r| c.list_notification_jobs(with_deadline(r, DEADLINE)).await);
        let page = answer.await?;
        jobs.extend(page.jobs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        output::json(&jobs.iter().map(object).collect());
    } else {
        output::line(&table(&jobs));
    }
    Ok(())
}

fn show(ctl: &Ctl, job: &NotificationJob) {
    if ctl.json {
        output::json(&object(job));
    } else {
        output::line(&table(std::slice::from_ref(job)));
    }
}

/// Follows a job to its end, at another service when one goes away.
async fn watch(ctl: &Ctl, id: &str) -> anyhow::Result<()> {
    let mut progress = Progress::new(ctl);
    loop {
        let request = WatchNotificationJobRequest { job_id: id.to_owned() };
        // Without a deadline: it lasts as long as the job.
        let mut jobs: Streaming<_> =
            ask(ctl, request, async |mut c, r| c.watch_notification_job(tonic::Request::new(r)).await).await?;
        loop {
            match jobs.message().await {
                Ok(Some(seen)) => {
                    let job = seen.job.unwrap_or_default();
                    progress.show(&job);
                    match job.state() {
                        NotificationJobState::Done => return Ok(()),
                        NotificationJobState::Cancelled => bail!("the job was cancelled"),
                        NotificationJobState::Failed => bail!("the job has failed: {}", job.failure),
                        _ => {}
                    }
                }
                // Its service stops, or is gone: the job goes on elsewhere.
                Ok(None) => break,
                Err(status) if asobi_service_kit::grpc::error_code(&status).is_none() => break,
                Err(status) => return Err(refusal(&status)),
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One line that is written over, for people at a terminal; a line each time for others.
struct Progress {
    json: bool,
    over: bool,
    /// When it was seen first, and how far the job was then.
    begun: Option<(Instant, i64)>,
}

impl Progress {
    fn new(ctl: &Ctl) -> Self {
        Self { json: ctl.json, over: !ctl.json && io::stdout().is_terminal(), begun: None }
    }

    fn show(&mut self, job: &NotificationJob) {
        if self.json {
            return output::json(&object(job));
        }
        let (begun, before) = *self.begun.get_or_insert((Instant::now(), job.done));
        let line = progress(job, job.done - before, begun.elapsed());
        if !self.over {
            return output::line(&line);
        }
        let end = if job.finished_at.is_some() { "\n" } else { "" };
        let mut out = io::stdout().lock();
        let _gone = write!(out, "\r\x1b[K{line}{end}").and_then(|()| out.flush());
    }
}

fn progress(job: &NotificationJob, came: i64, took: Duration) -> String {
    const WIDTH: i64 = 24;
    let mut line = state(job).to_owned();
    match job.total {
        Some(total) if total > 0 => {
            let done = (job.done.min(total) * WIDTH / total).clamp(0, WIDTH);
            let bar: String = (0..WIDTH).map(|at| if at < done { '#' } else { '.' }).collect();
            line += &format!("  [{bar}]  {} of {total}", job.done);
        }
        _ => line += &format!("  {}", job.done),
    }
    if came > 0 && took > Duration::from_millis(200) {
        line += &format!("  {:.0}/s", came as f64 / took.as_secs_f64());
    }
    if job.failed > 0 {
        line += &format!("  {} gone", job.failed);
    }
    if !job.failure.is_empty() {
        line += &format!("  {}", job.failure);
    }
    line
}

fn state(job: &NotificationJob) -> &'static str {
    match job.state() {
        NotificationJobState::Waiting => "waiting",
        NotificationJobState::Running => "running",
        NotificationJobState::Done => "done",
        NotificationJobState::Cancelled => "cancelled",
        NotificationJobState::Failed => "failed",
        NotificationJobState::Unspecified => "?",
    }
}

fn object(job: &NotificationJob) -> Value {
    json!({
        "id": job.id,
        "state": state(job),
        "type": job.r#type,
        "subject": job.subject,
        "total": job.total,
        "done": job.done,
        "told": job.told,
        "failed": job.failed,
        "created_by": job.created_by,
        "created_at": when(job.created_at),
        "started_at": when(job.started_at),
        "finished_at": when(job.finished_at),
        "expires_at": when(job.expires_at),
        "failure": job.failure,
    })
}

fn table(jobs: &[NotificationJob]) -> String {
    let row = |job: &NotificationJob| {
        [
            job.id.clone(),
            state(job).to_owned(),
            job.total.map_or_else(|| job.done.to_string(), |total| format!("{} of {total}", job.done)),
            job.failed.to_string(),
            job.r#type.clone(),
            job.created_by.clone(),
            when(job.created_at).unwrap_or_default(),
            if job.failure.is_empty() { job.subject.clone() } else { job.failure.clone() },
        ]
    };
    let rows: Vec<_> = jobs.iter().map(row).collect();
    output::table(["job", "state", "players", "gone", "type", "by", "created", "subject"], &rows)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a name and a value, such as season=3")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    let day = || Date::parse(text, format_description!("[year]-[month]-[day]")).map(|day| day.midnight().assume_utc());
    OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| day())
        .map_err(|_| "a day such as 2026-11-27, or a time such as 2026-11-27T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_read_or_refused() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("a").is_err());
        assert_eq!(moment("2026-11-27").map(OffsetDateTime::unix_timestamp), Ok(1_795_737_600));
        assert_eq!(moment("2026-11-27T00:00:01Z").map(OffsetDateTime::unix_timestamp), Ok(1_795_737_601));
        assert!(moment("yesterday").is_err());
        let id = Uuid::max();
        assert_eq!(ids(&format!("\n {id} \n")).ok(), Some(vec![id.to_string()]));
        assert!(ids("nobody").is_err_and(|error| error.to_string().starts_with("line 1 ")));
    }

    #[test]
    fn progress_reads_well() {
        let job = NotificationJob {
            state: NotificationJobState::Running.into(),
            total: Some(1_000),
            done: 500,
            failed: 2,
            ..NotificationJob::default()
        };
        let line = progress(&job, 400, Duration::from_secs(2));
        assert_eq!(line, "running  [############............]  500 of 1000  200/s  2 gone");
        let uncounted = NotificationJob { total: None, failed: 0, ..job };
        assert_eq!(progress(&uncounted, 0, Duration::ZERO), "running  500");
    }
}
