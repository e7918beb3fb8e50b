//! `asobi ctl notify`: telling players something, many at once, in their languages. A social service answers; which of them carries a job out
//! is theirs to say.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use asobi_cluster::Role;
use asobi_proto::social_v1::{
    CancelNotificationJobRequest, CreateNotificationJobRequest, DeleteTemplateRequest, GetNotificationJobRequest,
    GetTemplateRequest, ListNotificationJobsRequest, ListTemplatesRequest, NotificationJob, NotificationJobState,
    NotificationTemplate, PlayerFilter, PlayerList, PutTemplateRequest, TemplateText, WatchNotificationJobRequest,
    create_notification_job_request::Target, notification_admin_service_client::NotificationAdminServiceClient,
};
use asobi_service_kit::grpc::{ClusterChannel, with_deadline};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};
use tonic::{Response, Status, Streaming};
use uuid::Uuid;

use super::{Ctl, DEADLINE, output, refusal};

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
        order: Option<TemplateOrder>,
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
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
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

#[derive(Debug, Subcommand)]
enum TemplateOrder {
    /// All of them, by id
    List,
    /// One with its texts, as `put` takes it
    Show { id: String },
    /// Store the template of a JSON file: {"id": …, "type": …, "default_language": "en", "texts": {"en": {"subject": …, "content": {…}}}}
    Put { file: PathBuf },
    /// Delete one; no error when there is none
    Rm { id: String },
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
            let request = CancelNotificationJobRequest { request_id: fresh(), job_id: id.to_string() };
            let answer =
                ask(ctl, request, async |mut c, r| c.cancel_notification_job(with_deadline(r, DEADLINE)).await);
            show(ctl, &answer.await?.job.unwrap_or_default());
            Ok(())
        }
        Order::Templates { order } => templates(order.as_ref().unwrap_or(&TemplateOrder::List), ctl).await,
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

/// An order that is sent to a second service is the same order.
fn fresh() -> String {
    Uuid::now_v7().to_string()
}

async fn send(args: &SendArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let request = CreateNotificationJobRequest {
        request_id: args.request_id.clone().unwrap_or_else(fresh),
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
        "created_at": written(job.created_at),
        "started_at": written(job.started_at),
        "finished_at": written(job.finished_at),
        "expires_at": written(job.expires_at),
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
            written(job.created_at).unwrap_or_default(),
            if job.failure.is_empty() { job.subject.clone() } else { job.failure.clone() },
        ]
    };
    let rows: Vec<_> = jobs.iter().map(row).collect();
    output::table(["job", "state", "players", "gone", "type", "by", "created", "subject"], &rows)
}

fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.unix_timestamp(), nanos: 0 }
}

fn written(at: Option<prost_types::Timestamp>) -> Option<String> {
    at.and_then(|at| OffsetDateTime::from_unix_timestamp(at.seconds).ok()?.format(&Rfc3339).ok())
}

/// A template as a file holds it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    default_language: String,
    texts: BTreeMap<String, Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    subject: String,
    #[serde(default)]
    content: serde_json::Map<String, Value>,
}

impl From<Template> for NotificationTemplate {
    fn from(template: Template) -> Self {
        let texts = template.texts.into_iter().map(|(language, text)| TemplateText {
            language,
            subject: text.subject,
            content_json: Value::Object(text.content).to_string(),
        });
        Self {
            id: template.id,
            r#type: template.kind,
            default_language: template.default_language,
            texts: texts.collect(),
            ..Self::default()
        }
    }
}

async fn templates(order: &TemplateOrder, ctl: &Ctl) -> anyhow::Result<()> {
    match order {
        TemplateOrder::List => list_templates(ctl).await,
        TemplateOrder::Show { id } => {
            let request = GetTemplateRequest { template_id: id.clone() };
            let answer = ask(ctl, request, async |mut c, r| c.get_template(with_deadline(r, DEADLINE)).await).await?;
            output::json(&template_object(&answer.template.unwrap_or_default()));
            Ok(())
        }
        TemplateOrder::Put { file } => {
            let template: Template = serde_json::from_str(&read(file)?).with_context(|| {
                format!("{} is no template; see `asobi ctl notify templates put --help`", file.display())
            })?;
            let id = template.id.clone();
            let request = PutTemplateRequest { request_id: fresh(), template: Some(template.into()) };
            ask(ctl, request, async |mut c, r| c.put_template(with_deadline(r, DEADLINE)).await).await?;
            told(ctl, &id, "stored");
            Ok(())
        }
        TemplateOrder::Rm { id } => {
            let request = DeleteTemplateRequest { request_id: fresh(), template_id: id.clone() };
            ask(ctl, request, async |mut c, r| c.delete_template(with_deadline(r, DEADLINE)).await).await?;
            told(ctl, id, "deleted");
            Ok(())
        }
    }
}

fn told(ctl: &Ctl, id: &str, done: &str) {
    if ctl.json {
        output::json(&json!({"template_id": id, "done": done}));
    } else {
        output::line(&format!("{id} was {done}"));
    }
}

async fn list_templates(ctl: &Ctl) -> anyhow::Result<()> {
    let (mut templates, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTemplatesRequest { page_size: 100, page_token };
        let page = ask(ctl, request, async |mut c, r| c.list_templates(with_deadline(r, DEADLINE)).await).await?;
        templates.extend(page.templates);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        output::json(&templates.iter().map(template_object).collect());
        return Ok(());
    }
    let row = |t: &NotificationTemplate| {
        let languages: Vec<&str> = t.texts.iter().map(|text| text.language.as_str()).collect();
        [
            t.id.clone(),
            t.r#type.clone(),
            t.default_language.clone(),
            languages.join(","),
            t.updated_by.clone(),
            written(t.updated_at).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = templates.iter().map(row).collect();
    output::line(&output::table(["template", "type", "default", "languages", "by", "updated"], &rows));
    Ok(())
}

fn template_object(template: &NotificationTemplate) -> Value {
    let text = |text: &TemplateText| {
        let content: Value = serde_json::from_str(&text.content_json).unwrap_or_default();
        (text.language.clone(), json!({"subject": text.subject, "content": content}))
    };
    json!({
        "id": template.id,
        "type": template.r#type,
        "default_language": template.default_language,
        "texts": template.texts.iter().map(text).collect::<serde_json::Map<_, _>>(),
    })
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

/// A whole number and its unit, at most ten years.
fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || "a number and m, h or d, such as 7d; at most ten years".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let unit = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u32>().map(|number| u64::from(number) * unit).map_err(|_| wrong())?;
    if (1..=3_650 * 86_400).contains(&seconds) { Ok(Duration::from_secs(seconds)) } else { Err(wrong()) }
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
        assert_eq!(lifetime("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in ["", "d", "0d", "7w", "4000d", "-1d", "7ü"] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
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

    #[test]
    fn a_template_file_is_what_show_prints() {
        let text = r#"{"id":"a","type":"news","default_language":"en","texts":{"de":{"subject":"Hallo","content":{"n":1}},"en":{"subject":"Hi"}}}"#;
        let template: NotificationTemplate = serde_json::from_str::<Template>(text).unwrap().into();
        let again: NotificationTemplate =
            serde_json::from_value::<Template>(template_object(&template)).unwrap().into();
        assert_eq!((template.texts.len(), &again), (2, &template));
        assert!(serde_json::from_str::<Template>(r#"{"id":"a","texts":{}}"#).is_err());
    }
}
