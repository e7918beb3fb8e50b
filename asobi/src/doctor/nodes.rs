//! The nodes: who is lost, who leads, whether they are of one version, and whether each can be reached where it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, bail};
use asobi_proto::ops_v1::Node;
use asobi_service_kit::grpc::{Channels, Tls, TlsFiles, with_deadline};
use futures_util::{StreamExt as _, stream};
use sqlx::Row as _;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::{net::TcpStream, time::timeout};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    Patient,
    finding::{Finding, Verdict},
    reading::rows,
    server::{self, now},
};

/// Of one question to one node.
const ANSWER: Duration = Duration::from_secs(3);
/// Nodes that are asked at the same time.
const AT_ONCE: usize = 16;
const ROLES: [(&str, &str); 4] = [
    ("gateway", "no player can connect"),
    ("match", "no match can run"),
    ("matchmaker", "no match is formed"),
    ("social", "friends, groups, notifications and leaderboards answer 503"),
];

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    let pool = patient.pool().await?;
    let nodes = asobi_cluster::ops::nodes(&pool).await?;
    pool.close().await;
    let mut findings = registry(&nodes);
    let living: Vec<Node> = nodes.into_iter().filter(|node| node.alive).collect();
    let count = living.len();
    if count == 0 {
        return Ok(findings);
    }
    findings.extend(twice(&locked(patient).await?));
    let channels = Channels::bare().over(tls(patient)?);
    let http = reqwest::Client::builder().timeout(ANSWER).build()?;
    let asking = living.into_iter().map(|node| {
        let (channels, http) = (channels.clone(), http.clone());
        async move {
            let (grpc, public) = tokio::join!(grpc(&node, &channels), public(&node, &http));
            (node, grpc, public)
        }
    });
    let answers: Vec<_> = stream::iter(asking).buffer_unordered(AT_ONCE).collect().await;
    let mut reached = Vec::new();
    for (node, grpc, public) in answers {
        reached.extend(reach(&node, "grpc", &node.grpc_addr, grpc.as_ref().err()));
        reached.extend(public.and_then(|public| reach(&node, "http", &node.http_url, public.as_ref().err())));
        reached.extend(inward(&node));
        reached.extend(grpc.ok().and_then(|ahead| skewed(&node, ahead)));
    }
    reached.sort_by(|one, other| one.says.cmp(&other.says));
    if reached.is_empty() {
        let says = format!("each of {count} can be reached at the addresses it announces, and their clocks agree");
        reached.push(Finding::ok("addresses", says));
    }
    findings.extend(reached);
    Ok(findings)
}

/// What the rows say.
fn registry(nodes: &[Node]) -> Vec<Finding> {
    let living: Vec<&Node> = nodes.iter().filter(|node| node.alive).collect();
    let lost: Vec<&str> =
        nodes.iter().filter(|node| !node.alive && node.state != "stopped").map(|node| node.node_id.as_str()).collect();
    if living.is_empty() && lost.is_empty() {
        return vec![Finding::ok("nodes", "there are none yet")];
    }
    let mut findings = Vec::new();
    if !lost.is_empty() {
        let says = format!("lost, their leases ran out without a farewell: {}", lost.join(", "));
        findings.push(Finding::warn("nodes", says, "see why they died; one that will not be back is forgotten by itself, a name that is used again takes its place"));
    }
    for (role, means) in ROLES {
        if !living.iter().any(|node| node.role == role && node.state == "ready") {
            let says = format!("no {role} node is ready: {means}");
            let change = format!("start one, or see the log of those that are not ready ({role})");
            findings.push(match role {
                "social" => Finding::warn("nodes", says, change),
                _ => Finding::fail("nodes", says, change),
            });
        }
    }
    if living.iter().any(|node| node.role == "matchmaker") && !living.iter().any(|node| node.leading) {
        let says = "no matchmaker leads: tickets wait, and matches of dead hosts stay where they are";
        findings.push(Finding::fail(
            "leader",
            says,
            "see the matchmakers' logs, and whether database.direct_url is one (above)",
        ));
    }
    let versions: BTreeSet<&str> = living.iter().map(|node| node.version.as_str()).collect();
    if versions.len() > 1 {
        let says = format!("versions are mixed: {}", versions.into_iter().collect::<Vec<_>>().join(", "));
        findings.push(Finding::warn(
            "versions",
            says,
            "finish the upgrade; two neighbouring releases work together, three do not",
        ));
    }
    findings.extend(shared(&living));
    if findings.is_empty() {
        findings.push(Finding::ok(
            "nodes",
            format!("{} are alive, of each role, in one version, with a leader", living.len()),
        ));
    }
    findings
}

