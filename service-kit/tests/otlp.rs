//! Spans leave the process over OTLP when the variable says where to. The variable can only be set for another process,
//! so this program runs itself: the parent is the collector, the child the service.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use asobi_service_kit::{Config, telemetry};
use asobi_trace::{Head, SpanKind, Watch};
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
    let config = Config::with_sets([
        ("node.id", "node-7"),
        ("telemetry.sample_ratio", "0"),
        ("telemetry.slow_ms", "10"),
        ("telemetry.always_per_second", "3"),
        ("telemetry.client_per_second", "2"),
    ])
    .unwrap();
    let guard = telemetry::init("gateway", &config).unwrap();
    let span = asobi_trace::root!(Head::of_caller(Some(REMOTE)), "remote child");
    let own = span.in_scope(telemetry::traceparent).unwrap();
    assert!(own.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{own}");
    drop(span);
    // No caller has decided and the ratio is 0: not recorded.
    for head in [Head::draw(), Head::of_caller(None), Head::of_caller(Some(&REMOTE.replace("-01", "-00")))] {
        let unsampled = asobi_trace::root!(head, "not recorded");
        assert!(unsampled.is_disabled());
        assert!(unsampled.in_scope(|| asobi_trace::child!("within")).is_disabled());
        assert_eq!(unsampled.in_scope(telemetry::traceparent), None);
    }
    // Clients are asked twice a second at most.
    let heard = (0..5).filter(|_| Head::of_client(Some(REMOTE)) != Head::Off).count();
    assert!((2..=4).contains(&heard), "{heard}");
    late();
    drop(guard);
}

/// What is not recorded and fails, or is slow, is exported all the same; so many in a second.
fn late() {
    let described = |name: &'static str| {
        move || (name.to_owned(), SpanKind::Server, vec![asobi_trace::KeyValue::new("asobi.what", name)])
    };
    Watch::begin(false).end(None, None, described("well"));
    Watch::begin(true).end(Some("internal"), None, described("recorded by itself"));
    Watch::begin(false).end(Some("internal"), asobi_trace::parse(&REMOTE.replace("-01", "-00")), described("error"));
    let slow = Watch::begin(false);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(20) {
        std::hint::spin_loop();
    }
    slow.end(None, None, described("slow"));
    for _ in 0..100 {
        Watch::begin(false).end(Some("internal"), None, described("flood"));
    }
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
    let spans: Vec<_> = export
        .resource_spans
        .iter()
        .flat_map(|resource| &resource.scope_spans)
        .flat_map(|scope| &scope.spans)
        .collect();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!([named("remote child"), named("error"), named("slow")], [1, 1, 1]);
    assert_eq!([named("not recorded"), named("within"), named("well"), named("recorded by itself")], [0; 4]);
    // Three a second, and the loop may have seen two seconds.
    assert!((1..=4).contains(&named("flood")), "{}", named("flood"));
    let error = spans.iter().find(|span| span.name == "error").unwrap();
    let of = |name: &str| text(error.attributes.iter().find(|pair| pair.key == name));
    assert_eq!(of("asobi.kept_for").as_deref(), Some("error"));
    assert_eq!(of("error.type").as_deref(), Some("internal"));
    assert_eq!(
        error.trace_id,
        [0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36]
    );
    let slow = spans.iter().find(|span| span.name == "slow").unwrap();
    assert!(slow.end_time_unix_nano - slow.start_time_unix_nano >= 10_000_000);
    collector.abort();
}

fn text(pair: Option<&KeyValue>) -> Option<String> {
    match pair?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}
