//! The leader's transactions against rows that changed under it.

use asobi_proto::mode::ModeSettings;
use asobi_store::{
    allocation::{self, Claimed, Forming, Open, Rescue},
    testing::TestDatabase,
    tickets::{self, TicketError, TicketState},
};
use serde_json::json;
use uuid::Uuid;

async fn ticket(db: &TestDatabase, player: Uuid, mode: &str) -> Uuid {
    let settings = ModeSettings::default();
    let created = tickets::create(&db.pool, player, mode, &json!({}), &settings, 1_000).await.expect("there is room");
    created.ticket.id
}

fn forming(tickets: &[(Uuid, Uuid)]) -> Forming {
    Forming {
        match_id: Uuid::now_v7(),
        mode: "duel".into(),
        host_node: "host".into(),
        host_incarnation: 1,
        tickets: tickets.to_vec(),
        teams: None,
        regions: Vec::new(),
        traceparent: None,
    }
}

async fn claim(db: &TestDatabase, groups: &[Forming]) -> anyhow::Result<Claimed> {
    let mut tx = db.pool.begin().await?;
    let claimed = allocation::claim(&mut tx, groups, 7).await?;
    tx.commit().await?;
    Ok(claimed)
}

async fn state(db: &TestDatabase, ticket: Uuid) -> anyhow::Result<TicketState> {
    Ok(tickets::get(&db.pool, ticket).await?.expect("it is there").state)
}

async fn count(db: &TestDatabase, sql: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(sql).fetch_one(&db.pool).await?)
}

#[tokio::test]
async fn a_group_is_claimed_whole_or_not_at_all() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let players: Vec<Uuid> = (0..6).map(|_| Uuid::now_v7()).collect();
    let mut waiting = Vec::new();
    for player in &players {
        waiting.push((ticket(&db, *player, "duel").await, *player));
    }
    let elsewhere = ticket(&db, players[0], "chess").await;
    tickets::cancel(&db.pool, waiting[3].0, players[3]).await?;
    let groups = [forming(&waiting[..2]), forming(&waiting[2..4]), forming(&waiting[4..])];
    let claimed = claim(&db, &groups).await?;

    assert_eq!(claimed.formed, [groups[0].match_id, groups[2].match_id].into());
    assert_eq!(claimed.free, [waiting[2].0].into(), "the cancelled one is not put back");
    assert_eq!(claimed.withdrawn, [elsewhere]);
    assert_eq!(state(&db, waiting[0].0).await?, TicketState::Matched);
    assert_eq!(state(&db, waiting[2].0).await?, TicketState::Pending);
    assert_eq!(state(&db, waiting[3].0).await?, TicketState::Cancelled);
    assert_eq!(count(&db, "SELECT count(*) FROM match_players").await?, 4);
    assert_eq!(
        count(&db, "SELECT count(*) FROM matches WHERE state = 'allocating' AND epoch = 1 AND term = 7").await?,
        2
    );

    // Who has a seat by now keeps no ticket, and the other one does.
    let late = Uuid::now_v7();
    sqlx::query("UPDATE tickets SET state = 'pending', match_id = NULL, ended_at = NULL WHERE id = $1")
        .bind(waiting[0].0)
        .execute(&db.pool)
        .await?;
    let pair = [waiting[0], (ticket(&db, late, "duel").await, late)];
    let claimed = claim(&db, &[forming(&pair)]).await?;
    assert!(claimed.formed.is_empty());
    assert_eq!((claimed.free, claimed.withdrawn), ([pair[1].0].into(), vec![pair[0].0]));
    db.drop_now().await
}

#[tokio::test]
async fn simultaneous_claims_never_seat_a_player_twice() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    for _ in 0..10 {
        let (a, b, c) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let (ta, tb, tc) = (ticket(&db, a, "duel").await, ticket(&db, b, "duel").await, ticket(&db, c, "duel").await);
        let (one, two) = ([forming(&[(ta, a), (tb, b)])], [forming(&[(tb, b), (tc, c)])]);
        let (first, second) = tokio::join!(claim(&db, &one), claim(&db, &two));
        assert_eq!(first?.formed.len() + second?.formed.len(), 1);
    }
    assert_eq!(count(&db, "SELECT count(*) FROM match_players").await?, 20);
    db.drop_now().await
}

