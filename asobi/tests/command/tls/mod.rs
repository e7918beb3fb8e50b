//! Everything over TLS at once, as docs/tls.md tells operators to set it: players, the API, gRPC and the database, directly and
//! behind a balancer that tells whom it stands for.

mod postgres;
mod wire;

use std::{net::Ipv4Addr, path::Path};

use anyhow::Context as _;
use serde_json::json;

use super::child::output;
use crate::support::{
    Client, Cluster,
    authority::{Authority, NODES},
    until,
};
use postgres::Postgres;
use wire::{HaProxy, Trust};

const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn the_database_proves_who_it_is_or_nothing_starts() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (ours, theirs) = (Authority::new(dir.path(), "ours")?, Authority::new(dir.path(), "theirs")?);
    let postgres = Postgres::start(&ours).await?;
    postgres.create("certs", &ours.ca()).await?;
    let verify = format!("sslmode=verify-full&sslrootcert={}", path(&ours.ca()));
    let told = async |url: &str, command: &[&str]| -> anyhow::Result<(bool, String)> {
        let output = output(&[command, &["--database-url", url]].concat(), &[]).await?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };

    let (done, said) = told(&postgres.url("127.0.0.1", "asobi", &verify), &["migrate"]).await?;
    assert!(done, "{said}");
    let (done, said) = told(&postgres.url("127.0.0.1", "asobi", &verify), &["ctl", "nodes"]).await?;
    assert!(done, "{said}");
    let stranger = format!("sslmode=verify-full&sslrootcert={}", path(&theirs.ca()));
    for (host, parameters, says) in [
        ("127.0.0.1", stranger.as_str(), "not of a known authority"),
        ("127.0.0.1", "sslmode=verify-full", "not of a known authority"),
        ("localhost", verify.as_str(), "for other names than the host"),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=/nowhere.pem", "a file that the database's URL names"),
        ("127.0.0.1", "sslmode=disable", "no encryption"),
    ] {
        for command in [&["migrate"][..], &["ctl", "nodes"]] {
            let (done, said) = told(&postgres.url(host, "asobi", parameters), command).await?;
            assert!(!done && said.contains(says), "{command:?} {host} {parameters}: {said}");
        }
    }

    // A client's certificate, where the server asks for one.
    let own = ours.sign_for("client", &["asobi"])?;
    let shown = format!("{verify}&sslcert={}&sslkey={}", path(&own.cert), path(&own.key));
    let (done, said) = told(&postgres.url("127.0.0.1", "certs", &verify), &["migrate"]).await?;
    assert!(!done && said.contains("valid client certificate"), "{said}");
    let (done, said) = told(&postgres.url("127.0.0.1", "certs", &shown), &["migrate"]).await?;
    assert!(done, "{said}");
    postgres.stop().await
}

#[tokio::test]
async fn everything_goes_over_tls_and_a_balancer_says_whom_it_stands_for() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new(dir.path(), "ours")?;
    let (node, play) = (authority.sign("node", "asobi://node")?, authority.sign_for("play", &["play.test"])?);
    let postgres = Postgres::start(&authority).await?;
    let verify = format!("sslmode=verify-full&sslrootcert={}", path(&authority.ca()));
    let cluster = Cluster::new()
        .match_hosts(1)
        .matchmakers(1)
        .test_games()
        .database(&postgres.url("127.0.0.1", "asobi", &verify))
        .set("grpc.tls_cert", path(&node.cert))
        .set("grpc.tls_key", path(&node.key))
        .set("grpc.tls_ca", path(&authority.ca()))
        .set("grpc.tls_name", NODES)
        .set("http.tls_cert", path(&play.cert))
        .set("http.tls_key", path(&play.key))
        .set("limits.requests_per_second", 4)
        .set_node("gateway-1", "http.proxy_protocol", "require")
        .set_node("gateway-1", "http.trusted_proxies", "127.0.0.1")
        .start()
        .await?;
    cluster.leading_matchmaker().await?;
    let trust = Trust::new(&authority.ca(), "play.test")?;

    // Directly: two players are matched, and follow to the match's own host, all over TLS.
    let gateway = cluster.gateway(0);
    let (http, ws) = (gateway.http.clone().context("http")?, gateway.ws.clone().context("ws")?);
    assert!(http.starts_with("https://") && ws.starts_with("wss://"), "{http} {ws}");
    let mut players = Vec::new();
    for name in ["ada", "bo"] {
        let account = trust.register(&http, name).await?;
        let socket = Client::open_over(trust.connect(&ws, HOME).await?, &ws, account).await?;
        let token = socket.account.access_token.clone();
        players.push(socket.begin(json!({"token": token, "capabilities": ["migrate"]})).await?);
    }
    for player in &mut players {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    let offer = players[0].push("match.migrate").await?;
    let to = offer["url"].as_str().context("url")?;
    assert!(to.starts_with("wss://"), "{offer}");
    let account = players[0].account.clone();
    let there = Client::open_over(trust.connect(to, HOME).await?, to, account).await?;
    let mut there = there.begin(json!({"migration_token": offer["token"], "capabilities": ["migrate"]})).await?;
    there.push("match.state").await?;
    players[1].push("match.state").await?;

    // The certificate is replaced: whoever is connected stays, whoever comes sees the new one.
    let before = trust.shown(&ws).await?;
    authority.sign_for("play", &["play.test"])?;
    until("the new certificate is shown", async || Ok(trust.shown(&ws).await? != before)).await?;
    players[1].call("presence.update", json!({"status": "still here"})).await?;
    assert!(cluster.metric(&gateway, "asobi_tls_certificate_expiry_seconds").await? > 0.0);

    behind_a_balancer(&cluster, &trust).await?;
    cluster.stop().await?;
    postgres.stop().await
}

/// HAProxy passes TLS on to a gateway, after a header with the client's address: limits are each client's own.
async fn behind_a_balancer(cluster: &Cluster, trust: &Trust) -> anyhow::Result<()> {
    let gateway = cluster.gateway(1);
    let direct = gateway.http.clone().context("http")?;
    let balancer = HaProxy::start(direct.trim_start_matches("https://")).await?;
    let (busy, calm) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    until("the busy one is refused", async || {
        Ok(trust.ask(&balancer.url, busy, "GET", "/friends", None).await?.0 == 429)
    })
    .await?;
    let (status, answer) = trust.ask(&balancer.url, calm, "GET", "/friends", None).await?;
    assert_eq!(status, 401, "another address has its own limit: {answer}");
    // Without the balancer nobody comes in, from wherever.
    for from in [HOME, busy] {
        assert!(trust.connect(&direct, from).await.is_err(), "{from}");
    }
    let refused = cluster.metric(&gateway, "asobi_http_refused_total").await?;
    assert!(refused >= 2.0, "{refused}");
    Ok(())
}
