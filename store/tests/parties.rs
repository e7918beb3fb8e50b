//! Parties and their tickets: who may what, all or none, and turns taken by those who come at once.

use std::collections::BTreeSet;

use asobi_proto::mode::{ModeSettings, Strategy, Teams};
use asobi_store::{
    allocation,
    matches::{self, Fence, SeatTaken},
    parties::{self, Party, PartyError},
    players,
    testing::TestDatabase,
    tickets::{self, CancelError, TicketError, TicketState, Wish, WishError},
    welcome,
};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

async fn player(pool: &PgPool) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query("INSERT INTO players (id, username) VALUES ($1, $1::text)")
        .bind(id)
        .execute(pool)
        .await
        .expect("inserts");
    id
}

async fn party_of(pool: &PgPool, members: &[Uuid]) -> Uuid {
    let party = parties::create(pool, members[0]).await.expect("founded").party.id;
    for member in &members[1..] {
        parties::invite(pool, members[0], *member, 8).await.expect("invited");
        parties::accept(pool, *member, party, 8).await.expect("came");
    }
    party
}

fn members(party: &Party) -> Vec<Uuid> {
    party.members.iter().map(|member| member.player_id).collect()
}

fn pairs() -> ModeSettings {
    ModeSettings { match_size: 4, max_players: 4, teams: Some(Teams { count: 2, size: 2 }), ..ModeSettings::default() }
}

async fn queue(pool: &PgPool, party: Uuid, leader: Uuid, mode: &str) -> Result<tickets::CreatedForParty, TicketError> {
    let properties = json!({"skill": 9});
    tickets::create_party(pool, party, leader, mode, Wish::from(&properties), &pairs(), 100).await
}

/// A running match on a host of the test's own.
async fn running(pool: &PgPool) -> Fence {
    let match_id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
         VALUES ($1, 'duel', 'running', 'h', 1, 1, 0, '{}')",
    )
    .bind(match_id)
    .execute(pool)
    .await
    .expect("inserts");
    Fence { match_id, host_node: "h".into(), host_incarnation: 1, epoch: 1 }
}

#[tokio::test]
async fn a_party_is_led_entered_and_left() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let pool = &db.pool;
    let (ada, bo, cy) = (player(pool).await, player(pool).await, player(pool).await);
    let party = party_of(pool, &[ada, bo]).await;
    assert!(matches!(parties::create(pool, bo).await, Err(PartyError::AlreadyInParty)));
    assert!(matches!(parties::invite(pool, bo, cy, 8).await, Err(PartyError::NotLeader)));
    assert!(matches!(parties::invite(pool, ada, bo, 8).await, Err(PartyError::AlreadyInParty)));
    assert!(matches!(parties::invite(pool, ada, Uuid::now_v7(), 8).await, Err(PartyError::PlayerNotFound)));
    assert!(matches!(parties::invite(pool, ada, cy, 2).await, Err(PartyError::Full)));
    assert!(matches!(parties::accept(pool, cy, party, 8).await, Err(PartyError::NotInvited)));
    assert!(matches!(parties::accept(pool, cy, Uuid::now_v7(), 8).await, Err(PartyError::NotFound)));
    assert!(matches!(parties::kick(pool, ada, cy).await, Err(PartyError::PlayerNotFound)));

    // An invitation ends by being declined, and with its time.
    parties::invite(pool, ada, cy, 8).await?;
    parties::decline(pool, cy, party).await?;
    assert!(matches!(parties::decline(pool, cy, party).await, Err(PartyError::NotInvited)));
    parties::invite(pool, ada, cy, 8).await?;
    sqlx::query("UPDATE party_invites SET expires_at = now() - interval '1 s'").execute(pool).await?;
    assert!(matches!(parties::accept(pool, cy, party, 8).await, Err(PartyError::NotInvited)));
    assert_eq!(parties::sweep(pool, 10).await?, 1);

    // The oldest leads after the leader; everybody is told, also who went.
    parties::invite(pool, ada, cy, 8).await?;
    parties::accept(pool, cy, party, 8).await?;
    let left = parties::leave(pool, ada).await?;
    assert_eq!((left.party, left.told.len()), (Party::left(party), 3));
    let now = of_player(pool, cy).await?.expect("a party");
    assert_eq!((now.leader_id, members(&now)), (Some(bo), vec![bo, cy]));
    assert_eq!(parties::promote(pool, bo, cy).await?.party.leader_id, Some(cy));

    // Nobody is connected here: the members are told so once.
    let told: BTreeSet<Uuid> = parties::look(pool).await?.told.iter().map(|told| told.player_id).collect();
    assert_eq!(told, BTreeSet::from([bo, cy]));
    assert!(parties::look(pool).await?.told.is_empty());

    // A leader whose account is gone is succeeded too.
    sqlx::query("DELETE FROM players WHERE id = $1").bind(cy).execute(pool).await?;
    assert!(
        matches!(parties::kick(pool, bo, cy).await, Err(PartyError::PlayerNotFound)),
        "bo leads, and cy is not there"
    );
    parties::leave(pool, bo).await?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM parties").fetch_one(pool).await?;
    assert_eq!(rows, 0, "the last one out ends it");
    db.drop_now().await
}

