//! Where the data are, and that nobody else uses them.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{Read as _, Seek as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use nix::unistd::geteuid;

use super::account::Account;

const LOCK: &str = "lock";
/// Where data go whose folder PostgreSQL's account cannot reach: kept over a restart of the machine, open to everybody.
const SUBSTITUTES: &str = "/var/tmp";
const SUBSTITUTE: &str = "asobi-";
/// Says in a substitute which folder it is for.
const NOTE: &str = "instead-of";

/// The folder of the data, created and locked for this process.
#[derive(Debug)]
pub struct Place {
    /// PostgreSQL's own data directory; may not exist yet.
    pub pgdata: PathBuf,
    pub log: PathBuf,
    /// A sentence for people, if the data are elsewhere than they asked.
    pub moved: Option<String>,
    lock: File,
}

impl Place {
    /// Makes `dir` and locks it; where the account cannot reach it, the data go to a folder below /var/tmp that is the
    /// same at every start.
    ///
    /// # Errors
    /// If the folder cannot be made, or another process uses it.
    pub fn take(dir: &Path, account: &Account) -> anyhow::Result<Self> {
        make_dir(dir)?;
        let dir = dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))?;
        let lock = lock(&dir.join(LOCK))?;
        let (root, moved) = if account.can_reach(&dir)? {
            (dir.clone(), None)
        } else {
            let other = substitute(&dir)?;
            ensure!(account.can_reach(&other)?, "PostgreSQL's user can reach neither {} nor /var/tmp", dir.display());
            let sentence = format!(
                "PostgreSQL runs as {}, who cannot reach {}; its data are in {}",
                account.name().unwrap_or("another user"),
                dir.display(),
                other.display()
            );
            (other, Some(sentence))
        };
        Ok(Self { pgdata: root.join("postgres"), log: root.join("postgres.log"), moved, lock })
    }

    /// The release that the existing data are of.
    pub fn release(&self) -> Option<u32> {
        fs::read_to_string(self.pgdata.join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Says that this process ended in order, so that the next one need not wait for anybody.
    pub fn leave(mut self) {
        // A lock file that keeps its text costs the next start some patience, nothing else.
        let _emptied = self.lock.rewind().and_then(|()| self.lock.set_len(0));
    }
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .with_context(|| format!("cannot create the data folder {}", dir.display()))
}

/// Whether the last user of the folder left its process id in the lock, which only a killed one does.
pub fn was_left_behind(dir: &Path) -> bool {
    fs::read_to_string(dir.join(LOCK)).is_ok_and(|holder| !holder.trim().is_empty())
}

/// Locks the file for as long as it is open and writes the process id into it.
fn lock(path: &Path) -> anyhow::Result<File> {
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let mut holder = String::new();
    file.read_to_string(&mut holder).with_context(|| format!("cannot read {}", path.display()))?;
    if let Err(error) = file.try_lock() {
        bail!("{} is in use by the process {}: {error}", path.display(), holder.trim());
    }
    file.rewind()?;
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

/// A folder below /var/tmp, named after the one that was asked for. Everybody may create files there, so what exists
/// already must be this user's own folder.
fn substitute(dir: &Path) -> anyhow::Result<PathBuf> {
    remove_orphans();
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    let other = Path::new(SUBSTITUTES).join(format!("{SUBSTITUTE}{:016x}", hasher.finish()));
    if let Err(error) = DirBuilder::new().mode(0o755).create(&other) {
        let existing =
            fs::symlink_metadata(&other).with_context(|| format!("cannot create {}: {error}", other.display()))?;
        ensure!(is_own_dir(&existing), "{} exists and is not this user's own folder", other.display());
    }
    let note = other.join(NOTE);
    fs::write(&note, dir.as_os_str().as_encoded_bytes()).with_context(|| format!("cannot write {}", note.display()))?;
    Ok(other)
}

/// Removes the substitutes of folders that are gone, such as those of tests: nobody could find them any more.
fn remove_orphans() {
    for entry in fs::read_dir(SUBSTITUTES).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = entry.file_name().to_string_lossy().starts_with(SUBSTITUTE);
        if !named || !fs::symlink_metadata(&path).is_ok_and(|found| is_own_dir(&found)) {
            continue;
        }
        // Without its note it is just being made.
        let Ok(original) = fs::read(path.join(NOTE)) else { continue };
        if !Path::new(OsStr::from_bytes(&original)).exists() {
            // Its files may still be in use by a server that is ending; the next start tries again.
            let _removed = fs::remove_dir_all(&path);
        }
    }
}

fn is_own_dir(found: &fs::Metadata) -> bool {
    found.is_dir() && found.uid() == geteuid().as_raw()
}
