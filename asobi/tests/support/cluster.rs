//! `asobi dev` as a test starts it: free ports, a fresh database, what dies stays dead.

mod again;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use asobi_store::testing::TestDatabase;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::{
    Client, PATIENCE, Proxy,
    proxy::{Upstream, upstream_of},
    rest::{Account, request},
};

/// The roles of the ready file, with what their nodes' ids begin with.
const ROLES: [(&str, &str); 4] =
    [("gateways", "gateway"), ("match_hosts", "match"), ("matchmakers", "matchmaker"), ("social_services", "social")];

/// The database of a cluster's own PostgreSQL, but for its port.
const OWN_DATABASE: &str = "postgres://asobi@127.0.0.1/asobi";

/// How long a connection for requests is kept that nobody uses: it counts among the descriptors of its gateway.
const IDLE: Duration = Duration::from_secs(10);

/// What to start.
pub struct Builder {
    gateways: usize,
    match_hosts: usize,
    matchmakers: usize,
    social_services: usize,
    /// The first of fixed ports; 0 for free ones.
    port: u16,
    sets: Vec<String>,
    node_sets: Vec<String>,
    database_url: Option<String>,
    envs: Vec<(String, String)>,
    games: Option<PathBuf>,
    own_postgres: bool,
    on: Option<(TestDatabase, String)>,
    proxied: Proxied,
}

enum Proxied {
    None,
    All,
    These(Vec<String>),
}

/// The play's own way to the cluster's database, past every proxy.
pub struct Database {
    pub url: String,
    pub pool: sqlx::PgPool,
}

/// A running cluster; killed when dropped, stopped properly by [`Cluster::stop`].
pub struct Cluster {
    supervisor: Child,
    ready_file: PathBuf,
    dir: tempfile::TempDir,
    log: PathBuf,
    pub database: Database,
    pub http: reqwest::Client,
    proxies: BTreeMap<String, Proxy>,
    /// Nodes that the play has started again, by their ids.
    again: BTreeMap<String, (Child, Process)>,
}

/// One process of the ready file.
#[derive(Debug, Clone)]
pub struct Process {
    pub node_id: String,
    pub http: Option<String>,
    pub ws: Option<String>,
    pub grpc: Option<String>,
    pub metrics: Option<String>,
    pub pid: i32,
    pub leading: Option<bool>,
}

impl Cluster {
    #[expect(clippy::new_ret_no_self, reason = "reads as the play's first line")]
    pub fn new() -> Builder {
        Builder {
            gateways: 2,
            match_hosts: 2,
            matchmakers: 2,
            social_services: 1,
            port: 0,
            sets: Vec::new(),
            node_sets: Vec::new(),
            database_url: None,
            envs: Vec::new(),
            games: None,
            own_postgres: false,
            on: None,
            proxied: Proxied::None,
        }
    }

    /// The `i`th gateway.
    pub fn gateway(&self, i: usize) -> Process {
        self.processes("gateways").swap_remove(i)
    }

    pub fn match_host(&self, i: usize) -> Process {
        self.processes("match_hosts").swap_remove(i)
    }

    /// The process of a node id, of any role.
    pub fn node(&self, node_id: &str) -> Option<Process> {
        ROLES.into_iter().flat_map(|(role, _)| self.processes(role)).find(|p| p.node_id == node_id)
    }

    /// The proxy between a node and PostgreSQL, of a cluster that was started [`Builder::proxied`].
    pub fn proxy(&self, node_id: &str) -> &Proxy {
        self.proxies.get(node_id).expect("a proxied node")
    }

