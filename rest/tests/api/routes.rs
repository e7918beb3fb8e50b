//! What every route has in common, and the routes that need no other service.

use crate::play::{Play, request};
use axum::http::header;
use serde_json::{Value, json};

#[tokio::test]
async fn every_failure_has_the_error_object() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let ada = play.register("ada").await;
    let token = ada.text("access_token");
    let cases = [
        ("GET", "/api/v1/wallets", "", 401, "unauthenticated"),
        ("GET", "/api/v1/players/x", "", 401, "unauthenticated"),
        ("DELETE", "/api/v1/friends", "", 401, "unauthenticated"),
        ("GET", "/api/v1/nope", token, 404, "rpc.unknown_method"),
        ("GET", "/nope", "", 404, "rpc.unknown_method"),
        ("GET", "/", "", 404, "rpc.unknown_method"),
        ("DELETE", "/api/v1/friends", token, 405, "rpc.unknown_method"),
        ("GET", "/ws", "", 426, "ws.request_failed"),
        ("POST", "/ws", "", 405, "rpc.unknown_method"),
        ("GET", "/api/v1/players/not-a-uuid", token, 400, "invalid_payload"),
        ("GET", "/api/v1/players/me", token, 404, "player.not_found"),
        ("GET", "/api/v1/players/660a26d8-3008-4a8f-b0ac-5c5ce4eed692", token, 404, "player.not_found"),
        ("GET", "/api/v1/matches/x", token, 400, "invalid_payload"),
        ("GET", "/api/v1/matches/01fdba2b-8d2c-41cc-8bf0-9b71f17d77db", token, 404, "match.not_found"),
        ("GET", "/api/v1/matches/live?joinable=maybe", token, 400, "invalid_payload"),
        ("GET", "/api/v1/matchmaker/x", token, 400, "invalid_payload"),
        ("GET", "/api/v1/chat/nonsense/history", token, 400, "chat.invalid_channel_id"),
        ("GET", "/api/v1/chat/global:nope/history", token, 403, "forbidden"),
        ("GET", "/api/v1/chat/room:x/history", token, 403, "forbidden"),
        ("GET", "/api/v1/players/%00", token, 400, "invalid_payload"),
        ("GET", "/api/v1/chat/global:%00/history", token, 400, "chat.invalid_channel_id"),
        ("GET", "/api/v1/dm/x/history", token, 400, "invalid_payload"),
        ("GET", "/api/v1/chat/%ff/history", token, 400, "invalid_payload"),
        ("GET", "/api/v1/matches?mode=%00", token, 400, "invalid_payload"),
        ("POST", "/api/v1/friends", token, 400, "invalid_payload"),
        ("POST", "/api/v1/matchmaker", token, 400, "matchmaker.unknown_mode"),
        // Nobody runs a social service here.
        ("GET", "/api/v1/friends", token, 503, "not_ready"),
        ("GET", "/api/v1/leaderboards/weekly", token, 503, "not_ready"),
        ("POST", "/api/v1/leaderboards/weekly", token, 503, "not_ready"),
        ("GET", "/api/v1/leaderboards/weekly?scope=everybody", token, 400, "invalid_payload"),
        ("GET", "/api/v1/leaderboards/weekly?period=last", token, 400, "invalid_payload"),
    ];
    for (method, path, token, status, code) in cases {
        let answer = play.ask(method, path, token, None).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{method} {path}: {}", answer.body);
        assert!(answer.body["error"]["message"].is_string() && answer.body["error"]["details"].is_object());
        assert_eq!(answer.headers["x-correlation-id"].len(), 32, "{method} {path}");
        assert_eq!(status == 503, answer.headers.contains_key(header::RETRY_AFTER));
        assert_eq!(status == 405, answer.headers.contains_key(header::ALLOW));
    }
    play.end().await
}

