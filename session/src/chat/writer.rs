//! The one task that stores this process's messages. While a transaction is under way the next batch gathers, so an idle
//! system answers at once and a busy one pays one commit for many.
//!
//! | what happens | what the senders hear |
//! | --- | --- |
//! | the commit is confirmed | stored |
//! | nothing reached the database | failed |
//! | the connection was lost on the way | looked up by message id and, where it is not there, stored again under the same id, until it is known; `unconfirmed` when that takes too long |
//! | a key was used before | what its first use was answered |

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_proto::{
    bus::{ChatItem, InboxEvent, Topic},
    frame,
};
use asobi_store::{
    Error,
    chat::{self, Message, NewMessage, Placed, unix_ms},
    inbox, within,
};
use serde_json::{json, value::RawValue};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Outgoing, SendError, Sent, message_frame};
use crate::{frame::Frame, hub::Hub};

/// Bound of getting a connection, and of one statement or transaction on it.
const CONNECT: Duration = Duration::from_millis(1_500);
const WRITE: Duration = Duration::from_secs(2);
/// How long an unknown outcome is looked into.
const LEARN: Duration = Duration::from_secs(4);
const RETRY: Duration = Duration::from_millis(100);

/// How a sender is answered, once.
pub(crate) type Done = Box<dyn FnOnce(Result<Sent, SendError>) + Send + Sync>;

/// A message taken from a sender, and how to answer them.
pub(crate) struct Write {
    pub message: Outgoing,
    pub done: Done,
}

/// A message with its id, and all who wait for it: repeats of one key within a batch share one.
struct Pending {
    new: NewMessage,
    recipient: Option<Uuid>,
    /// See [`Outgoing`].
    traceparent: Option<String>,
    done: Vec<Done>,
}

enum Attempt {
    Stored(Vec<Placed>, Vec<(Uuid, i64, InboxEvent)>),
    /// Some are stored already: an earlier attempt went through, or a key was used elsewhere in this very moment.
    Conflict,
    /// Nothing was sent to the database.
    Nothing,
    /// The database says that these can never be stored.
    Refused,
    Unknown,
}

pub(super) async fn run(hub: Arc<Hub>, mut writes: mpsc::Receiver<Write>) {
    let most = hub.config.chat.batch.max(1);
    let mut batch = Vec::with_capacity(most.min(64));
    while writes.recv_many(&mut batch, most).await > 0 {
        let taken = batch.len();
        metrics::histogram!("asobi_chat_batch_messages").record(taken as f64);
        let pending = gather(&mut batch);
        store(&hub, pending).await;
        hub.chat.answered(taken);
    }
}

fn gather(batch: &mut Vec<Write>) -> Vec<Pending> {
    let mut pending: Vec<Pending> = Vec::with_capacity(batch.len());
    let mut keys: HashMap<(Uuid, String), usize> = HashMap::new();
    for Write { message, done } in batch.drain(..) {
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
            channel_id: message.channel_id,
            sender_id: message.sender,
            content: message.content,
            idempotency_key: message.key,
        };
        let (recipient, traceparent) = (message.recipient, message.traceparent);
        pending.push(Pending { new, recipient, traceparent, done: vec![done] });
    }
    pending
}

async fn store(hub: &Arc<Hub>, mut pending: Vec<Pending>) {
    let started = Instant::now();
    // Whether an attempt may have got through without our knowing.
    let mut doubt = false;
    loop {
        if !settle_known(hub, &mut pending, doubt).await && doubt {
            if started.elapsed() >= LEARN {
                return fail(pending, SendError::Unconfirmed);
            }
            tokio::time::sleep(RETRY).await;
            continue;
        }
        if pending.is_empty() {
            return;
        }
        match attempt(hub, &pending).await {
            Attempt::Stored(placed, events) => return confirmed(hub, pending, placed, events),
            Attempt::Conflict => doubt = true,
            Attempt::Nothing if !doubt => return fail(pending, SendError::Failed),
            Attempt::Nothing => {}
            Attempt::Refused => return fail(pending, SendError::Failed),
            Attempt::Unknown => doubt = true,
        }
        if started.elapsed() >= LEARN {
            return fail(pending, if doubt { SendError::Unconfirmed } else { SendError::Failed });
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Answers those that are stored already: by their keys, and after a doubt by their ids. False when that cannot be read.
async fn settle_known(hub: &Arc<Hub>, pending: &mut Vec<Pending>, doubt: bool) -> bool {
    let keys: Vec<(Uuid, String)> =
        pending.iter().filter_map(|p| p.new.idempotency_key.clone().map(|key| (p.new.sender_id, key))).collect();
    let mut known: HashMap<Uuid, Message> = HashMap::new();
    if doubt {
        let ids: Vec<Uuid> = pending.iter().map(|p| p.new.message_id).collect();
        let Ok(stored) = within(WRITE, chat::by_ids(&hub.pool, &ids)).await else { return false };
        known.extend(stored.into_iter().map(|m| (m.message_id, m)));
    }
    if !keys.is_empty() {
        let Ok(stored) = within(WRITE, chat::by_keys(&hub.pool, &keys)).await else { return false };
        for (key, message) in stored {
            let same = |p: &&Pending| {
                p.new.sender_id == message.sender_id && p.new.idempotency_key.as_deref() == Some(key.as_str())
            };
            if let Some(repeat) = pending.iter().find(same) {
                known.insert(repeat.new.message_id, message);
            }
        }
    }
    if known.is_empty() {
        return true;
    }
    for p in std::mem::take(pending) {
        match known.remove(&p.new.message_id) {
            None => pending.push(p),
            Some(message) => {
                if message.message_id == p.new.message_id {
                    // Ours, stored by an attempt whose end we did not see: it was never hinted.
                    spread(hub, &message, p.traceparent.clone());
                }
                answer(p, Ok(Sent { message_id: message.message_id, seq: message.seq, sent_at: message.sent_at_ms() }));
            }
        }
    }
    true
}

async fn attempt(hub: &Hub, pending: &[Pending]) -> Attempt {
    let connection = within(CONNECT, async { Ok(hub.pool.acquire().await?) }).await;
    let mut connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%error, messages = pending.len(), "Chat messages found no database connection.");
            return Attempt::Nothing;
        }
    };
    match within(WRITE, write(&mut connection, pending)).await {
        Ok((placed, events)) => Attempt::Stored(placed, events),
        Err(error) if error.unique_violation().is_some() => Attempt::Conflict,
        // Classes 22, 23 and 42: the data or the statement; trying again would end the same way.
        Err(Error::Sql(sqlx::Error::Database(refusal)))
            if refusal.code().is_some_and(|code| ["22", "23", "42"].iter().any(|class| code.starts_with(class))) =>
        {
            tracing::error!(error = %refusal, messages = pending.len(), "The database refuses chat messages.");
            Attempt::Refused
        }
        Err(error) => {
            tracing::warn!(%error, messages = pending.len(), "The outcome of a chat transaction is unknown; it is looked up.");
            // What was abandoned half-way must not be used by the next.
            drop(connection.detach());
            Attempt::Unknown
        }
    }
}

