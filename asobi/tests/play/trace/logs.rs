//! What the same cluster logs, at the level `trace` of everything of ours.

use std::collections::BTreeSet;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::Collector;
use crate::support::{Client, Cluster, rest::Account, until};

/// `asobi ctl log`: shown, changed for a time, refused, set back.
pub async fn change_while_running(cluster: &Cluster) -> anyhow::Result<()> {
    let shown = async |arguments: &[&str]| -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&cluster.ctl(&[&["log", "--json"], arguments].concat()).await?)?)
    };
    let all = shown(&[]).await?;
    assert_eq!(all.as_array().map(Vec::len), Some(5), "{all}");
    let configured = "warn,asobi=trace";
    assert!(all.as_array().is_some_and(|all| all.iter().all(|log| log["filter"] == configured)), "{all}");

    let changed = shown(&["gateway-0", "--filter", "info,asobi_session=debug", "--for", "10m"]).await?;
    assert_eq!(
        (&changed[0]["node_id"], &changed[0]["filter"]),
        (&json!("gateway-0"), &json!("info,asobi_session=debug"))
    );
    assert!(changed[0]["until"].is_i64() && changed[0]["configured"] == configured, "{changed}");
    assert_eq!(shown(&["gateway-1"]).await?[0]["filter"], configured, "the others are as they were");
    let table = cluster.ctl(&["log", "gateway-0"]).await?;
    assert!(table.starts_with("NODE") && table.contains("from now"), "{table}");
    let reset = shown(&["gateway-0", "--reset"]).await?;
    assert_eq!((&reset[0]["filter"], &reset[0]["until"]), (&json!(configured), &Value::Null));

    let refused = cluster.ctl(&["log", "--all", "--filter", "info,asobi_session=loud"]).await;
    assert!(format!("{:#}", refused.expect_err("no filter")).contains("\"loud\""));
    let refused = cluster.ctl(&["log", "--filter", "info"]).await;
    assert!(format!("{:#}", refused.expect_err("nobody named")).contains("--all"));

    // By itself: nobody leaves it on.
    shown(&["gateway-1", "--filter", "error", "--for", "1s"]).await?;
    until("gateway-1 logs as configured again", async || Ok(shown(&["gateway-1"]).await?[0]["filter"] == configured))
        .await?;
    let audit = cluster.ctl(&["audit", "--json"]).await?;
    assert!(audit.contains("OpsService/SetLogFilter") && audit.contains("asobi_session=debug"), "{audit}");
    Ok(())
}

/// Comes and goes in every way, rightly and wrongly; answers all that must not be told.
pub async fn secrets(cluster: &Cluster, ada: &Client, bo: &Client) -> anyhow::Result<Vec<String>> {
    let (base, http) = (ada.account.base.clone(), &cluster.http);
    let (wrong_password, wrong_token) = ("wrong-horse-5391", "eyJhbGciOiJIUzI1NiJ9.wrong-token-7204.c2lnbmF0dXJl");
    let (wrong_refresh, device_secret) = ("wrong-refresh-8815", "device-secret-4492-of-a-guest");
    let post = async |path: &str, body: Value| {
        let answer = http.post(format!("{base}/api/v1{path}")).json(&body).send().await?;
        anyhow::Ok((answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default()))
    };
    let credentials = |password: &str| json!({"username": ada.account.username, "password": password});
    assert_eq!(post("/auth/login", credentials(wrong_password)).await?.0, 401);
    let (status, login) = post("/auth/login", credentials("correct horse")).await?;
    assert_eq!(status, 200, "{login}");
    assert_eq!(post("/auth/refresh", json!({"refresh_token": wrong_refresh})).await?.0, 401);
    let (status, renewed) = post("/auth/refresh", json!({"refresh_token": login["refresh_token"]})).await?;
    assert_eq!(status, 200, "{renewed}");
    // Closed here, and the secret was sent all the same.
    post("/auth/guest", json!({"device_id": "a-device", "device_secret": device_secret})).await?;
    let asked = http.get(format!("{base}/api/v1/friends?access_token={wrong_token}")).bearer_auth(wrong_token);
    assert_eq!(asked.send().await?.status().as_u16(), 401);
    let stranger = Account { access_token: wrong_token.to_owned(), ..bo.account.clone() };
    let ws = cluster.gateway(1).ws.context("ws")?;
    assert!(Client::connect(&ws, stranger, &[]).await.is_err(), "a token that is none");
    let made = cluster.ctl(&["token", "create", "deploy", "--scope", "read", "--json"]).await;

    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let mut secrets: Vec<String> = [wrong_password, wrong_token, wrong_refresh, device_secret, "correct horse"]
        .into_iter()
        .map(ToOwned::to_owned)
        .collect();
    for answer in [&login, &renewed] {
        secrets.extend([text(&answer["access_token"]), text(&answer["refresh_token"])].into_iter().flatten());
    }
    for account in [&ada.account, &bo.account] {
        secrets.extend([account.access_token.clone(), account.refresh_token.clone()]);
    }
    let made: Value = serde_json::from_str(&made?)?;
    secrets.extend(text(&made["token"]));
    let key: String = sqlx::query_scalar("SELECT value FROM cluster_keys").fetch_one(&cluster.database.pool).await?;
    secrets.push(key);
    assert_eq!(secrets.len(), 15, "all that was shown");
    Ok(secrets)
}

/// Each line is one flat object, lines within a trace name it, and none has a secret in it.
pub fn tell_no_secret(text: &str, secrets: &[String], collector: &Collector) -> anyhow::Result<()> {
    for secret in secrets {
        let line = text.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(line, None, "{secret:?} was logged");
    }
    let objects = text.lines().filter_map(|line| Some(&line[line.find("{\"timestamp\"")?..]));
    let lines = objects.map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    assert!(lines.len() > 20, "{} lines", lines.len());
    let mut levels = BTreeSet::new();
    for line in &lines {
        let fields = line.as_object().context("an object")?;
        for name in ["timestamp", "level", "target", "message", "node", "role"] {
            assert!(fields.get(name).is_some_and(Value::is_string), "{name} in {line}");
        }
        assert!(fields.values().all(|value| !value.is_object() && !value.is_array()), "{line}");
        levels.insert(line["level"].as_str().unwrap_or_default().to_owned());
    }
    assert!(levels.contains("DEBUG") || levels.contains("TRACE"), "all of it was logged: {levels:?}");
    let traces: BTreeSet<String> = collector.all().map(|seen| hex(&seen.span.trace_id)).collect();
    let within = |line: &&Value| line["trace_id"].as_str().is_some_and(|id| traces.contains(id));
    assert!(lines.iter().any(|line| within(&line) && line["span_id"].is_string()), "a line within a trace");
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
