//! The process: joins the cluster, loads the games, serves players and other nodes, and drains.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use asobi_cluster::{DatabaseIncarnation, Node, NodeState, Role, ops};
use asobi_proto::match_v1::match_host_service_server::MatchHostServiceServer;
use asobi_rest::{Listeners, RestDeps};
use asobi_service_kit::{Config, Shutdown, config::MoveTo, health::Readiness, server, service::Running, starting};
use asobi_session::{
    auth::{Issuer, Verifier},
    hub::{self, Hub, HubDeps},
    link::{Edge, FrameKind, MovedTo, NearHost, SessionNo},
};
use asobi_store::{matches, within};
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    game::Registry,
    games::{self, Announcer, Games},
    host::{Host, HostDeps, HostLink, Manners, PgRows, Port, Stop, Trust},
    hosted,
    lease::TrustKeeper,
    moving::{GrpcPeers, MAX_SNAPSHOT, Mover},
    outside::Services,
    relay::HostService,
};

/// What is left of the grace period when matches that still run are ended: for their last transaction, and for the sockets.
const LAST_WORDS: Duration = Duration::from_millis(3500);

/// Runs a match host with the games of `match.games` until its drain is over.
///
/// # Errors
/// Games that do not load, an address that is taken, a cluster that cannot be joined; each as a sentence that says what to do.
#[must_use]
pub fn run(config: Arc<Config>, shutdown: Shutdown) -> Running {
    Box::pin(run_with(config, shutdown, Registry::default()))
}

/// [`run`], with games in Rust besides those in Lua. A mode of both is the Rust one.
///
/// # Errors
/// As [`run`].
pub async fn run_with(config: Arc<Config>, shutdown: Shutdown, games: Registry) -> anyhow::Result<()> {
    spare_memory();
    let games = games::load(&config, games)?;
    starting::done("games");
    let listeners = Listeners::bind(&config).await?;
    starting::done("addresses");
    let topics = hub::topics();
    let node = Node::join(&config, Role::Match, listeners.addresses(), topics, &shutdown).await?;
    let readiness = Readiness::new();
    match serve(&config, &node, games, listeners, &readiness, &shutdown).await {
        Ok(serving) => {
            node.membership.set_state(NodeState::Ready);
            readiness.set_ready(true);
            shutdown.leaving().cancelled().await;
            serving.drain(&node, &readiness, &shutdown).await;
            Ok(())
        }
        Err(error) => {
            node.leave().await;
            Err(error)
        }
    }
}

/// Each match's VM takes pages of 16 KiB and touches a part of each; huge pages would keep all of it in memory, twice as much.
fn spare_memory() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "Huge pages stay on.");
    }
}

/// The sessions of this very process. The hub needs the link and the link the hub: until the hub is there nobody is attached.
#[derive(Default)]
struct NearEdge(OnceLock<Arc<Hub>>);

impl Edge for NearEdge {
    fn deliver(&self, sessions: &[SessionNo], kind: FrameKind, frame: Bytes) {
        if let Some(hub) = self.0.get() {
            Edge::deliver(&**hub, sessions, kind, frame);
        }
    }

    fn dropped(&self, sessions: &[SessionNo], match_id: Uuid) {
        if let Some(hub) = self.0.get() {
            Edge::dropped(&**hub, sessions, match_id);
        }
    }

    fn applied(&self, inputs: &[(SessionNo, u64)]) {
        if let Some(hub) = self.0.get() {
            Edge::applied(&**hub, inputs);
        }
    }

    fn moved(&self, sessions: &[SessionNo], to: &MovedTo) {
        if let Some(hub) = self.0.get() {
            Edge::moved(&**hub, sessions, to);
        }
    }
}

/// What runs until the drain.
struct Serving {
    host: Arc<Host>,
    mover: Arc<Mover>,
    hub: Arc<Hub>,
    /// Ends the gRPC server and the relays, after the matches.
    stop: CancellationToken,
    relays: TaskTracker,
}

