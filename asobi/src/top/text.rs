//! The model as words: cells that the screen and the printed picture share, and an object for scripts.

use serde_json::{Value, json};

use super::model::{Condition, Model, Row, Totals};
use crate::ctl::output;

/// Above the table of nodes.
pub const NODES: [&str; 11] =
    ["node", "role", "state", "load", "cpu", "memory", "in/s", "out/s", "talk/s", "calls/s", "lag"];
/// Above the table of the queue.
pub const QUEUE: [&str; 6] = ["mode", "tickets", "players", "oldest", "matches/s", "state"];

/// A line for the whole cluster.
pub fn header(totals: &Totals) -> [String; 2] {
    let queued = totals.queued.map_or("-".to_owned(), |players| players.to_string());
    let connections = totals.connections.map_or("-".to_owned(), |connections| format!("{connections:.0}"));
    let usage = totals.queue_usage.map_or("-".to_owned(), |usage| format!("{:.1} %", usage * 100.0));
    [
        format!(
            "nodes {}/{} alive, {} answer   sessions {:.0}   matches {:.0}   queued {queued}",
            totals.alive, totals.nodes, totals.answering, totals.sessions, totals.matches
        ),
        format!(
            "frames in {}/s out {}/s   talk {}/s   NOTIFY lag {}, queue {usage}   database connections {connections}",
            number(Some(totals.frames_in)),
            number(Some(totals.frames_out)),
            number(Some(totals.chat)),
            seconds(totals.lag_seconds),
        ),
    ]
}

pub fn cells(row: &Row) -> [String; 11] {
    let load = if row.capacity > 0 { format!("{}/{}", row.load, row.capacity) } else { row.load.to_string() };
    [
        row.node_id.clone(),
        row.role.clone(),
        state(row),
        load,
        row.cpu_percent.map_or("-".to_owned(), |percent| format!("{percent:.0} %")),
        row.memory_bytes.map_or("-".to_owned(), |bytes| format!("{:.0} MiB", bytes / 1_048_576.0)),
        number(row.frames_in),
        number(row.frames_out),
        number(row.chat),
        number(row.calls),
        seconds(row.lag_seconds),
    ]
}

fn state(row: &Row) -> String {
    match row.condition {
        Condition::Answers if row.leading => format!("{}, leads", row.state),
        Condition::Answers | Condition::Stopped => row.state.clone(),
        Condition::Silent => "no answer".to_owned(),
        Condition::Lost => "lost".to_owned(),
    }
}

pub fn queue(model: &Model) -> Vec<[String; 6]> {
    let line = |mode: &asobi_proto::matchmaker_v1::QueueStats| {
        let oldest = if mode.players > 0 { output::milliseconds(mode.oldest_wait_ms) } else { "-".to_owned() };
        [
            mode.mode.clone(),
            mode.tickets.to_string(),
            mode.players.to_string(),
            oldest,
            format!("{:.1}", mode.matches_per_second),
            if mode.paused { "paused".to_owned() } else { String::new() },
        ]
    };
    model.queue.iter().map(line).collect()
}

fn number(n: Option<f64>) -> String {
    match n {
        None => "-".to_owned(),
        Some(n) if n >= 10_000.0 => format!("{:.0} k", n / 1_000.0),
        Some(n) if n >= 100.0 || n == 0.0 => format!("{n:.0}"),
        Some(n) => format!("{n:.1}"),
    }
}

fn seconds(n: Option<f64>) -> String {
    match n {
        None => "-".to_owned(),
        Some(n) if n >= 1.0 => format!("{n:.1} s"),
        Some(n) => format!("{:.1} ms", n * 1_000.0),
    }
}

/// All of it, for `--once`.
pub fn picture(model: &Model) -> String {
    let mut parts: Vec<String> = header(&model.totals).into();
    parts.extend(model.problem.iter().map(|problem| format!("registry: {problem}")));
    let rows: Vec<_> = model.rows.iter().map(cells).collect();
    parts.push(format!("\n{}", output::table(NODES, &rows)));
    if !model.queue.is_empty() {
        parts.push(format!("\n{}", output::table(QUEUE, &queue(model))));
    }
    parts.join("\n")
}

pub fn object(model: &Model) -> Value {
    let totals = &model.totals;
    json!({
        "nodes_alive": totals.alive,
        "nodes_answering": totals.answering,
        "sessions": totals.sessions,
        "matches": totals.matches,
        "queued": totals.queued,
        "frames_in_per_second": totals.frames_in,
        "frames_out_per_second": totals.frames_out,
        "chat_per_second": totals.chat,
        "notify_lag_seconds": totals.lag_seconds,
        "notify_queue_usage": totals.queue_usage,
        "database_connections": totals.connections,
        "problem": model.problem,
        "nodes": model.rows.iter().map(row_object).collect::<Value>(),
        "queue": model.queue.iter().map(|mode| json!({
            "mode": mode.mode, "tickets": mode.tickets, "players": mode.players,
            "oldest_wait_ms": mode.oldest_wait_ms, "matches_per_second": mode.matches_per_second, "paused": mode.paused,
        })).collect::<Value>(),
    })
}

fn row_object(row: &Row) -> Value {
    json!({
        "node_id": row.node_id,
        "role": row.role,
        "state": row.state,
        "answers": row.condition == Condition::Answers,
        "alive": matches!(row.condition, Condition::Answers | Condition::Silent),
        "leading": row.leading,
        "load": row.load,
        "capacity": row.capacity,
        "sessions": row.sessions,
        "matches": row.matches,
        "cpu_percent": row.cpu_percent,
        "memory_bytes": row.memory_bytes,
        "frames_in_per_second": row.frames_in,
        "frames_out_per_second": row.frames_out,
        "chat_per_second": row.chat,
        "calls_per_second": row.calls,
        "notify_lag_seconds": row.lag_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::model::tests::looks, *};

    #[test]
    fn a_picture_has_every_node_and_says_who_does_not_answer() {
        let (first, second) = looks();
        let said = picture(&Model::of(Some(&first), &second));
        for part in [
            "nodes 3/4 alive, 2 answer",
            "queued 4",
            "NOTIFY lag 10.0 ms",
            "connections 12",
            "gateway-0",
            "75 %",
            "64 MiB",
            "no answer",
            "lost",
            "ready, leads",
            "duel",
        ] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
        let object = object(&Model::of(Some(&first), &second));
        assert_eq!((&object["nodes"][1]["answers"], &object["nodes"][1]["alive"]), (&json!(false), &json!(true)));
        assert_eq!(object["nodes"][0]["frames_in_per_second"], 50.0);
    }

    #[test]
    fn a_registry_that_cannot_be_read_is_said() {
        let (_, mut only) = looks();
        only.problem = Some("the database is away".into());
        assert!(picture(&Model::of(None, &only)).contains("registry: the database is away"));
    }
}
