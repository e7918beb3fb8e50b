//! Who is dead among the match hosts, four times a second: one cheap look at rows and locks. What proves it is in
//! [`asobi_cluster::death`]; what becomes of their matches is in [`super::failover`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_cluster::death::{self, Vital, Vitals};
use asobi_proto::match_v1::{ProbeRequest, match_host_service_client::MatchHostServiceClient};
use asobi_service_kit::grpc::with_deadline;
use futures_util::future::join_all;
use uuid::Uuid;

use super::{failover, resume::Work, rounds::Rounds};
use crate::{
    deps::{Reign, Result, lock},
    hosts::HostId,
};

/// Looks between two readings of all orphans: those that wait for a host, and those of hosts that were dead before this process led.
const ORPHANS_EVERY: u64 = 4;
const PROBE: Duration = Duration::from_secs(1);
/// Between the two refusals that prove a death.
const AGAIN: Duration = Duration::from_millis(100);

pub struct Watch {
    reign: Arc<Reign>,
    work: Work,
    /// The hosts of the last look. One that is missing in the next has stopped or was replaced.
    known: HashMap<String, i64>,
    /// Hosts whose lease has run out and whose probe failed. They are not probed again while they do not renew it.
    dead: HashSet<HostId>,
    passes: u64,
}

impl Watch {
    pub fn new(reign: Arc<Reign>, work: Work) -> Self {
        Self { reign, work, known: HashMap::new(), dead: HashSet::new(), passes: 0 }
    }
}

impl Rounds for Watch {
    const PERIOD: Duration = Duration::from_millis(250);
    const FAILED: &'static str = "Hosts could not be looked after for now.";

    async fn round(&mut self) -> Result<()> {
        let reign = Arc::clone(&self.reign);
        // Before the hosts were read there is nowhere to go on.
        if !lock(&reign.hosts).are_known() {
            return Ok(());
        }
        let seen = self.look().await?;
        lock(&reign.hosts).note_draining(seen.hosts.iter().any(|host| host.draining));
        let gone = self.is_anybody_gone(&seen);
        let (unlocked, lapsed) = if reign.deps.membership.may_judge() {
            tokio::join!(self.unlocked(&seen), self.lapsed(&seen))
        } else {
            lock(&reign.hosts).keep_silent(&HashSet::new());
            (Ok(Vec::new()), HashSet::new())
        };
        let declared = self.declare(&unlocked?).await?;
        let news = lapsed.iter().any(|host| !self.dead.contains(host));
        self.dead = lapsed;
        if gone || declared || news || self.passes.is_multiple_of(ORPHANS_EVERY) {
            failover::rescue(&reign, &self.work, &self.dead).await?;
        }
        self.passes += 1;
        Ok(())
    }
}

impl Watch {
    async fn look(&self) -> Result<Vitals> {
        let deps = &self.reign.deps;
        let looking = death::vitals(&deps.pool, deps.membership.identity());
        self.reign.bounded(async { Ok(looking.await?) }).await
    }

    /// (a), which the rows prove.
    fn is_anybody_gone(&mut self, seen: &Vitals) -> bool {
        let now: HashMap<String, i64> = seen.hosts.iter().map(|h| (h.node_id.clone(), h.incarnation)).collect();
        let gone = self.known.iter().any(|(node, incarnation)| now.get(node) != Some(incarnation));
        self.known = now;
        gone
    }

    /// (c): hosts without their lock where nobody listens, seen twice.
    async fn unlocked(&self, seen: &Vitals) -> Result<Vec<HostId>> {
        let first = self.refused(seen).await;
        if first.is_empty() {
            return Ok(first);
        }
        tokio::time::sleep(AGAIN).await;
        let second = self.refused(&self.look().await?).await;
        Ok(first.into_iter().filter(|host| second.contains(host)).collect())
    }

    async fn refused(&self, seen: &Vitals) -> Vec<HostId> {
        if !seen.own_lock || !self.reign.deps.membership.may_judge_locks() {
            return Vec::new();
        }
        let doubtful = seen.hosts.iter().filter(|host| !host.locked && !self.dead.contains(&id_of(host)));
        let asked = doubtful.filter_map(|host| Some((host, host.grpc_addr.as_deref()?)));
        let refused = asked.map(|(host, address)| async move { death::is_refused(address).await.then(|| id_of(host)) });
        join_all(refused).await.into_iter().flatten().collect()
    }

    /// Makes their death a row's state, from which on their matches are orphans as any other. True: some were declared.
    async fn declare(&self, hosts: &[HostId]) -> Result<bool> {
        let reign = &self.reign;
        let mut any = false;
        for host in hosts {
            let declared = reign
                .bounded(async {
                    let mut tx = reign.begin().await?;
                    let declared = death::declare(&mut tx, &host.node, host.incarnation).await?;
                    tx.commit().await?;
                    Ok(declared)
                })
                .await?;
            if declared {
                tracing::warn!(
                    host.node,
                    host.incarnation,
                    "A match host is dead: its lock is gone and nobody listens."
                );
                metrics::counter!("asobi_matchmaker_hosts_dead_total", "proof" => "lock").increment(1);
                lock(&reign.hosts).bury(host, true);
            }
            any |= declared;
        }
        Ok(any)
    }

    /// (b): hosts whose lease has run out and who do not answer. Those that do are noted: they live, and cannot reach the database.
    async fn lapsed(&self, seen: &Vitals) -> HashSet<HostId> {
        let lapsed: Vec<&Vital> = seen.hosts.iter().filter(|host| !host.leased).collect();
        let asked = lapsed.into_iter().map(|host| async move {
            let known = self.dead.contains(&id_of(host));
            (host, !known && self.answers(host, seen).await)
        });
        let (now, answers) = (Instant::now(), join_all(asked).await);
        let mut hosts = lock(&self.reign.hosts);
        let (alive, dead): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answers)| *answers);
        hosts.keep_silent(&alive.iter().map(|(host, _)| id_of(host)).collect());
        for (host, _) in alive {
            if hosts.note_silent(&id_of(host), host.grpc_addr.as_deref().unwrap_or_default(), now) {
                tracing::warn!(
                    host.node = host.node_id,
                    "A match host's lease has run out and it answers: it cannot reach the database. Its matches stay."
                );
            }
        }
        for (host, _) in dead.iter().filter(|(host, _)| !self.dead.contains(&id_of(host))) {
            tracing::warn!(
                host.node = host.node_id,
                "A match host is dead: its lease has run out and it does not answer."
            );
            metrics::counter!("asobi_matchmaker_hosts_dead_total", "proof" => "lease").increment(1);
        }
        dead.into_iter().map(|(host, _)| id_of(host)).collect()
    }

    async fn answers(&self, host: &Vital, seen: &Vitals) -> bool {
        let Some(address) = &host.grpc_addr else { return false };
        // In containers an address is soon another host's.
        let theirs = |other: &&Vital| other.leased && other.grpc_addr == host.grpc_addr;
        if seen.hosts.iter().any(|other| theirs(&other)) {
            return false;
        }
        let mut client = MatchHostServiceClient::new(self.reign.deps.channels.get(address));
        // Of no match: that anybody answers is what counts.
        let request = ProbeRequest { match_id: Uuid::nil().to_string(), host_incarnation: host.incarnation };
        let answer = tokio::time::timeout(PROBE, client.probe(with_deadline(request, PROBE))).await;
        matches!(answer, Ok(Ok(_)))
    }
}

fn id_of(host: &Vital) -> HostId {
    HostId { node: host.node_id.clone(), incarnation: host.incarnation }
}
