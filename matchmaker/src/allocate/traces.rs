//! The traces of the players of a match. A match goes on in the trace of its first recorded ticket; every other recorded ticket's trace ends in a
//! span that is linked to the decision, and the decision to it: whichever player one begins with, one finds the match.

use asobi_store::allocation::Forming;
use tracing::Span;

use super::claim::Batch;

/// Opens the spans of decisions, one for each group with a recorded ticket, and writes them into the matches to be. They last until the claim.
pub fn decide(batch: &Batch, forming: &mut [Forming]) -> Vec<Span> {
    let mut decisions = Vec::new();
    for ((taken, host), form) in batch.iter().zip(forming) {
        let mut recorded = taken.group.tickets().filter_map(|ticket| ticket.traceparent.as_deref());
        let Some(first) = recorded.next() else { continue };
        let decision = asobi_trace::under!(
            Some(first),
            "form match",
            asobi.match.id = %form.match_id,
            asobi.mode = form.mode,
            asobi.tickets = taken.group.tickets().count(),
            asobi.host = host.node,
        );
        let Some(decided) = asobi_trace::context_of(&decision) else { continue };
        for other in recorded {
            let joined = asobi_trace::under!(Some(other), "join match", asobi.match.id = %form.match_id);
            asobi_trace::link(&joined, [decided.clone()]);
            asobi_trace::link_spans(&decision, [&joined]);
        }
        form.traceparent = asobi_trace::traceparent_of(&decision);
        decisions.push(decision);
    }
    decisions
}

/// The span of a transaction for many: under the first, and linked to the others.
pub fn sql(spans: &[Span], name: &'static str, table: &'static str) -> Span {
    let Some((first, others)) = spans.split_first() else { return Span::none() };
    let span = tracing::info_span!(
        target: asobi_trace::TARGET,
        parent: first,
        "sql",
        otel.name = name,
        otel.kind = "client",
        db.system.name = "postgresql",
        db.operation.name = name,
        db.collection.name = table,
        db.operation.batch.size = spans.len(),
    );
    asobi_trace::link_spans(&span, others);
    span
}
