//! The task of one socket: the only one that reads and writes it. It waits for four things at once without any of them
//! holding up another: room to write, a frame to read, the answer to a request under way, and time.
//!
//! ```text
//!  open ──(session.connect)──► authenticated ──(drain)──► draining: no more reads, answers in flight are awaited
//!    │ auth time-out, silence, slow, revoked, peer gone          │
//!    └───────────────────────► closing: close frame, linger ◄────┘
//! ```

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use futures_util::{FutureExt as _, Sink, Stream};
use tokio::time::{Instant, Sleep};

use super::{
    Conn,
    limits::{OncePer, Rate},
};
use crate::{
    admission::{HESITATION, Place},
    close::Close,
    frames::{self, Lane, Work},
    hub::Hub,
};

/// How long an answer in flight may keep a draining socket open.
const DRAIN: Duration = Duration::from_secs(2);
/// How long we wait for the peer's own close frame after ours.
const LINGER: Duration = Duration::from_secs(2);

pub(crate) struct Socket {
    pub hub: Arc<Hub>,
    pub conn: Arc<Conn>,
    ws: WebSocket,
    /// Something was written since the last completed flush.
    dirty: bool,
    /// Since when the peer has not taken anything although something waits.
    blocked_since: Option<Instant>,
    opened: Instant,
    /// It may still hold the place it came with.
    hesitating: bool,
    heard: Instant,
    pinged: bool,
    pub rate: Rate,
    pub rate_errors: OncePer,
    /// The request under way, boxed because most frames never need one.
    work: Option<(Lane, Work)>,
    /// A frame that has to wait for it; nothing is read meanwhile.
    stash: Option<Utf8Bytes>,
    drain_until: Option<Instant>,
}

enum Event {
    Text(Utf8Bytes),
    Binary,
    /// A sign of life.
    Heard,
    /// The request under way is done.
    Worked,
    Timer,
    Close(Close),
    /// The peer is gone or says goodbye.
    Gone,
}

/// Serves a socket to its end, and leaves nothing of it behind.
pub(crate) async fn serve(hub: Arc<Hub>, ws: WebSocket, place: Place) {
    let conn = hub.open();
    conn.local().place = Some(place);
    let now = Instant::now();
    let mut socket = Socket {
        ws,
        dirty: false,
        blocked_since: None,
        opened: now,
        hesitating: true,
        heard: now,
        pinged: false,
        rate: Rate::new(hub.config.limits.frames_per_second, now.into_std()),
        rate_errors: OncePer::default(),
        work: None,
        stash: None,
        drain_until: None,
        hub,
        conn,
    };
    let close = socket.run().await;
    socket.work = None;
    // The connection itself may be held by others for longer.
    socket.conn.local().place = None;
    // The player is not told to be here any longer than the socket is: close frames may take their time.
    socket.hub.leave(&socket.conn);
    if let Some(close) = close {
        Box::pin(goodbye(socket.ws, close, &socket.hub)).await;
    }
}

async fn goodbye(mut ws: WebSocket, close: Close, hub: &Hub) {
    metrics::counter!("asobi_session_closes_total", "reason" => close.reason()).increment(1);
    let linger = if close == Close::SlowConsumer { hub.config.session.slow().max(LINGER) } else { LINGER };
    let farewell = async {
        // Fails where the peer was first; reading on then sends our answer to it.
        let _ = ws.send(Message::Close(Some(close.frame()))).await;
        // Unread input would turn our close into a reset that overtakes the close frame.
        while let Some(Ok(_)) = ws.recv().await {}
    };
    let _ = tokio::time::timeout(linger, farewell).await;
}

impl Socket {
    async fn run(&mut self) -> Option<Close> {
        let sleep = tokio::time::sleep_until(self.deadline());
        tokio::pin!(sleep);
        loop {
            let event = std::future::poll_fn(|cx| self.poll(cx, sleep.as_mut())).await;
            self.conn.outbox.awake();
            match event {
                Event::Text(text) => {
                    self.hear();
                    self.take(text);
                }
                Event::Binary => {
                    self.hear();
                    frames::binary(self);
                }
                Event::Heard => self.hear(),
                Event::Worked => {
                    if let Some(text) = self.stash.take() {
                        self.route(text);
                    }
                }
                Event::Timer => {
                    if let Some(close) = self.time() {
                        return Some(close);
                    }
                }
                Event::Close(close) => return Some(close),
                Event::Gone => return None,
            }
        }
    }

    fn hear(&mut self) {
        self.heard = Instant::now();
        self.pinged = false;
    }

    fn take(&mut self, text: Utf8Bytes) {
        if frames::admit(self, &text) {
            self.route(text);
        }
    }

