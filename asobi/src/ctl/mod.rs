//! `asobi ctl`: an operator's questions and orders to a running cluster. Who is there, where, and the cluster key come from the database;
//! the rest is the gRPC API that every process serves.
//!
//! Each subcommand is a module with its arguments and a `run(&args, &Ctl)`; what it prints goes through [`output`].

mod boards;
mod hosts;
mod nodes;
mod output;
mod players;
mod queue;
mod ticket;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use asobi_cluster::Role;
use asobi_proto::ops_v1::Node;
use asobi_service_kit::{
    config::{self, Config, ConfigArgs, EXIT_CONFIG},
    grpc::{self, Channels, ClusterChannel},
};
use asobi_store::{DatabaseOptions, within};
use clap::{Args, Subcommand};
use sqlx::PgPool;
use tonic::{Code, Status};

/// Longest wait for one node's answer.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Look at a running cluster and give it orders
#[derive(Debug, Args)]
pub struct CtlArgs {
    #[command(subcommand)]
    command: Command,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// The PostgreSQL database of the cluster (database.url) [env: ASOBI_DATABASE_URL]
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// A configuration file, such as the cluster's own [env: ASOBI_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one configuration key, e.g. cluster.key where it is not kept in the database; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who is in the cluster: roles, states, addresses, load, and who leads
    Nodes,
    /// Move a running match to another host, live: its players notice a late tick
    Move(hosts::MoveArgs),
    /// Take a match host out: its matches move to the others, then it stops
    Drain(hosts::DrainArgs),
    Boards(boards::BoardsArgs),
    Player(players::PlayerArgs),
    Queue(queue::QueueArgs),
    Ticket(ticket::TicketArgs),
}

/// Runs the command. Its exit code is 64 for a wrong configuration and 1 for everything that could not be done.
///
/// # Errors
/// With a sentence that says what to do next.
pub async fn run(args: CtlArgs) -> anyhow::Result<ExitCode> {
    let layers = ConfigArgs {
        config: args.config.clone(),
        set: args.set.clone(),
        database_url: args.database_url.clone(),
        ..ConfigArgs::default()
    };
    let config = match config::load(&layers) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let ctl = Ctl::connect(&config, args.json).await?;
    match &args.command {
        Command::Nodes => nodes::run(&ctl).await?,
        Command::Move(args) => hosts::move_match(args, &ctl).await?,
        Command::Drain(args) => hosts::drain(args, &ctl).await?,
        Command::Boards(args) => boards::run(args, &ctl).await?,
        Command::Player(args) => players::run(args, &ctl).await?,
        Command::Queue(args) => queue::run(args, &ctl).await?,
        Command::Ticket(args) => ticket::run(args, &ctl).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What every subcommand needs.
pub struct Ctl {
    pool: PgPool,
    channels: Channels,
    /// Print JSON.
    pub json: bool,
}

impl Ctl {
    async fn connect(config: &Config, json: bool) -> anyhow::Result<Self> {
        let timeout = config.database.timeout();
        let options = DatabaseOptions {
            url: config.database.url.expose().to_owned(),
            max_connections: 1,
            timeout,
            application_name: "asobi/ctl".to_owned(),
        };
        let pool = asobi_store::connect(&options).await.context(
            "the database cannot be reached; give the cluster's with --database-url, ASOBI_DATABASE_URL or --config",
        )?;
        if let Some(problem) = within(timeout, asobi_store::schema_problem(&pool)).await? {
            bail!(problem);
        }
        let key = asobi_cluster::cluster_key(config, &pool, timeout).await?;
        Ok(Self { pool, channels: Channels::new(key), json })
    }

    /// The registry as it is now, leaders marked, dead nodes included.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        asobi_cluster::ops::nodes(&self.pool).await.context("the registry could not be read")
    }

    /// The living node of that id.
    ///
    /// # Errors
    /// There is none; with those there are.
    pub async fn node(&self, node_id: &str, role: Role) -> anyhow::Result<Node> {
        let mut nodes = candidates(self.nodes().await?, Some(role));
        if let Some(found) = nodes.iter().position(|node| node.node_id == node_id) {
            return Ok(nodes.swap_remove(found));
        }
        let known: Vec<&str> = nodes.iter().map(|node| node.node_id.as_str()).collect();
        let role = role.as_str();
        if known.is_empty() {
            bail!("{node_id:?} is no {role} node that is alive, and there is no other; see `asobi ctl nodes`");
        }
        bail!("{node_id:?} is no {role} node that is alive; there are {}", known.join(", "))
    }

    /// Asks the nodes of a role (of any, without one) until one answers; those that lead and those that are ready come first. Only calls
    /// that may be repeated.
    ///
    /// # Errors
    /// The first real refusal, or that no node answers and what to look at.
    pub async fn ask<T>(
        &self,
        role: Option<Role>,
        call: impl AsyncFn(ClusterChannel) -> Result<tonic::Response<T>, Status>,
    ) -> anyhow::Result<T> {
        let nodes = candidates(self.nodes().await?, role);
        let mut unanswered = Vec::new();
        for node in nodes {
            let answer = tokio::time::timeout(DEADLINE, call(self.channels.get(&node.grpc_addr))).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if passes_on(&status) => {
                    unanswered.push(format!("{} at {}: {}", node.node_id, node.grpc_addr, status.message()));
                }
                Err(status) => return Err(refusal(&status)),
            }
        }
        let role = role.map_or("node", Role::as_str);
        if unanswered.is_empty() {
            bail!("no {role} of this cluster is alive; `asobi ctl nodes` shows who was there")
        }
        bail!(
            "no {role} answered ({}); run this where the nodes' gRPC addresses can be reached, and see `asobi ctl nodes`",
            unanswered.join("; ")
        )
    }
}

