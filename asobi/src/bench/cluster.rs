//! What is measured: gateways given by address, a running `asobi dev`, or a cluster of the bench's own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    Common,
    own::Own,
    proc::{cpu_seconds, postgres, resident_kb, share_kb, stat},
};

/// Global channels of a cluster of the bench's own.
pub const CHANNELS: u32 = 1_000;
/// How often is looked whether a cluster is ready.
const LOOK: Duration = Duration::from_millis(50);

/// What a cluster of the bench's own shall be.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub matchmakers: u16,
    pub match_hosts: u16,
    pub gateways: u16,
    /// Scripts by their file names, beside or instead of the bench's own.
    pub games: Vec<(String, String)>,
    /// Keys of the configuration, as `key=value`.
    pub sets: Vec<String>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { matchmakers: 1, match_hosts: 1, gateways: 2, games: Vec::new(), sets: Vec::new() }
    }
}

/// A process that is known by a ready file.
#[derive(Debug, Clone)]
pub struct Host {
    pub node_id: String,
    pub pid: u32,
    /// `host:port` of its metrics.
    pub metrics: Option<String>,
}

pub struct Target {
    /// `http://host:port` of each gateway.
    pub gateways: Vec<String>,
    /// In the same order, of a cluster whose ready file is known.
    pub gateway_processes: Vec<Host>,
    /// Of a cluster whose ready file is known.
    pub match_hosts: Vec<Host>,
    /// Of a cluster whose ready file is known.
    pub database_url: Option<String>,
    processes: Vec<(String, u32)>,
    own: Option<Own>,
}

/// CPU seconds of the processes that are known, at one moment.
pub struct Spent(Vec<(String, f64)>);

impl Target {
    /// # Errors
    /// When there is nothing to measure, with what to do about it.
    pub async fn reach(common: &Common, wanted: &Wanted) -> anyhow::Result<Self> {
        if let Some(file) = &common.ready_file {
            return Self::from_ready(file, None);
        }
        if common.url.is_empty() {
            return Self::start(wanted).await;
        }
        let gateways = common.url.iter().map(|url| address(url)).collect::<anyhow::Result<_>>()?;
        Ok(Self {
            gateways,
            gateway_processes: Vec::new(),
            match_hosts: Vec::new(),
            database_url: None,
            processes: Vec::new(),
            own: None,
        })
    }

    async fn start(wanted: &Wanted) -> anyhow::Result<Self> {
        say!("starting a cluster of its own …");
        let mut arguments = [
            ("--gateways", wanted.gateways),
            ("--match-hosts", wanted.match_hosts),
            ("--matchmakers", wanted.matchmakers),
        ]
        .map(|(option, count)| [option.to_owned(), count.to_string()])
        .concat();
        let mut set = |key_value: &str| arguments.extend(["--set".to_owned(), key_value.to_owned()]);
        for limit in [
            "frames_per_second",
            "connects_per_second",
            "register_per_second",
            "auth_per_second",
            "requests_per_second",
        ] {
            set(&format!("limits.{limit}=0"));
        }
        set("log.filter=warn");
        // A pool's tickets belong to players without a connection, and are many.
        set("matchmaker.disconnect_grace_ms=3600000");
        set("matchmaker.max_queue=2000000");
        let channels: Vec<String> = (0..CHANNELS).map(|n| format!("c{n}")).collect();
        set(&format!("chat.global_channels={}", channels.join(",")));
        wanted.sets.iter().for_each(|wanted| set(wanted));
        let mut own = Own::launch(&wanted.games, &arguments)?;
        own.ready(LOOK).await?;
        let file = own.ready_file();
        Self::from_ready(&file, Some(own))
    }

