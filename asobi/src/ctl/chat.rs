//! `asobi ctl chat`: channels, followed and spoken in.

use std::time::Duration;

use anyhow::bail;
use asobi_cluster::Role;
use asobi_proto::ops_v1::{
    ChannelMessage, ListMessagesRequest, SendMessageRequest, TailChannelRequest, TailChannelResponse,
    chat_service_client::ChatServiceClient, tail_channel_response::Kind,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tonic::{Code, Request, Streaming};

use super::{Ctl, DEADLINE, given::request_id, moderation, output, refusal, shown};

/// Channels: what is said, and saying something
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// The last messages of a channel, then what comes, until interrupted
    Tail {
        /// Such as global:lobby, room:GROUP, match:MATCH; dm:A:B needs the scope moderate
        channel: String,
        /// Begin with so many of the newest
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(0..=200))]
        last: i32,
    },
    /// Say something in a channel, as nobody: stored and delivered as any message
    Send {
        channel: String,
        content: String,
    },
    Delete(moderation::DeleteArgs),
    /// What was said in a channel, oldest first
    History {
        channel: String,
        /// Show at most so many of the newest
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
}

pub async fn run(args: &ChatArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        Order::Tail { channel, last } => tail(ctl, channel, *last).await,
        Order::Send { channel, content } => send(ctl, channel, content).await,
        Order::Delete(args) => moderation::run(args, ctl).await,
        Order::History { channel, limit } => history(ctl, channel, *limit as usize).await,
    }
}

/// Who hears channels: gateways, or where there are none, match hosts.
async fn hearing(ctl: &Ctl) -> anyhow::Result<Role> {
    let nodes = ctl.nodes().await?;
    let gateway = nodes.iter().any(|node| node.alive && node.role == Role::Gateway.as_str());
    Ok(if gateway { Role::Gateway } else { Role::Match })
}

/// Times in a row that a tail is begun again without a word in between, and the pause before each.
const AGAIN: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// A node that goes down, or a reader that was too slow, costs nothing: it goes on after the last number.
async fn tail(ctl: &Ctl, channel: &str, last: i32) -> anyhow::Result<()> {
    let mut request = TailChannelRequest { channel_id: channel.to_owned(), last, after_seq: 0 };
    let mut again = 0;
    loop {
        let mut said = open(ctl, &request).await?;
        let status = loop {
            match said.message().await {
                Ok(Some(TailChannelResponse { kind: Some(kind) })) => {
                    if let Some(seq) = tell(ctl, kind, &request) {
                        request.after_seq = seq.max(request.after_seq);
                        again = 0;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        again += 1;
        match status {
            Some(status) if again > AGAIN || !goes_on(status.code()) => return Err(refusal(&status)),
            None if again > AGAIN => bail!("the channel's node ends the stream again and again"),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn goes_on(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::Cancelled | Code::Unknown | Code::Internal)
}

async fn open(ctl: &Ctl, request: &TailChannelRequest) -> anyhow::Result<Streaming<TailChannelResponse>> {
    // No deadline in the request: it would end the stream.
    ctl.ask(Some(hearing(ctl).await?), async |channel| {
        ChatServiceClient::new(channel).tail_channel(Request::new(request.clone())).await
    })
    .await
}

/// Prints what was said; answers its number.
fn tell(ctl: &Ctl, kind: Kind, request: &TailChannelRequest) -> Option<i64> {
    let again = request.after_seq > 0;
    match kind {
        Kind::Begin(begin) => {
            if begin.truncated && again {
                eprintln!("More was said meanwhile than can be shown; `asobi ctl chat history` has it.");
            }
            // With messages to come their own numbers count.
            Some(begin.last_seq).filter(|_| !again && request.last == 0)
        }
        Kind::Message(message) => {
            print(ctl, &message);
            Some(message.seq)
        }
        Kind::FrameJson(frame) => {
            if ctl.json {
                output::json(&shown::json(&frame));
            } else {
                output::line(&shown::plain(&frame));
            }
            None
        }
    }
}

fn print(ctl: &Ctl, message: &ChannelMessage) {
    if ctl.json {
        output::json(&object(message));
    } else {
        output::line(&sentence(message));
    }
}

fn object(message: &ChannelMessage) -> Value {
    json!({
        "channel_id": message.channel_id,
        "seq": message.seq,
        "message_id": message.message_id,
        "sender_id": message.sender_id,
        "content": message.content,
        "deleted": message.deleted,
        "sent_at": message.sent_at.as_ref().map(|at| at.seconds * 1_000 + i64::from(at.nanos / 1_000_000)),
    })
}

fn sentence(message: &ChannelMessage) -> String {
    let at = shown::time(message.sent_at.as_ref());
    let said = if message.deleted { "(deleted)".to_owned() } else { shown::plain(&message.content) };
    format!("#{}  {at}  {}  {said}", message.seq, message.sender_id)
}

async fn send(ctl: &Ctl, channel: &str, content: &str) -> anyhow::Result<()> {
    let request =
        SendMessageRequest { channel_id: channel.to_owned(), content: content.to_owned(), request_id: request_id() };
    let sent = ctl
        .ask(Some(hearing(ctl).await?), async |channel| {
            ChatServiceClient::new(channel).send_message(with_deadline(request.clone(), DEADLINE)).await
        })
        .await?;
    if ctl.json {
        output::json(&json!({"channel_id": channel, "message_id": sent.message_id, "seq": sent.seq}));
    } else {
        output::line(&format!("said in {channel} as number {}", sent.seq));
    }
    Ok(())
}

async fn history(ctl: &Ctl, channel: &str, limit: usize) -> anyhow::Result<()> {
    let role = hearing(ctl).await?;
    let mut request = ListMessagesRequest { channel_id: channel.to_owned(), ..ListMessagesRequest::default() };
    let mut pages: Vec<Vec<ChannelMessage>> = Vec::new();
    let mut read = 0;
    while read < limit {
        request.page_size = i32::try_from((limit - read).min(200))?;
        let page = ctl
            .ask(Some(role), async |channel| {
                ChatServiceClient::new(channel).list_messages(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
        read += page.messages.len();
        pages.push(page.messages);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let messages = pages.iter().rev().flatten();
    if ctl.json {
        output::json(&messages.map(object).collect());
    } else {
        messages.for_each(|message| output::line(&sentence(message)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_it_holds() {
        let message = ChannelMessage {
            channel_id: "global:x".into(),
            seq: 7,
            sender_id: "s".into(),
            content: "a\nb\x1b[31m".into(),
            sent_at: Some(prost_types::Timestamp { seconds: 1, nanos: 5_000_000 }),
            ..ChannelMessage::default()
        };
        assert_eq!(sentence(&message), "#7  1970-01-01T00:00:01Z  s  a\u{fffd}b\u{fffd}[31m");
        assert_eq!((&object(&message)["sent_at"], &object(&message)["seq"]), (&json!(1_005), &json!(7)));
    }
}
