//! Tokens, the audit and the cluster's keys, over real nodes and a real database.

use std::time::{Duration, Instant};

use asobi_cluster::{Node, NodeAddresses, Role, access, ops};
use asobi_proto::{
    error::ErrorCode,
    ops_v1::{
        AuditEntry, AuditOutcome, CreateTokenRequest, CreateTokenResponse, ListAuditRequest, ListNodesRequest,
        ListTokensRequest, RevokeTokenRequest, RotateClusterKeyRequest, Scope, WitnessRequest,
        access_service_client::AccessServiceClient, ops_service_client::OpsServiceClient,
    },
};
use asobi_service_kit::{
    Config, Readiness, Shutdown,
    grpc::{BearerToken, Channels, ClusterChannel, error_code, with_deadline},
    server,
};
use asobi_store::testing::TestDatabase;
use sqlx::PgPool;
use tonic::{Code, Status};

const LONG: Duration = Duration::from_secs(30);
/// A hint takes milliseconds; a machine that is busy with other tests, more.
const SOON: Duration = Duration::from_secs(3);

/// One process with the services that every process has.
struct Process {
    node: Node,
    address: String,
    shutdown: Shutdown,
}

impl Process {
    async fn start(database: &TestDatabase, id: &str, sets: &[(&str, &str)]) -> anyhow::Result<Self> {
        let own = [("database.url", database.url.as_str()), ("node.id", id)];
        let config = Config::with_sets(own.iter().chain(sets).copied())?;
        let shutdown = Shutdown::manual(LONG);
        let (grpc, at) = server::bind("grpc.listen", "127.0.0.1:0").await?;
        let addresses = NodeAddresses { http: None, grpc: at, metrics: at };
        let node = Node::join(&config, Role::Social, addresses, [], &shutdown).await?;
        let routes = ops::routes(&node, &config);
        server::serve_grpc(grpc, routes, &Readiness::new(), node.access.clone(), &shutdown);
        Ok(Self { node, address: at.to_string(), shutdown })
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.node.leave().await;
    }

    /// As a process of the cluster.
    fn channel(&self) -> ClusterChannel {
        self.node.channels.get(&self.address)
    }

    fn access(&self) -> AccessServiceClient<ClusterChannel> {
        AccessServiceClient::new(self.channel())
    }

    fn with(&self, secret: &str) -> ClusterChannel {
        let token = BearerToken::default();
        token.set(secret);
        Channels::bearer(token).get(&self.address)
    }

    async fn nodes(&self, secret: &str) -> Result<usize, Status> {
        let mut client = OpsServiceClient::new(self.with(secret));
        Ok(client.list_nodes(with_deadline(ListNodesRequest::default(), LONG)).await?.into_inner().nodes.len())
    }
}

fn wanted(name: &str, scopes: &[Scope]) -> CreateTokenRequest {
    let scopes = scopes.iter().map(|scope| i32::from(*scope)).collect();
    CreateTokenRequest { request_id: format!("make {name}"), name: name.into(), scopes, ttl_s: 0 }
}

async fn create(channel: ClusterChannel, request: &CreateTokenRequest) -> Result<CreateTokenResponse, Status> {
    Ok(AccessServiceClient::new(channel).create_token(with_deadline(request.clone(), LONG)).await?.into_inner())
}