#[tokio::test]
async fn what_is_given_up_waits_again_where_it_may() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
    let (ta, tb) = (ticket(&db, a, "duel").await, ticket(&db, b, "duel").await);
    let before = tickets::get(&db.pool, ta).await?.expect("there").submitted_at;
    let group = forming(&[(ta, a), (tb, b)]);
    claim(&db, std::slice::from_ref(&group)).await?;
    sqlx::query("UPDATE tickets SET expires_at = now() WHERE id = $1").bind(tb).execute(&db.pool).await?;

    let mut tx = db.pool.begin().await?;
    let wrong_epoch = allocation::give_up(&mut tx, &[(group.match_id, 2)], true, false).await?;
    assert!(wrong_epoch.matches.is_empty() && wrong_epoch.requeued.is_empty());
    let given_up = allocation::give_up(&mut tx, &[(group.match_id, 1)], true, false).await?;
    tx.commit().await?;
    assert_eq!((given_up.requeued, given_up.failed), (vec![ta], vec![b]));
    let again = tickets::get(&db.pool, ta).await?.expect("there");
    assert_eq!((again.state, again.submitted_at, again.match_id), (TicketState::Pending, before, None));
    assert_eq!(state(&db, tb).await?, TicketState::Failed);
    assert_eq!(count(&db, "SELECT count(*) FROM match_players").await?, 0);
    db.drop_now().await
}

#[tokio::test]
async fn a_match_moves_only_from_where_it_is_believed_to_be() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
    let group = forming(&[(ticket(&db, a, "duel").await, a), (ticket(&db, b, "duel").await, b)]);
    claim(&db, std::slice::from_ref(&group)).await?;
    let was: Open = allocation::open(&db.pool, group.match_id).await?.expect("there");
    let mut conn = db.pool.acquire().await?;
    assert!(allocation::reassign(&mut conn, &was, "other", 2, 8).await?);
    assert!(!allocation::reassign(&mut conn, &was, "third", 3, 8).await?, "the epoch has changed");
    let now = allocation::open(&db.pool, group.match_id).await?.expect("there");
    assert_eq!((now.host_node.as_str(), now.epoch, now.attempts), ("other", 2, 2));
    sqlx::query("UPDATE matches SET state = 'running'").execute(&db.pool).await?;
    assert!(!allocation::reassign(&mut conn, &now, "third", 3, 8).await?, "it was claimed");

    assert_eq!(allocation::tell(&mut conn, &[group.match_id]).await?.len(), 1);
    assert!(allocation::tell(&mut conn, &[group.match_id]).await?.is_empty(), "told once");
    drop(conn);
    db.drop_now().await
}

#[tokio::test]
async fn one_ticket_per_player_and_mode_and_no_more_than_the_bound() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let settings = ModeSettings::default();
    let player = Uuid::now_v7();
    let add = |player: Uuid, max: i64| {
        let (db, settings) = (&db, &settings);
        async move { tickets::create(&db.pool, player, "duel", &json!({"skill": 3}), settings, max).await }
    };
    // Simultaneous wishes are one ticket.
    let (one, two) = tokio::join!(add(player, 10), add(player, 10));
    let (one, two) = (one?, two?);
    assert_eq!(one.ticket.id, two.ticket.id);
    assert_ne!(one.already_queued, two.already_queued);
    assert_eq!(one.ticket.properties, json!({"skill": 3}));

    add(Uuid::now_v7(), 2).await?;
    assert!(matches!(add(Uuid::now_v7(), 2).await, Err(TicketError::QueueFull)));
    assert!(add(player, 2).await?.already_queued, "who waits is not refused");

    // A long queue's bound is the leader's number, while that is fresh.
    sqlx::query("INSERT INTO modes (mode, settings, queued, queued_at) VALUES ('duel', '{}', 5000, now())")
        .execute(&db.pool)
        .await?;
    assert!(matches!(add(Uuid::now_v7(), 5_000).await, Err(TicketError::QueueFull)));
    assert!(add(Uuid::now_v7(), 5_001).await.is_ok());
    sqlx::query("UPDATE modes SET queued_at = now() - interval '1 minute'").execute(&db.pool).await?;
    assert!(add(Uuid::now_v7(), 5_000).await.is_ok(), "an old number is not believed");

    assert!(matches!(
        tickets::cancel(&db.pool, one.ticket.id, Uuid::now_v7()).await,
        Err(tickets::CancelError::NotOwner)
    ));
    tickets::cancel(&db.pool, one.ticket.id, player).await?;
    assert!(matches!(tickets::cancel(&db.pool, one.ticket.id, player).await, Err(tickets::CancelError::NotFound)));
    db.drop_now().await
}

