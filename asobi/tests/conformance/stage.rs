//! Who takes part: players, made when first named, their connections, and what cases have kept.
//!
//! `${alice}` is a player's id, `${alice.token}` and `${alice.refresh}` their tokens, `${alice.name}` their name; any other
//! name is one that was kept. `${fresh}` is new text each time, `${uuid}` an id of nothing, `${x*3}` is xxx.

use std::collections::HashMap;

use anyhow::{Context as _, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    case::Act,
    support::{Client, cluster::Process, rest::Account},
};

pub struct Stage {
    pub http: reqwest::Client,
    pub base: String,
    pub ws: String,
    players: HashMap<String, Account>,
    connections: HashMap<String, Client>,
    pub kept: HashMap<String, String>,
    addresses: u32,
}

/// An answer over REST.
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body, null where it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

impl Stage {
    pub fn new(http: &reqwest::Client, gateway: &Process) -> anyhow::Result<Self> {
        Ok(Self {
            http: http.clone(),
            base: gateway.http.clone().context("http")?,
            ws: gateway.ws.clone().context("ws")?,
            players: HashMap::new(),
            connections: HashMap::new(),
            kept: HashMap::new(),
            addresses: 0,
        })
    }

    /// An address no request came from yet.
    pub fn address(&mut self) -> String {
        self.addresses += 1;
        let [_, a, b, c] = self.addresses.to_be_bytes();
        format!("10.{a}.{b}.{c}")
    }

    /// Reads a step or an act, with all `${…}` filled in.
    pub async fn filled<T: DeserializeOwned>(&mut self, written: &Value) -> anyhow::Result<T> {
        let text = written.to_string();
        let (mut filled, mut rest) = (String::new(), text.as_str());
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').context("${ without }")?;
            filled.push_str(before);
            filled.push_str(&self.value(name).await?);
            rest = after;
        }
        filled.push_str(rest);
        serde_json::from_str(&filled).with_context(|| format!("the case is malformed: {filled}"))
    }

    async fn value(&mut self, name: &str) -> anyhow::Result<String> {
        if let Some((text, times)) = name.split_once('*') {
            return Ok(text.repeat(times.parse()?));
        }
        if let Some(kept) = self.kept.get(name) {
            return Ok(kept.clone());
        }
        match name {
            "fresh" => return Ok(format!("{:08x}", rand::random::<u32>())),
            "uuid" => return Ok(uuid::Uuid::now_v7().to_string()),
            _ => {}
        }
        let (player, part) = name.split_once('.').unwrap_or((name, "id"));
        let account = self.player(player).await?;
        Ok(match part {
            "id" => account.player_id,
            "name" => account.username,
            "token" => account.access_token,
            "refresh" => account.refresh_token,
            _ => bail!("a player has no {part}"),
        })
    }

    /// The player of that name, registered when first asked for.
    pub async fn player(&mut self, name: &str) -> anyhow::Result<Account> {
        if let Some(account) = self.players.get(name) {
            return Ok(account.clone());
        }
        let username = format!("{name}_{:06x}", rand::random::<u32>() & 0xff_ffff);
        let body = json!({"username": username, "password": "secret123", "display_name": name});
        let act = Act { rest: Some("POST /api/v1/auth/register".into()), body: Some(body), ..Act::default() };
        let answer = self.request(&act).await?;
        ensure!(answer.status == 200, "{name} cannot be registered: {} {}", answer.status, answer.text);
        let body = answer.json();
        let text = |key: &str| body[key].as_str().map(str::to_owned).with_context(|| format!("{key} in {body}"));
        let account = Account {
            http: self.http.clone(),
            base: self.base.clone(),
            player_id: text("player_id")?,
            username: text("username")?,
            access_token: text("access_token")?,
            refresh_token: text("refresh_token")?,
        };
        self.players.insert(name.to_owned(), account.clone());
        Ok(account)
    }

    /// Sends an act's request, each from an address of its own.
    pub async fn request(&mut self, act: &Act) -> anyhow::Result<Answer> {
        let address = self.address();
        self.request_from(act, &address).await
    }

    pub async fn request_from(&mut self, act: &Act, address: &str) -> anyhow::Result<Answer> {
        let (method, path) = act.rest.as_deref().and_then(|rest| rest.split_once(' ')).context("METHOD /path")?;
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let mut request = self.http.request(method, format!("{}{path}", self.base)).header("x-forwarded-for", address);
        let token = match (&act.token, &act.by) {
            (Some(token), _) => Some(token.clone()),
            // Registering is a request, too: it must not end here again.
            (None, Some(by)) => {
                Some(self.players.get(by).context("who sends it is not registered")?.access_token.clone())
            }
            (None, None) => None,
        };
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(text) = act.raw.clone().or_else(|| act.body.as_ref().map(Value::to_string)) {
            request = request.body(text);
            if !act.untyped {
                request = request.header("content-type", "application/json");
            }
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    /// Takes a connection, making it where it is not there; to be given back with [`Self::put`].
    pub async fn take(&mut self, name: &str) -> anyhow::Result<Client> {
        if let Some(client) = self.connections.remove(name) {
            return Ok(client);
        }
        let player = name.split('/').next().unwrap_or_default();
        if player == "new" {
            let nobody = self.player("alice").await?;
            return Client::open(&self.ws, nobody).await;
        }
        let account = self.player(player).await?;
        Client::connect(&self.ws, account, &[]).await
    }

    pub fn put(&mut self, name: &str, client: Client) {
        self.connections.insert(name.to_owned(), client);
    }

    /// Fresh sockets are fresh in each case.
    pub fn tidy(&mut self) {
        self.connections.retain(|name, client| !name.starts_with("new") && client.closed.is_none());
    }

    /// Keeps parts of an answer under their names.
    pub fn keep<'a>(
        &mut self,
        names: impl IntoIterator<Item = (&'a String, &'a String)>,
        answer: &Value,
    ) -> anyhow::Result<()> {
        for (name, pointer) in names {
            let part = answer.pointer(pointer).with_context(|| format!("no {pointer} in {answer}"))?;
            self.kept.insert(name.clone(), part.as_str().map_or_else(|| part.to_string(), str::to_owned));
        }
        Ok(())
    }
}
