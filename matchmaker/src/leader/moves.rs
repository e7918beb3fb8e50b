//! Live moves that the leader asks for: away from a host that lives and cannot reach the database, and from a full host to an empty one. The
//! hosts do the moving, and the rows say who has a match; whatever is asked here and fails has changed nothing.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_proto::match_v1::{MoveMatchRequest, match_host_service_client::MatchHostServiceClient};
use asobi_service_kit::grpc::with_deadline;
use asobi_store::allocation::{self, Movable};
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rebalance::{self, Shift};
use crate::{
    deps::{Error, Reign, Result, lock},
    hosts::{HostId, Wish, id_of, is_in},
};

const PERIOD: Duration = Duration::from_secs(1);
/// Passes between two looks at how even the hosts are.
const REBALANCE_EVERY: u64 = 10;
/// How long no evening out follows a failover: the numbers are unsteady, and the hosts have enough to do.
const QUIET: Duration = Duration::from_secs(30);
/// Leases for which a host may be without the database before its matches are moved away from it.
const LEASES: u32 = 3;
/// Moves asked for in one pass, and at once.
const MOVES: usize = 10;
const CONCURRENT: usize = 4;
const MOVE: Duration = Duration::from_secs(10);
/// How long a match that could not be moved is left alone.
const AGAIN: Duration = Duration::from_secs(10);
/// Matches of a host that are looked through for those to move.
const ROWS: i64 = 1_000;

/// A move to ask for: the match, and the host it shall run on.
type Wanted = (Uuid, String);

/// Asks for moves until `quiet`.
pub async fn run(reign: Arc<Reign>, quiet: CancellationToken) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut mover = Mover { reign, asked: HashMap::new() };
    for pass in 1_u64.. {
        tokio::select! {
            () = quiet.cancelled() => return,
            _ = tick.tick() => {}
        }
        let passed = tokio::select! {
            () = quiet.cancelled() => return,
            passed = mover.pass(pass.is_multiple_of(REBALANCE_EVERY)) => passed,
        };
        match passed {
            Ok(()) => {}
            Err(Error::Over) => return,
            Err(error) => tracing::warn!(%error, "Matches could not be moved for now."),
        }
    }
}

struct Mover {
    reign: Arc<Reign>,
    /// Matches whose move was asked for lately.
    asked: HashMap<Uuid, Instant>,
}

impl Mover {
    async fn pass(&mut self, rebalance: bool) -> Result<()> {
        let (now, membership) = (Instant::now(), &self.reign.deps.membership);
        if !membership.may_judge() || !self.reign.leadership.is_valid() {
            return Ok(());
        }
        self.asked.retain(|_, at| now.duration_since(*at) < AGAIN);
        let silent = lock(&self.reign.hosts).silent_for(membership.lease() * LEASES, now);
        for (host, address) in silent {
            self.relieve(&host, &address).await?;
        }
        if rebalance && self.reign.deps.limits.rebalance {
            self.even_out().await?;
        }
        Ok(())
    }

    /// Moves matches away from a host that answers and cannot renew its lease: what it writes is lost with it.
    async fn relieve(&mut self, host: &HostId, address: &str) -> Result<()> {
        let movable = self.movable(host).await?;
        let wanted: Vec<Wanted> = {
            let (mut hosts, now) = (lock(&self.reign.hosts), Instant::now());
            let any_version = self.reign.deps.limits.any_version;
            let mut place = |m: &Movable| {
                let version = if any_version { "" } else { m.version.as_str() };
                let wish = Wish { mode: &m.mode, regions: &m.regions, version, tried: std::slice::from_ref(host) };
                hosts.choose_for_running(&wish, now).ok().filter(|chosen| chosen.node != host.node)
            };
            movable.iter().take(MOVES).filter_map(|m| Some((m.id, place(m)?.node))).collect()
        };
        self.ask(&host.node, address, wanted).await;
        Ok(())
    }

    async fn even_out(&mut self) -> Result<()> {
        let shift = {
            let hosts = lock(&self.reign.hosts);
            let settled = hosts.settled(QUIET, Instant::now()).and_then(rebalance::shift);
            settled.map(|Shift { from, to, matches }| (from.clone(), to.clone(), matches))
        };
        let Some((from, to, matches)) = shift else { return Ok(()) };
        let any_version = self.reign.deps.limits.any_version;
        let fits = |m: &&Movable| {
            let version = if any_version { "" } else { m.version.as_str() };
            to.continues(&m.mode, version) && is_in(&to, &m.regions)
        };
        let movable = self.movable(&id_of(&from)).await?;
        let wanted: Vec<Wanted> =
            movable.iter().filter(fits).take(matches).map(|m| (m.id, to.node_id.clone())).collect();
        self.ask(&from.node_id, &from.grpc_addr, wanted).await;
        Ok(())
    }

    /// Matches of a host whose move was not asked for lately.
    async fn movable(&self, host: &HostId) -> Result<Vec<Movable>> {
        let pool = &self.reign.deps.pool;
        let reading = allocation::movable(pool, &host.node, host.incarnation, ROWS);
        let mut movable = self.reign.bounded(async { Ok(reading.await?) }).await?;
        movable.retain(|m| !self.asked.contains_key(&m.id));
        Ok(movable)
    }

    async fn ask(&mut self, from: &str, address: &str, wanted: Vec<Wanted>) {
        if wanted.is_empty() {
            return;
        }
        let now = Instant::now();
        self.asked.extend(wanted.iter().map(|(id, _)| (*id, now)));
        let (reign, asked) = (&self.reign, wanted.len());
        let moves = stream::iter(wanted).map(|(id, to)| move_one(reign, address, id, to)).buffer_unordered(CONCURRENT);
        let moved = moves.filter(|moved| std::future::ready(*moved)).count().await;
        metrics::counter!("asobi_matchmaker_moves_total").increment(moved as u64);
        tracing::info!(host.node = from, asked, moved, "A match host was asked to move matches to others.");
    }
}

async fn move_one(reign: &Reign, address: &str, match_id: Uuid, to_node: String) -> bool {
    let request = MoveMatchRequest { match_id: match_id.to_string(), to_node };
    let mut client = MatchHostServiceClient::new(reign.deps.channels.get(address));
    match tokio::time::timeout(MOVE, client.move_match(with_deadline(request, MOVE))).await {
        Ok(Ok(_)) => true,
        Ok(Err(status)) => {
            tracing::debug!(match.id = %match_id, code = ?status.code(), message = status.message(), "A match was not moved.");
            false
        }
        Err(_) => {
            tracing::debug!(match.id = %match_id, "A host did not say whether it moved a match.");
            false
        }
    }
}
