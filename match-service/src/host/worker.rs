//! The threads that matches run on. A match never leaves its thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    sync::mpsc,
    task::LocalSet,
    time::{Instant, sleep_until},
};

/// Work that begins on a worker's thread; it spawns the match's task there.
pub type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait for a worker to take them; a host that is that late refuses new matches.
const JOBS: usize = 1024;
/// Between two looks at how late a bare timer is.
const TIMER: Duration = Duration::from_millis(50);

/// One thread with its own runtime.
pub struct Worker {
    jobs: mpsc::Sender<Job>,
    /// Matches on it.
    pub load: Arc<AtomicUsize>,
}

impl Worker {
    /// Starts `match-<number>`. The thread ends when the worker is dropped, and whatever still runs on it with it.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(number: usize) -> std::io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(JOBS);
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        thread::Builder::new().name(format!("match-{number}")).spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, async move {
                tokio::task::spawn_local(super::turn::keep());
                tokio::task::spawn_local(measure_timer());
                while let Some(job) = queue.recv().await {
                    job();
                }
            });
        })?;
        Ok(Self { jobs, load: Arc::default() })
    }

    /// Gives it a job. False: it has too many waiting.
    pub fn give(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }

    #[must_use]
    pub fn matches(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }
}

/// How late a timer is on this thread when nothing has to be done for it: what ticks are measured against.
async fn measure_timer() {
    let lateness = metrics::histogram!("asobi_match_timer_lateness_seconds");
    let mut due = Instant::now();
    loop {
        due += TIMER;
        sleep_until(due).await;
        lateness.record(due.elapsed().as_secs_f64());
        // A thread that was held up is not measured for every period it missed.
        due = due.max(Instant::now() - TIMER);
    }
}
