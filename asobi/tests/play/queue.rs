use std::time::Duration;

use anyhow::Context as _;
use asobi_proto::matchmaker_v1::{
    CreateTicketRequest, GetQueueStatsRequest, PauseModeRequest, RequestBackfillRequest, ResumeModeRequest,
    SetModeSettingsRequest, TicketState, WatchTicketRequest, matchmaker_service_client::MatchmakerServiceClient,
};
use asobi_service_kit::grpc::{Channels, ClusterChannel};
use serde_json::{Value, json};
use tonic::Code;

use crate::support::{Client, Cluster, PATIENCE};

/// The matchmakers' own API, as internal tools call it: at the one that leads.
async fn leader(cluster: &Cluster) -> anyhow::Result<MatchmakerServiceClient<ClusterChannel>> {
    let key: String = sqlx::query_scalar("SELECT value FROM cluster_keys").fetch_one(&cluster.database.pool).await?;
    let addr = cluster.leading_matchmaker().await?.grpc.context("grpc")?;
    Ok(MatchmakerServiceClient::new(Channels::new(key).get(&addr)))
}

/// Pauses a mode and waits until the leader has heard of it.
async fn pause(tools: &mut MatchmakerServiceClient<ClusterChannel>, mode: &str) -> anyhow::Result<()> {
    tools.pause_mode(PauseModeRequest { mode: mode.into(), ..PauseModeRequest::default() }).await?;
    let started = std::time::Instant::now();
    loop {
        let stats = tools.get_queue_stats(GetQueueStatsRequest { mode: mode.into() }).await?.into_inner();
        if stats.modes.first().is_some_and(|stats| stats.paused) {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "{mode} is not paused: {stats:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn add(player: &mut Client, mode: &str, properties: Value, query: Option<&str>) -> anyhow::Result<Value> {
    player.call("matchmaker.add", json!({"mode": mode, "properties": properties, "query": query})).await
}

/// These two are matched with each other.
async fn meet(a: &mut Client, b: &mut Client) -> anyhow::Result<Value> {
    let (x, y) = (a.push("match.matched").await?, b.push("match.matched").await?);
    assert_eq!(x["match_id"], y["match_id"], "{x} {y}");
    assert_eq!(x["players"].as_array().map(Vec::len), Some(2), "{x}");
    Ok(x)
}

#[tokio::test]
async fn those_who_fit_meet() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).test_games().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let mut cy = cluster.player(0, "cy").await?;

    // By skill: the one far above waits, whoever came first.
    let waits = add(&mut cy, "skill", json!({"skill": 5000}), None).await?;
    add(&mut ada, "skill", json!({"skill": 1000}), None).await?;
    add(&mut bo, "skill", json!({"skill": 1040}), None).await?;
    meet(&mut ada, &mut bo).await?;
    let (status, row) = cy.account.get(&format!("/matchmaker/{}", waits["ticket_id"].as_str().expect("id"))).await?;
    assert_eq!((status, &row["status"]), (200, &json!("pending")), "{row}");
    cy.call("matchmaker.remove", json!({"ticket_id": waits["ticket_id"]})).await?;

    // By what each asks of the other.
    let mut di = cluster.player(1, "di").await?;
    let mut ed = cluster.player(1, "ed").await?;
    add(&mut cy, "wishes", json!({"region": "eu", "rank": 3}), Some("region = \"eu\" and rank >= 3")).await?;
    add(&mut di, "wishes", json!({"region": "eu", "rank": 1}), None).await?;
    add(&mut ed, "wishes", json!({"region": "eu", "rank": 4}), Some("abs(rank - self.rank) <= 1")).await?;
    meet(&mut cy, &mut ed).await?;

    // What makes no sense is refused, with the place of the mistake.
    let wrong = json!({"mode": "wishes", "query": "rank >= and"});
    let refusal = di.ask("matchmaker.add", wrong.clone()).await?;
    assert_eq!(refusal["payload"]["reason"], "invalid_query", "{refusal}");
    let error = &refusal["payload"]["error"];
    assert_eq!((&error["code"], &error["details"]["position"]), (&json!("ws.request_failed"), &json!(8)), "{refusal}");
    let (status, answer) = di.account.post("/matchmaker", wrong).await?;
    assert_eq!((status, &answer["error"]["details"]["position"]), (422, &json!(8)), "{answer}");
    assert_eq!(di.refused("matchmaker.add", json!({"mode": "skill", "query": "a = 1"})).await?, "invalid_query");
    let latencies = json!({"mode": "skill", "properties": {"latencies": {"eu": -1}}});
    assert_eq!(di.refused("matchmaker.add", latencies).await?, "invalid_payload");
    cluster.stop().await
}

