//! A client as an SDK is one: frames out, frames in, replies found by `cid`.

use std::collections::VecDeque;

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::cluster::PATIENCE;

pub struct Client {
    ws: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Frames that came while another was awaited.
    seen: VecDeque<Value>,
    cids: u64,
}

impl Client {
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        Self::open_from(url, None).await
    }

    pub async fn open_from(url: &str, origin: Option<&str>) -> anyhow::Result<Self> {
        let mut request = url.into_client_request()?;
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse()?);
        }
        let (ws, _) = timeout(PATIENCE, connect_async(request)).await??;
        Ok(Self { ws, seen: VecDeque::new(), cids: 0 })
    }

    pub async fn send(&mut self, frame: Value) -> anyhow::Result<()> {
        self.raw(&frame.to_string()).await
    }

    pub async fn raw(&mut self, text: &str) -> anyhow::Result<()> {
        self.message(Message::text(text)).await
    }

    pub async fn message(&mut self, message: Message) -> anyhow::Result<()> {
        Ok(timeout(PATIENCE, self.ws.send(message)).await??)
    }

    /// Sends a request and answers its reply, of whatever type.
    pub async fn ask(&mut self, kind: &str, payload: Value) -> anyhow::Result<Value> {
        self.cids += 1;
        let cid = format!("c{}", self.cids);
        self.send(json!({"type": kind, "cid": cid, "payload": payload})).await?;
        self.wait(|frame| frame["cid"] == cid.as_str()).await.with_context(|| format!("no answer to {kind}"))
    }

    /// The reason of the error that a request is answered with.
    pub async fn refused(&mut self, kind: &str, payload: Value) -> anyhow::Result<String> {
        let frame = self.ask(kind, payload).await?;
        anyhow::ensure!(frame["type"] == "error", "no error but {frame}");
        Ok(frame["payload"]["reason"].as_str().unwrap_or_default().to_owned())
    }

    pub async fn connect(&mut self, token: &str, capabilities: &[&str]) -> anyhow::Result<Value> {
        let reply = self.ask("session.connect", json!({"token": token, "capabilities": capabilities})).await?;
        anyhow::ensure!(reply["type"] == "session.connected", "not connected: {reply}");
        Ok(reply["payload"].clone())
    }

    /// The next frame of a type, from those that came before or will.
    pub async fn expect(&mut self, kind: &str) -> anyhow::Result<Value> {
        self.wait(|frame| frame["type"] == kind).await.with_context(|| format!("no {kind}"))
    }

    pub async fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        if let Some(at) = self.seen.iter().position(&wanted) {
            return self.seen.remove(at).context("it was there");
        }
        loop {
            let frame = self.next().await?.map_err(|(code, reason)| anyhow::anyhow!("closed: {code} {reason}"))?;
            if wanted(&frame) {
                return Ok(frame);
            }
            self.seen.push_back(frame);
        }
    }

    /// The next frame, or the close frame's code and reason.
    pub async fn next(&mut self) -> anyhow::Result<Result<Value, (u16, String)>> {
        loop {
            let message = timeout(PATIENCE, self.ws.next()).await.context("nothing came")?;
            match message.context("the stream ended")?? {
                Message::Text(text) => return Ok(Ok(serde_json::from_str(&text)?)),
                Message::Close(Some(close)) => return Ok(Err((close.code.into(), close.reason.to_string()))),
                Message::Close(None) => return Ok(Err((1005, String::new()))),
                _ => {}
            }
        }
    }

    /// The code and reason of the close that comes, whatever comes before it.
    pub async fn closed(&mut self) -> anyhow::Result<(u16, String)> {
        loop {
            match self.next().await? {
                Ok(frame) => self.seen.push_back(frame),
                Err(close) => return Ok(close),
            }
        }
    }

    /// Everything that has come until a heartbeat is answered, which is sent now.
    pub async fn so_far(&mut self) -> anyhow::Result<Vec<Value>> {
        let beat = self.ask("session.heartbeat", json!({})).await?;
        anyhow::ensure!(beat["type"] == "session.heartbeat");
        Ok(self.seen.drain(..).collect())
    }
}
