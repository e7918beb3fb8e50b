use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        DeleteNotificationRequest, FriendStatus, ListNotificationsRequest, Notification, ReadNotificationRequest,
        ReadNotificationsRequest, SendNotificationRequest, read_notifications_request::UpTo,
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
            ..SendNotificationRequest::default()
        };
        Ok(self.notifications().send_notification(request).await?.into_inner().notifications)
    }

    pub async fn notified(&self, player: Uuid, read: Option<bool>) -> Result<Vec<Notification>, Status> {
        let request =
            ListNotificationsRequest { player_id: player.to_string(), read, ..ListNotificationsRequest::default() };
        Ok(self.notifications().list_notifications(request).await?.into_inner().notifications)
    }

    async fn read(&self, player: Uuid, id: &str) -> Result<Notification, Status> {
        let request = ReadNotificationRequest { player_id: player.to_string(), notification_id: id.into() };
        Ok(self.notifications().read_notification(request).await?.into_inner().notification.unwrap_or_default())
    }

    async fn read_up_to(&self, player: Uuid, up_to: Option<UpTo>) -> Result<(i32, i32), Status> {
        let request = ReadNotificationsRequest { player_id: player.to_string(), up_to };
        let read = self.notifications().read_notifications(request).await?.into_inner();
        Ok((read.marked, read.unread))
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

/// What a player's connections were told of reading, in order.
async fn told_read(database: &TestDatabase, player: Uuid) -> anyhow::Result<Vec<Value>> {
    let frames = sqlx::query_scalar(
        "SELECT event->'f'->'payload' FROM inbox_events
         WHERE player_id = $1 AND event->'f'->>'type' = 'notification.read' ORDER BY seq",
    );
    Ok(frames.bind(player).fetch_all(&database.pool).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_up_to_somewhere_has_read_what_came_before_on_all_connections() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo) = (player(&database).await?, player(&database).await?);
    for n in 0..5 {
        service.notify(&[ada], &format!("{n}")).await?;
    }
    let mut all = service.notified(ada, None).await?;
    all.reverse();

    assert_eq!(
        code(service.read_up_to(bo, Some(UpTo::NotificationId(all[0].id.clone()))).await),
        Some(ErrorCode::NOTIFICATION_NOT_FOUND)
    );
    assert_eq!(service.read_up_to(ada, Some(UpTo::NotificationId(all[1].id.clone()))).await?, (2, 3));
    assert_eq!(
        service.read_up_to(ada, Some(UpTo::NotificationId(all[1].id.clone()))).await?,
        (0, 3),
        "again is no news"
    );
    assert_eq!(service.read_up_to(ada, all[2].sent_at.map(UpTo::Time)).await?, (1, 2));
    assert!(service.read(ada, &all[4].id).await?.read);
    assert_eq!(service.read_up_to(ada, None).await?, (1, 0));
    assert!(service.notified(ada, Some(false)).await?.is_empty());
    let unread: Vec<_> = told_read(&database, ada).await?.iter().map(|told| told["unread"].as_i64()).collect();
    assert_eq!(unread, [Some(3), Some(2), Some(1), Some(0)]);
    assert_eq!(told_read(&database, ada).await?[2]["id"], json!(all[4].id));

    // The next page begins where one ended.
    let page = |before: String| ListNotificationsRequest { player_id: ada.to_string(), limit: 2, before, read: None };
    let first = service.notifications().list_notifications(page(String::new())).await?.into_inner().notifications;
    let next = service.notifications().list_notifications(page(first[1].id.clone())).await?.into_inner().notifications;
    assert_eq!([&next[0].id, &next[1].id], [&all[2].id, &all[1].id]);
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_neither_shown_nor_counted_and_goes() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let ada = player(&database).await?;
    let until_year = |year_s: i64| SendNotificationRequest {
        player_ids: vec![ada.to_string()],
        r#type: "sale".into(),
        expires_at: Some(prost_types::Timestamp { seconds: year_s, nanos: 0 }),
        ..SendNotificationRequest::default()
    };
    service.notifications().send_notification(until_year(4_000_000_000)).await?;
    let over = service.notifications().send_notification(until_year(1_000_000_000)).await?.into_inner().notifications;
    assert_eq!(notifications::unread(&database.pool, ada).await?, 1);
    let shown = service.notified(ada, None).await?;
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].expires_at.map(|at| at.seconds), Some(4_000_000_000));
    assert_eq!(pushed(&database, ada).await?[0]["payload"]["expires_at"], 4_000_000_000_000_i64);
    assert_eq!(code(service.read(ada, &over[0].id).await), Some(ErrorCode::NOTIFICATION_NOT_FOUND));
    assert_eq!(notifications::expire(&database.pool, 30, 10).await?, 1);
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_has_told_once_and_is_audited() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let ada = player(&database).await?;
    let request = SendNotificationRequest {
        player_ids: vec![ada.to_string()],
        r#type: "news".into(),
        request_id: "once".into(),
        ..SendNotificationRequest::default()
    };
    let first = service.notifications().send_notification(request.clone()).await?.into_inner();
    let again = service.notifications().send_notification(request).await?.into_inner();
    assert_eq!(first, again);
    assert_eq!((service.notified(ada, None).await?.len(), pushed(&database, ada).await?.len()), (1, 1));
    let (action, subject): (String, String) =
        sqlx::query_as("SELECT action, subject FROM audit").fetch_one(&database.pool).await?;
    assert_eq!((action.as_str(), subject), ("NotificationService/SendNotification", ada.to_string()));
    service.drain().await?;
    database.drop_now().await
}
