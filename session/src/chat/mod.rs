//! Chat. A message is stored, then acknowledged, then hinted to every node; every node delivers it in its channel's order.
//!
//! ```text
//!  chat.send ─► writer (one per process, natural batches) ─commit─► sender: chat.sent
//!                                                            ├────► bus ─► every node's channels
//!                                                            └────► this node's channels
//!  channel: next ─► members · ahead ─► held, then read from rows · behind ─► dropped
//! ```
//!
//! Invariant: all members of a channel see its messages in the order of their sequence numbers, whatever came first.

mod access;
mod channels;
mod direct;
mod history;
mod ids;
mod known;
mod operators;
mod repair;
mod writer;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use asobi_bus::{Bus, BusEvent, Subscription};
use asobi_proto::bus::{ChatItem, Topic};
use asobi_service_kit::Config;
use asobi_store::chat::Message;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tracing::Span;
use uuid::Uuid;

pub(crate) use self::channels::{Cell, Channels, NotAdmitted};
use self::{access::Cache, writer::Write};
pub use self::{access::Refusal, direct::DirectError, ids::ChannelId};
use crate::{count::now_us, frame::Frame, hub::Hub};

/// Notifications that may wait for us; past it the rows are read instead.
const BUS_QUEUE: usize = 1_024;

/// Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    asobi_store::chat::unix_ms(OffsetDateTime::now_utc())
}

/// What a stored message was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub message_id: Uuid,
    pub seq: i64,
    /// Unix milliseconds.
    pub sent_at: i64,
}

/// Why a message was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The writer's queue is full: the sender is pushed back.
    #[error("too many messages wait to be written")]
    Busy,
    /// It is not stored; nothing was written.
    #[error("the message could not be stored")]
    Failed,
    /// Whether it is stored could not be learnt in time.
    #[error("whether the message was stored is not known")]
    Unconfirmed,
}

/// A message on its way to the writer.
pub(crate) struct Outgoing {
    pub channel_id: String,
    pub sender: Uuid,
    pub content: String,
    pub key: Option<String>,
    /// A direct message: `dm.message` goes to this player's inbox in the same transaction.
    pub recipient: Option<Uuid>,
    /// The sender's, where it is recorded: what is done for the message hangs on it.
    pub span: Span,
}

/// One node's part in all channels.
pub struct Chat {
    pub(crate) channels: Channels,
    writes: mpsc::Sender<Write>,
    /// Messages taken and not answered yet.
    pending: AtomicUsize,
    idle: Notify,
    globals: HashSet<String>,
    cache: Cache,
}

impl Chat {
    pub(crate) fn new(config: &Config) -> (Self, mpsc::Receiver<Write>) {
        // Full: the sender is answered `rate_limited`.
        let (writes, queue) = mpsc::channel(config.chat.queue.max(1));
        let chat = Self {
            channels: Channels::new(),
            writes,
            pending: AtomicUsize::new(0),
            idle: Notify::new(),
            // Declared with or without the scheme.
            globals: config
                .chat
                .global_channels
                .iter()
                .map(|name| name.strip_prefix("global:").unwrap_or(name).to_owned())
                .collect(),
            cache: Cache::default(),
        };
        (chat, queue)
    }

    /// Hands a message to the writer; `done` is called once, when it is known what became of it. Never blocks.
    ///
    /// # Errors
    /// [`SendError::Busy`], and `done` is not called.
    pub(crate) fn send(
        &self,
        message: Outgoing,
        done: impl FnOnce(Result<Sent, SendError>) + Send + Sync + 'static,
    ) -> Result<(), SendError> {
        self.pending.fetch_add(1, Ordering::AcqRel);
        self.writes.try_send(Write { message, taken_us: now_us(), done: Box::new(done) }).map_err(|_| {
            self.answered(1);
            metrics::counter!("asobi_chat_refused_total", "reason" => "queue_full").increment(1);
            SendError::Busy
        })
    }

    /// Messages that wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.writes.max_capacity() - self.writes.capacity()
    }

    fn answered(&self, messages: usize) {
        if self.pending.fetch_sub(messages, Ordering::AcqRel) == messages {
            self.idle.notify_waiters();
        }
    }

    /// Waits until every message taken was answered.
    pub(crate) async fn flushed(&self) {
        loop {
            let idle = self.idle.notified();
            if self.pending.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

pub(crate) fn start(hub: &Arc<Hub>, bus: &Bus, writes: mpsc::Receiver<Write>) {
    let topics: Vec<Topic> = Topic::all_chat().collect();
    hub.spawn("chat writer", writer::run(Arc::clone(hub), writes));
    let (repairs, queue) = repair::queue();
    hub.chat.channels.set_repairs(repairs);
    hub.spawn("chat repairs", repair::run(Arc::clone(hub), queue));
    hub.spawn("chat history", history::run(Arc::clone(hub)));
    hub.spawn("chat sweep", repair::sweep(Arc::clone(hub)));
    hub.spawn("chat hints", listen(Arc::clone(hub), Arc::clone(bus.origin()), bus.subscribe(&topics, BUS_QUEUE)));
}

async fn listen(hub: Arc<Hub>, own: Arc<str>, mut events: Subscription) {
    while let Some(event) = events.next().await {
        match event {
            BusEvent::Resync => {
                metrics::counter!("asobi_session_resyncs_total", "what" => "chat").increment(1);
                hub.chat.channels.sweep_now();
            }
            BusEvent::Batch(notification) => {
                // What this process stored it has delivered when it hinted at it.
                let Some(batch) = notification.batch().filter(|batch| *batch.origin != *own) else { continue };
                // Of each recorded message its own, until all of the batch is delivered.
                let _delivering: Vec<Span> = (0..batch.items.len())
                    .filter_map(|item| batch.trace_of(item))
                    .map(|trace| asobi_bus::processing(notification.topic, Some(trace)))
                    .collect();
                hub.chat.channels.hear(batch.items.iter().filter_map(|raw| {
                    serde_json::from_str::<ChatItem<'_>>(raw.get())
                        .inspect_err(|error| tracing::warn!(%error, "A chat hint could not be read; its row will be."))
                        .ok()
                }));
            }
        }
    }
}

pub(crate) fn shared_frame(message: &Message) -> Frame {
    Frame::from(message.frame())
}
