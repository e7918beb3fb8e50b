//! The threads that matches run on. A match never leaves its thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{runtime, sync::mpsc, task::LocalSet};

/// Work that begins on a worker's thread; it spawns the match's task there.
pub type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait for a worker to take them; a host that is that late refuses new matches.
const JOBS: usize = 1024;

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
