//! `asobi.ops.v1.ChatService`: channels as operators see them. Who follows a channel is a member of its cell as any socket is, through a
//! connection that is none: in order, without a gap, and bounded.
//!
//! ```text
//!   joining ── where the channel stands, the last messages ──► live ── reads too slowly ──► RESOURCE_EXHAUSTED
//!                                                               └──── the node drains ────► UNAVAILABLE
//! ```

use std::{pin::Pin, sync::Arc, task::Poll, time::Duration};

use asobi_cluster::desk::{Deed, Desk};
use asobi_proto::{
    error::ErrorCode,
    ops_v1::{
        ChannelMessage, ListMessagesRequest, ListMessagesResponse, SendMessageRequest, SendMessageResponse, TailBegin,
        TailChannelRequest, TailChannelResponse,
        chat_service_server::{ChatService, ChatServiceServer},
        tail_channel_response::Kind,
    },
    scope::Scope,
};
use asobi_service_kit::grpc::{Caller, invalid, status};
use asobi_store::{
    chat::{self as rows, Message},
    within,
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Cell, ChannelId, Outgoing, SendError, Sent, shared_frame};
use crate::{
    conn::{Bounds, Conn},
    frame::Frame,
    hub::Hub,
};

const DEADLINE: Duration = Duration::from_secs(3);
/// How long the writer may take.
const SEND: Duration = Duration::from_millis(4_500);
/// Messages of a tail's beginning.
const LAST: i64 = 200;
const AFTER: i64 = 1_000;
/// Messages of a page.
const PAGE: (i64, i64) = (50, 200);
/// What may wait for one reader; past it the reader is told to come back.
const WAITING: Bounds = Bounds { frames: 4_096, bytes: 8 << 20 };
/// Channels that are followed at this node at the same time; more are refused.
const TAILS: usize = 64;

impl Hub {
    /// The service, to be added to the process's routes. `timeout` bounds a transaction.
    #[must_use]
    pub fn chat_service(self: &Arc<Self>, timeout: Duration) -> ChatServiceServer<impl ChatService> {
        ChatServiceServer::new(Operators {
            hub: Arc::clone(self),
            desk: Desk::new(self.pool.clone(), timeout),
            tails: Arc::new(Semaphore::new(TAILS)),
            draining: self.shutdown.draining(),
        })
    }
}

struct Operators {
    hub: Arc<Hub>,
    desk: Desk,
    tails: Arc<Semaphore>,
    draining: CancellationToken,
}

