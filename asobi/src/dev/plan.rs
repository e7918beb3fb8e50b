//! What is to run: the nodes with their names, ports and arguments, from the flags and the configuration.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, ToSocketAddrs as _},
    path::PathBuf,
    time::Duration,
};

use asobi_service_kit::config::{self, Config, ConfigArgs, ConfigErrors, Mistake, Source};
use tokio::time::{Instant, sleep};

use super::args::DevArgs;

/// Match hosts count from here.
const MATCH_PORTS: u16 = 100;
const LOOPBACK: &str = "127.0.0.1";
const LOOK: Duration = Duration::from_millis(100);

/// The kinds of nodes, in the order in which they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Gateway,
    MatchHost,
    Matchmaker,
    Social,
}

impl Kind {
    /// The subcommand that runs one.
    pub fn command(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::MatchHost => "match-service",
            Self::Matchmaker => "matchmaker",
            Self::Social => "social-service",
        }
    }

    /// What node ids begin with.
    fn stem(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::MatchHost => "match",
            Self::Matchmaker => "matchmaker",
            Self::Social => "social",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::MatchHost => "match host",
            Self::Matchmaker => "matchmaker",
            Self::Social => "social service",
        }
    }
}

/// One process to run.
#[derive(Debug, Clone)]
pub struct Planned {
    pub kind: Kind,
    pub node_id: String,
    /// Where it serves players, if it does; port 0 for a free one.
    pub http: Option<SocketAddr>,
}

/// All of it, checked.
#[derive(Debug)]
pub struct Plan {
    pub nodes: Vec<Planned>,
    /// The configuration as every child will find it, but for what is each node's own.
    pub config: Config,
    presets: Vec<String>,
    sets: Vec<String>,
    /// What one node alone has, by its id.
    node_sets: BTreeMap<String, Vec<String>>,
    config_file: Option<PathBuf>,
    /// The database that was named, where the cluster shall not have its own.
    pub external: Option<String>,
}

impl Plan {
    /// # Errors
    /// All mistakes of the configuration, and a folder of games that is none.
    pub fn make(args: &DevArgs) -> Result<Self, ConfigErrors> {
        let mut plan_args = ConfigArgs {
            config: args.config.clone(),
            defaults: presets(),
            set: args.set.clone(),
            ..ConfigArgs::default()
        };
        if let Some(games) = &args.games {
            plan_args.set.insert(0, format!("match.games={}", games.display()));
        }
        plan_args.database_url.clone_from(&args.database_url);
        let loaded = config::load(&plan_args);
        let games = games(args, loaded.as_ref().ok());
        let host = loaded.as_ref().map_or_else(|_| LOOPBACK.to_owned(), players_host);
        let nodes = nodes(args, &host);
        // What a node alone has is judged over a configuration that is right so far.
        let node_sets = match (&loaded, &nodes) {
            (Ok(_), Ok(nodes)) => node_sets(args, &plan_args, nodes),
            _ => Ok(BTreeMap::new()),
        };
        let (config, games, nodes, node_sets) = match (loaded, games, nodes, node_sets) {
            (Ok(config), Ok(games), Ok(nodes), Ok(node_sets)) => (config, games, nodes, node_sets),
            (loaded, games, nodes, node_sets) => {
                let mut mistakes = loaded.err().map_or_else(Vec::new, |errors| errors.0);
                mistakes.extend(games.err());
                mistakes.extend(nodes.err());
                mistakes.extend(node_sets.err().into_iter().flatten());
                return Err(ConfigErrors(mistakes));
            }
        };
        let external = chosen(&config, "database.url").then(|| config.database.url.expose().to_owned());
        // Children have the supervisor's working directory, but their error messages should not depend on it.
        plan_args.set.push(format!("match.games={}", games.display()));
        let ConfigArgs { defaults: presets, set: sets, config: config_file, .. } = plan_args;
        Ok(Self { nodes, config, presets, sets, node_sets, config_file, external })
    }

    /// The arguments that start a node.
    pub fn arguments(&self, node: &Planned, database_url: &str) -> Vec<String> {
        let mut arguments = vec![node.kind.command().to_owned(), "--exit-with-stdin".to_owned()];
        let mut push = |flag: &str, value: &str| arguments.extend([flag.to_owned(), value.to_owned()]);
        if let Some(file) = &self.config_file {
            push("--config", &file.display().to_string());
        }
        self.presets.iter().for_each(|preset| push("--default", preset));
        let mut set = |set: &str| push("--set", set);
        self.sets.iter().for_each(|all| set(all));
        set(&format!("node.id={}", node.node_id));
        set(&format!("database.url={database_url}"));
        if self.external.is_none() {
            set("database.direct_url=");
            set("database.replica_url=");
            set("database.bus_url=");
        }
        // Ports of several processes on one machine cannot come from one configuration.
        set("grpc.listen=127.0.0.1:0");
        set("metrics.listen=127.0.0.1:0");
        if let Some(http) = node.http {
            set(&format!("http.listen={http}"));
        }
        // The last word. No flag of a key's own may follow or come before: flags win over all of these.
        self.node_sets.get(&node.node_id).into_iter().flatten().for_each(|own| set(own));
        arguments
    }

