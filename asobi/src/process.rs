use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Child;

/// Sends SIGTERM, unless the process has been reaped already.
pub fn terminate(child: &Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // Fails only if the process has ended meanwhile, which waiting for it will tell.
        let _ended = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}
