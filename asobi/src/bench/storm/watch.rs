//! What others find meanwhile: `/ready`, a REST call and heartbeats of sessions that did not move, and how much of its pool each gateway
//! uses.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::timeout_at};

use crate::bench::{
    cluster::Host,
    player::{Guest, call, heartbeat, open, ws},
    report::{histogram, quantiles, record},
};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(10);

/// One thing that is asked again and again.
pub struct Asked {
    what: &'static str,
    latency: Histogram<u64>,
    failed: u64,
}

impl Asked {
    fn new(what: &'static str) -> Self {
        Self { what, latency: histogram(), failed: 0 }
    }

    /// Counted from when it was due: what waits behind a slow answer waits, too.
    fn note(&mut self, due: Instant, well: bool) {
        if well {
            record(&mut self.latency, due.elapsed());
        } else {
            self.failed += 1;
        }
    }
}

/// The pool of a gateway, at its fullest.
#[derive(Debug, Default)]
pub struct Pool {
    pub node: String,
    pub most_in_use: f64,
    pub of: f64,
    /// Waits for a connection, in seconds: all of them, and their number.
    waited_s: f64,
    waits: f64,
    pub timeouts: f64,
}

pub struct Watched {
    asked: Vec<Asked>,
    pub pools: Vec<Pool>,
}

impl Watched {
    pub fn bystanders(&self) -> Vec<Value> {
        let mut rows: Vec<Value> = Vec::new();
        for what in ["ready", "rest", "heartbeat"] {
            let (mut all, mut failed) = (histogram(), 0);
            for asked in self.asked.iter().filter(|asked| asked.what == what) {
                // Both have the same bounds.
                let _ = all.add(&asked.latency);
                failed += asked.failed;
            }
            rows.push(json!({"what": what, "asked": all.len(), "failed": failed, "ms": quantiles(&all)}));
        }
        rows
    }

    pub fn pools(&self) -> Vec<Value> {
        let row = |pool: &Pool| {
            let mean_ms = (pool.waits > 0.0).then(|| (pool.waited_s / pool.waits * 1e6).round() / 1e3);
            json!({"node": pool.node, "most_in_use": pool.most_in_use, "of": pool.of, "wait_ms_mean": mean_ms,
                   "timeouts": pool.timeouts})
        };
        self.pools.iter().map(row).collect()
    }

    pub fn failed(&self) -> bool {
        self.asked.iter().any(|asked| asked.failed > 0) || self.pools.iter().any(|pool| pool.timeouts > 0.0)
    }
}

/// Watches these gateways until all is over.
///
/// # Errors
/// Somebody cannot be asked at all.
pub async fn watch(
    gateways: Vec<(String, Host)>,
    guests: Vec<Guest>,
    over: watch::Receiver<bool>,
) -> anyhow::Result<Watched> {
    let http = reqwest::Client::builder().timeout(DEADLINE).build()?;
    let (mut asking, mut looking) = (JoinSet::new(), JoinSet::new());
    for ((gateway, host), guest) in gateways.into_iter().zip(guests) {
        asking.spawn(get("ready", http.clone(), format!("{gateway}/ready"), None, over.clone()));
        let rest = format!("{gateway}/api/v1/players/{}", guest.player_id);
        let token = guest.access_token.clone();
        asking.spawn(get("rest", http.clone(), rest, Some(token), over.clone()));
        asking.spawn(beat(gateway, guest, over.clone()));
        looking.spawn(pool(http.clone(), host, over.clone()));
    }
    Ok(Watched { asked: asking.join_all().await, pools: looking.join_all().await })
}

/// Waits until then; false when all is over.
async fn until(due: Instant, over: &mut watch::Receiver<bool>) -> bool {
    timeout_at(due.into(), over.wait_for(|over| *over)).await.is_err()
}

async fn get(
    what: &'static str,
    http: reqwest::Client,
    url: String,
    token: Option<String>,
    mut over: watch::Receiver<bool>,
) -> Asked {
    let mut asked = Asked::new(what);
    let mut due = Instant::now() + EVERY;
    while until(due, &mut over).await {
        let mut request = http.get(&url);
        if let Some(token) = &token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await;
        asked.note(due, answer.is_ok_and(|answer| answer.status().is_success()));
        due += EVERY;
    }
    asked
}

async fn beat(gateway: String, guest: Guest, mut over: watch::Receiver<bool>) -> Asked {
    let mut asked = Asked::new("heartbeat");
    let entering = async {
        let mut socket = open(&ws(&gateway)).await?;
        call(&mut socket, "session.connect", json!({"token": guest.access_token})).await?;
        anyhow::Ok(socket)
    };
    let Ok(mut socket) = entering.await else {
        asked.failed += 1;
        return asked;
    };
    let mut due = Instant::now() + EVERY;
    while until(due, &mut over).await {
        let well = heartbeat(&mut socket, DEADLINE).await;
        asked.note(due, well);
        if !well {
            break;
        }
        due += EVERY;
    }
    asked
}

/// The value of a series, by how its line begins.
fn value(exposition: &str, series: &str) -> f64 {
    let line = exposition.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0.0)
}

async fn pool(http: reqwest::Client, host: Host, mut over: watch::Receiver<bool>) -> Pool {
    let mut pool = Pool { node: host.node_id, ..Pool::default() };
    let Some(metrics) = host.metrics else { return pool };
    let mut before: Option<[f64; 3]> = None;
    while until(Instant::now() + EVERY, &mut over).await {
        let Ok(answer) = http.get(format!("http://{metrics}/metrics")).send().await else { continue };
        let text = answer.text().await.unwrap_or_default();
        pool.most_in_use = pool.most_in_use.max(value(&text, r#"asobi_database_pool_connections{state="in_use"}"#));
        pool.of = value(&text, "asobi_database_pool_max");
        let now = ["wait_seconds_sum", "wait_seconds_count", "timeouts_total"]
            .map(|of| value(&text, &format!("asobi_database_pool_{of} ")));
        let [waited_s, waits, timeouts] = before.get_or_insert(now);
        (pool.waited_s, pool.waits, pool.timeouts) = (now[0] - *waited_s, now[1] - *waits, now[2] - *timeouts);
    }
    pool
}
