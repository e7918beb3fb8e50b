use serde_json::json;

use crate::support::{Client, Cluster, rest};

#[tokio::test]
async fn accounts_work_on_every_node_and_end_everywhere() -> anyhow::Result<()> {
    let cluster = Cluster::new().start().await?;
    let (first, second) = (cluster.gateway(0), cluster.gateway(1));
    let (first_http, second_http) = (first.http.clone().expect("http"), second.http.clone().expect("http"));

    // Ada registers at one gateway and is known at the other.
    let ada = rest::Account::register(&cluster.http, &first_http, "ada").await?;
    let login = json!({"username": ada.username, "password": "correct horse"});
    let (status, body) =
        rest::request(cluster.http.post(format!("{second_http}/api/v1/auth/login")).json(&login)).await?;
    assert_eq!((status, &body["player_id"]), (200, &json!(ada.player_id)));
    let wrong = json!({"username": ada.username, "password": "wrong horse"});
    let (status, body) =
        rest::request(cluster.http.post(format!("{second_http}/api/v1/auth/login")).json(&wrong)).await?;
    assert_eq!((status, &body["error"]["code"]), (401, &json!("auth.invalid_credentials")));
    let again = json!({"username": ada.username.to_uppercase(), "password": "correct horse"});
    let (status, body) =
        rest::request(cluster.http.post(format!("{second_http}/api/v1/auth/register")).json(&again)).await?;
    assert_eq!((status, &body["error"]["code"]), (409, &json!("auth.username_taken")));

    // A guest comes back with the device's secret only.
    let secret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let guest = rest::Account::guest(&cluster.http, &first_http, "device-1", secret).await?;
    let back = rest::Account::guest(&cluster.http, &second_http, "device-1", secret).await?;
    assert_eq!(guest.player_id, back.player_id);
    let thief = json!({"device_id": "device-1", "device_secret": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="});
    let (status, body) =
        rest::request(cluster.http.post(format!("{first_http}/api/v1/auth/guest")).json(&thief)).await?;
    assert_eq!((status, &body["error"]["code"]), (401, &json!("guest.invalid_device_secret")));

    // A refresh token is good once; the second use ends its whole family, sockets too, on every node.
    let mut socket = Client::connect(second.ws.as_deref().expect("ws"), ada.clone(), &[]).await?;
    let token = json!({"refresh_token": ada.refresh_token});
    let refresh = |base: &str| cluster.http.post(format!("{base}/api/v1/auth/refresh")).json(&token);
    let (status, fresh) = rest::request(refresh(&first_http)).await?;
    assert_eq!(status, 200, "{fresh}");
    let (status, _) = rest::request(refresh(&second_http)).await?;
    assert_eq!(status, 401, "a used refresh token");
    socket.push("session.revoked").await?;
    assert_eq!(socket.closing().await?, (1008, "session_revoked".into()));
    let (status, _) = ada.at(&second_http).get("/friends").await?;
    assert_eq!(status, 401, "the family's access token is dead");

    // Log-out closes what that login opened.
    let mut socket = Client::connect(first.ws.as_deref().expect("ws"), back.clone(), &[]).await?;
    let (status, body) = back.post("/auth/logout", json!({"refresh_token": back.refresh_token})).await?;
    assert_eq!((status, body), (200, json!({"success": true})));
    socket.push("session.revoked").await?;
    assert_eq!(socket.closing().await?.0, 1008);
    cluster.stop().await
}
