//! Answering: replies and errors, at once or later.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use asobi_proto::{
    error::ErrorCode,
    frame::{self, ErrorFrame},
};
use asobi_trace::{KeyValue, SpanKind, Watch};
use serde::Serialize;
use serde_json::value::RawValue;
use tracing::Span;

use super::{Call, Operation};
use crate::{
    conn::{Conn, InFlight},
    frame::Frame,
};

/// Queues an error. Without a `cid` the offending type is named, where it is known.
pub(super) fn error(conn: &Conn, cid: Option<&RawValue>, kind: Option<&str>, reason: &str, message: &str) {
    let mut error = ErrorFrame::for_reason(reason, message);
    error.kind = kind;
    push(conn, error.write(cid));
}

fn push(conn: &Conn, text: String) {
    conn.push(Frame::from(text));
}

impl Call<'_> {
    pub(super) fn reply(&self, kind: &str, payload: impl Serialize) {
        push(self.conn, frame::reply(kind, self.cid, payload));
    }

    /// Queues a reply that was written elsewhere.
    pub(super) fn push(&self, text: String) {
        push(self.conn, text);
    }

    pub(super) fn error(&self, reason: &str, message: &str) {
        error(self.conn, self.cid, Some(self.kind), reason, message);
    }

    pub(super) fn missing(&self, field: &str) {
        let error = ErrorFrame::for_reason("missing_field", "A required field is missing or of the wrong type.")
            .detail("field", field)
            .of_type(self.kind);
        push(self.conn, error.write(self.cid));
    }

    /// What answers later, from another task.
    pub(super) fn asker(&self) -> Asker {
        Asker {
            conn: Arc::clone(self.conn),
            kind: self.kind.into(),
            cid: self.cid.map(ToOwned::to_owned),
            typed: false,
            outcome: Outcome::of(self.operation),
            _in_flight: self.conn.in_flight(),
        }
    }
}

/// How a request ends, which its trace is told when it has: when its asker is dropped.
struct Outcome {
    name: &'static str,
    /// Of a recorded request; it lasts until the answer.
    span: Span,
    watch: Watch,
    failed: AtomicBool,
}

/// What of ours could not be reached has many names, and its logs say them.
const NOT_READY: &str = "not_ready";

impl Outcome {
    fn of(operation: Operation<'_>) -> Self {
        let Operation { name, span, watch } = operation;
        Self { name, span: span.clone(), watch, failed: AtomicBool::new(false) }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let error = (*self.failed.get_mut()).then_some(NOT_READY);
        if error.is_some() {
            self.span.record("otel.status_code", "ERROR");
            self.span.record("error.type", NOT_READY);
        }
        // A span ends when it was left last, and this is when it is over.
        self.span.in_scope(|| ());
        let name = self.name;
        self.watch
            .end(error, None, || (name.to_owned(), SpanKind::Server, vec![KeyValue::new("asobi.frame.type", name)]));
    }
}

/// A request whose answer comes later; a drain waits for it. One of its answers is to be called, once.
pub(crate) struct Asker {
    pub conn: Arc<Conn>,
    kind: Box<str>,
    cid: Option<Box<RawValue>>,
    typed: bool,
    outcome: Outcome,
    _in_flight: InFlight,
}

impl Asker {
    /// Errors name the type also where there is a `cid`, as the matchmaker's do.
    pub(crate) fn typed(mut self) -> Self {
        self.typed = true;
        self
    }

    pub(crate) fn has_cid(&self) -> bool {
        self.cid.is_some()
    }

    pub(crate) fn reply(&self, kind: &str, payload: impl Serialize) {
        push(&self.conn, self.written(kind, payload));
    }

    /// The reply, for whoever queues it in its place among other frames.
    pub(crate) fn written(&self, kind: &str, payload: impl Serialize) -> String {
        frame::reply(kind, self.cid.as_deref(), payload)
    }

    pub(crate) fn error(&self, reason: &str, message: &str) {
        self.refuse(ErrorFrame::for_reason(reason, message));
    }

    /// Something of ours cannot be reached now; the same request may succeed later.
    pub(crate) fn not_ready(&self) {
        self.outcome.failed.store(true, Ordering::Relaxed);
        let mut error = ErrorFrame::for_reason("not_ready", "This is not possible at the moment; try again.");
        error.code = ErrorCode::NOT_READY;
        error.details.clear();
        self.refuse(error);
    }

    pub(crate) fn refuse(&self, error: ErrorFrame<'_>) {
        if self.typed && self.cid.is_some() {
            let payload = serde_json::json!({
                "reason": error.reason,
                "error": {"code": error.code.as_str(), "message": error.message, "details": error.details},
                "type": self.kind,
            });
            return push(&self.conn, frame::reply("error", self.cid.as_deref(), payload));
        }
        push(&self.conn, error.of_type(&self.kind).write(self.cid.as_deref()));
    }
}