/// Addresses that more than one node announces. Gateways may have one for all.
fn shared(living: &[&Node]) -> Vec<Finding> {
    let mut at: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for node in living {
        let web = if node.role == "match" { node.ws_url.as_str() } else { "" };
        for (key, address) in [("grpc.advertise", node.grpc_addr.as_str()), ("http.public_url", web)] {
            if !address.is_empty() {
                at.entry((key, address)).or_default().push(&node.node_id);
            }
        }
    }
    let many = at.into_iter().filter(|(_, nodes)| nodes.len() > 1);
    many.map(|((key, address), nodes)| {
        let says =
            format!("{} announce the same address {address}: what is meant for one reaches any", nodes.join(" and "));
        Finding::fail(
            "addresses",
            says,
            format!("give each its own {key}, or migrate.via = \"affinity\" behind a balancer"),
        )
    })
    .collect()
}

// The statement below names it.
const _: () = assert!(asobi_store::lock_keys::NODE_ALIVE == 3);

/// Incarnations whose process holds its lock, and that no row names: another process took their node's name.
async fn locked(patient: &Patient) -> anyhow::Result<Vec<i64>> {
    let statement =
        "SELECT objid::int8 FROM pg_locks WHERE locktype = 'advisory' AND classid = 3 AND objsubid = 2 AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND NOT EXISTS (SELECT FROM nodes n WHERE (n.incarnation & 4294967295) = objid::int8)";
    let found = rows(&mut patient.direct().await?, statement).await?;
    Ok(found.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

fn twice(orphans: &[i64]) -> Option<Finding> {
    let first = orphans.first()?;
    Some(Finding::warn(
        "names",
        format!("{} processes run whose node id another one has taken since (incarnation {first})", orphans.len()),
        "give each process its own node.id, or none; the older one ends by itself",
    ))
}

fn tls(patient: &Patient) -> anyhow::Result<Option<std::sync::Arc<Tls>>> {
    let grpc = &patient.config.grpc;
    if grpc.tls_ca.as_os_str().is_empty() {
        return Ok(None);
    }
    Tls::load(TlsFiles { own: None, ca: grpc.tls_ca.clone(), name: grpc.tls_name.clone() }).map(Some)
}

/// Asks a node whether it serves; by how many seconds its clock is ahead of ours, from what its answer is dated.
async fn grpc(node: &Node, channels: &Channels) -> anyhow::Result<Option<f64>> {
    let mut client = HealthClient::new(channels.get(&node.grpc_addr));
    let asked = now();
    let asking = client.check(with_deadline(HealthCheckRequest::default(), ANSWER));
    let answer = timeout(ANSWER, asking).await.context("no answer within 3 s")?;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let at = (asked + now()) / 2.0;
    let dated = answer.metadata().get("date").and_then(|date| date.to_str().ok());
    let dated = dated.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok());
    // It is cut to whole seconds: half of one more, on average.
    Ok(dated.map(|dated| dated.unix_timestamp() as f64 + 0.5 - at))
}

/// host:port of a URL.
fn authority(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).split(['/', '?']).next().unwrap_or_default()
}

fn is_local(address: &str) -> bool {
    ["127.", "localhost", "[::1]"].iter().any(|local| address.starts_with(local))
}

/// Whether players are sent to the node's own address: those of a match host, unless a balancer finds it (`migrate.via`).
fn sends_players(node: &Node) -> bool {
    node.role == "match" && !node.ws_url.is_empty() && authority(&node.ws_url) == authority(&node.http_url)
}

/// A host that tells players to go to their own machine, while processes reach it over a network.
fn inward(node: &Node) -> Option<Finding> {
    let wrong = sends_players(node) && is_local(authority(&node.http_url)) && !is_local(&node.grpc_addr);
    wrong.then(|| {
        Finding::fail(
            "addresses",
            format!("{} sends players of its matches to {}, which is their own machine", node.node_id, node.http_url),
            "set its http.public_url, or migrate.via = \"affinity\" behind a balancer, or \"off\"",
        )
    })
}

/// Asks for a node's health where players are sent to it; None: they are not, or not to an address that means the same here.
async fn public(node: &Node, http: &reqwest::Client) -> Option<anyhow::Result<()>> {
    if !sends_players(node) || inward(node).is_some() {
        return None;
    }
    let url = &node.http_url;
    if let Some(rest) = url.strip_prefix("https://") {
        // Whether somebody listens; the certificate is the players' to judge.
        let host = authority(rest);
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:443") };
        return Some(connects(&address).await);
    }
    Some(healthy(url, http).await)
}

async fn connects(address: &str) -> anyhow::Result<()> {
    timeout(ANSWER, TcpStream::connect(address)).await.context("no answer within 3 s")??;
    Ok(())
}

async fn healthy(url: &str, http: &reqwest::Client) -> anyhow::Result<()> {
    let answer = http.get(format!("{url}/health")).send().await.map_err(reqwest::Error::without_url)?;
    let status = answer.status();
    if !status.is_success() {
        bail!("/health answers {status}");
    }
    Ok(())
}

