//! Who may call a cluster from outside, as operators see it: tokens, certificates, and what the audit says afterwards.

mod every_method;

use std::process::Output;

use anyhow::Context as _;
use serde_json::Value;

use super::{
    child::{output, until},
    support::{
        Cluster,
        authority::{Authority, Files, NODES},
    },
};

/// `asobi ctl` with nothing but these arguments.
async fn ctl(arguments: impl IntoIterator<Item: AsRef<str>>) -> anyhow::Result<Output> {
    let arguments: Vec<String> = arguments.into_iter().map(|part| part.as_ref().to_owned()).collect();
    let arguments: Vec<&str> = std::iter::once("ctl").chain(arguments.iter().map(String::as_str)).collect();
    output(&arguments, &[]).await
}

/// What it prints with `--json` when all is well.
async fn answer(arguments: impl IntoIterator<Item: AsRef<str>>) -> anyhow::Result<Value> {
    let arguments = arguments.into_iter().map(|part| part.as_ref().to_owned());
    let output = ctl(arguments.chain(["--json".to_owned()])).await?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What it says when it could not do it.
async fn complaint(arguments: impl IntoIterator<Item: AsRef<str>>) -> anyhow::Result<String> {
    let output = ctl(arguments).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.code() == Some(1), "it ended with {:?}: {said}", output.status);
    Ok(said)
}

/// Of an actor's refusals in the audit: what each lacked, once there are so many. Refusals are written down a moment later.
async fn lacked(database: &str, actor: &str, many: usize) -> anyhow::Result<Vec<String>> {
    let mut lacked = Vec::new();
    until("the refusals in the audit", async || {
        let entries = answer(["audit", "--actor", actor, "--database-url", database]).await?;
        let refused = entries.as_array().into_iter().flatten().filter(|entry| entry["outcome"] == "refused");
        lacked = refused.filter_map(|entry| entry["detail"]["why"].as_str().map(str::to_owned)).collect();
        Ok(lacked.len() >= many)
    })
    .await
    .with_context(|| format!("{actor}: {lacked:?}"))?;
    Ok(lacked)
}

const NOBODY: &str = "01a20330-d6bb-715b-a470-2b9fab0c7f93";

#[tokio::test]
async fn a_token_is_good_for_its_scopes_and_its_time() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(1).match_hosts(0).matchmakers(0).start().await?;
    let (gateway, database) = (cluster.gateway(0).grpc.context("grpc")?, cluster.database.url.as_str());
    let create = async |name: &str, scopes: &str| -> anyhow::Result<(String, String)> {
        let made =
            answer(["token", "create", name, "--scope", scopes, "--for", "1h", "--database-url", database]).await?;
        let text = |key: &str| made[key].as_str().map(str::to_owned).context("text");
        Ok((text("token")?, text("token_id")?))
    };
    let (reader, reader_id) = create("reader", "read").await?;
    let (moderator, _) = create("moderator", "read,moderate").await?;

    // No database at all: the token and any node's address.
    let with = |order: &[&str], token: &str| -> Vec<String> {
        order.iter().chain(&["--addr", &gateway, "--token", token]).map(|&part| part.to_owned()).collect()
    };
    let nodes = answer(with(&["nodes"], &reader)).await?;
    assert!(nodes.as_array().is_some_and(|nodes| nodes.iter().any(|node| node["node_id"] == "gateway-0")), "{nodes}");
    let ban = ["player", "ban", NOBODY];
    let said = complaint(with(&ban, &moderator)).await?;
    assert!(said.contains("player.not_found"), "it may, and there is none: {said}");
    let said = complaint(with(&ban, &reader)).await?;
    assert!(said.contains("needs the scope moderate") && said.contains("forbidden"), "{said}");
    let said = complaint(with(&["nodes"], "made up")).await?;
    assert!(said.contains("nobody knows the token") && said.contains("ASOBI_TOKEN"), "{said}");
    let said = complaint(["nodes", "--addr", &gateway]).await?;
    assert!(said.contains("--addr needs a token"), "{said}");

    answer(["token", "revoke", &reader_id, "--database-url", database]).await?;
    until("the revocation", async || {
        let output = ctl(with(&["nodes"], &reader)).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(said.contains("its token was revoked"))
    })
    .await?;
    // An hour passes.
    sqlx::query("UPDATE operator_tokens SET expires_at = now() WHERE name = 'moderator'")
        .execute(&cluster.database.pool)
        .await?;
    until("the token's end", async || {
        let output = ctl(with(&ban, &moderator)).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(said.contains("its token has expired"))
    })
    .await?;
    let listed = answer(["token", "list", "--database-url", database]).await?;
    let of = |name: &str| listed.as_array().into_iter().flatten().find(|token| token["name"] == name).cloned();
    assert!(of("reader").is_some_and(|token| token["revoked_at"].is_i64() && token["used_at"].is_i64()), "{listed}");
    assert!(!listed.to_string().contains("asobi_"), "no secrets: {listed}");

    assert!(lacked(database, "token:reader", 2).await?.iter().any(|why| why == "needs the scope moderate"));
    assert!(lacked(database, "token:reader", 2).await?.iter().any(|why| why == "its token was revoked"));
    assert!(lacked(database, "token:moderator", 1).await?.iter().all(|why| why == "its token has expired"));
    assert!(!lacked(database, "unknown token", 1).await?.is_empty());
    let of_it = ["audit", "--action", "AccessService/CreateToken", "--subject", "reader"];
    let made = answer([&of_it, &["--database-url", database][..]].concat()).await?;
    let by = made[0]["actor"].as_str().unwrap_or_default();
    assert!(by.starts_with("token:ctl:") && by.contains('@') && made[0]["outcome"] == "done", "{made}");
    cluster.stop().await
}

