//! A guest with an authenticated socket.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_with_config, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use super::cluster::Target;

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub const DEADLINE: Duration = Duration::from_secs(30);
/// Sign-ins under way at once.
const CONCURRENCY: usize = 16;

/// Opens `count` authenticated sockets, spread over the gateways in turn.
///
/// # Errors
/// With what to change when the cluster refuses guests or limits this address.
pub async fn connect_many(target: &Target, count: usize) -> anyhow::Result<Vec<Socket>> {
    Ok(enter_many(target, count).await?.into_iter().map(|(_, socket)| socket).collect())
}

/// The same, with who is at each.
///
/// # Errors
/// As above.
pub async fn enter_many(target: &Target, count: usize) -> anyhow::Result<Vec<(Guest, Socket)>> {
    descriptors(count)?;
    say!("connecting {count} players over {} gateways …", target.gateways.len());
    let http = reqwest::Client::builder().timeout(DEADLINE).build()?;
    let run = uuid::Uuid::now_v7();
    let mut connecting = stream::iter(0..count)
        .map(|n| {
            let gateway = &target.gateways[n % target.gateways.len()];
            connect(&http, gateway, format!("bench-{run}-{n}"))
        })
        .buffered(CONCURRENCY);
    let mut players = Vec::with_capacity(count);
    while let Some(player) = connecting.next().await {
        players.push(player?);
        if players.len() % 1_000 == 0 {
            say!("  {} of {count}", players.len());
        }
    }
    Ok(players)
}

async fn connect(http: &reqwest::Client, gateway: &str, device_id: String) -> anyhow::Result<(Guest, Socket)> {
    let guest = sign_in(http, gateway, device_id).await?;
    let mut socket = open(&ws(gateway)).await?;
    call(&mut socket, "session.connect", json!({"token": guest.access_token})).await?;
    Ok((guest, socket))
}

/// A heartbeat, until it is answered. False: the connection is lost, or no answer came within the time.
pub async fn heartbeat(socket: &mut Socket, within: Duration) -> bool {
    let answered = async {
        socket.send(Message::text(r#"{"type":"session.heartbeat","payload":{}}"#)).await.ok()?;
        loop {
            if let Message::Text(text) = socket.next().await?.ok()?
                && text.contains("session.heartbeat")
            {
                return Some(());
            }
        }
    };
    tokio::time::timeout(within, answered).await.is_ok_and(|answer| answer.is_some())
}

/// A guest's account.
#[derive(Debug, Clone)]
pub struct Guest {
    pub player_id: String,
    pub access_token: String,
}

/// Signs a guest in.
///
/// # Errors
/// With what to change when the cluster refuses guests or limits this address.
pub async fn sign_in(http: &reqwest::Client, gateway: &str, device_id: String) -> anyhow::Result<Guest> {
    // 32 bytes of nothing secret, in base64.
    let secret = "YmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggISE=";
    let body = json!({"device_id": device_id, "device_secret": secret});
    let response = http
        .post(format!("{gateway}/api/v1/auth/guest"))
        .json(&body)
        .send()
        .await
        .with_context(|| format!("{gateway} cannot be reached"))?;
    let status = response.status();
    let answer: Value = response.json().await.unwrap_or_default();
    match status.as_u16() {
        200 => {}
        429 => bail!(
            "{gateway} limits this address: run it with --set limits.auth_per_second=0 --set limits.requests_per_second=0"
        ),
        403 => bail!("{gateway} takes no guests: run it with --set auth.guest=true"),
        _ => bail!("{gateway} answered {status} to a guest's sign-in: {answer}"),
    }
    let text = |key: &str| answer[key].as_str().map(str::to_owned).with_context(|| format!("{gateway} gave no {key}"));
    Ok(Guest { player_id: text("player_id")?, access_token: text("access_token")? })
}

/// Signs so many guests in, for those who connect later: their tokens are warm.
///
/// # Errors
/// With what to change when the cluster refuses guests or limits this address.
pub async fn sign_in_many(target: &Target, count: usize) -> anyhow::Result<Vec<Guest>> {
    say!("signing {count} players in …");
    let http = reqwest::Client::builder().timeout(DEADLINE).build()?;
    let run = uuid::Uuid::now_v7();
    let mut signing = stream::iter(0..count)
        .map(|n| sign_in(&http, &target.gateways[n % target.gateways.len()], format!("bench-{run}-{n}")))
        .buffered(CONCURRENCY);
    let mut guests = Vec::with_capacity(count);
    while let Some(guest) = signing.next().await {
        guests.push(guest?);
        if guests.len() % 1_000 == 0 {
            say!("  {} of {count}", guests.len());
        }
    }
    Ok(guests)
}

/// Makes sure that this process may open so many sockets, raising its soft limit as far as it may.
///
/// # Errors
/// The hard limit is below that.
pub fn descriptors(sockets: usize) -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    /// Beside the sockets.
    const OTHERS: usize = 300;
    let needed = u64::try_from(sockets + OTHERS)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        hard >= needed,
        "{needed} file descriptors are needed here and {hard} allowed: `ulimit -n {needed}`, or several of these against \
         one cluster (--url), each with its part"
    );
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard)?;
    }
    Ok(())
}

