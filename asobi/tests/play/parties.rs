use serde_json::{Value, json};

use crate::support::{Client, Cluster};

/// The leader founds a party, invites the others, and everybody sees it complete.
async fn party(leader: &mut Client, others: &mut [&mut Client]) -> anyhow::Result<Value> {
    let founded = leader.call("party.create", json!({})).await?;
    assert_eq!((&founded["leader_id"], &founded["members"][0]["online"]), (&json!(leader.id()), &json!(true)));
    let party_id = founded["party_id"].clone();
    for other in others.iter_mut() {
        leader.call("party.invite", json!({"player_id": other.id()})).await?;
        let invited = other.push("party.invited").await?;
        assert_eq!((&invited["party_id"], &invited["from"]), (&party_id, &json!(leader.id())), "{invited}");
        other.call("party.accept", json!({"party_id": party_id})).await?;
    }
    let all = others.len() + 1;
    let complete = |state: &Value| state["members"].as_array().is_some_and(|members| members.len() == all);
    let seen = leader.push_where("party.state", complete).await?;
    assert!(seen["members"].as_array().expect("members").iter().all(|m| m["ready"] == true && m["online"] == true));
    for other in others.iter_mut() {
        assert_eq!(other.push_where("party.state", complete).await?["leader_id"], leader.id());
    }
    Ok(party_id)
}

/// Which team a player is in.
fn team_of(matched: &Value, player: &Client) -> usize {
    let teams = matched["teams"].as_array().expect("teams");
    let member = |team: &Value| team.as_array().is_some_and(|ids| ids.contains(&json!(player.id())));
    teams.iter().position(member).expect("everybody is in a team")
}

#[tokio::test]
async fn a_party_across_gateways_plays_as_one_team() -> anyhow::Result<()> {
    let cluster = Cluster::new().test_games().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let mut cy = cluster.player(0, "cy").await?;
    let mut di = cluster.player(1, "di").await?;
    let first = party(&mut ada, &mut [&mut bo]).await?;
    let second = party(&mut cy, &mut [&mut di]).await?;

    // Only the leader queues; a member is told, and asking again is answered the same ticket.
    let wish = |party: &Value| json!({"mode": "teams", "party_id": party});
    assert_eq!(bo.refused("matchmaker.add", wish(&first)).await?, "not_party_leader");
    assert_eq!(cy.refused("matchmaker.add", wish(&first)).await?, "party_not_found");
    assert_eq!(ada.refused("matchmaker.add", json!({"mode": "duel", "party_id": 7})).await?, "party_not_found");
    let queued = ada.call("matchmaker.add", wish(&first)).await?;
    assert_eq!((&queued["status"], &queued["players_needed"]), (&json!("pending"), &json!(4)), "{queued}");
    let told = bo.push("matchmaker.queued").await?;
    assert_eq!((&told["ticket_id"], &told["mode"]), (&queued["ticket_id"], &json!("teams")), "{told}");
    let again = ada.call("matchmaker.add", wish(&first)).await?;
    assert_eq!((&again["ticket_id"], &again["already_queued"]), (&queued["ticket_id"], &json!(true)));
    let own = bo.call("matchmaker.add", json!({"mode": "teams"})).await?;
    assert_eq!(own["ticket_id"], queued["ticket_id"], "the party's ticket is the member's");
    assert_eq!(bo.refused("matchmaker.remove", json!({"ticket_id": queued["ticket_id"]})).await?, "not_owner");
    let path = format!("/matchmaker/{}", queued["ticket_id"].as_str().expect("id"));
    let (status, row) = bo.account.get(&path).await?;
    assert_eq!((status, &row["players"], &row["position"]), (200, &json!([ada.id(), bo.id()]), &json!(1)), "{row}");

    cy.call("matchmaker.add", wish(&second)).await?;
    let matched = ada.push("match.matched").await?;
    for player in [&mut bo, &mut cy, &mut di] {
        assert_eq!(player.push("match.matched").await?["match_id"], matched["match_id"]);
    }
    assert_eq!(team_of(&matched, &ada), team_of(&matched, &bo));
    assert_eq!(team_of(&matched, &cy), team_of(&matched, &di));
    assert_ne!(team_of(&matched, &ada), team_of(&matched, &cy));
    let state = di.push_where("match.state", |s| s["seated"] == 4).await?;
    assert_eq!(state["teams"], matched["teams"], "the script knows the teams");

    // Who plays cannot be queued, by nobody.
    assert_eq!(ada.refused("matchmaker.add", wish(&first)).await?, "already_in_match");
    assert_eq!(bo.refused("match.find_or_create", json!({"mode": "crowd"})).await?, "already_in_match");
    cluster.stop().await
}

