//! The publishing half: while one NOTIFY transaction is under way the next one's items gather.

use std::{future::Future, time::Duration};

use asobi_proto::bus::{Batch, Topic};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Span, field::Empty};

/// A payload must be shorter than 8000 bytes; the rest is for the batch's own fields.
const PAYLOAD_BYTES: usize = 7_990;
const ITEM_BYTES: usize = 7_600;
/// What an item's trace takes beside itself: `[2047,""],`.
const PLACE_BYTES: usize = 12;
/// Items that may wait. A publisher of hints is refused past it, and its rows are found by the next resync or sweep.
const QUEUE: usize = 16_384;
/// Items of one transaction.
const BATCH: usize = 2_048;
const DEADLINE: Duration = Duration::from_secs(3);
/// How long a batch is tried again while the database is away, before its hints are given up.
const ATTEMPTS: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("the bus is behind: its queue is full")]
    Full,
    #[error("the item does not fit into a payload: publish a reference to its row")]
    TooLarge,
}

/// Publishes hints; cheap to clone, never blocks.
#[derive(Clone)]
pub struct Publisher {
    queue: mpsc::Sender<Item>,
}

struct Item {
    topic: Topic,
    json: Box<RawValue>,
    /// From the publisher's call to the end of the NOTIFY; of an item whose trace is recorded.
    span: Span,
    /// That of the span, for who receives it.
    traceparent: Option<String>,
}

impl Publisher {
    /// Hints that wait to be notified.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// In the trace of the caller's current span.
    ///
    /// # Errors
    /// [`PublishError`]; either way the rows are the truth and the caller's deed is done.
    pub fn publish(&self, topic: Topic, item: &impl Serialize) -> Result<(), PublishError> {
        self.publish_traced(topic, item, asobi_trace::traceparent().as_deref())
    }

    /// As [`Self::publish`], in the trace of what caused it, which is recorded if it is named.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_traced(
        &self,
        topic: Topic,
        item: &impl Serialize,
        traceparent: Option<&str>,
    ) -> Result<(), PublishError> {
        let json = to_raw_value(item).map_err(|_| PublishError::TooLarge)?;
        if json.get().len() > ITEM_BYTES {
            return Err(PublishError::TooLarge);
        }
        let span = sending(topic, traceparent);
        let traceparent = asobi_trace::traceparent_of(&span);
        self.queue.try_send(Item { topic, json, span, traceparent }).map_err(|_| {
            metrics::counter!("asobi_bus_dropped_total", "reason" => "queue_full").increment(1);
            PublishError::Full
        })
    }
}

fn sending(topic: Topic, traceparent: Option<&str>) -> Span {
    if traceparent.is_none() {
        return Span::none();
    }
    let channel = topic.channel();
    asobi_trace::under!(
        traceparent,
        "send",
        otel.name = format!("send {channel}"),
        otel.kind = "producer",
        messaging.system = "postgresql",
        messaging.destination.name = channel,
        messaging.operation.name = "notify",
        messaging.operation.type = "send",
        messaging.batch.message_count = Empty,
    )
}

pub(crate) fn start(pool: PgPool, origin: String, stop: CancellationToken) -> (Publisher, impl Future<Output = ()>) {
    let (queue, items) = mpsc::channel(QUEUE);
    (Publisher { queue }, run(pool, origin, items, stop))
}

async fn run(pool: PgPool, origin: String, mut items: mpsc::Receiver<Item>, stop: CancellationToken) {
    let mut session = Session { pool, connection: None };
    let mut number = 0_u64;
    let mut waiting = Vec::with_capacity(64);
    loop {
        tokio::select! {
            biased;
            taken = items.recv_many(&mut waiting, BATCH) => if taken == 0 { return },
            () = stop.cancelled() => {
                items.close();
                if items.recv_many(&mut waiting, BATCH).await == 0 { return }
            }
        }
        metrics::histogram!("asobi_bus_batch_items")
            .record(f64::from(u32::try_from(waiting.len()).unwrap_or(u32::MAX)));
        for item in waiting.iter().filter(|item| item.traceparent.is_some()) {
            item.span.record("messaging.batch.message_count", waiting.len());
        }
        let (topics, payloads) = pack(&origin, &mut number, &waiting);
        session.send(&topics, &payloads).await;
        // And with them end their spans.
        waiting.clear();
    }
}

/// Whoever hears one topic of the chat hears all of them: what is sent at the same time goes together, under the first's name.
fn goes_with(topic: Topic, other: Topic) -> bool {
    topic == other || matches!((topic, other), (Topic::Chat(_), Topic::Chat(_)))
}

