use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        AddWordRequest, DeleteMessageRequest, GetReportRequest, ListReportsRequest, ListWordsRequest,
        RemoveWordRequest, Report, ReportPlayerRequest, ReportState, ResolveReportRequest, WordAction,
        moderation_service_client::ModerationServiceClient,
    },
};
use asobi_service_kit::grpc::ClusterChannel;
use asobi_store::{
    audit::{self, Filter},
    chat::{self, Batch, NewMessage, WriterId},
    reports,
    testing::TestDatabase,
};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::stage::{Service, code, player};

const LOBBY: &str = "global:lobby";

impl Service {
    fn moderation(&self) -> ModerationServiceClient<ClusterChannel> {
        ModerationServiceClient::new(self.channel())
    }

    async fn report(&self, request: ReportPlayerRequest) -> Result<Report, Status> {
        Ok(self.moderation().report_player(request).await?.into_inner().report.unwrap_or_default())
    }

    async fn reports(&self, request: ListReportsRequest) -> Result<(Vec<String>, String), Status> {
        let page = self.moderation().list_reports(request).await?.into_inner();
        Ok((page.reports.into_iter().map(|report| report.id).collect(), page.next_page_token))
    }

    async fn delete(&self, seq: i64, message_id: &str, request_id: &str) -> Result<i64, Status> {
        let request = DeleteMessageRequest {
            channel_id: LOBBY.into(),
            seq,
            message_id: message_id.into(),
            request_id: request_id.into(),
        };
        Ok(self.moderation().delete_message(request).await?.into_inner().seq)
    }
}

/// What these players said in the lobby, by its ids.
async fn said(database: &TestDatabase, messages: &[(Uuid, &str)]) -> anyhow::Result<Vec<Uuid>> {
    let new: Vec<NewMessage> = messages
        .iter()
        .map(|(sender, content)| NewMessage {
            message_id: Uuid::now_v7(),
            channel_id: LOBBY.into(),
            sender_id: *sender,
            content: (*content).into(),
            idempotency_key: None,
            sender_known: false,
        })
        .collect();
    let writer = WriterId { id: Uuid::now_v7(), node_id: "test".into() };
    let messages: Vec<&NewMessage> = new.iter().collect();
    let mut conn = database.pool.acquire().await?;
    chat::append(&mut conn, &Batch { writer: &writer, number: 1, messages: &messages }).await?;
    Ok(new.iter().map(|message| message.message_id).collect())
}

