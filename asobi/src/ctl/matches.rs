//! `asobi ctl matches` and `asobi ctl match`: what runs, what it is, and giving it orders.

mod show;
mod watch;

use asobi_cluster::Role;
use asobi_proto::ops_v1::{
    EndMatchRequest, ListMatchesRequest, Match, MatchState, MoveMatchRequest, match_service_client::MatchServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ctl, DEADLINE, given::request_id, one::meant, output, shown};

/// Matches, newest first: those that run, unless a state is named
#[derive(Debug, Args)]
pub struct MatchesArgs {
    /// Of this state; may be repeated
    #[arg(long, value_enum)]
    state: Vec<State>,
    #[arg(long)]
    mode: Option<String>,
    /// At this host, by its node id
    #[arg(long)]
    host: Option<String>,
    /// Of this player: with a seat in it, or there when it was formed
    #[arg(long, value_name = "ID")]
    player: Option<Uuid>,
    /// Show at most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Allocating,
    Running,
    Finished,
    Failed,
}

impl From<State> for MatchState {
    fn from(state: State) -> Self {
        match state {
            State::Allocating => Self::Allocating,
            State::Running => Self::Running,
            State::Finished => Self::Finished,
            State::Failed => Self::Failed,
        }
    }
}

/// One match: what it is, as it changes, to its end, to another host
#[derive(Debug, Args)]
pub struct MatchArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// What the rows and the match's host say of it, with its state
    Show {
        #[arg(value_name = "MATCH")]
        match_id: Uuid,
        /// The state as this player sees it, instead of all of it
        #[arg(long, value_name = "ID")]
        player: Option<Uuid>,
    },
    /// The state as it changes, until the match has ended; it is followed to other hosts
    Watch {
        #[arg(value_name = "MATCH")]
        match_id: Uuid,
        /// What this player is sent, instead of all of the state
        #[arg(long, value_name = "ID")]
        player: Option<Uuid>,
        /// States a second, at most
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
        rate: u32,
    },
    /// End it as a game ends: its players get `match.finished`
    End {
        #[arg(value_name = "MATCH")]
        match_id: Uuid,
        /// Told to the players as the result's `message`
        #[arg(long, default_value = "")]
        reason: String,
        /// The result, a JSON object
        #[arg(long, value_name = "JSON", default_value = "")]
        result: String,
    },
    /// Move it to another host, live: its players notice a late tick
    Move(MoveArgs),
}

#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The match's id
    #[arg(value_name = "MATCH")]
    match_id: Uuid,
    /// The node id of the host that shall run it
    #[arg(value_name = "HOST")]
    host: String,
}