    /// Makes sure that the players' ports are free, waiting for those of a predecessor that is just ending.
    ///
    /// # Errors
    /// Names all ports that are taken.
    pub async fn check_ports(&self, patience: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        loop {
            let taken: Vec<String> = self
                .nodes
                .iter()
                .filter_map(|node| Some((node, node.http.filter(|http| http.port() != 0)?)))
                .filter_map(|(node, http)| {
                    let error = TcpListener::bind(http).err()?;
                    Some(format!("  {http} for {}: {error}", node.node_id))
                })
                .collect();
            if taken.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                anyhow::bail!("these addresses cannot be used; choose others with --port:\n{}", taken.join("\n"));
            }
            sleep(LOOK).await;
        }
    }
}

/// What development has other defaults for.
fn presets() -> Vec<String> {
    let channels: Vec<String> = std::iter::once("lobby".to_owned()).chain((0..100).map(|n| format!("c{n}"))).collect();
    vec![
        "auth.guest=true".to_owned(),
        "page.enabled=true".to_owned(),
        "match.dev_errors=true".to_owned(),
        "match.reload=true".to_owned(),
        // Nothing is in front of it.
        "shutdown.ready_delay_ms=0".to_owned(),
        "log.format=pretty".to_owned(),
        format!("chat.global_channels={}", channels.join(",")),
    ]
}

fn nodes(args: &DevArgs, host: &str) -> Result<Vec<Planned>, Mistake> {
    let address = |offset: u16| {
        let port = if args.port == 0 { Some(0) } else { args.port.checked_add(offset) };
        let port = port.ok_or_else(|| Mistake {
            key: args.port.to_string(),
            source: Source::Flag("--port"),
            problem: "is too high for that many nodes; expected a port with room for them above it".to_owned(),
        })?;
        let found = (host, port).to_socket_addrs().map_err(|error| error.to_string());
        found.and_then(|mut found| found.next().ok_or_else(|| "it has none".to_owned())).map_err(|problem| Mistake {
            key: "http.listen".to_owned(),
            source: Source::Set,
            problem: format!("{host} has no address: {problem}; expected host:port"),
        })
    };
    let mut nodes = Vec::new();
    for (kind, count, ports) in [
        (Kind::Gateway, args.gateways, Some(0)),
        (Kind::MatchHost, args.match_hosts, Some(MATCH_PORTS)),
        (Kind::Matchmaker, args.matchmakers, None),
        (Kind::Social, args.social_services, None),
    ] {
        for number in 0..count {
            let http = ports.map(|first| address(first + number)).transpose()?;
            nodes.push(Planned { kind, node_id: format!("{}-{number}", kind.stem()), http });
        }
    }
    Ok(nodes)
}

/// What `--set-node` says, by node, each found right over what all of them have.
fn node_sets(
    args: &DevArgs,
    all: &ConfigArgs,
    nodes: &[Planned],
) -> Result<BTreeMap<String, Vec<String>>, Vec<Mistake>> {
    let (mut sets, mut mistakes) = (BTreeMap::<String, Vec<String>>::new(), Vec::new());
    for given in &args.set_node {
        let mut wrong = |problem: String| {
            mistakes.push(Mistake { key: given.clone(), source: Source::Flag("--set-node"), problem });
        };
        match given.split_once(':') {
            None => wrong("names no node; expected node:key=value".to_owned()),
            Some((id, _)) if nodes.iter().all(|node| node.node_id != id) => {
                let ids: Vec<&str> = nodes.iter().map(|node| node.node_id.as_str()).collect();
                wrong(format!("is for {id:?}, which is none of {}", ids.join(", ")));
            }
            Some((id, set)) => sets.entry(id.to_owned()).or_default().push(set.to_owned()),
        }
    }
    for own in sets.values() {
        let mut with_own = all.clone();
        // A named flag would win over them.
        with_own.set.extend(with_own.database_url.take().map(|url| format!("database.url={url}")));
        with_own.set.extend(own.iter().cloned());
        mistakes.extend(config::load(&with_own).err().map_or_else(Vec::new, |errors| errors.0));
    }
    if mistakes.is_empty() { Ok(sets) } else { Err(mistakes) }
}

/// The folder of the games, absolute. Also checked where the configuration has other mistakes, if it is known.
fn games(args: &DevArgs, config: Option<&Config>) -> Result<PathBuf, Mistake> {
    let games = args.games.clone().or_else(|| Some(config?.matches.games.clone())).unwrap_or_default();
    if args.match_hosts == 0 || games.as_os_str().is_empty() {
        return Ok(games);
    }
    let found = games.canonicalize().map_err(|error| error.to_string());
    found.and_then(|dir| if dir.is_dir() { Ok(dir) } else { Err("no folder".to_owned()) }).map_err(|problem| Mistake {
        key: "match.games".to_owned(),
        source: if args.games.is_some() { Source::Flag("--games") } else { Source::Default },
        problem: format!("{:?} is wrong ({problem}); expected a folder of games (--games DIR)", games.display()),
    })
}

