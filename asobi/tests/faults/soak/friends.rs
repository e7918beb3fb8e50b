//! Some come and go and say what they do; their friends watch. When nothing happens any more, each watcher must see what the
//! rows say, and the rows what is so.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    matchmaking::bots::Door,
    support::{Client, PATIENCE, rest::Account},
};

const WATCHERS: usize = 3;
const CHURNERS: usize = 4;
/// To open a socket and be answered there; then another gateway is tried.
const REACH: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_millis(200);
/// 32 bytes in base64.
const DEVICE_SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// What somebody is seen to do; who is not seen is not there.
type View = BTreeMap<String, String>;

pub async fn guest(http: &reqwest::Client, door: &Door, name: &str) -> anyhow::Result<Account> {
    let device = format!("{name}-{:08x}", rand::random::<u32>());
    Account::guest(http, &door.http, &device, DEVICE_SECRET).await
}

/// A session at the first gateway that gives one, tried from the `n`th on.
pub async fn come_in(account: &Account, doors: &[Door], n: usize, capabilities: &[&str]) -> anyhow::Result<Client> {
    let since = Instant::now();
    let mut refusal = None;
    while since.elapsed() < PATIENCE {
        for i in 0..doors.len() {
            let ws = &doors[(n + i) % doors.len()].ws;
            match timeout(REACH, Client::connect(ws, account.clone(), capabilities)).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error)) => refusal = Some(error),
                Err(_) => {}
            }
        }
        sleep(AGAIN).await;
    }
    anyhow::bail!("no gateway takes {} in; the last said {refusal:?}", account.username)
}

pub struct Friends {
    churning: JoinSet<anyhow::Result<()>>,
    watching: JoinSet<anyhow::Result<()>>,
    views: BTreeMap<String, Arc<Mutex<View>>>,
    /// Of each churner, what they do when all is over; absent: not there.
    last: Arc<Mutex<BTreeMap<String, Option<String>>>>,
    phase: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Churn,
    /// Everybody does what they do last.
    Still,
    Over,
}

impl Friends {
    pub async fn meet(http: &reqwest::Client, doors: &[Door], seed: u64) -> anyhow::Result<Self> {
        let phase = watch::Sender::new(Phase::Churn);
        let door = |n: usize| &doors[n % doors.len()];
        let watchers = try_join_all((0..WATCHERS).map(|n| guest(http, door(n), "watcher"))).await?;
        let churners = try_join_all((0..CHURNERS).map(|n| guest(http, door(n), "churner"))).await?;
        for watcher in &watchers {
            for churner in &churners {
                let (asked, _) = watcher.post("/friends", json!({"friend_id": churner.player_id})).await?;
                let path = format!("/friends/{}", watcher.player_id);
                let (accepted, row) = churner.put(&path, json!({"status": "accepted"})).await?;
                ensure!((asked, accepted) == (200, 200), "no friends: {asked}, {accepted}, {row}");
            }
        }
        let (mut views, mut watching) = (BTreeMap::new(), JoinSet::new());
        for (n, account) in watchers.into_iter().enumerate() {
            let view = Arc::<Mutex<View>>::default();
            views.insert(account.player_id.clone(), Arc::clone(&view));
            watching.spawn(watch_on(account, doors.to_vec(), n, view, phase.subscribe()));
        }
        let (last, mut churning) = (Arc::<Mutex<BTreeMap<_, _>>>::default(), JoinSet::new());
        for (n, account) in churners.into_iter().enumerate() {
            let churner = Churner {
                account,
                doors: doors.to_vec(),
                random: StdRng::seed_from_u64(seed.wrapping_add(n as u64)),
                stays: n % 2 == 0,
                phase: phase.subscribe(),
                last: Arc::clone(&last),
            };
            churning.spawn(churner.churn());
        }
        Ok(Self { churning, watching, views, last, phase })
    }

    /// Nobody churns any more; returns when all see the same, and it is so.
    pub async fn converge(mut self, pool: &PgPool) -> anyhow::Result<usize> {
        self.phase.send_replace(Phase::Still);
        let since = Instant::now();
        loop {
            let problem = self.disagreement(pool).await?;
            let Some(problem) = problem else { break };
            if let Some(ended) = self.churning.try_join_next().or_else(|| self.watching.try_join_next()) {
                ended?.context("a friend gave up")?;
            }
            ensure!(since.elapsed() < PATIENCE, "presence does not converge: {problem}");
            sleep(AGAIN).await;
        }
        self.phase.send_replace(Phase::Over);
        while let Some(ended) = self.churning.join_next().await {
            ended??;
        }
        while let Some(ended) = self.watching.join_next().await {
            ended??;
        }
        Ok(self.views.len())
    }

