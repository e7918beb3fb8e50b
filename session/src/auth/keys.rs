//! The signing keys of the cluster, as this node knows them.
//!
//! ```text
//!  published ──(publish)──▶ signing ──(a successor signs)──▶ verifying only ──(access ttl + slack)──▶ retired
//! ```
//!
//! A key is published before it signs, so that every node has read it by then; a node that has not meets an unknown key
//! and reads once, at most once a second.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use asobi_store::{
    tokens::{self, Rotation, SigningKey},
    within,
};
use jsonwebtoken::{DecodingKey, EncodingKey};
use parking_lot::RwLock;
use rand::RngCore as _;
use sqlx::PgPool;
use std::sync::Arc;
use uuid::Uuid;

use super::{AuthError, verifier::READ};

/// How long a key is known before it signs: several times the period of re-reading.
const PUBLISH: Duration = Duration::from_secs(60);
/// What a key outlives its last token by.
const SLACK: Duration = Duration::from_secs(120);
/// An unknown key is worth one read a second, whoever sends it.
const REREAD: Duration = Duration::from_secs(1);

pub(super) struct Key {
    pub id: Uuid,
    pub encoding: EncodingKey,
    pub decoding: DecodingKey,
    /// When it may sign; none: it may.
    active_at: Option<Instant>,
    retires_at: Instant,
}

pub(super) struct Keyring {
    pool: PgPool,
    rotation: Rotation,
    lock_key: i64,
    keys: RwLock<HashMap<Uuid, Arc<Key>>>,
    /// When keys were last read for an unknown one, and whether that went well.
    last_reread: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl Keyring {
    /// Reads the keys, and makes the first if there is none.
    pub async fn load(
        pool: PgPool,
        lock_key: i64,
        every: Duration,
        access_ttl: Duration,
    ) -> Result<Self, asobi_store::Error> {
        let rotation = Rotation {
            every_s: every.as_secs_f64(),
            publish_s: PUBLISH.as_secs_f64(),
            retire_s: (access_ttl + SLACK).as_secs_f64(),
        };
        let ring =
            Self { pool, rotation, lock_key, keys: RwLock::default(), last_reread: tokio::sync::Mutex::default() };
        ring.rotate().await?;
        Ok(ring)
    }

    /// Publishes a successor if the newest key is due, then reads what there is.
    pub async fn rotate(&self) -> Result<(), asobi_store::Error> {
        let mut secret = [0_u8; 32];
        rand::rng().fill_bytes(&mut secret);
        if tokens::rotate_signing_keys(&self.pool, self.lock_key, &secret, self.rotation).await? {
            tracing::info!("A new signing key was published.");
        }
        self.read().await
    }

    async fn read(&self) -> Result<(), asobi_store::Error> {
        let before = Instant::now();
        let rows = tokens::signing_keys(&self.pool).await?;
        *self.keys.write() = rows.into_iter().map(|row| (row.id, Arc::new(Key::new(&row, before)))).collect();
        Ok(())
    }

    /// The newest key that may sign by now.
    pub fn signing(&self) -> Option<Arc<Key>> {
        let now = Instant::now();
        let keys = self.keys.read();
        let usable = keys.values().filter(|k| k.retires_at > now && k.active_at.is_none_or(|at| at <= now));
        // Ids are of version 7: later ones are greater.
        usable.max_by_key(|k| k.id).cloned()
    }

    /// A key that tokens may still be signed with.
    pub async fn verifying(&self, id: Uuid) -> Result<Arc<Key>, AuthError> {
        if let Some(key) = self.known(id) {
            return Ok(key);
        }
        let mut last = self.last_reread.lock().await;
        match *last {
            Some((at, true)) if at.elapsed() < REREAD => {}
            // Those that waited for a read that failed do not each wait for one more.
            Some((at, false)) if at.elapsed() < REREAD => {
                return Err(AuthError::Unavailable(asobi_store::Error::Deadline(READ)));
            }
            _ => {
                let read = within(READ, self.read()).await;
                *last = Some((Instant::now(), read.is_ok()));
                read.map_err(AuthError::Unavailable)?;
            }
        }
        drop(last);
        self.known(id).ok_or(AuthError::Invalid)
    }

    fn known(&self, id: Uuid) -> Option<Arc<Key>> {
        self.keys.read().get(&id).filter(|k| k.retires_at > Instant::now()).cloned()
    }
}

impl Key {
    fn new(row: &SigningKey, read_at: Instant) -> Self {
        let after = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        Self {
            id: row.id,
            encoding: EncodingKey::from_secret(&row.secret),
            decoding: DecodingKey::from_secret(&row.secret),
            active_at: (row.active_in_ms > 0).then(|| read_at + after(row.active_in_ms)),
            retires_at: read_at.checked_add(after(row.retires_in_ms)).unwrap_or(read_at + SLACK),
        }
    }
}
