//! Password hashing: argon2id on threads that may block, few at a time and with a bounded queue before them, so that a
//! storm of logins neither starves the runtime nor takes the memory (19 MiB a hash).

use std::sync::Arc;

use argon2::{
    Argon2, PasswordHash, PasswordHasher as _, PasswordVerifier as _,
    password_hash::{SaltString, rand_core::OsRng},
};
use tokio::sync::Semaphore;

/// The queue is full; or, practically never, hashing itself failed.
#[derive(Debug, thiserror::Error)]
#[error("password hashing is busy")]
pub(super) struct Busy;

pub(super) struct Hasher {
    /// Those that wait or run; past it callers are refused at once.
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// Checked for names that do not exist, so that the answer takes as long as for those that do.
    dummy: Arc<str>,
}

impl Hasher {
    pub fn new(threads: usize, queue: usize) -> anyhow::Result<Self> {
        let threads = threads.max(1);
        let dummy = hash("no password has this hash").ok_or_else(|| anyhow::anyhow!("argon2 failed"))?;
        Ok(Self {
            admitted: Arc::new(Semaphore::new(threads + queue)),
            running: Arc::new(Semaphore::new(threads)),
            dummy: dummy.into(),
        })
    }

    /// The PHC string to store.
    pub async fn hash(&self, password: &str) -> Result<String, Busy> {
        let password = password.to_owned();
        self.run(move || hash(&password)).await?.ok_or(Busy)
    }

    /// Whether the password is the stored one's; `None`, for a player without one, takes as long and is false.
    pub async fn verify(&self, stored: Option<&str>, password: &str) -> Result<bool, Busy> {
        let exists = stored.is_some();
        let stored: Arc<str> = stored.map_or_else(|| Arc::clone(&self.dummy), Arc::from);
        let password = password.to_owned();
        let matches = self
            .run(move || {
                PasswordHash::new(&stored)
                    .is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
            })
            .await?;
        Ok(matches && exists)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| {
            metrics::counter!("asobi_auth_refused_total", "reason" => "hash_queue_full").increment(1);
            Busy
        })?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Busy)?;
        let span = tracing::Span::current();
        // The permits go along: a caller who hangs up does not make room before the thread is free.
        let done = tokio::task::spawn_blocking(move || {
            let _permits = (admitted, running);
            span.in_scope(work)
        });
        done.await.map_err(|_| Busy)
    }
}

fn hash(password: &str) -> Option<String> {
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default().hash_password(password.as_bytes(), &salt).ok().map(|hash| hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashes_verify_and_absent_players_never_do() {
        let hasher = Hasher::new(1, 4).expect("starts");
        let stored = hasher.hash("secret123").await.expect("hashes");
        assert!(stored.starts_with("$argon2id$"));
        assert!(hasher.verify(Some(&stored), "secret123").await.expect("runs"));
        assert!(!hasher.verify(Some(&stored), "secret124").await.expect("runs"));
        assert!(!hasher.verify(Some("garbage"), "secret123").await.expect("runs"));
        assert!(!hasher.verify(None, "no password has this hash").await.expect("runs"));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let hasher = Hasher::new(1, 0).expect("starts");
        let (first, second) = tokio::join!(hasher.hash("one"), hasher.hash("two"));
        assert!(first.is_ok() && second.is_err());
    }
}