#[tokio::test]
async fn bodies_are_bounded_and_only_json_counts() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let ada = play.register("ada").await;
    let (token, id) = (ada.text("access_token"), ada.text("player_id"));
    let large = json!({"metadata": {"x": "x".repeat(1_100_000)}});
    let answer = play.ask("PUT", &format!("/api/v1/players/{id}"), token, large.clone()).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (413, "payload_too_large"));
    let text = large.to_string();
    let mut announced = request("PUT", "/api/v1/saves/big", token, Some(&text));
    announced.headers_mut().insert(header::CONTENT_LENGTH, text.len().into());
    assert_eq!(play.send(announced).await.status, 413, "before routing");
    let mut untyped =
        request("POST", "/api/v1/auth/register", "", Some(r#"{"username":"zzz","password":"secret123"}"#));
    untyped.headers_mut().remove(header::CONTENT_TYPE);
    assert_eq!(play.send(untyped).await.code(), "missing_field");
    play.end().await
}

#[tokio::test]
async fn a_profile_is_shown_to_all_and_changed_by_its_owner() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let (ada, bo) = (play.register("ada").await, play.register("bo_").await);
    let (token, path) = (ada.text("access_token"), format!("/api/v1/players/{}", ada.text("player_id")));
    let shown = play.ask("GET", &path, bo.text("access_token"), None).await;
    assert_eq!((&shown.body["avatar_url"], &shown.body["display_name"]), (&Value::Null, &Value::Null));
    assert!(shown.body["inserted_at"].as_str().is_some_and(|at| at.ends_with('Z')));
    let put = |token: &str, body: Value| {
        let (token, path, play) = (token.to_owned(), path.clone(), &play);
        async move { play.ask("PUT", &path, &token, body).await }
    };
    let changed =
        put(token, json!({"display_name": "Ada!", "avatar_url": "https://e.x/a.png", "metadata": {"lvl": 3}})).await;
    assert_eq!(changed.body["metadata"], json!({"lvl": 3}));
    let ignored = put(token, json!({"username": "new"})).await;
    assert_eq!((ignored.text("username"), ignored.text("display_name")), ("ada", "Ada!"));
    assert_eq!(put(token, json!({"display_name": null})).await.body["display_name"], Value::Null);
    assert_eq!(put(bo.text("access_token"), json!({"display_name": "hax"})).await.code(), "forbidden");
    let mistyped = put(token, json!({"display_name": 5})).await;
    assert_eq!(mistyped.status, 422);
    assert_eq!(mistyped.body["errors"], json!({"display_name": ["cannot cast to string"]}));
    assert_eq!(mistyped.body["errors"], mistyped.body["error"]["details"]["errors"]);
    let long = put(token, json!({"display_name": "x".repeat(65)})).await;
    assert_eq!(long.body["errors"]["display_name"][0], "should be at most 64 character(s)");
    assert_eq!(put(token, json!({"metadata": {"x": "\u{0}"}})).await.status, 422);
    assert_eq!(put(token, json!([1])).await.status, 400);
    play.end().await
}

#[tokio::test]
async fn a_ticket_is_one_row_and_its_owners() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let (ada, bo) = (play.register("ada").await, play.register("bo_").await);
    let (token, other) = (ada.text("access_token"), bo.text("access_token"));
    sqlx::query("INSERT INTO modes (mode, settings) VALUES ('bench4', '{\"match_size\": 4}')")
        .execute(&play.db.pool)
        .await?;
    let add = |body: Value| play.ask("POST", "/api/v1/matchmaker", token, body);
    let first = add(json!({"mode": "bench4", "properties": {"skill": 1200}})).await;
    assert_eq!((first.text("status"), &first.body["players_needed"]), ("pending", &json!(4)), "{}", first.body);
    assert_eq!(first.body["already_queued"], json!(false));
    let again = add(json!({"mode": "bench4"})).await;
    assert_eq!((again.text("ticket_id"), &again.body["already_queued"]), (first.text("ticket_id"), &json!(true)));
    assert_eq!(add(json!({"mode": "bench4", "properties": 7})).await.status, 422);
    let path = format!("/api/v1/matchmaker/{}", first.text("ticket_id"));
    let shown = play.ask("GET", &path, token, None).await;
    assert_eq!((shown.text("mode"), &shown.body["properties"]), ("bench4", &json!({"skill": 1200})));
    assert!(shown.body["submitted_at"].is_i64());
    assert_eq!(play.ask("GET", &path, other, None).await.code(), "forbidden");
    assert_eq!(play.ask("DELETE", &path, other, None).await.code(), "forbidden");
    assert_eq!(play.ask("DELETE", &path, token, None).await.body, json!({"success": true}));
    assert_eq!(play.ask("GET", &path, token, None).await.code(), "matchmaker.ticket_not_found");
    play.end().await
}

#[tokio::test]
async fn rates_are_limited_per_address_and_kind() -> anyhow::Result<()> {
    let play = Play::begin(&[("limits.register_per_second", "3"), ("limits.auth_per_second", "5")]).await?;
    let mut last = play.post("/api/v1/auth/register", json!({"username": "x"})).await;
    assert_eq!(last.headers["x-ratelimit-remaining"], "2");
    for _ in 0..3 {
        last = play.post("/api/v1/auth/register", json!({"username": "x"})).await;
    }
    assert_eq!((last.status.as_u16(), last.code()), (429, "rate_limited"));
    assert_eq!((&last.body["retry_after"], &last.body["error"]["details"]["retry_after"]), (&json!(1), &json!(1)));
    assert_eq!((last.header("retry-after"), last.header("x-ratelimit-remaining")), ("1", "0"));
    assert!(last.headers.contains_key("x-ratelimit-reset"));
    assert_eq!(play.post("/api/v1/auth/refresh", json!({})).await.status, 400, "other limits are not concerned");
    play.end().await
}

