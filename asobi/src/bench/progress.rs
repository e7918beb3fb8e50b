//! What is said on standard error while a bench runs: its steps, and a line a second with how much was measured so far.

use std::{
    io::IsTerminal as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

static QUIET: AtomicBool = AtomicBool::new(false);
/// Every latency that is recorded, in whichever scenario.
static MEASURED: AtomicU64 = AtomicU64::new(0);

/// Says a step, unless the bench is quiet.
macro_rules! say {
    ($($arg:tt)*) => { $crate::bench::progress::line(&format!($($arg)*)) };
}
pub fn line(text: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        eprintln!("{text}");
    }
}

/// One more figure was taken.
pub fn measured() {
    MEASURED.fetch_add(1, Ordering::Relaxed);
}

/// The line a second; ends when it is dropped.
pub struct Progress(Option<JoinHandle<()>>);

impl Progress {
    pub fn start(quiet: bool, wanted: bool) -> Self {
        QUIET.store(quiet, Ordering::Relaxed);
        if quiet || !(wanted || std::io::stderr().is_terminal()) {
            return Self(None);
        }
        Self(Some(tokio::spawn(async {
            let (began, mut before) = (Instant::now(), 0);
            let mut second = tokio::time::interval(Duration::from_secs(1));
            loop {
                second.tick().await;
                let now = MEASURED.load(Ordering::Relaxed);
                if now > before {
                    line(&format!("  {:>4} s  {} measured, {now} in all", began.elapsed().as_secs(), now - before));
                }
                before = now;
            }
        })))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
