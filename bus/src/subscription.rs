//! A subscriber's end of the bus.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use asobi_proto::bus::{Batch, Topic};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tracing::Span;

/// What a subscriber hears.
#[derive(Debug, Clone)]
pub enum BusEvent {
    /// Hints may have been lost: read the rows. Also the first event of every subscription.
    Resync,
    Batch(Arc<Notification>),
}

/// One NOTIFY payload as it came.
#[derive(Debug)]
pub struct Notification {
    pub topic: Topic,
    payload: String,
}

impl Notification {
    pub(crate) fn new(topic: Topic, payload: String) -> Self {
        Self { topic, payload }
    }

    /// The items, in the publisher's order; none if the payload cannot be read.
    #[must_use]
    pub fn items(&self) -> Vec<&RawValue> {
        self.batch().map(|b| b.items).unwrap_or_default()
    }

    /// Everything at once, for whoever needs more than the items; none if it cannot be read, which is counted and logged.
    #[must_use]
    pub fn batch(&self) -> Option<Batch<'_>> {
        serde_json::from_str(&self.payload)
            .inspect_err(|error| {
                metrics::counter!("asobi_bus_unreadable_payloads_total").increment(1);
                tracing::warn!(topic = ?self.topic, %error, "A notification could not be read; its rows will be found by the next resync.");
            })
            .ok()
    }
}

/// The span of what is done about an item, in the item's trace, where that is recorded; nearly none is.
#[must_use]
pub fn processing(topic: Topic, traceparent: Option<&str>) -> Span {
    if traceparent.is_none() {
        return Span::none();
    }
    let channel = topic.channel();
    asobi_trace::under!(
        traceparent,
        "process",
        otel.name = format!("process {channel}"),
        otel.kind = "consumer",
        messaging.system = "postgresql",
        messaging.destination.name = channel,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
    )
}

/// A bounded queue of events. See [`crate::Bus::subscribe`] for what happens when it is full.
pub struct Subscription {
    events: mpsc::Receiver<BusEvent>,
    lagged: Arc<AtomicBool>,
}

impl Subscription {
    /// The next event; none when the bus has stopped. Safe to cancel.
    pub async fn next(&mut self) -> Option<BusEvent> {
        if let Ok(event) = self.events.try_recv() {
            return Some(event);
        }
        // The queue has been emptied: what was dropped behind it is read from the rows now.
        if self.lagged.swap(false, Ordering::AcqRel) {
            return Some(BusEvent::Resync);
        }
        self.events.recv().await
    }
}

pub(crate) struct Mailbox {
    topics: Vec<Topic>,
    events: mpsc::Sender<BusEvent>,
    lagged: Arc<AtomicBool>,
}

pub(crate) fn channel(topics: &[Topic], capacity: usize) -> (Arc<Mailbox>, Subscription) {
    let (sender, events) = mpsc::channel(capacity.max(1));
    let lagged = Arc::new(AtomicBool::new(false));
    let mailbox = Mailbox { topics: topics.to_vec(), events: sender, lagged: Arc::clone(&lagged) };
    (Arc::new(mailbox), Subscription { events, lagged })
}

impl Mailbox {
    /// False when the subscriber is gone.
    pub(crate) fn offer(&self, event: &BusEvent) -> bool {
        let wanted = match event {
            BusEvent::Resync => true,
            BusEvent::Batch(n) => self.topics.contains(&n.topic),
        };
        if !wanted {
            return !self.events.is_closed();
        }
        // Once something was dropped, order only returns with the resync the subscriber takes when it has caught up.
        if self.lagged.load(Ordering::Acquire) {
            return !self.events.is_closed();
        }
        match self.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                metrics::counter!("asobi_bus_subscriber_overflows_total").increment(1);
                self.lagged.store(true, Ordering::Release);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(n: u64) -> BusEvent {
        let payload = format!(r#"{{"o":"a#1","n":{n},"i":[{{"x":{n}}}]}}"#);
        BusEvent::Batch(Arc::new(Notification::new(Topic::Presence, payload)))
    }

    #[tokio::test]
    async fn an_overflow_becomes_one_resync_after_what_was_queued() {
        let (mailbox, mut subscription) = channel(&[Topic::Presence], 2);
        for n in 0..5 {
            assert!(mailbox.offer(&batch(n)));
        }
        for n in 0..2 {
            let Some(BusEvent::Batch(got)) = subscription.next().await else { panic!("a batch was queued") };
            assert_eq!(got.items()[0].get(), format!(r#"{{"x":{n}}}"#));
        }
        assert!(matches!(subscription.next().await, Some(BusEvent::Resync)));
        assert!(mailbox.offer(&batch(9)));
        assert!(matches!(subscription.next().await, Some(BusEvent::Batch(_))));
    }

    #[tokio::test]
    async fn other_topics_are_not_heard() {
        let (mailbox, mut subscription) = channel(&[Topic::Modes], 2);
        assert!(mailbox.offer(&batch(1)));
        assert!(mailbox.offer(&BusEvent::Resync));
        assert!(matches!(subscription.next().await, Some(BusEvent::Resync)));
        drop(subscription);
        assert!(!mailbox.offer(&BusEvent::Resync));
    }

    #[test]
    fn an_unreadable_payload_has_no_items() {
        assert!(Notification::new(Topic::Presence, "{".into()).items().is_empty());
    }
}