#[tokio::test]
async fn a_cluster_on_tls_forms_matches_and_turns_strangers_away() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (ours, theirs) = (Authority::new(dir.path(), "ours")?, Authority::new(dir.path(), "theirs")?);
    let node = ours.sign("node", "asobi://node")?;
    let path = |path: &std::path::Path| path.display().to_string();
    let cluster = Cluster::new()
        .gateways(2)
        .match_hosts(1)
        .matchmakers(1)
        .test_games()
        .set("grpc.tls_cert", path(&node.cert))
        .set("grpc.tls_key", path(&node.key))
        .set("grpc.tls_ca", path(&ours.ca()))
        .set("grpc.tls_name", NODES)
        .start()
        .await?;
    cluster.leading_matchmaker().await?;
    // Relayed by their gateways: matchmaker to host, and gateways to host, over TLS. Friends are the social service's.
    let (mut ada, mut bo) = (cluster.player(0, "ada").await?, cluster.player(1, "bo").await?);
    for player in [&mut ada, &mut bo] {
        player.call("matchmaker.add", serde_json::json!({"mode": "duel"})).await?;
    }
    assert_eq!(ada.push("match.matched").await?["match_id"], bo.push("match.matched").await?["match_id"]);
    ada.push("match.state").await?;
    assert_eq!(ada.account.get("/friends").await?.0, 200);

    let gateway = cluster.gateway(0).grpc.context("grpc")?;
    let (ca, name) = (path(&ours.ca()), format!("grpc.tls_name={NODES}"));
    let with = |order: &[&str], files: &Files| -> Vec<String> {
        let (cert, key) = (path(&files.cert), path(&files.key));
        let shown = ["--addr", &gateway, "--cert", &cert, "--key", &key, "--ca", &ca, "--set", &name];
        order.iter().chain(&shown).map(|&part| part.to_owned()).collect()
    };
    let reader = ours.sign("reader", "asobi://operator/reader?scopes=read")?;
    let nodes = answer(with(&["nodes"], &reader)).await?;
    assert_eq!(nodes.as_array().map(Vec::len), Some(5), "{nodes}");
    let said = complaint(with(&["player", "ban", NOBODY], &reader)).await?;
    assert!(said.contains("needs the scope moderate"), "{said}");
    let stranger = theirs.sign("eve", "asobi://node")?;
    let said = complaint(with(&["nodes"], &stranger)).await?;
    assert!(said.contains("not of this cluster's authority") && said.contains("forbidden"), "{said}");

    // With the database alone a token is made, and shown over TLS; without the authority nobody is heard.
    let database = cluster.database.url.as_str();
    let over_tls = ["--database-url", database, "--ca", &ca, "--set", &name];
    for (actor, action, why) in [
        ("cert:reader", "PlayerService/BanPlayer", "needs the scope moderate"),
        ("certificate:CN=eve", "OpsService/ListNodes", "its certificate is not of this cluster's authority"),
    ] {
        until("the refusal in the audit", async || {
            let entries = answer([&["audit", "--actor", actor], &over_tls[..]].concat()).await?;
            Ok(entries[0]["action"] == action && entries[0]["detail"]["why"] == why)
        })
        .await?;
    }
    let said = complaint(["queue", "--database-url", database]).await?;
    assert!(said.contains("no matchmaker answered"), "{said}");
    cluster.stop().await
}