async fn serve(
    config: &Arc<Config>,
    node: &Node,
    mut games: Games,
    listeners: Listeners,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> anyhow::Result<Serving> {
    let trust =
        Arc::new(Trust::new(Instant::now() + node.membership.lease().saturating_sub(node.membership.last_contact())));
    let host = start_host(config, node, games.registry.clone(), &trust).context("no threads for matches")?;
    starting::done("threads for matches");
    let mover = Arc::new(Mover {
        node_id: node.membership.identity().node_id.clone(),
        pool: node.pool.clone(),
        directory: Arc::clone(&node.directory),
        any_version: config.matches.move_to == MoveTo::Any,
    });
    let verifier = Verifier::start(node.pool.clone(), &node.bus, &config.auth, shutdown)
        .await
        .context("signing keys and revocations could not be read")?;
    starting::done("signing keys and revocations");
    let publisher = node.bus.publisher().clone();
    let issuer = Issuer::start(node.pool.clone(), publisher, Arc::clone(&verifier), &config.auth).await?;
    starting::done("logins");
    let identity = node.membership.identity();
    let edge = Arc::new(NearEdge::default());
    let origin = format!("{}#{}", identity.node_id, identity.incarnation);
    let near = NearHost {
        node_id: identity.node_id.clone(),
        incarnation: identity.incarnation,
        link: Arc::new(HostLink {
            host: Arc::clone(&host),
            port: Port::new(origin, Arc::clone(&edge) as Arc<dyn Edge>),
        }),
    };
    let hub = Hub::start(HubDeps {
        config: Arc::clone(config),
        pool: node.pool.clone(),
        bus: node.bus.clone(),
        membership: Arc::clone(&node.membership),
        directory: Arc::clone(&node.directory),
        channels: node.channels.clone(),
        verifier: Arc::clone(&verifier),
        near: Some(near),
        shutdown: shutdown.clone(),
    });
    let _ = edge.0.set(Arc::clone(&hub));
    let rest = asobi_rest::router(RestDeps {
        config: Arc::clone(config),
        node_id: identity.node_id.clone(),
        pool: node.pool.clone(),
        directory: Arc::clone(&node.directory),
        channels: node.channels.clone(),
        verifier,
        issuer,
        hub: Arc::clone(&hub),
        readiness: readiness.clone(),
    });
    starting::done("players' API");
    Announcer::new(config, node).announce(&host).await?;
    starting::done("announcing the modes");
    let (stop, relays) = (CancellationToken::new(), TaskTracker::new());
    let service = MatchHostServiceServer::new(HostService {
        host: Arc::clone(&host),
        named: Box::new({
            let mover = Arc::clone(&mover);
            move |node_id| mover.named(node_id)
        }),
        shutdown: shutdown.clone(),
        stop: stop.clone(),
        tasks: relays.clone(),
    })
    .max_decoding_message_size(MAX_SNAPSHOT);
    let routes = ops::routes(node, config)
        .add_service(service)
        .add_service(hosted::service(Arc::clone(&host), stop.clone()))
        .add_service(hub.chat_service(config.database.timeout()));
    server::serve_metrics(listeners.metrics.0, readiness.clone(), shutdown);
    server::serve_grpc_until(listeners.grpc.0, routes, readiness, node.access.clone(), shutdown, stop.clone());
    server::serve_players(listeners.http.0, listeners.door, rest, shutdown);
    if let Some(changes) = games.take_changes() {
        let announcer = Announcer::new(config, node);
        shutdown.spawn("changed games", changes.follow(Arc::clone(&host), announcer, stop.clone()));
    }
    shutdown.spawn("match rows", watch_rows(Watch::new(config, node, &host), stop.clone()));
    shutdown.spawn(
        "lost checkpoints",
        void_checkpoints(node.membership.database_incarnation(), Arc::clone(&host), stop.clone()),
    );
    let keeper = TrustKeeper::new(node, &host, &trust, config.database.timeout());
    shutdown.spawn("trust", keeper.run(stop.clone()));
    tracing::info!(
        http.address = %listeners.http.1,
        grpc.address = %listeners.grpc.1,
        metrics.address = %listeners.metrics.1,
        modes = host.modes().len(),
        "The match host serves."
    );
    Ok(Serving { host, mover, hub, stop, relays })
}

fn start_host(config: &Config, node: &Node, registry: Registry, trust: &Arc<Trust>) -> std::io::Result<Arc<Host>> {
    let identity = node.membership.identity();
    let membership = Arc::clone(&node.membership);
    Host::start(HostDeps {
        node_id: identity.node_id.clone(),
        incarnation: identity.incarnation,
        registry,
        rows: Arc::new(PgRows::new(node.pool.clone(), node.bus.publisher().clone(), config.database.timeout())),
        outside: Arc::new(Services::new(node.pool.clone(), Arc::clone(&node.directory), node.channels.clone())),
        peers: Arc::new(GrpcPeers::new(node.channels.clone())),
        trust: Arc::clone(trust),
        manners: Manners { dev_errors: config.matches.dev_errors },
        capacity: match config.matches.capacity {
            0 => usize::MAX,
            capacity => capacity as usize,
        },
        input_limit: config.matches.input_queue.max(1),
        workers: config.matches.workers,
        on_load: Box::new(move |load| membership.set_load(load)),
    })
}

/// A database that has crashed may have lost the last moments of what it does not flush for each.
async fn void_checkpoints(
    mut database: watch::Receiver<DatabaseIncarnation>,
    host: Arc<Host>,
    stop: CancellationToken,
) {
    database.mark_unchanged();
    loop {
        tokio::select! {
            changed = database.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        host.void_checkpoints();
    }
}

/// What is needed to see whether matches are still ours.
struct Watch {
    pool: sqlx::PgPool,
    membership: Arc<asobi_cluster::Membership>,
    host: Arc<Host>,
    timeout: Duration,
}

impl Watch {
    fn new(config: &Config, node: &Node, host: &Arc<Host>) -> Self {
        Self {
            pool: node.pool.clone(),
            membership: Arc::clone(&node.membership),
            host: Arc::clone(host),
            timeout: config.database.timeout(),
        }
    }
}

/// Compares the matches with their rows, once a lease: a match that was given away stops, a row without a match is ended.
async fn watch_rows(watch: Watch, stop: CancellationToken) {
    let lease = watch.membership.lease();
    let mut without: HashSet<(Uuid, i64)> = HashSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(lease) => {}
            () = stop.cancelled() => return,
        }
        if !watch.membership.holds_lease() {
            continue;
        }
        let identity = watch.membership.identity();
        let read_from = Instant::now();
        let held = within(watch.timeout, matches::held(&watch.pool, &identity.node_id, identity.incarnation)).await;
        let Ok(held) = held else {
            continue;
        };
        let now_without: HashSet<_> = watch.host.compare(&held, read_from).into_iter().collect();
        // Seen twice: not one that is just being claimed or ended.
        for (match_id, epoch) in now_without.intersection(&without) {
            watch.host.fail_row(*match_id, *epoch).await;
        }
        without = now_without;
    }
}

impl Serving {
    /// Players go last: whoever still plays here is told how the match ended.
    async fn drain(self, node: &Node, readiness: &Readiness, shutdown: &Shutdown) {
        self.host.drain();
        readiness.set_ready(false);
        node.membership.set_state(NodeState::Draining);
        // Matches go at once, while those who look for this host still hear that it takes no more.
        let (cut, playing) = (shutdown.cut(), shutdown.time_left().saturating_sub(LAST_WORDS));
        let until = tokio::time::Instant::now() + playing;
        let over = tokio::select! {
            over = self.mover.empty(&self.host, until) => over,
            () = cut.cancelled() => false,
        };
        if !over {
            tracing::warn!(matches = self.host.count(), "Matches still run; they are ended.");
            self.host.stop_all(Stop::HostStopped);
            self.host.emptied(LAST_WORDS / 3).await;
        }
        shutdown.draining().cancelled().await;
        self.hub.close_all(LAST_WORDS / 10, LAST_WORDS / 4).await;
        self.stop.cancel();
        self.relays.close();
        let _ = tokio::time::timeout(LAST_WORDS / 10, self.relays.wait()).await;
        // Requests use the pool until they are answered: only then is it closed.
        shutdown.finished().await;
        node.leave().await;
    }
}