    fn from_ready(file: &Path, own: Option<Own>) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let ready: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is no ready file", file.display()))?;
        let list = |role: &str| ready[role].as_array().cloned().unwrap_or_default();
        let gateways: Vec<String> =
            list("gateways").iter().filter_map(|g| g["http"].as_str().map(str::to_owned)).collect();
        ensure!(!gateways.is_empty(), "{} names no gateway", file.display());
        let processes = ["gateways", "match_hosts", "matchmakers", "social_services"]
            .into_iter()
            .flat_map(list)
            .filter_map(|p| Some((p["node_id"].as_str()?.to_owned(), u32::try_from(p["pid"].as_u64()?).ok()?)))
            .collect();
        let gateway_processes = list("gateways").iter().filter_map(Host::read).collect();
        let match_hosts = list("match_hosts").iter().filter_map(Host::read).collect();
        let database_url = ready["database_url"].as_str().map(str::to_owned);
        Ok(Self { gateways, gateway_processes, match_hosts, database_url, processes, own })
    }

    /// Whether what processes spend can be said.
    pub fn knows_processes(&self) -> bool {
        !self.processes.is_empty()
    }

    /// The scripts of a cluster of the bench's own.
    pub fn games(&self) -> Option<PathBuf> {
        self.own.as_ref().map(Own::games)
    }

    /// Stops the cluster if it is the bench's own.
    pub async fn stop(&mut self) {
        if let Some(own) = self.own.take() {
            own.stop().await;
        }
    }

    /// Watches one more process.
    pub fn watch(&mut self, name: &str, pid: u32) {
        self.processes.push((name.to_owned(), pid));
    }

    /// One that was watched has ended.
    pub fn unwatch(&mut self, name: &str) {
        self.processes.retain(|(watched, _)| watched != name);
    }

    /// Resident memory of all processes whose names begin so.
    pub fn resident_kb(&self, of: &str) -> u64 {
        self.processes.iter().filter(|(name, _)| name.starts_with(of)).filter_map(|(_, pid)| resident_kb(*pid)).sum()
    }

    /// Starts a measurement of CPU time.
    pub fn spent(&self) -> Spent {
        Spent(
            self.all()
                .filter_map(|(name, pids)| {
                    Some((name, pids.iter().filter_map(|p| cpu_seconds(*p)).reduce(|a, b| a + b)?))
                })
                .collect(),
        )
    }

    /// CPU seconds and resident memory of each process since `before`.
    pub fn since(&self, before: &Spent) -> Vec<Value> {
        let now = self.spent();
        self.all()
            .filter_map(|(name, pids)| {
                let at = |spent: &Spent| spent.0.iter().find(|(n, _)| *n == name).map(|(_, cpu)| *cpu);
                let cpu = ((at(&now)? - at(before)?) * 1e3).round() / 1e3;
                let resident_kb: u64 = pids.iter().filter_map(|p| share_kb(*p, pids.len())).sum();
                Some(json!({"node": name, "cpu_s": cpu, "rss_mb": resident_kb / 1024}))
            })
            .collect()
    }

    /// The `asobi dev` whose ready file was given: the parent of its processes, if they run on this machine.
    fn supervisor(&self) -> Option<u32> {
        let (_, pid) = self.processes.first()?;
        let (_, fields) = stat(*pid)?;
        let parent: u32 = fields.get(1)?.parse().ok()?;
        stat(parent).is_some_and(|(name, _)| name.starts_with("asobi")).then_some(parent)
    }

    /// The processes by name, PostgreSQL's as one.
    fn all(&self) -> impl Iterator<Item = (String, Vec<u32>)> + '_ {
        let root = self.own.as_ref().map_or_else(|| self.supervisor(), Own::pid);
        let postgres = root.map(postgres).unwrap_or_default();
        let postgres = (!postgres.is_empty()).then(|| ("postgresql".to_owned(), postgres));
        self.processes.iter().map(|(name, pid)| (name.clone(), vec![*pid])).chain(postgres)
    }
}

impl Host {
    fn read(entry: &Value) -> Option<Self> {
        Some(Self {
            node_id: entry["node_id"].as_str()?.to_owned(),
            pid: u32::try_from(entry["pid"].as_u64()?).ok()?,
            metrics: entry["metrics"].as_str().map(str::to_owned),
        })
    }
}

/// An address as it is used: without a path.
fn address(url: &str) -> anyhow::Result<String> {
    let wrong = || format!("{url} is no gateway's address: expected one as http://127.0.0.1:8080");
    let parsed = reqwest::Url::parse(url).with_context(wrong)?;
    ensure!(matches!(parsed.scheme(), "http" | "https") && parsed.has_host() && parsed.path() == "/", wrong());
    Ok(url.trim_end_matches('/').to_owned())
}
