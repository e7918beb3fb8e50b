//! The one task that stores this process's messages. While a batch is under way the next one gathers, so an idle system
//! answers at once and a busy one pays one commit for many.
//!
//! | what happens | what the senders hear |
//! | --- | --- |
//! | the commit is confirmed | stored |
//! | nothing reached the database | failed |
//! | the connection was lost on the way | the writer's row tells whether the batch is stored; until that is known it is tried again under the same number; `unconfirmed` when that takes too long |
//! | a key was used before | what its first use was answered |
//! | the database refuses the data | the batch is split, until whoever is refused is alone |

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_proto::bus::{ChatItem, InboxEvent, Topic};
use asobi_store::{
    Error,
    chat::{self, Batch, Message, NewMessage, Placed, Stored, WriterId, unix_ms},
    inbox, within,
};
use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::{Outgoing, SendError, Sent, known::Known};
use crate::{frame::Frame, hub::Hub};

/// Bound of getting a connection, and of one statement or transaction on it.
const CONNECT: Duration = Duration::from_millis(1_500);
const WRITE: Duration = Duration::from_secs(2);
/// How long an unknown outcome is looked into.
const LEARN: Duration = Duration::from_secs(4);
const RETRY: Duration = Duration::from_millis(100);
/// Messages in the last batch, and how long the next one gathers after so many or more: the first row that fits, unless as many as make a large
/// batch wait already. What a batch costs PostgreSQL is nearly the same however many are in it.
const GATHER: [(usize, Duration); 2] = [(16, Duration::from_millis(16)), (3, Duration::from_millis(8))];
const LARGE: usize = 100;

/// How a sender is answered, once.
pub(crate) type Done = Box<dyn FnOnce(Result<Sent, SendError>) + Send + Sync>;

/// A message taken from a sender, and how to answer them.
pub(crate) struct Write {
    pub message: Outgoing,
    /// When this node took it, unix microseconds.
    pub taken_us: u64,
    pub done: Done,
}

/// A message with its id, and all who wait for it: repeats of one key within a batch share one.
struct Pending {
    new: NewMessage,
    recipient: Option<Uuid>,
    /// See [`Outgoing`].
    span: Span,
    /// See [`Write`].
    taken_us: u64,
    done: Vec<Done>,
}

type Events = Vec<(Uuid, i64, InboxEvent)>;

enum Attempt {
    Stored(Vec<Placed>, Events),
    /// An earlier attempt went through.
    Late,
    /// Nothing was stored, and what stood in the way can be looked at: a key that was used elsewhere in this very moment, a
    /// deadlock, a day without a partition.
    Again,
    /// Nothing was sent to the database.
    Nothing,
    /// The database says that this can never be stored.
    Refused,
    Unknown,
}

pub(super) async fn run(hub: Arc<Hub>, mut writes: mpsc::Receiver<Write>) {
    let most = hub.config.chat.batch.max(1);
    let mut writer = Writer::new(&hub);
    let mut batch = Vec::with_capacity(most.min(64));
    let mut last = 0;
    loop {
        if let Some((_, moment)) = GATHER.into_iter().find(|(busy, _)| last >= *busy)
            && writes.len() < LARGE.min(most)
        {
            tokio::time::sleep(moment).await;
        }
        last = writes.recv_many(&mut batch, most).await;
        if last == 0 {
            return;
        }
        metrics::histogram!("asobi_chat_batch_messages").record(last as f64);
        let pending = writer.gather(&mut batch);
        writer.store(pending).await;
        hub.chat.answered(last);
    }
}

/// What stores this process's messages: a session of its own, and a name under which its batches are numbered.
struct Writer {
    hub: Arc<Hub>,
    id: WriterId,
    /// Of the last batch that was begun.
    number: i64,
    connection: Option<PgConnection>,
    known: Known,
}

impl Writer {
    fn new(hub: &Arc<Hub>) -> Self {
        let id = WriterId { id: Uuid::now_v7(), node_id: hub.config.node.id.clone() };
        Self { hub: Arc::clone(hub), id, number: 0, connection: None, known: Known::default() }
    }

    fn gather(&self, batch: &mut Vec<Write>) -> Vec<Pending> {
        gather(batch, &self.known)
    }