#[tokio::test]
async fn probes_cors_and_traces() -> anyhow::Result<()> {
    let play = Play::begin(&[("page.enabled", "true")]).await?;
    assert_eq!(play.ask("GET", "/live", "", None).await.body, json!({"status": "alive"}));
    assert_eq!(play.ask("GET", "/ready", "", None).await.status, 503);
    play.readiness.set_ready(true);
    assert_eq!(play.ask("GET", "/ready", "", None).await.body, json!({"status": "ready"}));
    assert_eq!(play.ask("GET", "/health", "", None).await.body["dependencies"]["primary_db"]["status"], "healthy");
    let mut preflight = request("OPTIONS", "/api/v1/friends", "", None);
    preflight.headers_mut().insert("origin", "https://game.example".parse()?);
    preflight.headers_mut().insert("access-control-request-method", "POST".parse()?);
    preflight.headers_mut().insert("access-control-request-headers", "authorization".parse()?);
    let answer = play.send(preflight).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, "*"));
    assert_eq!(answer.headers["access-control-allow-headers"], "authorization");
    let mut traced = request("GET", "/live", "", None);
    traced.headers_mut().insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?);
    assert_eq!(play.send(traced).await.headers["x-correlation-id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    for path in ["/", "/app.js", "/style.css"] {
        let page = play.ask("GET", path, "", None).await;
        assert_eq!(page.status, 200);
        assert!(page.headers["content-security-policy"].to_str()?.starts_with("default-src 'none'"));
    }
    play.end().await
}

#[tokio::test]
async fn direct_messages_are_stored_and_read_by_both() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let (ada, bo) = (play.register("ada").await, play.register("bo_").await);
    let (to_bo, token) = (bo.text("player_id"), ada.text("access_token"));
    let send = |body: Value| play.ask("POST", "/api/v1/dm", token, body);
    let keyed = json!({"recipient_id": to_bo, "content": "hello", "idempotency_key": "k1"});
    let sent = send(keyed.clone()).await;
    assert_eq!((&sent.body["success"], sent.status.as_u16()), (&json!(true), 200), "{}", sent.body);
    assert_eq!(send(keyed).await.status, 200, "a repeat answers as the first did");
    let path = format!("/api/v1/dm/{}/history?limit=10", ada.text("player_id"));
    let read = play.ask("GET", &path, bo.text("access_token"), None).await;
    assert_eq!(read.text("channel_id"), sent.text("channel_id"));
    assert_eq!(read.body["messages"].as_array().map(Vec::len), Some(1), "{}", read.body);
    assert!(read.body["messages"][0]["sent_at"].is_i64() && read.body["messages"][0]["content"] == "hello");
    let channel = format!("/api/v1/chat/{}/history", sent.text("channel_id"));
    let history = play.ask("GET", &channel, token, None).await;
    assert_eq!(
        (&history.body["messages"][0]["channel_type"], &history.body["messages"][0]["seq"]),
        (&json!("dm"), &json!(1))
    );
    let stranger = play.register("carol").await;
    assert_eq!(play.ask("GET", &channel, stranger.text("access_token"), None).await.code(), "forbidden");
    for (body, status, code) in [
        (json!({"recipient_id": to_bo}), 400, "invalid_payload"),
        (json!({"recipient_id": "x", "content": "y"}), 400, "invalid_payload"),
        (json!({"recipient_id": to_bo, "content": ""}), 400, "dm.content_empty"),
        (json!({"recipient_id": to_bo, "content": "x".repeat(2_001)}), 413, "dm.content_too_large"),
    ] {
        let answer = send(body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code));
    }
    let note = send(json!({"recipient_id": ada.text("player_id"), "content": "to myself"})).await;
    assert_eq!(note.text("channel_id"), format!("dm:{0}:{0}", ada.text("player_id")), "{}", note.body);
    let read = play.ask("GET", &path, token, None).await;
    assert_eq!(
        (read.text("channel_id"), &read.body["messages"][0]["content"]),
        (note.text("channel_id"), &json!("to myself"))
    );
    sqlx::query("INSERT INTO friendships (id, player_id, friend_id, status, blocked_by) VALUES (gen_random_uuid(), $1::uuid, $2::uuid, 'blocked', $1::uuid)")
        .bind(to_bo)
        .bind(ada.text("player_id"))
        .execute(&play.db.pool)
        .await?;
    let mut blocked = send(json!({"recipient_id": to_bo, "content": "hello?"})).await;
    // What may be used is remembered for less than a second.
    while blocked.status == 200 {
        blocked = send(json!({"recipient_id": to_bo, "content": "hello?"})).await;
    }
    assert_eq!((blocked.status.as_u16(), blocked.code()), (403, "dm.blocked"));
    play.end().await
}
