//! The client protocol, case by case: what is sent, and the shape of what must come back, over one cluster of real
//! processes. The cases are data, in `cases.jsonl`; what needs counting or a clock is in `limits.rs`.

#[expect(dead_code, reason = "other plays use other parts of it")]
#[path = "../support/mod.rs"]
mod support;

mod case;
mod limits;
mod run;
mod shape;
mod stage;

use std::path::Path;

use stage::Stage;
use support::Cluster;

// Not here, because it does not exist yet: identity providers, wallets, saves and storage, inventories, shops, tournaments,
// votes, worlds, and methods for rpc.call. Parties, which the first release did not have, are played in `play/parties.rs`.

#[tokio::test]
async fn every_frame_and_every_request_gets_its_answer() -> anyhow::Result<()> {
    let games = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/games");
    let cluster = Cluster::new()
        .gateways(1)
        .match_hosts(1)
        .matchmakers(1)
        .games(&games)
        .set("leaderboards.client_submit", "open_board")
        // Cases follow each other faster than a player types; floods have a play of their own.
        .set("limits.frames_per_second", 0)
        // Each request says where it is from, so that the usual rates per address can stay on.
        .set("http.trusted_proxies", "127.0.0.1")
        .set("limits.register_per_second", 3)
        .set("limits.auth_per_second", 5)
        .start()
        .await?;
    let gateway = cluster.gateway(0);
    let mut stage = Stage::new(&cluster.http, &gateway)?;
    let silent = limits::a_socket_without_a_session(&gateway);
    let mut failures = Vec::new();
    for case in case::all()? {
        if let Err(error) = run::case(&mut stage, &case).await {
            let why = case.deliberate.as_ref().map_or_else(String::new, |why| format!("\n    deliberate: {why}"));
            failures.push(format!("{}{why}\n    {error:#}", case.name));
        }
    }
    limits::run(&mut stage, &mut failures).await;
    limits::check(&mut failures, "a socket without a session is closed in time", silent.await?);
    assert!(failures.is_empty(), "{} cases fail:\n\n{}\n", failures.len(), failures.join("\n\n"));
    cluster.stop().await
}
