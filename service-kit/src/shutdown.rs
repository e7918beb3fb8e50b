//! Shutdown in stages. The first signal announces it: the process says that it is not ready, and goes on as before until
//! those who send it work have had time to notice. Then it drains: stop taking work, finish what is in flight. A second
//! signal, or the end of the grace period, cuts: drop the rest. Every task is tracked and named, so that no stage forgets
//! one.
//!
//! ```text
//!  running ──SIGTERM, SIGINT, begin()──▶ leaving ──ready delay──▶ draining ──second signal, grace──▶ cut
//!     │                                    │                        ▲ │                               │ 1 s
//!     └──────── a task that failed ────────┴── second signal ───────┘ └── all tasks ended ─▶ finished ◀┘
//! ```
//!
//! A second signal that comes while the process is leaving cuts, too.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long tasks have after the cut to notice it, before they are abandoned.
pub(crate) const AFTER_CUT: Duration = Duration::from_secs(1);

/// Clones share one state.
#[derive(Debug, Clone)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    leaving: CancellationToken,
    draining: CancellationToken,
    cut: CancellationToken,
    done: CancellationToken,
    ready_delay: Duration,
    grace: Duration,
    tracker: TaskTracker,
    failed: AtomicBool,
    next_task: AtomicU64,
    /// The names of the tasks under way, for the log line about those that did not end in time.
    running: Mutex<BTreeMap<u64, &'static str>>,
}

/// What a tracked task may end with: nothing, or a `Result` whose error is logged where the task ends.
pub trait Outcome: Send + 'static {
    /// The error, if it is one, as a sentence with its causes.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Into<anyhow::Error> + Send + 'static> Outcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| format!("{:#}", error.into()))
    }
}

