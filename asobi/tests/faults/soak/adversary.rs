//! Does what the schedule says, and writes down what it did when.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};

use super::schedule::{Fault, Kind, ROLES};
use crate::support::{Cluster, cluster::Process};

/// A process starts within seconds, drains within `shutdown.grace_ms`, and the machine may be busy.
const WELL: Duration = Duration::from_secs(60);

pub struct Adversary<'a> {
    cluster: &'a Cluster,
    began: Instant,
    /// Of each role, how many may be harmed at once: all but one.
    spare: BTreeMap<&'static str, Semaphore>,
    /// The process that each node has by the adversary's doing, locked while it is harmed. Any other is there because one
    /// ended by itself.
    pids: BTreeMap<String, tokio::sync::Mutex<i32>>,
    /// What happened, line by line.
    happened: Mutex<Vec<String>>,
}

impl<'a> Adversary<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        let nodes = ROLES.iter().flat_map(|(role, _, _)| cluster.processes(role));
        Self {
            cluster,
            began: Instant::now(),
            spare: ROLES.into_iter().map(|(_, stem, n)| (stem, Semaphore::new(n - 1))).collect(),
            pids: nodes.map(|node| (node.node_id, node.pid.into())).collect(),
            happened: Mutex::default(),
        }
    }

    /// All faults of so long a time; returns when it is over, all are healed and everybody is well.
    pub async fn rage(&self, faults: &[Fault], length: Duration) -> anyhow::Result<()> {
        try_join_all(faults.iter().map(|fault| async move {
            sleep_until(self.began + fault.at).await;
            self.inflict(fault).await.with_context(|| fault.to_string())
        }))
        .await?;
        sleep_until(self.began + length).await;
        Ok(())
    }

    /// What happened until now, for whoever reads of a failure.
    pub fn happened(&self) -> String {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// The process that each node should have.
    pub async fn pids(&self) -> BTreeMap<String, i32> {
        let mut pids = BTreeMap::new();
        for (node, pid) in &self.pids {
            pids.insert(node.clone(), *pid.lock().await);
        }
        pids
    }

    fn say(&self, node: &str, what: &str) {
        let line = format!("{:6.2} s  {node:12}  {what}", self.began.elapsed().as_secs_f64());
        eprintln!("{line}");
        self.happened.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    async fn inflict(&self, fault: &Fault) -> anyhow::Result<()> {
        if fault.kind == Kind::Database {
            self.say("PostgreSQL", "is restarted");
            self.cluster.restart_database().await?;
            self.say("PostgreSQL", "is back");
            return Ok(());
        }
        let stem = fault.node.rsplit_once('-').context("a node")?.0;
        // Both are held until it is well: then it may be harmed again, and another one of its role.
        let mut expected = self.pids.get(&fault.node).context("a node")?.lock().await;
        let _spared = self.spare.get(stem).context("a role")?.acquire().await?;
        let before = self.cluster.node(&fault.node).context("a node")?;
        // The next process would hide it.
        ensure!(before.pid == *expected, "it has ended by itself: there should be {expected}, there is {before:?}");
        self.harm(fault, &before).await?;
        let restarted = matches!(fault.kind, Kind::Kill | Kind::Drain);
        let now = self.is_well(&fault.node, restarted.then_some(before.pid)).await?;
        self.say(&fault.node, &format!("is well ({})", now.pid));
        if restarted {
            *expected = now.pid;
        }
        Ok(())
    }

    async fn harm(&self, fault: &Fault, process: &Process) -> anyhow::Result<()> {
        let proxy = self.cluster.proxy(&fault.node);
        let (harm, healed) = match fault.kind {
            Kind::Kill => ("is killed", ""),
            Kind::Drain => ("is told to end", ""),
            Kind::Stop => ("is stopped", "goes on"),
            Kind::Cut => ("is cut off from PostgreSQL, in order", "reaches PostgreSQL again"),
            Kind::Reset => ("is cut off from PostgreSQL, by resets", "reaches PostgreSQL again"),
            Kind::BlackHole => ("is in a black hole", "is out of it"),
            Kind::Database => unreachable!("it is no process"),
        };
        self.say(&fault.node, harm);
        match fault.kind {
            Kind::Kill => self.cluster.signal(process, Signal::SIGKILL)?,
            Kind::Drain => self.cluster.signal(process, Signal::SIGTERM)?,
            Kind::Stop => self.cluster.signal(process, Signal::SIGSTOP)?,
            Kind::Cut => proxy.cut(),
            Kind::Reset => proxy.reset(),
            Kind::BlackHole => proxy.black_hole(),
            Kind::Database => {}
        }
        if fault.lasts.is_zero() {
            return self.cluster.gone(process).await;
        }
        sleep(fault.lasts).await;
        match fault.kind {
            Kind::Stop => self.cluster.signal(process, Signal::SIGCONT)?,
            _ => proxy.heal(),
        }
        self.say(&fault.node, healed);
        Ok(())
    }

    /// Waits until a node is ready, says so itself, and has its lease.
    async fn is_well(&self, node_id: &str, other_than: Option<i32>) -> anyhow::Result<Process> {
        let since = Instant::now();
        loop {
            if let Some(process) = self.cluster.node(node_id).filter(|process| Some(process.pid) != other_than)
                && self.has_lease(&process).await.unwrap_or(false)
                && self.cluster.ready(&process).await.unwrap_or(false)
            {
                return Ok(process);
            }
            ensure!(since.elapsed() < WELL, "{node_id} is not well again;\n{}", self.cluster.log_tail());
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn has_lease(&self, process: &Process) -> anyhow::Result<bool> {
        let sql = "SELECT EXISTS (SELECT FROM nodes WHERE node_id = $1 AND pid = $2 AND state = 'ready' AND lease_until > now())";
        let query = sqlx::query_scalar(sql).bind(&process.node_id).bind(process.pid);
        Ok(query.fetch_one(&self.cluster.database.pool).await?)
    }
}
