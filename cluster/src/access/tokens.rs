//! Looking tokens up: by their hashes, remembered for a moment, and not as often as anybody asks.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use asobi_proto::scope::Scope;
use asobi_service_kit::{
    grpc::Shown,
    rate::{Keyed, Rate},
};
use asobi_store::{
    operators::{self, Bearer},
    within,
};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use tokio::sync::Semaphore;

/// What a token begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "asobi_";
const SECRET_BYTES: usize = 32;
/// How long an answer is remembered; a revocation's hint ends that at once.
const FRESH: Duration = Duration::from_secs(3);
/// The same where no hint would come.
const DEAF: Duration = Duration::from_millis(500);
/// A listener that was silent for so long counts as gone.
const SILENT: Duration = Duration::from_millis(1_500);
/// Answers that are remembered. Past it those that are old are dropped, then all.
const MOST: usize = 1_024;
/// Tokens that one address may have looked up: what is known is remembered, so more than this are guesses.
const GUESSES: Rate = Rate { burst: 30, every: Duration::from_millis(100) };
const ADDRESSES: usize = 4_096;
/// Looked up at the same time: strangers must not take the pool from players.
const AT_ONCE: usize = 2;

type Hash = [u8; 32];

pub(super) struct Tokens {
    pool: PgPool,
    bound: Duration,
    known: Mutex<Known>,
    guesses: Keyed<Option<IpAddr>>,
    at_once: Semaphore,
}

#[derive(Default)]
struct Known {
    answers: HashMap<Hash, Answer>,
    /// Counts up whenever all is forgotten: what was asked before that is not remembered after.
    era: u64,
}

struct Answer {
    shown: Shown,
    at: Instant,
    /// The token's own end.
    ends: Option<Instant>,
}

impl Tokens {
    pub fn new(pool: PgPool, bound: Duration) -> Self {
        let (guesses, at_once) = (Keyed::new(ADDRESSES), Semaphore::new(AT_ONCE));
        Self { pool, bound, known: Mutex::default(), guesses, at_once }
    }

    /// Whose token this is. `deaf_for`: how long ago a revocation's hint could last have come.
    pub async fn bearer(&self, token: &str, from: Option<IpAddr>, deaf_for: Duration) -> Shown {
        let Some(hash) = hash(token) else { return Shown::Unknown };
        let fresh = if deaf_for > SILENT { DEAF } else { FRESH };
        let now = Instant::now();
        if let Some(shown) = self.lock().remembered(&hash, now, fresh) {
            return shown;
        }
        if self.guesses.check(&from, GUESSES, now).is_err() {
            return Shown::TooMany;
        }
        let era = self.lock().era;
        let looking = async {
            // It is never closed.
            let _place = self.at_once.acquire().await;
            operators::bearer(&self.pool, &hash).await
        };
        let bearer = match within(self.bound, looking).await {
            Ok(bearer) => bearer,
            Err(error) => {
                tracing::warn!(%error, "A token could not be looked up.");
                return Shown::Away;
            }
        };
        let left = bearer.as_ref().and_then(|bearer| u64::try_from(bearer.left_ms).ok()).map(Duration::from_millis);
        let answer = Answer { shown: shown(bearer), at: now, ends: left.and_then(|left| now.checked_add(left)) };
        let shown = answer.shown.clone();
        self.lock().remember(hash, answer, era);
        shown
    }

    /// Tokens have changed.
    pub fn forget(&self) {
        let mut known = self.lock();
        known.answers.clear();
        known.era += 1;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn remembered(&self, hash: &Hash, now: Instant, fresh: Duration) -> Option<Shown> {
        let answer = self.answers.get(hash)?;
        let good = now.saturating_duration_since(answer.at) < fresh && answer.ends.is_none_or(|ends| now < ends);
        good.then(|| answer.shown.clone())
    }

    fn remember(&mut self, hash: Hash, answer: Answer, era: u64) {
        if era != self.era {
            return;
        }
        if self.answers.len() >= MOST {
            self.answers.retain(|_, known| answer.at.saturating_duration_since(known.at) < FRESH);
        }
        if self.answers.len() >= MOST {
            self.answers.clear();
        }
        self.answers.insert(hash, answer);
    }
}

fn shown(bearer: Option<Bearer>) -> Shown {
    let Some(bearer) = bearer else { return Shown::Unknown };
    let name = format!("token:{}", bearer.name).into();
    if bearer.revoked {
        return Shown::Ended { name, how: "was revoked" };
    }
    if bearer.left_ms <= 0 {
        return Shown::Ended { name, how: "has expired" };
    }
    // A scope of a later release is none here.
    Shown::Known { name, scopes: bearer.scopes.iter().filter_map(|scope| Scope::of(scope)).collect() }
}

/// None: it cannot be a token.
fn hash(token: &str) -> Option<Hash> {
    let secret = token.strip_prefix(PREFIX)?;
    let is_secret = secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|b| b.is_ascii_hexdigit());
    is_secret.then(|| Sha256::digest(token).into())
}

/// A new token and its hash.
pub(super) fn fresh() -> (String, Hash) {
    let token = format!("{PREFIX}{}", super::keys::random_hex());
    let hash = Sha256::digest(&token).into();
    (token, hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_looks_like_one() {
        let (token, of_it) = fresh();
        assert_eq!(hash(&token), Some(of_it));
        assert_ne!(fresh().0, token);
        for wrong in ["", "asobi_", "asobi_00", &token[..token.len() - 1], &token[1..], &format!("{token}0")] {
            assert_eq!(hash(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_not_older_than_the_last_change() {
        let mut known = Known::default();
        let now = Instant::now();
        let answer = |at| Answer { shown: Shown::Unknown, at, ends: Some(now + Duration::from_secs(1)) };
        known.remember([1; 32], answer(now), 0);
        assert_eq!(known.remembered(&[1; 32], now, FRESH), Some(Shown::Unknown));
        assert_eq!(known.remembered(&[1; 32], now + DEAF, DEAF), None, "it is old");
        assert_eq!(known.remembered(&[1; 32], now + Duration::from_secs(1), FRESH), None, "the token has ended");
        for n in 0..2 * MOST {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            known.remember(hash, answer(now), 0);
            assert!(known.answers.len() <= MOST);
        }
        known.era = 1;
        known.remember([2; 32], answer(now), 0);
        assert_eq!(known.remembered(&[2; 32], now, FRESH), None, "it was asked before the change");
    }
}
