//! Scores that players submit, and notifications that they are told: each that was answered counts once, each reaches
//! everybody once.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use asobi_proto::social_v1::{
    CreateNotificationJobRequest, PlayerList, create_notification_job_request::Target,
    notification_admin_service_client::NotificationAdminServiceClient,
};
use futures_util::future::try_join_all;
use serde_json::json;
use sqlx::PgPool;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::friends::{come_in, guest};
use crate::{
    boards::{self, Ledger},
    matchmaking::bots::Door,
    support::{Client, Cluster, PATIENCE, rest::Account, until},
};

pub const BOARD: &str = "open";
const SCORERS: usize = 4;
const RECEIVERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(250);
/// Between two jobs that tell everybody something.
const BETWEEN_JOBS: Duration = Duration::from_secs(4);
/// For a request; then another node is asked.
const ANSWER: Duration = Duration::from_secs(10);

pub struct Scores {
    scorers: JoinSet<anyhow::Result<Ledger>>,
    /// Of each scorer, when they submitted what was acknowledged last.
    pub acknowledged: Vec<watch::Receiver<Option<Instant>>>,
    stop: watch::Sender<bool>,
}

impl Scores {
    pub async fn begin(cluster: &Cluster, doors: &[Door]) -> anyhow::Result<Self> {
        let pool = &cluster.database.pool;
        sqlx::query("INSERT INTO leaderboards (id, operator) VALUES ($1, 'sum')").bind(BOARD).execute(pool).await?;
        let stop = watch::Sender::new(false);
        let (mut scorers, mut acknowledged) = (JoinSet::new(), Vec::new());
        for n in 0..SCORERS {
            let account = guest(&cluster.http, &doors[n % doors.len()], "scorer").await?;
            let last = watch::Sender::new(None);
            acknowledged.push(last.subscribe());
            scorers.spawn(score(account, doors.to_vec(), n, last, stop.subscribe()));
        }
        Ok(Self { scorers, acknowledged, stop })
    }

    /// Nobody submits any more; how many scores were acknowledged. Rows and services have them.
    pub async fn end(mut self, cluster: &Cluster) -> anyhow::Result<usize> {
        self.stop.send_replace(true);
        let mut ledgers = Vec::new();
        while let Some(ledger) = self.scorers.join_next().await {
            ledgers.push(ledger??);
        }
        boards::nothing_is_lost(cluster, &ledgers).await?;
        boards::all_rank_as_the_rows(cluster, BOARD, SCORERS).await?;
        Ok(ledgers.iter().map(|ledger| ledger.acknowledged.len()).sum())
    }
}

