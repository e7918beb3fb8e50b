use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        DeleteNotificationRequest, FriendStatus, ListNotificationsRequest, Notification, ReadNotificationRequest,
        SendNotificationRequest,
    },
};
use asobi_store::{notifications, testing::TestDatabase};
use serde_json::{Value, json};
use tonic::Status;
use uuid::Uuid;

use crate::stage::{Service, code, player, until};

impl Service {
    async fn notify(&self, players: &[Uuid], subject: &str) -> Result<Vec<Notification>, Status> {
        let request = SendNotificationRequest {
            player_ids: players.iter().map(Uuid::to_string).collect(),
            r#type: "news".into(),
            subject: subject.into(),
            content_json: r#"{"a":[1,2]}"#.into(),
        };
        Ok(self.notifications().send_notification(request).await?.into_inner().notifications)
    }

    async fn notified(&self, player: Uuid, read: Option<bool>) -> Result<Vec<Notification>, Status> {
        let request = ListNotificationsRequest { player_id: player.to_string(), read, limit: 0 };
        Ok(self.notifications().list_notifications(request).await?.into_inner().notifications)
    }

    async fn read(&self, player: Uuid, id: &str) -> Result<Notification, Status> {
        let request = ReadNotificationRequest { player_id: player.to_string(), notification_id: id.into() };
        Ok(self.notifications().read_notification(request).await?.into_inner().notification.unwrap_or_default())
    }

    async fn discard(&self, player: Uuid, id: &str) -> Result<(), Status> {
        let request = DeleteNotificationRequest { player_id: player.to_string(), notification_id: id.into() };
        self.notifications().delete_notification(request).await.map(drop)
    }
}

/// The frames that were put into a player's inbox, in order.
async fn pushed(database: &TestDatabase, player: Uuid) -> anyhow::Result<Vec<Value>> {
    let frames = sqlx::query_scalar(
        "SELECT event->'f' FROM inbox_events WHERE player_id = $1 AND event->'f'->>'type' = 'notification.new' ORDER BY seq",
    );
    Ok(frames.bind(player).fetch_all(&database.pool).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_is_pushed_listed_read_and_deleted_by_its_own_player() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo) = (player(&database).await?, player(&database).await?);

    let sent = service.notify(&[ada, bo, ada, Uuid::now_v7()], "Hello").await?;
    assert_eq!(sent.len(), 2, "nobody twice, and who does not exist not at all");
    let mine = sent.iter().find(|n| n.player_id == ada.to_string()).cloned().unwrap_or_default();
    assert_eq!((mine.r#type.as_str(), mine.content_json.as_str(), mine.read), ("news", r#"{"a":[1,2]}"#, false));
    let frames = pushed(&database, ada).await?;
    let at = mine.sent_at.unwrap_or_default();
    let expected = json!({"id": mine.id, "type": "news", "subject": "Hello", "content": {"a": [1, 2]},
                          "sent_at": at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000});
    assert_eq!((frames.len(), &frames[0]["payload"]), (1, &expected));

    assert_eq!(service.notified(ada, None).await?, std::slice::from_ref(&mine));
    assert_eq!(notifications::unread(&database.pool, ada).await?, 1);
    assert_eq!(code(service.read(bo, &mine.id).await), Some(ErrorCode::FORBIDDEN));
    assert_eq!(code(service.discard(bo, &mine.id).await), Some(ErrorCode::FORBIDDEN));
    assert!(service.read(ada, &mine.id).await?.read && service.read(ada, &mine.id).await?.read, "again is no error");
    assert_eq!(notifications::unread(&database.pool, ada).await?, 0);
    assert!(service.notified(ada, Some(false)).await?.is_empty());
    assert_eq!(service.notified(ada, Some(true)).await?.len(), 1);
    service.discard(ada, &mine.id).await?;
    assert_eq!(code(service.discard(ada, &mine.id).await), Some(ErrorCode::NOTIFICATION_NOT_FOUND));
    assert_eq!(code(service.read(ada, &mine.id).await), Some(ErrorCode::NOTIFICATION_NOT_FOUND));

    let wrong = |change: fn(&mut SendNotificationRequest)| {
        let mut request = SendNotificationRequest { r#type: "x".into(), ..SendNotificationRequest::default() };
        change(&mut request);
        request
    };
    for request in [
        wrong(|r| r.r#type = String::new()),
        wrong(|r| r.r#type = "x".repeat(65)),
        wrong(|r| r.subject = "x".repeat(257)),
        wrong(|r| r.content_json = "7".into()),
        wrong(|r| r.content_json = format!(r#"{{"a":"{}"}}"#, "x".repeat(4_096))),
        wrong(|r| r.player_ids = vec![Uuid::nil().to_string(); 1_001]),
    ] {
        assert_eq!(code(service.notifications().send_notification(request).await), Some(ErrorCode::VALIDATION_FAILED));
    }
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn friends_are_told_of_requests_and_acceptances_once() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo) = (player(&database).await?, player(&database).await?);

    service.add(ada, bo).await?;
    service.add(ada, bo).await?;
    let told = service.notified(bo, Some(false)).await?;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].r#type.as_str(), told[0].subject.as_str()), ("friend_request", "New friend request"));
    assert_eq!(told[0].content_json, json!({"from_player_id": ada}).to_string());
    service.answer(bo, ada, FriendStatus::Accepted).await?;
    service.answer(bo, ada, FriendStatus::Accepted).await?;
    let told = service.notified(ada, None).await?;
    assert_eq!((told.len(), told[0].r#type.as_str()), (1, "friend_accepted"));
    service.answer(bo, ada, FriendStatus::Blocked).await?;
    service.remove(bo, ada).await?;
    assert_eq!((service.notified(ada, None).await?.len(), service.notified(bo, None).await?.len()), (1, 1));
    assert_eq!(pushed(&database, ada).await?.len(), 1);

    // Asking and withdrawing does not crowd out what else is kept, and a request that is gone is not told of.
    let cy = player(&database).await?;
    for _ in 0..3 {
        service.add(cy, bo).await?;
        assert_eq!(service.notified(bo, None).await?.len(), 2);
        service.remove(cy, bo).await?;
        assert_eq!(service.notified(bo, None).await?.len(), 1);
    }

    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_are_kept_and_the_old_ones_go() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let ada = player(&database).await?;
    sqlx::query(
        "INSERT INTO notifications (id, player_id, type, subject, sent_at)
         SELECT gen_random_uuid(), $1, 'old', n::text, now() - interval '40 days' FROM generate_series(1, 2500) AS n",
    )
    .bind(ada)
    .execute(&database.pool)
    .await?;
    let set = ["social.notifications_kept=3", "social.notification_days=30"];
    let services =
        [Service::start_with(&database, "one", &set).await?, Service::start_with(&database, "two", &set).await?];
    until("the old ones are gone", async || Ok((notifications::unread(&database.pool, ada).await? == 0).then_some(())))
        .await?;
    // Many at once to one player, at both services.
    let sends = (0..12).map(|n| services[n % 2].notify(std::slice::from_ref(&ada), "now"));
    for sent in futures_util::future::join_all(sends).await {
        assert_eq!(sent?.len(), 1);
    }
    assert_eq!(services[0].notified(ada, None).await?.len(), 3);
    assert_eq!(pushed(&database, ada).await?.len(), 12, "each was pushed all the same");
    for service in services {
        service.drain().await?;
    }
    database.drop_now().await
}
