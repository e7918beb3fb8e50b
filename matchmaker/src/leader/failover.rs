//! What becomes of the matches of dead hosts. The states are in [`crate::allocate`].

use std::{collections::HashSet, sync::Arc, time::Instant};

use asobi_cluster::death;
use asobi_store::allocation::{self, Orphan, Rescue};
use uuid::Uuid;

use super::resume::{self, Work};
use crate::{
    allocate::{Lost, give_up_all, lose},
    deps::{Reign, Result, lock},
    hosts::{HostId, Hosts, Wish},
};

/// Orphans of one look: more than two full hosts have.
const ORPHANS: i64 = 10_000;
/// Matches of one transaction.
const BATCH: usize = 500;

/// What is to be done with an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its players know it: another host goes on with it.
    GoesOn,
    /// It runs and nobody has heard of it: the tickets wait again.
    Unheard,
    /// It never ran: quick play's, whose caller is told by the one that formed it.
    NeverRan,
}

fn fate(orphan: &Orphan) -> Fate {
    match orphan.state.as_str() {
        "running" if orphan.told || orphan.failovers > 0 => Fate::GoesOn,
        "running" => Fate::Unheard,
        _ => Fate::NeverRan,
    }
}

/// Gives the matches of hosts that are dead to others, and gives up those that no host can go on with. `dead`: those whose lease ran out and that
/// do not answer; who was replaced or has stopped is so by the rows.
pub async fn rescue(reign: &Arc<Reign>, work: &Work, dead: &HashSet<HostId>) -> Result<()> {
    let mut orphans = reign.bounded(async { Ok(allocation::orphans(&reign.deps.pool, ORPHANS).await?) }).await?;
    orphans.retain(|orphan| orphan.grpc_addr.is_none() || dead.contains(&host_of(orphan)));
    if orphans.is_empty() {
        return Ok(());
    }
    let of = |wanted: Fate| orphans.iter().filter(move |orphan| fate(orphan) == wanted);
    let named = |orphan: &Orphan| (orphan.id, orphan.epoch);
    let going: Vec<&Orphan> = of(Fate::GoesOn).collect();
    let (rescues, without) = {
        let mut hosts = lock(&reign.hosts);
        orphans.iter().for_each(|orphan| hosts.bury(&host_of(orphan), orphan.grpc_addr.is_none()));
        place(&mut hosts, &going, reign.deps.limits.any_version)
    };
    for batch in rescues.chunks(BATCH) {
        fail_over(reign, batch).await?;
    }
    if !rescues.is_empty() {
        resume::matches(reign, work).await?;
    }
    let unheard: Vec<(Uuid, i64)> = of(Fate::Unheard).map(named).collect();
    if !unheard.is_empty() {
        give_up_all(reign, &unheard, true).await?;
    }
    let mut lost: Vec<(Uuid, i64)> = of(Fate::NeverRan).map(named).collect();
    lost.extend(overdue(reign, &without));
    for batch in lost.chunks(BATCH) {
        lose(reign, batch, Lost::Orphaned).await?;
    }
    Ok(())
}

/// A host for each; and those for which there is none.
fn place<'a>(
    hosts: &mut Hosts,
    orphans: &[&'a Orphan],
    any_version: bool,
) -> (Vec<(Rescue, &'a Orphan)>, Vec<&'a Orphan>) {
    let (now, mut rescues, mut without) = (Instant::now(), Vec::new(), Vec::new());
    for orphan in orphans {
        let version = if any_version { "" } else { orphan.version.as_str() };
        let wish = Wish { mode: &orphan.mode, regions: &orphan.regions, version, tried: &[] };
        match hosts.choose_for_running(&wish, now) {
            Ok(host) => {
                let (host_node, host_incarnation) = (host.node, host.incarnation);
                rescues.push((Rescue { id: orphan.id, epoch: orphan.epoch, host_node, host_incarnation }, *orphan));
            }
            Err(_) => without.push(*orphan),
        }
    }
    (rescues, without)
}

/// One transaction. The matches are then allocating and untold, and the creates go on with them, this leader's or the next one's.
async fn fail_over(reign: &Reign, batch: &[(Rescue, &Orphan)]) -> Result<()> {
    let rescues: Vec<Rescue> = batch.iter().map(|(rescue, _)| rescue.clone()).collect();
    let mut nodes: Vec<String> = batch.iter().map(|(_, orphan)| orphan.host_node.clone()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let moved = reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            death::hold(&mut tx, &nodes).await?;
            let moved = allocation::fail_over(&mut tx, &rescues, reign.leadership.term).await?;
            tx.commit().await?;
            Ok(moved)
        })
        .await?;
    if !moved.is_empty() {
        lock(&reign.hosts).note_failover(Instant::now());
        metrics::counter!("asobi_matchmaker_failovers_total").increment(moved.len() as u64);
        tracing::warn!(matches = moved.len(), hosts.lost = ?nodes, "Matches go on at other hosts.");
    }
    Ok(())
}

