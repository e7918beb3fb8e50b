//! Boards from a read replica: a real one, made for the play beside a primary of its own.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use asobi_store::{boards::replica, testing::url_of};
use nix::unistd::{User, geteuid};
use sqlx::{PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use crate::stage::{Service, until};

const SERVER: [&str; 3] = ["-c", "fsync=off", "-clisten_addresses="];

/// A primary and its standby, reached by sockets in a folder that goes with them.
struct Pair {
    dir: tempfile::TempDir,
    bin: PathBuf,
    primary: PgPool,
    replica: PgPool,
}

impl Pair {
    async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        // PostgreSQL's user has to get in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
        let bin = binaries()?;
        let pair = |name: &str| dir.path().join(name);
        run(&bin, "initdb", &["-D", &text(&pair("primary")), "-U", "asobi", "-A", "trust", "-N"])?;
        serve(&bin, dir.path(), "primary")?;
        let source = format!("host={} user=asobi", text(&pair("primary.sock")));
        run(
            &bin,
            "pg_basebackup",
            &["-D", &text(&pair("replica")), "-R", "-N", "-X", "stream", "-c", "fast", "-d", &source],
        )?;
        serve(&bin, dir.path(), "replica")?;
        let pool = async |name: &str| {
            let options = asobi_store::DatabaseOptions {
                url: socket_url(dir.path(), name),
                max_connections: 4,
                timeout: Duration::from_secs(20),
                application_name: "asobi/play".into(),
            };
            asobi_store::connect(&options).await
        };
        let (primary, replica) = (pool("primary").await?, pool("replica").await?);
        asobi_store::migrate(&primary).await?;
        Ok(Self { primary, replica, bin, dir })
    }

    fn url(&self, name: &str) -> String {
        socket_url(self.dir.path(), name)
    }

    async fn service(&self, node_id: &str) -> anyhow::Result<Service> {
        let replica = format!("database.replica_url={}", self.url("replica"));
        Service::start_at(&self.url("primary"), &self.primary, node_id, &[&replica]).await
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in ["replica", "primary"] {
            let data = text(&self.dir.path().join(name));
            let stopped = run(&self.bin, "pg_ctl", &["-D", &data, "-m", "immediate", "stop"]);
            if let Err(error) = stopped {
                eprintln!("{name} could not be stopped: {error:#}");
            }
        }
    }
}

fn socket_url(dir: &Path, name: &str) -> String {
    let socket = text(&dir.join(format!("{name}.sock"))).replace('/', "%2F");
    url_of(&format!("postgres://asobi@{socket}/postgres"), "postgres")
}

fn serve(bin: &Path, dir: &Path, name: &str) -> anyhow::Result<()> {
    let socket = dir.join(format!("{name}.sock"));
    fs::create_dir(&socket)?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777))?;
    let options = format!("{} -k {}", SERVER.join(" "), text(&socket));
    let (data, log) = (text(&dir.join(name)), text(&socket.join("log")));
    run(bin, "pg_ctl", &["-D", &data, "-l", &log, "-o", &options, "-w", "start"])
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Where the server's programs are, as `asobi dev` looks for them.
fn binaries() -> anyhow::Result<PathBuf> {
    let installed =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let named = std::env::var_os("ASOBI_POSTGRES_BIN").map(PathBuf::from);
    let on_path: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let mut places = named.into_iter().chain(installed).chain(on_path);
    places
        .find(|dir| dir.join("pg_basebackup").is_file() && dir.join("initdb").is_file())
        .context("no PostgreSQL server is installed here; name the folder of its programs in ASOBI_POSTGRES_BIN")
}

