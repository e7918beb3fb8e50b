//! What waits for one socket. Bounded by frames and bytes: events are kept in order or the reader is disconnected,
//! states are conflated, so a slow reader costs nobody else anything and its memory never grows with load.
//!
//! ```text
//!  events ──► queue ─┐ older first
//!                    ├──────────────► socket
//!  state ──► slot ───┘
//!  frames of a match that was not announced yet ──► held ──(release)──► queue and slot
//! ```
//!
//! Invariant: what was pushed first leaves first; a state counts as pushed when its latest version was.

use std::{collections::VecDeque, task::Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::{
    close::Close,
    frame::{Frame, FrameKind},
};

/// Slots that an empty queue keeps.
const KEPT: usize = 4;

/// How much may wait for one socket.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub frames: usize,
    pub bytes: usize,
}

/// What became of a pushed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    Queued,
    /// It took the place of an older state.
    Conflated,
    /// The bound is reached; everything was dropped and the socket will be closed as slow.
    Full,
    /// The socket is closing.
    Closed,
}

#[derive(Debug, Default)]
struct Held {
    /// How many announcements are awaited.
    holds: u32,
    frames: Vec<(FrameKind, Frame)>,
}

/// The rules, without locks and wakers.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    events: VecDeque<(u64, Frame)>,
    state: Option<(u64, Frame)>,
    /// Frames of a match whose announcement is on its way; rare, hence boxed.
    held: Option<Box<Held>>,
    bytes: usize,
    next: u64,
    end: Option<Close>,
}

impl Queue {
    pub(crate) fn push(&mut self, kind: FrameKind, frame: Frame, bounds: Bounds) -> Push {
        if self.end.is_some() {
            return Push::Closed;
        }
        let number = self.next;
        self.next += 1;
        if kind == FrameKind::State {
            return match self.state.replace((number, frame)) {
                Some(_) => Push::Conflated,
                None => Push::Queued,
            };
        }
        let held = self.held.as_ref().map_or(0, |h| h.frames.len());
        if self.events.len() + held >= bounds.frames || self.bytes + frame.len() > bounds.bytes.max(frame.len()) {
            self.end(Close::SlowConsumer);
            return Push::Full;
        }
        self.bytes += frame.len();
        self.events.push_back((number, frame));
        Push::Queued
    }

    /// As [`Self::push`], for frames that come from a match: they wait while its announcement has not been pushed.
    pub(crate) fn push_from_match(&mut self, kind: FrameKind, frame: Frame, bounds: Bounds) -> Push {
        if self.end.is_some() {
            return Push::Closed;
        }
        let Some(held) = self.held.as_mut().map(|h| &mut h.frames) else { return self.push(kind, frame, bounds) };
        if kind == FrameKind::State {
            // Only the latest state counts, at its own place among the events.
            held.retain(|(kind, _)| *kind != FrameKind::State);
        }
        if held.len() + self.events.len() >= bounds.frames {
            self.end(Close::SlowConsumer);
            return Push::Full;
        }
        held.push((kind, frame));
        Push::Queued
    }

    pub(crate) fn hold(&mut self) {
        if self.end.is_none() {
            self.held.get_or_insert_default().holds += 1;
        }
    }

    pub(crate) fn release(&mut self, bounds: Bounds) -> Push {
        let Some(held) = self.held.as_mut() else { return Push::Queued };
        held.holds = held.holds.saturating_sub(1);
        let mut last = Push::Queued;
        if held.holds == 0 {
            for (kind, frame) in self.held.take().map(|h| h.frames).unwrap_or_default() {
                last = self.push(kind, frame, bounds);
            }
        }
        last
    }

    /// Pushes what frames were held back for, and takes the hold away. Where others hold too, for something that the client
    /// must know first, the announcement waits with the frames, before them.
    pub(crate) fn announce(&mut self, frame: Option<Frame>, bounds: Bounds) -> Push {
        match (&mut self.held, frame) {
            (Some(held), Some(frame)) if held.holds > 1 => held.frames.insert(0, (FrameKind::Event, frame)),
            (_, Some(frame)) => {
                self.push(FrameKind::Event, frame, bounds);
            }
            (_, None) => {}
        }
        self.release(bounds)
    }

