//! The servers as the services use them: bound on free ports, called over real sockets, drained.

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use asobi_proto::{
    error::ErrorCode,
    ops_v1::{ListNodesRequest, Node, ops_service_client::OpsServiceClient, ops_service_server::OpsServiceServer},
};
use asobi_service_kit::{
    Readiness, Shutdown,
    grpc::{Channels, error_code, status, with_deadline},
    server::{bind, serve_grpc, serve_http, serve_metrics},
};
use axum::{Router, extract::ConnectInfo, routing::get};
use tokio::sync::Notify;
use tonic::{Code, Request, Status, service::Routes, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use support::Ops;

const LONG: Duration = Duration::from_secs(30);
const KEY: &str = "a key of some length";

fn nodes(request: &Request<ListNodesRequest>) -> Result<Node, Status> {
    if request.metadata().contains_key("refuse") {
        return Err(status(ErrorCode::RATE_LIMITED, "too many for a test"));
    }
    Ok(Node { node_id: "a".to_owned(), ..Node::default() })
}

async fn grpc(shutdown: &Shutdown, readiness: &Readiness) -> SocketAddr {
    let (listener, address) = bind("grpc.listen", "127.0.0.1:0").await.unwrap();
    serve_grpc(listener, Routes::new(OpsServiceServer::new(Ops(nodes))), readiness, KEY, shutdown);
    address
}

#[tokio::test]
async fn calls_need_the_cluster_key() {
    let shutdown = Shutdown::manual(LONG);
    let address = grpc(&shutdown, &Readiness::new()).await.to_string();

    let mut client = OpsServiceClient::new(Channels::new(KEY).get(&address));
    let nodes = client.list_nodes(with_deadline(ListNodesRequest::default(), LONG)).await.unwrap().into_inner().nodes;
    assert_eq!(nodes[0].node_id, "a");

    let mut wrong = OpsServiceClient::new(Channels::new("another key").get(&address));
    let refused = wrong.list_nodes(with_deadline(ListNodesRequest::default(), LONG)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("not this cluster's"), "{refused}");

    let bare = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let refused = OpsServiceClient::new(bare).list_nodes(ListNodesRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("x-asobi-cluster-key"), "{refused}");
    assert_eq!(error_code(&refused), Some(ErrorCode::UNAUTHENTICATED));

    drop((client, wrong));
    shutdown.begin();
    shutdown.finished().await;
    assert!(!shutdown.failed());
}

#[tokio::test]
async fn error_codes_cross_the_wire() {
    let shutdown = Shutdown::manual(LONG);
    let address = grpc(&shutdown, &Readiness::new()).await.to_string();
    let mut client = OpsServiceClient::new(Channels::new(KEY).get(&address));
    let mut request = with_deadline(ListNodesRequest::default(), LONG);
    request.metadata_mut().insert("refuse", "1".parse().unwrap());
    let refused = client.list_nodes(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(error_code(&refused), Some(ErrorCode::RATE_LIMITED));
    assert_eq!(error_code(&Status::internal("none")), None);
}

#[tokio::test]
async fn an_address_nobody_answers_is_unavailable_soon() {
    let (listener, address) = bind("grpc.listen", "127.0.0.1:0").await.unwrap();
    drop(listener);
    for address in [address.to_string(), "no address at all".to_owned()] {
        let mut client = OpsServiceClient::new(Channels::new(KEY).get(&address));
        let refused = client.list_nodes(with_deadline(ListNodesRequest::default(), LONG)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{address}: {refused}");
    }
}

#[tokio::test]
async fn health_follows_readiness_and_needs_no_key() {
    let shutdown = Shutdown::manual(LONG);
    let readiness = Readiness::new();
    let address = grpc(&shutdown, &readiness).await;
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    let request = HealthCheckRequest { service: String::new() };
    let mut states = health.watch(request).await.unwrap().into_inner();
    let mut next = async || states.message().await.unwrap().unwrap().status();
    assert_eq!(next().await, ServingStatus::NotServing);
    readiness.set_ready(true);
    assert_eq!(next().await, ServingStatus::Serving);
    readiness.block("listener", "gone");
    assert_eq!(next().await, ServingStatus::NotServing);
}

#[tokio::test]
async fn a_drain_finishes_requests_and_takes_no_more() {
    let shutdown = Shutdown::manual(LONG);
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (begun.clone(), go.clone());
    let slow = async move |ConnectInfo(peer): ConnectInfo<SocketAddr>| {
        tell.notify_one();
        wait.notified().await;
        format!("{}", peer.ip())
    };
    let (listener, address) = bind("http.listen", "127.0.0.1:0").await.unwrap();
    serve_http(listener, Router::new().route("/", get(slow)), &shutdown);

    let url = format!("http://{address}/");
    let request = tokio::spawn(reqwest::get(url));
    begun.notified().await;
    shutdown.begin();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    go.notify_one();
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "127.0.0.1");
    shutdown.finished().await;
    assert!(!shutdown.failed() && !shutdown.cut().is_cancelled());
}

#[tokio::test]
async fn a_cut_drops_requests_that_do_not_end() {
    let shutdown = Shutdown::manual(Duration::from_millis(50));
    let begun = Arc::new(Notify::new());
    let tell = begun.clone();
    let stuck = async move || {
        tell.notify_one();
        std::future::pending::<()>().await;
    };
    let (listener, address) = bind("http.listen", "127.0.0.1:0").await.unwrap();
    serve_http(listener, Router::new().route("/", get(stuck)), &shutdown);
    let request = tokio::spawn(reqwest::get(format!("http://{address}/")));
    begun.notified().await;
    shutdown.begin();
    shutdown.finished().await;
    assert!(request.await.unwrap().is_err());
}

#[tokio::test]
async fn probes_say_why() {
    let shutdown = Shutdown::manual(LONG);
    let readiness = Readiness::new();
    let (listener, address) = bind("metrics.listen", "127.0.0.1:0").await.unwrap();
    serve_metrics(listener, readiness.clone(), &shutdown);
    let probe = async |path: &str| {
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(probe("/live").await, (200, "live\n".to_owned()));
    assert_eq!(probe("/ready").await.0, 503);
    readiness.set_ready(true);
    assert_eq!(probe("/ready").await, (200, "ready\n".to_owned()));
    readiness.block("listener", "no connection");
    assert_eq!(probe("/ready").await, (503, "listener: no connection\n".to_owned()));
    readiness.clear("listener");
    assert!(probe("/metrics").await.1.contains("process_resident_memory_bytes"));
    shutdown.begin();
    assert_eq!(probe("/ready").await, (503, "draining\n".to_owned()));
    shutdown.finished().await;
}