    fn route(&mut self, text: Utf8Bytes) {
        let busy = self.work.as_ref().map(|(lane, _)| *lane);
        match frames::route(self, &text, busy) {
            frames::Step::Done => {}
            frames::Step::Later(lane, work) => self.work = Some((lane, work)),
            frames::Step::Wait => self.stash = Some(text),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<Event> {
        self.conn.outbox.register(cx.waker());
        match self.poll_write(cx) {
            Poll::Ready(Ok(())) => self.blocked_since = None,
            Poll::Ready(Err(_)) => return Poll::Ready(Event::Gone),
            Poll::Pending => {
                self.blocked_since.get_or_insert_with(Instant::now);
            }
        }
        if let Some(close) = self.conn.outbox.ended() {
            return Poll::Ready(Event::Close(close));
        }
        if let Some((_, work)) = &mut self.work
            && work.poll_unpin(cx).is_ready()
        {
            self.work = None;
            return Poll::Ready(Event::Worked);
        }
        if self.conn.is_draining() {
            if !self.conn.outbox.is_ending() && self.drained() {
                self.conn.close(Close::Restarting);
                cx.waker().wake_by_ref();
            }
        } else if self.stash.is_none()
            && !self.conn.outbox.is_ending()
            && let Poll::Ready(event) = self.poll_read(cx)
        {
            return Poll::Ready(event);
        }
        loop {
            let due = self.deadline();
            if due < sleep.deadline() || sleep.is_elapsed() {
                sleep.as_mut().reset(due);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.deadline() <= Instant::now() {
                return Poll::Ready(Event::Timer);
            }
        }
    }

    /// Writes what waits, as far as the peer takes it. Pending means that something is left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        loop {
            if Pin::new(&mut self.ws).poll_ready(cx)?.is_pending() {
                return Poll::Pending;
            }
            let Some(frame) = self.conn.outbox.pop() else { break };
            let (kind, taken_us) = (frame.kind(), frame.taken_us());
            Pin::new(&mut self.ws).start_send(frame.into_message())?;
            self.hub.count.left(kind, taken_us);
            self.dirty = true;
        }
        if self.dirty {
            if Pin::new(&mut self.ws).poll_flush(cx)?.is_pending() {
                return Poll::Pending;
            }
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Poll::Ready(message) = Pin::new(&mut self.ws).poll_next(cx) else { return Poll::Pending };
        Poll::Ready(match message {
            Some(Ok(Message::Text(text))) => Event::Text(text),
            Some(Ok(Message::Binary(_))) => Event::Binary,
            // A pong to their ping was queued by the protocol layer and leaves with the next flush.
            Some(Ok(Message::Ping(_))) => {
                self.dirty = true;
                Event::Heard
            }
            Some(Ok(Message::Pong(_))) => Event::Heard,
            Some(Ok(Message::Close(_))) => Event::Close(Close::Goodbye),
            Some(Err(error)) if is_too_big(&error) => Event::Close(Close::TooBig),
            Some(Err(_)) | None => Event::Gone,
        })
    }

    fn drained(&mut self) -> bool {
        let until = *self.drain_until.get_or_insert_with(|| Instant::now() + DRAIN);
        let idle = self.work.is_none() && self.stash.is_none() && !self.conn.has_in_flight();
        idle || Instant::now() >= until
    }

    /// When something has to be done even if nothing happens.
    fn deadline(&self) -> Instant {
        let session = &self.hub.config.session;
        let silence = session.silence();
        let mut due = self.heard + if self.pinged { silence } else { silence / 3 };
        if self.conn.player().is_none() {
            let patience = session.auth_timeout();
            due = due.min(self.opened + if self.hesitating { patience.min(HESITATION) } else { patience });
        }
        if let Some(since) = self.blocked_since {
            due = due.min(since + session.slow());
        }
        // Once it is past, the socket is ending, and what still waits has its own deadline.
        if let Some(until) = self.drain_until.filter(|_| !self.conn.outbox.is_ending()) {
            due = due.min(until);
        }
        due
    }

    fn time(&mut self) -> Option<Close> {
        let now = Instant::now();
        let session = &self.hub.config.session;
        if self.blocked_since.is_some_and(|since| now >= since + session.slow()) {
            metrics::counter!("asobi_session_slow_consumers_total", "cause" => "blocked").increment(1);
            self.conn.close(Close::SlowConsumer);
            return Some(Close::SlowConsumer);
        }
        if std::mem::replace(&mut self.hesitating, now < self.opened + HESITATION) && !self.hesitating {
            self.conn.local().place = None;
        }
        if self.conn.player().is_none() && now >= self.opened + session.auth_timeout() {
            return Some(Close::IdleAuthTimeout);
        }
        if now >= self.heard + session.silence() {
            return Some(Close::Silent);
        }
        if !self.pinged && now >= self.heard + session.silence() / 3 {
            self.pinged = true;
            // A peer that takes nothing gets no ping; it is slow or gone, which has its own deadline.
            if self.blocked_since.is_none()
                && Pin::new(&mut self.ws).start_send(Message::Ping(bytes::Bytes::new())).is_ok()
            {
                self.dirty = true;
            }
        }
        None
    }
}

/// A message over the protocol layer's hard cap. The error types of that layer are not ours to name.
fn is_too_big(error: &axum::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if error.to_string().contains("too long") || error.to_string().contains("too large") {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        let (task, shared) = (size_of_future(serve), size_of::<Conn>());
        // The read buffer of 4 KiB comes on top; everything else of an idle connection is in these two.
        assert!(task <= 2_048, "the task of a connection takes {task} bytes");
        assert!(shared <= 512, "what others hold of a connection takes {shared} bytes");
    }
}