fn about(reporter: Uuid, player: Option<Uuid>, seq: i64) -> ReportPlayerRequest {
    ReportPlayerRequest {
        reporter_id: reporter.to_string(),
        player_id: player.map(|id| id.to_string()).unwrap_or_default(),
        channel_id: if seq > 0 { LOBBY.into() } else { String::new() },
        seq,
        kind: "spam".into(),
        note: "again".into(),
        ..ReportPlayerRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_keeps_the_message_and_is_resolved_once() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo, cy) = (player(&database).await?, player(&database).await?, player(&database).await?);
    let ids = said(&database, &[(bo, "buy gold"), (cy, "hello")]).await?;

    let made = service.report(about(ada, None, 1)).await?;
    assert_eq!((made.player_id.as_str(), made.state()), (bo.to_string().as_str(), ReportState::Open));
    // Deleted since, it is still there for whoever judges.
    assert_eq!(service.delete(0, &ids[0].to_string(), "one").await?, 1);
    let which = GetReportRequest { report_id: made.id.clone() };
    let kept = service.moderation().get_report(which.clone()).await?.into_inner().report.unwrap_or_default();
    let message = kept.message.clone().unwrap_or_default();
    assert_eq!((message.content.as_str(), message.seq, message.message_id), ("buy gold", 1, ids[0].to_string()));
    assert_eq!(service.report(about(ada, Some(bo), 1)).await?, kept, "the same once more is the same report");
    let whole = service.report(about(ada, Some(bo), 0)).await?;
    assert!(whole.id != made.id && whole.message.is_none());

    let field = |change: fn(&mut ReportPlayerRequest), player| {
        let mut request = about(ada, player, 0);
        change(&mut request);
        request
    };
    for (request, expected) in [
        (about(ada, Some(cy), 1), ErrorCode::VALIDATION_FAILED),
        (about(ada, None, 99), ErrorCode::VALIDATION_FAILED),
        (about(bo, None, 1), ErrorCode::VALIDATION_FAILED),
        (about(ada, Some(Uuid::now_v7()), 0), ErrorCode::PLAYER_NOT_FOUND),
        (about(ada, None, 0), ErrorCode::PLAYER_NOT_FOUND),
        (field(|r| r.kind = "Spam!".into(), Some(bo)), ErrorCode::VALIDATION_FAILED),
        (field(|r| r.note = "x".repeat(1_001), Some(bo)), ErrorCode::INVALID_PAYLOAD),
        (field(|r| r.channel_id = LOBBY.into(), Some(bo)), ErrorCode::INVALID_PAYLOAD),
    ] {
        assert_eq!(code(service.report(request.clone()).await), Some(expected), "{request:?}");
    }

    let resolve = |remark: &str, request_id: &str| ResolveReportRequest {
        report_id: made.id.clone(),
        resolution: "banned".into(),
        remark: remark.into(),
        request_id: request_id.into(),
    };
    for _ in 0..2 {
        let resolved = service.moderation().resolve_report(resolve("clear", "r1")).await?.into_inner().report;
        let resolved = resolved.unwrap_or_default();
        assert_eq!((resolved.state(), resolved.resolution.as_str()), (ReportState::Resolved, "banned"));
        assert_eq!((resolved.remark.as_str(), resolved.resolved_by.as_str()), ("clear", "node"));
    }
    let late = service.moderation().resolve_report(resolve("other", "r2")).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late:?}");
    // Said again after that, it is another one.
    assert_ne!(service.report(about(ada, None, 1)).await?.id, made.id);

    let written =
        audit::list(&database.pool, &Filter { subject: Some(bo.to_string()), ..Filter::default() }, 10).await?;
    let actions: Vec<&str> = written.iter().map(|kept| kept.entry.action.as_str()).collect();
    assert_eq!(actions, ["ModerationService/ResolveReport", "ModerationService/DeleteMessage"]);
    assert!(written.iter().all(|kept| !kept.entry.detail.to_string().contains("gold")));
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_listed_in_pages_and_bounded_for_each_reporter() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo) = (player(&database).await?, player(&database).await?);
    let most = usize::try_from(reports::OPEN)?;
    said(&database, &vec![(bo, "x"); most + 1]).await?;
    let mut made = Vec::new();
    for seq in 1..=reports::OPEN {
        made.push(service.report(about(ada, None, seq)).await?.id);
    }
    assert_eq!(code(service.report(about(ada, None, reports::OPEN + 1)).await), Some(ErrorCode::RATE_LIMITED));
    assert!(service.report(about(bo, Some(ada), 0)).await.is_ok(), "others are not bounded by that");

    made.reverse();
    let mut request = ListReportsRequest { player_id: bo.to_string(), page_size: 40, ..ListReportsRequest::default() };
    let mut listed = Vec::new();
    loop {
        let (page, next) = service.reports(request.clone()).await?;
        assert!(page.len() <= 40);
        listed.extend(page);
        if next.is_empty() {
            break;
        }
        request.page_token = next;
    }
    assert_eq!(listed, made);
    let resolved = ListReportsRequest { state: ReportState::Resolved.into(), ..ListReportsRequest::default() };
    assert!(service.reports(resolved).await?.0.is_empty());
    let wrong = ListReportsRequest { page_token: "x".into(), ..ListReportsRequest::default() };
    assert_eq!(code(service.reports(wrong).await), Some(ErrorCode::INVALID_PAYLOAD));
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_deleted_once_and_words_are_kept() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let ada = player(&database).await?;
    said(&database, &[(ada, "one"), (ada, "two")]).await?;
    for request_id in ["a", "a", "b"] {
        assert_eq!(service.delete(2, "", request_id).await?, 2);
    }
    let history = chat::history(&database.pool, LOBBY, None, 10).await?;
    let shown: Vec<_> = history.iter().map(|m| (m.seq, m.content.as_str(), m.deleted)).collect();
    assert_eq!(shown, [(1, "one", false), (2, "", true)]);
    let deletions = chat::deletions::since(&database.pool, 0, 10).await?;
    assert_eq!(deletions.iter().map(|d| (d.version, d.seq)).collect::<Vec<_>>(), [(1, 2)]);
    assert_eq!(code(service.delete(3, "", "c").await), Some(ErrorCode::OPS_NOT_FOUND));
    assert_eq!(code(service.delete(0, "", "d").await), Some(ErrorCode::INVALID_PAYLOAD));

    let add = |word: &str, action: WordAction| AddWordRequest {
        word: word.into(),
        action: action.into(),
        whole: true,
        request_id: String::new(),
    };
    for (word, action) in [("Zounds", WordAction::Mask), (" böse ", WordAction::Refuse), ("zounds", WordAction::Refuse)]
    {
        service.moderation().add_word(add(word, action)).await?;
    }
    let words = service.moderation().list_words(ListWordsRequest {}).await?.into_inner().words;
    let listed: Vec<_> = words.iter().map(|word| (word.word.as_str(), word.action(), word.added_by.as_str())).collect();
    assert_eq!(listed, [("böse", WordAction::Refuse, "node"), ("zounds", WordAction::Refuse, "node")]);
    assert_eq!(code(service.moderation().add_word(add(" ", WordAction::Mask)).await), Some(ErrorCode::INVALID_PAYLOAD));
    for _ in 0..2 {
        let request = RemoveWordRequest { word: "ZOUNDS".into(), request_id: String::new() };
        service.moderation().remove_word(request).await?;
    }
    assert_eq!(service.moderation().list_words(ListWordsRequest {}).await?.into_inner().words.len(), 1);
    service.drain().await?;
    database.drop_now().await
}