/// Entries of an actor, waited for until there are so many: refusals are written down later. Newest first.
async fn entries(process: &Process, actor: &str, many: usize) -> anyhow::Result<Vec<AuditEntry>> {
    let started = Instant::now();
    loop {
        let request = ListAuditRequest { actor: actor.into(), ..ListAuditRequest::default() };
        let entries = process.access().list_audit(with_deadline(request, LONG)).await?.into_inner().entries;
        if entries.len() >= many {
            return Ok(entries);
        }
        anyhow::ensure!(started.elapsed() < LONG, "{actor} has {entries:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn revoke(process: &Process, token_id: &str) -> Result<(), Status> {
    let request = RevokeTokenRequest { request_id: String::new(), token_id: token_id.into() };
    process.access().revoke_token(with_deadline(request, LONG)).await.map(|_| ())
}

#[tokio::test]
async fn a_token_opens_what_its_scopes_say_until_it_is_revoked() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (one, two) = (Process::start(&database, "one", &[]).await?, Process::start(&database, "two", &[]).await?);
    let reader = create(one.channel(), &wanted("reader", &[Scope::Read])).await?;
    assert!(reader.secret.starts_with("asobi_") && reader.notice.is_empty(), "{reader:?}");
    let kept: Vec<u8> = sqlx::query_scalar("SELECT response FROM operator_requests").fetch_one(&database.pool).await?;
    assert!(!String::from_utf8_lossy(&kept).contains(&reader.secret), "the secret is kept nowhere");
    let again = create(two.channel(), &wanted("reader", &[Scope::Read])).await?;
    assert!(again.secret.is_empty() && !again.notice.is_empty() && again.token == reader.token, "{again:?}");

    assert_eq!((one.nodes(&reader.secret).await?, two.nodes(&reader.secret).await?), (2, 2));
    let refused = create(two.with(&reader.secret), &wanted("more", &[Scope::Read])).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "needs the scope operate"));
    let mut client = OpsServiceClient::new(two.with(&reader.secret));
    let refused = client.witness(with_deadline(WitnessRequest {}, LONG)).await.unwrap_err();
    assert_eq!((refused.code(), error_code(&refused)), (Code::PermissionDenied, Some(ErrorCode::FORBIDDEN)));

    let token = reader.token.expect("a token");
    assert_eq!(token.scopes, [i32::from(Scope::Read)]);
    revoke(&one, &token.token_id).await?;
    let refused = one.nodes(&reader.secret).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "its token was revoked"), "here at once");
    let since = Instant::now();
    while two.nodes(&reader.secret).await.is_ok() {
        assert!(since.elapsed() < SOON, "the other node does not hear of it");
    }
    revoke(&one, &token.token_id).await?;

    let entries = entries(&one, "token:reader", 4).await?;
    assert!(entries.iter().all(|entry| entry.outcome() == AuditOutcome::Refused), "{entries:?}");
    let last = entries.last().expect("entries");
    assert_eq!(last.action, "AccessService/CreateToken");
    let detail: serde_json::Value = serde_json::from_str(&last.detail_json)?;
    assert_eq!((&detail["why"], &detail["from"]), (&"needs the scope operate".into(), &"127.0.0.1".into()));
    let of_nodes = self::entries(&one, "node", 3).await?;
    let done: Vec<_> = of_nodes.iter().map(|entry| (entry.action.as_str(), entry.subject.as_str())).collect();
    let (made, revoked) = (("AccessService/CreateToken", "reader"), ("AccessService/RevokeToken", "reader"));
    assert_eq!(done, [revoked, revoked, made]);
    one.stop().await;
    two.stop().await;
    Ok(())
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let one = Process::start(&database, "one", &[]).await?;
    let operator = create(one.channel(), &wanted("operator", &[Scope::Read, Scope::Operate])).await?;
    let eraser = create(one.channel(), &wanted("eraser", &[Scope::Erase])).await?;
    create(one.with(&operator.secret), &wanted("child", &[Scope::Operate])).await?;
    let refused =
        create(one.with(&operator.secret), &wanted("mighty", &[Scope::Operate, Scope::Erase])).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "needs the scope erase itself"));
    let request = RevokeTokenRequest { token_id: eraser.token.expect("one").token_id, ..RevokeTokenRequest::default() };
    let mut client = AccessServiceClient::new(one.with(&operator.secret));
    let refused = client.revoke_token(with_deadline(request, LONG)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(entries(&one, "token:operator", 3).await?.len(), 3);

    let wrong = [
        wanted("", &[Scope::Read]),
        wanted("ctl:root@db", &[Scope::Read]),
        wanted("child", &[Scope::Read]),
        wanted("none", &[]),
        wanted("none", &[Scope::Unspecified]),
        CreateTokenRequest { ttl_s: 59, ..wanted("none", &[Scope::Read]) },
        CreateTokenRequest { ttl_s: i64::MAX, ..wanted("none", &[Scope::Read]) },
    ];
    for mut request in wrong {
        request.request_id = String::new();
        let refused = create(one.channel(), &request).await.unwrap_err();
        assert_eq!(
            (refused.code(), error_code(&refused)),
            (Code::InvalidArgument, Some(ErrorCode::INVALID_PAYLOAD)),
            "{request:?}"
        );
    }
    let unknown = revoke(&one, &uuid::Uuid::nil().to_string()).await.unwrap_err();
    assert_eq!(error_code(&unknown), Some(ErrorCode::OPS_NOT_FOUND));
    one.stop().await;
    Ok(())
}

