//! What the rows say beside what the players heard.

use std::collections::{BTreeMap, HashMap};

use sqlx::PgPool;
use uuid::Uuid;

use super::bots::Heard;

#[derive(sqlx::FromRow)]
struct Ticket {
    id: Uuid,
    player_id: Uuid,
    state: String,
    match_id: Option<Uuid>,
}

#[derive(sqlx::FromRow)]
struct Match {
    id: Uuid,
    state: String,
    told: bool,
    players: Vec<Uuid>,
    started: bool,
    error: Option<String>,
    /// Seconds; the end is absent while it is open.
    formed: f64,
    ended: Option<f64>,
}

/// Everything that does not fit, one line each.
pub async fn compare(pool: &PgPool, heard: &[Heard]) -> anyhow::Result<Vec<String>> {
    let tickets: Vec<Ticket> =
        sqlx::query_as("SELECT id, player_id, state, match_id FROM tickets ORDER BY id").fetch_all(pool).await?;
    let matches: Vec<Match> = sqlx::query_as(
        "SELECT id, state, told, players, started_at IS NOT NULL AS started, result->>'error' AS error,
                extract(epoch FROM inserted_at)::float8 AS formed, extract(epoch FROM finished_at)::float8 AS ended
         FROM matches ORDER BY inserted_at",
    )
    .fetch_all(pool)
    .await?;
    let seats: i64 = sqlx::query_scalar("SELECT count(*) FROM match_players").fetch_one(pool).await?;
    let mut wrong = Vec::new();
    if seats > 0 {
        wrong.push(format!("{seats} seats are left over"));
    }
    let matches: BTreeMap<Uuid, Match> = matches.into_iter().map(|row| (row.id, row)).collect();
    let heard: HashMap<&str, &Heard> = heard.iter().map(|heard| (heard.player_id.as_str(), heard)).collect();
    for ticket in &tickets {
        if let Some(heard) = heard.get(ticket.player_id.to_string().as_str())
            && let Some(problem) = of_ticket(ticket, heard, &matches)
        {
            wrong.push(format!("ticket {} of player {}, {}: {problem}", ticket.id, ticket.player_id, ticket.state));
        }
    }
    for heard in heard.values() {
        wrong.extend(of_player(heard, &tickets, &matches));
    }
    wrong.extend(
        matches.values().filter_map(|row| Some(format!("match {}, {}: {}", row.id, row.state, of_match(row)?))),
    );
    wrong.extend(overlaps(&matches));
    Ok(wrong)
}

/// A ticket has ended in one way, and its player knows.
fn of_ticket(ticket: &Ticket, heard: &Heard, matches: &BTreeMap<Uuid, Match>) -> Option<String> {
    let id = ticket.id.to_string();
    let withdrawn = heard.withdrawn.contains(&id);
    match (ticket.state.as_str(), ticket.match_id) {
        ("matched", Some(_)) if withdrawn => Some("it was withdrawn".into()),
        ("matched", Some(match_id)) => match matches.get(&match_id) {
            None => Some(format!("match {match_id} is not there")),
            Some(row) if !row.players.contains(&ticket.player_id) => Some(format!("match {match_id} is others'")),
            Some(_) if !heard.told.contains(&match_id.to_string()) => {
                Some(format!("the player was not told of match {match_id}"))
            }
            Some(_) => None,
        },
        ("cancelled", None) if withdrawn || heard.doubtful.contains(&id) => None,
        ("cancelled", _) => Some("nobody withdrew it".into()),
        ("expired" | "failed", _) if heard.ended > 0 => None,
        ("expired" | "failed", _) => Some("the player was not told".into()),
        _ => Some("it has not ended".into()),
    }
}

/// What the player was told of is there, and no acknowledged ticket has vanished.
fn of_player(heard: &Heard, tickets: &[Ticket], matches: &BTreeMap<Uuid, Match>) -> Vec<String> {
    let mut wrong = Vec::new();
    for told in &heard.told {
        let row = told.parse().ok().and_then(|id: Uuid| matches.get(&id));
        let is_theirs = row.is_some_and(|row| row.players.iter().any(|player| player.to_string() == heard.player_id));
        if !is_theirs {
            wrong.push(format!("player {} was told of match {told}, which has no such player", heard.player_id));
        }
    }
    for id in &heard.tickets {
        if !tickets.iter().any(|ticket| ticket.id.to_string() == *id) {
            wrong.push(format!("ticket {id} of player {} was acknowledged and is not there", heard.player_id));
        }
    }
    wrong
}

/// It is over; whoever was told of it was told of one that ran.
fn of_match(row: &Match) -> Option<String> {
    match (row.state.as_str(), row.error.as_deref()) {
        (_, _) if !row.told => Some("nobody was told".into()),
        ("finished", _) if row.started => None,
        ("failed", Some("match_start_failed")) => None,
        ("failed", Some(_)) if row.started => None,
        ("finished" | "failed", error) => Some(format!("it never ran, with {error:?}")),
        _ => Some("it has not ended".into()),
    }
}

/// Nobody was in two live matches.
fn overlaps(matches: &BTreeMap<Uuid, Match>) -> Vec<String> {
    let mut of_players: BTreeMap<Uuid, Vec<&Match>> = BTreeMap::new();
    for row in matches.values() {
        row.players.iter().for_each(|player| of_players.entry(*player).or_default().push(row));
    }
    let mut wrong = Vec::new();
    for (player, mut rows) in of_players {
        rows.sort_by(|a, b| a.formed.total_cmp(&b.formed));
        for pair in rows.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            if before.ended.is_none_or(|ended| ended > after.formed) {
                wrong.push(format!("player {player} was in match {} and in match {} at once", before.id, after.id));
            }
        }
    }
    wrong
}
