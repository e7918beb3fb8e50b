//! The cluster's key is replaced while everybody is busy: no call between services notices.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use anyhow::Context as _;
use asobi_proto::ops_v1::{ListNodesRequest, ops_service_client::OpsServiceClient};
use asobi_service_kit::grpc::{Channels, with_deadline};
use tonic::Code;

use crate::{
    ALONE,
    support::{Cluster, PATIENCE, cluster::Process, until},
};

const ROLES: [&str; 4] = ["gateways", "match_hosts", "matchmakers", "social_services"];

async fn asks(process: &Process, key: &str) -> anyhow::Result<Result<(), Code>> {
    let address = process.grpc.as_deref().context("grpc")?;
    let mut client = OpsServiceClient::new(Channels::new(key).get(address));
    let answer = client.list_nodes(with_deadline(ListNodesRequest::default(), PATIENCE)).await;
    Ok(answer.map(|_| ()).map_err(|status| status.code()))
}

#[tokio::test]
async fn a_key_is_rotated_under_load_and_no_call_fails() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new().gateways(2).match_hosts(1).matchmakers(2).test_games().start().await?;
    let old: String = sqlx::query_scalar("SELECT value FROM cluster_keys").fetch_one(&cluster.database.pool).await?;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for n in 0..4 {
        let player = cluster.player(n % 2, &format!("player-{n}")).await?;
        let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
        load.spawn(async move {
            let mut others = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // From the gateway to the social service and back.
                let (status, body) = player.account.get("/friends").await?;
                if status != 200 {
                    others.push(format!("{status} {body}"));
                }
                asked.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(others)
        });
    }
    cluster.ctl(&["key", "rotate", "--overlap", "30s"]).await?;
    let passed = async |seconds: f64| -> anyhow::Result<bool> {
        let query = "SELECT max(active_from) + make_interval(secs => $1) <= now() FROM cluster_keys";
        Ok(sqlx::query_scalar(query).bind(seconds).fetch_one(&cluster.database.pool).await?)
    };
    until("the new key is shown by all", async || passed(5.0).await).await?;
    // What is left of the overlap.
    sqlx::query("UPDATE cluster_keys SET retires_at = now() WHERE retires_at IS NOT NULL")
        .execute(&cluster.database.pool)
        .await?;
    until("the old key is retired for a while", async || passed(12.0).await).await?;
    let processes: Vec<Process> = ROLES.into_iter().flat_map(|role| cluster.processes(role)).collect();
    for process in &processes {
        let refused = cluster.metric(process, "asobi_grpc_unauthenticated_total").await?;
        assert!(refused == 0.0, "{} refused {refused} calls", process.node_id);
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(others) = load.join_next().await {
        assert_eq!(others??, Vec::<String>::new());
    }
    assert!(asked.load(Ordering::Relaxed) > 100, "there was load");

    let new: String = sqlx::query_scalar("SELECT value FROM cluster_keys WHERE retires_at IS NULL")
        .fetch_one(&cluster.database.pool)
        .await?;
    for process in &processes {
        assert_eq!(asks(process, &old).await?, Err(Code::Unauthenticated), "{}", process.node_id);
        assert_eq!(asks(process, &new).await?, Ok(()), "{}", process.node_id);
    }
    cluster.stop().await
}
