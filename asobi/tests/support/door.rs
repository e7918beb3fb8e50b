//! Coming in as an SDK does: as soon as one is told to, and no sooner.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

use super::{Client, PATIENCE, rest::Account};

/// What a client was told that was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// 503 at the upgrade, and after how many seconds to come again.
    Later(u64),
    /// The socket was closed, with this code.
    Closed(u16),
    /// Nobody listens there.
    NoSocket,
}

/// Tries once.
///
/// # Errors
/// Something was said that nobody who is turned away may be told.
pub async fn knock(ws: &str, account: &Account) -> anyhow::Result<Result<Client, Told>> {
    let client = match open(ws, account).await? {
        Ok(client) => client,
        Err(told) => return Ok(Err(told)),
    };
    greet(client).await
}

/// The socket alone.
///
/// # Errors
/// It is refused in a way that tells nobody what to do.
pub async fn open(ws: &str, account: &Account) -> anyhow::Result<Result<Client, Told>> {
    let error = match Client::open(ws, account.clone()).await {
        Ok(client) => return Ok(Ok(client)),
        Err(error) => error,
    };
    let Some(tungstenite::Error::Http(answer)) = error.downcast_ref::<tungstenite::Error>() else {
        return Ok(Err(Told::NoSocket));
    };
    let after = answer.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
    match (answer.status().as_u16(), after) {
        (503, Some(after)) => Ok(Err(Told::Later(after))),
        (status, after) => bail!("the upgrade was answered {status}, Retry-After {after:?}"),
    }
}

/// `session.connect` on a socket that is open.
///
/// # Errors
/// The answer is an error.
pub async fn greet(mut client: Client) -> anyhow::Result<Result<Client, Told>> {
    let token = client.account.access_token.clone();
    match client.call("session.connect", json!({"token": token})).await {
        Ok(connected) => {
            client.connected = connected;
            Ok(Ok(client))
        }
        Err(error) => match client.closed {
            Some((code, _)) => Ok(Err(Told::Closed(code))),
            None => Err(error),
        },
    }
}

/// Comes in at one of these, whatever it takes; how often it was told what.
///
/// # Errors
/// It was not let in at all.
pub async fn come_in(
    doors: &[String],
    first: usize,
    account: &Account,
) -> anyhow::Result<(Client, BTreeMap<Told, u32>)> {
    let mut told: BTreeMap<Told, u32> = BTreeMap::new();
    let coming = async {
        for attempt in 0.. {
            let why = match knock(&doors[(first + attempt) % doors.len()], account).await? {
                Ok(client) => return Ok(client),
                Err(why) => why,
            };
            *told.entry(why).or_default() += 1;
            let pause = match why {
                Told::Later(seconds) => Duration::from_secs(seconds),
                Told::Closed(_) | Told::NoSocket => Duration::from_millis(rand::random_range(200..800)),
            };
            tokio::time::sleep(pause).await;
        }
        bail!("nobody tries for ever")
    };
    let client = tokio::time::timeout(2 * PATIENCE, coming).await.context("was never let in")??;
    Ok((client, told))
}

/// Asks for `/ready` and for something of the account's until `done`; how often both were answered.
///
/// # Errors
/// One of them was not.
pub async fn bystander(account: &Account, done: &tokio::sync::Notify) -> anyhow::Result<u32> {
    let mut answered = 0;
    let done = done.notified();
    tokio::pin!(done);
    loop {
        let own = format!("/api/v1/players/{}", account.player_id);
        for (path, token) in [("/ready", None), (own.as_str(), Some(&account.access_token))] {
            let mut request = account.http.get(format!("{}{path}", account.base)).timeout(Duration::from_secs(5));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.with_context(|| format!("{path} is not answered"))?;
            let status = answer.status();
            anyhow::ensure!(status.is_success(), "{path} answered {status}: {:?}", answer.json::<Value>().await);
        }
        answered += 1;
        tokio::select! {
            () = &mut done => return Ok(answered),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}
