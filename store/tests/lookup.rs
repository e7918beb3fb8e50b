//! What operators find, page by page.

use asobi_store::{
    lookup::{
        matches::{self, Wanted},
        players::{self, Search},
    },
    testing::TestDatabase,
};
use sqlx::PgPool;
use uuid::Uuid;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// Players with these names and ids from 1 on; the first has a session on a living node, the second one on a dead node.
async fn cast(pool: &PgPool, names: &[&str]) -> anyhow::Result<()> {
    for (n, name) in (1..).zip(names) {
        sqlx::query("INSERT INTO players (id, username, password_hash) VALUES ($1, $2, 'secret')")
            .bind(id(n))
            .bind(name)
            .execute(pool)
            .await?;
    }
    sqlx::query(
        "INSERT INTO nodes (node_id, incarnation, role, state, version, pid, lease_until) VALUES
         ('here', 1, 'gateway', 'ready', '0', 1, now() + interval '1 hour'),
         ('gone', 2, 'gateway', 'ready', '0', 1, now() - interval '1 hour')",
    )
    .execute(pool)
    .await?;
    sqlx::query("INSERT INTO sessions (session_id, player_id, node_id, incarnation) VALUES ($1, $2, 'here', 1), ($3, $4, 'gone', 2)")
        .bind(id(101))
        .bind(id(1))
        .bind(id(102))
        .bind(id(2))
        .execute(pool)
        .await?;
    Ok(())
}

async fn found(pool: &PgPool, search: &Search) -> anyhow::Result<Vec<String>> {
    Ok(players::search(pool, search, 100).await?.into_iter().map(|player| player.username).collect())
}

fn prefix(prefix: &str) -> Search {
    Search { prefix: prefix.into(), ..Search::default() }
}

#[tokio::test]
async fn players_are_found_by_how_their_names_begin_and_nothing_is_a_wildcard() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    cast(&db.pool, &["Ada", "adam", "a_da", "bo%b", "Zoë", "zoe"]).await?;
    assert_eq!(found(&db.pool, &prefix("AD")).await?, ["Ada", "adam"]);
    assert_eq!(found(&db.pool, &prefix("a_")).await?, ["a_da"]);
    assert_eq!(found(&db.pool, &prefix("%")).await?, Vec::<String>::new());
    assert_eq!(found(&db.pool, &prefix("zoë")).await?, ["Zoë"]);
    assert_eq!(found(&db.pool, &prefix("")).await?, ["a_da", "Ada", "adam", "bo%b", "zoe", "Zoë"]);
    // Only a session of a node that lives makes somebody be there.
    let online = |online| Search { online: Some(online), ..prefix("a") };
    assert_eq!(found(&db.pool, &online(true)).await?, ["Ada"]);
    assert_eq!(found(&db.pool, &online(false)).await?, ["a_da", "adam"]);
    let by_id = Search { player_id: Some(id(2)), ..Search::default() };
    assert_eq!(found(&db.pool, &by_id).await?, ["adam"]);
    assert!(found(&db.pool, &Search { online: Some(true), ..by_id }).await?.is_empty());
    let mut pages: Vec<Vec<String>> = Vec::new();
    let mut search = Search::default();
    loop {
        let page = players::search(&db.pool, &search, 4).await?;
        let Some(last) = page.last() else { break };
        search.after = last.key.clone();
        pages.push(page.into_iter().map(|player| player.username).collect());
    }
    assert_eq!(pages, [vec!["a_da", "Ada", "adam", "bo%b"], vec!["zoe", "Zoë"]]);
    db.drop_now().await
}

