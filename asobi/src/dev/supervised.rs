//! One child process: started, watched, started again with back-off, and ended.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use asobi_service_kit::config::EXIT_CONFIG;
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::output::Output;
use crate::process;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A process that lived this long has recovered; its next death pauses shortly again.
const HEALTHY: Duration = Duration::from_secs(30);
/// How long a child that was told to cut has left.
const AFTER_HURRY: Duration = Duration::from_secs(2);

/// What all children share.
#[derive(Debug, Clone)]
pub struct Shared {
    pub executable: PathBuf,
    pub output: Output,
    pub restart: bool,
    /// Cancelled when all shall drain.
    pub stop: CancellationToken,
    /// Cancelled when they shall not take their time with it.
    pub hurry: CancellationToken,
    /// How long a drain may take before the process is killed.
    pub grace: Duration,
    /// Tells the supervisor what makes going on pointless. Bounded; a second message would say nothing new.
    pub fatal: mpsc::Sender<String>,
    /// The tasks that carry lines.
    pub lines: TaskTracker,
}

#[derive(Debug)]
pub struct Supervised {
    pub node_id: String,
    pub arguments: Vec<String>,
    pub colour: usize,
    /// The process that runs now; 0 while none does.
    pub pid: Arc<AtomicU32>,
    pub shared: Shared,
}

impl Supervised {
    /// Keeps the process running until everything stops; returns when it has ended.
    pub async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let died = match self.start() {
                Ok((mut child, _lifeline)) => {
                    self.pid.store(child.id().unwrap_or(0), Ordering::Release);
                    tokio::select! {
                        status = child.wait() => status.map_or_else(|error| error.to_string(), |status| self.judge(status)),
                        () = self.shared.stop.cancelled() => return self.end(child).await,
                    }
                }
                Err(error) => format!("cannot be started: {error}"),
            };
            self.pid.store(0, Ordering::Release);
            if !self.shared.restart {
                self.say(&format!("{died}; it stays so, because of --no-restart"));
                return;
            }
            if started.elapsed() > HEALTHY {
                pause = FIRST_PAUSE;
            }
            self.say(&format!("{died}; starting it again in {:.1} s", pause.as_secs_f64()));
            tokio::select! {
                () = sleep(pause) => {}
                () = self.shared.stop.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The second value must live as long as the child shall.
    fn start(&self) -> std::io::Result<(Child, Option<ChildStdin>)> {
        let mut command = Command::new(&self.shared.executable);
        command
            .args(&self.arguments)
            // Open as long as this process lives: its end is how the child learns that the supervisor was killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C goes to the whole foreground group; the children are told by us, once.
            .process_group(0)
            .kill_on_drop(true);
        if super::output::coloured() {
            command.env("CLICOLOR_FORCE", "1");
        }
        let mut child = command.spawn()?;
        if let Some(stream) = child.stdout.take() {
            self.shared.lines.spawn(self.shared.output.clone().follow(self.node_id.clone(), self.colour, stream));
        }
        if let Some(stream) = child.stderr.take() {
            self.shared.lines.spawn(self.shared.output.clone().follow(self.node_id.clone(), self.colour, stream));
        }
        // Waiting for a child closes its standard input, if the child still holds the other end.
        let lifeline = child.stdin.take();
        Ok((child, lifeline))
    }

    /// A sentence about the death. A configuration that the child refuses will not get better by trying again.
    fn judge(&self, status: ExitStatus) -> String {
        if status.code() == Some(i32::from(EXIT_CONFIG)) {
            let _told_already = self.shared.fatal.try_send(format!("{} refuses its configuration", self.node_id));
        }
        format!("has ended ({status})")
    }

    /// Drains, then cuts, then kills.
    async fn end(&self, mut child: Child) {
        process::terminate(&child);
        let drained = async {
            tokio::select! {
                _ = child.wait() => return true,
                () = sleep(self.shared.grace) => return false,
                () = self.shared.hurry.cancelled() => {}
            }
            process::terminate(&child);
            timeout(AFTER_HURRY, child.wait()).await.is_ok()
        };
        if drained.await {
            return;
        }
        self.say("did not end in time and is killed");
        if let Err(error) = child.kill().await {
            self.say(&format!("cannot be killed: {error}"));
        }
    }

    fn say(&self, text: &str) {
        self.shared.output.say(&format!("{} {text}", self.node_id));
    }
}