impl Shutdown {
    /// Drains at the first SIGTERM or SIGINT, cuts at the second or `grace` after the first. Call within a runtime.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub fn from_signals(grace: Duration) -> std::io::Result<Self> {
        Self::from_signals_after(Duration::ZERO, grace)
    }

    /// [`Shutdown::from_signals`], but draining only `ready_delay` after the first signal. The grace begins there.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub fn from_signals_after(ready_delay: Duration, grace: Duration) -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::manual_after(ready_delay, grace);
        let this = shutdown.clone();
        tokio::spawn(async move {
            let done = this.inner.done.clone();
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    () = done.cancelled() => return,
                };
                if this.inner.leaving.is_cancelled() {
                    tracing::warn!("{name} again: cutting what is still in flight");
                    this.inner.draining.cancel();
                    this.inner.cut.cancel();
                } else {
                    let (delay, grace) = (millis(this.inner.ready_delay), millis(this.inner.grace));
                    tracing::info!(ready_delay_ms = delay, grace_ms = grace, "{name}: draining");
                    this.begin();
                }
            }
        });
        Ok(shutdown)
    }

    /// Without signals, for tests and for supervisors that call [`Shutdown::begin`]. Call within a runtime.
    pub fn manual(grace: Duration) -> Self {
        Self::manual_after(Duration::ZERO, grace)
    }

    /// [`Shutdown::manual`], but draining only `ready_delay` after [`Shutdown::begin`].
    pub fn manual_after(ready_delay: Duration, grace: Duration) -> Self {
        let inner = Arc::new(Inner {
            leaving: CancellationToken::new(),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
            done: CancellationToken::new(),
            ready_delay,
            grace,
            tracker: TaskTracker::new(),
            failed: AtomicBool::new(false),
            next_task: AtomicU64::new(0),
            running: Mutex::default(),
        });
        let (leaving, draining) = (inner.leaving.clone(), inner.draining.clone());
        let (cut, done) = (inner.cut.clone(), inner.done.clone());
        tokio::spawn(async move {
            leaving.cancelled().await;
            tokio::select! {
                () = tokio::time::sleep(ready_delay) => draining.cancel(),
                () = draining.cancelled() => {}
            }
            tokio::select! {
                () = tokio::time::sleep(grace) => cut.cancel(),
                () = cut.cancelled() => {}
                () = done.cancelled() => {}
            }
        });
        Self { inner }
    }

    /// Cancelled when this process shall tell everybody that it is not ready. It takes work still: who sends it some has
    /// not noticed yet.
    pub fn leaving(&self) -> CancellationToken {
        self.inner.leaving.clone()
    }

    /// Cancelled when this process shall take no more work.
    pub fn draining(&self) -> CancellationToken {
        self.inner.draining.clone()
    }

    /// Cancelled when there is no more time for what is in flight.
    pub fn cut(&self) -> CancellationToken {
        self.inner.cut.clone()
    }

    /// How long draining may take.
    pub fn grace(&self) -> Duration {
        self.inner.grace
    }

    /// How long it is until the cut, of a process that begins to leave now.
    pub fn time_left(&self) -> Duration {
        let delay = if self.inner.draining.is_cancelled() { Duration::ZERO } else { self.inner.ready_delay };
        delay + self.inner.grace
    }

    /// Starts to leave, as the first signal does. More calls change nothing.
    pub fn begin(&self) {
        self.inner.leaving.cancel();
        if self.inner.ready_delay.is_zero() {
            self.inner.draining.cancel();
        }
    }

    /// Starts the drain at once: there is nothing that anybody could still be sent to.
    pub fn end(&self) {
        self.inner.leaving.cancel();
        self.inner.draining.cancel();
    }

    /// Starts the drain at once, since what does not work shall take no more work, and makes the process end with exit
    /// code 1.
    pub fn fail(&self) {
        self.inner.failed.store(true, Ordering::Relaxed);
        self.end();
    }

    /// Whether something failed; see [`Shutdown::fail`].
    pub fn failed(&self) -> bool {
        self.inner.failed.load(Ordering::Relaxed)
    }

    /// Spawns a task that [`Shutdown::finished`] waits for. An error it ends with is logged; a panic is logged, starts
    /// the drain and makes the process fail, because nobody knows what state it left.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        self.track(name, false, future)
    }

    /// Like [`Shutdown::spawn`], for a task without which the process is useless: if it ends before the drain, whatever
    /// with, that is an error, starts the drain and makes the process fail.
    pub fn spawn_critical<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        self.track(name, true, future)
    }

    /// Spawns a task that serves until all tracked ones have ended and is then dropped, such as the metrics endpoint.
    pub fn spawn_background<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let done = self.inner.done.clone();
        let this = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                result = AssertUnwindSafe(future).catch_unwind() => {
                    if let Err(panic) = result {
                        this.panicked(name, panic.as_ref());
                    }
                }
                () = done.cancelled() => {}
            }
        })
    }

    /// Waits until the drain has begun and all tracked tasks have ended, or until a second after the cut; then logs the
    /// names of the tasks that are abandoned.
    pub async fn finished(&self) {
        self.inner.draining.cancelled().await;
        self.inner.tracker.close();
        let late = async {
            self.inner.cut.cancelled().await;
            tokio::time::sleep(AFTER_CUT).await;
        };
        tokio::select! {
            () = self.inner.tracker.wait() => {}
            () = late => {
                let mut names: Vec<&str> = self.running().values().copied().collect();
                names.dedup();
                tracing::warn!(tasks = ?names, "some tasks did not end in time and are dropped");
            }
        }
        self.inner.done.cancel();
    }

    fn track<F>(&self, name: &'static str, critical: bool, future: F) -> JoinHandle<()>
    where
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        let this = self.clone();
        let task = Running::new(&self.inner, name);
        let watched = async move {
            let ended = AssertUnwindSafe(future).catch_unwind().await;
            let draining = this.inner.draining.is_cancelled();
            match ended.map(Outcome::failure) {
                Err(panic) => this.panicked(name, panic.as_ref()),
                Ok(Some(error)) if critical && !draining => {
                    tracing::error!(task = name, error, "a task that must not end has failed: draining");
                    this.fail();
                }
                Ok(None) if critical && !draining => {
                    tracing::error!(task = name, "a task that must not end has ended: draining");
                    this.fail();
                }
                Ok(Some(error)) => tracing::warn!(task = name, error, "a task has failed"),
                Ok(None) => {}
            }
            drop(task);
        };
        // Not in the current span: tasks outlive what they were spawned in, and its trace with all that they do would never end.
        self.inner.tracker.spawn(watched)
    }

    fn panicked(&self, name: &'static str, panic: &(dyn Any + Send)) {
        tracing::error!(task = name, panic = %Panic(panic), "a task has panicked: draining");
        self.fail();
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, &'static str>> {
        lock(&self.inner.running)
    }
}