/// Those that have waited for a host for too long.
fn overdue(reign: &Reign, without: &[&Orphan]) -> Vec<(Uuid, i64)> {
    let (now, limit) = (Instant::now(), reign.deps.limits.failover);
    let waited: Vec<_> = without.iter().map(|orphan| (orphan, reign.stranded_for(orphan.id, now))).collect();
    let new = waited.iter().filter(|(_, waited)| waited.is_zero()).count();
    if new > 0 {
        tracing::warn!(matches = new, "Matches whose host is gone wait for one that can go on with them.");
    }
    waited.iter().filter(|(_, waited)| *waited >= limit).map(|(orphan, _)| (orphan.id, orphan.epoch)).collect()
}

fn host_of(orphan: &Orphan) -> HostId {
    HostId { node: orphan.host_node.clone(), incarnation: orphan.host_incarnation }
}

#[cfg(test)]
mod tests {
    use asobi_store::allocation::Host;

    use super::*;

    fn orphan(state: &str, told: bool, failovers: i32) -> Orphan {
        Orphan {
            id: Uuid::now_v7(),
            mode: "arena".into(),
            state: state.into(),
            host_node: "gone".into(),
            host_incarnation: 1,
            epoch: 4,
            told,
            failovers,
            version: "v1".into(),
            regions: vec!["eu".into()],
            grpc_addr: None,
        }
    }

    fn host(node: &str, version: &str, region: &str) -> Host {
        Host {
            node_id: node.into(),
            incarnation: 1,
            grpc_addr: format!("{node}:1"),
            region: region.into(),
            capacity: 2,
            open: 0,
            modes: [("arena".to_owned(), version.to_owned())].into(),
        }
    }

    #[test]
    fn who_knows_of_a_match_goes_on_playing_it() {
        assert_eq!(fate(&orphan("running", true, 0)), Fate::GoesOn);
        assert_eq!(fate(&orphan("running", false, 0)), Fate::Unheard);
        assert_eq!(fate(&orphan("running", false, 1)), Fate::GoesOn, "its second host died before it could be told");
        assert_eq!(fate(&orphan("allocating", true, 0)), Fate::NeverRan);
    }

    #[test]
    fn each_goes_where_its_script_is_near_if_possible_and_as_far_as_there_is_room() {
        let mut hosts = Hosts::default();
        hosts.replace(vec![host("a", "v1", "eu"), host("b", "v1", "us"), host("c", "v2", "eu")], Instant::now());
        let orphans: Vec<Orphan> = (0..5).map(|_| orphan("running", true, 0)).collect();
        let all: Vec<&Orphan> = orphans.iter().collect();
        let (rescues, without) = place(&mut hosts, &all, false);
        let at: Vec<&str> = rescues.iter().map(|(rescue, _)| rescue.host_node.as_str()).collect();
        assert_eq!((at, without.len()), (vec!["a", "a", "b", "b"], 1));
        let (rescues, without) = place(&mut hosts, &without, true);
        assert_eq!((rescues[0].0.host_node.as_str(), rescues[0].0.epoch, without.len()), ("c", 4, 0));
    }
}
