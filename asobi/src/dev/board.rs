//! Who is ready where: read from the cluster's registry, written to the ready file and shown as a table.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use asobi_cluster::{NodeRow, directory, ops};
use sqlx::PgPool;
use tokio::time::sleep;

use super::{
    output::Output,
    plan::{Kind, Planned},
    ready_file::{Entry, Ready},
};

/// How often the registry is read. There is no listener here: this is for people and scripts, and a few queries a
/// second are nothing to the database.
const PERIOD: Duration = Duration::from_millis(200);
/// The same until all are ready, which somebody waits for.
const IMPATIENT: Duration = Duration::from_millis(40);

/// A node of the plan, and the number of the process that runs it now.
#[derive(Debug, Clone)]
pub struct Watched {
    pub node: Planned,
    pub pid: Arc<AtomicU32>,
}

#[derive(Debug)]
pub struct Board {
    pool: PgPool,
    database_url: String,
    nodes: Vec<Watched>,
    ready_file: Option<PathBuf>,
    output: Output,
    /// What each node was when it was last seen ready; one that died keeps its place until it is back.
    known: HashMap<String, Entry>,
    shown: Option<Ready>,
    complaint: Option<String>,
}

impl Board {
    pub fn new(
        pool: PgPool,
        database_url: String,
        nodes: Vec<Watched>,
        ready_file: Option<PathBuf>,
        output: Output,
    ) -> Self {
        Self { pool, database_url, nodes, ready_file, output, known: HashMap::new(), shown: None, complaint: None }
    }

    /// Watches until it is dropped.
    pub async fn run(mut self) {
        loop {
            sleep(if self.shown.is_none() { IMPATIENT } else { PERIOD }).await;
            // While the database is away nothing is known, so nothing changes; the nodes say in their logs that it is.
            let Ok(rows) = directory::read(&self.pool).await else { continue };
            let Ok(leaders) = ops::leaders(&self.pool).await else { continue };
            let leading = leaders.into_keys().collect();
            if let Some(ready) = self.look(&rows, &leading) {
                self.publish(ready);
            }
        }
    }

    /// What is to be published, if something has changed: at first, when every node is ready and a matchmaker leads;
    /// later a node that died keeps its place until it is back.
    fn look(&mut self, rows: &[Arc<NodeRow>], leading: &HashSet<(String, i64)>) -> Option<Ready> {
        let mut all_ready = true;
        for watched in &self.nodes {
            let own = |row: &&Arc<NodeRow>| {
                let pid = watched.pid.load(Ordering::Acquire);
                row.node_id == watched.node.node_id && row.is_ready() && u32::try_from(row.pid) == Ok(pid)
            };
            if let Some(row) = rows.iter().find(own) {
                let mut entry = Entry::of(row);
                if watched.node.kind == Kind::Matchmaker {
                    entry.leading = Some(leading.contains(&(row.node_id.clone(), row.incarnation)));
                }
                self.known.insert(row.node_id.clone(), entry);
            } else {
                all_ready = false;
                if let Some(entry) = self.known.get_mut(&watched.node.node_id) {
                    entry.leading = entry.leading.map(|_| false);
                }
            }
        }
        if self.shown.is_none() && !all_ready {
            return None;
        }
        let of = |kind: Kind| -> Option<Vec<Entry>> {
            let nodes = self.nodes.iter().filter(|watched| watched.node.kind == kind);
            nodes.map(|watched| self.known.get(&watched.node.node_id).cloned()).collect()
        };
        let ready = Ready {
            database_url: self.database_url.clone(),
            gateways: of(Kind::Gateway)?,
            match_hosts: of(Kind::MatchHost)?,
            matchmakers: of(Kind::Matchmaker)?,
            social_services: of(Kind::Social)?,
        };
        // Between two leaders there is none; scripts are told of the next one, not of the gap.
        let led = ready.matchmakers.is_empty() || ready.matchmakers.iter().any(|entry| entry.leading == Some(true));
        (led && self.shown.as_ref() != Some(&ready)).then_some(ready)
    }

    fn publish(&mut self, ready: Ready) {
        if let Some(path) = &self.ready_file
            && let Err(error) = ready.write(path)
        {
            // Tried again at each look, and said once.
            let complaint = format!("{error:#}");
            if self.complaint.as_ref() != Some(&complaint) {
                self.output.say(&complaint);
                self.complaint = Some(complaint);
            }
            return;
        }
        match self.shown.replace(ready) {
            None => self.output.show(&self.table()),
            Some(before) => self.output.say(&self.changes(&before)),
        }
    }