/// As the user that PostgreSQL may run as; what it says is shown when it fails.
fn run(bin: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(bin.join(program));
    command.args(arguments).current_dir("/");
    if geteuid().is_root() {
        let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.context("there is no user postgres or nobody")?;
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    // A server that was started keeps what it was given: no pipe that somebody would wait for.
    let said = tempfile::tempfile()?;
    command.stdin(std::process::Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
    let status = command.status()?;
    ensure!(status.success(), "{program} {arguments:?} ended with {status}");
    Ok(())
}

/// How often the replica's index of the boards' numbers was read.
async fn reads(replica: &PgPool) -> anyhow::Result<i64> {
    let reads =
        sqlx::query_scalar("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'leaderboard_entries_seq'");
    Ok(reads.fetch_one(replica).await?)
}

/// Behind one address there may be several replicas: of the others the answer of one says nothing.
async fn who_was_asked_is_who_is_read(pair: &Pair) -> anyhow::Result<()> {
    let asked = asobi_store::connect_options(&pair.url("replica"), "asobi/asked", Duration::from_secs(20))?;
    // Whoever comes after the first has a connection of their own.
    let once = PgPoolOptions::new().max_connections(2).after_release(|_, _| Box::pin(async { Ok(false) }));
    let position = replica::position(&pair.primary).await?;
    let pool = once.connect_lazy_with(asked);
    let given = asobi_store::within(Duration::from_secs(20), replica::caught_up(&pool, &position)).await?;
    let last = sqlx::query_scalar("SELECT query FROM pg_stat_activity WHERE application_name = 'asobi/asked'");
    let last: String = last.fetch_one(&pair.replica).await?;
    ensure!(given.is_some() && last.contains("pg_last_wal_replay_lsn"), "its last answer was to {last:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_is_read_from_a_replica_that_has_caught_up_and_only_then() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let [ada, bo, cy] = [(); 3].map(|()| Uuid::now_v7());
    let first = pair.service("one").await?;
    for (player, score) in [(ada, 1.0), (bo, 2.0)] {
        first.submit("arena", player, score, 0.0).await?;
    }

    // A service that starts now reads the board over there.
    let before = reads(&pair.replica).await?;
    let second = pair.service("two").await?;
    let expected = vec![(bo.to_string(), 2.0, 1), (ada.to_string(), 1.0, 2)];
    assert_eq!(second.top("arena", 0).await?, expected);
    until("the replica was read", async || Ok((reads(&pair.replica).await? > before).then_some(()))).await?;
    who_was_asked_is_who_is_read(&pair).await?;

    // It does not replay any more: it has not what is committed now, and is not believed.
    sqlx::query("SELECT pg_wal_replay_pause()").execute(&pair.replica).await?;
    until("it has stopped", async || {
        let state: String =
            sqlx::query_scalar("SELECT pg_get_wal_replay_pause_state()").fetch_one(&pair.replica).await?;
        Ok((state == "paused").then_some(()))
    })
    .await?;
    first.submit("arena", cy, 3.0, 0.0).await?;
    let behind: i64 = sqlx::query_scalar("SELECT count(*) FROM leaderboard_entries").fetch_one(&pair.replica).await?;
    assert_eq!(behind, 2);
    let third = pair.service("three").await?;
    assert_eq!(third.top("arena", 1).await?, [(cy.to_string(), 3.0, 1)]);

    // Nor is one that is not there.
    sqlx::query("SELECT pg_wal_replay_resume()").execute(&pair.replica).await?;
    let elsewhere = ["database.replica_url=postgres://asobi@127.0.0.1:1/nothing"];
    let fourth = Service::start_at(&pair.url("primary"), &pair.primary, "four", &elsewhere).await?;
    assert_eq!(fourth.top("arena", 1).await?, [(cy.to_string(), 3.0, 1)]);
    // Nor a primary that poses as one.
    let itself = format!("database.replica_url={}", pair.url("primary"));
    let fifth = Service::start_at(&pair.url("primary"), &pair.primary, "five", &[&itself]).await?;
    assert_eq!(fifth.top("arena", 1).await?, [(cy.to_string(), 3.0, 1)]);
    for service in [first, second, third, fourth, fifth] {
        service.drain().await?;
    }
    Ok(())
}