#[tokio::test]
async fn tokens_end_and_are_forgotten_later() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let one = Process::start(&database, "one", &[]).await?;
    let secret = access::bootstrap(&database.pool, "ctl:ada@desk", LONG).await?;
    assert_eq!(one.nodes(&secret).await?, 1);
    let guess = one.nodes(&format!("asobi_{:064x}", 7)).await.unwrap_err();
    assert_eq!(guess.code(), Code::Unauthenticated, "{guess}");
    let entry = entries(&one, "unknown token", 1).await?.remove(0);
    assert!(!entry.detail_json.contains("asobi_"), "never the token itself: {entry:?}");

    let older = |by: &'static str| {
        sqlx::query(
            "UPDATE operator_tokens SET expires_at = expires_at - $1::interval, created_at = created_at - $1::interval",
        )
        .bind(by)
        .execute(&database.pool)
    };
    older("16 minutes").await?;
    let since = Instant::now();
    // What a node remembers of a token it does for seconds, and no hint tells of a row that a test has changed.
    let refused = loop {
        match one.nodes(&secret).await {
            Ok(_) => assert!(since.elapsed() < LONG, "it stays good"),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "its token has expired"));
    let count = async || -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM operator_tokens").fetch_one(&database.pool).await?)
    };
    asobi_store::operators::upkeep(&database.pool).await?;
    assert_eq!(count().await?, 1, "for an hour it is known as expired");
    older("1 hour").await?;
    let rows = asobi_store::operators::upkeep(&database.pool).await?;
    assert_eq!((rows, count().await?), (1, 0));
    let made = entries(&one, "ctl:ada@desk", 1).await?.remove(0);
    assert_eq!((made.action.as_str(), made.outcome()), ("AccessService/CreateToken", AuditOutcome::Done));
    one.stop().await;
    Ok(())
}

