//! The cluster's keys: the configured ones, or those in the database, which rotate.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use asobi_service_kit::{
    Config,
    grpc::{ClusterKey, ClusterKeys},
};
use asobi_store::{
    cluster_keys::{self, Key},
    within,
};
use sqlx::PgPool;

/// Readings for the sake of a key that nobody knows, which anybody can show.
const SOON: Duration = Duration::from_secs(1);

pub(super) struct Keyring {
    keys: ClusterKeys,
    rows: Option<Rows>,
}

/// Keys in the database.
struct Rows {
    pool: PgPool,
    bound: Duration,
    known: Mutex<Known>,
    /// When they were last read because an unknown one was shown. Held while they are, so that all who wait need it once.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

/// What was last read, and when: keys become active and retire though the database be away.
struct Known {
    keys: Vec<Key>,
    at: Instant,
}

impl Keyring {
    /// # Errors
    /// When there is no key, or the database does not answer.
    pub async fn start(config: &Config, pool: &PgPool, bound: Duration) -> anyhow::Result<Self> {
        if !config.cluster.key.is_empty() {
            let previous = config.cluster.previous_key.expose();
            let others = (!previous.is_empty()).then(|| ClusterKey::from(previous));
            return Ok(Self { keys: ClusterKeys::new(config.cluster.key.expose(), others), rows: None });
        }
        let at = Instant::now();
        let keys = within(bound, cluster_keys::read(pool)).await.context("the cluster key could not be read")?;
        let (shown, others) =
            split(&keys, 0).context("the database has no cluster key; set cluster.key or run `asobi migrate`")?;
        let rows = Rows {
            pool: pool.clone(),
            bound,
            known: Mutex::new(Known { keys: keys.clone(), at }),
            asked: tokio::sync::Mutex::default(),
        };
        Ok(Self { keys: ClusterKeys::new(shown, others), rows: Some(rows) })
    }

    pub fn keys(&self) -> &ClusterKeys {
        &self.keys
    }

    /// Whether they are in the configuration, where nobody here can change them.
    pub fn configured(&self) -> bool {
        self.rows.is_none()
    }

    /// Until one of those that are known becomes active.
    pub fn next_change(&self) -> Option<Duration> {
        let known = self.rows.as_ref()?.known();
        let passed = millis(known.at.elapsed());
        let next = known.keys.iter().map(|key| key.active_in_ms - passed).filter(|left| *left > 0).min()?;
        u64::try_from(next).ok().map(Duration::from_millis)
    }

    /// Reads them; what was known stays, and grows older, when that fails.
    pub async fn read(&self) {
        let Some(rows) = &self.rows else { return };
        let at = Instant::now();
        match within(rows.bound, cluster_keys::read(&rows.pool)).await {
            Ok(keys) => *rows.known() = Known { keys, at },
            Err(error) => tracing::debug!(%error, "The cluster's keys could not be read; those known are kept."),
        }
        let known = rows.known();
        // Never none: better the last one than nobody.
        if let Some((shown, others)) = split(&known.keys, millis(known.at.elapsed())) {
            self.keys.set(shown, others);
        }
    }

    /// Reads them for the sake of a key that is not known, at most once a second.
    pub async fn read_soon(&self) {
        let Some(rows) = &self.rows else { return };
        let mut asked = rows.asked.lock().await;
        if asked.is_none_or(|at| at.elapsed() >= SOON) {
            self.read().await;
            *asked = Some(Instant::now());
        }
    }
}

impl Rows {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 32 random bytes, for a key or a token.
pub(super) fn random_hex() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The newest active one, to be shown, and the others that are accepted, so many milliseconds after they were read.
fn split(keys: &[Key], passed_ms: i64) -> Option<(ClusterKey, Vec<ClusterKey>)> {
    let lives = |key: &&Key| key.retires_in_ms.is_none_or(|left| left > passed_ms);
    let alive: Vec<&Key> = keys.iter().filter(lives).collect();
    let shown = alive.iter().position(|key| key.active_in_ms <= passed_ms)?;
    let others = alive.iter().enumerate().filter(|(at, _)| *at != shown);
    let others = others.map(|(_, key)| ClusterKey::from(key.value.as_str())).collect();
    Some((ClusterKey::from(alive[shown].value.as_str()), others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_before_it_is_shown_and_after() {
        let key = |value: &str, active_in_ms, retires_in_ms| Key { value: value.into(), active_in_ms, retires_in_ms };
        let keys = [key("new", 15_000, None), key("old", -90_000, Some(75_000)), key("older", -99_000, Some(5_000))];
        let at = |passed_ms| {
            let (shown, others) = split(&keys, passed_ms).unwrap();
            let is = |value: &str| shown.matches(value.as_bytes());
            let shown = ["new", "old", "older"].into_iter().find(|value| is(value)).unwrap();
            let other = |value: &&str| others.iter().any(|key| key.matches(value.as_bytes()));
            (shown, ["new", "old", "older"].into_iter().filter(other).collect::<Vec<_>>())
        };
        assert_eq!(at(0), ("old", vec!["new", "older"]));
        assert_eq!(at(5_000), ("old", vec!["new"]));
        assert_eq!(at(15_000), ("new", vec!["old"]));
        assert_eq!(at(75_000), ("new", vec![]));
        assert!(split(&[key("new", 15_000, None)], 0).is_none(), "none may be shown yet");
    }
}
