//! `asobi ctl match show`

use asobi_proto::ops_v1::{
    GetMatchRequest, GetMatchResponse, InspectMatchRequest, InspectedSeat, MatchInspection, MatchState,
    match_service_client::MatchServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{object, state};
use crate::ctl::{Ctl, DEADLINE, one::meant, output, shown};

/// A host that does not answer costs its part of the answer.
pub async fn run(ctl: &Ctl, match_id: Uuid, player: Option<Uuid>) -> anyhow::Result<()> {
    let request = GetMatchRequest { match_id: match_id.to_string() };
    let found = ctl
        .ask(None, async |channel| {
            MatchServiceClient::new(channel).get_match(with_deadline(request.clone(), DEADLINE)).await
        })
        .await?;
    let runs = found.r#match.as_ref().is_some_and(|line| line.state() == MatchState::Running);
    let inspection = if runs { inspect(ctl, match_id, player).await } else { Ok(None) };
    if let Err(error) = &inspection {
        eprintln!("asobi: the match's host says nothing of it: {error:#}");
    }
    let inspection = inspection.unwrap_or_default();
    if ctl.json {
        output::json(&detail(&found, inspection.as_ref()));
    } else {
        output::line(&text(&found, inspection.as_ref()));
    }
    Ok(())
}

async fn inspect(ctl: &Ctl, match_id: Uuid, player: Option<Uuid>) -> anyhow::Result<Option<MatchInspection>> {
    let request = InspectMatchRequest {
        match_id: match_id.to_string(),
        player_id: player.map(|id| id.to_string()).unwrap_or_default(),
    };
    let answer = ctl
        .ask(None, async |channel| {
            let request = with_deadline(request.clone(), DEADLINE);
            // Up to a mebibyte of state, written as JSON.
            let mut client = MatchServiceClient::new(channel);
            client.inspect_match(request).await.map_err(meant)
        })
        .await?;
    Ok(answer.inspection)
}

fn detail(found: &GetMatchResponse, inspection: Option<&MatchInspection>) -> Value {
    let mut shown_match = object(&found.r#match.clone().unwrap_or_default());
    let more = json!({
        "formed_with": found.formed_with,
        "seats": found.seats.iter().map(|seat| json!({
            "player_id": seat.player_id, "joined_at": shown::seconds(seat.joined_at.as_ref()),
        })).collect::<Value>(),
        "listing": found.listing.as_ref().map(|listing| json!({
            "status": listing.status, "player_count": listing.player_count, "max_players": listing.max_players,
            "joinable": listing.joinable, "listed": listing.listed,
        })),
        "checkpoint": found.checkpoint.map(|checkpoint| json!({
            "number": checkpoint.number, "age_ms": checkpoint.age_ms, "bytes": checkpoint.bytes,
        })),
        "result": shown::json(&found.result_json),
        "teams": shown::json(&found.teams_json),
        "backfill_wanted": found.backfill_wanted,
        "running": inspection.map(inspected),
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut shown_match, more) {
        all.extend(more);
    }
    shown_match
}

fn inspected(inspection: &MatchInspection) -> Value {
    let view = inspection.view.clone().unwrap_or_default();
    json!({
        "node_id": inspection.node_id,
        "epoch": inspection.epoch,
        "phase": inspection.phase,
        "joinable": inspection.joinable,
        "tick_rate": inspection.tick_rate,
        "ticks": inspection.ticks,
        "inputs_waiting": inspection.inputs_waiting,
        "joining": inspection.joining,
        "effects_waiting": inspection.effects_waiting,
        "backfill_wanted": inspection.backfill_wanted,
        "watchers": inspection.watchers,
        "seats": inspection.seats.iter().map(|seat| json!({
            "player_id": shown::text(&seat.player_id), "bot": shown::text(&seat.bot), "sessions": seat.sessions,
            "waits_ms": seat.waits_ms,
        })).collect::<Value>(),
        "timers": inspection.timers.iter().map(|timer| json!({
            "name": timer.name, "due_in_ms": timer.due_in_ms, "data": shown::json(&timer.data_json),
        })).collect::<Value>(),
        "state": shown::json(&view.state_json),
        "truncated": view.truncated,
        "problem": shown::text(&view.problem),
    })
}

fn text(found: &GetMatchResponse, inspection: Option<&MatchInspection>) -> String {
    let line = found.r#match.clone().unwrap_or_default();
    let place = format!("{} on {}, epoch {}", state(line.state()), line.host_node, line.epoch);
    let mut pairs = vec![
        ("match", line.match_id.clone()),
        ("mode", line.mode.clone()),
        ("state", place),
        ("failovers", if line.failovers > 0 { line.failovers.to_string() } else { String::new() }),
        ("version", line.version.clone()),
        ("created", shown::time(line.created_at.as_ref())),
        ("ended", shown::time(line.finished_at.as_ref())),
        ("result", shown::plain(&found.result_json)),
    ];
    if let Some(checkpoint) = &found.checkpoint {
        let age = output::milliseconds(checkpoint.age_ms);
        pairs.push(("checkpoint", format!("number {}, {} bytes, {age} old", checkpoint.number, checkpoint.bytes)));
    }
    match inspection {
        Some(inspection) => pairs.extend(running(inspection)),
        None => pairs.extend(found.seats.iter().map(|seat| ("seat", seat.player_id.clone()))),
    }
    shown::pairs(&pairs)
}

fn running(inspection: &MatchInspection) -> Vec<(&'static str, String)> {
    let ticks = match inspection.tick_rate {
        0 => "turn-based".to_owned(),
        rate => format!("{rate} ticks a second, {} here", inspection.ticks),
    };
    let joinable = if inspection.joinable { ", joinable" } else { "" };
    let mut pairs = vec![
        ("phase", format!("{}{joinable}, {ticks}", inspection.phase)),
        ("waiting", format!("{} inputs, {} effects", inspection.inputs_waiting, inspection.effects_waiting)),
    ];
    pairs.extend(inspection.seats.iter().map(|seat| ("seat", sits(seat))));
    let timer =
        |(name, due): (&str, i64)| ("timer", format!("{} in {}", shown::plain(name), output::milliseconds(due)));
    pairs.extend(inspection.timers.iter().map(|due| timer((&due.name, due.due_in_ms))));
    let view = inspection.view.clone().unwrap_or_default();
    let cut = if view.truncated { "  (cut)" } else { "" };
    pairs.push(("shown", format!("{}{cut}", shown::plain(&view.state_json))));
    pairs.push(("problem", shown::plain(&view.problem)));
    pairs
}

fn sits(seat: &InspectedSeat) -> String {
    match (seat.bot.as_str(), seat.sessions, seat.waits_ms) {
        ("", 0, Some(left)) => format!("{}  away, waits {}", seat.player_id, output::milliseconds(left)),
        ("", 0, None) => format!("{}  away", seat.player_id),
        ("", sessions, _) => format!("{}  {sessions} connected", seat.player_id),
        (bot, ..) => format!("{}  a bot", shown::plain(bot)),
    }
}

#[cfg(test)]
mod tests {
    use asobi_proto::ops_v1::{Match, MatchView};

    use super::*;

    #[test]
    fn a_running_match_is_shown_with_its_seats_and_its_state() {
        let line = Match {
            match_id: "m".into(),
            mode: "duel".into(),
            state: MatchState::Running.into(),
            host_node: "match-0".into(),
            epoch: 3,
            ..Match::default()
        };
        let seat = |player: &str, bot: &str, sessions, waits_ms| InspectedSeat {
            player_id: player.into(),
            bot: bot.into(),
            sessions,
            waits_ms,
        };
        let inspection = MatchInspection {
            phase: "running".into(),
            tick_rate: 10,
            ticks: 7,
            seats: vec![seat("p", "", 2, None), seat("q", "", 0, Some(1_500)), seat("", "bot_1", 0, None)],
            view: Some(MatchView { state_json: r#"{"a":1}"#.into(), truncated: true, problem: String::new() }),
            ..MatchInspection::default()
        };
        let found = GetMatchResponse { r#match: Some(line), ..GetMatchResponse::default() };
        let said = text(&found, Some(&inspection));
        for part in [
            "running on match-0, epoch 3",
            "p  2 connected",
            "q  away, waits 1.5 s",
            "bot_1  a bot",
            r#"{"a":1}  (cut)"#,
        ] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
        let object = detail(&found, Some(&inspection));
        assert_eq!((&object["running"]["state"]["a"], &object["running"]["truncated"]), (&json!(1), &json!(true)));
    }
}
