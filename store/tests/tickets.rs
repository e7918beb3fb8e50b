//! Tickets that are written together: each player is answered as if they had come alone.

use std::sync::Arc;

use asobi_proto::mode::ModeSettings;
use asobi_store::{
    testing::TestDatabase,
    tickets::{self, NewTicket, TicketError, Wish},
};
use serde_json::json;
use sqlx::PgPool;
use tracing::Span;
use uuid::Uuid;

fn wish(player: Uuid, mode: &str, skill: i32) -> NewTicket {
    NewTicket {
        player,
        mode: mode.into(),
        properties: json!({"skill": skill}),
        query: Some(format!("skill >= {skill}")),
        settings: Arc::new(ModeSettings::default()),
        span: Span::none(),
    }
}

async fn rows(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM tickets WHERE state = 'pending'").fetch_one(pool).await.expect("counts")
}

async fn seat(pool: &PgPool, player: Uuid) -> anyhow::Result<()> {
    sqlx::query(
        "WITH m AS (INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
             VALUES ($2, 'duel', 'running', 'h', 1, 1, 0, '{}') RETURNING id)
         INSERT INTO match_players (player_id, match_id) SELECT $1, id FROM m",
    )
    .bind(player)
    .bind(Uuid::now_v7())
    .execute(pool)
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_batch_is_one_transaction_and_answers_each_player_by_themselves() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let pool = &db.pool;
    let [ada, bo, cy, di] = [(); 4].map(|()| Uuid::now_v7());
    let held = tickets::create_many(pool, &[wish(ada, "duel", 1)], 100).await?.remove(0)?;
    seat(pool, bo).await?;
    let batch = [
        wish(cy, "duel", 3),
        wish(ada, "duel", 9),
        wish(bo, "duel", 2),
        wish(di, "duel", 4),
        wish(di, "arena", 5),
        wish(cy, "duel", 7),
    ];
    let [new, again, seated, other, elsewhere, twin] =
        <[_; 6]>::try_from(tickets::create_many(pool, &batch, 100).await?).expect("six answers");

    let new = new?;
    assert_eq!((new.already_queued, new.position, new.ticket.player_id), (false, Some(2), cy));
    assert_eq!(tickets::get(pool, new.ticket.id).await?.as_ref(), Some(&new.ticket));
    let again = again?;
    assert_eq!((again.already_queued, again.position, again.ticket), (true, None, held.ticket));
    assert!(matches!(seated, Err(TicketError::AlreadyInMatch)));
    assert_eq!(other?.position, Some(3));
    let elsewhere = elsewhere?;
    assert_eq!((elsewhere.position, elsewhere.ticket.mode.as_str()), (Some(1), "arena"));
    let twin = twin?;
    assert_eq!((twin.already_queued, twin.position, twin.ticket), (true, None, new.ticket));
    let transactions: i64 = sqlx::query_scalar("SELECT count(DISTINCT xmin::text) FROM tickets WHERE player_id <> $1")
        .bind(ada)
        .fetch_one(pool)
        .await?;
    assert_eq!((transactions, rows(pool).await), (1, 4));
    db.drop_now().await
}

#[tokio::test]
async fn the_bound_holds_within_a_batch_and_for_each_mode() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let mut batch: Vec<NewTicket> = (0..4).map(|n| wish(Uuid::now_v7(), "duel", n)).collect();
    batch.push(wish(Uuid::now_v7(), "arena", 1));
    let answers = tickets::create_many(&db.pool, &batch, 3).await?;
    let positions: Vec<_> = answers.iter().map(|a| a.as_ref().ok().and_then(|created| created.position)).collect();
    assert_eq!(positions, [Some(1), Some(2), Some(3), None, Some(1)]);
    assert!(matches!(answers[3], Err(TicketError::QueueFull)));
    // Who waits is not refused.
    let again = tickets::create_many(&db.pool, &batch[..2], 3).await?;
    assert!(again.iter().all(|a| a.as_ref().is_ok_and(|created| created.already_queued)));
    assert_eq!(rows(&db.pool).await, 4);
    db.drop_now().await
}

#[tokio::test]
async fn simultaneous_batches_make_one_ticket_of_each_player() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let batch: Vec<NewTicket> = (0..40).map(|n| wish(Uuid::now_v7(), "duel", n)).collect();
    let turned: Vec<NewTicket> = batch.iter().rev().cloned().collect();
    let (one, two) =
        tokio::join!(tickets::create_many(&db.pool, &batch, 100), tickets::create_many(&db.pool, &turned, 100));
    for (one, two) in one?.into_iter().zip(two?.into_iter().rev()) {
        let (one, two) = (one?, two?);
        assert_eq!(one.ticket.id, two.ticket.id);
        assert_ne!(one.already_queued, two.already_queued);
    }
    assert_eq!(rows(&db.pool).await, 40);
    db.drop_now().await
}

#[tokio::test]
async fn who_is_refused_or_has_to_wait_is_the_only_one() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (ada, bo, cy) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    // Somebody's transaction that stands still has a ticket of bo's, and PostgreSQL stores no NUL.
    let mut stands = db.pool.begin().await?;
    sqlx::query("INSERT INTO tickets (id, player_id, mode, properties, state, expires_at) VALUES ($1, $2, 'duel', '{}', 'pending', now())")
        .bind(Uuid::now_v7())
        .bind(bo)
        .execute(&mut *stands)
        .await?;
    let refused = NewTicket { query: Some("\0".into()), ..wish(cy, "duel", 1) };
    let batch = [wish(ada, "duel", 1), refused];
    let answers = tickets::create_many(&db.pool, &batch, 100).await?;
    assert!(answers[0].is_ok() && matches!(answers[1], Err(TicketError::Db(_))), "{answers:?}");

    let batch = [wish(bo, "duel", 1), wish(cy, "duel", 1)];
    let waiting = tickets::create_many(&db.pool, &batch, 100);
    let freed = async {
        // Until the batch was given up, and bo's is tried alone.
        loop {
            let alone: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                   AND query NOT LIKE '%MATERIALIZED%')",
            )
            .fetch_one(&db.pool)
            .await?;
            if alone {
                break stands.rollback().await;
            }
            tokio::task::yield_now().await;
        }
    };
    let (answers, freed) = tokio::join!(waiting, freed);
    freed?;
    assert!(answers?.iter().all(Result::is_ok));
    // The same wish, with its text, as one that came alone.
    let alone = tickets::create(&db.pool, cy, "duel", Wish::from(&json!({})), &ModeSettings::default(), 100).await?;
    assert_eq!(alone.ticket.query.as_deref(), Some("skill >= 1"));
    db.drop_now().await
}
