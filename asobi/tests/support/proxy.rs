//! A TCP proxy between a node and PostgreSQL, which does to the node's connections what networks do.
//!
//! ```ignore
//! let cluster = Cluster::new().gateways(2).proxied().start().await?;   // every node through a proxy of its own
//! // or .proxied_nodes(&["matchmaker-0"]): that one alone, the others talk to PostgreSQL directly
//! let proxy = cluster.proxy("gateway-0");
//! proxy.black_hole();             // connections stay open, nothing passes
//! proxy.black_hole_towards(Side::Node);   // statements arrive and commit, their answers do not
//! proxy.heal();                   // what was held back arrives now, late statements among it
//! proxy.heal_by_reset();          // or: the connections that were held up are reset, what they held is lost
//! proxy.cut();                    // FIN for all that is open, and for each new connection until heal()
//! proxy.reset();                  // the same with RST; `reset(); heal();` resets only what is open at that moment
//! proxy.delay(Duration::from_millis(50));  // each way, until heal()
//! for proxy in cluster.proxies() { proxy.black_hole(); }   // the database is away for all nodes
//! ```
//!
//! Faults begin and end when they are called; nothing here waits. The plays' own connection (`cluster.database`) and the
//! supervisor's do not go through a proxy.

use std::{
    collections::VecDeque,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// What one direction holds back at most; past it the sender's own buffers fill, as they do without a proxy.
const HELD_BYTES: usize = 1 << 20;
const CHUNK: usize = 16 << 10;

/// Where bytes are going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Node,
    Database,
}

/// How a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fin,
    Reset,
}

/// What holds for all connections. Kept as a level, not as events, so that a fault that is healed at once has still
/// been there: `ended` says which connections it has met.
#[derive(Debug, Clone, Copy)]
struct Weather {
    to_node: bool,
    to_database: bool,
    delay: Duration,
    /// Connections with a lower number are ended this way.
    ended: (u64, End),
    /// New ones are ended this way.
    refuses: Option<End>,
    /// How many connections there have been.
    opened: u64,
}

impl Weather {
    fn passes(&self, side: Side) -> bool {
        match side {
            Side::Node => self.to_node,
            Side::Database => self.to_database,
        }
    }

    fn end_of(&self, number: u64) -> Option<End> {
        let (below, end) = self.ended;
        (number < below).then_some(end)
    }
}

/// The server behind a proxy.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// At `host:port`.
    At(String),
    /// Where the `postmaster.pid` of a server of this machine says that it listens; it need not be there yet.
    Of(PathBuf),
}

impl Upstream {
    /// # Errors
    /// If the server has not started yet.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Self::At(address) => Ok(address.clone()),
            Self::Of(file) => {
                // The port is the fourth line.
                let text = fs::read_to_string(file)?;
                let port = text.lines().nth(3).ok_or(io::ErrorKind::NotConnected)?;
                Ok(format!("{}:{port}", Ipv4Addr::LOCALHOST))
            }
        }
    }
}

