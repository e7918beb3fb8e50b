//! Notifications to many players, and the templates they are made of.

use std::collections::BTreeMap;

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        CancelNotificationJobRequest, CreateGroupRequest, CreateNotificationJobRequest, DeleteTemplateRequest,
        GetNotificationJobRequest, GetTemplateRequest, ListNotificationJobsRequest, ListTemplatesRequest,
        NotificationJob, NotificationJobState as State, NotificationTemplate, PlayerFilter, PlayerList,
        PutTemplateRequest, SendNotificationRequest, TemplateText, WatchNotificationJobRequest,
        create_notification_job_request::Target,
    },
};
use asobi_store::testing::TestDatabase;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::stage::{Service, code, player, until};

impl Service {
    async fn job(&self, target: Target, subject: &str) -> Result<NotificationJob, Status> {
        let request = CreateNotificationJobRequest {
            target: Some(target),
            r#type: "news".into(),
            subject: subject.into(),
            ..CreateNotificationJobRequest::default()
        };
        Ok(self.notification_admin().create_notification_job(request).await?.into_inner().job.unwrap_or_default())
    }

    async fn look(&self, id: &str) -> Result<NotificationJob, Status> {
        let request = GetNotificationJobRequest { job_id: id.into() };
        Ok(self.notification_admin().get_notification_job(request).await?.into_inner().job.unwrap_or_default())
    }

    /// The job when it is over, watched.
    async fn over(&self, id: &str) -> anyhow::Result<NotificationJob> {
        let request = WatchNotificationJobRequest { job_id: id.into() };
        let mut watched = self.notification_admin().watch_notification_job(request).await?.into_inner();
        let mut last = NotificationJob::default();
        while let Some(seen) = watched.message().await? {
            let job = seen.job.unwrap_or_default();
            assert!(job.done >= last.done, "progress goes forward: {last:?} {job:?}");
            last = job;
        }
        Ok(last)
    }

    async fn put(&self, template: NotificationTemplate) -> Result<NotificationTemplate, Status> {
        let request = PutTemplateRequest { request_id: String::new(), template: Some(template) };
        Ok(self.notification_admin().put_template(request).await?.into_inner().template.unwrap_or_default())
    }
}

fn everybody() -> Target {
    Target::Filter(PlayerFilter::default())
}

fn list(players: &[Uuid]) -> Target {
    Target::Players(PlayerList { player_ids: players.iter().map(Uuid::to_string).collect() })
}

/// So many players, half of them guests, of whom every third speaks a kind of German.
async fn crowd(database: &TestDatabase, count: i64) -> anyhow::Result<()> {
    sqlx::query(
        "INSERT INTO players (id, username, guest, metadata)
         SELECT gen_random_uuid(), 'p' || n, n % 2 = 0,
                CASE WHEN n % 3 = 0 THEN jsonb_build_object('language', CASE WHEN n % 2 = 0 THEN 'de_AT' ELSE 'de' END) ELSE '{}' END
         FROM generate_series(1, $1::bigint) AS n",
    )
    .bind(count)
    .execute(&database.pool)
    .await?;
    Ok(())
}

