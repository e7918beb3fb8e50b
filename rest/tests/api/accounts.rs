//! Accounts, guests and tokens as clients meet them.

use std::{sync::Arc, time::Duration};

use crate::play::{Play, request, send};
use asobi_session::auth::{AuthError, Claims, Verifier, migration};
use serde_json::{Value, json};
use uuid::Uuid;

const SECRET: &str = "9nm7kLllYdsLmhCyxZk/m8JPbsuCDG2uq6nAutxj6lg=";

async fn whoami(play: &Play, token: &str, player: &str) -> u16 {
    play.ask("GET", &format!("/api/v1/players/{player}"), token, None).await.status.as_u16()
}

/// Waits until a node that was told over the bus has heard.
async fn dies(verifier: &Arc<Verifier>, token: &str) -> bool {
    let mut told = verifier.revoked();
    let heard = async {
        while !matches!(verifier.verify(token).await, Err(AuthError::Revoked)) {
            let _ = told.recv().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.is_ok()
}

#[tokio::test]
async fn an_account_logs_in_and_its_mistakes_are_named() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let ada = play.register("Ada").await;
    assert!(Uuid::parse_str(ada.text("player_id")).is_ok() && ada.text("username") == "Ada");
    let login = |name: &'static str, password: &'static str| {
        play.post("/api/v1/auth/login", json!({"username": name, "password": password}))
    };
    assert_eq!(login("ada", "secret123").await.text("player_id"), ada.text("player_id"), "a name has no case");
    let (wrong, nobody) = (login("Ada", "nope12345").await, login("nobody", "nope12345").await);
    assert_eq!((wrong.status.as_u16(), wrong.code()), (401, "auth.invalid_credentials"));
    assert_eq!(wrong.body, nobody.body, "the answer must not tell whether the player exists");
    let taken = play.post("/api/v1/auth/register", json!({"username": "ADA", "password": "secret123"})).await;
    assert_eq!((taken.status.as_u16(), taken.code()), (409, "auth.username_taken"));
    let broken = play.post("/api/v1/auth/register", json!({"username": "x", "password": "abc"})).await;
    assert_eq!((broken.status.as_u16(), broken.code()), (422, "validation_failed"));
    assert_eq!(broken.body["fields"], broken.body["error"]["details"]["fields"]);
    assert_eq!(broken.body["fields"]["username"][0], "should be at least 3 character(s)");
    for body in [json!({"username": "x"}), json!({"username": 5, "password": "secret123"}), json!([1, 2])] {
        let answer = play.post("/api/v1/auth/register", body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "missing_field"));
    }
    let damaged = play.send(request("POST", "/api/v1/auth/register", "", Some("{\"username\":"))).await;
    assert_eq!((damaged.status.as_u16(), damaged.code()), (400, "invalid_json"));
    play.end().await
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_family_everywhere() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let (_, elsewhere) = play.another().await?;
    let ada = play.register("ada").await;
    let refresh = |token: String| play.post("/api/v1/auth/refresh", json!({"refresh_token": token}));
    let first = refresh(ada.text("refresh_token").into()).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let second = refresh(first.text("refresh_token").into()).await;
    assert_eq!(second.status, 200);
    assert!(elsewhere.verify(second.text("access_token")).await.is_ok(), "keys are shared");
    let reused = refresh(first.text("refresh_token").into()).await;
    assert_eq!((reused.status.as_u16(), reused.code()), (401, "unauthenticated"));
    assert_eq!(refresh(second.text("refresh_token").into()).await.status, 401, "the family is over");
    assert_eq!(whoami(&play, second.text("access_token"), ada.text("player_id")).await, 401);
    assert!(dies(&elsewhere, second.text("access_token")).await, "other nodes hear of it");
    assert_eq!(refresh("unknown".into()).await.status, 401);
    assert_eq!(play.post("/api/v1/auth/refresh", json!({})).await.code(), "missing_field");
    play.end().await
}

#[tokio::test]
async fn two_that_present_one_refresh_token_at_once_do_not_both_succeed() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let ada = play.register("ada").await;
    let body = json!({"refresh_token": ada.text("refresh_token")});
    let (a, b) =
        tokio::join!(play.post("/api/v1/auth/refresh", body.clone()), play.post("/api/v1/auth/refresh", body.clone()));
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
    play.end().await
}

