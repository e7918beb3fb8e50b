//! One start of one service.
//!
//! ```text
//!  spawn ──► main ──── steps ────► "is ready" in its log ──► its row in the registry says ready ──► SIGTERM ──► ended
//!  │         └──────── own ────────┘                        │
//!  └──────────────────────── ready ─────────────────────────┘
//! ```
//!
//! `asobi dev` and every other node go by the row. It is asked for only after the line: questions before would take the time of those
//! that the service itself asks.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use asobi_cluster::directory;
use serde_json::Value;
use sqlx::PgPool;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::{sleep, timeout},
};

use crate::{
    bench::{
        cluster::Target,
        proc::{cpu_seconds, resident_kb},
    },
    process,
};

/// For one start, and for one end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the registry.
const LOOK: Duration = Duration::from_millis(2);

pub struct Service {
    pub name: &'static str,
    /// What its figures' names begin with.
    pub figure: &'static str,
    command: &'static str,
}

pub const SERVICES: [Service; 4] = [
    Service { name: "gateway", figure: "gateway", command: "gateway" },
    Service { name: "match host", figure: "match_host", command: "match-service" },
    Service { name: "matchmaker", figure: "matchmaker", command: "matchmaker" },
    Service { name: "social service", figure: "social_service", command: "social-service" },
];

/// Where services start.
pub struct Scene {
    database_url: String,
    games: PathBuf,
    pool: PgPool,
}

/// What one start was.
pub struct Started {
    /// From the start of the process to the row that says so.
    pub ready: Duration,
    /// From its `main` to the line that says so, as it told itself.
    pub own_ms: u64,
    /// Its longest steps, in its own words.
    pub longest: String,
    /// What it had spent when it was ready, and held.
    pub cpu_s: f64,
    pub resident_kb: u64,
    /// It drained, and ended with 0.
    pub ended_well: bool,
}

impl Scene {
    /// # Errors
    /// The cluster's database cannot be reached, or the cluster is not the bench's own.
    pub async fn of(target: &Target) -> anyhow::Result<Self> {
        let database_url = target.database_url.clone().context("the cluster names no database")?;
        let games = target.games().context("the cluster is not the bench's own")?;
        let options = asobi_store::DatabaseOptions {
            url: database_url.clone(),
            max_connections: 1,
            timeout: PATIENCE,
            application_name: "asobi/bench".to_owned(),
        };
        let pool = asobi_store::connect(&options).await.context("the cluster's database cannot be reached")?;
        Ok(Self { database_url, games, pool })
    }

    pub async fn close(self) {
        self.pool.close().await;
    }

    /// Until the registry says that the process is ready.
    async fn registered(&self, pid: u32) -> anyhow::Result<()> {
        loop {
            let rows = directory::read(&self.pool).await?;
            if rows.iter().any(|row| u32::try_from(row.pid) == Ok(pid) && row.is_ready()) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }
}

impl Service {
    /// Starts one beside those that run, and ends it.
    ///
    /// # Errors
    /// It does not become ready, with the last that it said.
    pub async fn start(&self, scene: &Scene) -> anyhow::Result<Started> {
        let mut command = self.command(scene)?;
        let began = Instant::now();
        let mut child = command.spawn()?;
        // Its end is how the service learns that the bench was killed. Kept apart: waiting for a child closes it.
        let _lifeline = child.stdin.take();
        let pid = child.id().context("it ended at once")?;
        let mut lines = BufReader::new(child.stderr.take().context("it says nothing")?).lines();
        let starting = async {
            let said = said_ready(&mut lines).await?;
            scene.registered(pid).await?;
            anyhow::Ok(said)
        };
        let (own_ms, longest) = timeout(PATIENCE, starting).await.context("it is not ready in time")??;
        let (ready, cpu_s) = (began.elapsed(), cpu_seconds(pid).unwrap_or_default());
        let resident_kb = resident_kb(pid).unwrap_or_default();
        let ended_well = end(child, lines).await?;
        Ok(Started { ready, own_ms, longest, cpu_s, resident_kb, ended_well })
    }

    /// As `asobi dev` runs it, but that it logs for programs.
    fn command(&self, scene: &Scene) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([self.command, "--exit-with-stdin"]);
        for set in [
            // The same each time, as a process that is started anew has.
            format!("node.id=bench-{}", self.command),
            format!("database.url={}", scene.database_url),
            format!("match.games={}", scene.games.display()),
        ] {
            command.args(["--set", &set]);
        }
        for set in [
            "database.direct_url=",
            "database.replica_url=",
            "database.bus_url=",
            "http.listen=127.0.0.1:0",
            "grpc.listen=127.0.0.1:0",
            "metrics.listen=127.0.0.1:0",
            "shutdown.ready_delay_ms=0",
            "log.format=json",
            "log.filter=info",
        ] {
            command.args(["--set", set]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }
}

/// Reads until the line that says how long the start took, and with what.
async fn said_ready(lines: &mut Lines<BufReader<ChildStderr>>) -> anyhow::Result<(u64, String)> {
    let mut last = String::from("nothing");
    while let Some(line) = lines.next_line().await? {
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(ms) = said["start.ms"].as_u64() {
            return Ok((ms, said["start.longest"].as_str().unwrap_or_default().to_owned()));
        }
        last = line;
    }
    bail!("it ended; the last it said was: {last}");
}

/// Lets it drain. What it says meanwhile is taken from it, or it would wait.
async fn end(mut child: Child, mut lines: Lines<BufReader<ChildStderr>>) -> anyhow::Result<bool> {
    process::terminate(&child);
    let listening = async { while let Ok(Some(_)) = lines.next_line().await {} };
    let ending = async { tokio::join!(child.wait(), listening).0 };
    Ok(timeout(PATIENCE, ending).await.context("it did not end when it was told to")??.success())
}
