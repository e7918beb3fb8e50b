//! The real HAProxy, with the project's own configuration, in front of a cluster or of whatever listens.
//!
//! ```ignore
//! let ports = Ports::find()?;
//! let cluster = Cluster::new().port(ports.first).start().await?;
//! let balancer = Balancer::before(&cluster, &ports, &[("match-0", "match-1"), ("match-1", "match-2")]).await?;
//! let account = Account::register(&cluster.http, &balancer.http(), "ada").await?;
//! ```

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rand::Rng as _;
use tokio::process::{Child, Command};

use super::{Cluster, PATIENCE, until};

/// What `asobi dev` takes above its first port: gateways from there on, match hosts a hundred further.
const GATEWAYS: u16 = 0;
const MATCH_HOSTS: u16 = 100;
const BALANCER: u16 = 200;
const STATISTICS: u16 = 201;
/// Of each kind at most; `haproxy.cfg` has two.
const NODES: u16 = 3;

/// Fixed ports of this machine that are free, for nodes that come back where they were. Below those that outgoing
/// connections are given, so that nobody takes one while its node is away.
pub struct Ports {
    pub first: u16,
}

impl Ports {
    /// # Errors
    /// If a hundred tries find no room.
    pub fn find() -> anyhow::Result<Self> {
        let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        for _ in 0..100 {
            let first = rand::rng().random_range(50..150) * 200;
            let nodes = (0..NODES).flat_map(|n| [first + GATEWAYS + n, first + MATCH_HOSTS + n]);
            if nodes.chain([first + BALANCER, first + STATISTICS]).all(free) {
                return Ok(Self { first });
            }
        }
        bail!("no free ports between 10000 and 30000")
    }

    /// Where the balancer will be: the cluster's configuration has its address.
    pub fn balancer(&self) -> u16 {
        self.first + BALANCER
    }

    fn local(&self, offset: u16) -> String {
        format!("127.0.0.1:{}", self.first + offset)
    }
}

/// Killed when dropped.
pub struct Balancer {
    _child: Child,
    _dir: tempfile::TempDir,
    address: String,
    statistics: String,
    http: reqwest::Client,
}

impl Balancer {
    /// In front of a cluster that was started at these ports; a match host's name, and the backend that it is.
    pub async fn before(cluster: &Cluster, ports: &Ports, names: &[(&str, &str)]) -> anyhow::Result<Self> {
        let balancer = Self::start(ports, names).await?;
        for server in cluster.processes("gateways") {
            let n = server.node_id.strip_prefix("gateway-").and_then(|n| n.parse::<u16>().ok()).context("a gateway")?;
            balancer.has("gateways", &format!("gateway-{}", n + 1), true).await?;
        }
        Ok(balancer)
    }

    /// In front of whatever listens at these ports.
    pub async fn start(ports: &Ports, names: &[(&str, &str)]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (map, log) = (dir.path().join("hosts.map"), dir.path().join("log"));
        let mut lines = String::new();
        for (name, backend) in names {
            writeln!(lines, "{name} {backend}")?;
        }
        fs::write(&map, lines)?;
        let output = fs::File::create(&log)?;
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/haproxy/haproxy.cfg");
        let (address, statistics) = (ports.local(BALANCER), ports.local(STATISTICS));
        let mut child = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(config)
            .env("BIND", &address)
            .env("STATS_BIND", &statistics)
            .env("GATEWAY_1", ports.local(GATEWAYS))
            .env("GATEWAY_2", ports.local(GATEWAYS + 1))
            .env("MATCH_1", ports.local(MATCH_HOSTS))
            .env("MATCH_2", ports.local(MATCH_HOSTS + 1))
            .env("HOSTS_MAP", &map)
            .env("MAXCONN", "4000")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("haproxy is not on the path: ./test installs it")?;
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let started = Instant::now();
        while http.get(format!("http://{statistics}/metrics")).send().await.is_err() {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = child.try_wait()? {
                bail!("haproxy ended with {status}:\n{}", said());
            }
            ensure!(started.elapsed() < PATIENCE, "haproxy does not answer:\n{}", said());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Ok(Self { _child: child, _dir: dir, address, statistics, http })
    }

    /// `host:port` where players connect.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn ws(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// Waits until it believes a server to be there, or not.
    pub async fn has(&self, backend: &str, server: &str, there: bool) -> anyhow::Result<()> {
        let state = if there { "UP" } else { "DOWN" };
        let line = format!(r#"haproxy_server_status{{proxy="{backend}",server="{server}",state="{state}"}} 1"#);
        let url = format!("http://{}/metrics", self.statistics);
        until(&format!("{server} is {state}"), async || {
            let text = self.http.get(&url).send().await?.text().await?;
            let passed =
                format!(r#"haproxy_server_check_status{{proxy="{backend}",server="{server}",state="L7OK"}} 1"#);
            // Before its first check a server counts as there.
            Ok(text.lines().any(|said| said == line) && (!there || text.lines().any(|said| said == passed)))
        })
        .await
    }
}