    /// Stores messages and answers their senders, whatever it takes.
    async fn store(&mut self, pending: Vec<Pending>) {
        let mut rest = vec![pending];
        while let Some(mut batch) = rest.pop() {
            if !self.store_batch(&mut batch).await {
                if batch.len() <= 1 {
                    fail(batch, SendError::Failed);
                    continue;
                }
                // The others must not suffer; the earlier half goes first.
                let later = batch.split_off(batch.len() / 2);
                rest.extend([later, batch]);
            }
        }
    }

    /// False when the database refuses something in the batch, which is left as it is; else everybody has been answered.
    async fn store_batch(&mut self, pending: &mut Vec<Pending>) -> bool {
        self.number += 1;
        let started = Instant::now();
        // Whether an attempt may have got through without our knowing.
        let mut doubt = false;
        loop {
            let clear = self.settle_known(pending, doubt).await;
            if pending.is_empty() {
                return true;
            }
            let attempt = if clear || !doubt { self.attempt(pending).await } else { Attempt::Nothing };
            let at_once = matches!(attempt, Attempt::Late | Attempt::Again);
            match attempt {
                Attempt::Stored(placed, events) => {
                    self.confirmed(std::mem::take(pending), placed, events);
                    return true;
                }
                Attempt::Refused => return false,
                Attempt::Late | Attempt::Unknown => doubt = true,
                Attempt::Nothing if !doubt => {
                    fail(std::mem::take(pending), SendError::Failed);
                    return true;
                }
                Attempt::Again | Attempt::Nothing => {}
            }
            if started.elapsed() >= LEARN {
                let why = if doubt { SendError::Unconfirmed } else { SendError::Failed };
                fail(std::mem::take(pending), why);
                return true;
            }
            if !at_once {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Answers those that are stored already: by their keys, and after a doubt by the writer's row. False when that cannot be
    /// read.
    async fn settle_known(&mut self, pending: &mut Vec<Pending>, doubt: bool) -> bool {
        let mut stored: HashMap<Uuid, Stored> = HashMap::new();
        if doubt {
            let messages: Vec<&NewMessage> = pending.iter().map(|p| &p.new).collect();
            let batch = Batch { writer: &self.id, number: self.number, messages: &messages };
            let Ok(committed) = within(WRITE, chat::committed(&self.hub.pool, &batch)).await else { return false };
            stored.extend(committed.into_iter().flatten().map(|s| (s.message_id, s)));
        }
        let keys: Vec<(Uuid, &str)> =
            pending.iter().filter_map(|p| Some((p.new.sender_id, p.new.idempotency_key.as_deref()?))).collect();
        if !keys.is_empty() {
            let Ok(used) = within(WRITE, chat::by_keys(&self.hub.pool, &keys)).await else { return false };
            let used: HashMap<(Uuid, &str), Stored> =
                used.iter().map(|(sender, key, stored)| ((*sender, key.as_str()), *stored)).collect();
            let repeats = pending.iter().filter_map(|p| {
                let key = p.new.idempotency_key.as_deref()?;
                Some((p.new.message_id, *used.get(&(p.new.sender_id, key))?))
            });
            stored.extend(repeats);
        }
        if stored.is_empty() {
            return true;
        }
        for p in std::mem::take(pending) {
            match stored.remove(&p.new.message_id) {
                None => pending.push(p),
                // Ours, stored by an attempt whose end we did not see: it was never hinted.
                Some(stored) if stored.message_id == p.new.message_id => {
                    self.confirmed(vec![p], vec![stored.placed], Vec::new());
                }
                Some(stored) => answer(p.done, Ok(sent(stored.message_id, stored.placed))),
            }
        }
        true
    }

    async fn attempt(&mut self, pending: &[Pending]) -> Attempt {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, messages = pending.len(), "Chat messages found no database connection.");
                return Attempt::Nothing;
            }
        };
        let messages: Vec<&NewMessage> = pending.iter().map(|p| &p.new).collect();
        let batch = Batch { writer: &self.id, number: self.number, messages: &messages };
        let span = writing(pending);
        let error = match within(WRITE, write(&mut connection, &batch, pending)).instrument(span).await {
            Ok(written) => {
                self.connection = Some(connection);
                return written.map_or(Attempt::Late, |(placed, events)| Attempt::Stored(placed, events));
            }
            Err(error) => error,
        };
        let Some(code) = sql_state(&error) else {
            // What was abandoned half-way must not be used again: the connection ends here.
            tracing::warn!(%error, messages = pending.len(), "The outcome of a chat transaction is unknown; it is looked up.");
            return Attempt::Unknown;
        };
        self.connection = Some(connection);
        match &*code {
            "23505" => Attempt::Again,
            _ if error.no_partition() && within(WRITE, chat::history::make_days(&self.hub.pool)).await.is_ok() => {
                Attempt::Again
            }
            // Of these classes (the data, the statement) nothing changes by trying again.
            code if ["22", "23", "42"].iter().any(|class| code.starts_with(class)) => {
                tracing::error!(%error, messages = pending.len(), "The database refuses chat messages.");
                Attempt::Refused
            }
            code if code.starts_with("40") => Attempt::Again,
            _ => {
                tracing::warn!(%error, messages = pending.len(), "The outcome of a chat transaction is unknown; it is looked up.");
                self.connection = None;
                Attempt::Unknown
            }
        }
    }

