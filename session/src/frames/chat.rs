//! `chat.*`.

use std::{sync::Arc, time::Duration};

use asobi_proto::{error::ErrorCode, frame::ErrorFrame, social_v1::TextKind};
use asobi_store::{chat as rows, within};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Asker, Call, Work, fields};
use crate::{
    chat::{Cell, ChannelId, NotAdmitted, Outgoing, Refusal, SendError, Sent, shared_frame},
    conn::{Conn, Turn},
    frame::Frame,
    hub::Hub,
    moderation::{Judged, Muted},
};

const DEADLINE: Duration = Duration::from_secs(3);
const KEY_BYTES: usize = 64;
/// Missed messages that one join replays at most; the rest is in the history.
const REPLAY: usize = 100;

pub(super) fn join(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let Some(id) = fields::text(&payload, "channel_id") else {
        call.missing("channel_id");
        return None;
    };
    let Some(channel) = ChannelId::parse(id) else {
        call.error("invalid_channel_id", "There is no such channel scheme, or the id is malformed.");
        return None;
    };
    let Ok(since) = fields::optional::<i64>(&payload, "since_seq") else {
        call.error("invalid_payload", "since_seq must be an integer.");
        return None;
    };
    let (hub, asker, id) = (Arc::clone(call.hub), call.asker(), id.to_owned());
    Some(Box::pin(async move { enter(&hub, &asker, &id, &channel, since).await }))
}

async fn enter(hub: &Arc<Hub>, asker: &Asker, id: &str, channel: &ChannelId, since: Option<i64>) {
    let Some(player) = asker.conn.player() else { return };
    if let Err(refusal) = hub.may_use(player, channel).await {
        return refuse(asker, refusal);
    }
    let joined = {
        let local = asker.conn.local();
        (local.channels.iter().any(|c| &**c == id), local.channels.len())
    };
    if joined.0 {
        return rejoined(hub, asker, id, since);
    }
    if joined.1 >= hub.config.limits.chat_channels as usize {
        return asker.error("too_many_channels", "Leave a channel first.");
    }
    let cell = hub.chat.channels.join(id, &asker.conn);
    // Known to the connection before anything is awaited: its end takes it out of the channel.
    asker.conn.local().channels.push(Arc::clone(&cell.id));
    // Asked once more now that a removal would find the member: one that came between the first answer and the join did not.
    if let Err(refusal) = hub.may_use(player, channel).await {
        forget(hub, &asker.conn, id);
        return refuse(asker, refusal);
    }
    let outcome = match catch_up(hub, asker, &cell, since).await {
        Ok((reply, missed)) => cell.admit(asker.conn.no, reply, missed),
        Err(error) => {
            tracing::warn!(%error, channel.id = id, "A channel could not be joined.");
            Err(NotAdmitted::Overflowed)
        }
    };
    let Err(why) = outcome else { return };
    forget(hub, &asker.conn, id);
    match why {
        NotAdmitted::Overflowed => asker.not_ready(),
        NotAdmitted::Gone => refuse(asker, Refusal::NotAuthorized),
    }
}

/// The reply and the missed messages of a joining member.
async fn catch_up(
    hub: &Hub,
    asker: &Asker,
    cell: &Cell,
    since: Option<i64>,
) -> asobi_store::Result<(Frame, Vec<Frame>)> {
    let (id, no) = (&*cell.id, asker.conn.no);
    let from = match cell.from(no) {
        Some(from) => from,
        None => {
            let stands = hub.look_ups.channels.ask(id.to_owned(), DEADLINE).await?;
            cell.place(stands);
            cell.from(no).unwrap_or(stands)
        }
    };
    let Some(since) = since else {
        return Ok((
            Frame::from(asker.written("chat.joined", json!({"channel_id": id, "last_seq": from}))),
            Vec::new(),
        ));
    };
    let most = REPLAY.min(hub.config.session.queue_frames / 2);
    let limit = i64::try_from(most + 1).unwrap_or(1);
    // Whoever has missed nothing is told so without a read: in a quiet channel that is everybody who comes back.
    let mut missed = if since < from {
        hub.look_ups.alone(rows::newest_between(&hub.pool, id, since.max(0), from, limit)).await?
    } else {
        Vec::new()
    };
    let too_many = missed.len() > most;
    if too_many {
        missed.remove(0);
    }
    // What is not kept any more was missed, too.
    let (since, first) = (since.max(0), missed.first().map_or(i64::MAX, |m| m.seq));
    let gone = !too_many && from > since && first > since + 1;
    let truncated = too_many || (gone && !within(DEADLINE, rows::reaches_back_to(&hub.pool, id, since)).await?);
    let reply = asker.written("chat.joined", json!({"channel_id": id, "last_seq": from, "truncated": truncated}));
    let mut frames: Vec<Frame> = missed.iter().map(shared_frame).collect();
    // What the client has seen before it went may have been deleted meanwhile.
    frames.extend(hub.moderation.deletions.up_to(id, since));
    Ok((Frame::from(reply), frames))
}

