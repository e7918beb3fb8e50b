//! An own PostgreSQL for development and tests: real binaries, own data, fsync on.
//!
//! ```text
//!  supervisor ──pipe──▶ postgres-guard ──signals──▶ postgres ──▶ data (initdb once, kept until --fresh)
//! ```
//!
//! It listens on a free port of 127.0.0.1 only and trusts whoever connects from there; a Unix socket it has none, since
//! its path would often be longer than the system allows.

mod account;
mod binaries;
pub mod guard;
mod leftover;
mod place;

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File},
    net::TcpListener,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout},
};

use self::{account::Account, binaries::Binaries, place::Place};
use crate::process;

const ROLE: &str = "asobi";
const DATABASE: &str = "asobi";
/// Recovery after a crash replays at most max_wal_size, which a slow disk does within this.
const START: Duration = Duration::from_secs(90);
/// The guard's own patience with the server, and some.
const STOP: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);
/// A log longer than this is begun anew at the next start.
const LOG_BYTES: u64 = 16 << 20;

/// Fit for a small machine and some ten processes of ours. What is not here is PostgreSQL's default, fsync among it.
const SETTINGS: [&str; 11] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=300",
    "shared_buffers=128MB",
    "max_wal_size=1GB",
    "autovacuum_naptime=15s",
    "log_checkpoints=off",
    "log_min_messages=warning",
    "log_line_prefix=%m [%p] %q%a ",
    "logging_collector=off",
    "timezone=UTC",
];

/// A running server with its data locked. Stop it with [`OwnPostgres::stop`]; if it is dropped, its guard stops it.
#[derive(Debug)]
pub struct OwnPostgres {
    place: Place,
    binaries: Binaries,
    port: u16,
    guard: Child,
    /// Its end is how the guard learns that this process was killed. Kept apart: waiting for a child closes it.
    lifeline: Option<ChildStdin>,
}

impl OwnPostgres {
    /// Starts a server on the data in `dir`, making them if there are none or `fresh` is asked for.
    ///
    /// # Errors
    /// If no server is installed, the data are in use or cannot be made, or the server does not come up.
    pub async fn start(dir: &Path, fresh: bool) -> anyhow::Result<Self> {
        let account = Account::choose()?;
        let place = Place::take(dir, &account)?;
        if let Some(sentence) = &place.moved {
            eprintln!("{sentence}");
        }
        leftover::stop(&place.pgdata).await?;
        if fresh && place.pgdata.exists() {
            fs::remove_dir_all(&place.pgdata).with_context(|| format!("cannot remove {}", place.pgdata.display()))?;
        }
        let binaries = Binaries::find(place.release())?;
        if place.release().is_none() {
            initdb(&binaries, &account, &place).await?;
        }
        let port = free_port()?;
        let mut guard = spawn(&binaries, &place, port)?;
        let lifeline = guard.stdin.take();
        let mut server = Self { place, binaries, port, guard, lifeline };
        if let Err(error) = server.wait_until_up().await {
            // Somebody may have taken the port in the moment between our looking and the server's.
            if !server.log_end().contains("could not bind") {
                return Err(error);
            }
            server.port = free_port()?;
            server.restart().await?;
        }
        server.create_database().await?;
        Ok(server)
    }

    /// The database, with rights to do everything, for every local user.
    pub fn url(&self) -> String {
        url_of(self.port, DATABASE)
    }

    /// Whether the last user of the folder was killed, so that its services may still be ending.
    pub fn was_left_behind(dir: &Path) -> bool {
        place::was_left_behind(dir)
    }

    /// Returns when the server has ended by itself.
    pub async fn died(&mut self) -> String {
        match self.guard.wait().await {
            Ok(status) => format!("{status}; its log is {}", self.place.log.display()),
            Err(error) => error.to_string(),
        }
    }