/// How many notifications of a subject there are, how many players have one, and how many inbox events push one.
async fn told(database: &TestDatabase, subject: &str) -> anyhow::Result<(i64, i64, i64)> {
    let counted = sqlx::query_as(
        "SELECT count(*), count(DISTINCT player_id), (SELECT count(*) FROM inbox_events WHERE event->'f'->'payload'->>'subject' = $1)
         FROM notifications WHERE subject = $1",
    );
    Ok(counted.bind(subject).fetch_one(&database.pool).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_once_by_whichever_services_there_are() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    crowd(&database, 3_000).await?;
    let services = [Service::start(&database, "one").await?, Service::start(&database, "two").await?];
    let request = CreateNotificationJobRequest {
        request_id: "all".into(),
        target: Some(everybody()),
        r#type: "news".into(),
        subject: "all".into(),
        ..CreateNotificationJobRequest::default()
    };
    let mut created = Vec::new();
    for service in &services {
        let answer = service.notification_admin().create_notification_job(request.clone()).await?.into_inner();
        created.push(answer.job.unwrap_or_default().id);
    }
    assert_eq!(created[0], created[1], "one request is one job");
    let late = player(&database).await?;
    let job = services[1].over(&created[0]).await?;
    assert_eq!((job.state(), job.total, job.done, job.told, job.failed), (State::Done, Some(3_000), 3_000, 3_000, 0));
    assert!(job.started_at.is_some() && job.finished_at.is_some());
    assert_eq!(told(&database, "all").await?, (3_000, 3_000, 3_000));
    assert!(services[0].notified(late, None).await?.is_empty(), "who came after the job is not told");
    for service in services {
        service.drain().await?;
    }
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_lets_pass_whom_it_says() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    crowd(&database, 60).await?;
    sqlx::query("UPDATE players SET inserted_at = now() - interval '10 days' WHERE username IN ('p1', 'p2', 'p3')")
        .execute(&database.pool)
        .await?;
    let service = Service::start(&database, "social").await?;
    let long_ago = sqlx::query_scalar::<_, i64>("SELECT (extract(epoch FROM now()) - 86400)::bigint");
    let long_ago = Some(prost_types::Timestamp { seconds: long_ago.fetch_one(&database.pool).await?, nanos: 0 });
    let narrow = |change: fn(&mut PlayerFilter)| {
        let mut filter = PlayerFilter::default();
        change(&mut filter);
        filter
    };
    for (name, filter, expected) in [
        ("guests", narrow(|f| f.guest = Some(true)), 30),
        ("accounts", narrow(|f| f.guest = Some(false)), 30),
        ("german", narrow(|f| f.language = "DE".into()), 20),
        ("austrian", narrow(|f| f.language = "de-at".into()), 10),
        ("french", narrow(|f| f.language = "fr".into()), 0),
        ("old", PlayerFilter { registered_before: long_ago, ..PlayerFilter::default() }, 3),
        ("new", PlayerFilter { registered_after: long_ago, ..PlayerFilter::default() }, 57),
        ("old guests", PlayerFilter { registered_before: long_ago, guest: Some(true), ..PlayerFilter::default() }, 1),
    ] {
        let job = service.job(Target::Filter(filter), name).await?;
        let job = service.over(&job.id).await?;
        assert_eq!((job.state(), job.total, job.told), (State::Done, Some(expected), expected), "{name}");
        assert_eq!(told(&database, name).await?.1, expected, "{name}");
    }

    // A list, with one who is gone and one named twice; a group.
    let (ada, bo) = (player(&database).await?, player(&database).await?);
    let job = service.job(list(&[ada, bo, ada, Uuid::now_v7()]), "listed").await?;
    assert_eq!(job.total, Some(3));
    let job = service.over(&job.id).await?;
    assert_eq!((job.done, job.told, job.failed), (3, 2, 1));
    let group = CreateGroupRequest { actor_id: ada.to_string(), name: "Guild".into(), ..CreateGroupRequest::default() };
    let group = service.groups().create_group(group).await?.into_inner().group.unwrap_or_default();
    let members = PlayerFilter { group_id: group.id, ..PlayerFilter::default() };
    let job = service.job(Target::Filter(members), "group").await?;
    assert_eq!(service.over(&job.id).await?.told, 1);
    assert_eq!(service.notified(ada, None).await?.len(), 2);
    let nowhere = PlayerFilter { group_id: Uuid::now_v7().to_string(), ..PlayerFilter::default() };
    assert_eq!(code(service.job(Target::Filter(nowhere), "x").await), Some(ErrorCode::SOCIAL_GROUP_NOT_FOUND));
    for target in [list(&[]), list(&vec![ada; 10_001]), Target::Filter(narrow(|f| f.language = "not one".into()))] {
        assert_eq!(code(service.job(target, "x").await), Some(ErrorCode::INVALID_PAYLOAD));
    }
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_tells_nobody_else_and_another_goes_on() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    crowd(&database, 2_000).await?;
    let service = Service::start(&database, "social").await?;
    // Nobody's turn comes while the players' table is held.
    let mut held = database.pool.begin().await?;
    sqlx::query("LOCK TABLE notifications IN EXCLUSIVE MODE").execute(&mut *held).await?;
    let (first, second) = (service.job(everybody(), "first").await?, service.job(everybody(), "second").await?);
    let cancel = CancelNotificationJobRequest { request_id: "stop".into(), job_id: second.id.clone() };
    let cancelled = service.notification_admin().cancel_notification_job(cancel.clone()).await?.into_inner().job;
    assert_eq!(cancelled.unwrap_or_default().state(), State::Cancelled);
    held.rollback().await?;
    assert_eq!(service.over(&first.id).await?.told, 2_000);
    assert_eq!(service.over(&second.id).await?.done, 0);
    assert_eq!(told(&database, "second").await?.0, 0);
    service.notification_admin().cancel_notification_job(cancel).await?;
    let gone = CancelNotificationJobRequest { request_id: String::new(), job_id: Uuid::now_v7().to_string() };
    assert_eq!(code(service.notification_admin().cancel_notification_job(gone).await), Some(ErrorCode::OPS_NOT_FOUND));

    let page = async |page_token: String| {
        let request = ListNotificationJobsRequest { page_size: 1, page_token };
        anyhow::Ok(service.notification_admin().list_notification_jobs(request).await?.into_inner())
    };
    let newest = page(String::new()).await?;
    assert_eq!(newest.jobs[0].id, second.id);
    assert_eq!(page(newest.next_page_token).await?.jobs[0].id, first.id);
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_again_and_again_is_given_up_and_keeps_nobody_waiting() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let ada = player(&database).await?;
    // A job of a release that writes messages otherwise.
    let broken: Uuid = sqlx::query_scalar(
        "INSERT INTO notification_jobs (id, created_by, message) VALUES (gen_random_uuid(), 'test', '{}') RETURNING id",
    )
    .fetch_one(&database.pool)
    .await?;
    let service = Service::start(&database, "social").await?;
    let job = service.over(&broken.to_string()).await?;
    assert_eq!((job.state(), job.failure.as_str()), (State::Failed, "its message cannot be read"));

    // One whose notifications the rows refuse is put off, while another one is done.
    let refused: Uuid = sqlx::query_scalar(
        r#"INSERT INTO notification_jobs (id, created_by, message)
           VALUES (gen_random_uuid(), 'test', '{"type":"","default_language":"","texts":{"":{"subject":"","content":{}}}}') RETURNING id"#,
    )
    .fetch_one(&database.pool)
    .await?;
    until("it was tried", async || Ok((!service.look(&refused.to_string()).await?.failure.is_empty()).then_some(())))
        .await?;
    let other = service.job(list(&[ada]), "other").await?;
    assert_eq!(service.over(&other.id).await?.told, 1);
    assert_eq!(service.look(&refused.to_string()).await?.state(), State::Waiting, "nobody has been told");
    sqlx::query("UPDATE notification_jobs SET failures = 19, retry_at = now() WHERE id = $1")
        .bind(refused)
        .execute(&database.pool)
        .await?;
    assert_eq!(service.over(&refused.to_string()).await?.state(), State::Failed);
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_player_is_told_in_their_language() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    crowd(&database, 12).await?;
    let service = Service::start(&database, "social").await?;
    let text = |language: &str, subject: &str| TemplateText {
        language: language.into(),
        subject: subject.into(),
        content_json: r#"{"text":"{count}"}"#.into(),
    };
    let template = NotificationTemplate {
        id: "season.start".into(),
        r#type: "season".into(),
        default_language: "en".into(),
        texts: vec![text("en", "Season {count}"), text("de", "Saison {count}")],
        ..NotificationTemplate::default()
    };
    let put = service.put(template.clone()).await?;
    assert_eq!((put.texts.len(), put.updated_by.as_str()), (2, "node"));
    for change in [
        (|t| t.id = "with space".into()) as fn(&mut NotificationTemplate),
        |t| t.default_language = "fr".into(),
        |t| t.texts[0].subject = "{".into(),
        |t| t.r#type = String::new(),
    ] {
        let mut wrong = template.clone();
        change(&mut wrong);
        assert_eq!(service.put(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }

    let params = |count: &str| BTreeMap::from([("count".to_owned(), count.to_owned())]);
    let request = CreateNotificationJobRequest {
        target: Some(everybody()),
        template_id: "season.start".into(),
        params: params("3"),
        ..CreateNotificationJobRequest::default()
    };
    let missing = CreateNotificationJobRequest { params: BTreeMap::new(), ..request.clone() };
    assert_eq!(
        code(service.notification_admin().create_notification_job(missing).await),
        Some(ErrorCode::INVALID_PAYLOAD)
    );
    let job = service.notification_admin().create_notification_job(request).await?.into_inner().job.unwrap_or_default();
    assert_eq!((job.subject.as_str(), job.r#type.as_str()), ("Season 3", "season"));
    service.over(&job.id).await?;
    assert_eq!((told(&database, "Saison 3").await?.1, told(&database, "Season 3").await?.1), (4, 8));

    // To some, by name: the same texts.
    let (ada, bo) = (player(&database).await?, player(&database).await?);
    sqlx::query(r#"UPDATE players SET metadata = '{"language":"de-CH"}' WHERE id = $1"#)
        .bind(ada)
        .execute(&database.pool)
        .await?;
    let send = SendNotificationRequest {
        player_ids: vec![ada.to_string(), bo.to_string()],
        template_id: "season.start".into(),
        params: params("4"),
        ..SendNotificationRequest::default()
    };
    service.notifications().send_notification(send.clone()).await?;
    assert_eq!(service.notified(ada, None).await?[0].subject, "Saison 4");
    let plain = service.notified(bo, None).await?;
    assert_eq!((plain[0].subject.as_str(), plain[0].content_json.as_str()), ("Season 4", r#"{"text":"4"}"#));
    let both = SendNotificationRequest { subject: "x".into(), ..send.clone() };
    assert_eq!(code(service.notifications().send_notification(both).await), Some(ErrorCode::INVALID_PAYLOAD));

    let mut admin = service.notification_admin();
    let listed = admin.list_templates(ListTemplatesRequest::default()).await?.into_inner();
    assert_eq!(listed.templates.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), ["season.start"]);
    admin
        .delete_template(DeleteTemplateRequest { template_id: "season.start".into(), request_id: String::new() })
        .await?;
    let get = GetTemplateRequest { template_id: "season.start".into() };
    assert_eq!(code(admin.get_template(get).await), Some(ErrorCode::OPS_NOT_FOUND));
    assert_eq!(code(service.notifications().send_notification(send).await), Some(ErrorCode::OPS_NOT_FOUND));
    service.drain().await?;
    database.drop_now().await
}
