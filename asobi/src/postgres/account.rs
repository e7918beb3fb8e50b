//! Under which account PostgreSQL runs: it refuses root, so root's commands give it an unprivileged one.

use std::{
    io::ErrorKind,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use nix::unistd::{User, geteuid};

/// Accounts to drop to, the best first.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// The account for PostgreSQL: this process's own, or the one that root drops to.
#[derive(Debug, Clone)]
pub struct Account {
    dropped_to: Option<User>,
}

impl Account {
    /// # Errors
    /// As root on a machine without any of the unprivileged accounts.
    pub fn choose() -> anyhow::Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self { dropped_to: None });
        }
        for name in CANDIDATES {
            if let Some(user) = User::from_name(name).with_context(|| format!("cannot look up the user {name}"))? {
                return Ok(Self { dropped_to: Some(user) });
            }
        }
        anyhow::bail!("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
    }

    /// The name of the account, if it is another than this process's.
    pub fn name(&self) -> Option<&str> {
        self.dropped_to.as_ref().map(|user| user.name.as_str())
    }

    /// A command that runs as the account. Its supplementary groups are root's no more: std drops them with `uid`.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(user) = &self.dropped_to {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Gives a folder, itself and not what is in it, to the account.
    ///
    /// # Errors
    /// Of chown.
    pub fn own(&self, dir: &Path) -> anyhow::Result<()> {
        let Some(user) = &self.dropped_to else { return Ok(()) };
        std::os::unix::fs::lchown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .with_context(|| format!("cannot give {} to {}", dir.display(), user.name))
    }

    /// Whether the account can reach a folder through all that lie above it. Asked of the kernel, by going there.
    ///
    /// # Errors
    /// If the attempt fails for another reason than permissions.
    pub fn can_reach(&self, dir: &Path) -> anyhow::Result<bool> {
        if self.dropped_to.is_none() {
            return Ok(true);
        }
        match self.command(&PathBuf::from("/bin/true")).current_dir(dir).status() {
            Ok(status) => Ok(status.success()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot try whether {} is reachable", dir.display())),
        }
    }
}
