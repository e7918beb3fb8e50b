//! Everything one node needs to hold players, on a gateway and on a match host alike.
//!
//! Invariant: no lock is held across an await, and nothing is serialised per recipient.

mod drain;
mod edge;
mod registry;
mod revoked;

use std::{
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_bus::{Bus, Publisher};
use asobi_cluster::{Directory, Membership, social::SocialNodes};
use asobi_proto::bus::Topic;
use asobi_service_kit::{Config, Shutdown, address::Proxies, grpc::Channels, telemetry};
use axum::Router;
use sqlx::PgPool;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub(crate) use self::registry::{Player, Registry};
use crate::{
    admission::Admission,
    auth::Verifier,
    chat::Chat,
    conn::{Bounds, Conn, Via, limits::PerKey, upgrade},
    count::Counts,
    inbox,
    link::NearHost,
    look_ups::{self, LookUps},
    moderation::{self, Moderation},
    modes::Modes,
    presence::Presence,
    queue::{self, Queue},
    relay::Relays,
};

/// Addresses and players whose rates are remembered at once.
const RATE_KEYS: usize = 100_000;

/// What a hub is made of.
pub struct HubDeps {
    pub config: Arc<Config>,
    pub pool: PgPool,
    /// Started with at least [`topics`].
    pub bus: Bus,
    pub membership: Arc<Membership>,
    pub directory: Arc<Directory>,
    pub channels: Channels,
    pub verifier: Arc<Verifier>,
    /// Where this process runs matches itself.
    pub near: Option<NearHost>,
    pub shutdown: Shutdown,
}

/// The topics a hub listens to; those of [`Verifier`] included.
#[must_use]
pub fn topics() -> Vec<Topic> {
    let single = [Topic::Presence, Topic::Revoked, Topic::Modes, Topic::Nodes, Topic::Moderation];
    single.into_iter().chain(Topic::all_chat()).chain(Topic::all_inbox()).collect()
}

/// See the module.
pub struct Hub {
    pub(crate) config: Arc<Config>,
    pub(crate) pool: PgPool,
    pub(crate) publisher: Publisher,
    pub(crate) membership: Arc<Membership>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) channels: Channels,
    pub(crate) social: SocialNodes,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) near: Option<NearHost>,
    pub(crate) registry: Registry,
    pub(crate) modes: Modes,
    pub(crate) chat: Chat,
    pub(crate) moderation: Moderation,
    pub(crate) presence: Presence,
    pub(crate) relays: Relays,
    pub(crate) inbox: inbox::Repairs,
    pub(crate) connects: PerKey<IpAddr>,
    pub(crate) joins: PerKey<Uuid>,
    pub(crate) queue: Queue,
    pub(crate) proxies: Proxies,
    /// Sockets there are, and how many there may be.
    pub(crate) admitted: AtomicUsize,
    pub(crate) most_sockets: usize,
    pub(crate) admission: Arc<Admission>,
    pub(crate) look_ups: LookUps,
    pub(crate) count: Counts,
    /// Every socket's task, from its upgrade to its end.
    pub(crate) sockets: TaskTracker,
    /// Ends the hub's own tasks: after the sockets, or with the process.
    pub(crate) stop: CancellationToken,
    pub(crate) shutdown: Shutdown,
    draining: AtomicBool,
    /// For what is called by reference and has tasks to start.
    me: Weak<Self>,
    /// Matches of this process call from threads of their own, on which no task of ours is to run.
    runtime: tokio::runtime::Handle,
}

