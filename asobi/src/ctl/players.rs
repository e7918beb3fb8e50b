//! `asobi ctl player`: what an operator does to a player. Any node answers; it holds on all of them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use asobi_proto::ops_v1::{
    BanPlayerRequest, ErasePlayerRequest, KickPlayerRequest, ListMutesRequest, LogOutPlayerRequest, Mute,
    MutePlayerRequest, UnbanPlayerRequest, UnmutePlayerRequest, player_service_client::PlayerServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    Ctl, DEADLINE, export,
    given::{duration, request_id, timestamp},
    output,
    shown::when,
};

/// How long an erasure may take: it deletes in one transaction whatever there is.
const ERASURE: Duration = Duration::from_secs(60);

/// One player: keep them out or silent, close their sockets, export or erase what is theirs
#[derive(Debug, Args)]
pub struct PlayerArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// The account, and what goes on around it: sessions, match, tickets, party, ban
    Show { id: Uuid },
    /// Close the player's sockets on every node, make their tokens useless, and refuse new ones. Again: another ban in its place
    Ban {
        id: Uuid,
        /// For the record, and told to the player when they try to log in; at most 256 bytes
        #[arg(long, default_value = "")]
        reason: String,
        /// How long: 30m, 12h, 7d. Without it, for ever
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        lasting: Option<Duration>,
    },
    /// Lift the ban; no error when there is none
    Unban { id: Uuid },
    /// Close the player's sockets on every node and make their tokens useless; they may log in again
    Logout { id: Uuid },
    /// Close the sockets that the player has now, on every node; they may come back at once
    Kick {
        id: Uuid,
        /// Told to the player; at most 256 bytes
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let the player say nothing, everywhere or in one channel; nothing else is taken from them. Again: another mute in its place
    Mute {
        id: Uuid,
        /// Only there, such as global:lobby. Without it, everywhere
        #[arg(long, value_name = "CHANNEL", default_value = "")]
        channel: String,
        /// For the record; at most 256 bytes
        #[arg(long, default_value = "")]
        reason: String,
        /// How long: 30m, 12h, 7d. Without it, for ever
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        lasting: Option<Duration>,
    },
    /// Lift the mute of that channel, or without one the mute of everywhere; no error when there is none
    Unmute {
        id: Uuid,
        #[arg(long, value_name = "CHANNEL", default_value = "")]
        channel: String,
    },
    /// The mutes that hold, of a player or of all
    Mutes { id: Option<Uuid> },
    /// Delete the player with everything that is theirs. It cannot be undone
    Erase {
        id: Uuid,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Everything about the player, as one JSON object per line
    Export(export::ExportArgs),
}

pub async fn run(args: &PlayerArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        Order::Show { id } => super::directory::show(*id, ctl).await,
        Order::Ban { id, reason, lasting } => ban(ctl, *id, reason, *lasting).await,
        Order::Unban { id } => {
            let request = UnbanPlayerRequest { player_id: id.to_string(), request_id: request_id() };
            ctl.ask(None, async |channel| {
                PlayerServiceClient::new(channel).unban_player(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            told(ctl, *id, "unbanned", None)
        }
        Order::Logout { id } => {
            let request = LogOutPlayerRequest { player_id: id.to_string(), request_id: request_id() };
            ctl.ask(None, async |channel| {
                PlayerServiceClient::new(channel).log_out_player(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            told(ctl, *id, "logged out", None)
        }
        Order::Kick { id, reason } => {
            let request =
                KickPlayerRequest { player_id: id.to_string(), reason: reason.clone(), request_id: request_id() };
            ctl.ask(None, async |channel| {
                PlayerServiceClient::new(channel).kick_player(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            told(ctl, *id, "kicked", None)
        }
        Order::Mute { id, channel, reason, lasting } => mute(ctl, *id, channel, reason, *lasting).await,
        Order::Unmute { id, channel } => {
            let request = UnmutePlayerRequest {
                player_id: id.to_string(),
                channel_id: channel.clone(),
                request_id: request_id(),
            };
            ctl.ask(None, async |channel| {
                PlayerServiceClient::new(channel).unmute_player(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            told(ctl, *id, "unmuted", None)
        }
        Order::Mutes { id } => mutes(ctl, *id).await,
        Order::Erase { id, yes } => erase(ctl, *id, *yes).await,
        Order::Export(args) => export::run(args, ctl).await,
    }
}

async fn ban(ctl: &Ctl, id: Uuid, reason: &str, lasting: Option<Duration>) -> anyhow::Result<()> {
    let until = lasting.map(|lasting| OffsetDateTime::now_utc() + lasting);
    let request = BanPlayerRequest {
        player_id: id.to_string(),
        reason: reason.to_owned(),
        until: until.map(timestamp),
        request_id: request_id(),
    };
    ctl.ask(None, async |channel| {
        PlayerServiceClient::new(channel).ban_player(with_deadline(request.clone(), DEADLINE)).await
    })
    .await?;
    told(ctl, id, "banned", until)
}

async fn mute(ctl: &Ctl, id: Uuid, channel: &str, reason: &str, lasting: Option<Duration>) -> anyhow::Result<()> {
    let until = lasting.map(|lasting| OffsetDateTime::now_utc() + lasting);
    let request = MutePlayerRequest {
        player_id: id.to_string(),
        channel_id: channel.to_owned(),
        reason: reason.to_owned(),
        until: until.map(timestamp),
        request_id: request_id(),
    };
    ctl.ask(None, async |channel| {
        PlayerServiceClient::new(channel).mute_player(with_deadline(request.clone(), DEADLINE)).await
    })
    .await?;
    told(ctl, id, "muted", until)
}

async fn mutes(ctl: &Ctl, id: Option<Uuid>) -> anyhow::Result<()> {
    let mut request = ListMutesRequest {
        player_id: id.map(|id| id.to_string()).unwrap_or_default(),
        page_size: 500,
        page_token: String::new(),
    };
    let mut mutes: Vec<Mute> = Vec::new();
    loop {
        let page = ctl
            .ask(None, async |channel| {
                PlayerServiceClient::new(channel).list_mutes(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
        mutes.extend(page.mutes);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        let listed = mutes.iter().map(|mute| {
            json!({"player_id": mute.player_id, "channel_id": mute.channel_id, "reason": mute.reason, "until": when(mute.until),
                   "muted_by": mute.muted_by, "muted_at": when(mute.muted_at)})
        });
        output::json(&listed.collect());
        return Ok(());
    }
    let rows: Vec<[String; 5]> = mutes
        .into_iter()
        .map(|mute| {
            let channel = if mute.channel_id.is_empty() { "everywhere".to_owned() } else { mute.channel_id };
            let until = when(mute.until).unwrap_or_else(|| "for ever".to_owned());
            [mute.player_id, channel, until, mute.muted_by, mute.reason]
        })
        .collect();
    output::line(&output::table(["player", "channel", "until", "by", "reason"], &rows));
    Ok(())
}

async fn erase(ctl: &Ctl, id: Uuid, yes: bool) -> anyhow::Result<()> {
    if !yes {
        eprintln!("Everything of player {id} will be deleted, for good. Type the id to go on:");
        let mut typed = String::new();
        std::io::stdin().read_line(&mut typed).context("nothing could be read; give --yes")?;
        if Uuid::parse_str(typed.trim()).ok() != Some(id) {
            bail!("that is not the player's id; nothing was deleted");
        }
    }
    let request = ErasePlayerRequest { player_id: id.to_string(), request_id: request_id() };
    // Asked of one node after the other, each may take its time; with the request's id it is done once.
    ctl.ask(None, async |channel| {
        PlayerServiceClient::new(channel).erase_player(with_deadline(request.clone(), ERASURE)).await
    })
    .await?;
    told(ctl, id, "erased", None)
}

fn told(ctl: &Ctl, id: Uuid, done: &str, until: Option<OffsetDateTime>) -> anyhow::Result<()> {
    let until = until.map(|at| at.format(&Rfc3339)).transpose().context("the end is no date")?;
    if ctl.json {
        output::json(&json!({"player_id": id, "done": done, "until": until}));
    } else {
        output::line(&format!("{id} was {done}{}", until.map(|at| format!(" until {at}")).unwrap_or_default()));
    }
    Ok(())
}
