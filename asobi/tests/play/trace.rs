use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
    trace::v1::Span,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::support::{Cluster, PATIENCE};

const LOBBY: &str = "global:lobby";

struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        // Nobody listens any more once the play has seen what it waits for.
        let _gone = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// What was exported so far: each span with the node it was on, by trace and by id.
#[derive(Default)]
struct Spans(BTreeMap<(Vec<u8>, Vec<u8>), (String, Span)>);

impl Spans {
    fn take(&mut self, export: ExportTraceServiceRequest) {
        for resource in export.resource_spans {
            let node = resource.resource.as_ref().and_then(|r| text(&r.attributes, "service.instance.id"));
            let node = node.unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.0.insert((span.trace_id.clone(), span.span_id.clone()), (node.clone(), span));
            }
        }
    }

    /// From the root down to a delivery on that node: each step's node, name and frame type.
    fn ways_to(&self, node: &str, name: &str) -> Vec<Vec<(&str, &str, Option<String>)>> {
        let ends = self.0.values().filter(|(on, span)| on == node && span.name == name);
        ends.map(|(_, end)| {
            let mut way = Vec::new();
            let mut key = (end.trace_id.clone(), end.span_id.clone());
            while let Some((on, span)) = self.0.get(&key) {
                way.push((on.as_str(), span.name.as_str(), text(&span.attributes, "frame.type_")));
                key.1.clone_from(&span.parent_span_id);
            }
            way.reverse();
            // A step whose parent was not exported yet is no root.
            if key.1.is_empty() { way } else { Vec::new() }
        })
        .filter(|way| !way.is_empty())
        .collect()
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match attributes.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn a_message_between_gateways_is_one_trace() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let (sender, mut exported) = mpsc::unbounded_channel();
    let collector = Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    let collector = tokio::spawn(collector.serve_with_incoming(TcpListenerStream::new(listener)));

    let cluster = Cluster::new()
        .gateways_only()
        .gateways(2)
        .set("telemetry.sample_ratio", 1)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .start()
        .await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    bo.call("chat.join", json!({"channel_id": LOBBY})).await?;
    ada.call("chat.send", json!({"channel_id": LOBBY, "content": "where does this go?"})).await?;
    bo.push("chat.message").await?;

    let (first, second) = (cluster.gateway(0).node_id, cluster.gateway(1).node_id);
    let mut spans = Spans::default();
    let seen = tokio::time::timeout(2 * PATIENCE, async {
        loop {
            let Some(export) = exported.recv().await else { anyhow::bail!("the collector ended") };
            spans.take(export);
            if let Some(way) = spans.ways_to(&second, "chat delivery").first() {
                let way: Vec<(String, String, Option<String>)> =
                    way.iter().map(|(on, name, kind)| ((*on).to_owned(), (*name).to_owned(), kind.clone())).collect();
                return Ok(way);
            }
        }
    });
    let way = seen.await??;
    let sent = (first, "frame".to_owned(), Some("chat.send".to_owned()));
    let delivered = (second, "chat delivery".to_owned(), None);
    assert_eq!(way, [sent, delivered]);
    cluster.stop().await?;
    collector.abort();
    Ok(())
}
