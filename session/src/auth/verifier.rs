//! Checking access tokens without asking the database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_bus::{Bus, BusEvent, Publisher, Subscription};
use asobi_proto::bus::{RevokedItem, Topic};
use asobi_service_kit::{config, shutdown::Shutdown};
use asobi_store::{
    bans, moderation,
    tokens::{self, Revocation},
    within,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{AuthError, Claims, keys::Keyring, migration, revocations::Revocations, token, trust::Trust};

/// The audience of access tokens; migration tokens have another, so neither passes for the other.
const AUDIENCE: &str = "asobi";
/// How often revocations and keys are read again whatever the bus says.
const REREAD: Duration = Duration::from_secs(15);
/// How often a node that cannot rely on its memory reads for its sockets' sake, whether anybody asks or not.
const DOUBTING: Duration = Duration::from_millis(500);
/// How long a read may take, also when the network is gone.
pub(super) const READ: Duration = Duration::from_secs(5);
/// How often keys are rotated if due, and what is expired deleted.
const HOUSEKEEPING: Duration = Duration::from_secs(300);
/// Revocations that may wait for the hub. One that lags must ask [`Verifier::is_revoked`] for each of its sessions.
const REVOKED_QUEUE: usize = 1_024;
/// Notifications that may wait for us; past it the rows are read instead.
const BUS_QUEUE: usize = 64;

#[derive(Serialize, Deserialize)]
struct AccessToken {
    aud: String,
    sub: Uuid,
    /// The family.
    fam: Uuid,
    /// Unix seconds, for whoever reads tokens elsewhere.
    iat: i64,
    exp: i64,
    /// As `iat`, in microseconds.
    ius: i64,
}

/// Checks tokens on behalf of one process.
pub struct Verifier {
    pool: PgPool,
    trust: Trust,
    pub(super) keys: Keyring,
    revocations: Revocations,
    revoked: broadcast::Sender<RevokedItem>,
    /// Something that was told may not have been heard: the rows are to be read.
    missed: Notify,
    pub(super) used: migration::Used,
    access_ttl: Duration,
}

impl Verifier {
    /// Loads keys (making the first one) and revocations, and keeps them fresh until the drain. The bus must have been
    /// started with [`Topic::Revoked`].
    ///
    /// # Errors
    /// When the database does not answer: a node that cannot check tokens must not become ready.
    pub async fn start(
        pool: PgPool,
        bus: &Bus,
        auth: &config::Auth,
        shutdown: &Shutdown,
    ) -> Result<Arc<Self>, asobi_store::Error> {
        let subscription = bus.subscribe(&[Topic::Revoked], BUS_QUEUE);
        let lock = asobi_cluster::lock_keys::SIGNING_KEYS;
        let keys = Keyring::load(pool.clone(), lock, auth.key_rotation(), auth.access_ttl()).await?;
        let verifier = Arc::new(Self {
            pool,
            trust: Trust::new(bus.clone()),
            keys,
            revocations: Revocations::default(),
            revoked: broadcast::Sender::new(REVOKED_QUEUE),
            missed: Notify::new(),
            used: migration::Used::default(),
            access_ttl: auth.access_ttl(),
        });
        verifier.read_revocations().await?;
        shutdown.spawn("token revocations", Arc::clone(&verifier).follow(subscription, shutdown.draining()));
        shutdown.spawn("revocation rows", Arc::clone(&verifier).read_rows(shutdown.draining()));
        shutdown.spawn("signing keys", Arc::clone(&verifier).keep_house(shutdown.draining()));
        Ok(verifier)
    }

    /// Checks an access token. Asks the database only for a key it does not know (once a second at most), and for
    /// revocations while the bus is in doubt (four times a second at most).
    ///
    /// # Errors
    /// [`AuthError`]
    pub async fn verify(&self, access_token: &str) -> Result<Claims, AuthError> {
        self.verified(access_token).await.inspect_err(|error| {
            if !matches!(error, AuthError::Unavailable(_)) {
                metrics::counter!("asobi_auth_failures_total", "what" => "token").increment(1);
            }
        })
    }

    async fn verified(&self, access_token: &str) -> Result<Claims, AuthError> {
        let key = self.keys.verifying(token::key_id(access_token)?).await?;
        let token: AccessToken = token::open(&key, access_token, AUDIENCE)?;
        let claims = Claims { player_id: token.sub, family: token.fam, issued_at: token.ius, expires_at: token.exp };
        self.refuse_revoked(&claims).await?;
        Ok(claims)
    }

    pub(super) async fn refuse_revoked(&self, claims: &Claims) -> Result<(), AuthError> {
        if self.is_revoked(claims) {
            return Err(AuthError::Revoked);
        }
        if self.trust.holds() {
            return Ok(());
        }
        self.trust.or_read(|| self.read_revocations(), READ).await?;
        if self.is_revoked(claims) { Err(AuthError::Revoked) } else { Ok(()) }
    }

    /// Whether a token that was good once has been revoked since, as far as this node has heard.
    #[must_use]
    pub fn is_revoked(&self, claims: &Claims) -> bool {
        self.revocations.ended(claims)
    }

    /// Revocations as they come, each once; what is [`Claims::ended_by`] one ends. After `Lagged` ask
    /// [`Self::is_revoked`] for every session.
    #[must_use]
    pub fn revoked(&self) -> broadcast::Receiver<RevokedItem> {
        self.revoked.subscribe()
    }

    /// Signs an access token for a login that was just written. `issued_at`: unix microseconds, the database's.
    pub(super) fn issue(&self, player_id: Uuid, family: Uuid, issued_at: i64) -> Result<String, AuthError> {
        let key = self.keys.signing().ok_or(AuthError::Invalid)?;
        let iat = issued_at / 1_000_000;
        let ttl = i64::try_from(self.access_ttl.as_secs()).unwrap_or(i64::MAX / 2);
        let claims =
            AccessToken { aud: AUDIENCE.into(), sub: player_id, fam: family, iat, exp: iat + ttl, ius: issued_at };
        token::sign(&key, &claims)
    }

    /// Makes a committed revocation known here and on every node.
    pub(super) fn spread(&self, publisher: &Publisher, revocation: Revocation) {
        let item = RevokedItem::from(revocation);
        if let Err(error) = publisher.publish(Topic::Revoked, &item) {
            tracing::warn!(subject = %item.subject, %error, "A revocation was not published; nodes find it within {REREAD:?}.");
        }
        self.apply(&item);
    }

    fn apply(&self, item: &RevokedItem) {
        if self.revocations.insert(item) {
            // Nobody listening is no error: a node without sockets.
            let _ = self.revoked.send(item.clone());
        }
    }

    async fn read_revocations(&self) -> Result<(), asobi_store::Error> {
        let begun = self.trust.begin();
        for row in within(READ, tokens::revocations(&self.pool)).await? {
            self.apply(&RevokedItem::from(row));
        }
        self.trust.complete(begun);
        self.revocations.forget_expired();
        Ok(())
    }

    async fn follow(self: Arc<Self>, mut events: Subscription, stop: CancellationToken) {
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(BusEvent::Resync) => self.missed.notify_one(),
                Some(BusEvent::Batch(batch)) => {
                    for raw in batch.items() {
                        match serde_json::from_str::<RevokedItem>(raw.get()) {
                            Ok(item) => self.apply(&item),
                            Err(error) => tracing::warn!(%error, "A revocation could not be read; its row will be."),
                        }
                    }
                }
            }
        }
    }

    /// Not [`Self::follow`]'s business: what is told meanwhile must not wait for a database that is slow to answer.
    async fn read_rows(self: Arc<Self>, stop: CancellationToken) {
        let mut reread = tokio::time::interval_at(tokio::time::Instant::now() + REREAD, REREAD);
        reread.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut doubting = tokio::time::interval(DOUBTING);
        doubting.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // Sockets hear of what was revoked although nobody told it here.
                _ = doubting.tick() => {
                    if let Err(error) = self.trust.or_read(|| self.read_revocations(), READ).await {
                        tracing::debug!(%error, "Revocations can neither be heard nor read; no token is accepted.");
                    }
                    continue;
                }
                _ = reread.tick() => {}
                () = self.missed.notified() => {}
            }
            if let Err(error) = self.read_revocations().await {
                tracing::warn!(%error, "Revocations could not be read; tokens are refused until they can be.");
            }
        }
    }

    async fn keep_house(self: Arc<Self>, stop: CancellationToken) {
        let mut swept = Instant::now();
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + REREAD, REREAD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = within(READ, self.keys.rotate()).await {
                tracing::warn!(%error, "Signing keys could not be read; those known go on.");
            }
            self.used.forget_expired();
            if swept.elapsed() >= HOUSEKEEPING {
                swept = Instant::now();
                let sweeping = async {
                    tokens::sweep(&self.pool).await?;
                    bans::sweep(&self.pool).await?;
                    moderation::sweep(&self.pool).await
                };
                if let Err(error) = within(READ, sweeping).await {
                    tracing::warn!(%error, "Expired tokens, bans and mutes could not be deleted; it is tried again later.");
                }
            }
        }
    }
}
