//! Backfill: the host of a running match is asked to seat players whom the queue chose for it. The states are in the room's first page.

use std::sync::Arc;

use asobi_proto::{
    bus::InboxEvent,
    match_v1::{AddPlayersRequest, match_host_service_client::MatchHostServiceClient},
};
use asobi_service_kit::grpc::with_deadline;
use asobi_store::{
    backfill::{self, Joining, Open},
    inbox,
};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::Code;
use uuid::Uuid;

use super::{ATTEMPTS, claim, create::reason};
use crate::{
    deps::{Error, Reign, Result, lock},
    frames,
    hosts::HostId,
    index::Taken,
};

/// Calls under way at once.
const CONCURRENT: usize = 64;

/// (b1) Claims tickets for a running match. True: the sweep's next look, or this one, has something to ask its host.
///
/// # Errors
/// The tickets are then in no index: whether they were claimed is unknown, and the queue is to be read again.
pub async fn claim_for(reign: &Reign, match_id: Uuid, taken: Taken) -> Result<bool> {
    let joining: Vec<Joining> = taken
        .group
        .tickets()
        .map(|t| Joining { ticket_id: t.ticket_id, rows: t.members.iter().map(|m| (m.row, m.player_id)).collect() })
        .collect();
    let claimed = reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            let claimed = backfill::claim(&mut tx, match_id, &joining).await?;
            tx.commit().await?;
            Ok(claimed)
        })
        .await?;
    reign.publish_stored(&claimed.told);
    let withdrawn = claimed.withdrawn.iter().copied().collect();
    claim::put_back(reign, taken, &claimed.free.iter().copied().collect(), &withdrawn);
    let mut index = lock(&reign.deps.index);
    for ticket in &claimed.withdrawn {
        index.remove(*ticket);
    }
    Ok(!claimed.players.is_empty())
}

/// Takes claims from the queue until it is closed. Ends when all it took is done.
pub async fn run(reign: Arc<Reign>, mut queue: mpsc::Receiver<Open>) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            job = queue.recv(), if calls.len() < CONCURRENT => {
                let Some(job) = job else { break };
                calls.spawn(join(Arc::clone(&reign), job));
            }
            Some(_) = calls.join_next() => {}
        }
    }
    while calls.join_next().await.is_some() {}
}

async fn join(reign: Arc<Reign>, job: Open) {
    if let Err(error) = settle(&reign, &job).await
        && matches!(error, Error::Store(_))
    {
        tracing::warn!(match.id = %job.match_id, %error, "Players could not join a running match for now; the rows are looked at again.");
    }
    reign.let_joining_go(job.match_id);
}

/// What the host says of the players it was asked to seat.
enum Answer {
    Seated(Vec<Uuid>),
    /// It will not, whenever it is asked.
    Refused(&'static str),
    /// It may have, or may yet.
    Unknown(&'static str),
}

/// (b2), then (b3) or (b4).
async fn settle(reign: &Reign, job: &Open) -> Result<()> {
    if !job.running {
        return put_back(reign, job.match_id, None, "the match is over").await;
    }
    match ask(reign, job).await {
        Answer::Seated(seated) => {
            tell(reign, job, &seated).await?;
            let refused: Vec<Uuid> = job.players.iter().filter(|player| !seated.contains(player)).copied().collect();
            if refused.is_empty() { Ok(()) } else { put_back(reign, job.match_id, Some(&refused), "refused").await }
        }
        Answer::Refused(why) => put_back(reign, job.match_id, None, why).await,
        Answer::Unknown(why) if usize::try_from(job.attempts).unwrap_or(0) + 1 >= ATTEMPTS => {
            put_back(reign, job.match_id, None, why).await
        }
        Answer::Unknown(why) => {
            tracing::info!(match.id = %job.match_id, problem = why, "A host did not say whom it seats; it is asked again.");
            reign
                .bounded(async {
                    let mut tx = reign.begin().await?;
                    backfill::attempted(&mut tx, job.match_id).await?;
                    Ok(tx.commit().await?)
                })
                .await
        }
    }
}

async fn ask(reign: &Reign, job: &Open) -> Answer {
    if !reign.leadership.is_valid() {
        return Answer::Unknown("the leadership is over");
    }
    let host = HostId { node: job.host_node.clone(), incarnation: job.host_incarnation };
    let Some(address) = lock(&reign.hosts).address(&host).map(str::to_owned) else {
        return Answer::Unknown("the host is gone or not ready");
    };
    let request = AddPlayersRequest {
        match_id: job.match_id.to_string(),
        epoch: job.epoch,
        term: reign.leadership.term,
        host_incarnation: job.host_incarnation,
        players: job.players.iter().map(Uuid::to_string).collect(),
    };
    let deadline = reign.deps.limits.create;
    let mut client = MatchHostServiceClient::new(reign.deps.channels.get(&address));
    let answer = tokio::time::timeout(deadline, client.add_players(with_deadline(request, deadline))).await;
    match answer {
        Ok(Ok(answer)) => {
            let seated = answer.into_inner().seated;
            Answer::Seated(seated.iter().filter_map(|id| Uuid::parse_str(id).ok()).collect())
        }
        Ok(Err(status)) => match status.code() {
            code @ (Code::NotFound | Code::FailedPrecondition | Code::ResourceExhausted) => {
                Answer::Refused(reason(code))
            }
            code => Answer::Unknown(reason(code)),
        },
        Err(_) => Answer::Unknown(reason(Code::DeadlineExceeded)),
    }
}

/// (b3) Who is seated is told so, in the transaction that ends the claim.
async fn tell(reign: &Reign, job: &Open, seated: &[Uuid]) -> Result<()> {
    if seated.is_empty() {
        return Ok(());
    }
    let (seqs, events) = reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            let Some((told, joined)) = backfill::seated(&mut tx, job.match_id, seated).await? else {
                return Ok((Vec::new(), Vec::new()));
            };
            let events: Vec<(Uuid, InboxEvent)> =
                told.into_iter().map(|player| (player, frames::joined(job.match_id, &joined))).collect();
            let seqs = inbox::append(&mut tx, &events).await?;
            tx.commit().await?;
            Ok((seqs, events))
        })
        .await?;
    reign.publish(&seqs, &events);
    metrics::counter!("asobi_matchmaker_backfilled_total").increment(events.len() as u64);
    Ok(())
}

/// (b4) Seats go, tickets wait again with their old times. `players`: those the host refused; none: all that are left.
///
/// # Errors
/// When the database fails or this leadership is over.
pub async fn put_back(reign: &Reign, match_id: Uuid, players: Option<&[Uuid]>, why: &'static str) -> Result<()> {
    let (back, events, seqs) = reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            let back = backfill::put_back(&mut tx, match_id, players).await?;
            let events: Vec<_> =
                back.failed.iter().map(|player| (*player, frames::failed("match_start_failed"))).collect();
            let seqs = inbox::append(&mut tx, &events).await?;
            tx.commit().await?;
            Ok((back, events, seqs))
        })
        .await?;
    reign.publish(&seqs, &events);
    tracing::info!(match.id = %match_id, why, tickets.requeued = back.requeued.len(), tickets.failed = back.failed.len(),
        "Players did not join a running match and wait again.");
    metrics::counter!("asobi_matchmaker_backfill_refused_total")
        .increment((back.requeued.len() + back.failed.len()) as u64);
    reign.requeue(back.requeued);
    Ok(())
}
