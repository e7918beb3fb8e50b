//! Behind the real HAProxy, with the configuration of `deploy/haproxy`.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::support::{
    Client, Cluster,
    client::Way,
    haproxy::{Balancer, Ports},
    rest::Account,
    until,
};

/// Of `match-1`, where hosts have names of their own.
const HOST_NAME: &str = "match-1.play.test";

/// One match host is found by cookie and query, the other by its name.
async fn cluster(ports: &Ports) -> anyhow::Result<Cluster> {
    let port = ports.balancer();
    Cluster::new()
        .matchmakers(1)
        .test_games()
        .port(ports.first)
        .set("http.trusted_proxies", "127.0.0.1/32")
        // The one that leaves; in plays nobody else waits.
        .set_node("gateway-0", "shutdown.ready_delay_ms", 2000)
        .set_node("match-0", "migrate.via", "affinity")
        .set_node("match-0", "migrate.url", format!("ws://127.0.0.1:{port}/ws"))
        .set_node("match-1", "http.public_url", format!("http://{HOST_NAME}:{port}"))
        .start()
        .await
}

#[tokio::test]
async fn players_behind_a_balancer_follow_their_match_and_a_gateway_leaves_without_a_failed_request()
-> anyhow::Result<()> {
    let ports = Ports::find()?;
    let mut cluster = cluster(&ports).await?;
    let names = [("match-0", "match-1"), ("match-1", "match-2"), (HOST_NAME, "match-2")];
    let balancer = Balancer::before(&cluster, &ports, &names).await?;
    by_cookie_by_query_and_by_name(&cluster, &balancer).await?;
    a_gateway_is_replaced(&mut cluster, &balancer).await?;
    cluster.stop().await
}

async fn by_cookie_by_query_and_by_name(cluster: &Cluster, balancer: &Balancer) -> anyhow::Result<()> {
    let mut players = Vec::new();
    for name in ["ada", "bo"] {
        let account = Account::register(&cluster.http, &balancer.http(), name).await?;
        let mut player = Client::connect(&balancer.ws(), account, &["migrate"]).await?;
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
        players.push(player);
    }
    let mut match_id = String::new();
    for player in &mut players {
        let matched = player.push("match.matched").await?;
        match_id = matched["match_id"].as_str().context("match_id")?.to_owned();
    }
    for (host, ways) in [("match-0", [Way::Cookie, Way::Url]), ("match-1", [Way::Url, Way::Url])] {
        let sql = "SELECT host_node FROM matches WHERE id::text = $1";
        let at: String = sqlx::query_scalar(sql).bind(&match_id).fetch_one(&cluster.database.pool).await?;
        if at != host {
            cluster.ctl(&["move", &match_id, host]).await?;
        }
        let mut there = Vec::new();
        for (n, (mut player, way)) in players.into_iter().zip(ways).enumerate() {
            let offer = player.push_where("match.migrate", |offer| offer["node_id"] == host).await?;
            let mut player = player.migrate_through(balancer.address(), &offer, way).await?;
            assert_eq!(player.connected["match_id"], match_id.as_str(), "{way:?} to {host}");
            player.send("match.input", json!({"n": n})).await?;
            there.push(player);
        }
        players = there;
        let process = cluster.node(host).context("the host")?;
        until("both are connected to the host itself", async || {
            Ok(cluster.metric(&process, "asobi_session_sockets").await? > 1.5)
        })
        .await?;
    }
    for player in &mut players {
        let id = player.id().to_owned();
        let both = |state: &Value| state["players"][&id]["count"] == 2;
        player.push_where("match.state", both).await?;
    }
    // Whose cookie is of another time is served by any gateway.
    let mut request = cluster.http.get(format!("{}/ws?node=match-9", balancer.http()));
    request = request.header("cookie", "asobi_node=match-8");
    assert_eq!(request.send().await?.status(), 426, "a gateway's answer to what is no WebSocket");
    Ok(())
}