#[tokio::test]
async fn those_who_accept_at_once_take_turns() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let pool = &db.pool;
    let ada = player(pool).await;
    let party = party_of(pool, &[ada]).await;
    let mut guests = Vec::new();
    for _ in 0..5 {
        let guest = player(pool).await;
        parties::invite(pool, ada, guest, 3).await?;
        guests.push(guest);
    }
    let came = futures_of(guests.iter().map(|guest| parties::accept(pool, *guest, party, 3))).await;
    assert_eq!(came.iter().filter(|came| came.is_ok()).count(), 2, "{came:?}");
    assert!(came.iter().all(|came| matches!(came, Ok(_) | Err(PartyError::Full))), "{came:?}");
    assert_eq!(of_player(pool, ada).await?.expect("a party").members.len(), 3);
    db.drop_now().await
}

async fn of_player(pool: &PgPool, player: Uuid) -> asobi_store::Result<Option<Party>> {
    Ok(welcome::welcomes(pool, &[player]).await?.remove(&player).and_then(|welcome| welcome.party))
}

async fn futures_of<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in running.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_partys_ticket_is_of_all_or_none() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let pool = &db.pool;
    let (ada, bo, cy) = (player(pool).await, player(pool).await, player(pool).await);
    let party = party_of(pool, &[ada, bo]).await;
    assert!(matches!(queue(pool, party, bo, "teams").await, Err(TicketError::NotPartyLeader)));
    assert!(matches!(queue(pool, party, cy, "teams").await, Err(TicketError::PartyNotFound)));
    assert!(matches!(queue(pool, Uuid::now_v7(), ada, "teams").await, Err(TicketError::PartyNotFound)));

    let made = queue(pool, party, ada, "teams").await?;
    let ticket = made.created.ticket.clone();
    assert_eq!((ticket.players.clone(), made.told.len(), made.told[0].player_id), (vec![ada, bo], 1, bo));
    assert_eq!(tickets::get(pool, ticket.id).await?, Some(ticket.clone()));
    let again = queue(pool, party, ada, "teams").await?;
    assert_eq!((again.created.ticket.id, again.created.already_queued, again.told.len()), (ticket.id, true, 0));
    let single = tickets::create(pool, bo, "teams", &json!({}), &pairs(), 100).await?;
    assert_eq!((single.ticket.id, single.already_queued), (ticket.id, true));
    let mut waiting = tickets::waiting_of(pool, &[ada, bo, cy]).await?;
    waiting.sort_unstable();
    assert_eq!(waiting, [(ada, ticket.id), (bo, ticket.id)]);

    // Only its leader takes it out; all rows end.
    assert!(matches!(tickets::cancel(pool, ticket.id, bo).await, Err(CancelError::NotOwner)));
    let cancelled = tickets::cancel(pool, ticket.id, ada).await?;
    let told: BTreeSet<Uuid> = cancelled.told.iter().map(|told| told.player_id).collect();
    assert_eq!(told, BTreeSet::from([ada, bo]));
    let pending: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tickets WHERE state = 'pending'").fetch_one(pool).await?;
    assert_eq!(pending, 0);
    assert!(matches!(tickets::cancel(pool, ticket.id, ada).await, Err(CancelError::NotFound)));

    // One who waits alone, or plays, keeps all of them out, and nothing is left behind.
    tickets::create(pool, bo, "teams", &json!({}), &pairs(), 100).await?;
    assert!(matches!(queue(pool, party, ada, "teams").await, Err(TicketError::MemberQueued)));
    let fence = running(pool).await;
    assert_eq!(matches::take_seat(pool, &fence, bo).await?, SeatTaken::Taken);
    assert!(matches!(queue(pool, party, ada, "teams").await, Err(TicketError::AlreadyInMatch)));
    matches::give_up_seats(pool, &fence, &[bo]).await?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM tickets WHERE state = 'pending'").fetch_one(pool).await?;
    assert_eq!(rows, 0);

    // A member who takes a seat elsewhere takes the party's ticket out.
    let ticket = queue(pool, party, ada, "teams").await?.created.ticket.id;
    matches::take_seat(pool, &fence, bo).await?;
    assert_eq!(tickets::get(pool, ticket).await?.map(|t| t.state), Some(TicketState::Cancelled));
    matches::give_up_seats(pool, &fence, &[bo]).await?;

    // So does a change of members; a larger party than a team is refused.
    let ticket = queue(pool, party, ada, "teams").await?.created.ticket.id;
    parties::invite(pool, ada, cy, 8).await?;
    let changed = parties::accept(pool, cy, party, 8).await?;
    assert_eq!((changed.tickets, changed.told.len()), (vec![ticket], 5), "two hear of the ticket, three of the party");
    assert!(matches!(queue(pool, party, ada, "teams").await, Err(TicketError::PartyTooLarge(2))));
    db.drop_now().await
}