/// Whether somebody has said what a key shall be.
fn chosen(config: &Config, key: &str) -> bool {
    let value = config.provenance.values().iter().find(|value| value.key == key);
    value.is_some_and(|value| !matches!(value.source, Source::Default | Source::Preset))
}

/// Where players connect to: only this machine, unless somebody said otherwise.
fn players_host(config: &Config) -> String {
    if chosen(config, "http.listen") { host_of(&config.http.listen) } else { LOOPBACK.to_owned() }
}

/// The host of a listen address, whose form was checked with the configuration.
fn host_of(listen: &str) -> String {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    host.trim_matches(['[', ']']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: DevArgs,
    }

    fn plan(extra: &[&str]) -> Result<Plan, ConfigErrors> {
        let line = ["dev"].into_iter().chain(extra.iter().copied());
        let mut args = Line::parse_from(line).args;
        args.games.get_or_insert_with(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        Plan::make(&args)
    }

    #[test]
    fn ports_and_names_follow_the_contract() {
        let plan = plan(&["--port", "9000"]).unwrap();
        let nodes: Vec<(String, Option<u16>)> =
            plan.nodes.iter().map(|node| (node.node_id.clone(), node.http.map(|http| http.port()))).collect();
        let expected = [
            ("gateway-0", Some(9000)),
            ("gateway-1", Some(9001)),
            ("match-0", Some(9100)),
            ("match-1", Some(9101)),
            ("matchmaker-0", None),
            ("matchmaker-1", None),
            ("social-0", None),
        ];
        assert_eq!(nodes, expected.map(|(name, port)| (name.to_owned(), port)));
        assert!(plan.external.is_none());
    }

    #[test]
    fn development_has_its_own_defaults_and_set_wins() {
        let config = plan(&[]).unwrap().config;
        assert!(config.auth.guest && config.page.enabled && config.matches.dev_errors);
        assert_eq!(config.chat.global_channels.len(), 101);
        assert!(!plan(&["--set", "auth.guest=false"]).unwrap().config.auth.guest);
    }

    #[test]
    fn mistakes_are_found_before_anything_starts() {
        let sets = ["--set", "auth.gest=1", "--set", "chat.batch=0"];
        let wrong = plan(&[&sets[..], &["--games", "/nonexistent", "--port", "65500"]].concat()).unwrap_err();
        assert_eq!(wrong.0.len(), 4, "{wrong}");
        let wrong = plan(&["--games", "/nonexistent"]).unwrap_err().to_string();
        assert!(wrong.contains("match.games (--games): \"/nonexistent\""), "{wrong}");
        assert!(plan(&["--port", "65500"]).is_err());
        assert!(plan(&["--port", "0"]).is_ok());
    }

    #[test]
    fn a_database_can_be_named_in_every_way() {
        let url = "postgres://h/d";
        assert_eq!(plan(&["--database-url", url]).unwrap().external.as_deref(), Some(url));
        assert_eq!(plan(&["--set", "database.url=postgres://h/d"]).unwrap().external.as_deref(), Some(url));
    }

    #[test]
    fn one_node_alone_can_have_its_own_values() {
        let own = ["--set-node", "gateway-1:database.url=postgres://elsewhere/d?a=b"];
        let plan =
            plan(&[&own[..], &["--set", "node.region=eu", "--set-node", "gateway-1:node.region=us"]].concat()).unwrap();
        let [first, second] = [0, 1].map(|i| plan.arguments(&plan.nodes[i], "postgres://h/d"));
        let last = |arguments: &[String], key: &str| {
            arguments.iter().rev().find_map(|a| a.strip_prefix(&format!("{key}="))).unwrap().to_owned()
        };
        assert_eq!((last(&first, "database.url"), last(&first, "node.region")), ("postgres://h/d".into(), "eu".into()));
        assert_eq!(last(&second, "database.url"), "postgres://elsewhere/d?a=b");
        assert_eq!(last(&second, "node.region"), "us");
    }

    #[test]
    fn what_no_node_can_have_is_a_mistake() {
        let wrong = plan(&["--set-node", "gateway-7:log.filter=warn", "--set-node", "log.filter=warn"]).unwrap_err();
        assert_eq!(wrong.0.len(), 2, "{wrong}");
        let wrong = plan(&["--set-node", "match-0:chat.batch=0"]).unwrap_err().to_string();
        assert!(wrong.contains("chat.batch"), "{wrong}");
    }

    #[tokio::test]
    async fn taken_ports_are_all_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = plan(&["--port", &port.to_string()]).unwrap();
        let error = plan.check_ports(Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.1:{port} for gateway-0")), "{error}");
    }
}
