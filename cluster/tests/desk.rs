//! Deeds of operators: once per request id, and never without their entry in the audit.

use std::time::Duration;

use asobi_cluster::desk::{Deed, Desk};
use asobi_proto::ops_v1::{BanPlayerRequest, BanPlayerResponse};
use asobi_service_kit::grpc::Caller;
use asobi_store::{
    audit::{self, Filter},
    testing::TestDatabase,
};
use serde_json::json;
use tonic::{Code, Status};

const ACTION: &str = "PlayerService/BanPlayer";

fn deed<'a>(caller: &'a Caller, request_id: &'a str) -> Deed<'a> {
    Deed { caller, action: ACTION, request_id, subject: "ada".into(), detail: json!({"why": "spam"}) }
}

fn request(player: &str) -> BanPlayerRequest {
    BanPlayerRequest { player_id: player.into(), ..BanPlayerRequest::default() }
}

/// Raises a counter that stands for whatever a deed changes.
async fn act(desk: &Desk, caller: &Caller, request_id: &str, player: &str) -> Result<Option<i64>, Status> {
    let request = request(player);
    let did = desk.once(deed(caller, request_id), &request, async |conn| {
        let row = sqlx::query_scalar("INSERT INTO chat_channels (channel_id, seq) VALUES ('deeds', 1) ON CONFLICT (channel_id) DO UPDATE SET seq = chat_channels.seq + 1 RETURNING seq");
        Ok(Ok((BanPlayerResponse {}, row.fetch_one(conn).await?)))
    });
    Ok(did.await?.after)
}

#[tokio::test]
async fn a_request_is_carried_out_once_whoever_sends_it_again() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let desk = Desk::new(database.pool.clone(), Duration::from_secs(10));
    let (ada, bo) = (Caller::Node, Caller::Operator { name: "token:bo".into(), scopes: Default::default() });

    let twice = tokio::join!(act(&desk, &ada, "one", "x"), act(&desk, &ada, "one", "x"));
    let did = [twice.0?, twice.1?];
    assert!(did.contains(&Some(1)) && did.contains(&None), "{did:?}");
    let other = act(&desk, &ada, "one", "y").await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument, "{other:?}");
    assert_eq!(act(&desk, &bo, "one", "y").await?, Some(2), "ids are each caller's own");
    assert_eq!(act(&desk, &ada, "", "x").await?, Some(3));
    assert_eq!(act(&desk, &ada, "", "x").await?, Some(4), "without an id it is done each time");
    assert_eq!(act(&desk, &ada, &"x".repeat(129), "x").await.unwrap_err().code(), Code::InvalidArgument);

    let kept = audit::list(&database.pool, &Filter { subject: Some("ada".into()), ..Filter::default() }, 10).await?;
    let written: Vec<_> = kept.iter().map(|k| (k.entry.actor.as_str(), k.entry.request_id.as_deref())).collect();
    assert_eq!(written, [("node", None), ("node", None), ("token:bo", Some("one")), ("node", Some("one"))]);
    Ok(())
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_and_may_be_tried_again() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let desk = Desk::new(database.pool.clone(), Duration::from_secs(10));
    let request = request("x");
    let refused = desk.once(deed(&Caller::Node, "one"), &request, async |_| {
        Ok(Err::<(BanPlayerResponse, ()), _>(Status::not_found("no such player")))
    });
    assert_eq!(refused.await.unwrap_err().code(), Code::NotFound);
    assert!(audit::list(&database.pool, &Filter::default(), 10).await?.is_empty());
    assert_eq!(act(&desk, &Caller::Node, "one", "x").await?, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_deed_done_elsewhere_is_known_once_it_was_written_down() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let desk = Desk::new(database.pool.clone(), Duration::from_secs(10));
    let (caller, request) = (Caller::Node, request("x"));
    assert_eq!(desk.before::<_, BanPlayerResponse>(&deed(&caller, "one"), &request).await?, None);
    desk.record(deed(&caller, "one"), &request, BanPlayerResponse {}).await?;
    assert_eq!(desk.before(&deed(&caller, "one"), &request).await?, Some(BanPlayerResponse {}));
    Ok(())
}

#[tokio::test]
async fn the_audit_is_only_appended_to() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let desk = Desk::new(database.pool.clone(), Duration::from_secs(10));
    act(&desk, &Caller::Node, "one", "x").await?;
    for change in ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit", "TRUNCATE audit"] {
        let error = sqlx::query(change).execute(&database.pool).await.unwrap_err();
        assert!(error.to_string().contains("only appended to"), "{change}: {error}");
    }
    Ok(())
}