/// Keeps a task's name in the list of running ones for as long as it lives, also when the task is aborted.
struct Running {
    inner: Arc<Inner>,
    id: u64,
}

impl Running {
    fn new(inner: &Arc<Inner>, name: &'static str) -> Self {
        let id = inner.next_task.fetch_add(1, Ordering::Relaxed);
        lock(&inner.running).insert(id, name);
        Self { inner: inner.clone(), id }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.inner.running).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Panic<'p>(&'p (dyn Any + Send));

impl Display for Panic<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.0.downcast_ref::<&str>().copied();
        f.write_str(text.or_else(|| self.0.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message"))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_the_tasks_and_ends_with_them() {
        let shutdown = Shutdown::manual(LONG);
        let draining = shutdown.draining();
        shutdown.spawn_critical("worker", async move {
            draining.cancelled().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        let begun = tokio::time::Instant::now();
        shutdown.begin();
        shutdown.finished().await;
        assert_eq!(begun.elapsed().as_secs(), 5);
        assert!(!shutdown.failed() && !shutdown.cut().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_leaves_for_the_delay_before_it_drains_unless_it_has_ended_or_something_failed() {
        let (delay, grace) = (Duration::from_secs(3), Duration::from_secs(8));
        type Way = fn(&Shutdown);
        let ways: [(Way, u64); 3] = [(Shutdown::begin, 3), (Shutdown::end, 0), (Shutdown::fail, 0)];
        for (how, drained) in ways {
            let shutdown = Shutdown::manual_after(delay, grace);
            shutdown.spawn("deaf", std::future::pending::<()>());
            let begun = tokio::time::Instant::now();
            how(&shutdown);
            assert!(shutdown.leaving().is_cancelled());
            assert_eq!(shutdown.draining().is_cancelled(), drained == 0);
            shutdown.draining().cancelled().await;
            assert_eq!(begun.elapsed().as_secs(), drained);
            shutdown.cut().cancelled().await;
            assert_eq!(begun.elapsed().as_secs(), drained + 8, "the grace begins with the drain");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_ends_in_a_cut_and_a_task_that_ignores_it_is_abandoned() {
        let shutdown = Shutdown::manual(Duration::from_secs(8));
        let cut = shutdown.cut();
        shutdown.spawn("listens to the cut", async move { cut.cancelled().await });
        shutdown.spawn("deaf", std::future::pending::<()>());
        let begun = tokio::time::Instant::now();
        shutdown.begin();
        shutdown.finished().await;
        assert_eq!(begun.elapsed().as_secs(), 9);
        assert!(!shutdown.failed());
        assert_eq!(shutdown.running().values().copied().collect::<Vec<_>>(), ["deaf"]);
    }

    #[tokio::test]
    async fn a_critical_task_that_ends_early_starts_the_drain_and_fails() {
        for outcome in [Ok(()), Err(anyhow::anyhow!("refused"))] {
            let shutdown = Shutdown::manual(LONG);
            shutdown.spawn_critical("listener", async move { outcome });
            shutdown.finished().await;
            assert!(shutdown.failed());
        }
    }

    #[tokio::test]
    async fn an_ordinary_task_may_end_or_fail() {
        let shutdown = Shutdown::manual(LONG);
        shutdown.spawn("ends", async {}).await.unwrap();
        shutdown.spawn("fails", async { Err::<(), _>(std::io::Error::other("gone")) }).await.unwrap();
        assert!(!shutdown.draining().is_cancelled());
        shutdown.begin();
        shutdown.finished().await;
        assert!(!shutdown.failed());
    }

    #[tokio::test]
    async fn a_panic_starts_the_drain_and_fails() {
        let shutdown = Shutdown::manual(LONG);
        shutdown.spawn("careless", async { assert_eq!(1, 2, "on purpose") });
        shutdown.finished().await;
        assert!(shutdown.failed());
    }

    #[tokio::test]
    async fn background_tasks_outlive_the_drain_but_do_not_hold_it_up() {
        let shutdown = Shutdown::manual(LONG);
        let background = shutdown.spawn_background("metrics", std::future::pending());
        shutdown.begin();
        shutdown.finished().await;
        background.await.unwrap();
    }
}
