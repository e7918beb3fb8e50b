//! The first half of every service's start: reach the database, the bus and the registry, in this order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use asobi_bus::{Bus, BusOptions};
use asobi_proto::bus::Topic;
use asobi_service_kit::{
    Config, Shutdown,
    config::MigrateVia,
    grpc::{Access, Channels, Tls},
    server::reachable,
    starting,
};
use asobi_store::{DatabaseOptions, within};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Directory, Membership, NodeSpec, Role, access::Gate, meters};

/// Where this process has bound its listeners.
#[derive(Debug, Clone, Copy)]
pub struct NodeAddresses {
    /// Only where players are served.
    pub http: Option<SocketAddr>,
    pub grpc: SocketAddr,
    pub metrics: SocketAddr,
}

/// What a service holds once it has joined: everything that connects it to the others.
pub struct Node {
    pub pool: PgPool,
    /// For sessions of its own that must reach the primary itself: listener, leader, heartbeat.
    pub direct: PgConnectOptions,
    pub bus: Bus,
    pub membership: Arc<Membership>,
    pub directory: Arc<Directory>,
    pub channels: Channels,
    /// Who may call this process: what its gRPC server is given.
    pub access: Access,
    pub(crate) gate: Arc<Gate>,
    /// Cancelled when this process takes no more work: what would go on for ever, such as a stream, ends then.
    pub draining: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Node {
    /// Joins the cluster under a new incarnation, in state `starting`.
    ///
    /// # Errors
    /// With a sentence that says what to do: the database cannot be reached, has no schema, is a standby.
    pub async fn join(
        config: &Config,
        role: Role,
        addresses: NodeAddresses,
        topics: impl IntoIterator<Item = Topic>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let tls = Tls::of(&config.grpc)?;
        let timeout = config.database.timeout();
        let node_id = config.node.id.clone();
        let application_name = format!("asobi/{node_id}");
        let pool = asobi_store::connect(&DatabaseOptions {
            url: config.database.url.expose().to_owned(),
            max_connections: config.database.max_connections,
            timeout,
            application_name: application_name.clone(),
        })
        .await
        .context("the database at database.url cannot be reached")?;
        if let Some(problem) = within(timeout, asobi_store::schema_problem(&pool)).await? {
            anyhow::bail!(problem);
        }
        starting::done("database");
        let direct = asobi_store::connect_options(config.database.direct(), &application_name, timeout)
            .context("database.direct_url is not a PostgreSQL URL")?;

        warn_if_exposed(config);

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut topics: Vec<Topic> = topics.into_iter().collect();
        let always = [Topic::Nodes, Topic::Access].into_iter().filter(|topic| !topics.contains(topic));
        topics.extend(always.collect::<Vec<_>>());
        let (bus_pool, bus_direct) = bus_database(config, &application_name, &pool, &direct).await?;
        let bus = Bus::start(
            BusOptions {
                pool: bus_pool,
                direct: bus_direct,
                // Of this start alone: in containers two processes of one node id are both number 1, and a process takes
                // what bears its own name for delivered.
                origin: format!("{node_id}/{:016x}", rand::random::<u64>()),
                topics,
            },
            &stop,
            &tasks,
        );
        let gate = Gate::start(config, &pool, &bus, &stop, &tasks).await?;
        starting::done("cluster's keys");
        if let Some(tls) = &tls {
            tasks.spawn(Arc::clone(tls).follow(stop.clone()));
        }
        let spec = spec(config, role, node_id, addresses);
        let membership = Membership::register(&pool, bus.publisher().clone(), spec).await?;
        let directory = Directory::load(&pool).await?;
        starting::done("registration");
        let node = Self {
            channels: Channels::new(gate.keys().clone()).over(tls.clone()),
            access: gate.access(tls),
            gate,
            pool,
            direct,
            bus,
            membership,
            directory,
            draining: shutdown.draining(),
            stop,
            tasks,
        };
        node.start_tasks(shutdown);
        Ok(node)
    }

    fn start_tasks(&self, shutdown: &Shutdown) {
        let beating = Arc::clone(&self.membership).beat(self.direct.clone(), self.stop.clone());
        let shutdown = shutdown.clone();
        self.tasks.spawn(async move {
            if let Err(error) = beating.await {
                tracing::error!(%error, "This node may no longer act for the cluster; it stops.");
                shutdown.fail();
            }
        });
        let wake = self.bus.subscribe(&[Topic::Nodes], 16);
        self.tasks.spawn(Arc::clone(&self.directory).follow(self.pool.clone(), wake, self.stop.clone()));
        self.tasks.spawn(meters::try_pool(self.pool.clone(), self.stop.clone()));
        meters::observe(&self.membership, &self.directory, &self.pool);
    }

    /// The end of every service, after its drain: the registry is told, what waits for the bus is sent, the tasks end.
    /// Bounded to a few seconds.
    pub async fn leave(&self) {
        self.membership.leave().await;
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(3), self.tasks.wait()).await.is_err() {
            tracing::warn!("The bus did not come to rest in time; hints may be lost, rows are not.");
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), self.pool.close()).await;
    }
}

