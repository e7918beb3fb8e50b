//! What ends log-ins: bans, erasure, and revocations that a node could not hear of.

use std::{sync::Arc, time::Duration};

use asobi_session::auth::{AuthError, IssueError, Verifier};
use asobi_store::{
    bans::{self, Ban},
    testing::TestDatabase,
    tokens::Revocation,
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    client::Client,
    cluster::{Cluster, PATIENCE, Place},
    valve::Valve,
};

const SECRET: &str = "9nm7kLllYdsLmhCyxZk/m8JPbsuCDG2uq6nAutxj6lg=";
const ACCESS_TTL_S: f64 = 900.0;

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not come to be"));
}

/// As an operator does, in a transaction.
async fn ban(pool: &PgPool, player: Uuid, ban: &Ban) -> anyhow::Result<Option<Revocation>> {
    let mut tx = asobi_store::begin(pool).await?;
    let revocation = bans::ban(&mut tx, player, ban, ACCESS_TTL_S).await?;
    tx.commit().await?;
    Ok(revocation)
}

fn for_ever() -> Ban {
    Ban { reason: "cheating".into(), until: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_refuses_every_way_in_until_it_ends() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[("auth.guest", "true")]).await?;
    let (pool, issuer) = (&cluster.db.pool, &cluster.nodes[0].issuer);
    let ada = cluster.player("ada").await?;
    let guest = issuer.guest("device-1", SECRET).await?.account;
    for player in [ada.player_id, guest.player_id] {
        let revocation = ban(pool, player, &for_ever()).await?.expect("the player is there");
        assert_eq!((revocation.reason.as_str(), revocation.subject), ("banned", player));
    }
    let banned = |result: Result<(), IssueError>| matches!(result, Err(IssueError::Banned(ban)) if ban == for_ever());
    assert!(banned(issuer.login("ada", "secret123").await.map(drop)));
    assert!(matches!(issuer.login("ada", "wrong password").await, Err(IssueError::Credentials)), "told to nobody else");
    assert!(banned(issuer.refresh(&ada.tokens.refresh_token).await.map(drop)));
    assert!(banned(issuer.guest("device-1", SECRET).await.map(drop)));

    // Another ban takes its place, one that is over keeps nobody out, and dead tokens stay dead.
    let over = Ban { until: Some(OffsetDateTime::now_utc() - Duration::from_secs(1)), ..for_ever() };
    ban(pool, ada.player_id, &over).await?;
    assert!(issuer.login("ada", "secret123").await.is_ok());
    assert!(matches!(issuer.refresh(&ada.tokens.refresh_token).await, Err(IssueError::RefreshToken)));
    let mut conn = pool.acquire().await?;
    assert!(bans::unban(&mut conn, guest.player_id).await? && bans::unban(&mut conn, guest.player_id).await?);
    assert!(issuer.guest("device-1", SECRET).await.is_ok());
    let nobody = Uuid::now_v7();
    assert!(ban(pool, nobody, &for_ever()).await?.is_none() && !bans::unban(&mut conn, nobody).await?);
    drop(conn);
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_and_simultaneous_logins_leave_no_token_alive() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[("auth.guest", "true")]).await?;
    let issuer = &cluster.nodes[0].issuer;
    let player = issuer.guest("device-1", SECRET).await?.account.player_id;
    // Guests' log-ins hash nothing: many of them surround the ban.
    let logins: Vec<_> = (0..40)
        .map(|_| {
            let issuer = Arc::clone(issuer);
            tokio::spawn(async move { issuer.guest("device-1", SECRET).await })
        })
        .collect();
    ban(&cluster.db.pool, player, &for_ever()).await?;
    for login in logins {
        let Ok(guest) = login.await? else { continue };
        let refreshed = issuer.refresh(&guest.account.tokens.refresh_token).await;
        assert!(
            matches!(refreshed, Err(IssueError::Banned(_))),
            "a log-in from before the ban lives on: {refreshed:?}"
        );
    }
    cluster.end().await
}

