//! Spans leave the process over OTLP when the variable says where to. The variable can only be set for another process,
//! so this program runs itself: the parent is the collector, the child the service.

use std::{process::Stdio, time::Duration};

use asobi_service_kit::{Config, telemetry};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
};
use tokio::{net::TcpListener, process::Command, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PATIENCE: Duration = Duration::from_secs(30);
const REMOTE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).await.map_err(|_| Status::unavailable("the test has ended"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The service's part: one span of a remote trace, then its end. Nothing unless the parent runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    if std::env::var_os(ENDPOINT).is_none() {
        return;
    }
    let config = Config::with_sets([("node.id", "node-7"), ("telemetry.sample_ratio", "0")]).unwrap();
    let guard = telemetry::init("gateway", &config).unwrap();
    let span = tracing::info_span!(target: "asobi_test", "remote child");
    telemetry::set_parent(&span, REMOTE);
    let own = span.in_scope(telemetry::traceparent).unwrap();
    assert!(own.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{own}");
    drop(span);
    // No caller has decided and the ratio is 0: not recorded.
    let unsampled = tracing::info_span!(target: "asobi_test", "unsampled");
    assert_eq!(unsampled.in_scope(telemetry::traceparent), None);
    drop(unsampled);
    drop(guard);
}

#[tokio::test]
async fn spans_reach_the_collector_before_the_process_ends() {
    if std::env::var_os(ENDPOINT).is_some() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut received) = mpsc::channel(16);
    let collector = Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    let collector = tokio::spawn(collector.serve_with_incoming(TcpListenerStream::new(listener)));

    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(ENDPOINT, endpoint)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    let ended = tokio::time::timeout(PATIENCE, child).await.unwrap().unwrap();
    assert!(ended.success());

    let export = received.try_recv().expect("spans, exported before the child ended");
    let resource = export.resource_spans[0].resource.as_ref().unwrap();
    let attribute = |name: &str| text(resource.attributes.iter().find(|pair| pair.key == name));
    assert_eq!(attribute("service.name").as_deref(), Some("asobi-gateway"));
    assert_eq!(attribute("service.instance.id").as_deref(), Some("node-7"));
    let names: Vec<&str> = export
        .resource_spans
        .iter()
        .flat_map(|resource| &resource.scope_spans)
        .flat_map(|scope| &scope.spans)
        .map(|span| span.name.as_str())
        .collect();
    assert_eq!(names, ["remote child"]);
    collector.abort();
}

fn text(pair: Option<&KeyValue>) -> Option<String> {
    match pair?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}