#[tokio::test]
async fn logout_ends_one_login_or_all_of_them() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let (_, elsewhere) = play.another().await?;
    let phone = play.register("ada").await;
    let login = || play.post("/api/v1/auth/login", json!({"username": "ada", "password": "secret123"}));
    let (desk, tablet) = (login().await, login().await);
    let id = phone.text("player_id");
    let out = play.ask("POST", "/api/v1/auth/logout", phone.text("access_token"), json!({})).await;
    assert_eq!(out.body, json!({"success": true}));
    assert_eq!(whoami(&play, phone.text("access_token"), id).await, 401);
    assert_eq!(whoami(&play, desk.text("access_token"), id).await, 200, "other logins live on");
    let refused = play.post("/api/v1/auth/refresh", json!({"refresh_token": phone.text("refresh_token")})).await;
    assert_eq!(refused.status, 401);
    // The refresh token alone will do, and `everywhere` takes every login with it.
    let body = json!({"refresh_token": desk.text("refresh_token"), "everywhere": true});
    assert_eq!(play.post("/api/v1/auth/logout", body).await.status, 200);
    assert!(dies(&elsewhere, tablet.text("access_token")).await);
    let again = login().await;
    assert_eq!(whoami(&play, again.text("access_token"), id).await, 200, "a later login is not concerned");
    for nonsense in [json!({}), json!([]), json!({"refresh_token": "nonsense"}), Value::Null] {
        assert_eq!(play.post("/api/v1/auth/logout", nonsense).await.body, json!({"success": true}));
    }
    play.end().await
}

#[tokio::test]
async fn a_guest_comes_back_and_becomes_an_account() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let guest =
        |id: &str, secret: &str| play.post("/api/v1/auth/guest", json!({"device_id": id, "device_secret": secret}));
    let first = guest("dev-1", SECRET).await;
    assert_eq!(
        (first.status.as_u16(), &first.body["guest"], &first.body["created"]),
        (200, &json!(true), &json!(true))
    );
    let back = guest("dev-1", SECRET).await;
    assert_eq!((back.text("player_id"), back.body.get("created")), (first.text("player_id"), None));
    let wrong = guest("dev-1", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").await;
    assert_eq!((wrong.status.as_u16(), wrong.code()), (401, "guest.invalid_device_secret"));
    assert_eq!(guest("", SECRET).await.code(), "guest.invalid_device_id");
    assert_eq!(guest("dev-2", "c2hvcnQ=").await.code(), "guest.weak_device_secret");
    assert_eq!(play.post("/api/v1/auth/guest", json!({"device_id": "x"})).await.code(), "missing_field");

    let upgrade = |token: &str, name: &str| {
        let body = json!({"username": name, "password": "secret123"});
        let token = token.to_owned();
        let play = &play;
        async move { play.ask("POST", "/api/v1/auth/guest/upgrade", &token, body).await }
    };
    play.register("taken").await;
    assert_eq!(upgrade(back.text("access_token"), "Taken").await.code(), "auth.username_taken");
    let account = upgrade(back.text("access_token"), "bob").await;
    assert_eq!((account.text("player_id"), &account.body["upgraded"]), (first.text("player_id"), &json!(true)));
    assert_eq!(whoami(&play, first.text("access_token"), first.text("player_id")).await, 401);
    assert_eq!(whoami(&play, account.text("access_token"), first.text("player_id")).await, 200);
    assert_eq!(upgrade(account.text("access_token"), "bob2").await.code(), "guest.not_unclaimed");
    let next = guest("dev-1", SECRET).await;
    assert_ne!(next.text("player_id"), first.text("player_id"), "the device is free again");
    play.end().await
}

#[tokio::test]
async fn simultaneous_guests_of_one_device_are_one_player() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let body = json!({"device_id": "dev", "device_secret": SECRET});
    let one = || play.post("/api/v1/auth/guest", body.clone());
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert!([&a, &b, &c].iter().all(|x| x.status == 200), "{} {} {}", a.body, b.body, c.body);
    assert!(a.text("player_id") == b.text("player_id") && b.text("player_id") == c.text("player_id"));
    play.end().await
}

#[tokio::test]
async fn doors_can_be_closed() -> anyhow::Result<()> {
    let play = Play::begin(&[("auth.guest", "false"), ("auth.registration", "false")]).await?;
    let guest = play.post("/api/v1/auth/guest", json!({"device_id": "d", "device_secret": SECRET})).await;
    assert_eq!((guest.status.as_u16(), guest.code()), (403, "guest.disabled"));
    let register = play.post("/api/v1/auth/register", json!({"username": "ada", "password": "secret123"})).await;
    assert_eq!((register.status.as_u16(), register.code()), (403, "auth.registration_closed"));
    play.end().await
}

#[tokio::test]
async fn erasure_needs_the_password_and_leaves_nothing() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let ada = play.register("ada").await;
    let token = ada.text("access_token");
    let erase = |body: Value| play.ask("POST", "/api/v1/players/me/erase", token, body);
    let missing = erase(json!({})).await;
    assert_eq!((missing.status.as_u16(), missing.code()), (400, "missing_field"));
    let wrong = erase(json!({"password": "bad"})).await;
    assert_eq!((wrong.status.as_u16(), wrong.code()), (403, "player.confirmation_failed"));
    assert_eq!(erase(json!({"password": "secret123"})).await.body, json!({"deleted": true}));
    assert_eq!(erase(json!({"password": "secret123"})).await.status, 401, "the token died with the player");
    let gone = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM players").fetch_one(&play.db.pool).await?;
    assert_eq!(gone, 0);
    play.end().await
}

