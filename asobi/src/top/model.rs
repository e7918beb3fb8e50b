//! What two looks at a cluster say.

use std::{cmp::Ordering, collections::HashMap};

use asobi_proto::{matchmaker_v1::QueueStats, ops_v1::Node};

use super::sample::{NodeSample, Sample, Stats};

/// Names of metrics.
const SESSIONS: &str = "asobi_session_sockets";
const MATCHES: &str = "asobi_match_running";
const FRAMES_IN: &str = "asobi_session_frames_in_total";
const FRAMES_OUT: &str = "asobi_session_frames_out_total";
const CHAT: &str = "asobi_chat_batch_messages_sum";
const CALLS: &str = "asobi_grpc_server_seconds_count";
const CPU: &str = "process_cpu_seconds_total";
const MEMORY: &str = "process_resident_memory_bytes";
const LAG: &str = "asobi_bus_notify_lag_seconds";
const QUEUE_USAGE: &str = "asobi_bus_queue_usage_ratio";
const CONNECTIONS: &str = "asobi_database_connections";

/// How a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It answers.
    Answers,
    /// Its lease is valid, and it does not answer.
    Silent,
    /// Its lease ran out.
    Lost,
    /// It has said goodbye.
    Stopped,
}

/// A node in the table. What is not known is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub node_id: String,
    pub role: String,
    /// As the registry has it.
    pub state: String,
    pub condition: Condition,
    pub leading: bool,
    pub load: i32,
    pub capacity: i32,
    pub sessions: Option<f64>,
    pub matches: Option<f64>,
    /// Of one core.
    pub cpu_percent: Option<f64>,
    pub memory_bytes: Option<f64>,
    /// A second.
    pub frames_in: Option<f64>,
    pub frames_out: Option<f64>,
    pub chat: Option<f64>,
    pub calls: Option<f64>,
    pub lag_seconds: Option<f64>,
}

/// Of all nodes that answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    /// Nodes whose lease is valid, those of them that answer, and all.
    pub alive: usize,
    pub answering: usize,
    pub nodes: usize,
    pub sessions: f64,
    pub matches: f64,
    /// Players; none: no leading matchmaker has answered.
    pub queued: Option<i64>,
    pub frames_in: f64,
    pub frames_out: f64,
    pub chat: f64,
    /// The worst.
    pub lag_seconds: Option<f64>,
    pub queue_usage: Option<f64>,
    pub connections: Option<f64>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub totals: Totals,
    pub rows: Vec<Row>,
    pub queue: Vec<QueueStats>,
    pub problem: Option<String>,
}

/// What the table is in the order of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    #[default]
    Role,
    Node,
    Load,
    Cpu,
    Memory,
    Frames,
    Chat,
}

impl SortBy {
    pub const ALL: [Self; 7] = [Self::Role, Self::Node, Self::Load, Self::Cpu, Self::Memory, Self::Frames, Self::Chat];

    /// The key that asks for it, which begins its name.
    pub fn key(self) -> char {
        self.name().chars().next().unwrap_or(' ')
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Node => "node",
            Self::Load => "load",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Frames => "frames",
            Self::Chat => "talk",
        }
    }
}

impl Model {
    /// Of the last look and the one before.
    pub fn of(before: Option<&Sample>, now: &Sample) -> Self {
        let earlier: HashMap<&str, &Stats> = before
            .into_iter()
            .flat_map(|sample| &sample.nodes)
            .filter_map(|node| Some((node.node.node_id.as_str(), node.stats.as_ref()?)))
            .collect();
        let rows: Vec<Row> =
            now.nodes.iter().map(|node| row(node, earlier.get(node.node.node_id.as_str()).copied())).collect();
        let queue = now.queue.clone().unwrap_or_default();
        let mut model = Self { totals: totals(&rows, now), rows, queue, problem: now.problem.clone() };
        model.sort(SortBy::default(), false);
        model
    }