    /// Starts the server again, on the same port, after [`OwnPostgres::died`].
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        // If it was the guard that was killed, the server is still there.
        leftover::stop(&self.place.pgdata).await?;
        self.guard = spawn(&self.binaries, &self.place, self.port)?;
        self.lifeline = self.guard.stdin.take();
        self.wait_until_up().await
    }

    /// Stops the server: open transactions are rolled back, all that was committed is on the disk.
    ///
    /// # Errors
    /// If it does not end in time; it is killed then.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        process::terminate(&self.guard);
        match timeout(STOP, self.guard.wait()).await {
            Ok(ended) => {
                ended?;
                self.place.leave();
                Ok(())
            }
            Err(_) => bail!("PostgreSQL did not stop within {} s", STOP.as_secs()),
        }
    }

    async fn wait_until_up(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + START;
        loop {
            let refused = match self.is_up().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.guard.try_wait()? {
                bail!(
                    "PostgreSQL did not start ({status}); the end of {}:\n{}",
                    self.place.log.display(),
                    self.log_end()
                );
            }
            if Instant::now() > until {
                bail!(
                    "PostgreSQL does not answer ({refused:#}); the end of {}:\n{}",
                    self.place.log.display(),
                    self.log_end()
                );
            }
            sleep(LOOK).await;
        }
    }

    /// Whether a server answers, and is ours: nobody's database shall be taken for our own.
    async fn is_up(&self) -> anyhow::Result<()> {
        let mut connection = connect(self.port, "postgres").await?;
        let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await?;
        connection.close().await?;
        ensure!(Path::new(&data) == self.place.pgdata, "another server, on {data}, has taken its port");
        Ok(())
    }

    async fn create_database(&self) -> anyhow::Result<()> {
        let mut connection = connect(self.port, "postgres").await?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
        if !exists {
            connection.execute("CREATE DATABASE asobi").await.context("cannot create the database")?;
        }
        Ok(connection.close().await?)
    }

    fn log_end(&self) -> String {
        let log = fs::read(&self.place.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

fn url_of(port: u16, database: &str) -> String {
    format!("postgres://{ROLE}@127.0.0.1:{port}/{database}")
}

async fn connect(port: u16, database: &str) -> anyhow::Result<PgConnection> {
    let url = url_of(port, database);
    let connecting = Box::pin(PgConnection::connect(&url));
    Ok(timeout(Duration::from_secs(5), connecting).await.context("no answer within 5 s")??)
}

/// Makes the data beside their place and moves them there, so that a half-made folder is never taken for a whole one.
async fn initdb(binaries: &Binaries, account: &Account, place: &Place) -> anyhow::Result<()> {
    let making = place.pgdata.with_extension("new");
    // C.UTF-8 orders by code point and knows the letters of all languages; not every system has it.
    let mut complaints = String::new();
    for locale in ["C.UTF-8", "C"] {
        if making.exists() {
            fs::remove_dir_all(&making).with_context(|| format!("cannot remove {}", making.display()))?;
        }
        DirBuilder::new().mode(0o700).create(&making).with_context(|| format!("cannot create {}", making.display()))?;
        account.own(&making)?;
        let mut command = account.command(&binaries.program("initdb"));
        command
            .arg("-D")
            .arg(&making)
            .args(["-U", ROLE, "-E", "UTF8", "--auth=trust", "--no-instructions"])
            .arg(format!("--locale={locale}"))
            .args(cfg!(target_os = "linux").then_some("--no-sync"))
            .current_dir(&making)
            .stdin(Stdio::null());
        let output = timeout(START, Command::from(command).kill_on_drop(true).output())
            .await
            .context("initdb does not end")?
            .context("cannot start initdb")?;
        if output.status.success() {
            flush(making.clone()).await?;
            return fs::rename(&making, &place.pgdata)
                .with_context(|| format!("cannot move the new data to {}", place.pgdata.display()));
        }
        complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    bail!("initdb failed:\n{complaints}")
}

/// Brings new data to the disk: with one call, where initdb makes two for each of its thousand files.
#[cfg(target_os = "linux")]
async fn flush(data: PathBuf) -> anyhow::Result<()> {
    let flushing = tokio::task::spawn_blocking(move || anyhow::Ok(nix::unistd::syncfs(File::open(data)?)?));
    let flushed = timeout(START, flushing).await.context("the new data do not reach the disk")?;
    flushed?.context("the new data cannot be flushed to the disk")
}

/// initdb has done it.
#[cfg(not(target_os = "linux"))]
async fn flush(_data: PathBuf) -> anyhow::Result<()> {
    Ok(())
}

/// A port that is free now. Another process may take it before the server does, which then does not start and says so.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

fn spawn(binaries: &Binaries, place: &Place, port: u16) -> anyhow::Result<Child> {
    let begin_anew = fs::metadata(&place.log).is_ok_and(|log| log.len() > LOG_BYTES);
    let mut options = File::options();
    options.create(true);
    if begin_anew {
        options.write(true).truncate(true)
    } else {
        options.append(true)
    };
    let log = options.open(&place.log).with_context(|| format!("cannot open {}", place.log.display()))?;
    let mut arguments: Vec<OsString> =
        vec!["-D".into(), place.pgdata.clone().into(), "-p".into(), port.to_string().into()];
    for setting in SETTINGS {
        arguments.extend(["-c".into(), setting.into()]);
    }
    let own = std::env::current_exe().context("cannot find the own executable")?;
    ensure!(place.pgdata.is_absolute(), "the data folder must be absolute by now");
    Command::new(own)
        .arg("postgres-guard")
        .arg(binaries.program("postgres"))
        .arg("--")
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the guard of PostgreSQL")
}
