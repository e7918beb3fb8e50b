//! `asobi ctl nodes`: the registry, whoever of it still answers.

use asobi_proto::ops_v1::Node;
use serde_json::{Value, json};

use super::{Ctl, output};

pub async fn run(ctl: &Ctl) -> anyhow::Result<()> {
    let nodes = ctl.nodes().await?;
    if ctl.json {
        output::json(&nodes.iter().map(object).collect());
        return Ok(());
    }
    let rows: Vec<_> = nodes.iter().map(row).collect();
    let names = ["node", "role", "state", "leads", "load", "lease", "version", "region", "grpc", "http"];
    output::line(&output::table(names, &rows));
    Ok(())
}

fn object(node: &Node) -> Value {
    let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    json!({
        "node_id": node.node_id,
        "incarnation": node.incarnation,
        "role": node.role,
        "state": node.state,
        "alive": node.alive,
        "leading": node.leading,
        "term": node.leading.then_some(node.term),
        "load": node.load,
        "capacity": node.capacity,
        "lease_left_ms": node.lease_left_ms,
        "version": node.version,
        "region": text(&node.region),
        "http_url": text(&node.http_url),
        "ws_url": text(&node.ws_url),
        "grpc_addr": text(&node.grpc_addr),
        "metrics_addr": text(&node.metrics_addr),
        "started_at": node.started_at.as_ref().map(|at| at.seconds),
    })
}

fn row(node: &Node) -> [String; 10] {
    // A node that stopped properly has said so; one whose lease ran out has not.
    let state = if node.alive || node.state == "stopped" { node.state.clone() } else { "lost".to_owned() };
    let load = if node.capacity > 0 { format!("{}/{}", node.load, node.capacity) } else { node.load.to_string() };
    let leads = if node.leading { format!("term {}", short_term(node.term)) } else { String::new() };
    [
        node.node_id.clone(),
        node.role.clone(),
        state,
        leads,
        load,
        lease(node),
        node.version.clone(),
        node.region.clone(),
        node.grpc_addr.clone(),
        node.http_url.clone(),
    ]
}

/// What is left of it, or for how long it has been over; one that stopped has given it up.
fn lease(node: &Node) -> String {
    match node.lease_left_ms {
        _ if node.state == "stopped" => String::new(),
        left @ 0.. => output::milliseconds(left),
        over => format!("over for {}", output::milliseconds(-over)),
    }
}

/// A term is `timeline << 40 | number`.
fn short_term(term: i64) -> String {
    format!("{}.{}", term >> 40, term & ((1 << 40) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_lost_does_not_look_ready() {
        let mut node =
            Node { state: "ready".into(), alive: true, leading: true, term: (3 << 40) + 7, ..Node::default() };
        assert_eq!(row(&node)[2..4], ["ready", "term 3.7"]);
        (node.alive, node.lease_left_ms) = (false, -61_000);
        assert_eq!((row(&node)[2].as_str(), row(&node)[5].as_str()), ("lost", "over for 1 min 1 s"));
        node.state = "stopped".into();
        assert_eq!(row(&node)[2], "stopped");
    }
}
