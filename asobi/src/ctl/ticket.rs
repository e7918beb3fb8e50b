//! `asobi ctl ticket`: one wish to be matched, by the id that `matchmaker.queued` told the player.

use std::time::Duration;

use anyhow::{Context as _, bail};
use asobi_cluster::Role;
use asobi_proto::matchmaker_v1::{
    CancelTicketRequest, Estimate, GetTicketRequest, Ticket, TicketState, WatchTicketRequest,
    matchmaker_service_client::MatchmakerServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tonic::Request;

use super::{Ctl, DEADLINE, given::request_id, output, refusal};

/// One ticket: show it, follow it, withdraw it
#[derive(Debug, Args)]
pub struct TicketArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Where it stands
    Show { id: uuid::Uuid },
    /// Where it stands, and each change until it has ended
    Watch { id: uuid::Uuid },
    /// Withdraw it, unless it was claimed for a match already
    Cancel { id: uuid::Uuid },
}

/// How long a watched ticket may say nothing: longer than any ticket waits.
const SILENCE: Duration = Duration::from_secs(3_600);

pub async fn run(args: &TicketArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        Order::Show { id } => {
            let request = GetTicketRequest { ticket_id: id.to_string() };
            let answer = ctl
                .ask(Some(Role::Matchmaker), async |channel| {
                    MatchmakerServiceClient::new(channel).get_ticket(with_deadline(request.clone(), DEADLINE)).await
                })
                .await?;
            let ticket = answer.ticket.context("the matchmaker's answer is without a ticket")?;
            show(ctl, &ticket, None);
        }
        Order::Watch { id } => watch(ctl, WatchTicketRequest { ticket_id: id.to_string() }).await?,
        Order::Cancel { id } => {
            let request = CancelTicketRequest { ticket_id: id.to_string(), request_id: request_id() };
            ctl.ask(Some(Role::Matchmaker), async |channel| {
                MatchmakerServiceClient::new(channel).cancel_ticket(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            if ctl.json {
                output::json(&json!({"ticket_id": id, "state": "cancelled"}));
            } else {
                output::line(&format!("{id} was withdrawn"));
            }
        }
    }
    Ok(())
}

async fn watch(ctl: &Ctl, request: WatchTicketRequest) -> anyhow::Result<()> {
    // No deadline in the request: it would end the stream.
    let mut changes = ctl
        .ask(Some(Role::Matchmaker), async |channel| {
            MatchmakerServiceClient::new(channel).watch_ticket(Request::new(request.clone())).await
        })
        .await?;
    let mut ended = false;
    loop {
        let next = tokio::time::timeout(SILENCE, changes.message()).await.context("the ticket's node fell silent")?;
        let Some(change) = next.map_err(|status| refusal(&status))? else { break };
        let Some(ticket) = change.ticket else { continue };
        ended = ticket.state() != TicketState::Pending;
        show(ctl, &ticket, change.estimate.as_ref());
    }
    if !ended {
        bail!("the matchmaker ended the watch before the ticket had ended; run it again");
    }
    Ok(())
}

fn show(ctl: &Ctl, ticket: &Ticket, estimate: Option<&Estimate>) {
    if ctl.json {
        output::json(&object(ticket, estimate));
    } else {
        output::line(&sentence(ticket, estimate));
    }
}

fn object(ticket: &Ticket, estimate: Option<&Estimate>) -> Value {
    let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    json!({
        "ticket_id": ticket.ticket_id,
        "state": state(ticket),
        "mode": ticket.mode,
        "player_id": ticket.player_id,
        "players": ticket.players,
        "party_id": text(&ticket.party_id),
        "match_id": text(&ticket.match_id),
        "query": text(&ticket.query),
        "properties": serde_json::from_str::<Value>(&ticket.properties_json).unwrap_or(Value::Null),
        "submitted_at": ticket.submitted_at.as_ref().map(|at| at.seconds),
        "waited_ms": estimate.map(|e| e.waited_ms),
        "position": estimate.map(|e| e.position),
        "estimated_wait_ms": estimate.and_then(|e| e.estimated_wait_ms),
    })
}

fn sentence(ticket: &Ticket, estimate: Option<&Estimate>) -> String {
    let mut said = format!("{}  {}  {}  player {}", ticket.ticket_id, ticket.mode, state(ticket), ticket.player_id);
    if !ticket.party_id.is_empty() {
        said.push_str(&format!("  party {} of {}", ticket.party_id, ticket.players.len()));
    }
    if !ticket.match_id.is_empty() {
        said.push_str(&format!("  match {}", ticket.match_id));
    }
    if let Some(estimate) = estimate {
        said.push_str(&format!("  place {}, waited {}", estimate.position, output::milliseconds(estimate.waited_ms)));
        if let Some(left) = estimate.estimated_wait_ms {
            said.push_str(&format!(", about {} left", output::milliseconds(left)));
        }
    }
    said
}

fn state(ticket: &Ticket) -> &'static str {
    match ticket.state() {
        TicketState::Pending => "pending",
        TicketState::Matched => "matched",
        TicketState::Cancelled => "cancelled",
        TicketState::Expired => "expired",
        TicketState::Failed => "failed",
        TicketState::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_ticket_says_how_long() {
        let mut ticket = Ticket {
            ticket_id: "t".into(),
            player_id: "p".into(),
            mode: "duel".into(),
            state: TicketState::Pending.into(),
            ..Ticket::default()
        };
        let estimate = Estimate { waited_ms: 1_500, estimated_wait_ms: Some(400), position: 3, ..Estimate::default() };
        assert_eq!(
            sentence(&ticket, Some(&estimate)),
            "t  duel  pending  player p  place 3, waited 1.5 s, about 400 ms left"
        );
        ticket.state = TicketState::Matched.into();
        ticket.match_id = "m".into();
        assert_eq!(sentence(&ticket, None), "t  duel  matched  player p  match m");
        assert_eq!(object(&ticket, None)["match_id"], "m");
    }
}
