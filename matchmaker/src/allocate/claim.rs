//! Step 1: tickets become matches, many groups in one fenced transaction.

use asobi_store::allocation::{self, Forming, Open};
use uuid::Uuid;

use crate::{
    deps::{Reign, Result, lock},
    hosts::HostId,
    index::Group,
};

/// Groups with the host each was given.
pub type Batch = Vec<(Group, HostId)>;

/// Claims a batch; answers the matches that are allocating now. Tickets of groups that were broken up are back in the index as far as
/// they are still pending.
///
/// # Errors
/// The tickets of the batch are then in no index: whether they were claimed is unknown, and the queue is to be read again.
pub async fn claim(reign: &Reign, batch: Batch) -> Result<Vec<Open>> {
    let forming: Vec<Forming> = batch.iter().map(|(group, host)| forming(group, host)).collect();
    reign.take_in_hand(forming.iter().map(|f| f.match_id));
    let claimed = reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            let claimed = allocation::claim(&mut tx, &forming, reign.leadership.term).await?;
            tx.commit().await?;
            Ok(claimed)
        })
        .await;
    let claimed = match claimed {
        Ok(claimed) => claimed,
        Err(error) => {
            reign.let_go(forming.iter().map(|f| f.match_id));
            return Err(error);
        }
    };
    let mut made = Vec::with_capacity(claimed.formed.len());
    let mut broken = 0_u64;
    {
        let mut index = lock(&reign.deps.index);
        for ticket in &claimed.withdrawn {
            index.remove(*ticket);
        }
        let withdrawn: std::collections::HashSet<Uuid> = claimed.withdrawn.iter().copied().collect();
        for (form, (group, _)) in forming.into_iter().zip(batch) {
            if claimed.formed.contains(&form.match_id) {
                made.push(allocating(form));
                continue;
            }
            broken += 1;
            reign.let_go([form.match_id]);
            // Siblings were not part of the claim: pending unless they were withdrawn with their player's seat elsewhere.
            let own: std::collections::HashSet<Uuid> = group.tickets.iter().map(|t| t.ticket_id).collect();
            index.put_back(group, |id| {
                if own.contains(&id) { claimed.free.contains(&id) } else { !withdrawn.contains(&id) }
            });
        }
    }
    metrics::counter!("asobi_matchmaker_groups_total", "outcome" => "formed").increment(made.len() as u64);
    metrics::counter!("asobi_matchmaker_groups_total", "outcome" => "broken_up").increment(broken);
    Ok(made)
}

fn forming(group: &Group, host: &HostId) -> Forming {
    Forming {
        match_id: Uuid::now_v7(),
        mode: group.mode.clone(),
        host_node: host.node.clone(),
        host_incarnation: host.incarnation,
        tickets: group.tickets.iter().map(|t| (t.ticket_id, t.player_id)).collect(),
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
        players: form.tickets.into_iter().map(|(_, player)| player).collect(),
    }
}