    fn table(&self) -> String {
        let mut table = String::from("\nAsobi is ready.\n\n");
        let mut row = |cells: [&str; 6]| {
            let [node, what, players, grpc, metrics, pid] = cells;
            let line = format!("  {node:14} {what:20} {players:24} {grpc:18} {metrics:18} {pid}");
            let _infallible = writeln!(table, "{}", line.trim_end());
        };
        row(["node", "", "players", "gRPC", "metrics", "process"]);
        for watched in &self.nodes {
            let Some(entry) = self.known.get(&watched.node.node_id) else { continue };
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
            let leads = if entry.leading == Some(true) { " (leads)" } else { "" };
            row([
                &entry.node_id,
                &format!("{}{leads}", watched.node.kind.title()),
                &text(&entry.http),
                &text(&entry.grpc),
                &text(&entry.metrics),
                &entry.pid.to_string(),
            ]);
        }
        let _infallible = write!(table, "\n  database       {}\n\nCtrl-C ends it.\n", self.database_url);
        table
    }

    /// One sentence for each node that is not what it was.
    fn changes(&self, before: &Ready) -> String {
        let Some(now) = &self.shown else { return String::new() };
        let mut lines = Vec::new();
        for (was, is) in before.entries().zip(now.entries()) {
            if was.pid != is.pid {
                lines.push(format!("{} is ready again (process {})", is.node_id, is.pid));
            }
            if is.leading == Some(true) && was.leading != Some(true) {
                lines.push(format!("{} leads now", is.node_id));
            }
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(node_id: &str, incarnation: i64, pid: i32) -> Arc<NodeRow> {
        Arc::new(NodeRow {
            node_id: node_id.to_owned(),
            incarnation,
            role: String::new(),
            state: "ready".to_owned(),
            version: String::new(),
            region: String::new(),
            http_url: None,
            ws_url: None,
            grpc_addr: Some("127.0.0.1:1".to_owned()),
            metrics_addr: None,
            pid,
            load: 0,
            capacity: 0,
            started_at: sqlx::types::time::OffsetDateTime::UNIX_EPOCH,
            alive: true,
        })
    }

    fn watched(kind: Kind, node_id: &str, pid: u32) -> Watched {
        let node = Planned { kind, node_id: node_id.to_owned(), http: None };
        Watched { node, pid: Arc::new(AtomicU32::new(pid)) }
    }

    fn leads(node_id: &str, incarnation: i64) -> HashSet<(String, i64)> {
        HashSet::from([(node_id.to_owned(), incarnation)])
    }

    #[tokio::test]
    async fn ready_means_the_very_processes_and_a_leader() {
        let (output, _printer) = Output::start(std::iter::empty()).unwrap();
        let pool = PgPool::connect_lazy("postgres://127.0.0.1:1/none").unwrap();
        let nodes = vec![watched(Kind::Matchmaker, "m-0", 10), watched(Kind::Matchmaker, "m-1", 11)];
        let mut board = Board::new(pool, String::new(), nodes, None, output);

        let earlier = [row("m-0", 1, 9), row("m-1", 2, 11)];
        assert!(board.look(&earlier, &leads("m-1", 2)).is_none(), "m-0's row is of an earlier process");
        let rows = [row("m-0", 3, 10), row("m-1", 2, 11)];
        assert!(board.look(&rows, &leads("m-0", 1)).is_none(), "the leader is an earlier incarnation");
        let ready = board.look(&rows, &leads("m-0", 3)).unwrap();
        assert_eq!(ready.matchmakers[0].leading, Some(true));
        board.shown = Some(ready);
        assert!(board.look(&rows, &leads("m-0", 3)).is_none(), "nothing has changed");

        board.nodes[0].pid.store(0, Ordering::Release);
        assert!(board.look(&rows, &leads("m-0", 3)).is_none(), "the gap between two leaders is not told");
        let after = board.look(&rows, &leads("m-1", 2)).unwrap();
        assert_eq!([after.matchmakers[0].leading, after.matchmakers[1].leading], [Some(false), Some(true)]);
    }
}