/// The proxy of one node. It ends, with its connections, when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy on a free port, before a server (`host:port`).
    pub async fn start(upstream: String) -> anyhow::Result<Self> {
        Self::before(Upstream::At(upstream)).await
    }

    /// A proxy on a free port, before a server that is looked up for each connection.
    pub async fn before(upstream: Upstream) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (weather, _) = watch::channel(Weather {
            to_node: true,
            to_database: true,
            delay: Duration::ZERO,
            ended: (0, End::Fin),
            refuses: None,
            opened: 0,
        });
        let accepting = tokio::spawn(accept(listener, upstream, weather.clone()));
        Ok(Self { address, weather, accepting })
    }

    /// A database's URL, by way of this proxy.
    pub fn url(&self, database_url: &str) -> anyhow::Result<String> {
        let mut url = reqwest::Url::parse(database_url)?;
        url.set_host(Some("127.0.0.1")).context("a URL with a host")?;
        url.set_port(Some(self.address.port())).ok().context("a URL with a port")?;
        Ok(url.into())
    }

    /// Nothing passes any more, and nobody is told.
    pub fn black_hole(&self) {
        self.weather.send_modify(|w| (w.to_node, w.to_database) = (false, false));
    }

    /// Nothing passes any more in one direction.
    pub fn black_hole_towards(&self, side: Side) {
        self.weather.send_modify(|w| match side {
            Side::Node => w.to_node = false,
            Side::Database => w.to_database = false,
        });
    }

    /// What is sent from now on arrives that much later, in either direction.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|w| w.delay = delay);
    }

    /// Ends all connections, and each new one, in order.
    pub fn cut(&self) {
        self.end(End::Fin);
    }

    /// Resets all connections, and each new one.
    pub fn reset(&self) {
        self.end(End::Reset);
    }

    fn end(&self, end: End) {
        self.weather.send_modify(|w| (w.ended, w.refuses) = ((w.opened, end), Some(end)));
    }

    /// Everything passes; what was held back arrives.
    pub fn heal(&self) {
        self.weather.send_modify(|w| {
            (w.to_node, w.to_database, w.delay, w.refuses) = (true, true, Duration::ZERO, None);
        });
    }

    /// Everything passes, on new connections; those of now are reset and what they held is lost.
    pub fn heal_by_reset(&self) {
        // One change: nothing that is held may slip through between two.
        self.weather.send_modify(|w| {
            (w.to_node, w.to_database, w.delay, w.refuses) = (true, true, Duration::ZERO, None);
            w.ended = (w.opened, End::Reset);
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.weather.send_modify(|w| w.ended = (u64::MAX, End::Reset));
    }
}

/// `host:port` of a database's URL.
pub fn upstream_of(database_url: &str) -> anyhow::Result<String> {
    let url = reqwest::Url::parse(database_url)?;
    Ok(format!("{}:{}", url.host_str().context("a URL with a host")?, url.port().unwrap_or(5432)))
}

async fn accept(listener: TcpListener, upstream: Upstream, weather: watch::Sender<Weather>) {
    loop {
        let Ok((node, _)) = listener.accept().await else { continue };
        let mut number = 0;
        let mut refused = None;
        weather.send_if_modified(|w| {
            (number, refused) = (w.opened, w.refuses);
            w.opened += 1;
            false
        });
        match refused {
            Some(end) => finish(node, end).await,
            None => drop(tokio::spawn(connection(number, node, upstream.clone(), weather.subscribe()))),
        }
    }
}

async fn finish(mut stream: TcpStream, end: End) {
    match end {
        // Before it is closed: closing with unread bytes would reset it.
        End::Fin => drop(stream.shutdown().await),
        End::Reset => drop(stream.set_zero_linger()),
    }
}

async fn connection(number: u64, mut node: TcpStream, upstream: Upstream, weather: watch::Receiver<Weather>) {
    let mut watched = weather.clone();
    let ended = async {
        // The sender lives as long as somebody accepts.
        watched.wait_for(|w| w.end_of(number).is_some()).await.ok()?.end_of(number)
    };
    let mut database = None;
    let carried = async {
        // A node that connects into a black hole hears nothing from the server, not even a refusal.
        let mut open = weather.clone();
        open.wait_for(|w| w.to_database).await.map_err(io::Error::other)?;
        let database = database.insert(TcpStream::connect(upstream.address()?).await?);
        let (node_reads, node_writes) = node.split();
        let (database_reads, database_writes) = database.split();
        tokio::try_join!(
            pump(node_reads, database_writes, Side::Database, weather.clone()),
            pump(database_reads, node_writes, Side::Node, weather.clone()),
        )
    };
    let end = tokio::select! {
        ended = ended => ended.unwrap_or(End::Reset),
        carried = carried => if carried.is_ok() { End::Fin } else { End::Reset },
    };
    for stream in [Some(node), database].into_iter().flatten() {
        finish(stream, end).await;
    }
}

/// Carries one direction: reads on while it must not write, so that a statement that was sent into a black hole arrives
/// after it also when its sender has given up. Returns when the reader has ended and all was delivered.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    side: Side,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut held: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let (mut held_bytes, mut reading) = (0, true);
    let mut chunk = vec![0; CHUNK];
    loop {
        let now = *weather.borrow_and_update();
        let due = held.front().filter(|_| now.passes(side)).map(|(sent, _)| *sent + now.delay);
        if !reading && held.is_empty() && now.passes(side) {
            return to.shutdown().await;
        }
        tokio::select! {
            biased;
            changed = weather.changed() => changed.map_err(io::Error::other)?,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some((_, bytes)) = held.pop_front() {
                    held_bytes -= bytes.len();
                    to.write_all(&bytes).await?;
                }
            }
            read = from.read(&mut chunk), if reading && held_bytes < HELD_BYTES => match read {
                Ok(0) => reading = false,
                Ok(n) => {
                    held_bytes += n;
                    held.push_back((Instant::now(), chunk[..n].to_vec()));
                }
                // Whoever resets its side has still sent what came before.
                Err(_) if !held.is_empty() => reading = false,
                Err(error) => return Err(error),
            },
        }
    }
}
