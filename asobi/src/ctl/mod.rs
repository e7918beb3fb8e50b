//! `asobi ctl`: an operator's questions and orders to a running cluster. Who is there and where comes from the database, or from one node
//! (`--addr`); the rest is the gRPC API that every process serves, called with a token or a certificate ([`reach`]).
//!
//! Each subcommand is a module with its arguments and a `run(&args, &Ctl)`; what it prints goes through [`output`].

mod audit;
mod boards;
mod chat;
mod directory;
mod export;
mod given;
mod groups;
mod hosts;
mod key;
mod log;
mod matches;
mod moderation;
mod nodes;
mod notify;
mod one;
pub mod output;
mod players;
mod queue;
mod reach;
mod reports;
mod settings;
mod shown;
mod ticket;
mod token;
mod words;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use asobi_cluster::Role;
use asobi_proto::ops_v1::{ListNodesRequest, Node, ops_service_client::OpsServiceClient};
use asobi_service_kit::{
    config::{self, ConfigArgs, EXIT_CONFIG},
    grpc::{self, Channels, ClusterChannel, with_deadline},
};
use clap::{Args, Subcommand};
use tonic::{Code, Status};

use reach::Reach;

/// Longest wait for one node's answer.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Look at a running cluster and give it orders
#[derive(Debug, Args)]
pub struct CtlArgs {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    flags: Flags,
}

/// How a cluster is reached; `asobi top` has the same.
#[derive(Debug, Args)]
pub struct Flags {
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// The PostgreSQL database of the cluster (database.url) [env: ASOBI_DATABASE_URL]
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// A configuration file, such as the cluster's own [env: ASOBI_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one configuration key, e.g. grpc.tls_name; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A token of `asobi ctl token create`. Without, one for a quarter of an hour is made in the database
    #[arg(long, global = true, value_name = "TOKEN", env = "ASOBI_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The gRPC address of any node, in place of the database
    #[arg(long, global = true, value_name = "HOST:PORT", env = "ASOBI_ADDR")]
    addr: Option<String>,
    /// A client certificate in place of a token, in PEM; with --key and --ca
    #[arg(long, global = true, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, global = true, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The authority of the nodes' certificates, where they speak TLS (grpc.tls_ca)
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who is in the cluster: roles, states, addresses, load, and who leads
    Nodes,
    Matches(matches::MatchesArgs),
    Match(matches::MatchArgs),
    /// Move a running match to another host, live; as `match move`
    Move(matches::MoveArgs),
    /// Take a match host out: its matches move to the others, then it stops
    Drain(hosts::DrainArgs),
    Players(directory::PlayersArgs),
    Notify(notify::NotifyArgs),
    Boards(boards::BoardsArgs),
    Group(groups::GroupArgs),
    Player(players::PlayerArgs),
    Reports(reports::ReportsArgs),
    Words(words::WordsArgs),
    Chat(chat::ChatArgs),
    Config(settings::ConfigArgs),
    Queue(queue::QueueArgs),
    Ticket(ticket::TicketArgs),
    Token(token::TokenArgs),
    Audit(audit::AuditArgs),
    Key(key::KeyArgs),
    Log(log::LogArgs),
}

