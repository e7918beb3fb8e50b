//! What traces say of work against the database: which of the program's functions it is, and nothing of its values.

use std::any::type_name;

use asobi_trace::{KeyValue, SpanKind};
use tracing::Span;

const SYSTEM: &str = "postgresql";

/// The span of a piece of work, within a trace that is recorded.
pub(crate) fn span<F>() -> Span {
    asobi_trace::child!(
        "sql",
        otel.name = name_of(type_name::<F>()),
        otel.kind = "client",
        db.system.name = SYSTEM,
        db.operation.name = name_of(type_name::<F>()),
    )
}

/// The span of one statement that writes to one table.
pub(crate) fn statement(operation: &'static str, table: &'static str) -> Span {
    asobi_trace::child!(
        "sql",
        otel.name = format!("{operation} {table}"),
        otel.kind = "client",
        db.system.name = SYSTEM,
        db.operation.name = operation,
        db.collection.name = table,
    )
}

/// The same of one whose trace is not.
pub(crate) fn described<F>() -> (String, SpanKind, Vec<KeyValue>) {
    let name = name_of(type_name::<F>());
    let attributes = vec![KeyValue::new("db.system.name", SYSTEM), KeyValue::new("db.operation.name", name.clone())];
    (name, SpanKind::Client, attributes)
}

/// The function that the work is the future of, without its crate: `friends::list`. The names of types are for people, and so are those of
/// spans; nothing depends on them.
fn name_of(future: &str) -> String {
    let Some(begin) = future.find("asobi_") else { return "work".to_owned() };
    let own = &future[begin..];
    let own = own.split_once("::").map_or(own, |(_crate, path)| path);
    // A trait's: `<crate::of::Type as …::Trait>::method::{{closure}}`.
    if let Some((of, method)) = own.split_once(" as ").and_then(|(of, rest)| Some((of, rest.split_once(">::")?.1))) {
        return format!("{of}::{}", until_noise(method));
    }
    until_noise(own).to_owned()
}

fn until_noise(path: &str) -> &str {
    let end = path.find("::{{").into_iter().chain(path.find(['<', '>', ','])).min();
    &path[..end.unwrap_or(path.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_called_by_its_function() {
        for (future, name) in [
            ("asobi_store::friends::list::{{closure}}", "friends::list"),
            ("asobi_session::seat::look::{{closure}}::{{closure}}", "seat::look"),
            ("core::pin::Pin<alloc::boxed::Box<asobi_store::connect::{{closure}}>>", "connect"),
            ("asobi_store::notifications::unread<'_, &sqlx::Pool>::{{closure}}", "notifications::unread"),
            (
                "<asobi_host::rows::PgRows as asobi_host::rows::Rows>::claim::{{closure}}::{{closure}}",
                "rows::PgRows::claim",
            ),
            ("tokio::task::Join<u8>", "work"),
        ] {
            assert_eq!(name_of(future), name, "{future}");
        }
        async fn own() {
            std::future::ready(()).await;
        }
        fn of<F>(_: F) -> String {
            name_of(type_name::<F>())
        }
        assert_eq!(of(own()), "sql::tests::work_is_called_by_its_function::own");
    }
}
