//! Step 2: the host is asked to run the match; another one when it cannot.

use std::{sync::Arc, time::Instant};

use asobi_proto::match_v1::{CreateMatchRequest, Team, match_host_service_client::MatchHostServiceClient};
use asobi_service_kit::{grpc::with_deadline, telemetry};
use asobi_store::allocation::{self, Open};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::Code;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{ATTEMPTS, Lost, Tell, host_of, lose};
use crate::{
    deps::{Error, Reign, Result, lock},
    frames,
    hosts::{HostId, Wish},
};

/// Calls under way at once.
const CONCURRENT: usize = 128;

/// Takes matches from the queue until it is closed, and hands on those that are past `allocating`. Ends when all it took is done.
pub async fn run(reign: Arc<Reign>, mut queue: mpsc::Receiver<Open>, tells: mpsc::Sender<Tell>) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            job = queue.recv(), if calls.len() < CONCURRENT => {
                let Some(job) = job else { break };
                calls.spawn(place(Arc::clone(&reign), job, tells.clone()));
            }
            Some(_) = calls.join_next() => {}
        }
    }
    while calls.join_next().await.is_some() {}
}

async fn place(reign: Arc<Reign>, job: Open, tells: mpsc::Sender<Tell>) {
    let (match_id, traceparent) = (job.id, job.traceparent.clone());
    let span =
        asobi_trace::under!(traceparent.as_deref(), "place match", asobi.match.id = %match_id, asobi.mode = job.mode);
    let started = Instant::now();
    match settle(&reign, job).instrument(span).await {
        // The teller lets go of it.
        Ok(true) => {
            reign.not_stranded([match_id]);
            metrics::histogram!("asobi_matchmaker_create_seconds").record(started.elapsed());
            let _ = tells.send(Tell { match_id, traceparent }).await;
        }
        Ok(false) => reign.let_go([match_id]),
        Err(error) => {
            if matches!(error, Error::Store(_)) {
                tracing::warn!(match.id = %match_id, %error, "A match could not be placed for now; its row is looked at again.");
            }
            reign.let_go([match_id]);
        }
    }
}

/// Brings a match past `allocating`. True: there is something to tell.
async fn settle(reign: &Reign, mut job: Open) -> Result<bool> {
    let mut tried: Vec<HostId> = Vec::new();
    loop {
        let host = host_of(&job);
        let Err(problem) = ask(reign, &job, &host).await else { return Ok(true) };
        tracing::info!(match.id = %job.id, match.epoch = job.epoch, host.node = host.node, problem, "A host did not take a match.");
        metrics::counter!("asobi_matchmaker_create_failures_total").increment(1);
        tried.push(host);
        let next = next_host(reign, &job, &tried);
        let moved = match &next {
            Some(next) => reassign(reign, &job, next).await?,
            // The next look at the rows tries again.
            None if job.failovers > 0 && reign.stranded_for(job.id, Instant::now()) < reign.deps.limits.failover => {
                return Ok(false);
            }
            None => {
                if give_up(reign, &job).await? {
                    return Ok(false);
                }
                false
            }
        };
        match (moved, next) {
            (true, Some(next)) => {
                job.host_node = next.node;
                job.host_incarnation = next.incarnation;
                job.epoch += 1;
                job.attempts += 1;
            }
            _ => return stands(reign, &job).await,
        }
    }
}

/// Who is asked next; none: nobody, for now. A match whose players know of it is worth more tries than one that they can queue for again: its
/// bound is a time.
fn next_host(reign: &Reign, job: &Open, tried: &[HostId]) -> Option<HostId> {
    let running = job.failovers > 0;
    let attempts = if running { tried.len() } else { usize::try_from(job.attempts).unwrap_or(0) };
    if attempts >= ATTEMPTS {
        return None;
    }
    let version = if running && !reign.deps.limits.any_version { job.version.as_str() } else { "" };
    let wish = Wish { mode: &job.mode, regions: &job.regions, version, tried };
    let (mut hosts, now) = (lock(&reign.hosts), Instant::now());
    if running { hosts.choose_for_running(&wish, now).ok() } else { hosts.choose(&wish, now).ok() }
}

