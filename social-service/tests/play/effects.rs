use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use asobi_bus::{Bus, BusEvent, BusOptions, Subscription};
use asobi_proto::{
    bus::{ChatItem, Topic, WakeItem},
    effect::{ChatEffect, EffectBody, NotifyEffect},
};
use asobi_store::{
    chat,
    effects::{self, Effect},
    testing::TestDatabase,
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::stage::{Service, player, until};

const LOBBY: &str = "global:lobby";

/// The bus as another node has it.
fn bus(database: &TestDatabase, topics: Vec<Topic>) -> anyhow::Result<Bus> {
    let direct = asobi_store::connect_options(&database.url, "asobi/stage", Duration::from_secs(10))?;
    let options = BusOptions { pool: database.pool.clone(), direct, origin: "stage".into(), topics };
    Ok(Bus::start(options, &CancellationToken::new(), &TaskTracker::new()))
}

/// What a checkpoint of one match says happened outside.
async fn checkpoint(database: &TestDatabase, bus: &Bus, first: i64, bodies: Vec<EffectBody>) -> anyhow::Result<()> {
    let effects: Vec<Effect> = (first..).zip(bodies).map(|(ordinal, body)| Effect { ordinal, body }).collect();
    let effects: Vec<(Uuid, &Effect)> = effects.iter().map(|effect| (Uuid::from_u128(1), effect)).collect();
    let mut tx = database.pool.begin().await?;
    effects::insert_many(&mut tx, &effects).await?;
    tx.commit().await?;
    bus.publisher().publish(Topic::Effects, &WakeItem {})?;
    Ok(())
}

async fn nothing_is_open(database: &TestDatabase) -> anyhow::Result<()> {
    until("nothing is open", async || {
        let open: i64 = sqlx::query_scalar("SELECT count(*) FROM match_effects WHERE applied_at IS NULL")
            .fetch_one(&database.pool)
            .await?;
        Ok((open == 0).then_some(()))
    })
    .await
}

fn notice(players: &[Uuid], subject: String) -> EffectBody {
    EffectBody::Notify(NotifyEffect {
        player_ids: players.into(),
        kind: "achievement".into(),
        subject,
        content: json!({"a": 1}),
    })
}

fn say(channel: &str, sender: Uuid, content: String) -> EffectBody {
    EffectBody::Chat(ChatEffect { channel_id: channel.into(), sender_id: sender, content })
}

/// The subjects of a player's notifications as their inbox tells them, in order.
async fn told(database: &TestDatabase, player: Uuid) -> anyhow::Result<Vec<String>> {
    let subjects = sqlx::query_scalar(
        "SELECT event->'f'->'payload'->>'subject' FROM inbox_events
         WHERE player_id = $1 AND event->'f'->>'type' = 'notification.new' ORDER BY seq",
    );
    Ok(subjects.bind(player).fetch_all(&database.pool).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_reach_each_inbox_once_though_a_service_stops_amid_them() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let few = ["social.notifications_kept=100"];
    let one = Service::start_with(&database, "one", &few).await?;
    let two = Service::start_with(&database, "two", &few).await?;
    let bus = bus(&database, vec![Topic::Effects])?;
    let (ada, bo, gone) = (player(&database).await?, player(&database).await?, Uuid::now_v7());
    for round in 0..20 {
        let bodies = (0..50).map(|n| notice(&[ada, bo, gone, ada], format!("{}", round * 50 + n))).collect();
        checkpoint(&database, &bus, round * 50 + 1, bodies).await?;
    }
    // As soon as something has been told: the rest is the other one's.
    until("the first are told", async || Ok((!told(&database, ada).await?.is_empty()).then_some(()))).await?;
    one.drain().await?;
    nothing_is_open(&database).await?;
    let mut expected: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    expected.sort();
    for player in [ada, bo] {
        let mut told = told(&database, player).await?;
        told.sort();
        assert_eq!(told, expected, "each once");
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM notifications WHERE player_id = $1")
            .bind(player)
            .fetch_one(&database.pool)
            .await?;
        assert_eq!(kept, 100, "as many as a player keeps");
    }
    assert!(told(&database, gone).await?.is_empty());
    two.drain().await?;
    database.drop_now().await
}

/// So many hints of the lobby's messages after that number, by their numbers: those of two services may overtake each other.
async fn heard(hints: &mut Subscription, after: i64, many: usize) -> anyhow::Result<BTreeMap<i64, Value>> {
    let mut heard = BTreeMap::new();
    while heard.len() < many {
        let BusEvent::Batch(batch) = hints.next().await.context("the bus has ended")? else { continue };
        for raw in batch.items() {
            let item: ChatItem<'_> = serde_json::from_str(raw.get())?;
            let frame = item.frame.map(|frame| serde_json::from_str(frame.get())).transpose()?;
            if item.seq > after {
                anyhow::ensure!(heard.insert(item.seq, frame.unwrap_or_default()).is_none(), "{} twice", item.seq);
            }
        }
    }
    Ok(heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_numbered_without_a_gap_stored_once_and_hinted_to_all_nodes() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (one, two) = (Service::start(&database, "one").await?, Service::start(&database, "two").await?);
    let bus = bus(&database, vec![Topic::Effects, Topic::chat(LOBBY)])?;
    let mut hints = bus.subscribe(&[Topic::chat(LOBBY)], 4_096);
    // What is published before the bus listens is not heard: one message at a time until one is.
    let ada = player(&database).await?;
    let mut before = 0;
    loop {
        before += 1;
        checkpoint(&database, &bus, before, vec![say(LOBBY, ada, "anybody there?".into())]).await?;
        if tokio::time::timeout(Duration::from_secs(2), heard(&mut hints, 0, 1)).await.is_ok_and(|heard| heard.is_ok())
        {
            break;
        }
    }
    let bodies = (1..=300).map(|n| say(LOBBY, ada, format!("line {n}"))).collect();
    checkpoint(&database, &bus, before + 1, bodies).await?;
    // Both have something to do, and one goes.
    let listening = tokio::spawn(async move { heard(&mut hints, before, 300).await });
    one.drain().await?;
    nothing_is_open(&database).await?;

    let mut said = chat::history(&database.pool, LOBBY, None, 1_000).await?;
    assert_eq!(said.iter().map(|m| m.seq).collect::<Vec<_>>(), (1..=before + 300).collect::<Vec<i64>>());
    let said = said.split_off(usize::try_from(before)?);
    assert_eq!(
        said.iter().map(|m| m.content.clone()).collect::<Vec<_>>(),
        (1..=300).map(|n| format!("line {n}")).collect::<Vec<_>>(),
        "in the order of the match"
    );
    let heard = tokio::time::timeout(Duration::from_secs(30), listening).await???;
    assert_eq!(heard.len(), 300);
    for ((seq, frame), message) in heard.iter().zip(&said) {
        assert_eq!((*seq, &frame["type"]), (message.seq, &json!("chat.message")));
        let payload = &frame["payload"];
        assert_eq!(
            (&payload["content"], &payload["sender_id"], &payload["seq"], &payload["message_id"]),
            (&json!(message.content), &json!(ada), &json!(message.seq), &json!(message.message_id))
        );
    }
    two.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_not_made_is_made_when_a_match_speaks() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let bus = bus(&database, vec![Topic::Effects])?;
    let today: String =
        sqlx::query_scalar("SELECT 'chat_messages_' || to_char((now() AT TIME ZONE 'UTC')::date, 'YYYYMMDD')")
            .fetch_one(&database.pool)
            .await?;
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP TABLE {today}"))).execute(&database.pool).await?;
    let ada = player(&database).await?;
    checkpoint(&database, &bus, 1, vec![say(LOBBY, ada, "hi".into()), notice(&[ada], "hi".into())]).await?;
    nothing_is_open(&database).await?;
    assert_eq!(chat::history(&database.pool, LOBBY, None, 10).await?.len(), 1);
    assert_eq!(told(&database, ada).await?, ["hi"]);
    service.drain().await?;
    database.drop_now().await
}
