//! The modes that match hosts announced, so that nodes answer `unknown_mode` and `players_needed` without any script.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_bus::Subscription;
use asobi_proto::mode::ModeSettings;
use asobi_store::within;
use parking_lot::{Mutex, RwLock};
use sqlx::PgPool;

use crate::hub::Hub;

const DEADLINE: Duration = Duration::from_secs(2);
/// How often an unknown mode may make us look: a host may have announced it this very moment.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const REREAD: Duration = Duration::from_secs(15);

/// See the module.
pub struct Modes {
    pool: PgPool,
    known: RwLock<HashMap<String, Arc<ModeSettings>>>,
    looked: Mutex<Option<Instant>>,
}

impl Modes {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, known: RwLock::default(), looked: Mutex::default() }
    }

    /// The settings of a mode; none when no host announced it.
    pub async fn get(&self, mode: &str) -> Option<Arc<ModeSettings>> {
        if let Some(known) = self.known.read().get(mode) {
            return Some(Arc::clone(known));
        }
        {
            let mut looked = self.looked.lock();
            if looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
                return None;
            }
            *looked = Some(Instant::now());
        }
        self.read().await;
        self.known.read().get(mode).cloned()
    }

    async fn read(&self) {
        match within(DEADLINE, asobi_store::modes::all(&self.pool)).await {
            Ok(modes) => *self.known.write() = modes.into_iter().map(|(name, s)| (name, Arc::new(s))).collect(),
            Err(error) => tracing::debug!(%error, "The modes could not be read; those known go on."),
        }
    }

    pub(crate) async fn follow(hub: Arc<Hub>, mut wake: Subscription) {
        loop {
            tokio::select! {
                event = wake.next() => if event.is_none() { return },
                () = tokio::time::sleep(REREAD) => {}
            }
            hub.modes.read().await;
        }
    }
}