/// A match with two players that runs on a host whose lease is valid or has run out, with a checkpoint.
async fn running(db: &TestDatabase, host: &str, leased: bool) -> anyhow::Result<(Uuid, [Uuid; 2])> {
    let (id, players) = (Uuid::now_v7(), [Uuid::now_v7(), Uuid::now_v7()]);
    sqlx::query(
        "INSERT INTO nodes (node_id, incarnation, role, state, version, pid, grpc_addr, lease_until)
         VALUES ($1, 1, 'match', 'ready', '', 1, 'x:1', now() + CASE WHEN $2 THEN 1 ELSE -1 END * interval '1 hour')",
    )
    .bind(host)
    .bind(leased)
    .execute(&db.pool)
    .await?;
    sqlx::query(
        "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players, told)
         VALUES ($1, 'duel', 'running', $2, 1, 4, 1, $3, true)",
    )
    .bind(id)
    .bind(host)
    .bind(players)
    .execute(&db.pool)
    .await?;
    sqlx::query("INSERT INTO match_players (player_id, match_id) SELECT UNNEST($2::uuid[]), $1")
        .bind(id)
        .bind(players)
        .execute(&db.pool)
        .await?;
    sqlx::query("INSERT INTO match_checkpoints (match_id, epoch, number, body) VALUES ($1, 4, 1, '')")
        .bind(id)
        .execute(&db.pool)
        .await?;
    Ok((id, players))
}

#[tokio::test]
async fn a_running_match_goes_on_elsewhere_with_its_checkpoint_and_never_back_to_the_queue() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (lost, [ada, bo]) = running(&db, "lost", false).await?;
    let (held, _) = running(&db, "held", true).await?;
    let orphans = allocation::orphans(&db.pool, 10).await?;
    assert_eq!(orphans.iter().map(|orphan| orphan.id).collect::<Vec<_>>(), [lost]);

    let mut conn = db.pool.acquire().await?;
    let to = |id: Uuid, epoch: i64| Rescue { id, epoch, host_node: "new".into(), host_incarnation: 9 };
    let moved = allocation::fail_over(&mut conn, &[to(lost, 3)], 7).await?;
    assert!(moved.is_empty(), "it is under another epoch");
    let moved = allocation::fail_over(&mut conn, &[to(lost, 4), to(held, 4)], 7).await?;
    assert_eq!(moved, [lost].into(), "the other one's host has its lease");
    let checkpoint = async |id: Uuid| -> anyhow::Result<i64> {
        let sql = "SELECT epoch FROM match_checkpoints WHERE match_id = $1";
        Ok(sqlx::query_scalar(sql).bind(id).fetch_one(&db.pool).await?)
    };
    assert_eq!((checkpoint(lost).await?, checkpoint(held).await?), (5, 4));

    // Its players are those who sit there now, in the order they were formed in.
    let late = Uuid::now_v7();
    sqlx::query("UPDATE match_players SET player_id = $1 WHERE player_id = $2")
        .bind(late)
        .bind(ada)
        .execute(&db.pool)
        .await?;
    let open = allocation::untold(&db.pool, 10).await?.remove(0);
    assert_eq!((open.id, open.state.as_str(), open.epoch, open.failovers), (lost, "allocating", 5, 1));
    assert_eq!(open.players, [bo, late]);
    assert!(allocation::reassign(&mut conn, &open, "newer", 10, 7).await?);
    assert_eq!(checkpoint(lost).await?, 6, "the checkpoint goes along");

    let given_up = allocation::give_up(&mut conn, &[(lost, 6)], true, true).await?;
    assert!(given_up.matches.is_empty(), "nobody waits again for what was played");
    let (ended, mut seats) = allocation::fail_stranded(&mut conn, &[(lost, 6), (held, 4)]).await?;
    seats.sort_unstable();
    assert_eq!((ended, seats), (1, vec![(lost, bo), (lost, late)]));
    drop(conn);
    db.drop_now().await
}