    async fn disagreement(&self, pool: &PgPool) -> anyhow::Result<Option<String>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if last.len() < CHURNERS {
            return Ok(Some(format!("{} of {CHURNERS} have come to rest", last.len())));
        }
        let expected: View = last.iter().filter_map(|(id, status)| Some((id.clone(), status.clone()?))).collect();
        let ids: Vec<&str> = last.keys().map(String::as_str).collect();
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT DISTINCT s.player_id::text, s.status FROM sessions s JOIN nodes n USING (node_id, incarnation)
             WHERE s.player_id::text = ANY($1) AND n.lease_until > now() ORDER BY 1, 2",
        )
        .bind(&ids)
        .fetch_all(pool)
        .await?;
        let wanted: Vec<(String, String)> = expected.clone().into_iter().collect();
        if rows != wanted {
            return Ok(Some(format!("the rows say {rows:?}, and it is {wanted:?}")));
        }
        Ok(self.views.iter().find_map(|(id, view)| {
            let view = view.lock().unwrap_or_else(PoisonError::into_inner);
            (*view != expected).then(|| format!("{id} sees {view:?}, and it is {expected:?}"))
        }))
    }
}

async fn is_over(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Over).await;
}

/// Sees what the snapshot says, and the changes after it.
async fn watch_on(
    account: Account,
    doors: Vec<Door>,
    n: usize,
    view: Arc<Mutex<View>>,
    mut phase: watch::Receiver<Phase>,
) -> anyhow::Result<()> {
    loop {
        let mut client = come_in(&account, &doors, n, &["presence"]).await?;
        loop {
            let frame = tokio::select! {
                frame = client.frame() => frame?,
                () = is_over(&mut phase) => {
                    client.close().await;
                    return Ok(());
                }
            };
            let Some(frame) = frame else { break };
            let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
            if frame["type"] == "presence.snapshot" {
                let friends = frame["payload"]["friends"].as_array().into_iter().flatten();
                *view = friends.map(|friend| (text(friend, "player_id"), text(friend, "status"))).collect();
            } else if frame["type"] == "presence.changed" {
                view.insert(text(&frame["payload"], "player_id"), text(&frame["payload"], "status"));
            }
            view.retain(|_, status| status != "offline");
        }
    }
}

/// One who comes and goes.
struct Churner {
    account: Account,
    doors: Vec<Door>,
    random: StdRng,
    /// Whether they are there when all is over.
    stays: bool,
    phase: watch::Receiver<Phase>,
    last: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

impl Churner {
    async fn churn(mut self) -> anyhow::Result<()> {
        let mut n = 0;
        while *self.phase.borrow() == Phase::Churn {
            let door = self.random.random_range(0..self.doors.len());
            let mut client = come_in(&self.account, &self.doors, door, &[]).await?;
            let stays_for = Duration::from_millis(self.random.random_range(200..6_000));
            let until = Instant::now() + stays_for;
            while Instant::now() < until && *self.phase.borrow() == Phase::Churn && client.closed.is_none() {
                n += 1;
                // Whatever is said to it: another follows.
                let update = json!({"status": format!("at {n}")});
                let _ = client.ask("presence.update", update).await;
                let _ = timeout(Duration::from_millis(self.random.random_range(300..1_500)), client.closing()).await;
            }
            client.close().await;
            self.pause().await;
        }
        self.rest().await
    }

    async fn pause(&mut self) {
        let pause = Duration::from_millis(self.random.random_range(0..4_000));
        let _ = timeout(pause, self.phase.wait_for(|phase| *phase > Phase::Churn)).await;
    }

    /// What they do last, for as long as anybody looks.
    async fn rest(mut self) -> anyhow::Result<()> {
        let id = self.account.player_id.clone();
        let tell = |last: &Mutex<BTreeMap<_, _>>, status| {
            last.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), status);
        };
        if !self.stays {
            tell(&self.last, None);
            return Ok(());
        }
        loop {
            let mut client = come_in(&self.account, &self.doors, 0, &[]).await?;
            while client.closed.is_none() {
                let answer = client.ask("presence.update", json!({"status": "at rest"})).await;
                if answer.is_ok_and(|answer| answer["type"] == "presence.updated") {
                    tell(&self.last, Some("at rest".to_owned()));
                    break;
                }
                sleep(AGAIN).await;
            }
            tokio::select! {
                _ = client.closing() => {}
                () = is_over(&mut self.phase) => {
                    client.close().await;
                    return Ok(());
                }
            }
        }
    }
}