/// Every row of every table that names the player in a column of its own, but for what has to outlive them.
async fn traces(pool: &PgPool, player: Uuid) -> anyhow::Result<Vec<String>> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT c.table_name::text, c.column_name::text FROM information_schema.columns c
         JOIN pg_class r ON r.relname = c.table_name AND r.relkind IN ('r', 'p')
         WHERE c.table_schema = 'public' AND c.data_type = 'uuid' AND c.table_name <> 'revocations'",
    )
    .fetch_all(pool)
    .await?;
    assert!(columns.len() > 20, "{columns:?}");
    let mut found = Vec::new();
    for (table, column) in columns {
        let counted = format!("SELECT count(*) FROM \"{table}\" WHERE \"{column}\" = $1");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(counted)).bind(player).fetch_one(pool).await?;
        if rows > 0 {
            found.push(format!("{table}.{column}: {rows}"));
        }
    }
    Ok(found)
}

async fn live_everywhere(cluster: &Cluster, client: &mut Client, ada: Uuid, bo: Uuid) -> anyhow::Result<()> {
    client.ask("chat.send", json!({"channel_id": "global:lobby", "content": "hello"})).await?;
    client.ask("dm.send", json!({"recipient_id": bo, "content": "hello"})).await?;
    client.ask("party.create", json!({})).await?;
    let rows = format!(
        "INSERT INTO friendships (id, player_id, friend_id, status) VALUES (gen_random_uuid(), '{ada}', '{bo}', 'accepted');
         INSERT INTO groups (id, name, max_members, open, creator_id) VALUES ('{GROUP}', 'crew', 9, true, '{ada}');
         INSERT INTO group_members (group_id, player_id, id, role) VALUES ('{GROUP}', '{ada}', gen_random_uuid(), 'owner'), ('{GROUP}', '{bo}', gen_random_uuid(), 'member');
         INSERT INTO notifications (id, player_id, type, subject) VALUES (gen_random_uuid(), '{ada}', 'x', 'y');
         INSERT INTO tickets (id, player_id, mode, state, expires_at) VALUES (gen_random_uuid(), '{ada}', 'duel', 'pending', now() + interval '1 hour');
         INSERT INTO leaderboards (id) VALUES ('weekly');
         INSERT INTO leaderboard_entries (leaderboard_id, player_id, score, seq) VALUES ('weekly', '{ada}', 5, 1);
         INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players) VALUES ('{MATCH}', 'duel', 'running', 'gone', 1, 1, 1, '{{{ada}}}');
         INSERT INTO match_players (player_id, match_id) VALUES ('{ada}', '{MATCH}');
         INSERT INTO mutes (player_id, muted_by, version) VALUES ('{ada}', 'node', 1);
         INSERT INTO reports (id, reporter_id, player_id, kind, note) VALUES
             (gen_random_uuid(), '{ada}', '{bo}', 'spam', 'said by her'), (gen_random_uuid(), '{bo}', '{ada}', 'spam', '');
         INSERT INTO bans (player_id, until) VALUES ('{ada}', now() - interval '1 hour');"
    );
    cluster.db.pool.execute(AssertSqlSafe(rows)).await?;
    Ok(())
}

