//! How a line is written.

use std::{
    fmt::{self, Write as _},
    future::Future,
    time::Instant,
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

use super::log_limit::Limit;

/// The target of what games log. Their lines come from one place in the source and are bounded per match where they are said: no game silences another.
pub const SCRIPT: &str = "asobi::script";

tokio::task_local! {
    static TRACE_ID: Box<str>;
}

/// Lines that are logged within carry this trace id, recorded or not: it is the one that a request's caller was told.
pub fn with_trace_id<F: Future>(trace_id: &str, work: F) -> impl Future<Output = F::Output> {
    TRACE_ID.scope(trace_id.into(), work)
}

pub(super) enum Style {
    /// For people.
    Pretty(Format<Full>),
    /// One flat object per line.
    Json { node: String, role: &'static str },
}

/// Writes events, no more of one place than may be.
pub(super) struct Lines {
    pub style: Style,
    pub limit: Limit,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let taken =
            if metadata.target() == SCRIPT { Some(0) } else { self.limit.take(&metadata.callsite(), Instant::now()) };
        let Some(held) = taken else { return Ok(()) };
        match &self.style {
            Style::Json { node, role } => writeln!(writer, "{}", json(event, node, role, held)?),
            Style::Pretty(format) => {
                if held > 0 {
                    writeln!(writer, "({held} more of the next line were suppressed.)")?;
                }
                format.format_event(context, writer, event)
            }
        }
    }
}

fn json(event: &Event<'_>, node: &str, role: &str, held: u64) -> Result<String, fmt::Error> {
    let metadata = event.metadata();
    let mut line = Object::new();
    let mut timestamp = String::new();
    SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
    line.text("timestamp", &timestamp);
    line.text("level", metadata.level().as_str());
    line.text("target", metadata.target());
    event.record(&mut line);
    line.text("node", node);
    line.text("role", role);
    if let Some(span) = asobi_trace::current() {
        line.text("trace_id", &span.trace_id().to_string());
        line.text("span_id", &span.span_id().to_string());
    } else {
        // Outside of a request there is none.
        let _outside = TRACE_ID.try_with(|id| line.text("trace_id", id));
    }
    if held > 0 {
        line.raw("suppressed", held);
    }
    Ok(line.end())
}

/// What we say of every line; an event's own field of such a name comes with an underscore.
const OURS: [&str; 8] = ["timestamp", "level", "target", "node", "role", "trace_id", "span_id", "suppressed"];

struct Object(String);

impl Object {
    fn new() -> Self {
        Self(String::with_capacity(256))
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }

    fn name(&mut self, name: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        quote(&mut self.0, name);
        self.0.push(':');
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        quote(&mut self.0, value);
    }

    fn raw(&mut self, name: &str, value: impl fmt::Display) {
        self.name(name);
        // Writing to a text cannot fail.
        let _written = write!(self.0, "{value}");
    }

    fn own(field: &Field) -> String {
        let name = field.name();
        if OURS.contains(&name) { format!("{name}_") } else { name.to_owned() }
    }
}

impl Visit for Object {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let name = Self::own(field);
        if value.is_finite() { self.raw(&name, value) } else { self.text(&name, &value.to_string()) }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.raw(&Self::own(field), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.raw(&Self::own(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.raw(&Self::own(field), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(&Self::own(field), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(&Self::own(field), &format!("{value:?}"));
    }
}

/// As JSON asks: no line break, quote or control character of a value ends its line or its place.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _written = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(most: u32, work: impl FnOnce()) -> Vec<serde_json::Value> {
        let kept = Kept::default();
        let style = Style::Json { node: "gateway-0".into(), role: "gateway" };
        let lines = Lines { style, limit: Limit::new(most) };
        let layer = tracing_subscriber::fmt::layer().with_writer(kept.clone()).with_ansi(false).event_format(lines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let text = String::from_utf8(kept.0.lock().expect("no panic").clone()).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    #[test]
    fn a_line_is_one_flat_object_whatever_is_in_it() {
        let lines = logged(0, || {
            let hostile = "a\"b\\c\n{\"level\":\"x\"}\u{1b}[0m\u{85}";
            tracing::warn!(
                player.id = 7,
                level = hostile,
                ok = true,
                ratio = 0.5,
                gone = f64::NAN,
                "It {}.",
                "happened"
            );
        });
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!(line["message"], "It happened.");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["level_"], "a\"b\\c\n{\"level\":\"x\"}\u{1b}[0m\u{85}");
        assert_eq!((&line["player.id"], &line["ok"], &line["ratio"]), (&7.into(), &true.into(), &0.5.into()));
        assert_eq!(
            (&line["node"], &line["role"], &line["gone"]),
            (&"gateway-0".into(), &"gateway".into(), &"NaN".into())
        );
        assert!(line["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}");
        assert!(line.as_object().is_some_and(|fields| fields.values().all(|v| !v.is_object() && !v.is_array())));
    }

    #[test]
    fn one_place_does_not_drown_the_others() {
        let lines = logged(3, || {
            for n in 0..100 {
                tracing::error!(n, "Again.");
            }
            tracing::info!("Another.");
        });
        let said: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap_or_default()).collect();
        assert_eq!(said, ["Again.", "Again.", "Again.", "Another."]);
    }

    #[tokio::test]
    async fn a_request_that_is_not_recorded_still_has_its_id() {
        let lines = with_trace_id("0123", async { logged(0, || tracing::info!("Within.")) }).await;
        assert_eq!(lines[0]["trace_id"], "0123");
    }
}
