//! Each service alone, as in a deployment: started by its own subcommand, reached by its own addresses.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use asobi_proto::ops_v1::{ListNodesRequest, ops_service_client::OpsServiceClient};
use asobi_service_kit::grpc::Channels;
use asobi_store::testing::TestDatabase;
use sqlx::Executor as _;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::child::{Running, output, until};

const KEY: &str = "only-these-processes-know-it";
/// What a process may take to end, with nothing to do.
const GRACE: Duration = Duration::from_secs(10);

/// Addresses of a service, from the registry.
struct Addresses {
    http: Option<String>,
    grpc: String,
    metrics: String,
}

async fn ready(database: &TestDatabase, running: &mut Running) -> anyhow::Result<Addresses> {
    let pid = running.pid()?;
    let mut found = None;
    until("the ready service", async || {
        running.lives()?;
        let row: Option<(Option<String>, String, String)> = sqlx::query_as(
            "SELECT http_url, grpc_addr, metrics_addr FROM nodes WHERE node_id = 'alone' AND pid = $1 AND state = 'ready'",
        )
        .bind(pid)
        .fetch_optional(&database.pool)
        .await?;
        found = row.map(|(http, grpc, metrics)| Addresses { http, grpc, metrics });
        Ok(found.is_some())
    })
    .await
    .with_context(|| running.said())?;
    found.context("addresses")
}

async fn get(url: &str) -> anyhow::Result<(u16, String)> {
    let response = reqwest::get(url).await?;
    Ok((response.status().as_u16(), response.text().await?))
}

/// The line that says how long the start took, and with what.
async fn start_is_told(running: &Running) -> anyhow::Result<()> {
    let mut told = String::new();
    until("the line of the start", async || {
        told = running.said().lines().find(|line| line.contains(" is ready ")).unwrap_or_default().to_owned();
        Ok(!told.is_empty())
    })
    .await
    .with_context(|| running.said())?;
    let (_, longest) = told.split_once("start.longest=").with_context(|| told.clone())?;
    assert!(told.contains("start.ms=") && longest.split(", ").all(|step| step.contains(" ms")), "{told}");
    assert_eq!(longest.split(", ").count(), 3, "{told}");
    assert_eq!(running.said().matches(" is ready ").count(), 1, "a start ends once");
    Ok(())
}

async fn probes_are_answered(addresses: &Addresses) -> anyhow::Result<()> {
    let metrics = format!("http://{}", addresses.metrics);
    assert_eq!(get(&format!("{metrics}/ready")).await?, (200, "ready\n".into()));
    assert_eq!(get(&format!("{metrics}/live")).await?.0, 200);
    let (status, text) = get(&format!("{metrics}/metrics")).await?;
    assert!(status == 200 && text.contains("# TYPE ") && text.contains("asobi_"), "{text}");
    if let Some(http) = &addresses.http {
        assert_eq!(get(&format!("{http}/live")).await?.0, 200);
        assert_eq!(get(&format!("{http}/ready")).await?.0, 200);
    }
    Ok(())
}

async fn grpc_is_answered(addresses: &Addresses, services: &[&str]) -> anyhow::Result<()> {
    let channel = Channel::from_shared(format!("http://{}", addresses.grpc))?.connect().await?;

    // Probes and tools have no key.
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest { service: String::new() }).await?;
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let told = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(futures_util::stream::iter([asked]))
        .await?
        .into_inner()
        .message()
        .await?
        .and_then(|told| told.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = told else { anyhow::bail!("reflection told {told:?}") };
    for service in services {
        assert!(list.service.iter().any(|known| known.name == *service), "{service} is not in {list:?}");
    }

    // All else is for the cluster's own processes.
    let refused = OpsServiceClient::new(channel).list_nodes(ListNodesRequest::default()).await;
    assert_eq!(refused.map_err(|status| status.code()).err(), Some(Code::Unauthenticated), "without the key");
    let with = |key: &str| OpsServiceClient::new(Channels::new(key).get(&addresses.grpc));
    let refused = with("a guess").list_nodes(ListNodesRequest::default()).await;
    assert_eq!(refused.map_err(|status| status.code()).err(), Some(Code::Unauthenticated), "with another key");
    let nodes = with(KEY).list_nodes(ListNodesRequest::default()).await?.into_inner().nodes;
    assert!(nodes.iter().any(|node| node.node_id == "alone"), "{nodes:?}");
    Ok(())
}

/// Starts a service, looks at it from all sides, and ends it.
async fn alone(command: &str, more: &[&str], services: &[&str]) -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let dir = tempfile::tempdir()?;
    let key = format!("cluster.key={KEY}");
    let mut arguments = vec![command, "--node-id", "alone", "--database-url", &database.url, "--set", &key];
    arguments.extend(["--grpc-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    arguments.extend(more);
    // Nobody has to notice that it goes.
    arguments.extend(["--set", "shutdown.ready_delay_ms=0"]);
    let mut running = Running::start(&arguments, dir.path())?;
    let addresses = ready(&database, &mut running).await?;
    start_is_told(&running).await?;
    probes_are_answered(&addresses).await?;
    grpc_is_answered(&addresses, services).await.with_context(|| running.said())?;
    assert_eq!(addresses.http.is_some(), more.contains(&"--http-listen"));
    let took = running.stop().await?;
    ensure!(took < GRACE, "it took {took:?} to end:\n{}", running.said());
    let left: String =
        sqlx::query_scalar("SELECT state FROM nodes WHERE node_id = 'alone'").fetch_one(&database.pool).await?;
    assert_eq!(left, "stopped", "the others are told");
    Ok(())
}

#[tokio::test]
async fn a_gateway_alone() -> anyhow::Result<()> {
    alone("gateway", &["--http-listen", "127.0.0.1:0"], &["asobi.ops.v1.OpsService"]).await
}

#[tokio::test]
async fn a_match_host_alone() -> anyhow::Result<()> {
    let games = format!("match.games={}", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/games").display());
    let services = ["asobi.match.v1.MatchHostService", "asobi.ops.v1.OpsService"];
    alone("match-service", &["--http-listen", "127.0.0.1:0", "--set", &games], &services).await
}

#[tokio::test]
async fn a_matchmaker_alone() -> anyhow::Result<()> {
    alone("matchmaker", &[], &["asobi.matchmaker.v1.MatchmakerService", "asobi.ops.v1.OpsService"]).await
}

#[tokio::test]
async fn a_social_service_alone() -> anyhow::Result<()> {
    let services = ["asobi.social.v1.FriendService", "asobi.social.v1.LeaderboardService", "asobi.ops.v1.OpsService"];
    alone("social-service", &[], &services).await
}

#[tokio::test]
async fn without_a_schema_services_say_so_and_migrate_makes_it() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    database.pool.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await?;
    let url = ["--database-url", &database.url];
    let refused = output(&["social-service", url[0], url[1]], &[]).await?;
    let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("asobi migrate"), "{said}");
    let checked = output(&["migrate", "--check", url[0], url[1]], &[]).await?;
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.code() == Some(1) && said.contains("to be applied: players"), "{said}");
    for _twice in 0..2 {
        let migrated = output(&["migrate", url[0], url[1]], &[]).await?;
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    }
    let there: bool = sqlx::query_scalar("SELECT to_regclass('matches') IS NOT NULL").fetch_one(&database.pool).await?;
    assert!(there);
    assert!(output(&["migrate", "--check", url[0], url[1]], &[]).await?.status.success());
    Ok(())
}