#[tokio::test]
async fn operators_pause_resume_and_tune_a_mode() -> anyhow::Result<()> {
    let cluster = Cluster::new().test_games().start().await?;
    let mut tools = leader(&cluster).await?;
    let mut ada = cluster.player_with(0, "ada", &["queue"]).await?;
    let mut bo = cluster.player(1, "bo").await?;
    let pausing = PauseModeRequest { mode: "duel".into(), request_id: "first".into() };
    tools.pause_mode(pausing.clone()).await?;
    pause(&mut tools, "duel").await?;
    let missing = tools.pause_mode(PauseModeRequest { mode: "no_such".into(), ..PauseModeRequest::default() }).await;
    assert_eq!(missing.expect_err("refused").code(), Code::NotFound);

    // Tickets are taken and kept; who asked for it hears where they stand.
    let queued = add(&mut ada, "duel", json!({}), None).await?;
    let ticket_id = queued["ticket_id"].as_str().context("id")?.to_owned();
    let bo_id = bo.id().to_owned();
    let request = CreateTicketRequest { player_id: bo_id, mode: "duel".into(), ..CreateTicketRequest::default() };
    let created = tools.create_ticket(request).await?.into_inner();
    assert!(!created.already_queued && created.players_needed == 2, "{created:?}");
    let status = ada.push("matchmaker.status").await?;
    assert_eq!((&status["ticket_id"], &status["position"]), (&json!(ticket_id), &json!(1)), "{status}");
    assert!(status["waited_ms"].as_i64().is_some_and(|ms| ms > 0), "{status}");
    let stats = tools.get_queue_stats(GetQueueStatsRequest { mode: "duel".into() }).await?.into_inner();
    assert_eq!((stats.modes.len(), stats.modes[0].tickets, stats.modes[0].paused), (1, 2, true), "{stats:?}");

    // A watcher sees the ticket's end, and then its stream's.
    let watched = WatchTicketRequest { ticket_id: ticket_id.clone() };
    let mut watch = tools.watch_ticket(watched).await?.into_inner();
    let first = watch.message().await?.context("the ticket as it is")?;
    assert_eq!(first.ticket.context("ticket")?.state(), TicketState::Pending);
    tools.resume_mode(ResumeModeRequest { mode: "duel".into(), ..ResumeModeRequest::default() }).await?;
    let matched = ada.push("match.matched").await?;
    assert_eq!(bo.push("match.matched").await?["match_id"], matched["match_id"]);
    let last = tokio::time::timeout(PATIENCE, async {
        let mut last = None;
        while let Some(next) = watch.message().await? {
            last = next.ticket;
        }
        anyhow::Ok(last)
    })
    .await??
    .context("an end")?;
    assert_eq!((last.state(), &json!(last.match_id)), (TicketState::Matched, &matched["match_id"]));

    // A request that comes once more is answered as it was, and changes nothing.
    tools.pause_mode(pausing).await?;
    let (paused, written): (bool, i64) = sqlx::query_as(
        "SELECT paused, (SELECT count(*) FROM audit WHERE action = 'MatchmakerService/PauseMode' AND request_id = 'first')
         FROM modes WHERE mode = 'duel'",
    )
    .fetch_one(&cluster.database.pool)
    .await?;
    assert_eq!((paused, written), (false, 1));

    // An operator's settings win over the script's, by the script's rules.
    let set = |json: Value| SetModeSettingsRequest {
        mode: "crowd".into(),
        settings_json: json.to_string(),
        request_id: String::new(),
    };
    let refused = tools.set_mode_settings(set(json!({"match_size": 9}))).await.expect_err("refused");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "settings_json max_players must be at least match_size")
    );
    pause(&mut tools, "crowd").await?;
    tools.set_mode_settings(set(json!({"match_size": 2, "min_players": 2}))).await?;
    let mut cy = cluster.player(0, "cy").await?;
    let started = std::time::Instant::now();
    while add(&mut cy, "crowd", json!({}), None).await?["players_needed"] != 2 {
        anyhow::ensure!(started.elapsed() < PATIENCE, "the setting does not reach the gateway");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tools.resume_mode(ResumeModeRequest { mode: "crowd".into(), ..ResumeModeRequest::default() }).await?;
    let mut di = cluster.player(1, "di").await?;
    add(&mut di, "crowd", json!({}), None).await?;
    meet(&mut cy, &mut di).await?;
    cluster.stop().await
}