fn candidates(mut nodes: Vec<Node>, role: Option<Role>) -> Vec<Node> {
    nodes.retain(|node| node.alive && !node.grpc_addr.is_empty() && role.is_none_or(|role| node.role == role.as_str()));
    nodes.sort_by_key(|node| (!node.leading, node.state != "ready"));
    nodes
}

/// Whether another node may know better: this one is away, or does not lead.
fn passes_on(status: &Status) -> bool {
    let not_mine = status.code() == Code::FailedPrecondition && grpc::error_code(status).is_none();
    not_mine || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// What a node said, as an error for people.
pub fn refusal(status: &Status) -> anyhow::Error {
    if status.code() == Code::Unauthenticated {
        return anyhow::anyhow!("{}; set cluster.key to the one the nodes were started with", status.message());
    }
    match grpc::error_code(status) {
        Some(code) => anyhow::anyhow!("{} ({code})", status.message()),
        None => anyhow::anyhow!("{} ({:?})", status.message(), status.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_id: &str, role: &str, state: &str, alive: bool, leading: bool) -> Node {
        Node {
            node_id: node_id.into(),
            role: role.into(),
            state: state.into(),
            grpc_addr: "127.0.0.1:1".into(),
            alive,
            leading,
            ..Node::default()
        }
    }

    #[test]
    fn the_leader_is_asked_first_and_the_dead_never() {
        let nodes = vec![
            node("a", "matchmaker", "draining", true, false),
            node("b", "matchmaker", "ready", true, false),
            node("c", "matchmaker", "ready", false, true),
            node("d", "matchmaker", "ready", true, true),
            node("e", "gateway", "ready", true, false),
        ];
        let asked = |role| -> Vec<String> { candidates(nodes.clone(), role).into_iter().map(|n| n.node_id).collect() };
        assert_eq!(asked(Some(Role::Matchmaker)), ["d", "b", "a"]);
        assert_eq!(asked(None), ["d", "b", "e", "a"]);
        assert!(asked(Some(Role::Social)).is_empty());
    }

    #[test]
    fn a_refusal_that_is_meant_is_not_taken_elsewhere() {
        use asobi_proto::error::ErrorCode;
        assert!(passes_on(&Status::failed_precondition("this replica does not lead")));
        assert!(passes_on(&Status::unavailable("gone")));
        let meant = grpc::status(ErrorCode::INVALID_PAYLOAD, "match_size is no number");
        assert!(!passes_on(&meant));
        let said = refusal(&meant).to_string();
        assert!(said.starts_with("match_size is no number ("), "{said}");
    }
}