#[tokio::test]
async fn members_come_and_go_and_their_ticket_with_them() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).set("matchmaker.party_size", 3).test_games();
    let cluster = cluster.start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let mut cy = cluster.player(1, "cy").await?;
    let di = cluster.player(0, "di").await?;
    let party_id = party(&mut ada, &mut [&mut bo]).await?;

    // What is refused, and why.
    assert_eq!(ada.refused("party.create", json!({})).await?, "already_in_party");
    assert_eq!(cy.refused("party.accept", json!({"party_id": party_id})).await?, "not_invited");
    assert_eq!(cy.refused("party.leave", json!({})).await?, "party_not_found");
    assert_eq!(bo.refused("party.invite", json!({"player_id": cy.id()})).await?, "not_party_leader");
    assert_eq!(ada.refused("party.invite", json!({"player_id": bo.id()})).await?, "already_in_party");
    assert_eq!(ada.refused("party.invite", json!({"player_id": "nobody"})).await?, "player_not_found");
    assert_eq!(ada.refused("party.invite", json!({})).await?, "missing_field");
    di.account.post("/friends", json!({"friend_id": ada.id()})).await?;
    di.account.put(&format!("/friends/{}", ada.id()), json!({"status": "blocked"})).await?;
    assert_eq!(ada.refused("party.invite", json!({"player_id": di.id()})).await?, "blocked");

    // A kick withdraws the ticket, and everybody hears why.
    let queued = ada.call("matchmaker.add", json!({"mode": "teams", "party_id": party_id})).await?;
    bo.push("matchmaker.queued").await?;
    ada.forget();
    ada.call("party.kick", json!({"player_id": bo.id()})).await?;
    for player in [&mut ada, &mut bo] {
        let removed = player.push("matchmaker.removed").await?;
        assert_eq!((&removed["ticket_id"], &removed["reason"]), (&queued["ticket_id"], &json!("party_changed")));
    }
    let out = bo.push_where("party.state", |s| s["leader_id"].is_null()).await?;
    assert_eq!(out, json!({"party_id": party_id, "leader_id": null, "members": []}));
    assert_eq!(ada.refused("matchmaker.remove", json!({"ticket_id": queued["ticket_id"]})).await?, "not_found");

    // Declined is over; two who accept at once find room for one.
    ada.call("party.invite", json!({"player_id": bo.id()})).await?;
    bo.call("party.decline", json!({"party_id": party_id})).await?;
    assert_eq!(bo.refused("party.accept", json!({"party_id": party_id})).await?, "not_invited");
    let mut ed = cluster.player(1, "ed").await?;
    for guest in [&mut bo, &mut cy, &mut ed] {
        ada.call("party.invite", json!({"player_id": guest.id()})).await?;
        guest.push("party.invited").await?;
    }
    bo.call("party.accept", json!({"party_id": party_id})).await?;
    let (c, e) = tokio::join!(
        cy.ask("party.accept", json!({"party_id": party_id})),
        ed.ask("party.accept", json!({"party_id": party_id})),
    );
    let (c, e) = (c?, e?);
    let refused: Vec<&Value> = [&c, &e].into_iter().filter(|frame| frame["type"] == "error").collect();
    assert_eq!(refused.len(), 1, "{c} {e}");
    assert_eq!(refused[0]["payload"]["reason"], "party_full");

    // A leader who leaves is succeeded by the oldest member; disbanding tells everybody.
    bo.forget();
    ada.call("party.leave", json!({})).await?;
    let bo_id = bo.id().to_owned();
    bo.push_where("party.state", |s| s["leader_id"] == bo_id.as_str()).await?;
    let state = bo.call("party.promote", json!({"player_id": bo.id()})).await?;
    assert_eq!((&state["leader_id"], state["members"].as_array().map(Vec::len)), (&json!(bo.id()), Some(2)), "{state}");
    bo.call("party.disband", json!({})).await?;
    let third = if c["type"] == "error" { &mut ed } else { &mut cy };
    third.push_where("party.state", |s| s["members"] == json!([])).await?;
    assert_eq!(third.refused("party.leave", json!({})).await?, "party_not_found");
    cluster.stop().await
}

#[tokio::test]
async fn a_partys_place_survives_its_leaders_gateway() -> anyhow::Result<()> {
    let cluster = Cluster::new().test_games().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let party_id = party(&mut ada, &mut [&mut bo]).await?;
    let queued = ada.call("matchmaker.add", json!({"mode": "teams", "party_id": party_id})).await?;
    bo.push("matchmaker.queued").await?;
    cluster.kill(&cluster.gateway(0)).await?;

    // Back within the grace, elsewhere: the ticket is the one it was.
    let other = cluster.gateway(1);
    let account = ada.account.at(other.http.as_deref().expect("http"));
    let mut ada = Client::connect(other.ws.as_deref().expect("ws"), account, &[]).await?;
    let state = ada.push("party.state").await?;
    assert_eq!((&state["party_id"], state["members"].as_array().map(Vec::len)), (&party_id, Some(2)), "{state}");
    let again = ada.call("matchmaker.add", json!({"mode": "teams", "party_id": party_id})).await?;
    assert_eq!((&again["ticket_id"], &again["already_queued"]), (&queued["ticket_id"], &json!(true)), "{again}");
    let mut cy = cluster.player(1, "cy").await?;
    let mut di = cluster.player(1, "di").await?;
    for single in [&mut cy, &mut di] {
        single.call("matchmaker.add", json!({"mode": "teams"})).await?;
    }
    let matched = ada.push("match.matched").await?;
    assert_eq!(bo.push("match.matched").await?["match_id"], matched["match_id"]);
    assert_eq!(team_of(&matched, &ada), team_of(&matched, &bo));
    assert_eq!(team_of(&matched, &cy), team_of(&matched, &di));

    // The others see who plays, and who goes.
    let own = ada.id().to_owned();
    let of_ada = |state: &Value, what: &str| {
        let all = state["members"].as_array().into_iter().flatten();
        all.filter(|m| m["player_id"] == own.as_str()).map(|m| m[what].clone()).next()
    };
    bo.push_where("party.state", |s| of_ada(s, "ready") == Some(json!(false))).await?;
    ada.close().await;
    bo.push_where("party.state", |s| of_ada(s, "online") == Some(json!(false))).await?;
    cluster.stop().await
}