#[tokio::test]
async fn a_player_is_found_with_what_goes_on_around_them() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    cast(&db.pool, &["ada", "bo"]).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "INSERT INTO bans (player_id, reason, until) VALUES ('{ada}', 'spam', now() + interval '1 hour'), ('{bo}', 'x', now() - interval '1 hour');
         INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
             VALUES ('{m}', 'duel', 'running', 'h', 1, 3, 1, ARRAY['{bo}', '{ada}']::uuid[]);
         INSERT INTO match_players (player_id, match_id) VALUES ('{ada}', '{m}');
         INSERT INTO tickets (id, player_id, mode, state, expires_at) VALUES
             ('{t}', '{ada}', 'duel', 'pending', now() + interval '1 hour'), ('{u}', '{ada}', 'duel', 'expired', now());
         INSERT INTO friendships (id, player_id, friend_id, status) VALUES ('{t}', '{bo}', '{ada}', 'accepted');
         INSERT INTO notifications (id, player_id, type, subject, read, expires_at) VALUES ('{t}', '{ada}', 'n', 's', false, NULL),
             ('{u}', '{ada}', 'n', 's', true, NULL), ('{m}', '{ada}', 'n', 's', false, now() - interval '1 hour')",
        ada = id(1), bo = id(2), m = id(9), t = id(20), u = id(21),
    )))
    .execute(&db.pool)
    .await?;
    let ada = players::detail(&db.pool, id(1)).await?.expect("there");
    assert!(ada.player.online && ada.player.banned && !ada.player.guest);
    assert_eq!(ada.ban.map(|ban| ban.reason).as_deref(), Some("spam"));
    assert_eq!(ada.seat.map(|seat| (seat.match_id, seat.place)), Some((id(9), Some(2))));
    assert_eq!(ada.tickets.iter().map(|ticket| ticket.id).collect::<Vec<_>>(), [id(20)]);
    assert_eq!((ada.friends, ada.groups, ada.unread, ada.sessions.len()), (1, 0, 1, 1));
    let bo = players::detail(&db.pool, id(2)).await?.expect("there");
    assert!(bo.ban.is_none() && !bo.player.banned && bo.sessions.is_empty() && bo.seat.is_none());
    assert!(players::detail(&db.pool, id(3)).await?.is_none());
    let everybody = players::sessions(&db.pool, None, None, None, 10).await?;
    assert_eq!(everybody.iter().map(|session| session.session_id).collect::<Vec<_>>(), [id(101)], "of nodes that live");
    assert!(players::sessions(&db.pool, None, Some("gone"), None, 10).await?.is_empty());
    assert!(players::sessions(&db.pool, None, None, Some(id(101)), 10).await?.is_empty());
    db.drop_now().await
}

#[tokio::test]
async fn matches_are_found_newest_first_by_state_mode_host_and_player() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    for (n, (mode, state, host)) in (1_u128..).zip([
        ("duel", "running", "a"),
        ("duel", "finished", "a"),
        ("arena", "running", "b"),
        ("duel", "allocating", "b"),
    ]) {
        sqlx::query(
            "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players, result)
             VALUES ($1, $2, $3, $4, 1, 1, 1, $5, '{\"winner\": 1}')",
        )
        .bind(id(n))
        .bind(mode)
        .bind(state)
        .bind(host)
        .bind(vec![id(50 + n), id(60)])
        .execute(&db.pool)
        .await?;
    }
    sqlx::query("INSERT INTO match_players (player_id, match_id) VALUES ($1, $2)")
        .bind(id(70))
        .bind(id(3))
        .execute(&db.pool)
        .await?;
    sqlx::query(
        "INSERT INTO match_checkpoints (match_id, epoch, number, body) VALUES ($1, 1, 4, 'abc'), ($2, 1, 0, '')",
    )
    .bind(id(1))
    .bind(id(3))
    .execute(&db.pool)
    .await?;
    let all = || Wanted {
        states: ["allocating", "running", "finished", "failed"].map(str::to_owned).to_vec(),
        ..Wanted::default()
    };
    let found = async |wanted: Wanted| -> anyhow::Result<Vec<u128>> {
        Ok(matches::list(&db.pool, &wanted, 10).await?.into_iter().map(|line| line.id.as_u128()).collect())
    };
    assert_eq!(found(all()).await?, [4, 3, 2, 1]);
    assert_eq!(found(Wanted { before: Some(id(3)), ..all() }).await?, [2, 1]);
    assert_eq!(found(Wanted { states: vec!["running".into()], ..all() }).await?, [3, 1]);
    assert_eq!(found(Wanted { mode: Some("duel".into()), host: Some("a".into()), ..all() }).await?, [2, 1]);
    assert_eq!(found(Wanted { player: Some(id(52)), ..all() }).await?, [2], "who was there");
    assert_eq!(found(Wanted { player: Some(id(70)), ..all() }).await?, [3], "who came later");
    let players: Vec<i64> = matches::list(&db.pool, &all(), 10).await?.into_iter().map(|line| line.players).collect();
    assert_eq!(players, [0, 1, 2, 0], "seats while it runs, then who was there");

    let first = matches::detail(&db.pool, id(1)).await?.expect("there");
    assert_eq!(first.checkpoint.map(|checkpoint| (checkpoint.number, checkpoint.bytes)), Some((4, 3)));
    assert!(matches::detail(&db.pool, id(3)).await?.expect("there").checkpoint.is_none(), "an empty one is none");
    assert_eq!(matches::detail(&db.pool, id(2)).await?.expect("there").result, Some(serde_json::json!({"winner": 1})));
    assert!(matches::detail(&db.pool, id(9)).await?.is_none());
    db.drop_now().await
}
