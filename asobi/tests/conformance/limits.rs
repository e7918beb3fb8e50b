//! What takes counting or a clock.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    case::Act,
    run::wrong_with,
    stage::Stage,
    support::{Client, PATIENCE, cluster::Process, rest::Account},
};

pub fn check(failures: &mut Vec<String>, name: &str, outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        failures.push(format!("{name}\n    {error:#}"));
    }
}

pub async fn run(stage: &mut Stage, failures: &mut Vec<String>) {
    let register = json!({"username": "x"});
    check(failures, "registrations are limited", limited(stage, "POST /api/v1/auth/register", register).await);
    check(failures, "log-ins are limited", limited(stage, "POST /api/v1/auth/refresh", json!({})).await);
    check(failures, "joins are limited", joins(stage).await);
    check(failures, "channels are limited", channels(stage).await);
    check(failures, "a body without a length is a body", chunked(stage).await);
}

/// Opens a socket at once and sees it closed while other cases are played.
pub fn a_socket_without_a_session(gateway: &Process) -> JoinHandle<anyhow::Result<()>> {
    let (ws, base) = (gateway.ws.clone().unwrap_or_default(), gateway.http.clone().unwrap_or_default());
    tokio::spawn(async move {
        let nobody = Account {
            http: reqwest::Client::new(),
            base,
            player_id: String::new(),
            username: String::new(),
            access_token: String::new(),
            refresh_token: String::new(),
        };
        let mut socket = Client::open(&ws, nobody).await?;
        let closing = timeout(PATIENCE, socket.closing()).await.context("it stays open")??;
        ensure!(closing == (1008, "idle_auth_timeout".into()), "it closed with {closing:?}");
        Ok(())
    })
}

async fn limited(stage: &mut Stage, rest: &str, body: Value) -> anyhow::Result<()> {
    let address = stage.address();
    let act = |status, error: &str| Act {
        rest: Some(rest.to_owned()),
        body: Some(body.clone()),
        status: Some(status),
        error: Some(error.to_owned()),
        ..Act::default()
    };
    let mut refused = act(429, "rate_limited");
    refused.details = Some(json!({"retry_after": 1}));
    refused.also.insert("retry_after".into(), json!(1));
    refused.headers.insert("retry-after".into(), "1".into());
    refused.headers.insert("x-ratelimit-remaining".into(), "0".into());
    refused.headers.insert("x-ratelimit-reset".into(), String::new());
    let mut served = act(400, "missing_field");
    served.headers.insert("x-ratelimit-remaining".into(), String::new());
    for n in 0..200 {
        let answer = stage.request_from(&served, &address).await?;
        let expected = if answer.status == 429 { &refused } else { &served };
        let wrong = wrong_with(expected, &answer);
        ensure!(wrong.is_empty(), "{}\n    got {} {}", wrong.join(", "), answer.status, answer.text);
        if answer.status == 429 {
            ensure!(n >= 3, "the first {n} requests were too many");
            // Whoever is elsewhere is not concerned.
            ensure!(stage.request(&served).await?.status == 400, "another address is refused, too");
            return Ok(());
        }
    }
    anyhow::bail!("200 requests were not too many")
}

async fn joins(stage: &mut Stage) -> anyhow::Result<()> {
    let mut client = stage.take("eager").await?;
    for n in 0..12 {
        let answer = client.ask("match.find_or_create", json!({"mode": "gate"})).await?;
        let (reason, code) =
            if n < 10 { ("join_refused", "match.join_refused") } else { ("join_rate_limited", "join_rate_limited") };
        let payload = &answer["payload"];
        ensure!(payload["reason"] == reason && payload["error"]["code"] == code, "join {n} got {answer}");
    }
    Ok(())
}

async fn channels(stage: &mut Stage) -> anyhow::Result<()> {
    let mut client = stage.take("curious").await?;
    for n in 0..32 {
        client.call("chat.join", json!({"channel_id": format!("global:c{n}")})).await?;
    }
    let answer = client.ask("chat.join", json!({"channel_id": "global:c32"})).await?;
    let payload = &answer["payload"];
    ensure!(
        payload["reason"] == "too_many_channels" && payload["error"]["code"] == "chat.too_many_channels",
        "the 33rd got {answer}"
    );
    client.call("chat.leave", json!({"channel_id": "global:c0"})).await?;
    client.call("chat.join", json!({"channel_id": "global:c32"})).await?;
    Ok(())
}

/// The first release's server failed here; a body that comes in chunks is as good as any.
async fn chunked(stage: &mut Stage) -> anyhow::Result<()> {
    let name = stage.player("alice").await?.username;
    let body = json!({"username": name, "password": "secret123"}).to_string();
    let (first, second) = body.split_at(7);
    let address = stage.address();
    let host = stage.base.trim_start_matches("http://").to_owned();
    let request = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nx-forwarded-for: \
         {address}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    let mut stream = TcpStream::connect(&host).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("access_token"), "got {answer}");
    Ok(())
}