#[tokio::test]
async fn lists_come_in_pages() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let one = Process::start(&database, "one", &[]).await?;
    for name in ["a", "b", "c", "d", "e"] {
        create(one.channel(), &wanted(name, &[Scope::Read])).await?;
    }
    let (mut tokens, mut audit) = (Vec::new(), Vec::new());
    let mut page_token = String::new();
    loop {
        let request = ListTokensRequest { page_size: 2, page_token };
        let page = one.access().list_tokens(with_deadline(request, LONG)).await?.into_inner();
        assert!(page.tokens.len() <= 2);
        tokens.extend(page.tokens.into_iter().map(|token| token.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    loop {
        let action = "AccessService/CreateToken".into();
        let request = ListAuditRequest { page_size: 2, page_token, action, ..ListAuditRequest::default() };
        let page = one.access().list_audit(with_deadline(request, LONG)).await?.into_inner();
        audit.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(tokens, ["e", "d", "c", "b", "a"]);
    assert_eq!(audit.iter().map(|entry| entry.subject.as_str()).collect::<Vec<_>>(), ["e", "d", "c", "b", "a"]);

    let found = async |request: ListAuditRequest| -> Result<usize, Status> {
        Ok(one.access().list_audit(with_deadline(request, LONG)).await?.into_inner().entries.len())
    };
    let of = ListAuditRequest { subject: "c".into(), ..ListAuditRequest::default() };
    assert_eq!(found(of).await?, 1);
    let before = ListAuditRequest { until: audit[2].at, ..ListAuditRequest::default() };
    let from = ListAuditRequest { from: audit[2].at, ..ListAuditRequest::default() };
    assert_eq!((found(before).await?, found(from).await?), (2, 3));
    let wrong = ListAuditRequest { page_token: "made up".into(), ..ListAuditRequest::default() };
    assert_eq!(found(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    one.stop().await;
    Ok(())
}

/// Pretends that so much time has passed for the keys.
async fn later(pool: &PgPool, seconds: f64) -> anyhow::Result<()> {
    sqlx::query(
        "UPDATE cluster_keys SET active_from = active_from - make_interval(secs => $1), retires_at = retires_at - make_interval(secs => $1)",
    )
    .bind(seconds)
    .execute(pool)
    .await?;
    Ok(())
}

/// Waits until all of them show this key, which whoever knows no other sees.
async fn shown(processes: &[&Process], database: &TestDatabase, key: &str) -> anyhow::Result<()> {
    let config = Config::with_sets([("database.url", database.url.as_str())])?;
    let (grpc, at) = server::bind("grpc.listen", "127.0.0.1:0").await?;
    let host = processes[0];
    server::serve_grpc(grpc, ops::routes(&host.node, &config), &Readiness::new(), key, &host.shutdown);
    let since = Instant::now();
    for process in processes {
        let mut client = OpsServiceClient::new(process.node.channels.get(&at.to_string()));
        while client.list_nodes(with_deadline(ListNodesRequest::default(), LONG)).await.is_err() {
            anyhow::ensure!(since.elapsed() < LONG, "{} does not show the new key", process.address);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_is_known_before_it_is_shown() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (one, two) = (Process::start(&database, "one", &[]).await?, Process::start(&database, "two", &[]).await?);
    let old: String = sqlx::query_scalar("SELECT value FROM cluster_keys").fetch_one(&database.pool).await?;
    let request = RotateClusterKeyRequest { request_id: "once".into(), overlap_s: 30 };
    let rotate = async |process: &Process, request: &RotateClusterKeyRequest| {
        process.access().rotate_cluster_key(with_deadline(request.clone(), LONG)).await.map(tonic::Response::into_inner)
    };
    let rotated = rotate(&one, &request).await?;
    assert_eq!(rotate(&two, &request).await?, rotated, "the same request is done once");
    let (active, retires) = (rotated.active_from.expect("when"), rotated.old_retires_at.expect("when"));
    assert_eq!(retires.seconds - active.seconds, 30);
    let busy = rotate(&one, &RotateClusterKeyRequest::default()).await.unwrap_err();
    assert_eq!(error_code(&busy), Some(ErrorCode::RATE_LIMITED), "{busy}");

    let new: String =
        sqlx::query_scalar("SELECT value FROM cluster_keys WHERE retires_at IS NULL").fetch_one(&database.pool).await?;
    let asks = async |process: &Process, key: &str| {
        let mut client = OpsServiceClient::new(Channels::new(key).get(&process.address));
        client
            .list_nodes(with_deadline(ListNodesRequest::default(), LONG))
            .await
            .map(|_| ())
            .map_err(|status| status.code())
    };
    for process in [&one, &two] {
        assert_eq!((asks(process, &old).await, asks(process, &new).await), (Ok(()), Ok(())), "both are accepted");
    }
    later(&database.pool, 16.0).await?;
    assert_eq!(asks(&two, &old).await, Ok(()));
    shown(&[&one, &two], &database, &new).await?;
    later(&database.pool, 31.0).await?;
    let since = Instant::now();
    while asks(&two, &old).await.is_ok() {
        assert!(since.elapsed() < LONG, "the old key does not retire");
        // All the while the nodes themselves are let in.
        OpsServiceClient::new(two.node.channels.get(&one.address))
            .list_nodes(with_deadline(ListNodesRequest::default(), LONG))
            .await?;
    }
    assert_eq!((asks(&two, &old).await, asks(&two, &new).await), (Err(Code::Unauthenticated), Ok(())));
    assert!(!entries(&one, "unknown key", 1).await?.is_empty(), "a retired key is written down");
    one.stop().await;
    two.stop().await;
    Ok(())
}

#[tokio::test]
async fn configured_keys_are_rotated_in_the_configuration() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (old, new) = ("the-old-key-of-ours", "the-new-key-of-ours");
    // In the middle of a roll-out: one still shows the old key, the other the new one already.
    let one = Process::start(&database, "one", &[("cluster.key", old), ("cluster.previous_key", new)]).await?;
    let two = Process::start(&database, "two", &[("cluster.key", new), ("cluster.previous_key", old)]).await?;
    for (from, to) in [(&one, &two), (&two, &one)] {
        let mut client = OpsServiceClient::new(from.node.channels.get(&to.address));
        client.list_nodes(with_deadline(ListNodesRequest::default(), LONG)).await?;
    }
    let refused =
        one.access().rotate_cluster_key(with_deadline(RotateClusterKeyRequest::default(), LONG)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("cluster.previous_key"), "{refused}");
    one.stop().await;
    two.stop().await;
    Ok(())
}