#[tokio::test]
async fn a_migration_token_is_good_once_for_one_incarnation() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let (router, elsewhere) = play.another().await?;
    let ada = play.register("ada").await;
    let session: Claims = play.verifier.verify(ada.text("access_token")).await?;
    let carried = migration::Migration {
        session,
        match_id: Uuid::now_v7(),
        epoch: 3,
        capabilities: vec!["migrate".into(), "presence".into()],
    };
    let audience = migration::audience("match-0", 7);
    let mint = || migration::mint(&play.verifier, &carried, &audience).map(|(token, _)| token);
    let token = mint()?;
    assert!(play.verifier.verify(&token).await.is_err(), "it is no access token");
    assert_eq!(send(&router, request("GET", "/api/v1/matches", &token, None)).await.status, 401);
    let other = migration::audience("match-0", 8);
    assert!(migration::verify(&elsewhere, &token, &other).await.is_err(), "another incarnation refuses it");
    assert_eq!(migration::verify(&elsewhere, &token, &audience).await?, carried);
    assert!(migration::verify(&elsewhere, &token, &audience).await.is_err(), "it is used up");
    assert!(migration::verify(&elsewhere, ada.text("access_token"), &audience).await.is_err());
    let late = mint()?;
    play.ask("POST", "/api/v1/auth/logout", ada.text("access_token"), json!({})).await;
    assert!(dies(&elsewhere, ada.text("access_token")).await);
    assert!(matches!(migration::verify(&elsewhere, &late, &audience).await, Err(AuthError::Revoked)));
    play.end().await
}

#[tokio::test]
async fn keys_rotate_without_a_token_being_refused() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let before = play.register("ada").await;
    // The key has been signing for longer than it shall.
    sqlx::query("UPDATE signing_keys SET active_from = now() - interval '30 days'").execute(&play.db.pool).await?;
    let (router, elsewhere) = play.another().await?;
    let keys = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM signing_keys").fetch_one(&play.db.pool).await?;
    assert_eq!(keys, 2, "a successor was published");
    assert!(elsewhere.verify(before.text("access_token")).await.is_ok());
    let early = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM signing_keys WHERE active_from > now()");
    assert_eq!(early.fetch_one(&play.db.pool).await?, 1, "and does not sign yet");
    // Now it does, for nodes that start now; the first node meets a key it has never seen.
    sqlx::query("UPDATE signing_keys SET active_from = now() WHERE active_from > now()").execute(&play.db.pool).await?;
    let (router_of_new_key, _) = play.another().await?;
    let login = request("POST", "/api/v1/auth/login", "", Some(r#"{"username":"ada","password":"secret123"}"#));
    let after = send(&router_of_new_key, login).await;
    assert_eq!(after.status, 200, "{}", after.body);
    let kid = |token: &str| token.split('.').next().map(str::to_owned);
    assert_ne!(kid(before.text("access_token")), kid(after.text("access_token")));
    assert_eq!(whoami(&play, after.text("access_token"), before.text("player_id")).await, 200);
    let profile = format!("/api/v1/players/{}", before.text("player_id"));
    assert_eq!(send(&router, request("GET", &profile, after.text("access_token"), None)).await.status, 200);
    play.end().await
}

#[tokio::test]
async fn forged_tokens_are_refused() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let ada = play.register("ada").await;
    let token = ada.text("access_token");
    let (head, tail) = token.split_at(token.len() - 4);
    let mut forged = vec![
        String::new(),
        "x".into(),
        "a.b.c".into(),
        format!("{head}AAAA"),
        format!("{token}x"),
        head.to_owned(),
        "x".repeat(10_000),
    ];
    // Signed by nobody: {"alg":"none"} in place of the header.
    let parts: Vec<&str> = token.split('.').collect();
    forged.push(format!("eyJhbGciOiJub25lIn0.{}.", parts[1]));
    assert!(!tail.is_empty());
    for token in forged {
        assert_eq!(whoami(&play, &token, ada.text("player_id")).await, 401, "{token}");
    }
    play.end().await
}

#[tokio::test]
async fn what_has_expired_is_swept_and_nothing_else() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let old = play.register("old").await;
    sqlx::query("UPDATE refresh_tokens SET expires_at = now() - interval '1 second'").execute(&play.db.pool).await?;
    let expired = play.post("/api/v1/auth/refresh", json!({"refresh_token": old.text("refresh_token")})).await;
    assert_eq!(expired.status, 401);
    let new = play.register("new").await;
    let new = play.post("/api/v1/auth/refresh", json!({"refresh_token": new.text("refresh_token")})).await;
    asobi_store::tokens::sweep(&play.db.pool).await?;
    let left = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM token_families").fetch_one(&play.db.pool).await?;
    assert_eq!(left, 1, "the family with a living token");
    let next = play.post("/api/v1/auth/refresh", json!({"refresh_token": new.text("refresh_token")})).await;
    assert_eq!(next.status, 200);
    play.end().await
}
