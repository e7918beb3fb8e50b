//! The WebSocket side of a player: calls that wait for their reply, pushes that are waited for by type.

use std::collections::VecDeque;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::{PATIENCE, rest::Account, schema};

/// How a client that follows its match says where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the url as it is.
    Url,
    /// By the cookie alone, as if the url had no parameter.
    Cookie,
}

/// What a socket goes over.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connected player.
pub struct Client {
    pub account: Account,
    socket: WebSocketStream<Box<dyn Wire>>,
    /// Frames that came while something else was waited for, in order.
    held: VecDeque<Value>,
    next_cid: u64,
    /// What `session.connected` said.
    pub connected: Value,
    pub closed: Option<(u16, String)>,
}

impl Client {
    /// Opens a socket and connects the session with the account's access token.
    pub async fn connect(ws: &str, account: Account, capabilities: &[&str]) -> anyhow::Result<Self> {
        let payload = json!({"token": account.access_token, "capabilities": capabilities});
        Self::connect_with(ws, account, payload).await
    }

    /// Opens a socket and connects with a payload of the play's own.
    pub async fn connect_with(ws: &str, account: Account, payload: Value) -> anyhow::Result<Self> {
        Self::open(ws, account).await?.begin(payload).await
    }

    /// Connects the session of a socket that is open.
    pub async fn begin(mut self, payload: Value) -> anyhow::Result<Self> {
        let client = &mut self;
        client.connected = client.call("session.connect", payload).await?;
        Ok(self)
    }

    /// A socket without a session.
    pub async fn open(ws: &str, account: Account) -> anyhow::Result<Self> {
        let authority = ws.trim_start_matches("ws://").split('/').next().unwrap_or_default();
        let tcp = timeout(PATIENCE, TcpStream::connect(authority)).await?;
        Self::open_over(tcp.with_context(|| format!("nobody listens at {ws}"))?, ws, account).await
    }

    /// A socket without a session, over a connection of the play's own.
    pub async fn open_over(wire: impl Wire + 'static, ws: &str, account: Account) -> anyhow::Result<Self> {
        let opening = client_async(ws, Box::new(wire) as Box<dyn Wire>);
        let (socket, _) = timeout(PATIENCE, opening).await?.with_context(|| format!("no WebSocket at {ws}"))?;
        Ok(Self { account, socket, held: VecDeque::new(), next_cid: 1, connected: Value::Null, closed: None })
    }

    pub fn id(&self) -> &str {
        &self.account.player_id
    }

    /// Follows a `match.migrate`: closes this socket and connects to its url with its token alone.
    pub async fn migrate(mut self, offer: &Value, capabilities: &[&str]) -> anyhow::Result<Self> {
        let (url, token) = (offer["url"].as_str().context("url")?, offer["token"].as_str().context("token")?);
        self.close().await;
        let payload = json!({"migration_token": token, "capabilities": capabilities});
        Self::connect_with(url, self.account, payload).await
    }

    /// As [`Self::migrate`], for a client that reaches every host name of the offer's url at one address, and sends its
    /// cookie or does not.
    pub async fn migrate_through(mut self, address: &str, offer: &Value, way: Way) -> anyhow::Result<Self> {
        let (mut url, token) = (offer["url"].as_str().context("url")?, &offer["token"]);
        if way == Way::Cookie {
            url = url.split_once('?').map_or(url, |(bare, _)| bare);
        }
        let mut request = url.into_client_request()?;
        if way == Way::Cookie {
            let cookie = offer["affinity"]["cookie"].as_str().context("cookie")?;
            request.headers_mut().insert("cookie", cookie.parse()?);
        }
        self.close().await;
        let wire: Box<dyn Wire> = Box::new(timeout(PATIENCE, TcpStream::connect(address)).await??);
        let (socket, _) = timeout(PATIENCE, client_async(request, wire)).await??;
        let mut client = Self { socket, held: VecDeque::new(), closed: None, ..self };
        client.connected = client.call("session.connect", json!({"migration_token": token})).await?;
        Ok(client)
    }

    pub async fn close(&mut self) {
        let _ = timeout(PATIENCE, self.socket.close(None)).await;
    }

    /// Sends a frame without a `cid`.
    pub async fn send(&mut self, kind: &str, payload: Value) -> anyhow::Result<()> {
        self.send_text(json!({"type": kind, "payload": payload}).to_string()).await
    }

