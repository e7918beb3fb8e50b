//! The database as `deploy/postgresql` sets it up: roles with least rights, a pooler by sessions, and what the doctor says of it all.

mod bouncer;

use std::process::Output;

use anyhow::{Context as _, ensure};
use asobi_store::testing::TestDatabase;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::process::Command;

use crate::support::{Client, Cluster, PATIENCE, until};
use bouncer::Bouncer;

const LOBBY: &str = "global:lobby";

/// A URL for another role.
fn as_role(url: &str, role: &str) -> anyhow::Result<String> {
    let mut url = reqwest::Url::parse(url)?;
    url.set_username(role).ok().context("a URL with a user")?;
    Ok(url.into())
}

async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    Ok(tokio::time::timeout(PATIENCE, command.output()).await.with_context(|| format!("{program} does not end"))??)
}

async fn asobi(arguments: &[&str]) -> anyhow::Result<String> {
    let output = run(env!("CARGO_BIN_EXE_asobi"), arguments).await?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs roles.sql, as an operator does.
async fn roles(url: &str) -> anyhow::Result<()> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/postgresql/roles.sql");
    let output = run("psql", &["-X", "-q", "-d", url, "-f", file]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A schema that the migrator made and owns, with a day of chat that is kept no longer.
async fn with_roles() -> anyhow::Result<TestDatabase> {
    let database = TestDatabase::create().await?;
    database.pool.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await?;
    roles(&database.url).await?;
    asobi(&["migrate", "--database-url", &as_role(&database.url, "asobi_migrator")?]).await?;
    roles(&database.url).await?;
    database.pool.execute("SELECT chat_partition((now() AT TIME ZONE 'UTC')::date - 40)").await?;
    Ok(database)
}

/// What the doctor found: the exit code, and verdict and sentence of each check.
async fn doctor(url: &str, sets: &[&str]) -> anyhow::Result<(Option<i32>, Vec<(String, String, String)>)> {
    let mut arguments = vec!["doctor", "--json", "--database-url", url];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
    let output = run(env!("CARGO_BIN_EXE_asobi"), &arguments).await?;
    let said: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no JSON; {}", String::from_utf8_lossy(&output.stderr)))?;
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = said.as_array().context("findings")?.iter();
    let findings = findings.map(|f| (text(f, "check"), text(f, "verdict"), text(f, "says"))).collect();
    Ok((output.status.code(), findings))
}

async fn players_play(cluster: &Cluster, service: &str) -> anyhow::Result<Client> {
    let (mut ada, mut bo) = (cluster.player(0, "ada").await?, cluster.player(1, "bo").await?);
    for player in [&mut ada, &mut bo] {
        player.call("chat.join", json!({"channel_id": LOBBY})).await?;
    }
    bo.call("chat.send", json!({"channel_id": LOBBY, "content": "hello"})).await?;
    assert_eq!(ada.push("chat.message").await?["content"], "hello");
    for player in [&mut ada, &mut bo] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    for player in [&mut ada, &mut bo] {
        player.push("match.matched").await?;
    }
    bo.send("match.input", json!({"n": 7})).await?;
    bo.send("match.input", json!({"finish": true})).await?;
    ada.push("match.finished").await?;
    ada.account.get_until("/leaderboards/duel", |board| board["entries"][0]["rank"] == 1).await?;
    let ctl = ["ctl", "--database-url", service];
    let send = ["notify", "send", "--to", ada.id(), "--type", "news", "--subject", "Hi", "--watch"];
    asobi(&[&ctl[..], &send].concat()).await?;
    ada.account.get_until("/notifications", |all| all["notifications"][0]["subject"] == "Hi").await?;
    asobi(&[&ctl[..], &["player", "erase", bo.id(), "--yes"]].concat()).await?;
    assert_eq!(ada.account.get(&format!("/players/{}", bo.id())).await?.0, 404);
    Ok(ada)
}

/// For want of rights, and for nothing else.
async fn is_refused(session: &mut PgConnection, statement: &'static str) -> anyhow::Result<()> {
    let refused = session.execute(statement).await;
    let error = refused.err().with_context(|| format!("not refused: {statement}"))?;
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
    assert_eq!(code, "42501", "{statement}: {error}");
    Ok(())
}

/// Whoever only reads sees no secret and writes nothing.
async fn only_reads(url: &str) -> anyhow::Result<()> {
    let mut session = PgConnection::connect(&as_role(url, "asobi_readonly")?).await?;
    for seen in ["SELECT id, username FROM players", "SELECT * FROM matches", "SELECT id, name FROM operator_tokens"] {
        session.execute(seen).await.with_context(|| seen)?;
    }
    session.execute("SET default_transaction_read_only = off").await?;
    for refused in [
        "SELECT * FROM players",
        "SELECT password_hash FROM players",
        "SELECT secret_hash FROM guest_devices",
        "SELECT token_hash FROM refresh_tokens",
        "SELECT secret FROM signing_keys",
        "SELECT value FROM cluster_keys",
        "SELECT value FROM cluster_secrets",
        "SELECT token_hash FROM operator_tokens",
        "SELECT response FROM operator_requests",
        "DELETE FROM players",
        "INSERT INTO chat_words (word, refuses, whole, added_by) VALUES ('a', true, true, 'me')",
        "SELECT chat_drop_day('2020-01-01')",
        "CREATE TABLE mine ()",
    ] {
        is_refused(&mut session, refused).await?;
    }
    // Whatever is called a secret, in whichever table to come, is among those that were thought of.
    let suspicious: Vec<String> = sqlx::query_scalar(
        "SELECT table_name || '.' || column_name FROM information_schema.columns
         WHERE table_schema = 'public' AND column_name ~ '(hash|secret|password|token|pepper|private)'
           AND has_column_privilege('asobi_readonly', quote_ident(table_name), column_name, 'SELECT')",
    )
    .fetch_all(&mut session)
    .await?;
    assert!(suspicious.is_empty(), "asobi_readonly can read {suspicious:?}: add them to roles.sql");
    Ok(())
}

/// A process owns nothing, and appends to the audit only.
async fn owns_nothing(url: &str) -> anyhow::Result<()> {
    let mut session = PgConnection::connect(&as_role(url, "asobi_service")?).await?;
    for refused in [
        "DROP TABLE tickets",
        "ALTER TABLE players ADD COLUMN mine int",
        "CREATE TABLE mine ()",
        "TRUNCATE players",
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
        "DELETE FROM _sqlx_migrations",
        "UPDATE cluster_secrets SET value = ''",
        "UPDATE schema_support SET oldest = 0",
    ] {
        is_refused(&mut session, refused).await?;
    }
    let today = session.execute("SELECT chat_drop_day((now() AT TIME ZONE 'UTC')::date)").await;
    assert!(today.is_err_and(|error| error.to_string().contains("is not over")));
    Ok(())
}

/// A cluster whose way to the database is `pooled`, and `direct` past it.
async fn much_breaks_and_each_is_named(cluster: &Cluster, pooled: &str, direct: &str) -> anyhow::Result<()> {
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&cluster.database.pool).await?;
    let broken = format!(
        "ALTER ROLE asobi_service IN DATABASE {name} SET synchronous_commit = off; REVOKE UPDATE ON tickets FROM asobi_service;
         ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"
    );
    cluster.database.pool.execute(sqlx::AssertSqlSafe(broken)).await?;
    let gateway = cluster.gateway(1);
    cluster.kill(&gateway).await?;
    let (code, found) = doctor(pooled, &[&format!("database.direct_url={direct}")]).await?;
    assert_eq!(code, Some(1));
    for (check, part) in [
        ("rights", "UPDATE on tickets"),
        ("commit", "synchronous_commit is off"),
        ("settings", "default_transaction_isolation is serializable"),
        ("addresses", "gateway-1 announces"),
    ] {
        assert!(
            found.iter().any(|(name, verdict, says)| name == check && verdict == "fail" && says.contains(part)),
            "{check}: {part}: {found:#?}"
        );
    }
    let by_transactions = Bouncer::start(direct, "transaction").await?;
    let (code, found) = doctor(pooled, &[&format!("database.direct_url={}", by_transactions.url(direct)?)]).await?;
    let says = found.iter().find(|(name, verdict, _)| name == "direct" && verdict == "fail").map(|(.., says)| says);
    assert!(code == Some(1) && says.is_some_and(|says| says.contains("pooler by transactions")), "{found:#?}");
    let restored = format!(
        "ALTER ROLE asobi_service IN DATABASE {name} RESET synchronous_commit; GRANT UPDATE ON tickets TO asobi_service;
         ALTER DATABASE {name} RESET default_transaction_isolation"
    );
    cluster.database.pool.execute(sqlx::AssertSqlSafe(restored)).await?;
    Ok(())
}

#[tokio::test]
async fn a_cluster_of_least_rights_behind_a_pooler_plays_and_the_doctor_sees_what_breaks() -> anyhow::Result<()> {
    let database = with_roles().await?;
    let direct = as_role(&database.url, "asobi_service")?;
    let pooler = Bouncer::start(&database.url, "session").await?;
    let pooled = pooler.url(&direct)?;
    let past_it = format!("database.direct_url={direct}");
    let url = database.url.clone();
    let cluster = Cluster::new().test_games().on(database, pooled.clone());
    let cluster = cluster.set("database.direct_url", &direct).set("database.max_connections", 4).start().await?;
    let mut ada = players_play(&cluster, &direct).await?;
    let old = "SELECT count(*) FROM pg_class WHERE relname = 'chat_messages_' || to_char(now() AT TIME ZONE 'UTC' - interval '40 days', 'YYYYMMDD')";
    until("the day that is kept no longer is gone", async || {
        Ok(sqlx::query_scalar::<_, i64>(old).fetch_one(&cluster.database.pool).await? == 0)
    })
    .await?;
    only_reads(&url).await?;
    owns_nothing(&url).await?;

    let small = "database.max_connections=4";
    let (code, found) = doctor(&pooled, &[&past_it, small]).await?;
    let failed: Vec<_> = found.iter().filter(|(_, verdict, _)| verdict == "fail").collect();
    // A server for tests may do without.
    let spared =
        failed.iter().all(|(.., says)| says.starts_with("fsync is off") || says.starts_with("full_page_writes is off"));
    assert!(spared && code == Some(i32::from(!failed.is_empty())), "{failed:#?}");
    for check in ["direct", "rights", "schema", "nodes", "addresses", "urls", "partitions", "role", "pooled", "notify"]
    {
        let verdict = found.iter().find(|(name, ..)| name == check).map(|(_, verdict, _)| verdict.as_str());
        assert_eq!(verdict, Some("ok"), "{check}: {found:#?}");
    }

    much_breaks_and_each_is_named(&cluster, &pooled, &direct).await?;

    // The doctor has changed nothing: whoever plays goes on.
    ada.call("chat.send", json!({"channel_id": LOBBY, "content": "still here"})).await?;
    cluster.stop().await
}
