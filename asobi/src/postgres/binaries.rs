//! Finding the binaries of an installed PostgreSQL server.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

/// The releases that Asobi supports and tests.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 15..=18;
/// Names a folder with `initdb` and `postgres` to use instead of searching. Not a configuration key: no process of the
/// cluster has use for it.
pub const VARIABLE: &str = "ASOBI_POSTGRES_BIN";

/// A folder with the server's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    pub dir: PathBuf,
    pub major: u32,
}

impl Binaries {
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Finds the newest supported release; one of the release `wanted`, if data of it exist already.
    ///
    /// # Errors
    /// If there is none; the error says what to install, or how to do without the old data.
    pub fn find(wanted: Option<u32>) -> anyhow::Result<Self> {
        let mut found = match env::var_os(VARIABLE) {
            Some(dir) if !dir.is_empty() => {
                let dir = PathBuf::from(dir);
                let binaries = probe(&dir).with_context(|| {
                    format!("{VARIABLE} is {}, where no initdb and postgres of PostgreSQL 15 to 18 are", dir.display())
                })?;
                vec![binaries]
            }
            _ => candidates().iter().filter_map(|dir| probe(dir)).collect(),
        };
        found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
        match wanted {
            None => found.into_iter().next().with_context(|| {
                format!(
                    "no PostgreSQL server (15 to 18) is installed: install one (Debian: apt-get install postgresql), \
                     name the folder of its programs in {VARIABLE}, or give --database-url"
                )
            }),
            Some(major) => {
                let all: Vec<u32> = found.iter().map(|binaries| binaries.major).collect();
                match found.into_iter().find(|binaries| binaries.major == major) {
                    Some(binaries) => Ok(binaries),
                    None => bail!(
                        "the data folder is of PostgreSQL {major}, but installed are {all:?}: install that release, \
                         or start anew with --fresh"
                    ),
                }
            }
        }
    }
}

/// Where servers are usually installed; `pg_config` and PATH come last because they may be of a client only.
fn candidates() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for root in ["/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            dirs.push(entry.path().join("bin"));
        }
    }
    for release in SUPPORTED {
        dirs.push(PathBuf::from(format!("/usr/pgsql-{release}/bin")));
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output()
        && output.status.success()
    {
        dirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    dirs.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    dirs
}

fn probe(dir: &Path) -> Option<Binaries> {
    if !dir.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    let major = major_of(&String::from_utf8_lossy(&output.stdout))?;
    SUPPORTED.contains(&major).then(|| Binaries { dir: dir.to_owned(), major })
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("something else"), None);
    }
}
