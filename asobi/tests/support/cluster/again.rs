//! A node that is started again, as the supervisor would that leaves the dead alone in plays.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt as _,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

use super::{Cluster, PATIENCE, Process};

/// How a process was started.
pub struct Recipe {
    node_id: String,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Cluster {
    /// How a process was started, as long as it lives.
    pub fn recipe(&self, process: &Process) -> anyhow::Result<Recipe> {
        let read = |what: &str| -> anyhow::Result<Vec<OsString>> {
            let bytes = fs::read(format!("/proc/{}/{what}", process.pid))?;
            let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
            Ok(parts.map(|part| OsStr::from_bytes(part).to_owned()).collect())
        };
        let variable = |both: OsString| {
            let at = both.as_bytes().iter().position(|byte| *byte == b'=')?;
            let (key, value) = both.as_bytes().split_at(at);
            Some((OsStr::from_bytes(key).to_owned(), OsStr::from_bytes(&value[1..]).to_owned()))
        };
        Ok(Recipe {
            node_id: process.node_id.clone(),
            arguments: read("cmdline")?.split_off(1),
            environment: read("environ")?.into_iter().filter_map(variable).collect(),
        })
    }

    /// Starts a node again whose process has ended, as a new process, and waits until it is ready.
    pub async fn start_again(&mut self, recipe: &Recipe) -> anyhow::Result<Process> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log.with_extension("again"))?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_asobi"))
            .args(&recipe.arguments)
            .env_clear()
            .envs(recipe.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(self.dir.path())
            // It ends with the play: its standard input closes.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let pid = i32::try_from(child.id().context("it has ended at once")?)?;
        let started = Instant::now();
        let process = loop {
            if let Some(process) = self.registered(&recipe.node_id, pid).await? {
                break process;
            }
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}:\n{}", recipe.node_id, self.log_tail());
            }
            ensure!(started.elapsed() < PATIENCE, "{} is not ready again:\n{}", recipe.node_id, self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        self.again.insert(recipe.node_id.clone(), (child, process.clone()));
        Ok(process)
    }

    /// The process of a node, once the registry has it as ready.
    async fn registered(&self, node_id: &str, pid: i32) -> anyhow::Result<Option<Process>> {
        type Row = (Option<String>, Option<String>, Option<String>, Option<String>);
        let row: Option<Row> = sqlx::query_as(
            "SELECT http_url, ws_url, grpc_addr, metrics_addr FROM nodes
             WHERE node_id = $1 AND pid = $2 AND state = 'ready' AND lease_until > now()",
        )
        .bind(node_id)
        .bind(pid)
        .fetch_optional(&self.database.pool)
        .await?;
        Ok(row.map(|(http, ws, grpc, metrics)| Process {
            node_id: node_id.to_owned(),
            http,
            ws,
            grpc,
            metrics,
            pid,
            leading: None,
        }))
    }
}