    async fn connect(&mut self) -> asobi_store::Result<PgConnection> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let database = &self.hub.config.database;
        let name = format!("asobi/{}", self.hub.config.node.id);
        // Past a pooler, which would drop what its plans depend on, and keep a connection for it alone.
        let options = chat::connect_options(database.direct(), &name, database.timeout())?;
        within(CONNECT, async { Ok(Box::pin(PgConnection::connect_with(&options)).await?) }).await
    }

    /// Tells the senders, then everybody else.
    fn confirmed(&mut self, pending: Vec<Pending>, placed: Vec<Placed>, events: Events) {
        let mut messages = Vec::with_capacity(pending.len());
        let spans: Vec<Span> = if events.is_empty() {
            Vec::new()
        } else {
            pending.iter().filter(|p| p.recipient.is_some()).map(|p| p.span.clone()).collect()
        };
        for (p, placed) in pending.into_iter().zip(placed) {
            let Pending { new, span, taken_us, done, .. } = p;
            answer(done, Ok(sent(new.message_id, placed)));
            if !new.sender_known {
                self.known.add(new.sender_id, &new.channel_id);
            }
            let NewMessage { message_id, channel_id, sender_id, content, .. } = new;
            let Placed { seq, sent_at } = placed;
            let message = Message { message_id, channel_id, seq, sender_id, content, sent_at, deleted: false };
            messages.push((message, span, taken_us));
        }
        spread(&self.hub, messages);
        for ((player, seq, event), span) in events.iter().zip(&spans) {
            span.in_scope(|| asobi_bus::inbox::publish(&self.hub.publisher, *player, *seq, event));
        }
    }
}

/// The span of a batch's statement: in the trace of its first recorded message, and linked to those of the others.
fn writing(pending: &[Pending]) -> Span {
    let mut recorded = pending.iter().map(|p| &p.span).filter(|span| !span.is_disabled());
    let Some(first) = recorded.next() else { return Span::none() };
    let span = tracing::info_span!(
        target: asobi_trace::TARGET,
        parent: first,
        "INSERT chat_messages",
        otel.kind = "client",
        db.system.name = "postgresql",
        db.operation.name = "INSERT",
        db.collection.name = "chat_messages",
        db.operation.batch.size = pending.len(),
    );
    asobi_trace::link_spans(&span, recorded);
    span
}

/// What the server said; none when it said nothing, or nothing that ends the matter.
fn sql_state(error: &Error) -> Option<String> {
    match error {
        Error::Sql(sqlx::Error::Database(said)) => said.code().map(Into::into),
        _ => None,
    }
}

