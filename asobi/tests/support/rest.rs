//! The REST side of a player.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::PATIENCE;

/// An account with its tokens, and the node it talks REST to.
#[derive(Debug, Clone)]
pub struct Account {
    pub http: reqwest::Client,
    pub base: String,
    pub player_id: String,
    pub username: String,
    pub access_token: String,
    pub refresh_token: String,
}

impl Account {
    /// A new account; the name is made unique.
    pub async fn register(http: &reqwest::Client, base: &str, name: &str) -> anyhow::Result<Self> {
        let username = format!("{name}-{:06x}", rand::random::<u32>() & 0xff_ffff);
        let body = json!({"username": username, "password": "correct horse"});
        Self::enter(http, base, "/auth/register", body).await
    }

    pub async fn guest(
        http: &reqwest::Client,
        base: &str,
        device_id: &str,
        device_secret: &str,
    ) -> anyhow::Result<Self> {
        Self::enter(http, base, "/auth/guest", json!({"device_id": device_id, "device_secret": device_secret})).await
    }

    async fn enter(http: &reqwest::Client, base: &str, path: &str, body: Value) -> anyhow::Result<Self> {
        let (status, answer) = request(http.post(format!("{base}/api/v1{path}")).json(&body)).await?;
        ensure!(status == 200, "{path} answered {status}: {answer}");
        let text = |key: &str| answer[key].as_str().map(str::to_owned).with_context(|| format!("{key} in {answer}"));
        Ok(Self {
            http: http.clone(),
            base: base.to_owned(),
            player_id: text("player_id")?,
            username: text("username")?,
            access_token: text("access_token")?,
            refresh_token: text("refresh_token")?,
        })
    }

    /// The same account, by another node.
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.request(reqwest::Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
        self.request(reqwest::Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
        self.request(reqwest::Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.request(reqwest::Method::DELETE, path, None).await
    }

    async fn request(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> anyhow::Result<(u16, Value)> {
        let mut builder =
            self.http.request(method, format!("{}/api/v1{path}", self.base)).bearer_auth(&self.access_token);
        if let Some(body) = body {
            builder = builder.json(&body);
        }
        request(builder).await
    }

    /// Asks until the answer is what the play waits for: what services tell each other takes a moment.
    pub async fn get_until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let started = std::time::Instant::now();
        loop {
            let (status, answer) = self.get(path).await?;
            if status == 200 && wanted(&answer) {
                return Ok(answer);
            }
            ensure!(started.elapsed() < PATIENCE, "{path} still answers {status} {answer}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

/// Status and JSON body (null where there is none).
pub async fn request(builder: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let response = builder.send().await?;
    let status = response.status().as_u16();
    let body = response.bytes().await?;
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