/// Joining twice is joining once: what comes is delivered already.
fn rejoined(hub: &Hub, asker: &Asker, id: &str, since: Option<i64>) {
    let last = hub.chat.channels.find(id).and_then(|cell| cell.last()).unwrap_or(0);
    match since {
        Some(_) => asker.reply("chat.joined", json!({"channel_id": id, "last_seq": last, "truncated": false})),
        None => asker.reply("chat.joined", json!({"channel_id": id, "last_seq": last})),
    }
}

/// Takes a connection out of a channel, if it is in it.
pub(super) fn forget(hub: &Hub, conn: &Conn, id: &str) {
    let joined = {
        let mut local = conn.local();
        let before = local.channels.len();
        local.channels.retain(|c| &**c != id);
        local.channels.len() < before
    };
    if joined {
        hub.chat.channels.leave(id, conn.no);
    }
}

fn refuse(asker: &Asker, refusal: Refusal) {
    match refusal {
        Refusal::NotAuthorized => asker.error("not_authorized", "You may not use this channel."),
        Refusal::Blocked => asker.error("blocked", "One of you blocks the other."),
        Refusal::Unavailable => asker.not_ready(),
    }
}

pub(super) fn leave(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let Some(id) = fields::text(&payload, "channel_id") else {
        call.missing("channel_id");
        return None;
    };
    forget(call.hub, call.conn, id);
    call.reply("chat.left", json!({"channel_id": id}));
    None
}

/// A checked `chat.send`.
struct Message {
    id: String,
    channel: ChannelId,
    content: String,
    key: Option<String>,
}

pub(super) fn send(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let message = checked(call, payload)?;
    let player = call.conn.player()?;
    let known = if call.hub.moderation.is_read() { call.hub.known_access(player, &message.channel) } else { None };
    match known {
        Some(Ok(())) => {
            say(call.hub, call.asker(), player, message);
            None
        }
        Some(Err(refusal)) => {
            refuse(&call.asker(), refusal);
            None
        }
        None => {
            let (hub, asker) = (Arc::clone(call.hub), call.asker());
            Some(Box::pin(async move {
                if !hub.moderation.reading().await {
                    return asker.not_ready();
                }
                match hub.may_use(player, &message.channel).await {
                    Ok(()) => say(&hub, asker, player, message),
                    Err(refusal) => refuse(&asker, refusal),
                }
            }))
        }
    }
}

/// Judges a message and hands it to the writer: at once, or where the studio has a filter in the order of what the connection says, while
/// its other frames go on.
fn say(hub: &Arc<Hub>, asker: Asker, sender: Uuid, mut message: Message) {
    if let Some(mute) = hub.moderation.muted(sender, &message.id) {
        return muted(&asker, mute);
    }
    match hub.moderation.by_words(&message.content) {
        Judged::Clean => {}
        Judged::Changed(content) => message.content = content,
        Judged::Refused => return refused(&asker),
        Judged::Unavailable => return asker.not_ready(),
    }
    if !hub.moderation.has_filter() {
        return write(hub, asker, sender, message);
    }
    let Some(mut turn) = Turn::take(&asker.conn) else { return crowded(&asker) };
    let on = Arc::clone(hub);
    hub.spawn("chat filter", async move {
        let judged = on.moderation.by_filter(TextKind::Chat, sender, &message.id, &message.content).await;
        turn.come().await;
        match judged {
            Judged::Clean => {}
            Judged::Changed(content) => message.content = content,
            Judged::Refused => return refused(&asker),
            Judged::Unavailable => return asker.not_ready(),
        }
        write(&on, asker, sender, message);
    });
}

