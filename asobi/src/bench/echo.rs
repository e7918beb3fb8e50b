//! What a heartbeat is compared with: a bare WebSocket server of the same library that sends every text back, in a process
//! of its own.

use std::{
    future::IntoFuture as _,
    process::{ExitCode, Stdio},
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    routing::any,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::{Child, Command},
};

use crate::stdin;

/// As the gateway's sockets have.
const BUFFER: usize = 4 * 1024;

/// Serves until it is killed, or the bench has gone, whose end of standard input goes with it; says its address on standard output first.
///
/// # Errors
/// When no port can be bound.
pub async fn serve() -> anyhow::Result<ExitCode> {
    let app = Router::new().route(
        "/ws",
        any(|ws: WebSocketUpgrade| async move {
            ws.read_buffer_size(BUFFER).write_buffer_size(BUFFER).on_upgrade(send_back)
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ws://{}/ws", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served?,
        () = stdin::ended() => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn send_back(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// The process, killed when it is dropped, and its address.
pub struct Echo {
    pub url: String,
    pub pid: u32,
    /// Keeps its standard input open.
    _process: Child,
}

impl Echo {
    /// # Errors
    /// When it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "echo"]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("the bare echo cannot be started")?;
        let output = process.stdout.take().context("the bare echo says nothing")?;
        let url = BufReader::new(output).lines().next_line().await?.context("the bare echo ended")?;
        let pid = process.id().context("the bare echo ended")?;
        Ok(Self { url, pid, _process: process })
    }
}
