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
    let attributes = vec![KeyValue::new("db.system.name", SYSTEM), KeyValue::new("db.operation.name", name.to_owned())];
    (name.to_owned(), SpanKind::Client, attributes)
}

/// The function that the work is the future of, without its crate: `friends::list`. The names of types are for people, and so are those of
/// spans; nothing depends on them.
fn name_of(future: &str) -> &str {
    let Some(begin) = future.find("asobi_") else { return "work" };
    let own = &future[begin..];
    let own = own.split_once("::").map_or(own, |(_crate, path)| path);
    let end = own.find("::{{").into_iter().chain(own.find(['<', '>', ','])).min().unwrap_or(own.len());
    &own[..end]
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
            ("tokio::task::Join<u8>", "work"),
        ] {
            assert_eq!(name_of(future), name, "{future}");
        }
        async fn own() {}
        fn of<F>(_: F) -> &'static str {
            name_of(type_name::<F>())
        }
        assert_eq!(of(own()), "sql::tests::work_is_called_by_its_function::own");
    }
}
