//! `asobi ctl chat delete`: a message that is to be shown no more.

use asobi_cluster::Role;
use asobi_proto::social_v1::{DeleteMessageRequest, moderation_service_client::ModerationServiceClient};
use asobi_service_kit::grpc::with_deadline;
use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::{Ctl, DEADLINE, given::request_id, output};

/// Take a message's content out of the history; everybody who may have seen it is told
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["seq", "message_id"]))]
pub struct DeleteArgs {
    /// The channel, such as global:lobby
    channel: String,
    /// The message's number in the channel
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    seq: Option<i64>,
    /// Its id, where the number is not known
    #[arg(long = "id", value_name = "MESSAGE_ID")]
    message_id: Option<Uuid>,
}

pub async fn run(args: &DeleteArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let request = DeleteMessageRequest {
        channel_id: args.channel.clone(),
        seq: args.seq.unwrap_or_default(),
        message_id: args.message_id.map(|id| id.to_string()).unwrap_or_default(),
        request_id: request_id(),
    };
    let answer = ctl.ask(Some(Role::Social), async |channel| {
        ModerationServiceClient::new(channel).delete_message(with_deadline(request.clone(), DEADLINE)).await
    });
    let deleted = answer.await?;
    if ctl.json {
        output::json(
            &json!({"channel_id": args.channel, "seq": deleted.seq, "message_id": deleted.message_id, "done": "deleted"}),
        );
    } else {
        output::line(&format!("message {} of {} was deleted", deleted.seq, args.channel));
    }
    Ok(())
}
