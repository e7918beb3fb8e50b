//! Tickets that nobody holds a socket for: written as a gateway writes them, so that a queue can be long on a small machine.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use asobi_bus::{Bus, BusOptions};
use asobi_proto::bus::{TicketItem, Topic};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(60);
/// Batches of tickets that come and go, a second.
const BATCHES: u32 = 20;
/// Skills this far apart never meet.
const APART: i64 = 1_000;

pub struct Pool {
    rows: PgPool,
    bus: Bus,
    stop: CancellationToken,
    tasks: TaskTracker,
    probes: std::sync::atomic::AtomicI64,
}

/// Tickets on their way in and out.
pub struct Churning {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<u64>>,
}

impl Pool {
    /// Writes so many tickets, none of which can meet another.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn fill(database_url: &str, tickets: u32) -> anyhow::Result<Self> {
        say!("filling the queue with {tickets} tickets …");
        let options = asobi_store::DatabaseOptions {
            url: database_url.to_owned(),
            max_connections: 4,
            timeout: TIMEOUT,
            application_name: "asobi/bench".to_owned(),
        };
        let rows = asobi_store::connect(&options).await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let options = BusOptions {
            pool: rows.clone(),
            direct: asobi_store::connect_options(database_url, "asobi/bench", TIMEOUT)?,
            origin: format!("bench/{}", std::process::id()),
            topics: vec![Topic::Queue],
        };
        let bus = Bus::start(options, &stop, &tasks);
        let pool = Self { rows, bus, stop, tasks, probes: std::sync::atomic::AtomicI64::new(1) };
        let mut left = i64::from(tickets);
        while left > 0 {
            let batch = left.min(2_000);
            let ids = insert(&pool.rows, batch, left * APART).await?;
            announce(&pool.bus, &ids, false).await;
            left -= batch;
        }
        sqlx::query("ANALYZE tickets").execute(&pool.rows).await?;
        Ok(pool)
    }

    /// Properties of two who can meet nobody else.
    pub fn probe(&self) -> Value {
        json!({"skill": -APART * self.probes.fetch_add(1, std::sync::atomic::Ordering::Relaxed)})
    }

    /// Lets so many tickets a second come, and each go a second later, until it is stopped.
    pub fn churn(&self, per_second: u32) -> Churning {
        let stop = self.stop.child_token();
        let (rows, bus, ended) = (self.rows.clone(), self.bus.clone(), stop.clone());
        let batch = i64::from(per_second / BATCHES);
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1) / BATCHES);
            let mut inside = std::collections::VecDeque::new();
            let mut came = 0;
            while !ended.is_cancelled() && batch > 0 {
                tick.tick().await;
                // Between the skills of those who stay.
                let ids = insert(&rows, batch, came * APART + APART / 2).await?;
                announce(&bus, &ids, false).await;
                came += batch;
                inside.push_back(ids);
                if inside.len() > BATCHES as usize
                    && let Some(ids) = inside.pop_front()
                {
                    sqlx::query("UPDATE tickets SET state = 'cancelled', ended_at = now() WHERE id = ANY($1) AND state = 'pending'")
                        .bind(&ids)
                        .execute(&rows)
                        .await?;
                    announce(&bus, &ids, true).await;
                }
            }
            Ok(u64::try_from(came).unwrap_or_default())
        });
        Churning { stop, task }
    }

    /// `kill -9`; answers when.
    ///
    /// # Errors
    /// When nobody leads, or the leader runs elsewhere.
    pub async fn kill_leader(&self) -> anyhow::Result<Instant> {
        let pid: i32 = sqlx::query_scalar(
            "SELECT n.pid FROM leader l JOIN nodes n ON n.node_id = l.node_id AND n.incarnation = l.incarnation
             WHERE l.name = 'matchmaker' AND n.lease_until > now()",
        )
        .fetch_optional(&self.rows)
        .await?
        .context("no matchmaker leads")?;
        let killed = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("the leader runs on another machine")?;
        Ok(killed)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

impl Churning {
    /// How many tickets came.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn stop(self) -> anyhow::Result<u64> {
        self.stop.cancel();
        self.task.await?
    }
}

async fn insert(rows: &PgPool, tickets: i64, first_skill: i64) -> anyhow::Result<Vec<Uuid>> {
    let inserting = sqlx::query_scalar(
        "INSERT INTO tickets (id, player_id, mode, properties, state, expires_at)
         SELECT gen_random_uuid(), gen_random_uuid(), 'skill', jsonb_build_object('skill', $2 + n * $3), 'pending', now() + interval '1 hour'
         FROM generate_series(0, $1 - 1) AS n RETURNING id",
    )
    .bind(tickets)
    .bind(first_skill)
    .bind(APART)
    .fetch_all(rows);
    Ok(tokio::time::timeout(TIMEOUT, inserting).await??)
}

/// As gateways do; a full publisher is waited for.
async fn announce(bus: &Bus, ids: &[Uuid], gone: bool) {
    for id in ids {
        let item = TicketItem { ticket_id: *id, gone, backfill: false };
        while bus.publisher().publish(Topic::Queue, &item).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
