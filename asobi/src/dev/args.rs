use std::path::PathBuf;

/// Run a whole cluster on this machine: PostgreSQL, gateways, match hosts, matchmakers, social services
///
/// Each is a process of its own. Gateway i serves players on port+i, match host i on port+100+i; with --port 0 they take
/// free ports. Other addresses are printed when all are ready, and written to --ready-file. Ctrl-C drains everything.
///
/// For development these keys have other defaults: auth.guest, page.enabled, match.dev_errors and match.reload are true,
/// chat.global_channels is lobby and c0 to c99. Players connect to 127.0.0.1; --set http.listen=0.0.0.0:0 opens it to
/// the network.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// How many gateways
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub gateways: u16,
    /// How many match hosts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=100))]
    pub match_hosts: u16,
    /// How many matchmakers; one leads, the others stand by
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=100))]
    pub matchmakers: u16,
    /// How many social services
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=100))]
    pub social_services: u16,
    /// The folder of the games [default: games]
    #[arg(long, value_name = "DIR")]
    pub games: Option<PathBuf>,
    /// The first gateway's port; 0 takes free ones for all
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Where the own PostgreSQL keeps its data
    #[arg(long, value_name = "DIR", default_value = ".asobi")]
    pub data_dir: PathBuf,
    /// Use this database instead of an own PostgreSQL
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Begin with an empty database
    #[arg(long, conflicts_with = "database_url")]
    pub fresh: bool,
    /// Leave a process that died dead, and the others running
    #[arg(long)]
    pub no_restart: bool,
    /// Write the addresses to this file, as JSON, when all are ready and whenever they change
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Set a configuration key of all processes; may be repeated. Lists are separated by commas
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Set a configuration key of one node alone, over everything else; may be repeated. To see what a node with its own
    /// way to the database does, say, or one with another region
    #[arg(long, value_name = "NODE:KEY=VALUE")]
    pub set_node: Vec<String>,
    /// A configuration file in TOML for all processes [env: ASOBI_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Drain when standard input ends. Whoever started this cluster holds the other end, so that it does not outlive them
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}