/// One statement; with direct messages a transaction, so that the recipient hears of exactly what is stored.
async fn write(
    connection: &mut PgConnection,
    pending: &[Pending],
) -> asobi_store::Result<(Vec<Placed>, Vec<(Uuid, i64, InboxEvent)>)> {
    let messages: Vec<NewMessage> = pending.iter().map(|p| p.new.clone()).collect();
    if pending.iter().all(|p| p.recipient.is_none()) {
        return Ok((chat::append(connection, &messages).await?, Vec::new()));
    }
    let mut tx = connection.begin().await?;
    let placed = chat::append(&mut tx, &messages).await?;
    let events: Vec<(Uuid, InboxEvent)> = pending
        .iter()
        .zip(&placed)
        .filter_map(|(p, placed)| Some((p.recipient?, direct_event(&p.new, placed))))
        .collect();
    let seqs = inbox::append(&mut tx, &events).await?;
    tx.commit().await?;
    Ok((placed, events.into_iter().zip(seqs).map(|((player, event), seq)| (player, seq, event)).collect()))
}

fn direct_event(message: &NewMessage, placed: &Placed) -> InboxEvent {
    let text = frame::push(
        "dm.message",
        json!({"channel_id": message.channel_id, "sender_id": message.sender_id, "content": message.content,
               "sent_at": unix_ms(placed.sent_at)}),
    );
    InboxEvent { frame: RawValue::from_string(text).ok(), action: None }
}

fn confirmed(hub: &Arc<Hub>, pending: Vec<Pending>, placed: Vec<Placed>, events: Vec<(Uuid, i64, InboxEvent)>) {
    let mut messages = Vec::with_capacity(pending.len());
    for (mut p, placed) in pending.into_iter().zip(placed) {
        let traceparent = p.traceparent.take();
        let message = Message {
            message_id: p.new.message_id,
            channel_id: p.new.channel_id.clone(),
            seq: placed.seq,
            sender_id: p.new.sender_id,
            content: p.new.content.clone(),
            sent_at: placed.sent_at,
        };
        answer(p, Ok(Sent { message_id: message.message_id, seq: message.seq, sent_at: message.sent_at_ms() }));
        messages.push((message, traceparent));
    }
    for (message, traceparent) in messages {
        spread(hub, &message, traceparent);
    }
    for (player, seq, event) in &events {
        asobi_bus::inbox::publish(&hub.publisher, *player, *seq, event);
    }
}

/// Hints a stored message to every node, and gives it to the members here.
fn spread(hub: &Hub, message: &Message, traceparent: Option<String>) {
    let Ok(frame) = RawValue::from_string(message_frame(message)) else { return };
    let (topic, channel_id) =
        (Topic::chat(&message.channel_id), std::borrow::Cow::Borrowed(message.channel_id.as_str()));
    let item = ChatItem { channel_id, seq: message.seq, frame: Some(&frame) };
    // What is lost here (a full queue, counted there) is found by the sweep of each node.
    if hub.publisher.publish_traced(topic, &item, traceparent.clone()) == Err(asobi_bus::PublishError::TooLarge) {
        let _ = hub.publisher.publish_traced(topic, &ChatItem { frame: None, ..item }, traceparent);
    }
    hub.chat.channels.stored(&message.channel_id, message.seq, &Frame::from(String::from(Box::<str>::from(frame))));
}

fn answer(pending: Pending, outcome: Result<Sent, SendError>) {
    for done in pending.done {
        done(outcome);
    }
}

fn fail(pending: Vec<Pending>, error: SendError) {
    metrics::counter!("asobi_chat_refused_total", "reason" => if error == SendError::Failed { "failed" } else { "unconfirmed" })
        .increment(pending.len() as u64);
    for p in pending {
        answer(p, Err(error));
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
            traceparent: None,
        };
        Write { message, done: Box::new(|_| {}) }
    }

    #[test]
    fn repeats_within_a_batch_share_one_message() {
        let (ada, bo) = (Uuid::now_v7(), Uuid::now_v7());
        let mut batch = vec![write(ada, Some("k")), write(ada, None), write(bo, Some("k")), write(ada, Some("k"))];
        let pending = gather(&mut batch);
        assert_eq!(pending.iter().map(|p| p.done.len()).collect::<Vec<_>>(), [2, 1, 1]);
        assert!(batch.is_empty());
    }
}
