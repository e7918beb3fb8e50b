//! What leaves for a host, in batches when there is much: each message alone would wake both ends and be a write of its own.
//!
//! ```text
//!   quiet ──message──▶ leaves at once ──another within WINDOW──▶ waits for the rest of it ──▶ all that has come leaves ──▶ …
//! ```

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use asobi_proto::match_v1::RelayRequest;
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};
use tokio_stream::Stream;

/// Between two batches. Matches take inputs at their ticks, which are further apart.
const WINDOW: Duration = Duration::from_millis(4);

/// The queue to one host as its stream reads it.
pub(super) struct Gathering {
    queue: mpsc::Receiver<RelayRequest>,
    /// The first of the next batch.
    first: Option<RelayRequest>,
    wait: Pin<Box<Sleep>>,
    /// Until when the next batch gathers.
    from: Instant,
    /// A batch is leaving.
    leaving: bool,
}

impl Gathering {
    pub(super) fn new(queue: mpsc::Receiver<RelayRequest>) -> Self {
        let now = Instant::now();
        Self { queue, first: None, wait: Box::pin(sleep_until(now)), from: now, leaving: false }
    }

    fn leave(&mut self, request: RelayRequest) -> Poll<Option<RelayRequest>> {
        self.leaving = true;
        Poll::Ready(Some(request))
    }
}

impl Stream for Gathering {
    type Item = RelayRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RelayRequest>> {
        if self.first.is_none() {
            match self.queue.poll_recv(cx) {
                Poll::Ready(Some(request)) if self.leaving => return self.leave(request),
                Poll::Ready(Some(request)) => {
                    let from = self.from;
                    if from <= Instant::now() {
                        return self.leave(request);
                    }
                    self.first = Some(request);
                    self.wait.as_mut().reset(from);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    if std::mem::take(&mut self.leaving) {
                        self.from = Instant::now() + WINDOW;
                    }
                    return Poll::Pending;
                }
            }
        }
        // Whoever queues more in the meantime wakes nobody: the queue is not asked before the time is over.
        match self.wait.as_mut().poll(cx) {
            Poll::Ready(()) => match self.first.take() {
                Some(request) => self.leave(request),
                None => Poll::Pending,
            },
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use asobi_proto::match_v1::{RelayInput, relay_request::Kind};
    use futures_util::FutureExt as _;
    use tokio_stream::StreamExt as _;

    use super::*;

    fn input(number: u64) -> RelayRequest {
        RelayRequest { kind: Some(Kind::Input(RelayInput { number, ..RelayInput::default() })) }
    }

    fn number(request: Option<RelayRequest>) -> Option<u64> {
        match request?.kind? {
            Kind::Input(input) => Some(input.number),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_leaves_at_once_and_those_after_it_together() {
        let (sender, queue) = mpsc::channel(16);
        let mut stream = Gathering::new(queue);
        let start = Instant::now();
        sender.send(input(1)).await.expect("room");
        assert_eq!(number(stream.next().await), Some(1));
        assert!(stream.next().now_or_never().is_none(), "nothing more has come");
        sender.send(input(2)).await.expect("room");
        assert!(stream.next().now_or_never().is_none(), "it waits for others");
        tokio::time::advance(WINDOW / 2).await;
        sender.send(input(3)).await.expect("room");
        assert_eq!(number(stream.next().await), Some(2));
        assert!(start.elapsed() >= WINDOW, "{:?}", start.elapsed());
        assert_eq!(number(stream.next().now_or_never().flatten()), Some(3), "with the one before it");
        assert!(stream.next().now_or_never().is_none());
        tokio::time::advance(WINDOW * 2).await;
        sender.send(input(4)).await.expect("room");
        assert_eq!(number(stream.next().now_or_never().flatten()), Some(4), "it has been quiet");
        drop(sender);
        assert_eq!(number(stream.next().await), None);
    }
}