#[tokio::test]
async fn a_running_match_is_filled_from_the_queue() -> anyhow::Result<()> {
    let cluster = Cluster::new().test_games().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    for player in [&mut ada, &mut bo] {
        add(player, "refill", json!({}), None).await?;
    }
    let matched = meet(&mut ada, &mut bo).await?;
    assert_eq!(matched["teams"], Value::Null);
    ada.send("match.input", json!({"ask": 2})).await?;
    ada.push_where("match.state", |s| s["asked"] == "the match has fewer free seats than that").await?;
    ada.send("match.input", json!({"ask": 1})).await?;
    ada.push_where("match.state", |s| s["asked"] == true).await?;

    // The one who waits next comes in, without a word of theirs, and stands in the list.
    let mut cy = cluster.player(1, "cy").await?;
    add(&mut cy, "refill", json!({}), None).await?;
    let came = cy.push("match.matched").await?;
    assert_eq!(came["match_id"], matched["match_id"], "{came}");
    let cy_id = cy.id().to_owned();
    ada.push_where("match.state", |s| s["players"][&cy_id] == true).await?;
    cy.push_where("match.state", |s| s["players"][&cy_id] == true).await?;
    let id = matched["match_id"].clone();
    let full = |list: &Value| {
        list["matches"].as_array().is_some_and(|all| all.iter().any(|m| m["match_id"] == id && m["player_count"] == 3))
    };
    ada.account.get_until("/matches/live?mode=refill", full).await?;

    // Nobody else does, until somebody leaves and the match asks again.
    let mut di = cluster.player(0, "di").await?;
    add(&mut di, "refill", json!({}), None).await?;
    bo.call("match.leave", json!({})).await?;
    ada.send("match.input", json!({"ask": 1, "properties": {"skill": 3}})).await?;
    assert_eq!(di.push("match.matched").await?["match_id"], matched["match_id"]);

    // Tools may ask for a match too, under the same conditions.
    di.call("match.leave", json!({})).await?;
    let mut tools = leader(&cluster).await?;
    let ask = |match_id: &Value| RequestBackfillRequest {
        match_id: match_id.as_str().unwrap_or_default().into(),
        players: 1,
        ..RequestBackfillRequest::default()
    };
    tools.request_backfill(ask(&matched["match_id"])).await?;
    add(&mut bo, "refill", json!({}), None).await?;
    assert_eq!(bo.push("match.matched").await?["match_id"], matched["match_id"]);
    let unknown = tools.request_backfill(ask(&json!("01900000-0000-7000-8000-000000000000"))).await;
    assert_eq!(unknown.expect_err("no such match").code(), Code::NotFound);
    let closed = di.call("match.find_or_create", json!({"mode": "crowd"})).await?;
    let refused = tools.request_backfill(ask(&closed["match_id"])).await;
    assert_eq!(refused.expect_err("the mode has none").code(), Code::FailedPrecondition);
    cluster.stop().await
}

#[tokio::test]
async fn a_place_in_the_queue_is_kept_for_who_comes_back() -> anyhow::Result<()> {
    let cluster =
        Cluster::new().matchmakers(1).set("matchmaker.disconnect_grace_ms", 3000).test_games().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(0, "bo").await?;
    let kept = add(&mut ada, "teams", json!({}), None).await?;
    let lost = add(&mut bo, "teams", json!({}), None).await?;
    ada.close().await;
    bo.close().await;
    let other = cluster.gateway(1);
    let account = ada.account.at(other.http.as_deref().expect("http"));
    let ada = Client::connect(other.ws.as_deref().expect("ws"), account, &[]).await?;
    let path = |queued: &Value| format!("/matchmaker/{}", queued["ticket_id"].as_str().unwrap_or_default());
    let started = std::time::Instant::now();
    while bo.account.get(&path(&lost)).await?.0 == 200 {
        anyhow::ensure!(started.elapsed() < PATIENCE, "the ticket of a player who is gone stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ada.account.get(&path(&kept)).await?.0, 200, "who is back keeps the place");
    cluster.stop().await
}