type TailStream = Pin<Box<dyn Stream<Item = Result<TailChannelResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ChatService for Operators {
    type TailChannelStream = TailStream;

    async fn tail_channel(&self, request: Request<TailChannelRequest>) -> Result<Response<TailStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        readable(&caller, &request.channel_id)?;
        if !(0..=200).contains(&request.last) || request.after_seq < 0 {
            return Err(invalid("last", "must be 0 to 200, and after_seq at least 0"));
        }
        let place = Arc::clone(&self.tails).try_acquire_owned();
        let place =
            place.map_err(|_| status(ErrorCode::RATE_LIMITED, "too many channels are followed at this node"))?;
        let tail = Tail::begin(&self.hub, &request, place, self.draining.clone()).await?;
        Ok(Response::new(Box::pin(stream::unfold(tail, Tail::next))))
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        self.check(&request)?;
        let deed = Deed {
            caller: &caller,
            action: "ChatService/SendMessage",
            request_id: &request.request_id,
            subject: request.channel_id.clone(),
            detail: json!({"bytes": request.content.len()}),
        };
        if let Some(answer) = self.desk.before(&deed, &request).await? {
            return Ok(Response::new(answer));
        }
        let sent = self.send(&caller, &request).await?;
        let answer = SendMessageResponse {
            message_id: sent.message_id.to_string(),
            seq: sent.seq,
            sent_at: Some(timestamp(sent.sent_at)),
        };
        Ok(Response::new(self.desk.record(deed, &request, answer).await?))
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        readable(&caller, &request.channel_id)?;
        let size = asobi_cluster::ops::page_size(request.page_size, PAGE.0, PAGE.1)?;
        let before = match asobi_cluster::ops::page_token(&request.page_token)? {
            "" => None,
            token => Some(token.parse::<i64>().map_err(|_| invalid("page_token", "is none of this list"))?),
        };
        let reading = rows::history(&self.hub.pool, &request.channel_id, before, size + 1);
        let mut messages = within(DEADLINE, reading).await.map_err(|error| unread(&error))?;
        let more = i64::try_from(messages.len()).is_ok_and(|read| read > size);
        if more {
            messages.remove(0);
        }
        let next = messages.first().filter(|_| more).map(|first| first.seq.to_string());
        Ok(Response::new(ListMessagesResponse {
            messages: messages.into_iter().map(written).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }
}

impl Operators {
    fn check(&self, request: &SendMessageRequest) -> Result<(), Status> {
        let most = self.hub.config.limits.chat_bytes;
        if request.content.is_empty() || request.content.len() > most || request.content.contains('\0') {
            return Err(invalid("content", format!("must have 1 to {most} bytes of text")));
        }
        match channel(&request.channel_id)? {
            ChannelId::Dm(..) => Err(invalid("channel_id", "is two players' own; notify them instead")),
            ChannelId::Global(name) if !self.hub.chat.globals.contains(&name) => {
                Err(invalid("channel_id", "is not among chat.global_channels"))
            }
            _ => Ok(()),
        }
    }

    /// Stored once per request id: under a key of nobody's, which the writer knows for ten minutes, and the desk for a day.
    async fn send(&self, caller: &Caller, request: &SendMessageRequest) -> Result<Sent, Status> {
        let key = (!request.request_id.is_empty()).then(|| key(caller, &request.request_id));
        let message = Outgoing {
            channel_id: request.channel_id.clone(),
            sender: Uuid::nil(),
            content: request.content.clone(),
            key,
            recipient: None,
            span: asobi_trace::recorded_span(),
        };
        let (done, answer) = oneshot::channel();
        let taken = self.hub.chat.send(message, move |outcome| {
            let _ = done.send(outcome);
        });
        let outcome = match taken {
            Ok(()) => tokio::time::timeout(SEND, answer).await.ok().and_then(Result::ok),
            Err(busy) => Some(Err(busy)),
        };
        outcome.unwrap_or(Err(SendError::Unconfirmed)).map_err(|error| match error {
            SendError::Busy => status(ErrorCode::RATE_LIMITED, error.to_string()),
            SendError::Failed => status(ErrorCode::NOT_READY, error.to_string()),
            SendError::Unconfirmed => {
                status(ErrorCode::NOT_READY, format!("{error}; ask again with the same request_id"))
            }
        })
    }
}

/// What a player's key looks like, and none is: 64 digits of a hash.
fn key(caller: &Caller, request_id: &str) -> String {
    let hash = Sha256::new().chain_update(caller.to_string()).chain_update([0]).chain_update(request_id).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn channel(id: &str) -> Result<ChannelId, Status> {
    ChannelId::parse(id).ok_or_else(|| invalid("channel_id", "is malformed, or of a scheme there is not"))
}

/// What two players say to each other is not for everybody who may look at a cluster.
fn readable(caller: &Caller, id: &str) -> Result<(), Status> {
    let direct = matches!(channel(id)?, ChannelId::Dm(..));
    if direct && !caller.has(Scope::Moderate) {
        return Err(status(ErrorCode::FORBIDDEN, "two players' own channel needs the scope moderate"));
    }
    Ok(())
}

fn unread(error: &asobi_store::Error) -> Status {
    tracing::warn!(%error, "What an operator asked of a channel could not be read.");
    status(ErrorCode::NOT_READY, "the database does not answer")
}

/// A channel that is followed.
struct Tail {
    hub: Arc<Hub>,
    conn: Arc<Conn>,
    cell: Arc<Cell>,
    /// The first word, until it is said.
    begin: Option<TailBegin>,
    over: bool,
    draining: CancellationToken,
    /// One of the places for tails.
    _place: OwnedSemaphorePermit,
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.hub.chat.channels.leave(&self.cell.id, self.conn.no);
    }
}

impl Tail {
    async fn begin(
        hub: &Arc<Hub>,
        request: &TailChannelRequest,
        place: OwnedSemaphorePermit,
        draining: CancellationToken,
    ) -> Result<Self, Status> {
        let conn = Arc::new(Conn::new(hub.registry.next_no(), WAITING));
        let cell = hub.chat.channels.join(&request.channel_id, &conn);
        // From here on its end takes it out of the channel.
        let mut tail = Self { hub: Arc::clone(hub), conn, cell, begin: None, over: false, draining, _place: place };
        let (last_seq, missed, truncated) =
            tail.catch_up(request.last, request.after_seq).await.map_err(|error| unread(&error))?;
        let missed = missed.iter().map(shared_frame).collect();
        // Where a socket has the answer to its join there is nothing to be said here.
        let admitted = tail.cell.admit(tail.conn.no, Frame::from(String::new()), missed);
        admitted.map_err(|_| status(ErrorCode::NOT_READY, "too much came meanwhile; ask again"))?;
        tail.begin = Some(TailBegin { last_seq, truncated });
        Ok(tail)
    }

    /// Where the channel stands, the messages to begin with, and whether some are left out before those.
    async fn catch_up(&self, last: i32, after: i64) -> asobi_store::Result<(i64, Vec<Message>, bool)> {
        let (id, no) = (&*self.cell.id, self.conn.no);
        let from = match self.cell.from(no) {
            Some(from) => from,
            None => {
                let positions = within(DEADLINE, rows::positions(&self.hub.pool, &[id.to_owned()])).await?;
                let stands = positions.first().map_or(0, |position| position.1);
                self.cell.place(stands);
                self.cell.from(no).unwrap_or(stands)
            }
        };
        let (since, most) = if after > 0 { (after, AFTER) } else { (0, i64::from(last).min(LAST)) };
        if most == 0 {
            return Ok((from, Vec::new(), false));
        }
        let missed = within(DEADLINE, rows::newest_between(&self.hub.pool, id, since, from, most)).await?;
        let truncated = after > 0 && missed.first().is_some_and(|first| first.seq > after + 1);
        Ok((from, missed, truncated))
    }

    async fn next(mut self) -> Option<(Result<TailChannelResponse, Status>, Self)> {
        if let Some(begin) = self.begin.take() {
            return Some((Ok(said(Kind::Begin(begin))), self));
        }
        while !self.over {
            let frame = tokio::select! {
                frame = waiting(&self.conn) => frame,
                () = self.draining.cancelled() => {
                    self.over = true;
                    return Some((Err(Status::unavailable("this node goes down; go on at another")), self));
                }
            };
            let Some(frame) = frame else {
                self.over = true;
                let slow = status(ErrorCode::RATE_LIMITED, "what was not read grew too much; go on with after_seq");
                return Some((Err(slow), self));
            };
            if !frame.is_empty() {
                return Some((Ok(said(kind(frame.as_str()))), self));
            }
        }
        None
    }
}

/// The next frame; none: the queue has overflowed.
async fn waiting(conn: &Conn) -> Option<Frame> {
    std::future::poll_fn(|cx| {
        conn.outbox.register(cx.waker());
        match conn.outbox.pop() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if conn.outbox.is_ending() => Poll::Ready(None),
            None => Poll::Pending,
        }
    })
    .await
}

fn kind(frame: &str) -> Kind {
    #[derive(Deserialize)]
    struct Said {
        #[serde(rename = "type")]
        kind: String,
        payload: Payload,
    }
    #[derive(Deserialize)]
    struct Payload {
        channel_id: String,
        sender_id: String,
        content: String,
        sent_at: i64,
        message_id: String,
        seq: i64,
        #[serde(default)]
        deleted: bool,
    }
    match serde_json::from_str::<Said>(frame) {
        Ok(Said { kind, payload }) if kind == "chat.message" => Kind::Message(ChannelMessage {
            message_id: payload.message_id,
            channel_id: payload.channel_id,
            seq: payload.seq,
            sender_id: payload.sender_id,
            content: payload.content,
            sent_at: Some(timestamp(payload.sent_at)),
            deleted: payload.deleted,
        }),
        _ => Kind::FrameJson(frame.to_owned()),
    }
}

fn said(kind: Kind) -> TailChannelResponse {
    TailChannelResponse { kind: Some(kind) }
}

fn written(message: Message) -> ChannelMessage {
    ChannelMessage {
        message_id: message.message_id.to_string(),
        seq: message.seq,
        sender_id: message.sender_id.to_string(),
        sent_at: Some(asobi_cluster::ops::timestamp(message.sent_at)),
        channel_id: message.channel_id,
        content: message.content,
        deleted: message.deleted,
    }
}

/// Of unix milliseconds.
fn timestamp(ms: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1_000) * 1_000_000).unwrap_or(0);
    prost_types::Timestamp { seconds: ms.div_euclid(1_000), nanos }
}

