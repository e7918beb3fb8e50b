//! Publishing and listening over NOTIFY.
//!
//! **Delivery contract.** What is published is a hint that carries a copy of rows that are already committed. A hint
//! reaches every process that listens, at most once, in the order of the commits that notified, or not at all: whoever
//! was disconnected, or too slow, is told [`BusEvent::Resync`] and reads the rows. Nothing that was acknowledged to a
//! player may depend on a hint arriving.
//!
//! ```text
//!  publish ──► queue (bounded) ──► publisher task: one NOTIFY transaction for all that waits
//!                                                        │ PostgreSQL
//!  subscriber ◄── queue (bounded) ◄── listener task: own connection, LISTEN, ping, reconnect
//! ```

pub mod inbox;
mod listener;
mod publisher;
mod pulse;
mod subscription;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_proto::bus::Topic;
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use publisher::{PublishError, Publisher};
pub use subscription::{BusEvent, Notification, Subscription, processing};

/// What a process needs to be on the bus.
pub struct BusOptions {
    /// Where batches are notified; may go through a pooler.
    pub pool: PgPool,
    /// Where the listener connects: straight to the primary.
    pub direct: PgConnectOptions,
    /// `node_id#incarnation`, or anything unique for a tool.
    pub origin: String,
    /// All topics any part of the process subscribes to.
    pub topics: Vec<Topic>,
}

/// One process's place on the bus: one listening session, one publisher.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
    publisher: Publisher,
    origin: Arc<str>,
}

pub(crate) struct Shared {
    subscribers: std::sync::Mutex<Vec<Arc<subscription::Mailbox>>>,
    connected: watch::Sender<bool>,
    // Milliseconds after `started` at which the listening session last proved to be alive.
    confirmed_ms: AtomicU64,
    started: Instant,
    pulse: pulse::Pulse,
}

impl Bus {
    /// Starts the listener and the publisher; both end when `stop` is cancelled, the publisher after it has sent what
    /// waits. Subscribers hear [`BusEvent::Resync`] when LISTEN is confirmed.
    #[must_use]
    pub fn start(options: BusOptions, stop: &CancellationToken, tasks: &TaskTracker) -> Self {
        let shared = Arc::new(Shared {
            subscribers: std::sync::Mutex::default(),
            connected: watch::Sender::new(false),
            confirmed_ms: AtomicU64::new(0),
            started: Instant::now(),
            pulse: pulse::Pulse::new(),
        });
        let origin = options.origin.as_str().into();
        let (publisher, publishing) = publisher::start(options.pool.clone(), options.origin, stop.clone());
        tasks.spawn(publishing);
        tasks.spawn(pulse::run(options.pool, Arc::clone(&shared), stop.clone()));
        tasks.spawn(listener::supervise(options.direct, options.topics, Arc::clone(&shared), stop.clone()));
        Self { shared, publisher, origin }
    }

    /// Subscribes to topics, which must be among those the bus was started with. `capacity` bounds the events that
    /// wait; when it is reached what follows is dropped and a [`BusEvent::Resync`] takes its place.
    #[must_use]
    pub fn subscribe(&self, topics: &[Topic], capacity: usize) -> Subscription {
        let (mailbox, subscription) = subscription::channel(topics, capacity);
        // A subscriber that comes when LISTEN is confirmed already has to read the rows all the same.
        mailbox.offer(&BusEvent::Resync);
        self.shared.lock().push(mailbox);
        subscription
    }

    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What this process's own batches say that they come from.
    #[must_use]
    pub fn origin(&self) -> &Arc<str> {
        &self.origin
    }

    /// Whether the listening session is believed to be alive.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    /// How long ago the listening session last proved to be alive. What depends on hints being fresh (revocations)
    /// reads rows itself while this is more than a second or two.
    #[must_use]
    pub fn unconfirmed_for(&self) -> Duration {
        let confirmed = Duration::from_millis(self.shared.confirmed_ms.load(Ordering::Acquire));
        self.shared.started.elapsed().saturating_sub(confirmed)
    }

    /// How late the last notification to itself was that this process has heard; none: it has heard none yet.
    #[must_use]
    pub fn notify_lag(&self) -> Option<Duration> {
        self.shared.pulse.last()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<subscription::Mailbox>>> {
        self.subscribers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn offer(&self, event: &BusEvent) {
        self.lock().retain(|mailbox| mailbox.offer(event));
    }

    fn confirm(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.confirmed_ms.store(ms, Ordering::Release);
    }
}