pub(super) fn muted(asker: &Asker, mute: Muted) {
    metrics::counter!("asobi_chat_refused_total", "reason" => "muted").increment(1);
    let until = mute.until.map(asobi_store::chat::unix_ms);
    let mut error = ErrorFrame::for_reason("muted", "You may say nothing here for now.").detail("until", until);
    error.code = ErrorCode::FORBIDDEN;
    asker.refuse(error);
}

pub(super) fn refused(asker: &Asker) {
    metrics::counter!("asobi_chat_refused_total", "reason" => "content").increment(1);
    let mut error = ErrorFrame::for_reason("content_refused", "This cannot be said here.");
    error.code = ErrorCode::FORBIDDEN;
    asker.refuse(error);
}

pub(super) fn crowded(asker: &Asker) {
    asker.error("rate_limited", "Too many messages wait to be looked at.");
}

/// Answers what is wrong, unless it is content without a `cid`, which is dropped as it always was.
fn checked(call: &Call<'_>, mut payload: Map<String, Value>) -> Option<Message> {
    let Some(id) = fields::text(&payload, "channel_id").map(ToOwned::to_owned) else {
        call.missing("channel_id");
        return None;
    };
    let refuse_content = |reason, message| {
        if call.cid.is_some() {
            call.error(reason, message);
        }
        None
    };
    let content = match payload.remove("content") {
        Some(Value::String(content)) => content,
        Some(_) => return refuse_content("invalid_payload", "The content must be a string."),
        None => {
            call.missing("content");
            return None;
        }
    };
    if content.is_empty() {
        return refuse_content("content_empty", "The content is empty.");
    }
    if content.len() > call.hub.config.limits.chat_bytes {
        return refuse_content("content_too_large", "The content is too large.");
    }
    if content.contains('\0') {
        return refuse_content("invalid_payload", "The content must not contain NUL.");
    }
    let Ok(key) = key(&payload) else {
        call.error("invalid_payload", "The idempotency_key is a string of at most 64 bytes.");
        return None;
    };
    let Some(channel) = ChannelId::parse(&id) else {
        call.error("not_authorized", "You may not use this channel.");
        return None;
    };
    Some(Message { id, channel, content, key })
}

pub(super) fn key(payload: &Map<String, Value>) -> Result<Option<String>, ()> {
    match fields::optional::<String>(payload, "idempotency_key")? {
        Some(key) if key.is_empty() || key.len() > KEY_BYTES || key.contains('\0') => Err(()),
        key => Ok(key),
    }
}

fn write(hub: &Arc<Hub>, asker: Asker, sender: Uuid, message: Message) {
    let Message { id, content, key, .. } = message;
    let span = asobi_trace::recorded_span();
    let outgoing = Outgoing { channel_id: id.clone(), sender, content, key, recipient: None, span };
    let asker = Arc::new(asker);
    let later = Arc::clone(&asker);
    let taken = hub.chat.send(outgoing, move |outcome| answer(&later, &id, outcome));
    if let Err(error) = taken {
        failed(&asker, error);
    }
}

#[derive(Serialize)]
struct SentPayload<'a> {
    channel_id: &'a str,
    message_id: Uuid,
    seq: i64,
    sent_at: i64,
}

fn answer(asker: &Asker, id: &str, outcome: Result<Sent, SendError>) {
    match outcome {
        Ok(Sent { message_id, seq, sent_at }) if asker.has_cid() => {
            asker.reply("chat.sent", SentPayload { channel_id: id, message_id, seq, sent_at });
        }
        Ok(_) => {}
        Err(error) => failed(asker, error),
    }
}

pub(super) fn failed(asker: &Asker, error: SendError) {
    match error {
        SendError::Busy => asker.error("rate_limited", "Too many messages wait to be written."),
        SendError::Failed => asker.not_ready(),
        SendError::Unconfirmed => {
            asker.error("unconfirmed", "Whether the message was stored is not known; send it again with the same key.");
        }
    }
}