const GROUP: Uuid = Uuid::from_u128(7);
const MATCH: Uuid = Uuid::from_u128(8);

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_player_leaves_no_row_and_no_group_without_an_owner() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let (ada, bo) = (cluster.player("ada").await?, cluster.player("bob").await?);
    let mut client = Client::open(&cluster.nodes[1].ws).await?;
    client.connect(&ada.tokens.access_token, &[]).await?;
    live_everywhere(&cluster, &mut client, ada.player_id, bo.player_id).await?;
    let before = traces(&cluster.db.pool, ada.player_id).await?;
    assert!(before.len() > 12, "{before:?}");

    let claims = cluster.nodes[0].verifier.verify(&ada.tokens.access_token).await?;
    cluster.nodes[0].issuer.erase(&claims, Some("secret123")).await?;
    client.expect("session.revoked").await?;
    assert_eq!(client.closed().await?, (1008, "session_revoked".into()));
    // The session's row goes with its grace.
    until("a database without her", async || traces(&cluster.db.pool, ada.player_id).await.is_ok_and(|t| t.is_empty()))
        .await;
    let owner: Uuid = sqlx::query_scalar("SELECT player_id FROM group_members WHERE group_id = $1 AND role = 'owner'")
        .bind(GROUP)
        .fetch_one(&cluster.db.pool)
        .await?;
    assert_eq!(owner, bo.player_id);
    for node in &cluster.nodes {
        let verifier = &node.verifier;
        until("a dead token", async || verifier.verify(&ada.tokens.access_token).await.is_err()).await;
    }
    cluster.end().await
}

async fn doubts(db: &TestDatabase) -> anyhow::Result<(Valve, Valve, Place)> {
    let (pooled, direct) = (Valve::to(&db.url).await?, Valve::to(&db.url).await?);
    let (url, direct_url) = (pooled.url(db), direct.url(db));
    let sets = [
        ("database.url", url.as_str()),
        ("database.direct_url", direct_url.as_str()),
        ("database.timeout_ms", "1000"),
        ("node.lease_ms", "60000"),
    ];
    let place = Place::start(db, "gw-9", &sets).await?;
    Ok((pooled, direct, place))
}

async fn refused(verifier: &Verifier, token: &str) -> &'static str {
    match verifier.verify(token).await {
        Ok(_) => "accepted",
        Err(AuthError::Invalid) => "invalid",
        Err(AuthError::Revoked) => "revoked",
        Err(AuthError::Unavailable(_)) => "unavailable",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_hear_of_revocations_reads_them_and_who_cannot_read_refuses() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let (pooled, direct, deaf) = doubts(&cluster.db).await?;
    let (ada, bo) = (cluster.player("ada").await?, cluster.player("bob").await?);
    let (ada_token, bo_token) = (&ada.tokens.access_token, &bo.tokens.access_token);
    let mut client = Client::open(&deaf.ws).await?;
    client.connect(ada_token, &[]).await?;
    let mut stays = Client::open(&deaf.ws).await?;
    stays.connect(bo_token, &[]).await?;

    // The listener falls silent: what is revoked elsewhere is found by reading, for requests and for sockets.
    direct.close();
    until("doubt", async || deaf.node.bus.unconfirmed_for() > Duration::from_secs(1)).await;
    cluster.nodes[0].issuer.logout(None, Some(&ada.tokens.refresh_token), false).await?;
    until("a refusal", async || refused(&deaf.verifier, ada_token).await == "revoked").await;
    client.expect("session.revoked").await?;
    assert_eq!(client.closed().await?, (1008, "session_revoked".into()));
    assert_eq!(refused(&deaf.verifier, bo_token).await, "accepted");

    // Nor can it read: nobody comes in, whoever is in stays.
    pooled.close();
    until("a refusal for want of an answer", async || refused(&deaf.verifier, bo_token).await == "unavailable").await;
    assert_eq!(stays.ask("session.heartbeat", json!({})).await?["type"], "session.heartbeat");
    let mut late = Client::open(&deaf.ws).await?;
    let answer = late.ask("session.connect", json!({"token": bo_token})).await?;
    assert_eq!(answer["payload"]["error"]["code"], "not_ready", "{answer}");

    // Revoked while nothing reached the node: the token is dead from the first answer on.
    cluster.nodes[0].issuer.logout(None, Some(&bo.tokens.refresh_token), false).await?;
    pooled.open();
    direct.open();
    until("an answer", async || {
        let answer = refused(&deaf.verifier, bo_token).await;
        assert_ne!(answer, "accepted");
        answer == "revoked"
    })
    .await;
    assert_eq!(stays.closed().await?, (1008, "session_revoked".into()));
    deaf.end().await;
    cluster.end().await
}