/// Runs the command. Its exit code is 64 for a wrong configuration and 1 for everything that could not be done.
///
/// # Errors
/// With a sentence that says what to do next.
pub async fn run(args: CtlArgs) -> anyhow::Result<ExitCode> {
    // The registry is read in the database; nobody is called for it.
    let calls = !matches!(args.command, Command::Nodes);
    let ctl = match args.flags.reach(calls).await? {
        Ok(ctl) => ctl,
        Err(wrong) => return Ok(wrong),
    };
    match &args.command {
        Command::Nodes => nodes::run(&ctl).await?,
        Command::Matches(args) => matches::list(args, &ctl).await?,
        Command::Match(args) => matches::run(args, &ctl).await?,
        Command::Move(args) => matches::move_match(args, &ctl).await?,
        Command::Drain(args) => hosts::drain(args, &ctl).await?,
        Command::Players(args) => directory::run(args, &ctl).await?,
        Command::Notify(args) => notify::run(args, &ctl).await?,
        Command::Boards(args) => boards::run(args, &ctl).await?,
        Command::Group(args) => groups::run(args, &ctl).await?,
        Command::Player(args) => players::run(args, &ctl).await?,
        Command::Reports(args) => reports::run(args, &ctl).await?,
        Command::Words(args) => words::run(args, &ctl).await?,
        Command::Chat(args) => chat::run(args, &ctl).await?,
        Command::Config(args) => settings::run(args, &ctl).await?,
        Command::Queue(args) => queue::run(args, &ctl).await?,
        Command::Ticket(args) => ticket::run(args, &ctl).await?,
        Command::Token(args) => token::run(args, &ctl).await?,
        Command::Audit(args) => audit::run(args, &ctl).await?,
        Command::Key(args) => key::run(args, &ctl).await?,
        Command::Log(args) => log::run(args, &ctl).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Flags {
    /// The cluster, or the exit code where the configuration is wrong, which was said. `calls`: whether nodes are called.
    ///
    /// # Errors
    /// With a sentence that says what is missing.
    pub async fn reach(&self, calls: bool) -> anyhow::Result<Result<Ctl, ExitCode>> {
        let layers = ConfigArgs {
            config: self.config.clone(),
            set: self.set.clone(),
            database_url: self.database_url.clone(),
            ..ConfigArgs::default()
        };
        let config = match config::load(&layers) {
            Ok(config) => config,
            Err(errors) => {
                eprintln!("{errors}");
                return Ok(Err(ExitCode::from(EXIT_CONFIG)));
            }
        };
        let (reach, channels) = reach::reach(self, calls, &config).await?;
        Ok(Ok(Ctl { reach, channels, json: self.json }))
    }
}

/// What every subcommand needs.
pub struct Ctl {
    reach: Reach,
    channels: Channels,
    /// Print JSON.
    pub json: bool,
}

impl Ctl {
    /// The registry as it is now, leaders marked, dead nodes included.
    ///
    /// # Errors
    /// When the database does not answer; with `--addr`, that node.
    pub async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        match &self.reach {
            Reach::Database { pool, .. } => {
                asobi_cluster::ops::nodes(pool).await.context("the registry could not be read")
            }
            Reach::Address(addr) => self.nodes_of(addr).await.map_err(|status| refusal(&status)),
        }
    }

    async fn nodes_of(&self, addr: &str) -> Result<Vec<Node>, Status> {
        let mut client = OpsServiceClient::new(self.channels.get(addr));
        let asking = client.list_nodes(with_deadline(ListNodesRequest::default(), DEADLINE));
        let answer = tokio::time::timeout(DEADLINE, asking).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("{addr} does not answer"))))?;
        Ok(answer.into_inner().nodes)
    }

    /// Whom to ask, in this order.
    async fn candidates(&self, role: Option<Role>) -> anyhow::Result<Vec<Node>> {
        let Reach::Address(addr) = &self.reach else { return Ok(candidates(self.nodes().await?, role)) };
        // It may be the only one that can be reached from here, and it is the one that was meant.
        let named = Node { node_id: addr.clone(), grpc_addr: addr.clone(), ..Node::default() };
        match self.nodes_of(addr).await {
            Ok(nodes) if role.is_none() => Ok(std::iter::once(named).chain(candidates(nodes, role)).collect()),
            Ok(nodes) => Ok(candidates(nodes, role)),
            // A token without the scope read is good for other things.
            Err(status) if status.code() == Code::PermissionDenied => Ok(vec![named]),
            Err(status) => Err(refusal(&status).context(format!("{addr} did not say who is in the cluster"))),
        }
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
        let nodes = self.candidates(role).await?;
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
            "no {role} answered ({}); run this where the nodes' gRPC addresses can be reached, with --ca where they speak TLS, and see `asobi ctl nodes`",
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
    // No node has said this: the connection broke, or speaks something else.
    let unsaid = std::error::Error::source(status).is_some();
    not_mine || unsaid || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// What a node said, as an error for people.
pub fn refusal(status: &Status) -> anyhow::Error {
    if status.code() == Code::Unauthenticated {
        let how = "give a token with --token or ASOBI_TOKEN, or leave it out and give the cluster's database";
        return anyhow::anyhow!("{}; {how}", status.message());
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
        assert!(passes_on(&grpc::refusal(grpc::NOT_LEADING, "this replica does not lead")));
        assert!(passes_on(&Status::unavailable("gone")));
        let meant = grpc::status(ErrorCode::INVALID_PAYLOAD, "match_size is no number");
        assert!(!passes_on(&meant));
        let said = refusal(&meant).to_string();
        assert!(said.starts_with("match_size is no number ("), "{said}");
    }
}