async fn score(
    account: Account,
    doors: Vec<Door>,
    first: usize,
    acknowledged: watch::Sender<Option<Instant>>,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<Ledger> {
    let mut ledger = Ledger { board: BOARD, player: account.player_id.parse()?, ..Ledger::default() };
    let mut door = first;
    while !*stop.borrow() {
        let at = account.at(&doors[door % doors.len()].http);
        let (path, began) = (format!("/leaderboards/{BOARD}"), Instant::now());
        match timeout(ANSWER, at.post(&path, json!({"score": 0.5}))).await {
            Ok(Ok((200, _))) => {
                ledger.acknowledged.push(0.5);
                acknowledged.send_replace(Some(began));
            }
            Ok(Ok((503, _)) | Err(_)) | Err(_) => {
                ledger.unknown.push(0.5);
                door += 1;
            }
            Ok(Ok((status, answer))) => anyhow::bail!("a score was answered {status} {answer}"),
        }
        sleep(PAUSE).await;
    }
    Ok(ledger)
}

pub struct Notifications {
    receivers: JoinSet<anyhow::Result<(String, BTreeSet<String>)>>,
    players: Vec<String>,
    /// The subjects that everybody must have heard, when there is nothing more to say.
    all: watch::Sender<Option<BTreeSet<String>>>,
}

impl Notifications {
    pub async fn begin(cluster: &Cluster, doors: &[Door]) -> anyhow::Result<Self> {
        let all = watch::Sender::new(None);
        let guests = (0..RECEIVERS).map(|n| guest(&cluster.http, &doors[n % doors.len()], "receiver"));
        let accounts = try_join_all(guests).await?;
        let players = accounts.iter().map(|account| account.player_id.clone()).collect();
        let mut receivers = JoinSet::new();
        for (n, account) in accounts.into_iter().enumerate() {
            receivers.spawn(receive(account, doors.to_vec(), n, all.subscribe()));
        }
        Ok(Self { receivers, players, all })
    }

    /// Tells everybody something every few seconds until it is over, and once more then; how often.
    pub async fn tell(&self, cluster: &Cluster, mut over: watch::Receiver<bool>) -> anyhow::Result<usize> {
        let mut told = 0;
        loop {
            let is_over = *over.borrow();
            self.order(cluster, told).await?;
            told += 1;
            if is_over {
                return Ok(told);
            }
            let _ = timeout(BETWEEN_JOBS, over.wait_for(|over| *over)).await;
        }
    }

    /// Orders a job at any social service, under one request id until an answer comes.
    async fn order(&self, cluster: &Cluster, n: usize) -> anyhow::Result<()> {
        let request = CreateNotificationJobRequest {
            request_id: format!("soak-{n}"),
            target: Some(Target::Players(PlayerList { player_ids: self.players.clone() })),
            r#type: "soak".into(),
            subject: subject(n),
            ..CreateNotificationJobRequest::default()
        };
        let since = Instant::now();
        loop {
            for service in cluster.processes("social_services") {
                let Ok(channel) = boards::channel(cluster, &service).await else { continue };
                let mut jobs = NotificationAdminServiceClient::new(channel);
                if let Ok(Ok(_)) = timeout(ANSWER, jobs.create_notification_job(request.clone())).await {
                    return Ok(());
                }
            }
            ensure!(since.elapsed() < 2 * PATIENCE, "no social service takes a job");
            sleep(PAUSE).await;
        }
    }

    /// Everybody has each of them once: in the rows, and by what they heard.
    pub async fn end(mut self, pool: &PgPool, told: usize) -> anyhow::Result<()> {
        until("all jobs are done", async || {
            let sql = "SELECT count(*) FROM notification_jobs WHERE state = 'done'";
            let done: i64 = sqlx::query_scalar(sql).fetch_one(pool).await?;
            Ok(usize::try_from(done)? >= told)
        })
        .await?;
        let jobs: Vec<(String, i64)> = sqlx::query_as(
            "SELECT subject, count(*) FROM notifications WHERE type = 'soak' GROUP BY player_id, subject",
        )
        .fetch_all(pool)
        .await?;
        let twice: Vec<_> = jobs.iter().filter(|(_, n)| *n > 1).collect();
        ensure!(twice.is_empty(), "somebody was told twice: {twice:?}");
        ensure!(jobs.len() == told * RECEIVERS, "{} of {told} times {RECEIVERS} notifications are there", jobs.len());
        self.all.send_replace(Some((0..told).map(subject).collect()));
        while let Some(heard) = self.receivers.join_next().await {
            let (player, missing) = heard??;
            ensure!(missing.is_empty(), "{player} has not heard of {missing:?}");
        }
        Ok(())
    }
}

fn subject(n: usize) -> String {
    format!("news {n}")
}

/// Hears what is pushed, and reads the list when it comes in, as clients do; then what it has not heard in time.
async fn receive(
    account: Account,
    doors: Vec<Door>,
    n: usize,
    mut all: watch::Receiver<Option<BTreeSet<String>>>,
) -> anyhow::Result<(String, BTreeSet<String>)> {
    let mut heard = BTreeSet::new();
    let mut client: Option<(Client, BTreeSet<String>)> = None;
    let mut deadline = None;
    loop {
        let missing = all.borrow_and_update().as_ref().map(|all| all - &heard);
        if let Some(missing) = missing {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            if missing.is_empty() || Instant::now() > deadline {
                return Ok((account.player_id, missing));
            }
        }
        let Some((socket, pushed)) = &mut client else {
            let socket = come_in(&account, &doors, n, &[]).await?;
            if let Some(listed) = list(&account, &doors).await? {
                heard.extend(listed);
                client = Some((socket, BTreeSet::new()));
            }
            continue;
        };
        let frame = tokio::select! {
            frame = socket.frame() => frame?,
            _ = all.changed(), if deadline.is_none() => continue,
            () = sleep(PAUSE), if deadline.is_some() => continue,
        };
        match frame {
            Some(frame) if frame["type"] == "notification.new" => {
                let subject = frame["payload"]["subject"].as_str().context("a subject")?.to_owned();
                ensure!(pushed.insert(subject.clone()), "{} was pushed {subject} twice", account.player_id);
                heard.insert(subject);
            }
            Some(_) => {}
            None => client = None,
        }
    }
}

/// The subjects of all that is listed, from any gateway that answers.
async fn list(account: &Account, doors: &[Door]) -> anyhow::Result<Option<Vec<String>>> {
    for door in doors {
        if let Ok(Ok((200, answer))) = timeout(ANSWER, account.at(&door.http).get("/notifications?limit=100")).await {
            let listed = answer["notifications"].as_array().context("notifications")?;
            return Ok(Some(listed.iter().filter_map(|n| Some(n["subject"].as_str()?.to_owned())).collect()));
        }
    }
    sleep(PAUSE).await;
    Ok(None)
}
