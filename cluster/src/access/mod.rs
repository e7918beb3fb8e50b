//! Who may call this process: the cluster's keys and the operators' tokens as the rows have them, and the audit of who was refused.
//!
//! **Invariant:** a token that was revoked is good nowhere after about a second. Its revocation wakes every node; a node that does not hear from its
//! listener believes what it knows for half a second only, and looks again.

mod denials;
mod keys;
mod service;
mod tokens;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use asobi_bus::{Bus, BusEvent, Subscription};
use asobi_proto::{
    bus::{Topic, WakeItem},
    scope::Scope,
};
use asobi_service_kit::{
    Config,
    grpc::{Access, ClusterKeys, Operators, Refusal, Shown, Tls},
};
use asobi_store::{
    audit::{self, Entry},
    operators::{self, NewToken},
    within,
};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use self::service::service;
use self::{denials::Denials, keys::Keyring, tokens::Tokens};

/// How often keys are read without being woken.
const PERIOD: Duration = Duration::from_secs(3);
/// How often somebody forgets what is over.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a token is good that whoever reaches the database makes.
pub const BOOTSTRAP: Duration = Duration::from_secs(15 * 60);

/// What one process knows of who may call it.
pub struct Gate {
    pool: PgPool,
    bus: Bus,
    bound: Duration,
    keys: Keyring,
    tokens: Tokens,
    denials: Denials,
}

impl Gate {
    /// Reads the keys; the tasks that keep everything current end with `stop`.
    ///
    /// # Errors
    /// When there is no key, or the database does not answer.
    pub async fn start(
        config: &Config,
        pool: &PgPool,
        bus: &Bus,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> anyhow::Result<Arc<Self>> {
        let bound = config.database.timeout();
        let keys = Keyring::start(config, pool, bound).await?;
        let (denials, writing) = Denials::new(pool.clone(), bound, stop.clone());
        tasks.spawn(writing);
        let tokens = Tokens::new(pool.clone(), bound);
        let gate = Arc::new(Self { pool: pool.clone(), bus: bus.clone(), bound, keys, tokens, denials });
        tasks.spawn(Arc::clone(&gate).follow(bus.subscribe(&[Topic::Access], 16), stop.clone()));
        tasks.spawn(sweep(pool.clone(), bound, stop.clone()));
        Ok(gate)
    }

    #[must_use]
    pub fn keys(&self) -> &ClusterKeys {
        self.keys.keys()
    }

    /// What the server of this process asks.
    #[must_use]
    pub fn access(self: &Arc<Self>, tls: Option<Arc<Tls>>) -> Access {
        let operators = Arc::clone(self) as Arc<dyn Operators>;
        Access::new(self.keys().clone()).and_operators(operators).over(tls)
    }

    async fn follow(self: Arc<Self>, mut wake: Subscription, stop: CancellationToken) {
        loop {
            let next = self.keys.next_change().map_or(PERIOD, |change| change.min(PERIOD));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(next) => {}
                event = wake.next() => match event {
                    Some(BusEvent::Resync | BusEvent::Batch(_)) => self.tokens.forget(),
                    None => return,
                },
            }
            self.keys.read().await;
        }
    }

    /// After a change of tokens or keys was committed: here at once, elsewhere with the hint or the next reading.
    fn changed(&self) {
        self.tokens.forget();
        if let Err(error) = self.bus.publisher().publish(Topic::Access, &WakeItem {}) {
            tracing::warn!(%error, "A change of tokens or keys was not published; nodes find it by reading.");
        }
    }
}

#[tonic::async_trait]
impl Operators for Gate {
    async fn bearer(&self, token: &str, from: Option<IpAddr>) -> Shown {
        self.tokens.bearer(token, from, self.bus.unconfirmed_for()).await
    }

    async fn read_keys(&self) {
        self.keys.read_soon().await;
    }

    fn refused(&self, refusal: Refusal) {
        self.denials.note(refusal);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// Every process does it, whatever it is for: in each deployment somebody does.
async fn sweep(pool: PgPool, bound: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP.mul_f64(rand::random_range(0.7..1.3))) => {}
        }
        match within(bound, operators::upkeep(&pool)).await {
            Ok(0) => {}
            Ok(rows) => metrics::counter!("asobi_access_swept_rows_total").increment(rows),
            Err(error) => {
                tracing::warn!(%error, "Tokens and requests that are over could not be removed; the next look will.");
            }
        }
    }
}

/// Makes a token with all scopes for a quarter of an hour: whoever reaches the database may. It is called as its maker, and in the audit. Answers the
/// secret.
///
/// # Errors
/// When the database does not answer.
pub async fn bootstrap(pool: &PgPool, name: &str, bound: Duration) -> asobi_store::Result<String> {
    let (secret, hash) = tokens::fresh();
    let scopes = Scope::ALL.map(|scope| scope.as_str().to_owned());
    let token = NewToken {
        id: Uuid::now_v7(),
        name,
        hash: &hash,
        scopes: &scopes,
        created_by: name,
        ttl_s: BOOTSTRAP.as_secs_f64(),
    };
    let entry = Entry {
        actor: name.to_owned(),
        action: service::CREATE.to_owned(),
        subject: name.to_owned(),
        done: true,
        request_id: None,
        detail: json!({"by": "the database", "scopes": scopes, "ttl_s": BOOTSTRAP.as_secs()}),
    };
    within(bound, async {
        let mut tx = asobi_store::begin(pool).await?;
        operators::create(&mut tx, &token).await?;
        audit::append(&mut tx, &entry).await?;
        Ok(tx.commit().await?)
    })
    .await?;
    Ok(secret)
}
