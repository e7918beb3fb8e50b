//! `asobi ctl player`: what an operator does to a player. Any node answers; it holds on all of them.

use std::time::Duration;

use anyhow::Context as _;
use asobi_proto::ops_v1::{
    BanPlayerRequest, LogOutPlayerRequest, UnbanPlayerRequest, player_service_client::PlayerServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{Ctl, DEADLINE, output};

/// One player: keep them out, let them in again, end their log-ins
#[derive(Debug, Args)]
pub struct PlayerArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
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
}

pub async fn run(args: &PlayerArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        Order::Ban { id, reason, lasting } => {
            let until = lasting.map(|lasting| OffsetDateTime::now_utc() + lasting);
            let request = BanPlayerRequest {
                player_id: id.to_string(),
                reason: reason.clone(),
                until: until.map(|at| prost_types::Timestamp { seconds: at.unix_timestamp(), nanos: 0 }),
            };
            ctl.ask(None, async |channel| {
                PlayerServiceClient::new(channel).ban_player(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            let until = until.map(|at| at.format(&Rfc3339)).transpose().context("the end of the ban is no date")?;
            told(ctl, *id, "banned", until.as_deref());
        }
        Order::Unban { id } => {
            let request = UnbanPlayerRequest { player_id: id.to_string() };
            ctl.ask(None, async |channel| {
                PlayerServiceClient::new(channel).unban_player(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            told(ctl, *id, "unbanned", None);
        }
        Order::Logout { id } => {
            let request = LogOutPlayerRequest { player_id: id.to_string() };
            ctl.ask(None, async |channel| {
                PlayerServiceClient::new(channel).log_out_player(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            told(ctl, *id, "logged out", None);
        }
    }
    Ok(())
}

fn told(ctl: &Ctl, id: Uuid, done: &str, until: Option<&str>) {
    if ctl.json {
        output::json(&json!({"player_id": id, "done": done, "until": until}));
    } else {
        output::line(&format!("{id} was {done}{}", until.map(|at| format!(" until {at}")).unwrap_or_default()));
    }
}

/// A whole number and its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a number and s, m, h or d, such as 12h".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    // A thousand years, which dates reach.
    let most = 365 * 86_400 * 1_000;
    Some(u64::from(number) * seconds).filter(|s| (1..=most).contains(s)).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in ["", "h", "12", "0d", "-1h", "1w", "4294967295d", "12ü"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
