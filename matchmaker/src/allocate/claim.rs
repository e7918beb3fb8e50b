//! Step 1: tickets become matches, many groups in one fenced transaction.

use std::{collections::HashSet, time::Instant};

use asobi_store::allocation::{self, Forming, Open};
use serde_json::json;
use tracing::Instrument as _;
use uuid::Uuid;

use super::traces;
use crate::{
    deps::{Reign, Result, lock},
    hosts::HostId,
    index::{Taken, Waiting},
};

/// Groups with the host each was given.
pub type Batch = Vec<(Taken, HostId)>;

/// Claims a batch; answers the matches that are allocating now. Tickets of groups that were broken up are back in the index as far as
/// they are still pending.
///
/// # Errors
/// The tickets of the batch are then in no index: whether they were claimed is unknown, and the queue is to be read again.
pub async fn claim(reign: &Reign, batch: Batch) -> Result<Vec<Open>> {
    let mut forming: Vec<Forming> = batch.iter().map(|(taken, host)| forming(taken, host)).collect();
    let decisions = traces::decide(&batch, &mut forming);
    reign.take_in_hand(forming.iter().map(|f| f.match_id));
    let claimed = reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            let claimed = allocation::claim(&mut tx, &forming, reign.leadership.term).await?;
            tx.commit().await?;
            Ok(claimed)
        })
        .instrument(traces::sql(&decisions, "claim matches", "matches"))
        .await;
    drop(decisions);
    let claimed = match claimed {
        Ok(claimed) => claimed,
        Err(error) => {
            reign.let_go(forming.iter().map(|f| f.match_id));
            return Err(error);
        }
    };
    reign.publish_stored(&claimed.told);
    let withdrawn: HashSet<Uuid> = claimed.withdrawn.iter().copied().collect();
    let mut made = Vec::with_capacity(claimed.formed.len());
    let mut broken = 0_u64;
    for (form, (taken, _)) in forming.into_iter().zip(batch) {
        if claimed.formed.contains(&form.match_id) {
            note_formed(reign, &taken);
            made.push(allocating(form));
            continue;
        }
        broken += 1;
        reign.let_go([form.match_id]);
        put_back(reign, taken, &claimed.free, &withdrawn);
    }
    let mut index = lock(&reign.deps.index);
    for ticket in &claimed.withdrawn {
        index.remove(*ticket);
    }
    metrics::counter!("asobi_matchmaker_groups_total", "outcome" => "formed").increment(made.len() as u64);
    metrics::counter!("asobi_matchmaker_groups_total", "outcome" => "broken_up").increment(broken);
    Ok(made)
}

/// Puts the tickets of a group that did not come about back into the index: its own where they are `free`, their siblings, which were no
/// part of the claim, unless they were withdrawn with a seat elsewhere.
pub fn put_back(reign: &Reign, taken: Taken, free: &HashSet<Uuid>, withdrawn: &HashSet<Uuid>) {
    let own: HashSet<Uuid> = taken.group.tickets().map(|t| t.ticket_id).collect();
    let keep = |id: Uuid| if own.contains(&id) { free.contains(&id) } else { !withdrawn.contains(&id) };
    lock(&reign.deps.index).put_back(taken, keep);
}

/// How long everybody in a group has waited, for estimates and metrics.
pub fn note_formed(reign: &Reign, taken: &Taken) {
    let now_us = lock(&reign.deps.clock).now_us();
    let waits =
        metrics::histogram!("asobi_matchmaker_wait_seconds", "mode" => lock(&reign.deps.labels).of(&taken.mode));
    let wait_us = |ticket: &Waiting| now_us.saturating_sub(ticket.submitted_us).max(0);
    for ticket in taken.group.tickets() {
        waits.record(wait_us(ticket) as f64 / 1e6);
    }
    let waits = taken.group.tickets().flat_map(|t| std::iter::repeat_n(wait_us(t) / 1_000, t.size()));
    lock(&reign.deps.history).matched(&taken.mode, waits, Instant::now());
}

fn forming(taken: &Taken, host: &HostId) -> Forming {
    let seats = |team: &Vec<std::sync::Arc<Waiting>>| -> Vec<Uuid> { team.iter().flat_map(|t| t.players()).collect() };
    Forming {
        match_id: Uuid::now_v7(),
        mode: taken.mode.clone(),
        host_node: host.node.clone(),
        host_incarnation: host.incarnation,
        tickets: taken.group.tickets().flat_map(|t| t.members.iter().map(|m| (m.row, m.player_id))).collect(),
        teams: taken.named_teams.then(|| taken.group.teams.iter().map(seats).collect()),
        regions: taken.regions.clone(),
        traceparent: None,
    }
}

fn allocating(form: Forming) -> Open {
    Open {
        id: form.match_id,
        mode: form.mode,
        state: "allocating".into(),
        host_node: form.host_node,
        host_incarnation: form.host_incarnation,
        epoch: 1,
        attempts: 1,
        failovers: 0,
        version: String::new(),
        players: form.tickets.into_iter().map(|(_, player)| player).collect(),
        teams: form.teams.map(|teams| json!(teams)),
        regions: form.regions,
        traceparent: form.traceparent,
    }
}
