use nix::sys::signal::Signal;

use crate::support::{Client, Cluster};
use serde_json::json;

#[tokio::test]
async fn a_gateway_that_drains_says_where_to_go_and_the_cluster_goes_on() -> anyhow::Result<()> {
    let cluster = Cluster::new().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let gateway = cluster.gateway(0);
    cluster.signal(&gateway, Signal::SIGTERM)?;
    assert_eq!(ada.closing().await?, (1012, "restarting".into()));
    cluster.gone(&gateway).await?;
    let ws = cluster.gateway(1).ws.expect("ws");
    let mut ada = Client::connect(&ws, ada.account.clone(), &[]).await?;
    ada.call("chat.join", json!({"channel_id": "global:lobby"})).await?;
    // Everything else drains when the supervisor does; a clean exit is part of it.
    cluster.stop().await
}