    /// All of them.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.proxies.values()
    }

    /// `/ready` of a node: whether it wants to be sent players.
    pub async fn ready(&self, process: &Process) -> anyhow::Result<bool> {
        let metrics = process.metrics.as_deref().context("metrics")?;
        Ok(request(self.http.get(format!("http://{metrics}/ready"))).await?.0 == 200)
    }

    /// The sum of a metric's series of a node; 0 while there is none.
    pub async fn metric(&self, process: &Process, name: &str) -> anyhow::Result<f64> {
        let metrics = process.metrics.as_deref().context("metrics")?;
        let text = self.http.get(format!("http://{metrics}/metrics")).send().await?.text().await?;
        let series =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Ok(series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    /// Ends PostgreSQL without a checkpoint, as `pg_ctl stop -m immediate` does, and waits until it is back: the
    /// supervisor starts it again. Only with [`Builder::own_postgres`].
    pub async fn crash_database(&self) -> anyhow::Result<()> {
        self.stop_database(Signal::SIGQUIT).await
    }

    /// Restarts PostgreSQL as `pg_ctl restart -m fast` does, and waits until it is back. Only with
    /// [`Builder::own_postgres`].
    pub async fn restart_database(&self) -> anyhow::Result<()> {
        self.stop_database(Signal::SIGINT).await
    }

    async fn stop_database(&self, signal: Signal) -> anyhow::Result<()> {
        let postmaster = self.postmaster().await?;
        kill(postmaster, signal)?;
        let started = Instant::now();
        while self.postmaster().await.ok().is_none_or(|now| now == postmaster) {
            ensure!(started.elapsed() < PATIENCE, "PostgreSQL does not come back:\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn postmaster(&self) -> anyhow::Result<Pid> {
        let pid: String = sqlx::query_scalar("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
            .fetch_one(&self.database.pool)
            .await?;
        Ok(Pid::from_raw(pid.parse()?))
    }

    pub fn processes(&self, role: &str) -> Vec<Process> {
        let ready = read_ready(&self.ready_file).expect("the ready file stays readable");
        let listed: Vec<Process> =
            ready[role].as_array().map(|list| list.iter().map(Process::read).collect()).unwrap_or_default();
        // The supervisor knows nothing of those that a play has started.
        listed.into_iter().map(|p| self.again.get(&p.node_id).map_or(p, |(_, again)| again.clone())).collect()
    }

    /// Runs `asobi ctl` on this cluster; what it prints.
    pub async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_asobi"));
        command.arg("ctl").args(arguments).args(["--database-url", &self.database.url]).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.context("asobi ctl does not end")??;
        let (said, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "asobi ctl {arguments:?} failed: {complaint}");
        Ok(said)
    }

    /// The matchmaker that leads, waited for.
    pub async fn leading_matchmaker(&self) -> anyhow::Result<Process> {
        let started = Instant::now();
        loop {
            // The supervisor writes the file a moment after the change: a dead process does not lead.
            let alive = |p: &Process| kill(Pid::from_raw(p.pid), None).is_ok();
            if let Some(leader) =
                self.processes("matchmakers").into_iter().find(|p| p.leading == Some(true) && alive(p))
            {
                return Ok(leader);
            }
            ensure!(started.elapsed() < PATIENCE, "no matchmaker leads");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Registers an account on a gateway, connects its socket there.
    pub async fn player(&self, gateway: usize, name: &str) -> anyhow::Result<Client> {
        self.player_with(gateway, name, &[]).await
    }

    /// As [`Self::player`], with capabilities.
    pub async fn player_with(&self, gateway: usize, name: &str, capabilities: &[&str]) -> anyhow::Result<Client> {
        let gateway = self.gateway(gateway);
        let account = Account::register(&self.http, gateway.http.as_deref().context("http")?, name).await?;
        Client::connect(gateway.ws.as_deref().context("ws")?, account, capabilities).await
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(&self, process: &Process) -> anyhow::Result<()> {
        self.signal(process, Signal::SIGKILL)?;
        self.gone(process).await
    }

    pub fn signal(&self, process: &Process, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(process.pid), signal)?)
    }

    pub async fn gone(&self, process: &Process) -> anyhow::Result<()> {
        let started = Instant::now();
        // A zombie still answers signal 0: the supervisor reaps it.
        while kill(Pid::from_raw(process.pid), None).is_ok() {
            ensure!(started.elapsed() < PATIENCE, "{} does not end", process.node_id);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Drains everything, as Ctrl-C does.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for (node_id, (child, _)) in &mut self.again {
            drop(child.stdin.take());
            let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
            ensure!(matches!(&ended, Ok(Ok(_))), "{node_id} did not stop: {ended:?}");
        }
        let pid = self.supervisor.id().context("the supervisor has ended early")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        let ended = tokio::time::timeout(PATIENCE, self.supervisor.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => {}
            other => bail!("the cluster did not stop cleanly: {other:?}\n{}", self.log_tail()),
        }
        Ok(())
    }

    /// Everything that its nodes have logged.
    pub fn logged(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// The end of the cluster's log, for a failure's message.
    pub fn log_tail(&self) -> String {
        let again = self.log.with_extension("again");
        if again.exists() {
            format!("{}\n--- started again:\n{}", tail(&self.log), tail(&again))
        } else {
            tail(&self.log)
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A play that ends well has stopped it.
        if std::thread::panicking() || self.supervisor.id().is_some() {
            eprintln!("--- the cluster's log ends:\n{}", self.log_tail());
        }
        // The supervisor's children end with it: their standard input closes.
        if let Some(pid) = self.supervisor.id().and_then(|p| i32::try_from(p).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Builder {
    pub fn gateways(mut self, n: usize) -> Self {
        self.gateways = n;
        self
    }

    pub fn match_hosts(mut self, n: usize) -> Self {
        self.match_hosts = n;
        self
    }

    pub fn matchmakers(mut self, n: usize) -> Self {
        self.matchmakers = n;
        self
    }

    pub fn social_services(mut self, n: usize) -> Self {
        self.social_services = n;
        self
    }

    /// Gateways alone: for what needs neither matches nor friends.
    pub fn gateways_only(mut self) -> Self {
        (self.match_hosts, self.matchmakers, self.social_services) = (0, 0, 0);
        self
    }

    /// A variable in the environment of every process.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.envs.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Overrides a configuration key, as `--set key=value`.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.sets.push(format!("{key}={}", value.to_string()));
        self
    }

    /// Overrides a configuration key of one node, as `--set-node node:key=value`.
    pub fn set_node(mut self, node_id: &str, key: &str, value: impl ToString) -> Self {
        self.node_sets.push(format!("{node_id}:{key}={}", value.to_string()));
        self
    }

    /// Players reach the nodes at fixed ports from this one on, so that who comes back is where it was.
    pub fn port(mut self, first: u16) -> Self {
        self.port = first;
        self
    }

    /// A database of the play's own.
    pub fn database(mut self, url: &str) -> Self {
        self.database_url = Some(url.to_owned());
        self
    }

    /// The tests' own scripts instead of the project's games.
    pub fn test_games(self) -> Self {
        self.games(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/games"))
    }

    /// Another games folder than the project's.
    pub fn games(mut self, dir: &Path) -> Self {
        self.games = Some(dir.to_owned());
        self
    }

    /// PostgreSQL of its own, which may be crashed: the one that plays share is not theirs to stop. What dies in such a
    /// cluster is started again, nodes too.
    pub fn own_postgres(mut self) -> Self {
        self.own_postgres = true;
        self
    }

    /// On a database that the play has prepared, which the processes reach by a URL of their own.
    pub fn on(mut self, database: TestDatabase, url: String) -> Self {
        self.on = Some((database, url));
        self
    }

    /// A proxy between each node and PostgreSQL: [`Cluster::proxy`].
    pub fn proxied(mut self) -> Self {
        self.proxied = Proxied::All;
        self
    }

    /// A proxy between some nodes and PostgreSQL; the others talk to it directly.
    pub fn proxied_nodes(mut self, node_ids: &[&str]) -> Self {
        self.proxied = Proxied::These(node_ids.iter().map(|&id| id.to_owned()).collect());
        self
    }

    fn node_ids(&self) -> Vec<String> {
        let counts = [self.gateways, self.match_hosts, self.matchmakers, self.social_services];
        let ids = |((_, stem), n)| (0..n).map(move |i| format!("{stem}-{i}"));
        ROLES.into_iter().zip(counts).flat_map(ids).collect()
    }

    async fn proxies(&self, upstream: &Upstream) -> anyhow::Result<BTreeMap<String, Proxy>> {
        let nodes = match &self.proxied {
            Proxied::None => return Ok(BTreeMap::new()),
            Proxied::All => self.node_ids(),
            Proxied::These(nodes) => nodes.clone(),
        };
        let mut proxies = BTreeMap::new();
        for node in nodes {
            proxies.insert(node, Proxy::before(upstream.clone()).await?);
        }
        Ok(proxies)
    }

    pub async fn start(mut self) -> anyhow::Result<Cluster> {
        let database = match (self.on.take(), self.database_url.take()) {
            _ if self.own_postgres => None,
            (Some((TestDatabase { url, pool, .. }, nodes)), _) => Some((Database { url, pool }, nodes)),
            (None, Some(url)) => Some((Database::connect(&url).await?, url)),
            (None, None) => {
                let TestDatabase { url, pool, .. } = TestDatabase::create().await?;
                Some((Database { url: url.clone(), pool }, url))
            }
        };
        let database_url = database.as_ref().map(|(_, url)| url.as_str());
        // PostgreSQL does not run as root, and its user has to get in.
        let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
        let proxies = match database_url {
            Some(url) => self.proxies(&Upstream::At(upstream_of(url)?)).await?,
            None => self.proxies(&Upstream::Of(dir.path().join("data/postgres/postmaster.pid"))).await?,
        };
        let (ready_file, log) = (dir.path().join("ready.json"), dir.path().join("log"));
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
        let output = fs::File::create(&log)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_asobi"));
        command
            .arg("dev")
            .args(["--port", &self.port.to_string()])
            .args(["--gateways", &self.gateways.to_string()])
            .args(["--match-hosts", &self.match_hosts.to_string()])
            .args(["--matchmakers", &self.matchmakers.to_string()])
            .args(["--social-services", &self.social_services.to_string()])
            .arg("--games")
            .arg(self.games.unwrap_or_else(|| project.join("games")))
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .arg("--ready-file")
            .arg(&ready_file)
            .current_dir(dir.path())
            .envs(self.envs)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(false);
        if let Some(url) = database_url {
            command.args(["--no-restart", "--database-url", url]);
        }
        for (node, proxy) in &proxies {
            let url = proxy.url(database_url.unwrap_or(OWN_DATABASE))?;
            command.args(["--set-node", &format!("{node}:database.url={url}")]);
        }
        // Plays are about players, not about one address that registers them all.
        let open = ["connects_per_second", "register_per_second", "auth_per_second", "requests_per_second"];
        for key in open {
            command.args(["--set", &format!("limits.{key}=0")]);
        }
        for set in &self.sets {
            command.args(["--set", set]);
        }
        for set in &self.node_sets {
            command.args(["--set-node", set]);
        }
        let mut supervisor = command.spawn()?;
        let started = Instant::now();
        let ready = loop {
            if let Some(ready) = read_ready(&ready_file) {
                break ready;
            }
            if let Some(status) = supervisor.try_wait()? {
                bail!("asobi dev ended with {status}:\n{}", tail(&log));
            }
            ensure!(started.elapsed() < 2 * PATIENCE, "the cluster is not ready:\n{}", tail(&log));
            tokio::time::sleep(Duration::from_millis(30)).await;
        };
        let database = match database {
            Some((database, _)) => database,
            None => Database::connect(ready["database_url"].as_str().context("database_url")?).await?,
        };
        let http = reqwest::Client::builder().timeout(PATIENCE).pool_idle_timeout(IDLE).build()?;
        Ok(Cluster { supervisor, ready_file, dir, log, database, http, proxies, again: BTreeMap::new() })
    }
}

impl Database {
    async fn connect(url: &str) -> anyhow::Result<Self> {
        let options = asobi_store::DatabaseOptions {
            url: url.to_owned(),
            max_connections: 5,
            timeout: Duration::from_secs(10),
            application_name: "asobi/test".to_owned(),
        };
        Ok(Self { url: url.to_owned(), pool: asobi_store::connect(&options).await? })
    }
}

impl Process {
    fn read(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Self {
            node_id: text("node_id").unwrap_or_default(),
            http: text("http"),
            ws: text("ws"),
            grpc: text("grpc"),
            metrics: text("metrics"),
            pid: value["pid"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or_default(),
            leading: value["leading"].as_bool(),
        }
    }
}

fn read_ready(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(80)..].join("\n")
}