/// Groups items by topic, in their order, into as few payloads as hold them.
fn pack(origin: &str, number: &mut u64, items: &[Item]) -> (Vec<String>, Vec<String>) {
    let mut groups: Vec<(Topic, Vec<&Item>)> = Vec::new();
    for item in items {
        match groups.iter_mut().find(|(topic, _)| goes_with(*topic, item.topic)) {
            Some((_, group)) => group.push(item),
            None => groups.push((item.topic, vec![item])),
        }
    }
    let (mut topics, mut payloads) = (Vec::new(), Vec::new());
    for (topic, group) in groups {
        let mut rest = group.as_slice();
        while !rest.is_empty() {
            let traceparent = rest.iter().find_map(|i| i.traceparent.as_deref());
            let overhead = 80 + origin.len() + traceparent.map_or(0, str::len);
            let mut bytes = overhead;
            let fits = rest
                .iter()
                .take_while(|i| {
                    bytes +=
                        i.json.get().len() + 1 + i.traceparent.as_ref().map_or(0, |trace| trace.len() + PLACE_BYTES);
                    bytes <= PAYLOAD_BYTES
                })
                .count()
                .max(1);
            let (now, later) = rest.split_at(fits);
            rest = later;
            *number += 1;
            let traces = now.iter().enumerate().filter_map(|(n, i)| Some((n, i.traceparent.as_deref()?)));
            let batch = Batch {
                origin,
                number: *number,
                traceparent,
                traces: traces.collect(),
                items: now.iter().map(|i| &*i.json).collect(),
            };
            if let Ok(payload) = serde_json::to_string(&batch) {
                topics.push(topic.channel());
                payloads.push(payload);
            }
        }
    }
    (topics, payloads)
}

/// Where NOTIFY is sent: a connection of its own, since one from the pool is tested before each use, a round trip more.
struct Session {
    pool: PgPool,
    connection: Option<PgConnection>,
}

impl Session {
    async fn send(&mut self, topics: &[String], payloads: &[String]) {
        for attempt in 1..=ATTEMPTS {
            let error = match tokio::time::timeout(DEADLINE, self.notify(topics, payloads)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {DEADLINE:?}"),
            };
            self.connection = None;
            tracing::warn!(attempt, notifications = payloads.len(), error, "A NOTIFY failed; it is tried again.");
            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
        }
        metrics::counter!("asobi_bus_dropped_total", "reason" => "database_away").increment(payloads.len() as u64);
    }

    async fn notify(&mut self, topics: &[String], payloads: &[String]) -> sqlx::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let options = self.pool.connect_options();
                none.insert(Box::pin(PgConnection::connect_with(&options)).await?)
            }
        };
        sqlx::query!(
            "SELECT pg_notify(topic, payload) FROM unnest($1::text[], $2::text[]) AS batch (topic, payload)",
            topics,
            payloads
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(topic: Topic, bytes: usize) -> Item {
        let json = to_raw_value(&"x".repeat(bytes - 2)).expect("json");
        Item { topic, json, span: Span::none(), traceparent: None }
    }

    #[test]
    fn each_traced_item_names_its_trace_and_payloads_stay_under_the_limit() {
        let trace = |n: usize| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{n:016x}-01");
        let items: Vec<_> = (0..400)
            .map(|n| Item { traceparent: (n % 2 == 1).then(|| trace(n)), ..item(Topic::Chat(0), 60) })
            .collect();
        let mut number = 0;
        let (_, payloads) = pack("gateway-0#12", &mut number, &items);
        assert!(payloads.iter().all(|p| p.len() < 8_000), "a payload is too long");
        let mut seen = Vec::new();
        for payload in &payloads {
            let batch: Batch<'_> = serde_json::from_str(payload).expect("reads back");
            seen.extend((0..batch.items.len()).map(|n| batch.trace_of(n).map(ToOwned::to_owned)));
        }
        assert_eq!(seen, (0..400).map(|n| (n % 2 == 1).then(|| trace(n))).collect::<Vec<_>>());
    }

    #[test]
    fn payloads_stay_under_the_limit_and_keep_their_order() {
        let items: Vec<_> = (0..200)
            .map(|i| item(if i % 3 == 0 { Topic::Presence } else { Topic::Chat(i as u8 % 4) }, 100 + i * 7))
            .collect();
        let mut number = 0;
        let (topics, payloads) = pack("gateway-0#12", &mut number, &items);
        assert!(payloads.iter().all(|p| p.len() < 8_000), "a payload is too long");
        let mut seen: Vec<usize> = Vec::new();
        for (topic, payload) in topics.iter().zip(&payloads) {
            let batch: Batch<'_> = serde_json::from_str(payload).expect("reads back");
            if *topic == Topic::Presence.channel() {
                seen.extend(batch.items.iter().map(|i| i.get().len()));
            }
        }
        let sent: Vec<usize> =
            items.iter().filter(|i| i.topic == Topic::Presence).map(|i| i.json.get().len()).collect();
        assert_eq!(seen, sent);
        let names: std::collections::HashSet<&String> = topics.iter().collect();
        assert_eq!(names.len(), 2, "all of the chat goes together");
    }

    #[test]
    fn the_largest_item_fits_alone() {
        let mut number = 0;
        let (_, payloads) = pack(&"n".repeat(63), &mut number, &[item(Topic::Chat(0), ITEM_BYTES)]);
        assert!(payloads.len() == 1 && payloads[0].len() < 8_000);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_does_not_grow() {
        let pool = PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").expect("a URL");
        // The task does not run: nothing leaves the queue.
        let (publisher, _task) = start(pool, "a#1".into(), CancellationToken::new());
        for n in 0..QUEUE {
            assert_eq!(publisher.publish(Topic::Presence, &n), Ok(()));
        }
        assert_eq!(publisher.publish(Topic::Presence, &0), Err(PublishError::Full));
        assert_eq!((publisher.queue.capacity(), publisher.waiting()), (0, QUEUE));
    }
}