    pub(crate) fn pop(&mut self) -> Option<Frame> {
        let state_first = match (&self.state, self.events.front()) {
            (Some((state, _)), Some((event, _))) => state < event,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if state_first {
            return self.state.take().map(|(_, frame)| frame);
        }
        let (_, frame) = self.events.pop_front()?;
        self.bytes -= frame.len();
        if self.events.is_empty() && self.events.capacity() > KEPT {
            // What a burst needed is given back; an idle connection keeps a handful of slots and no allocation per frame.
            self.events = VecDeque::new();
        }
        Some(frame)
    }

    /// No more frames are taken; the first reason counts.
    pub(crate) fn end(&mut self, close: Close) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(close);
        self.held = None;
        if !close.flushes() {
            self.events = VecDeque::new();
            self.state = None;
            self.bytes = 0;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.state.is_none()
    }
}

/// The queue of one socket, shared by everybody who has something for it.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    bounds: Bounds,
}

impl Outbox {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { queue: Mutex::default(), waker: AtomicWaker::new(), bounds }
    }

    pub(crate) fn push(&self, kind: FrameKind, frame: Frame) -> Push {
        self.change(|queue| queue.push(kind, frame, self.bounds))
    }

    /// Events that came together: the socket's task is woken once for all of them.
    pub(crate) fn push_all(&self, events: &[Frame]) {
        self.change(|queue| {
            let mut last = Push::Queued;
            for frame in events {
                last = queue.push(FrameKind::Event, frame.clone(), self.bounds);
                if last != Push::Queued {
                    break;
                }
            }
            last
        });
    }

    pub(crate) fn push_from_match(&self, kind: FrameKind, frame: Frame) -> Push {
        self.change(|queue| queue.push_from_match(kind, frame, self.bounds))
    }

    /// Frames of matches wait until as many calls of [`Self::release`].
    pub(crate) fn hold(&self) {
        self.queue.lock().hold();
    }

    pub(crate) fn release(&self) {
        self.change(|queue| queue.release(self.bounds));
    }

    /// As [`Self::release`], after what was waited for, if there is a word of it.
    pub(crate) fn announce(&self, frame: Option<Frame>) {
        self.change(|queue| queue.announce(frame, self.bounds));
    }

    pub(crate) fn end(&self, close: Close) {
        self.queue.lock().end(close);
        self.waker.wake();
    }

    pub(crate) fn pop(&self) -> Option<Frame> {
        self.queue.lock().pop()
    }

    /// Why the socket is to be closed, once everything that was to be flushed has been taken.
    pub(crate) fn ended(&self) -> Option<Close> {
        let queue = self.queue.lock();
        if queue.is_empty() { queue.end } else { None }
    }

    /// Whether the socket was given up, whatever still waits.
    pub(crate) fn is_ending(&self) -> bool {
        self.queue.lock().end.is_some()
    }

    /// Makes the socket's task look around.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// The socket's own task is awake and looks again before it waits: what it pushes itself need not wake it.
    pub(crate) fn awake(&self) {
        drop(self.waker.take());
    }

    /// Only the socket's own task may call this.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    fn change(&self, deed: impl FnOnce(&mut Queue) -> Push) -> Push {
        let done = deed(&mut self.queue.lock());
        match done {
            Push::Queued => self.waker.wake(),
            Push::Conflated => metrics::counter!("asobi_session_states_conflated_total").increment(1),
            Push::Full => {
                metrics::counter!("asobi_session_slow_consumers_total", "cause" => "queue_full").increment(1);
                self.waker.wake();
            }
            Push::Closed => metrics::counter!("asobi_session_frames_dropped_total", "reason" => "closing").increment(1),
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { frames: 4, bytes: 20 };

    #[test]
    fn an_announcement_waits_for_what_the_client_must_know_first() {
        let frame = |text: &str| Frame::from(text.to_owned());
        let mut queue = Queue::default();
        // A session that is being connected, and a match whose players are told at the same time.
        queue.hold();
        queue.hold();
        queue.push_from_match(FrameKind::State, frame("state"), BOUNDS);
        queue.announce(Some(frame("matched")), BOUNDS);
        queue.push(FrameKind::Event, frame("connected"), BOUNDS);
        queue.release(BOUNDS);
        let texts: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|f| f.as_str().to_owned()).collect();
        assert_eq!(texts, ["connected", "matched", "state"]);
        queue.hold();
        queue.push_from_match(FrameKind::State, frame("state"), BOUNDS);
        queue.announce(Some(frame("matched")), BOUNDS);
        let texts: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|f| f.as_str().to_owned()).collect();
        assert_eq!(texts, ["matched", "state"]);
    }

    fn event(queue: &mut Queue, text: &str) -> Push {
        queue.push(FrameKind::Event, text.to_owned().into(), BOUNDS)
    }

    fn state(queue: &mut Queue, text: &str) -> Push {
        queue.push(FrameKind::State, text.to_owned().into(), BOUNDS)
    }

    fn drain(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|f| f.as_str().to_owned()).collect()
    }

    #[test]
    fn states_are_conflated_at_the_place_of_the_latest() {
        let mut queue = Queue::default();
        state(&mut queue, "s1");
        event(&mut queue, "a");
        assert_eq!(state(&mut queue, "s2"), Push::Conflated);
        event(&mut queue, "b");
        assert_eq!(drain(&mut queue), ["a", "s2", "b"]);
        state(&mut queue, "s3");
        event(&mut queue, "finished");
        assert_eq!(drain(&mut queue), ["s3", "finished"]);
    }

    #[test]
    fn a_full_queue_ends_the_socket_and_forgets_all() {
        let mut queue = Queue::default();
        for _ in 0..4 {
            assert_eq!(event(&mut queue, "x"), Push::Queued);
        }
        state(&mut queue, "s");
        assert_eq!(event(&mut queue, "x"), Push::Full);
        assert_eq!(event(&mut queue, "x"), Push::Closed);
        assert_eq!((queue.pop(), queue.end), (None, Some(Close::SlowConsumer)));
    }

    #[test]
    fn bytes_bound_the_queue_but_one_large_frame_always_fits() {
        let mut queue = Queue::default();
        assert_eq!(event(&mut queue, &"x".repeat(30)), Push::Queued);
        assert_eq!(event(&mut queue, "y"), Push::Full);
        let mut queue = Queue::default();
        assert_eq!(event(&mut queue, &"x".repeat(15)), Push::Queued);
        queue.pop();
        assert_eq!(event(&mut queue, &"x".repeat(15)), Push::Queued);
        assert_eq!(event(&mut queue, &"x".repeat(15)), Push::Full);
    }

    #[test]
    fn frames_of_a_match_wait_for_its_announcement() {
        let mut queue = Queue::default();
        queue.hold();
        for (kind, text) in [(FrameKind::State, "s1"), (FrameKind::Event, "e"), (FrameKind::State, "s2")] {
            queue.push_from_match(kind, text.to_owned().into(), BOUNDS);
        }
        event(&mut queue, "matched");
        assert_eq!(drain(&mut queue), ["matched"]);
        queue.hold();
        queue.release(BOUNDS);
        assert!(queue.is_empty());
        queue.release(BOUNDS);
        assert_eq!(drain(&mut queue), ["e", "s2"]);
    }

    #[test]
    fn a_drain_flushes_what_waits() {
        let mut queue = Queue::default();
        event(&mut queue, "last words");
        queue.end(Close::Restarting);
        queue.end(Close::Replaced);
        assert_eq!(drain(&mut queue), ["last words"]);
        assert_eq!(queue.end, Some(Close::Restarting));
    }
}