    /// Orders the nodes; numbers with the largest first, unless it is the other way round.
    pub fn sort(&mut self, by: SortBy, reversed: bool) {
        let largest = |a: Option<f64>, b: Option<f64>| b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0));
        let frames = |row: &Row| Some(row.frames_in? + row.frames_out?);
        self.rows.sort_by(|a, b| {
            let order = match by {
                SortBy::Role => a.role.cmp(&b.role),
                SortBy::Node => Ordering::Equal,
                SortBy::Load => b.load.cmp(&a.load),
                SortBy::Cpu => largest(a.cpu_percent, b.cpu_percent),
                SortBy::Memory => largest(a.memory_bytes, b.memory_bytes),
                SortBy::Frames => largest(frames(a), frames(b)),
                SortBy::Chat => largest(a.chat, b.chat),
            };
            let order = order.then_with(|| a.node_id.cmp(&b.node_id));
            if reversed { order.reverse() } else { order }
        });
    }
}

fn row(sample: &NodeSample, before: Option<&Stats>) -> Row {
    let (node, stats) = (&sample.node, sample.stats.as_ref());
    let value = |name: &str| stats.and_then(|stats| stats.values.get(name).copied());
    let per_second = |name: &str| rate(before?, stats?, name);
    Row {
        node_id: node.node_id.clone(),
        role: node.role.clone(),
        state: node.state.clone(),
        condition: condition(node, stats),
        leading: node.leading,
        load: node.load,
        capacity: node.capacity,
        sessions: value(SESSIONS),
        matches: value(MATCHES),
        cpu_percent: per_second(CPU).map(|cores| cores * 100.0),
        memory_bytes: value(MEMORY),
        frames_in: per_second(FRAMES_IN),
        frames_out: per_second(FRAMES_OUT),
        chat: per_second(CHAT),
        calls: per_second(CALLS),
        lag_seconds: value(LAG),
    }
}

fn condition(node: &Node, stats: Option<&Stats>) -> Condition {
    match stats {
        Some(_) => Condition::Answers,
        None if node.state == "stopped" => Condition::Stopped,
        None if node.alive => Condition::Silent,
        None => Condition::Lost,
    }
}

/// How much a counter grew a second. None: it is another life of the node, or both looks found the same moment.
fn rate(before: &Stats, now: &Stats, name: &str) -> Option<f64> {
    let passed = now.at - before.at;
    if before.incarnation != now.incarnation || passed < 0.05 {
        return None;
    }
    // What was never counted is not there; it stands at 0.
    let of = |stats: &Stats| stats.values.get(name).copied().unwrap_or(0.0);
    let grown = of(now) - of(before);
    (grown >= 0.0).then_some(grown / passed)
}

