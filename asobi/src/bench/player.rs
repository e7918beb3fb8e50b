//! A guest with an authenticated socket.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
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
    eprintln!("connecting {count} players over {} gateways …", target.gateways.len());
    let http = reqwest::Client::builder().timeout(DEADLINE).build()?;
    let run = uuid::Uuid::now_v7();
    let mut connecting = stream::iter(0..count)
        .map(|n| {
            let gateway = &target.gateways[n % target.gateways.len()];
            connect(&http, gateway, format!("bench-{run}-{n}"))
        })
        .buffered(CONCURRENCY);
    let mut sockets = Vec::with_capacity(count);
    while let Some(socket) = connecting.next().await {
        sockets.push(socket?);
        if sockets.len() % 1_000 == 0 {
            eprintln!("  {} of {count}", sockets.len());
        }
    }
    Ok(sockets)
}

async fn connect(http: &reqwest::Client, gateway: &str, device_id: String) -> anyhow::Result<Socket> {
    let guest = sign_in(http, gateway, device_id).await?;
    let mut socket = open(&ws(gateway)).await?;
    call(&mut socket, "session.connect", json!({"token": guest.access_token})).await?;
    Ok(socket)
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
    eprintln!("signing {count} players in …");
    let http = reqwest::Client::builder().timeout(DEADLINE).build()?;
    let run = uuid::Uuid::now_v7();
    let mut signing = stream::iter(0..count)
        .map(|n| sign_in(&http, &target.gateways[n % target.gateways.len()], format!("bench-{run}-{n}")))
        .buffered(CONCURRENCY);
    let mut guests = Vec::with_capacity(count);
    while let Some(guest) = signing.next().await {
        guests.push(guest?);
        if guests.len() % 1_000 == 0 {
            eprintln!("  {} of {count}", guests.len());
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

/// A gateway's WebSocket.
pub fn ws(gateway: &str) -> String {
    format!("{}/ws", gateway.replacen("http", "ws", 1))
}

/// Opens a bare socket.
///
/// # Errors
/// When nobody answers there.
pub async fn open(url: &str) -> anyhow::Result<Socket> {
    // The client's buffers are not what is measured; the default takes 128 KiB a socket.
    let config = WebSocketConfig::default().read_buffer_size(4 * 1024).write_buffer_size(4 * 1024);
    let opening = connect_async_with_config(url, Some(config), true);
    let (socket, _) = tokio::time::timeout(DEADLINE, opening).await??;
    Ok(socket)
}

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
            let Message::Text(text) = message else { continue };
            let mut reply: Value = serde_json::from_str(&text)?;
            if reply["cid"] == "call" {
                ensure!(reply["type"] != "error", "{kind} was refused: {}", reply["payload"]["reason"]);
                return Ok(reply["payload"].take());
            }
        }
    })
    .await?
}