fn gather(batch: &mut Vec<Write>, known: &Known) -> Vec<Pending> {
    let mut pending: Vec<Pending> = Vec::with_capacity(batch.len());
    let mut keys: HashMap<(Uuid, String), usize> = HashMap::new();
    for Write { message, taken_us, done } in batch.drain(..) {
        let key = message.key.clone().map(|key| (message.sender, key));
        if let Some(first) = key.as_ref().and_then(|key| keys.get(key)) {
            pending[*first].done.push(done);
            continue;
        }
        if let Some(key) = key {
            keys.insert(key, pending.len());
        }
        let new = NewMessage {
            message_id: Uuid::now_v7(),
            sender_known: known.has(message.sender, &message.channel_id),
            channel_id: message.channel_id,
            sender_id: message.sender,
            content: message.content,
            idempotency_key: message.key,
        };
        let (recipient, span) = (message.recipient, message.span);
        pending.push(Pending { new, recipient, span, taken_us, done: vec![done] });
    }
    pending
}

/// One statement; with direct messages a transaction, so that the recipient hears of exactly what is stored. None: an earlier
/// attempt was stored.
async fn write(
    connection: &mut PgConnection,
    batch: &Batch<'_>,
    pending: &[Pending],
) -> asobi_store::Result<Option<(Vec<Placed>, Events)>> {
    if pending.iter().all(|p| p.recipient.is_none()) {
        return Ok(chat::append(connection, batch).await?.map(|placed| (placed, Vec::new())));
    }
    let mut tx = connection.begin().await?;
    let Some(placed) = chat::append(&mut tx, batch).await? else { return Ok(None) };
    let events: Vec<(Uuid, InboxEvent)> = pending
        .iter()
        .zip(&placed)
        .filter_map(|(p, placed)| Some((p.recipient?, chat::direct_event(&p.new, placed))))
        .collect();
    let seqs = inbox::append(&mut tx, &events).await?;
    tx.commit().await?;
    Ok(Some((placed, events.into_iter().zip(seqs).map(|((player, event), seq)| (player, seq, event)).collect())))
}

/// Hints stored messages to every node, and gives them to the members here.
fn spread(hub: &Hub, messages: Vec<(Message, Span, u64)>) {
    let mut here = Vec::with_capacity(messages.len());
    for (message, span, taken_us) in &messages {
        let Ok(frame) = RawValue::from_string(message.frame()) else { continue };
        let (topic, channel_id) = (Topic::chat(&message.channel_id), message.channel_id.as_str().into());
        let item = ChatItem { channel_id, seq: message.seq, frame: Some(&frame), taken_us: Some(*taken_us) };
        let trace = asobi_trace::traceparent_of(span);
        // What is lost here (a full queue, counted there) is found by the sweep of each node.
        if hub.publisher.publish_traced(topic, &item, trace.as_deref()) == Err(asobi_bus::PublishError::TooLarge) {
            let _ = hub.publisher.publish_traced(topic, &ChatItem { frame: None, ..item }, trace.as_deref());
        }
        let frame = Frame::from(String::from(Box::<str>::from(frame))).taken(Some(*taken_us));
        here.push((message.channel_id.as_str(), message.seq, frame));
    }
    hub.chat.channels.stored(here);
}

fn sent(message_id: Uuid, placed: Placed) -> Sent {
    Sent { message_id, seq: placed.seq, sent_at: unix_ms(placed.sent_at) }
}

fn answer(done: Vec<Done>, outcome: Result<Sent, SendError>) {
    for done in done {
        done(outcome);
    }
}

fn fail(pending: Vec<Pending>, error: SendError) {
    metrics::counter!("asobi_chat_refused_total", "reason" => if error == SendError::Failed { "failed" } else { "unconfirmed" })
        .increment(pending.len() as u64);
    for p in pending {
        answer(p.done, Err(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(sender: Uuid, key: Option<&str>) -> Write {
        let message = Outgoing {
            channel_id: "global:x".into(),
            sender,
            content: "hi".into(),
            key: key.map(Into::into),
            recipient: None,
            span: Span::none(),
        };
        Write { message, taken_us: 1, done: Box::new(|_| {}) }
    }

    #[test]
    fn repeats_within_a_batch_share_one_message() {
        let (ada, bo) = (Uuid::now_v7(), Uuid::now_v7());
        let mut batch = vec![write(ada, Some("k")), write(ada, None), write(bo, Some("k")), write(ada, Some("k"))];
        let pending = gather(&mut batch, &Known::default());
        assert_eq!(pending.iter().map(|p| p.done.len()).collect::<Vec<_>>(), [2, 1, 1]);
        assert!(batch.is_empty());
    }
}
