//! A real OTLP receiver in the play, and the trees of what it was sent.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::Context as _;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::support::PATIENCE;

struct Service(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        // Nobody listens any more once the play has seen what it waits for.
        let _gone = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A span with the node it was on.
#[derive(Debug, Clone)]
pub struct Seen {
    pub node: String,
    pub span: Span,
}

impl Seen {
    pub fn name(&self) -> &str {
        &self.span.name
    }

    pub fn kind(&self) -> SpanKind {
        self.span.kind()
    }

    /// As text; empty: it has none of that name.
    pub fn attribute(&self, name: &str) -> String {
        value(&self.span.attributes, name).unwrap_or_default()
    }

    /// Asserts attributes.
    pub fn says(&self, pairs: &[(&str, &str)]) {
        for (name, value) in pairs {
            assert_eq!(self.attribute(name), *value, "{name} of {self:?}");
        }
    }
}

fn value(attributes: &[KeyValue], name: &str) -> Option<String> {
    Some(match attributes.iter().find(|pair| pair.key == name)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

pub struct Collector {
    pub endpoint: String,
    exported: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    /// By their ids.
    spans: BTreeMap<Vec<u8>, Seen>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Collector {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (sender, exported) = mpsc::unbounded_channel();
        let server = Server::builder().add_service(TraceServiceServer::new(Service(sender)));
        let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { endpoint, exported, serving, spans: BTreeMap::new() })
    }

    fn take(&mut self, export: ExportTraceServiceRequest) {
        for resource in export.resource_spans {
            let node = resource.resource.as_ref().and_then(|r| value(&r.attributes, "service.instance.id"));
            let node = node.unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.spans.insert(span.span_id.clone(), Seen { node: node.clone(), span });
            }
        }
    }

    /// Waits until what was exported shows something.
    pub async fn until<T>(&mut self, what: &str, shows: impl Fn(&Self) -> Option<T>) -> anyhow::Result<T> {
        let waiting = async {
            loop {
                if let Some(shown) = shows(self) {
                    return Ok(shown);
                }
                let export = self.exported.recv().await.context("the collector ended")?;
                self.take(export);
            }
        };
        let shown = tokio::time::timeout(PATIENCE, waiting).await;
        shown.unwrap_or_else(|_| Err(anyhow::anyhow!("{what}: not in\n{}", self.forest())))
    }

    /// What was sent and not looked at yet.
    pub fn take_the_rest(&mut self) {
        while let Ok(export) = self.exported.try_recv() {
            self.take(export);
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Seen> {
        self.spans.values()
    }

    pub fn named(&self, name: &str) -> impl Iterator<Item = &Seen> {
        self.spans.values().filter(move |seen| seen.name() == name)
    }

    /// The spans under another.
    pub fn under<'a>(&'a self, parent: &'a Seen) -> impl Iterator<Item = &'a Seen> + 'a {
        self.spans.values().filter(|seen| {
            seen.span.trace_id == parent.span.trace_id && seen.span.parent_span_id == parent.span.span_id
        })
    }

    /// Goes down from a span by names' beginnings; none where the way ends before its last step.
    pub fn way(&self, from: &Seen, steps: &[&str]) -> Option<Seen> {
        let Some((step, rest)) = steps.split_first() else { return Some(from.clone()) };
        self.under(from).filter(|seen| seen.name().starts_with(step)).find_map(|seen| self.way(seen, rest))
    }

    /// All that is known, for people.
    fn forest(&self) -> String {
        let mut text = String::new();
        for root in self.spans.values().filter(|seen| !self.spans.contains_key(&seen.span.parent_span_id)) {
            self.draw(root, 0, &mut text);
        }
        text
    }

    fn draw(&self, seen: &Seen, depth: usize, text: &mut String) {
        let _written = writeln!(text, "{:depth$}{} ({:?}, {})", "", seen.name(), seen.kind(), seen.node);
        for child in self.under(seen) {
            self.draw(child, depth + 2, text);
        }
    }
}
