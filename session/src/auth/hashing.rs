//! Password hashing: argon2id on a few threads of its own, of low priority and with a bounded queue before them, so that a
//! storm of log-ins takes neither the cores from those who are connected nor the memory (19 MiB a hash).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use argon2::{
    Argon2, PasswordHash, PasswordHasher as _, PasswordVerifier as _,
    password_hash::{SaltString, rand_core::OsRng},
};
use tokio::sync::oneshot;

/// How far the threads step back: where cores are short they get about a tenth of what the runtime's threads get.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// The queue is full; or, practically never, hashing itself failed.
#[derive(Debug, thiserror::Error)]
#[error("password hashing is busy")]
pub(super) struct Busy;

type Job = Box<dyn FnOnce() + Send>;

/// Checked for names that do not exist, so that the answer takes as long as for those that do. Nobody's hash: what counts is its cost, the
/// one of [`hash`]. Written down, because making one holds up every start for as long as a log-in.
const DUMMY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5J3Mgc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

pub(super) struct Hasher {
    /// Those that wait; past it callers are refused at once. The threads end when it is dropped.
    queue: SyncSender<Job>,
}

impl Hasher {
    pub fn new(threads: usize, queue: usize) -> anyhow::Result<Self> {
        let (queue, jobs) = sync_channel(queue);
        let jobs = Arc::new(Mutex::new(jobs));
        for n in 0..threads.max(1) {
            let jobs = Arc::clone(&jobs);
            thread::Builder::new().name(format!("hash-{n}")).spawn(move || work(&jobs))?;
        }
        Ok(Self { queue })
    }

    /// The PHC string to store.
    pub async fn hash(&self, password: &str) -> Result<String, Busy> {
        let password = password.to_owned();
        self.run(move || hash(&password)).await?.ok_or(Busy)
    }

    /// Whether the password is the stored one's; `None`, for a player without one, takes as long and is false.
    pub async fn verify(&self, stored: Option<&str>, password: &str) -> Result<bool, Busy> {
        let exists = stored.is_some();
        let stored = stored.unwrap_or(DUMMY).to_owned();
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
        let (done, result) = oneshot::channel();
        let span = tracing::Span::current();
        let job = move || {
            // A caller who has hung up meanwhile is not worth a core.
            if !done.is_closed() {
                let _ = done.send(span.in_scope(work));
            }
        };
        self.queue.try_send(Box::new(job)).map_err(|_| {
            metrics::counter!("asobi_auth_refused_total", "reason" => "hash_queue_full").increment(1);
            Busy
        })?;
        result.await.map_err(|_| Busy)
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    // Per thread on Linux, of the whole process elsewhere: only there.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "The priority of a hashing thread could not be lowered.");
    }
    loop {
        // Whoever holds the lock waits for the next job, the others for the lock.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A job that panics answers its caller by being dropped; the thread goes on.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

fn hash(password: &str) -> Option<String> {
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default().hash_password(password.as_bytes(), &salt).ok().map(|hash| hash.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn an_absent_player_costs_what_a_present_one_does() {
        let (present, absent) = (hash("secret123").expect("hashes"), PasswordHash::new(DUMMY).expect("parses"));
        let present = PasswordHash::new(&present).expect("parses");
        assert_eq!((absent.algorithm, absent.version), (present.algorithm, present.version));
        assert_eq!(absent.params, present.params);
        let lengths = |hash: &PasswordHash<'_>| (hash.salt.map(|s| s.as_str().len()), hash.hash.map(|out| out.len()));
        assert_eq!(lengths(&absent).1, lengths(&present).1);
        assert!(lengths(&absent).0.is_some(), "without a salt nothing is computed");
    }

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
    async fn a_full_queue_refuses_at_once_and_what_nobody_waits_for_is_not_done() {
        let hasher = Hasher::new(1, 2).expect("starts");
        let (go, gate) = sync_channel::<()>(0);
        let (began, begun) = oneshot::channel();
        let blocked = hasher.run(move || {
            let _ = began.send(());
            let _ = gate.recv();
        });
        let blocked = async { blocked.await.is_ok() };
        let storm = async {
            begun.await.expect("the thread works");
            let did = Arc::new(AtomicBool::new(false));
            let doing = Arc::clone(&did);
            let abandoned = hasher.run(move || doing.store(true, Ordering::SeqCst));
            assert!(tokio::time::timeout(std::time::Duration::from_millis(1), abandoned).await.is_err());
            let waiting = hasher.run(|| 7);
            let refused = async {
                assert!(hasher.hash("one too many").await.is_err());
                go.send(()).expect("the thread waits");
            };
            let (waited, ()) = tokio::join!(waiting, refused);
            assert_eq!(waited.ok(), Some(7));
            assert!(!did.load(Ordering::SeqCst), "whoever waited for it had hung up");
        };
        assert!(tokio::join!(blocked, storm).0);
    }

    #[tokio::test]
    async fn work_that_panics_takes_no_thread_with_it() {
        let hasher = Hasher::new(1, 2).expect("starts");
        assert!(hasher.run(|| panic!("as a test wants it")).await.is_err());
        assert!(hasher.hash("secret123").await.is_ok());
    }
}