impl Hub {
    /// Makes the hub and starts its tasks. Sockets come through [`Self::router`].
    #[must_use]
    pub fn start(deps: HubDeps) -> Arc<Self> {
        let HubDeps { config, pool, bus, membership, directory, channels, verifier, near, shutdown } = deps;
        let second = Duration::from_secs(1);
        let (chat, chat_writes) = Chat::new(&config);
        let (presence, presence_writes) = Presence::new();
        let (inbox, inbox_gaps) = inbox::new();
        let (look_ups, asked) = look_ups::new(pool.options().get_max_connections());
        let session = &config.session;
        let admission = Admission::new(session.connects_under_way, session.connect_wait(), Instant::now());
        let (queue, wishes) = Queue::new();
        let hub = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            runtime: tokio::runtime::Handle::current(),
            registry: Registry::new(),
            modes: Modes::new(pool.clone()),
            chat,
            moderation: Moderation::new(&config),
            presence,
            relays: Relays::default(),
            inbox,
            connects: PerKey::new(second, RATE_KEYS),
            joins: PerKey::new(60 * second, RATE_KEYS),
            queue,
            proxies: Proxies::new(&config.http.trusted_proxies),
            admitted: AtomicUsize::new(0),
            most_sockets: upgrade::most_sockets(config.session.max_sockets),
            admission,
            look_ups,
            count: Counts::new(),
            sockets: TaskTracker::new(),
            stop: shutdown.cut().child_token(),
            draining: AtomicBool::new(false),
            publisher: bus.publisher().clone(),
            social: SocialNodes::new(Arc::clone(&directory), channels.clone(), config.social.timeout()),
            config,
            pool,
            membership,
            directory,
            channels,
            verifier,
            near,
            shutdown,
        });
        hub.spawn("modes", Modes::follow(Arc::clone(&hub), bus.subscribe(&[Topic::Modes], 64)));
        hub.spawn("revocations", revoked::follow(Arc::clone(&hub)));
        look_ups::start(&hub, asked);
        crate::chat::start(&hub, &bus, chat_writes);
        moderation::start(&hub, &bus);
        crate::presence::start(&hub, &bus, presence_writes);
        inbox::start(&hub, &bus, inbox_gaps);
        queue::start(&hub, wishes);
        let me = Arc::downgrade(&hub);
        telemetry::observe(move || {
            let Some(hub) = me.upgrade() else { return false };
            metrics::gauge!("asobi_chat_queue_messages").set(hub.chat.waiting() as f64);
            true
        });
        hub
    }

    /// `/ws` and nothing else.
    pub fn router(self: &Arc<Self>) -> Router {
        upgrade::router(Arc::clone(self))
    }

    /// Open sockets, authenticated or not.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.registry.count()
    }

    /// The modes that match hosts announced.
    #[must_use]
    pub fn modes(&self) -> &Modes {
        &self.modes
    }

    /// Chat as REST needs it: direct messages and who may read a channel.
    #[must_use]
    pub fn chat(&self) -> &Chat {
        &self.chat
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// This node's own `node_id#incarnation`, which migration tokens name.
    pub(crate) fn audience(&self) -> String {
        let identity = self.membership.identity();
        crate::auth::migration::audience(&identity.node_id, identity.incarnation)
    }

    /// The link to this process's own matches.
    pub(crate) fn near_via(&self) -> Via {
        self.near.as_ref().map_or(Via::NONE, |near| Via::of(&*near.link))
    }

    pub(crate) fn node_id(&self) -> &str {
        &self.membership.identity().node_id
    }

    /// Runs a task of the hub until it ends or the hub stops.
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let _ours = self.runtime.enter();
        self.shutdown.spawn(name, async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// A new socket.
    pub(crate) fn open(&self) -> Arc<Conn> {
        let bounds = Bounds { frames: self.config.session.queue_frames, bytes: self.config.session.queue_bytes };
        let conn = Arc::new(Conn::new(self.registry.next_no(), bounds));
        self.registry.open(&conn);
        self.count.sessions.increment(1);
        // A drain that has taken its list already would miss this one.
        if self.is_draining() {
            conn.drain();
        }
        conn
    }

    /// A socket's end: nothing of it stays but its row, for the grace.
    pub(crate) fn leave(self: &Arc<Self>, conn: &Arc<Conn>) {
        self.registry.close(conn.no);
        self.count.sessions.decrement(1);
        let Some(player) = conn.player() else { return };
        self.registry.part(player, conn.no);
        let (channels, offered) = {
            let mut local = conn.local();
            (std::mem::take(&mut local.channels), local.offered)
        };
        if let Some(seat) = conn.stand() {
            let life = Duration::from_secs(crate::auth::migration::LIFE_S.unsigned_abs());
            seat.link.detach(conn.no, offered.is_some_and(|at| at.elapsed() < life));
        }
        for channel in channels {
            self.chat.channels.leave(&channel, conn.no);
        }
        self.presence.leave(self, conn, player);
    }
}