fn totals(rows: &[Row], now: &Sample) -> Totals {
    // Not by `sum`, which says -0 of nobody.
    let sum = |of: fn(&Row) -> Option<f64>| rows.iter().filter_map(of).fold(0.0, |sum, n| sum + n);
    let worst = |name: &str| {
        let values = now.nodes.iter().filter_map(|node| node.stats.as_ref()?.values.get(name).copied());
        values.max_by(f64::total_cmp)
    };
    Totals {
        alive: now.nodes.iter().filter(|node| node.node.alive).count(),
        answering: rows.iter().filter(|row| row.condition == Condition::Answers).count(),
        nodes: rows.len(),
        sessions: sum(|row| row.sessions),
        matches: sum(|row| row.matches),
        queued: now.queue.as_ref().map(|modes| modes.iter().map(|mode| mode.players).sum()),
        frames_in: sum(|row| row.frames_in),
        frames_out: sum(|row| row.frames_out),
        chat: sum(|row| row.chat),
        lag_seconds: worst(LAG),
        queue_usage: worst(QUEUE_USAGE),
        connections: worst(CONNECTIONS),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn node(node_id: &str, role: &str, alive: bool) -> Node {
        let (state, load, capacity) = ("ready".into(), 3, 10);
        Node { node_id: node_id.into(), role: role.into(), state, alive, load, capacity, ..Node::default() }
    }

    pub fn stats(at: f64, incarnation: i64, values: &[(&str, f64)]) -> Option<Stats> {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Some(Stats { incarnation, at, values })
    }

    /// Two looks two seconds apart, at a gateway, a host that does not answer, one that is lost, and a leading matchmaker.
    pub fn looks() -> (Sample, Sample) {
        let gateway = |at, frames, cpu| NodeSample {
            node: node("gateway-0", "gateway", true),
            stats: stats(
                at,
                1,
                &[
                    (SESSIONS, 5.0),
                    (FRAMES_IN, frames),
                    (FRAMES_OUT, 3.0 * frames),
                    (CHAT, frames / 2.0),
                    (CPU, cpu),
                    (MEMORY, 64.0 * 1024.0 * 1024.0),
                    (LAG, 0.004),
                    (CONNECTIONS, 12.0),
                ],
            ),
        };
        let silent = || NodeSample { node: node("match-0", "match", true), stats: None };
        let lost = || NodeSample { node: node("match-1", "match", false), stats: None };
        let leader = |at| NodeSample {
            node: Node { leading: true, ..node("matchmaker-0", "matchmaker", true) },
            stats: stats(at, 2, &[(LAG, 0.010), (CPU, 1.0)]),
        };
        let queue = Some(vec![QueueStats { mode: "duel".into(), tickets: 3, players: 4, ..QueueStats::default() }]);
        let first = Sample {
            nodes: vec![gateway(100.0, 10.0, 1.0), silent(), lost(), leader(7.0)],
            queue: None,
            problem: None,
        };
        let nodes = vec![gateway(102.0, 110.0, 2.5), silent(), lost(), leader(9.0)];
        (first, Sample { nodes, queue, problem: None })
    }

    #[test]
    fn rates_come_from_two_looks_and_totals_from_who_answers() {
        let (first, second) = looks();
        let model = Model::of(Some(&first), &second);
        let gateway = &model.rows[0];
        assert_eq!((gateway.frames_in, gateway.frames_out, gateway.chat), (Some(50.0), Some(150.0), Some(25.0)));
        assert_eq!((gateway.cpu_percent, gateway.sessions), (Some(75.0), Some(5.0)));
        let conditions: Vec<_> = model.rows.iter().map(|row| (row.node_id.as_str(), row.condition)).collect();
        assert_eq!(
            conditions,
            [
                ("gateway-0", Condition::Answers),
                ("match-0", Condition::Silent),
                ("match-1", Condition::Lost),
                ("matchmaker-0", Condition::Answers)
            ]
        );
        let totals = &model.totals;
        assert_eq!((totals.alive, totals.answering, totals.nodes), (3, 2, 4));
        assert_eq!((totals.sessions, totals.frames_out, totals.queued), (5.0, 150.0, Some(4)));
        assert_eq!((totals.lag_seconds, totals.connections, totals.queue_usage), (Some(0.010), Some(12.0), None));
    }

    #[test]
    fn a_node_that_began_again_has_no_rate_yet() {
        let before = stats(10.0, 1, &[(CPU, 50.0)]).unwrap();
        let rate_of = |now: Option<Stats>| rate(&before, &now.unwrap(), CPU);
        assert_eq!(rate_of(stats(12.0, 2, &[(CPU, 60.0)])), None, "another life");
        assert_eq!(rate_of(stats(12.0, 1, &[(CPU, 40.0)])), None, "a counter that went back");
        assert_eq!(rate_of(stats(10.0, 1, &[(CPU, 60.0)])), None, "the same moment");
        assert_eq!(rate_of(stats(12.0, 1, &[(CPU, 60.0)])), Some(5.0));
        let (_, only) = looks();
        assert_eq!(Model::of(None, &only).rows[0].frames_in, None);
    }

    #[test]
    fn the_table_is_in_the_order_that_is_asked_for() {
        let (first, second) = looks();
        let mut model = Model::of(Some(&first), &second);
        let order = |model: &Model| model.rows.iter().map(|row| row.node_id.clone()).collect::<Vec<_>>();
        model.sort(SortBy::Node, true);
        assert_eq!(order(&model), ["matchmaker-0", "match-1", "match-0", "gateway-0"]);
        model.sort(SortBy::Cpu, false);
        assert_eq!(order(&model)[..2], ["gateway-0", "matchmaker-0"]);
        let keys: std::collections::HashSet<char> = SortBy::ALL.iter().map(|by| by.key()).collect();
        assert!(keys.len() == SortBy::ALL.len() && !keys.contains(&'q'));
    }
}