fn reach(node: &Node, what: &str, address: &str, error: Option<&anyhow::Error>) -> Option<Finding> {
    let error = error?;
    let silent = format!("{} announces {address}, where it does not answer from here ({error:#})", node.node_id);
    if what != "grpc" {
        let says = format!("{silent}: players who are sent there fail, if it is the same for them");
        return Some(Finding::warn(
            "addresses",
            says,
            "try it from where players are; correct its http.public_url, or the network",
        ));
    }
    let more = if is_local(address) { "; this one leads each machine to itself" } else { "" };
    Some(Finding::fail(
        "addresses",
        format!("{silent}: calls of the others fail, if it is the same for them"),
        format!("correct its grpc.advertise (or grpc.listen), or the network in between{more}"),
    ))
}

/// A node whose clock is off. None: it is not, or it has not said.
fn skewed(node: &Node, ahead: Option<f64>) -> Option<Finding> {
    // The answer's second may be a whole one off.
    let ahead = ahead.filter(|ahead| ahead.abs() > 1.5)?;
    let found = server::clock(ahead, &format!("the clock of {}", node.node_id), "this machine's");
    (found.verdict != Verdict::Ok).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_id: &str, role: &str) -> Node {
        Node {
            node_id: node_id.into(),
            role: role.into(),
            state: "ready".into(),
            version: "0.1.0".into(),
            alive: true,
            leading: role == "matchmaker",
            grpc_addr: format!("10.0.0.1:{}", 1_000 + node_id.len()),
            ..Node::default()
        }
    }

    fn cluster() -> Vec<Node> {
        vec![node("a", "gateway"), node("bb", "match"), node("ccc", "matchmaker"), node("dddd", "social")]
    }

    fn said(nodes: &[Node]) -> Vec<(Verdict, String)> {
        registry(nodes).into_iter().map(|found| (found.verdict, found.says)).collect()
    }

    #[test]
    fn a_whole_cluster_is_well_and_none_is_too() {
        assert!(matches!(&said(&cluster())[..], [(Verdict::Ok, says)] if says.starts_with("4 are alive")));
        assert!(matches!(&said(&[])[..], [(Verdict::Ok, says)] if says == "there are none yet"));
    }

    #[test]
    fn what_lacks_is_named() {
        let mut nodes = cluster();
        nodes[0].alive = false;
        nodes[2].leading = false;
        nodes[3].version = "0.2.0".into();
        let said = said(&nodes);
        let found = |verdict, part: &str| said.iter().any(|(v, says)| *v == verdict && says.contains(part));
        assert!(found(Verdict::Warn, "without a farewell: a"), "{said:?}");
        assert!(found(Verdict::Fail, "no gateway node is ready"), "{said:?}");
        assert!(found(Verdict::Fail, "no matchmaker leads"), "{said:?}");
        assert!(found(Verdict::Warn, "mixed: 0.1.0, 0.2.0"), "{said:?}");
    }

    #[test]
    fn two_nodes_do_not_share_an_address() {
        let mut nodes = cluster();
        nodes[1].grpc_addr = nodes[0].grpc_addr.clone();
        assert!(
            said(&nodes)
                .iter()
                .any(|(verdict, says)| *verdict == Verdict::Fail && says.starts_with("a and bb announce"))
        );
    }

    #[test]
    fn players_are_not_sent_to_their_own_machine() {
        let at = |url: &str, ws: &str| Node { http_url: url.into(), ws_url: ws.into(), ..node("m", "match") };
        let own = at("http://127.0.0.1:8080", "ws://127.0.0.1:8080/ws");
        assert!(inward(&own).is_some_and(|found| found.verdict == Verdict::Fail));
        // Behind a balancer, by a name, on a laptop, and where nobody is sent.
        for well in [
            at("http://127.0.0.1:8080", "wss://play.example.com/ws?node=m"),
            at("https://m.example.com", "wss://m.example.com/ws"),
            Node { grpc_addr: "127.0.0.1:1".into(), ..own.clone() },
            at("http://127.0.0.1:8080", ""),
            Node { role: "gateway".into(), ..own.clone() },
        ] {
            assert_eq!(inward(&well), None, "{well:?}");
        }
    }

    #[test]
    fn an_address_that_does_not_answer_is_named_with_its_key() {
        let node = Node { grpc_addr: "127.0.0.1:8090".into(), ..node("a", "gateway") };
        assert_eq!(reach(&node, "grpc", &node.grpc_addr, None), None);
        let found = reach(&node, "grpc", &node.grpc_addr, Some(&anyhow::anyhow!("refused")));
        assert!(
            found.is_some_and(|found| found.change.contains("grpc.advertise") && found.change.contains("to itself"))
        );
        assert_eq!((skewed(&node, Some(1.2)), skewed(&node, None)), (None, None));
        assert!(
            skewed(&node, Some(-9.0)).is_some_and(|found| found.says.starts_with("the clock of a is 9.00 s behind"))
        );
        assert_eq!((twice(&[]), twice(&[7]).map(|found| found.verdict)), (None, Some(Verdict::Warn)));
    }
}
