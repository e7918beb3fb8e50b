//! What sessions begin with, read for many: each gets what a read for itself alone would say.

use asobi_store::{
    matches::LiveSeat,
    testing::TestDatabase,
    welcome::{self, Bond},
};
use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

const ADA: Uuid = Uuid::from_u128(1);
const BO: Uuid = Uuid::from_u128(2);
const CY: Uuid = Uuid::from_u128(3);
const DAN: Uuid = Uuid::from_u128(4);
const ALL: [Uuid; 4] = [ADA, BO, CY, DAN];

async fn players(db: &TestDatabase) -> anyhow::Result<()> {
    for player in ALL {
        let row = format!("INSERT INTO players (id, username) VALUES ('{player}', 'p{player}')");
        db.pool.execute(AssertSqlSafe(row)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_is_welcomed_with_what_is_theirs() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    players(&db).await?;
    let (running, formed, party) = (Uuid::from_u128(11), Uuid::from_u128(12), Uuid::from_u128(21));
    let rows = format!(
        "INSERT INTO inboxes (player_id, seq) VALUES ('{ADA}', 7), ('{BO}', 3);
         INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
             VALUES ('{running}', 'arena', 'running', 'host', 5, 2, 1, '{{}}'),
                    ('{formed}', 'arena', 'allocating', 'host', 5, 1, 1, '{{}}');
         INSERT INTO match_players (player_id, match_id) VALUES ('{ADA}', '{running}'), ('{BO}', '{formed}');
         INSERT INTO parties (id, leader_id) VALUES ('{party}', '{CY}');
         INSERT INTO party_members (player_id, party_id) VALUES ('{CY}', '{party}'), ('{ADA}', '{party}');
         INSERT INTO notifications (id, player_id, type, subject, content, read, expires_at)
             VALUES (gen_random_uuid(), '{DAN}', 't', 's', '{{}}', false, NULL),
                    (gen_random_uuid(), '{DAN}', 't', 's', '{{}}', true, NULL),
                    (gen_random_uuid(), '{DAN}', 't', 's', '{{}}', false, now() - interval '1 second'),
                    (gen_random_uuid(), '{DAN}', 't', 's', '{{}}', false, now() + interval '1 hour');"
    );
    db.pool.execute(AssertSqlSafe(rows)).await?;
    let welcomes = welcome::welcomes(&db.pool, &ALL).await?;
    let of = |player: Uuid| welcomes.get(&player).cloned().expect("each is answered");
    assert_eq!(ALL.map(|player| of(player).seq), [7, 3, 0, 0]);
    assert_eq!(ALL.map(|player| of(player).unread), [0, 0, 0, 2], "neither read nor over");
    let (mode, host_node) = ("arena".to_owned(), "host".to_owned());
    let seat = LiveSeat { match_id: running, mode, host_node, host_incarnation: 5, epoch: 2 };
    assert_eq!(ALL.map(|player| of(player).live), [Some(seat), None, None, None], "one that is being formed is none");
    let parties = ALL.map(|player| of(player).party.map(|party| (party.id, party.leader_id, party.members.len())));
    assert_eq!(parties, [Some((party, Some(CY), 2)), None, Some((party, Some(CY), 2)), None]);
    db.drop_now().await
}

#[tokio::test]
async fn friends_are_seen_as_their_newest_session_says() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    players(&db).await?;
    let rows = format!(
        "INSERT INTO friendships (id, player_id, friend_id, status)
             VALUES (gen_random_uuid(), '{ADA}', '{BO}', 'accepted'), (gen_random_uuid(), '{CY}', '{ADA}', 'accepted'),
                    (gen_random_uuid(), '{BO}', '{CY}', 'pending'), (gen_random_uuid(), '{BO}', '{DAN}', 'blocked');
         INSERT INTO sessions (session_id, player_id, node_id, incarnation, status, connected_at)
             VALUES (gen_random_uuid(), '{BO}', 'gw', 1, 'away', now() - interval '1 minute'),
                    (gen_random_uuid(), '{BO}', 'gw', 1, 'busy', now());"
    );
    db.pool.execute(AssertSqlSafe(rows)).await?;
    let friends = welcome::friends(&db.pool, &ALL).await?;
    let seen = |player: Uuid| {
        let mut all: Vec<(Uuid, Option<&str>)> = friends
            .get(&player)
            .into_iter()
            .flatten()
            .map(|friend| (friend.player_id, friend.status.as_deref()))
            .collect();
        all.sort_unstable();
        all
    };
    assert_eq!(seen(ADA), [(BO, Some("busy")), (CY, None)]);
    assert_eq!((seen(BO), seen(CY)), (vec![(ADA, None)], vec![(ADA, None)]));
    assert_eq!(seen(DAN), []);

    let mut blocks = welcome::bound(&db.pool, Bond::Block, &[(DAN, BO), (BO, DAN), (ADA, BO)]).await?;
    blocks.sort_unstable();
    assert_eq!(blocks, [(BO, DAN), (DAN, BO)], "whoever of the two blocks");
    db.drop_now().await
}

#[tokio::test]
async fn who_belongs_where_is_asked_for_many() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    players(&db).await?;
    let (group, game) = (Uuid::from_u128(31), Uuid::from_u128(41));
    let rows = format!(
        "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
             VALUES ('{game}', 'arena', 'running', 'host', 5, 2, 1, '{{}}');
         INSERT INTO match_players (player_id, match_id) VALUES ('{ADA}', '{game}');
         INSERT INTO groups (id, name, max_members, open) VALUES ('{group}', 'them', 10, true);
         INSERT INTO group_members (group_id, player_id, id, role) VALUES ('{group}', '{CY}', gen_random_uuid(), 'owner');"
    );
    db.pool.execute(AssertSqlSafe(rows)).await?;
    assert_eq!(welcome::bound(&db.pool, Bond::Group, &[(ADA, group), (CY, group), (CY, game)]).await?, [(CY, group)]);
    assert_eq!(welcome::bound(&db.pool, Bond::Seat, &[(BO, game), (ADA, game)]).await?, [(ADA, game)]);
    db.drop_now().await
}