#[cfg(test)]
mod tests {
    use super::*;
    use asobi_service_kit::grpc::Scopes;

    fn operator(scopes: &[Scope]) -> Caller {
        Caller::Operator { name: "token:ada".into(), scopes: scopes.iter().copied().collect::<Scopes>() }
    }

    #[test]
    fn two_players_channel_is_not_for_everybody() {
        let (reader, moderator) = (operator(&[Scope::Read]), operator(&[Scope::Read, Scope::Moderate]));
        let direct = ChannelId::dm(Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(readable(&reader, &direct).unwrap_err().code(), tonic::Code::PermissionDenied);
        assert!(readable(&moderator, &direct).is_ok() && readable(&reader, "global:lobby").is_ok());
        assert_eq!(readable(&reader, "nowhere").unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn messages_are_read_from_frames_and_other_frames_go_on_as_they_are() {
        let message = Message {
            message_id: Uuid::from_u128(1),
            channel_id: "global:x".into(),
            seq: 3,
            sender_id: Uuid::from_u128(2),
            content: "hi".into(),
            sent_at: time::OffsetDateTime::from_unix_timestamp(7).unwrap(),
            deleted: false,
        };
        assert_eq!(kind(shared_frame(&message).as_str()), Kind::Message(written(message)));
        let other = r#"{"type":"chat.deleted","payload":{"seq":3}}"#;
        assert_eq!(kind(other), Kind::FrameJson(other.to_owned()));
    }

    #[tokio::test]
    async fn who_does_not_read_is_told_to_come_back() {
        let conn = Conn::new(crate::link::SessionNo(1), Bounds { frames: 2, bytes: 100 });
        for n in 0..2 {
            conn.push(Frame::from(n.to_string()));
        }
        assert_eq!(waiting(&conn).await, Some(Frame::from("0".to_owned())));
        for n in 2..5 {
            conn.push(Frame::from(n.to_string()));
        }
        assert_eq!(waiting(&conn).await, None);
    }

    #[test]
    fn keys_are_each_callers_own_and_fit() {
        let (ada, node) = (key(&operator(&[]), "one"), key(&Caller::Node, "one"));
        assert!(ada != node && ada.len() == 64 && ada == key(&operator(&[]), "one"));
    }
}