    pub async fn send_text(&mut self, text: String) -> anyhow::Result<()> {
        Ok(timeout(PATIENCE, self.socket.send(Message::text(text))).await??)
    }

    pub async fn send_binary(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        Ok(timeout(PATIENCE, self.socket.send(Message::binary(bytes))).await??)
    }

    /// Sends a frame with a `cid` and answers the whole frame that came back with it.
    pub async fn ask(&mut self, kind: &str, payload: Value) -> anyhow::Result<Value> {
        let cid = format!("t{}", self.next_cid);
        self.next_cid += 1;
        self.send_text(json!({"type": kind, "cid": cid, "payload": payload}).to_string()).await?;
        let answer = self.wait(&format!("the reply to {kind}"), |frame| frame["cid"] == cid.as_str()).await?;
        schema::check_answer(kind, &answer)?;
        Ok(answer)
    }

    /// The payload of the reply; an error frame fails the play.
    pub async fn call(&mut self, kind: &str, payload: Value) -> anyhow::Result<Value> {
        let mut frame = self.ask(kind, payload).await?;
        if frame["type"] == "error" {
            bail!("{kind} was refused: {frame}");
        }
        Ok(frame["payload"].take())
    }

    /// The reason of the refusal that this frame must get.
    pub async fn refused(&mut self, kind: &str, payload: Value) -> anyhow::Result<String> {
        let frame = self.ask(kind, payload).await?;
        match frame["payload"]["reason"].as_str() {
            Some(reason) if frame["type"] == "error" => Ok(reason.to_owned()),
            _ => bail!("{kind} was not refused: {frame}"),
        }
    }

    /// The payload of the next push of that type.
    pub async fn push(&mut self, kind: &str) -> anyhow::Result<Value> {
        self.push_where(kind, |_| true).await
    }

    /// The payload of the next push of that type that the play is looking for.
    pub async fn push_where(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut frame =
            self.wait(kind, |f| f["type"] == kind && f.get("cid").is_none() && wanted(&f["payload"])).await?;
        Ok(frame["payload"].take())
    }

    /// The content of the next `n` chat messages, as they came.
    pub async fn chat(&mut self, n: usize) -> anyhow::Result<Vec<Value>> {
        let mut messages = Vec::with_capacity(n);
        for _ in 0..n {
            messages.push(self.push("chat.message").await?);
        }
        Ok(messages)
    }

    /// Waits until the server closes; answers code and reason.
    pub async fn closing(&mut self) -> anyhow::Result<(u16, String)> {
        while self.closed.is_none() {
            if let Some(frame) = self.receive().await? {
                self.held.push_back(frame);
            }
        }
        self.closed.clone().context("closed")
    }

    /// The first frame held or received that is wanted; others are held. States are not held in numbers: only the last
    /// few matter.
    pub async fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        if let Some(found) = self.held.iter().position(&wanted) {
            return self.held.remove(found).context("held");
        }
        let searching = async {
            loop {
                match self.receive().await? {
                    Some(frame) if wanted(&frame) => return Ok(frame),
                    Some(frame) => self.held.push_back(frame),
                    None => bail!("the socket closed ({:?}) while {what} was waited for", self.closed),
                }
            }
        };
        match timeout(PATIENCE, searching).await {
            Ok(found) => found,
            Err(_) => {
                let last: Vec<String> = self.held.iter().rev().take(5).map(Value::to_string).collect();
                bail!("{what} did not come; the last frames were {last:?}")
            }
        }
    }

    /// The next frame, of any kind; none when the socket has closed. It waits as long as it takes, and may be given up
    /// without losing anything.
    pub async fn frame(&mut self) -> anyhow::Result<Option<Value>> {
        match self.held.pop_front() {
            Some(frame) => Ok(Some(frame)),
            None => self.receive().await,
        }
    }

    /// Forgets what was held: the play is interested in what comes from now on.
    pub fn forget(&mut self) {
        self.held.clear();
    }

    async fn receive(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame = serde_json::from_str(&text)?;
                    schema::check(&frame)?;
                    return Ok(Some(frame));
                }
                Some(Ok(Message::Close(frame))) => {
                    self.closed = Some(frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string())));
                    return Ok(None);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.closed.get_or_insert((1006, String::new()));
                    return Ok(None);
                }
            }
        }
    }
}
