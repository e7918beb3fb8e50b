//! What `/metrics` shows leaves the process over OTLP, too, when the variables say where to. They can only be set for another process, so this
//! program runs itself: the parent is the collector, the child the service.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use asobi_service_kit::{
    Config, Shutdown,
    health::Readiness,
    server::{bind, serve_metrics},
    telemetry::{self, catalogue},
};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, metric::Data, number_data_point::Value},
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, process::Command, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
const PATIENCE: Duration = Duration::from_secs(30);
const FAILED: &str = "failed";

/// Refuses the first export, and keeps the others.
struct Collector {
    exports: mpsc::Sender<(ExportMetricsServiceRequest, Option<String>)>,
    refused: std::sync::atomic::AtomicBool,
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        if !self.refused.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Err(Status::unavailable("not yet"));
        }
        let key = request.metadata().get("x-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
        // The parent has seen what it waits for.
        let _enough = self.exports.send((request.into_inner(), key)).await;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// The service's part: it counts, serves its metrics, and ends with its input. Nothing unless the parent runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    if std::env::var_os(ENDPOINT).is_none() {
        return;
    }
    let config = Config::with_sets([("node.id", "gateway-7")]).unwrap();
    let _telemetry = telemetry::init("gateway", &config).unwrap();
    metrics::counter!("asobi_bus_dropped_total", "reason" => "queue_full").increment(3);
    metrics::gauge!("asobi_session_sockets").set(2.0);
    metrics::histogram!("asobi_bus_batch_items").record(4.0);
    let shutdown = Shutdown::manual(Duration::from_secs(5));
    let readiness = Readiness::new();
    readiness.set_ready(true);
    let (listener, _) = bind("metrics.listen", "127.0.0.1:0").await.unwrap();
    serve_metrics(listener, readiness, &shutdown);
    telemetry::run(&shutdown);
    let input = || std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    tokio::task::spawn_blocking(input).await.unwrap().unwrap();
    shutdown.begin();
    shutdown.finished().await;
}

#[tokio::test]
async fn metrics_reach_the_collector_as_they_are_shown() {
    if std::env::var_os(ENDPOINT).is_some() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (exports, mut received) = mpsc::channel(64);
    let collector = Collector { exports, refused: false.into() };
    let collector = Server::builder().add_service(MetricsServiceServer::new(collector));
    let collector = tokio::spawn(collector.serve_with_incoming(TcpListenerStream::new(listener)));

    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(ENDPOINT, endpoint)
        .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20secret")
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (export, key) = tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    child.stdin.take().unwrap().shutdown().await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert!(ended.success());
    collector.abort();

    assert_eq!(key.as_deref(), Some("a secret"));
    let [of] = &export.resource_metrics[..] else { panic!("one process has exported") };
    let resource = text(&of.resource.as_ref().unwrap().attributes);
    assert_eq!(resource.get("service.name").map(String::as_str), Some("asobi-gateway"));
    assert_eq!(resource.get("service.instance.id").map(String::as_str), Some("gateway-7"));
    let sent: BTreeMap<&str, &Metric> =
        of.scope_metrics[0].metrics.iter().map(|metric| (metric.name.as_str(), metric)).collect();
    assert_eq!(number(sent["asobi_bus_dropped_total"], "queue_full"), Some(3.0));
    assert_eq!(number(sent["asobi_bus_dropped_total"], "database_away"), Some(0.0));
    assert_eq!(number(sent["asobi_session_sockets"], ""), Some(2.0));
    assert_eq!(number(sent["asobi_ready"], ""), Some(1.0));
    assert_eq!(number(sent["asobi_telemetry_metric_exports_total"], FAILED), Some(1.0), "the first one was refused");
    let batches = sent["asobi_bus_batch_items"];
    assert_eq!((batches.unit.as_str(), batches.description.as_str()), ("1", "Hints of one NOTIFY transaction."));
    let Some(Data::Histogram(histogram)) = &batches.data else { panic!("{batches:?}") };
    assert_eq!((histogram.data_points[0].count, histogram.data_points[0].sum), (1, Some(4.0)));
    for name in sent.keys() {
        assert!(catalogue::find(name).is_some(), "{name} is not in the table");
    }
}

fn text(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some((pair.key.clone(), text.clone())),
        _ => None,
    };
    attributes.iter().filter_map(value).collect()
}

/// Of the series that has this value among its labels; "": of the one without labels.
fn number(metric: &Metric, label: &str) -> Option<f64> {
    let points = match metric.data.as_ref()? {
        Data::Gauge(gauge) => &gauge.data_points,
        Data::Sum(sum) if sum.is_monotonic => &sum.data_points,
        _ => return None,
    };
    let point = points.iter().find(|point| {
        let labels = text(&point.attributes);
        if label.is_empty() { labels.is_empty() } else { labels.values().any(|value| value == label) }
    })?;
    match point.value? {
        Value::AsDouble(value) => Some(value),
        Value::AsInt(_) => None,
    }
}