#[tokio::test]
async fn a_full_queue_takes_no_part_of_a_party() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let pool = &db.pool;
    let (ada, bo, cy) = (player(pool).await, player(pool).await, player(pool).await);
    let party = party_of(pool, &[ada, bo]).await;
    tickets::create(pool, cy, "teams", &json!({}), &pairs(), 1).await?;
    let properties = json!({});
    let full = tickets::create_party(pool, party, ada, "teams", Wish::from(&properties), &pairs(), 1).await;
    assert!(matches!(full, Err(TicketError::QueueFull)), "{full:?}");
    assert!(tickets::waiting_of(pool, &[ada, bo]).await?.is_empty());
    db.drop_now().await
}

#[tokio::test]
async fn a_partys_ticket_whose_head_was_erased_does_not_wait_again() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let pool = &db.pool;
    let (ada, bo) = (player(pool).await, player(pool).await);
    let party = party_of(pool, &[ada, bo]).await;
    queue(pool, party, ada, "teams").await?;
    let rows: Vec<(Uuid, Uuid)> =
        sqlx::query_as("SELECT id, player_id FROM tickets ORDER BY id").fetch_all(pool).await?;
    let group = allocation::Forming {
        match_id: Uuid::now_v7(),
        mode: "teams".into(),
        host_node: "h".into(),
        host_incarnation: 1,
        tickets: rows,
        teams: None,
        regions: Vec::new(),
        traceparent: None,
    };
    let mut tx = pool.begin().await?;
    assert!(allocation::claim(&mut tx, std::slice::from_ref(&group), 1).await?.formed.contains(&group.match_id));
    players::erase(&mut tx, ada).await?;
    let given_up = allocation::give_up(&mut tx, &[(group.match_id, 1)], true, false).await?;
    tx.commit().await?;
    assert_eq!((given_up.requeued, given_up.failed), (vec![], vec![bo]), "a row without its head is found by nobody");
    assert!(!tickets::create(pool, bo, "teams", &json!({}), &pairs(), 100).await?.already_queued);
    db.drop_now().await
}

#[test]
fn wishes_are_checked_before_they_are_written() {
    let fill = ModeSettings::default();
    let query = ModeSettings { strategy: Strategy::Query, ..fill.clone() };
    let wrong = |properties: serde_json::Value| tickets::check(Wish::from(&properties), &fill).is_err();
    assert!(!wrong(json!({"skill": 3, "region": "eu", "latencies": {"eu": 20, "us": 110.5}})));
    assert!(wrong(json!([])) && wrong(json!({"region": 7})) && wrong(json!({"region": ""})));
    assert!(wrong(json!({"latencies": {"eu": -1}})) && wrong(json!({"latencies": {"eu": "20"}})));
    assert!(wrong(json!({"text": "x".repeat(5_000)})) && wrong(json!({"text": "\u{0}"})));
    let properties = json!({});
    let asks = |text| Wish { properties: &properties, query: Some(text) };
    assert_eq!(tickets::check(asks("rank >= 3"), &query), Ok(()));
    assert!(matches!(tickets::check(asks("rank >= 3"), &fill), Err(WishError::Query { position: 0, .. })));
    assert!(matches!(tickets::check(asks("rank >= and"), &query), Err(WishError::Query { position: 8, .. })));
}