/// Raises the soft limit to what is allowed, for whatever the scenario will need.
///
/// # Errors
/// The limit cannot be read.
pub fn raise_descriptors() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit of file descriptors cannot be raised")?;
    }
    Ok(())
}

/// A gateway's WebSocket.
pub fn ws(gateway: &str) -> String {
    format!("{}/ws", gateway.replacen("http", "ws", 1))
}

/// Connections of one loopback address. Each has a range of about 28,000 ports of its own, but Linux gives out every other one first, and looks
/// through all of those for every connection once they are taken: from the 14,000th on a connect takes milliseconds of the kernel's time.
const PER_ADDRESS: u32 = 10_000;

/// Opens a bare socket. To a target on loopback it comes from 127.0.0.1, the next ones from .2 and so on, so that no
/// range of ports ends.
///
/// # Errors
/// When nobody answers there.
pub async fn open(url: &str) -> anyhow::Result<Socket> {
    // The client's buffers are not what is measured; the default takes 128 KiB a socket.
    let config = WebSocketConfig::default().read_buffer_size(4 * 1024).write_buffer_size(4 * 1024);
    let opening = async {
        let Some(target) = loopback(url) else {
            return connect_async_with_config(url, Some(config), true).await.map_err(anyhow::Error::from);
        };
        let opened = OPENED.fetch_add(1, Ordering::Relaxed);
        let from = TcpSocket::new_v4()?;
        // The first range needs nothing: that is how most runs stay, and what a client does.
        if opened >= PER_ADDRESS {
            from.bind(SocketAddr::new(source(opened).into(), 0)).context("no port is left on loopback")?;
        }
        let stream = from.connect(target).await.with_context(|| format!("{target} does not answer"))?;
        stream.set_nodelay(true)?;
        Ok(client_async_with_config(url, MaybeTlsStream::Plain(stream), Some(config)).await?)
    };
    let (socket, _) = tokio::time::timeout(DEADLINE, opening).await??;
    Ok(socket)
}

static OPENED: AtomicU32 = AtomicU32::new(0);

/// Where the connection of this number comes from.
fn source(opened: u32) -> Ipv4Addr {
    let nth = opened / PER_ADDRESS % 250;
    Ipv4Addr::new(127, 0, 0, u8::try_from(nth + 1).unwrap_or(1))
}

fn loopback(url: &str) -> Option<SocketAddr> {
    let address = url.strip_prefix("ws://")?.split('/').next()?.replacen("localhost:", "127.0.0.1:", 1);
    let address: SocketAddr = address.parse().ok()?;
    (address.is_ipv4() && address.ip().is_loopback()).then_some(address)
}

/// The gateway closed the socket, and why.
#[derive(Debug)]
pub struct Closed(pub u16);

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the gateway closed the socket with {}", self.0)
    }
}

impl std::error::Error for Closed {}

/// Sends a request and waits for its reply; anything but the reply is skipped.
///
/// # Errors
/// When the answer is an error, or none comes.
pub async fn call(socket: &mut Socket, kind: &str, payload: Value) -> anyhow::Result<Value> {
    let frame = json!({"type": kind, "cid": "call", "payload": payload}).to_string();
    tokio::time::timeout(DEADLINE, async {
        socket.send(Message::text(frame)).await?;
        loop {
            let message = socket.next().await.context("the gateway closed the socket")??;
            let text = match message {
                Message::Text(text) => text,
                Message::Close(Some(frame)) => bail!(Closed(frame.code.into())),
                _ => continue,
            };
            let mut reply: Value = serde_json::from_str(&text)?;
            if reply["cid"] == "call" {
                ensure!(reply["type"] != "error", "{kind} was refused: {}", reply["payload"]["reason"]);
                return Ok(reply["payload"].take());
            }
        }
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_beyond_a_range_of_ports_come_from_the_next_address() {
        let from = |n| source(n).to_string();
        assert_eq!(
            (from(0), from(9_999), from(10_000), from(25_000)),
            ("127.0.0.1".into(), "127.0.0.1".into(), "127.0.0.2".into(), "127.0.0.3".into())
        );
        assert!(loopback("ws://127.0.0.1:8080/ws").is_some() && loopback("ws://localhost:8080/ws").is_some());
        assert!(loopback("ws://10.0.0.1:8080/ws").is_none() && loopback("wss://127.0.0.1:8080/ws").is_none());
    }

    #[test]
    fn more_sockets_than_are_allowed_are_refused_with_what_to_do() {
        let refusal = descriptors(usize::MAX / 2).unwrap_err().to_string();
        assert!(refusal.contains("ulimit -n"), "{refusal}");
    }
}