/// Where the bus notifies and listens: a database of its own, where there is one. Rows are committed before their hints are
/// sent, and whoever listens reads the rows again after every loss, so hints need not come from where the rows are.
async fn bus_database(
    config: &Config,
    application_name: &str,
    pool: &PgPool,
    direct: &PgConnectOptions,
) -> anyhow::Result<(PgPool, PgConnectOptions)> {
    let url = config.database.bus_url.expose();
    if url.is_empty() {
        return Ok((pool.clone(), direct.clone()));
    }
    let timeout = config.database.timeout();
    let own = DatabaseOptions {
        url: url.to_owned(),
        // The pulse's; the publisher's and the listener's are their own.
        max_connections: 1,
        timeout,
        application_name: application_name.to_owned(),
    };
    let own = asobi_store::connect(&own).await.context("the database at database.bus_url cannot be reached")?;
    let direct = asobi_store::connect_options(url, application_name, timeout)
        .context("database.bus_url is not a PostgreSQL URL")?;
    Ok((own, direct))
}

/// What crosses a network in plain text can be read and changed there: passwords' hashes, tokens, everything that is stored.
fn warn_if_exposed(config: &Config) {
    let database = &config.database;
    let urls = [
        ("database.url", database.url.expose()),
        ("database.direct_url", database.direct_url.expose()),
        ("database.replica_url", database.replica_url.expose()),
        ("database.bus_url", database.bus_url.expose()),
    ];
    for (key, url) in urls.into_iter().filter(|(_, url)| !url.is_empty()) {
        if let Ok(options) = url.parse::<PgConnectOptions>()
            && asobi_store::is_exposed(&options)
        {
            tracing::warn!(
                key,
                host = options.get_host(),
                "The database is beyond this machine and its URL does not insist on TLS: whoever is on that network may read and \
                 change what crosses it. Add sslmode=verify-full and sslrootcert=FILE to the URL, or keep the network to the cluster."
            );
        }
    }
}

fn spec(config: &Config, role: Role, node_id: String, addresses: NodeAddresses) -> NodeSpec {
    let http_url = addresses.http.map(|bound| {
        if config.http.public_url.is_empty() {
            format!("{}://{}", if config.http.has_tls() { "https" } else { "http" }, reachable(bound, ""))
        } else {
            config.http.public_url.trim_end_matches('/').to_owned()
        }
    });
    NodeSpec {
        ws_url: http_url.as_ref().and_then(|url| ws_url(config, role, &node_id, addresses, url)),
        node_id,
        role,
        region: config.node.region.clone(),
        http_url,
        grpc_addr: reachable(addresses.grpc, &config.grpc.advertise),
        metrics_addr: reachable(addresses.metrics, ""),
        capacity: if role == Role::Match { config.matches.capacity } else { 0 },
        lease: config.node.lease(),
    }
}

/// Where clients open a WebSocket to this very node: as `migrate.via` says, where it runs matches.
fn ws_url(config: &Config, role: Role, node_id: &str, addresses: NodeAddresses, http_url: &str) -> Option<String> {
    // http → ws and https → wss.
    let own = format!("{}/ws", http_url.replacen("http", "ws", 1));
    if role != Role::Match {
        return Some(own);
    }
    match config.migrate.via {
        MigrateVia::Off => None,
        MigrateVia::Url => Some(own),
        MigrateVia::Affinity => {
            let url = &config.migrate.url;
            let joint = if url.contains('?') { '&' } else { '?' };
            Some(format!("{url}{joint}{}={node_id}", config.migrate.query))
        }
        MigrateVia::Pod => {
            let grpc = reachable(addresses.grpc, &config.grpc.advertise);
            let (host, _) = grpc.rsplit_once(':')?;
            let scheme = if config.http.has_tls() { "wss" } else { "ws" };
            Some(format!("{scheme}://{host}:{}/ws", addresses.http?.port()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(role: Role, sets: &[(&str, &str)]) -> Option<String> {
        let own = [("node.id", "match-2"), ("http.public_url", "https://two.example:8443")];
        let config = Config::with_sets(own.iter().chain(sets).copied()).unwrap();
        let at = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let addresses = NodeAddresses { http: Some(at(8080)), grpc: at(9090), metrics: at(9091) };
        spec(&config, role, config.node.id.clone(), addresses).ws_url
    }

    #[test]
    fn a_match_host_is_reached_in_the_configured_way() {
        let (pod, url) = (("grpc.advertise", "10.1.2.3:9090"), ("migrate.url", "wss://play.example/ws"));
        let of = |sets: &[(&str, &str)]| announced(Role::Match, sets);
        assert_eq!(of(&[]).as_deref(), Some("wss://two.example:8443/ws"));
        assert_eq!(of(&[("migrate.via", "pod"), pod]).as_deref(), Some("ws://10.1.2.3:8080/ws"));
        assert_eq!(of(&[("migrate.via", "affinity"), url]).as_deref(), Some("wss://play.example/ws?node=match-2"));
        let (url, name) = (("migrate.url", "wss://play.example/ws?v=1"), ("migrate.query", "to"));
        assert_eq!(
            of(&[("migrate.via", "affinity"), url, name]).as_deref(),
            Some("wss://play.example/ws?v=1&to=match-2")
        );
        assert_eq!(of(&[("migrate.via", "off")]), None);
        let tls = [("http.tls_cert", "a.pem"), ("http.tls_key", "a.key")];
        let of = |sets: &[(&str, &str)]| announced(Role::Match, &[&tls[..], sets].concat());
        assert_eq!(of(&[("migrate.via", "pod"), pod]).as_deref(), Some("wss://10.1.2.3:8080/ws"));
        assert_eq!(of(&[("http.public_url", "")]).as_deref(), Some("wss://127.0.0.1:8080/ws"));
        assert_eq!(announced(Role::Gateway, &[("migrate.via", "off")]).as_deref(), Some("wss://two.example:8443/ws"));
    }
}
