//! The bus over a real PostgreSQL.

use std::{str::FromStr, time::Duration};

use asobi_bus::PublishError;
use asobi_bus::{Bus, BusEvent, BusOptions, Subscription};
use asobi_proto::bus::{ChatItem, PresenceItem, Topic};
use asobi_store::testing::TestDatabase;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

struct Member {
    bus: Bus,
    heard: Subscription,
    stop: CancellationToken,
    tasks: TaskTracker,
}

async fn join(db: &TestDatabase, name: &str) -> anyhow::Result<Member> {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let direct = PgConnectOptions::from_str(&db.url)?.application_name(name);
    let topics: Vec<Topic> = Topic::all_chat().chain([Topic::Presence]).collect();
    let options = BusOptions { pool: db.pool.clone(), direct, origin: name.into(), topics: topics.clone() };
    let bus = Bus::start(options, &stop, &tasks);
    let heard = bus.subscribe(&topics, 1_024);
    timeout(PATIENCE, bus.connected().wait_for(|connected| *connected)).await??;
    Ok(Member { bus, heard, stop, tasks })
}

impl Member {
    async fn next(&mut self) -> BusEvent {
        timeout(PATIENCE, self.heard.next()).await.expect("an event in time").expect("the bus runs")
    }

    async fn next_resync(&mut self) {
        while !matches!(self.next().await, BusEvent::Resync) {}
    }

    /// The statuses heard, until one of them is `last`.
    async fn statuses_until(&mut self, last: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|status| status != last) {
            if let BusEvent::Batch(batch) = self.next().await {
                let items = batch.items();
                heard.extend(
                    items.iter().map(|i| serde_json::from_str::<PresenceItem>(i.get()).expect("an item").status),
                );
            }
        }
        heard
    }

    async fn leave(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait()).await.expect("the tasks end");
    }
}

fn status(text: impl ToString) -> PresenceItem {
    PresenceItem { player_id: Uuid::nil(), status: text.to_string(), node_id: None }
}

#[tokio::test]
async fn what_one_publishes_all_hear_in_order() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (mut ada, mut bo) = (join(&db, "ada").await?, join(&db, "bo").await?);
    let sent: Vec<String> = (0..500).map(|i| format!("{i}-{}", "x".repeat(100))).collect();
    for text in &sent {
        ada.bus.publisher().publish(Topic::Presence, &status(text))?;
    }
    let last = sent.last().expect("some");
    assert_eq!(ada.statuses_until(last).await, sent);
    assert_eq!(bo.statuses_until(last).await, sent);
    // What waits when a process stops is still sent.
    ada.bus.publisher().publish(Topic::Presence, &status("farewell"))?;
    ada.leave().await;
    bo.statuses_until("farewell").await;
    bo.leave().await;
    db.drop_now().await
}

#[tokio::test]
async fn each_hears_its_own_pulse_and_nobody_elses() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (mut ada, bo) = (join(&db, "ada").await?, join(&db, "bo").await?);
    let measured = async {
        while ada.bus.notify_lag().is_none() || bo.bus.notify_lag().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, measured).await?;
    assert!(ada.bus.notify_lag() < Some(PATIENCE));
    // It is no news for who subscribes.
    ada.bus.publisher().publish(Topic::Presence, &status("news"))?;
    assert_eq!(ada.statuses_until("news").await, ["news"]);
    ada.leave().await;
    bo.leave().await;
    db.drop_now().await
}

#[tokio::test]
async fn a_listener_whose_session_is_terminated_resyncs_and_hears_again() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let mut member = join(&db, "bereft").await?;
    member.next_resync().await;
    let mut connected = member.bus.connected();
    let killed: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'bereft' AND datname = current_database()",
    )
    .fetch_one(&db.pool)
    .await?;
    assert!(killed > 0, "there was a listening session");
    timeout(PATIENCE, connected.wait_for(|c| !c)).await??;
    timeout(PATIENCE, connected.wait_for(|c| *c)).await??;
    member.next_resync().await;
    member.bus.publisher().publish(Topic::Presence, &status("back"))?;
    assert_eq!(member.statuses_until("back").await, ["back"]);
    member.leave().await;
    db.drop_now().await
}

#[tokio::test]
async fn messages_of_many_channels_travel_together_and_say_whose_they_are() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (ada, mut bo) = (join(&db, "ada").await?, join(&db, "bo").await?);
    let channels: Vec<String> = (0..40).map(|n| format!("global:c{n}")).collect();
    for channel in &channels {
        let item = ChatItem { channel_id: channel.as_str().into(), seq: 1, frame: None, taken_us: None };
        ada.bus.publisher().publish(Topic::chat(channel), &item)?;
    }
    let (mut heard, mut notifications) = (Vec::new(), 0);
    while heard.len() < channels.len() {
        let BusEvent::Batch(notification) = bo.next().await else { continue };
        let batch = notification.batch().expect("readable");
        assert_eq!((batch.origin, &**ada.bus.origin()), ("ada", "ada"));
        notifications += 1;
        for raw in &batch.items {
            heard.push(serde_json::from_str::<ChatItem<'_>>(raw.get())?.channel_id.into_owned());
        }
    }
    assert_eq!(heard, channels);
    // The first may have left before the others came; in no case is it one per channel or per topic.
    assert!(notifications <= 8, "{notifications} notifications");
    ada.leave().await;
    bo.leave().await;
    db.drop_now().await
}

#[tokio::test]
async fn what_fits_no_payload_is_refused_and_the_rest_goes_on() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let mut ada = join(&db, "ada").await?;
    assert_eq!(ada.bus.publisher().publish(Topic::Presence, &status("x".repeat(8_000))), Err(PublishError::TooLarge));
    // As large as an item may be, of characters that are several bytes long.
    let large = "ü".repeat(3_700);
    for text in [large.as_str(), "small"] {
        ada.bus.publisher().publish(Topic::Presence, &status(text))?;
    }
    assert_eq!(ada.statuses_until("small").await, [large.as_str(), "small"]);
    ada.leave().await;
    db.drop_now().await
}

#[tokio::test]
async fn payloads_of_the_next_and_the_previous_release_are_heard() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let mut ada = join(&db, "ada").await?;
    let player = Uuid::nil();
    for payload in [
        // Fields that this release does not know, in the batch and in the item.
        format!(r#"{{"v":2,"o":"new#1","n":1,"zz":[1],"i":[{{"p":"{player}","st":"newer","extra":{{}}}}]}}"#),
        // Without anything optional.
        format!(r#"{{"o":"old#1","n":1,"i":[{{"p":"{player}","st":"older"}}]}}"#),
        "not JSON at all".into(),
        format!(r#"{{"o":"old#1","n":2,"i":[{{"p":"{player}","st":"last"}}]}}"#),
    ] {
        sqlx::query("SELECT pg_notify($1, $2)").bind(Topic::Presence.channel()).bind(payload).execute(&db.pool).await?;
    }
    assert_eq!(ada.statuses_until("last").await, ["newer", "older", "last"]);
    ada.leave().await;
    db.drop_now().await
}