/// Where the row stands when a compare-and-set did not hit: the host has claimed it after all, or another leader has moved it.
async fn stands(reign: &Reign, job: &Open) -> Result<bool> {
    let row = reign.bounded(async { Ok(allocation::open(&reign.deps.pool, job.id).await?) }).await?;
    // One that is allocating under another epoch is its mover's business.
    Ok(row.is_some_and(|row| row.state != "allocating"))
}

/// One call; the error is why this host does not run it.
async fn ask(reign: &Reign, job: &Open, host: &HostId) -> Result<(), &'static str> {
    if !reign.leadership.is_valid() {
        return Err("the leadership is over");
    }
    let Some(address) = lock(&reign.hosts).address(host).map(str::to_owned) else {
        return Err("the host is gone or not ready");
    };
    let request = CreateMatchRequest {
        teams: teams(job),
        match_id: job.id.to_string(),
        mode: job.mode.clone(),
        epoch: job.epoch,
        term: reign.leadership.term,
        host_incarnation: job.host_incarnation,
        players: job.players.iter().map(Uuid::to_string).collect(),
        restore: job.failovers > 0,
        traceparent: telemetry::traceparent().unwrap_or_default(),
    };
    let deadline = reign.deps.limits.create;
    let mut client = MatchHostServiceClient::new(reign.deps.channels.get(&address));
    // The deadline in the request is the host's; ours also covers a connection that swallows everything.
    let answer = tokio::time::timeout(deadline, client.create_match(with_deadline(request, deadline))).await;
    let code = match answer {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(status)) => status.code(),
        Err(_) => Code::DeadlineExceeded,
    };
    if !matches!(code, Code::NotFound | Code::FailedPrecondition | Code::ResourceExhausted) {
        lock(&reign.hosts).suspect(host, Instant::now());
    }
    Err(reason(code))
}

/// As they were formed; a row that cannot be read has none.
fn teams(job: &Open) -> Vec<Team> {
    let stored: Option<Vec<Vec<String>>> = job.teams.clone().and_then(|teams| serde_json::from_value(teams).ok());
    stored.unwrap_or_default().into_iter().map(|players| Team { players }).collect()
}

pub(super) fn reason(code: Code) -> &'static str {
    match code {
        Code::NotFound => "it does not serve the mode",
        Code::FailedPrecondition => "another incarnation, epoch or term holds",
        Code::ResourceExhausted => "it is full",
        Code::Unavailable => "it cannot be reached, or drains",
        Code::DeadlineExceeded | Code::Cancelled => "it did not answer in time",
        _ => "it failed",
    }
}

async fn reassign(reign: &Reign, job: &Open, next: &HostId) -> Result<bool> {
    reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            let moved = allocation::reassign(&mut tx, job, &next.node, next.incarnation, reign.leadership.term).await?;
            tx.commit().await?;
            Ok(moved)
        })
        .await
}

/// True: the match is no more, and its tickets wait again or their players were told.
async fn give_up(reign: &Reign, job: &Open) -> Result<bool> {
    if job.failovers > 0 {
        return lose(reign, &[(job.id, job.epoch)], Lost::Stranded).await.map(|lost| lost > 0);
    }
    give_up_all(reign, &[(job.id, job.epoch)], false).await.map(|given_up| given_up > 0)
}

/// Gives up matches that nobody was told of; `started`: also those that run, because their host is gone. Answers how many.
pub async fn give_up_all(reign: &Reign, matches: &[(Uuid, i64)], started: bool) -> Result<usize> {
    let (given_up, events, seqs) = reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            let given_up = allocation::give_up(&mut tx, matches, true, started).await?;
            let events: Vec<_> =
                given_up.failed.iter().map(|player| (*player, frames::failed("match_start_failed"))).collect();
            let seqs = asobi_store::inbox::append(&mut tx, &events).await?;
            tx.commit().await?;
            Ok((given_up, events, seqs))
        })
        .await?;
    reign.publish(&seqs, &events);
    if !given_up.matches.is_empty() {
        tracing::warn!(
            matches = given_up.matches.len(),
            tickets.requeued = given_up.requeued.len(),
            tickets.failed = given_up.failed.len(),
            "Matches could not be started and were given up.",
        );
    }
    metrics::counter!("asobi_matchmaker_tickets_ended_total", "reason" => "match_start_failed")
        .increment(given_up.failed.len() as u64);
    reign.requeue(given_up.requeued);
    Ok(given_up.matches.len())
}
