use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use asobi_service_kit::telemetry::{
    catalogue::{self, Kind, Label, Roles},
    exposition::{self, Family, Labels},
};
use reqwest::Method;
use serde_json::json;

use crate::support::{Client, Cluster, cluster::Process};

const LOBBY: &str = "global:lobby";
const GROUPS: [(&str, Roles); 4] = [
    ("gateways", Roles::GATEWAY),
    ("match_hosts", Roles::MATCH),
    ("matchmakers", Roles::MATCHMAKER),
    ("social_services", Roles::SOCIAL),
];

async fn shown(cluster: &Cluster, process: &Process) -> anyhow::Result<String> {
    let metrics = process.metrics.as_deref().context("metrics")?;
    Ok(cluster.http.get(format!("http://{metrics}/metrics")).send().await?.text().await?)
}

/// The labels of all series of a family.
fn series(family: &Family) -> BTreeSet<&Labels> {
    match family {
        Family::Counter(series) | Family::Gauge(series) => series.keys().collect(),
        Family::Histogram(series) => series.keys().collect(),
    }
}

/// What a process shows that the table does not know, and what it lacks.
fn differences(role: Roles, text: &str) -> Vec<String> {
    let shown = exposition::families(text);
    let mut wrong = Vec::new();
    for (name, family) in &shown {
        let Some(row) = catalogue::find(name).filter(|row| row.roles.has(role)) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        let kind = match family {
            Family::Counter(_) => row.kind == Kind::Counter,
            Family::Gauge(_) => row.kind == Kind::Gauge,
            Family::Histogram(_) => matches!(row.kind, Kind::Histogram(_)),
        };
        let names: BTreeSet<&str> = row.labels.iter().map(|label| label.name()).collect();
        let fits = |(name, value): &(String, String)| {
            row.labels.iter().any(|label| match label {
                Label::Of(known, values) => known == name && values.contains(&value.as_str()),
                Label::Rule(known, _) => known == name,
            })
        };
        for labels in series(family) {
            let all = labels.iter().map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>() == names;
            if !kind || !all || !labels.iter().all(fits) {
                wrong.push(format!("{name} is shown as {labels:?}"));
            }
        }
    }
    for row in catalogue::all().filter(|row| row.roles.has(role) && row.from_start()) {
        let combinations: usize =
            row.labels.iter().map(|label| if let Label::Of(_, values) = label { values.len() } else { 0 }).product();
        let there = shown.get(row.name).map_or(0, |family| series(family).len());
        if there != combinations {
            wrong.push(format!("{} has {there} series of {combinations}", row.name));
        }
    }
    wrong
}

/// The value of the series with these labels.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let is =
        |own: &[(&str, String)]| labels.iter().all(|(name, value)| own.iter().any(|(n, v)| n == name && v == value));
    text.lines().filter_map(exposition::sample).find(|s| s.name == name && is(&s.labels)).map(|s| s.value)
}

