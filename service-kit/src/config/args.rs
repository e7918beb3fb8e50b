use std::path::PathBuf;

/// The flags that every process has. Flattened into each command's own arguments.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// A configuration file in TOML; `asobi config` prints one with all keys and their defaults [env: ASOBI_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Set one configuration key; may be repeated. Lists are separated by commas
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,

    /// Like --set, but under all other layers: what a supervisor gives its children as defaults.
    #[arg(long = "default", value_name = "KEY=VALUE", hide = true)]
    pub defaults: Vec<String>,

    /// This node's name in the cluster (node.id)
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,

    /// The PostgreSQL database of the cluster (database.url)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,

    /// Where players connect (http.listen)
    #[arg(long, value_name = "HOST:PORT")]
    pub http_listen: Option<String>,

    /// Where other processes of the cluster connect (grpc.listen)
    #[arg(long, value_name = "HOST:PORT")]
    pub grpc_listen: Option<String>,

    /// Where /metrics, /live and /ready are served (metrics.listen)
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_listen: Option<String>,

    /// Start nothing: ask the process that runs with this configuration whether it is alive, and exit with 0 or 1. For
    /// containers' health checks; needs a fixed port in metrics.listen
    #[arg(long)]
    pub health_check: bool,

    /// Drain when standard input ends. A supervisor holds the other end, so that its children do not outlive it.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

impl ConfigArgs {
    /// The named flags that were given: flag, key, value.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        [
            ("--node-id", "node.id", &self.node_id),
            ("--database-url", "database.url", &self.database_url),
            ("--http-listen", "http.listen", &self.http_listen),
            ("--grpc-listen", "grpc.listen", &self.grpc_listen),
            ("--metrics-listen", "metrics.listen", &self.metrics_listen),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some((flag, key, value.as_deref()?)))
    }
}