pub async fn list(args: &MatchesArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let mut request = ListMatchesRequest {
        states: args.state.iter().map(|state| MatchState::from(*state).into()).collect(),
        mode: args.mode.clone().unwrap_or_default(),
        host_node: args.host.clone().unwrap_or_default(),
        player_id: args.player.map(|id| id.to_string()).unwrap_or_default(),
        ..ListMatchesRequest::default()
    };
    let mut matches: Vec<Match> = Vec::new();
    let wanted = args.limit as usize;
    while matches.len() < wanted {
        request.page_size = i32::try_from((wanted - matches.len()).min(200))?;
        let page = ctl
            .ask(None, async |channel| {
                MatchServiceClient::new(channel).list_matches(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
        matches.extend(page.matches);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        output::json(&matches.iter().map(object).collect());
        return Ok(());
    }
    let rows: Vec<_> = matches.iter().map(row).collect();
    output::line(&output::table(["match", "mode", "state", "host", "epoch", "players", "created"], &rows));
    if !request.page_token.is_empty() {
        eprintln!("There are more; --limit shows them.");
    }
    Ok(())
}

pub async fn run(args: &MatchArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        Order::Show { match_id, player } => show::run(ctl, *match_id, *player).await,
        Order::Watch { match_id, player, rate } => watch::run(ctl, *match_id, *player, *rate).await,
        Order::End { match_id, reason, result } => end(ctl, *match_id, reason, result).await,
        Order::Move(args) => move_match(args, ctl).await,
    }
}

async fn end(ctl: &Ctl, match_id: Uuid, reason: &str, result: &str) -> anyhow::Result<()> {
    let request = EndMatchRequest {
        match_id: match_id.to_string(),
        reason: reason.to_owned(),
        result_json: result.to_owned(),
        request_id: request_id(),
    };
    let ended = ctl
        .ask(None, async |channel| {
            let request = with_deadline(request.clone(), DEADLINE);
            MatchServiceClient::new(channel).end_match(request).await.map_err(meant)
        })
        .await?;
    if ctl.json {
        output::json(&json!({
            "match_id": match_id, "ended": ended.ended, "result": shown::json(&ended.result_json),
        }));
    } else if ended.ended {
        output::line(&format!("{match_id} has ended with {}", shown::plain(&ended.result_json)));
    } else {
        output::line(&format!("{match_id} was over already, with {}", shown::plain(&ended.result_json)));
    }
    Ok(())
}

/// Also as `asobi ctl move`.
pub async fn move_match(args: &MoveArgs, ctl: &Ctl) -> anyhow::Result<()> {
    // Here the answer names the hosts there are.
    ctl.node(&args.host, Role::Match).await?;
    let request =
        MoveMatchRequest { match_id: args.match_id.to_string(), to_node: args.host.clone(), request_id: request_id() };
    let moved = ctl
        .ask(None, async |channel| {
            let request = with_deadline(request.clone(), DEADLINE);
            MatchServiceClient::new(channel).move_match(request).await.map_err(meant)
        })
        .await?;
    if ctl.json {
        output::json(&json!({
            "match_id": args.match_id, "from": moved.from_node, "to": args.host, "epoch": moved.epoch,
        }));
    } else if moved.from_node == args.host {
        output::line(&format!("{} runs on {} already (epoch {})", args.match_id, args.host, moved.epoch));
    } else {
        output::line(&format!(
            "{} runs on {} now (epoch {}); it was on {}",
            args.match_id, args.host, moved.epoch, moved.from_node
        ));
    }
    Ok(())
}

fn object(line: &Match) -> Value {
    json!({
        "match_id": line.match_id,
        "mode": line.mode,
        "state": state(line.state()),
        "host_node": line.host_node,
        "host_incarnation": line.host_incarnation,
        "epoch": line.epoch,
        "players": line.players,
        "failovers": line.failovers,
        "version": shown::text(&line.version),
        "created_at": shown::seconds(line.created_at.as_ref()),
        "started_at": shown::seconds(line.started_at.as_ref()),
        "finished_at": shown::seconds(line.finished_at.as_ref()),
    })
}

fn row(line: &Match) -> [String; 7] {
    [
        line.match_id.clone(),
        line.mode.clone(),
        state(line.state()).to_owned(),
        line.host_node.clone(),
        line.epoch.to_string(),
        line.players.to_string(),
        shown::time(line.created_at.as_ref()),
    ]
}

fn state(state: MatchState) -> &'static str {
    match state {
        MatchState::Allocating => "allocating",
        MatchState::Running => "running",
        MatchState::Finished => "finished",
        MatchState::Failed => "failed",
        MatchState::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_a_row_and_an_object() {
        let line = Match {
            match_id: "m".into(),
            mode: "duel".into(),
            state: MatchState::Running.into(),
            host_node: "match-0".into(),
            epoch: 2,
            players: 2,
            ..Match::default()
        };
        assert_eq!(row(&line)[..6], ["m", "duel", "running", "match-0", "2", "2"]);
        assert_eq!((&object(&line)["state"], &object(&line)["finished_at"]), (&json!("running"), &Value::Null));
    }
}