#[tokio::test]
async fn every_process_shows_what_the_table_says() -> anyhow::Result<()> {
    let limits = ["limits.frames_per_second", "limits.requests_per_second"];
    let cluster = limits
        .iter()
        .fold(Cluster::new().match_hosts(1).matchmakers(1).test_games(), |cluster, limit| cluster.set(limit, 0))
        .start()
        .await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    bo.call("chat.join", json!({"channel_id": LOBBY})).await?;
    ada.call("chat.send", json!({"channel_id": LOBBY, "content": "how long does this take?"})).await?;
    bo.push("chat.message").await?;
    for player in [&mut ada, &mut bo] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    ada.push("match.state").await?;

    let mut wrong = Vec::new();
    for (group, role) in GROUPS {
        for process in cluster.processes(group) {
            let text = shown(&cluster, &process).await?;
            wrong.extend(differences(role, &text).into_iter().map(|what| format!("{}: {what}", process.node_id)));
            assert_eq!(value(&text, "asobi_ready", &[]), Some(1.0), "{}", process.node_id);
            assert_eq!(value(&text, "asobi_build_info", &[("role", role.name())]), Some(1.0), "{}", process.node_id);
            assert!(value(&text, "asobi_cluster_lease_age_seconds", &[]).is_some_and(|age| age < 5.0));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let (first, second) = (shown(&cluster, &cluster.gateway(0)).await?, shown(&cluster, &cluster.gateway(1)).await?);
    let frames = |text, way, kind| value(text, &format!("asobi_session_frames_{way}_total"), &[("type", kind)]);
    assert_eq!((frames(&first, "in", "chat.send"), frames(&first, "out", "chat.sent")), (Some(1.0), Some(1.0)));
    assert_eq!((frames(&second, "in", "chat.send"), frames(&second, "out", "chat.message")), (Some(0.0), Some(1.0)));
    // From ada's gateway to bo's socket; on one machine there is one clock.
    assert_eq!(value(&second, "asobi_session_delivery_seconds_count", &[]), Some(1.0));
    let took = value(&second, "asobi_session_delivery_seconds_sum", &[]).context("the delivery's time")?;
    assert!(took > 0.0 && took < 30.0, "{took}");
    let mut loads = Vec::new();
    for host in cluster.processes("match_hosts") {
        let text = shown(&cluster, &host).await?;
        let of = |name| value(&text, name, &[]).context("a gauge of a match host");
        assert_eq!(of("asobi_match_trusted")?, 1.0);
        assert!(of("asobi_match_checkpoint_overdue_seconds")? < 30.0);
        assert_eq!(of("asobi_match_load_ratio")?, of("asobi_match_running")? / of("asobi_match_capacity")?);
        loads.push(of("asobi_match_load_ratio")?);
    }
    assert!(loads.iter().any(|load| *load > 0.0), "{loads:?}");
    nothing_is_a_label(&cluster).await?;
    cluster.stop().await
}

/// What a stranger makes up: frame types, modes, paths and methods of HTTP.
async fn make_up(cy: &mut Client, round: u32) -> anyhow::Result<()> {
    for n in 0..8 {
        let name = format!("odd{round}x{n}");
        for kind in [name.clone(), format!("match.{name}"), format!("asobi\"}} {name}\n")] {
            cy.ask(&kind, json!({})).await?;
        }
        cy.send_text(format!("{{{name}")).await?;
        cy.push("error").await?;
        assert_eq!(cy.refused("matchmaker.add", json!({"mode": name})).await?, "unknown_mode");
        cy.account.get(&format!("/{name}/{name}")).await?;
        cy.account.get(&format!("/matches/{name}")).await?;
        let method = Method::from_bytes(name.to_uppercase().as_bytes())?;
        cy.account.http.request(method, format!("{}/api/v1/{name}", cy.account.base)).send().await?;
    }
    Ok(())
}

async fn nothing_is_a_label(cluster: &Cluster) -> anyhow::Result<()> {
    let mut cy = cluster.player(0, "cy").await?;
    let all = async || {
        let mut all = BTreeMap::new();
        for (group, _) in GROUPS {
            for process in cluster.processes(group) {
                let text = shown(cluster, &process).await?;
                let odd: Vec<String> =
                    text.lines().filter(|line| line.to_lowercase().contains("odd")).map(Into::into).collect();
                assert_eq!(odd, Vec::<String>::new(), "{}", process.node_id);
                let families = exposition::families(&text);
                all.insert(process.node_id, families.values().map(|family| series(family).len()).sum::<usize>());
            }
        }
        anyhow::Ok(all)
    };
    // The first round makes the series of what is refused.
    make_up(&mut cy, 1).await?;
    let before = all().await?;
    make_up(&mut cy, 2).await?;
    let gateway = cluster.gateway(0).node_id;
    assert_eq!(all().await?.get(&gateway), before.get(&gateway), "each name makes a series");
    Ok(())
}
