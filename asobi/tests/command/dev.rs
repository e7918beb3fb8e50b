//! `asobi dev` with its own PostgreSQL.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::child::{Running, descendants, runs, until};

const ROLES: [&str; 4] = ["gateways", "match_hosts", "matchmakers", "social_services"];

/// A folder in which clusters are started, one after the other.
struct Yard {
    dir: tempfile::TempDir,
    ready_file: PathBuf,
}

impl Yard {
    fn new() -> anyhow::Result<Self> {
        // PostgreSQL does not run as root, and its user has to get in.
        let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
        let ready_file = dir.path().join("ready.json");
        Ok(Self { dir, ready_file })
    }

    /// Starts a small cluster and waits until it is ready.
    async fn start(&self, more: &[&str]) -> anyhow::Result<(Running, Value)> {
        let games = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/games");
        let (games, data) = (games.display().to_string(), self.dir.path().join("data").display().to_string());
        let ready_file = self.ready_file.display().to_string();
        let mut arguments = vec!["dev", "--port", "0", "--gateways", "1", "--match-hosts", "1", "--matchmakers", "1"];
        arguments.extend(["--games", &games, "--data-dir", &data, "--ready-file", &ready_file]);
        arguments.extend(more);
        // One that was killed has left its file.
        let _none = fs::remove_file(&self.ready_file);
        let mut running = Running::start(&arguments, self.dir.path())?;
        until("the ready file", async || {
            running.lives()?;
            Ok(self.ready().is_some())
        })
        .await
        .with_context(|| running.said())?;
        let ready = self.ready().context("ready")?;
        Ok((running, ready))
    }

    fn ready(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(&self.ready_file).ok()?).ok()
    }
}

async fn database(ready: &Value) -> anyhow::Result<PgConnection> {
    Ok(PgConnection::connect(ready["database_url"].as_str().context("database_url")?).await?)
}

/// Whether the mark that an earlier cluster left is there.
async fn marked(ready: &Value) -> anyhow::Result<bool> {
    let mut database = database(ready).await?;
    Ok(sqlx::query_scalar("SELECT to_regclass('the_mark') IS NOT NULL").fetch_one(&mut database).await?)
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn pids(ready: &Value) -> Vec<i32> {
    let entries = ROLES.iter().flat_map(|role| ready[role].as_array().into_iter().flatten());
    entries.filter_map(|entry| i32::try_from(entry["pid"].as_i64()?).ok()).collect()
}

fn the_contract_is_kept(ready: &Value) {
    assert_eq!(keys(ready), ROLES.into_iter().chain(["database_url"]).collect(), "{ready}");
    let entry = BTreeSet::from(["node_id", "http", "ws", "grpc", "metrics", "pid"]);
    for role in ROLES {
        let entries = ready[role].as_array().expect("a list");
        assert_eq!(entries.len(), 1, "{ready}");
        let serves_players = ["gateways", "match_hosts"].contains(&role);
        let mut expected = entry.clone();
        if role == "matchmakers" {
            expected.insert("leading");
            assert_eq!(entries[0]["leading"], true, "{ready}");
        }
        assert_eq!(keys(&entries[0]), expected, "{ready}");
        let (http, ws) = (entries[0]["http"].as_str(), entries[0]["ws"].as_str());
        assert_eq!((http.is_some(), ws.is_some()), (serves_players, serves_players), "{ready}");
        if let (Some(http), Some(ws)) = (http, ws) {
            assert!(http.starts_with("http://") && !http.ends_with('/'), "{http}");
            assert!(ws.starts_with("ws://") && ws.ends_with("/ws"), "{ws}");
        }
        for address in ["grpc", "metrics"] {
            let address = entries[0][address].as_str().expect("every process has one");
            assert!(address.parse::<std::net::SocketAddr>().is_ok(), "{address}");
        }
        assert!(runs(i32::try_from(entries[0]["pid"].as_i64().expect("pid")).expect("pid")));
    }
}

async fn alive(http: &str) -> bool {
    reqwest::get(format!("{http}/ready")).await.is_ok_and(|response| response.status().is_success())
}

#[tokio::test]
async fn a_cluster_with_its_own_database_starts_recovers_ends_and_begins_anew() -> anyhow::Result<()> {
    let yard = Yard::new()?;
    let (mut first, ready) = yard.start(&[]).await?;
    the_contract_is_kept(&ready);
    database(&ready).await?.execute("CREATE TABLE the_mark ()").await?;

    // A process that dies is started again, and the file tells where it is.
    let gateway = ready["gateways"][0].clone();
    assert!(alive(gateway["http"].as_str().context("http")?).await);
    kill(Pid::from_raw(i32::try_from(gateway["pid"].as_i64().context("pid")?)?), Signal::SIGKILL)?;
    until("the gateway's successor", async || {
        first.lives()?;
        let Some(ready) = yard.ready() else { return Ok(false) };
        let successor = &ready["gateways"][0];
        Ok(successor["pid"] != gateway["pid"] && alive(successor["http"].as_str().unwrap_or_default()).await)
    })
    .await
    .with_context(|| first.said())?;
    let ready = yard.ready().context("ready")?;
    assert_eq!(ready["gateways"][0]["node_id"], gateway["node_id"]);
    the_contract_is_kept(&ready);

    // SIGTERM ends it all.
    let everything = descendants(first.pid()?);
    assert!(pids(&ready).iter().all(|pid| everything.contains(pid)), "{everything:?}");
    first.stop().await?;
    assert!(everything.iter().all(|pid| !runs(*pid)), "something outlived the supervisor:\n{}", first.said());
    assert!(yard.ready().is_none(), "stale addresses are worse than none");

    // The data are there again.
    let (mut second, ready) = yard.start(&[]).await?;
    assert!(marked(&ready).await?, "the data were kept");

    // Without its supervisor everything ends by itself, the database, too.
    let everything = descendants(second.pid()?);
    second.end(Signal::SIGKILL).await?;
    until("the end of all that a killed supervisor had started", async || Ok(everything.iter().all(|pid| !runs(*pid))))
        .await?;

    let (mut third, ready) = yard.start(&["--fresh"]).await?;
    assert!(!marked(&ready).await?, "--fresh begins with nothing");
    the_contract_is_kept(&ready);
    third.stop().await?;
    Ok(())
}