/// While requests and sockets come without a pause, a gateway is stopped and another takes its place.
async fn a_gateway_is_replaced(cluster: &mut Cluster, balancer: &Balancer) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut load = JoinSet::new();
    let friend = Account::register(&cluster.http, &balancer.http(), "friend").await?.player_id;
    for n in 0..4 {
        let account = Account::register(&cluster.http, &balancer.http(), &format!("steady{n}")).await?;
        load.spawn(requests(account.clone(), friend.clone(), stopped.clone()));
        load.spawn(sockets(account, balancer.ws(), stopped.clone()));
    }
    let gateway = cluster.gateway(0);
    let recipe = cluster.recipe(&gateway)?;
    cluster.signal(&gateway, Signal::SIGTERM)?;
    let ready = format!("{}/ready", gateway.http.as_deref().context("http")?);
    until("it says that it goes, and serves", async || Ok(cluster.http.get(&ready).send().await?.status() == 503))
        .await?;
    balancer.has("gateways", "gateway-1", false).await?;
    cluster.gone(&cluster.gateway(0)).await?;
    let new = cluster.start_again(&recipe).await?;
    balancer.has("gateways", "gateway-1", true).await?;
    until("the new one is sent players", async || {
        Ok(cluster.metric(&new, "asobi_session_frames_in_total").await? > 0.0)
    })
    .await?;
    stop.send(true)?;
    let mut served = 0;
    while let Some(done) = load.join_next().await {
        served += done??;
    }
    ensure!(served > 100, "only {served} were served");
    Ok(())
}

/// How many were answered.
async fn requests(account: Account, friend: String, stop: watch::Receiver<bool>) -> anyhow::Result<u32> {
    let mut served = 0;
    while !*stop.borrow() {
        let (status, answer) = account.get(&format!("/players/{}", account.player_id)).await?;
        ensure!(status == 200, "a read was answered {status}: {answer}");
        let message = json!({"recipient_id": friend, "content": format!("note {served}")});
        let (status, answer) = account.post("/dm", message).await?;
        ensure!(status == 200, "a write was answered {status}: {answer}");
        served += 2;
    }
    Ok(served)
}

/// New sockets, one after the other.
async fn sockets(account: Account, ws: String, stop: watch::Receiver<bool>) -> anyhow::Result<u32> {
    let mut served = 0;
    while !*stop.borrow() {
        let mut client = Client::connect(&ws, account.clone(), &[]).await?;
        client.close().await;
        served += 1;
    }
    Ok(served)
}

/// What reached a node: for each path, the heads of the requests.
type Reached = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

#[tokio::test]
async fn a_balancer_says_who_the_client_is_and_repeats_reads_alone() -> anyhow::Result<()> {
    let ports = Ports::find()?;
    let reached = Reached::default();
    let mut nodes = JoinSet::new();
    for n in 0..2 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.first + n)).await?;
        nodes.spawn(node(listener, Arc::clone(&reached)));
    }
    let balancer = Balancer::start(&ports, &[]).await?;
    // On a connection that was used before, HAProxy closes instead of answering 502.
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;

    let lies = http.get(format!("{}/whoami", balancer.http())).header("X-Forwarded-For", "6.6.6.6");
    let lies = lies.header("Forwarded", "for=6.6.6.6").header("X-Forwarded-Proto", "https");
    let head = lies.send().await?.text().await?.to_lowercase();
    assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n") && head.contains("x-forwarded-proto: http\r\n"), "{head}");
    assert!(!head.contains("6.6.6.6") && !head.contains("https"), "{head}");

    // The node closes the connection in the middle: it may have done what it was asked.
    let write = http.post(format!("{}/dies/write", balancer.http())).body("once").send().await?;
    let read = http.get(format!("{}/dies/read", balancer.http())).send().await?;
    assert_eq!((write.status().as_u16(), read.status().as_u16()), (502, 502));
    let metrics = http.get(format!("{}/metrics", balancer.http())).send().await?;
    assert_eq!(metrics.status(), 404, "what is for operators is not for players");
    let reached = reached.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(reached["/dies/write"].len(), 1, "a write is not repeated");
    assert!(reached["/dies/read"].len() > 1, "a read is");
    Ok(())
}

/// Answers with the head of the request, or closes where the path says so.
async fn node(listener: TcpListener, reached: Reached) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream, Arc::clone(&reached)));
    }
}

async fn answer(mut stream: TcpStream, reached: Reached) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "it has gone");
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let dies = path.starts_with("/dies");
    reached.lock().unwrap_or_else(PoisonError::into_inner).entry(path).or_default().push(head.clone());
    if !dies {
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{head}", head.len());
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
