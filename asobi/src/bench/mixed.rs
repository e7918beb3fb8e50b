//! The day of a game: players arrive at a rate that follows a curve, each logs in, joins a lobby, chats, queues, plays a match of some
//! seconds and leaves. Arrivals and messages are counted from when they were due.
//!
//! ```text
//!  due ─▶ login ─▶ connect ─▶ join ─▶ chat × n ─▶ queue ─▶ matched ─▶ first state ─▶ … inputs … ─▶ finished ─▶ left
//!           any step that fails ends the visit and is counted by its reason
//! ```

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Common,
    cluster::Target,
    curve::Curve,
    matchmaking::pushed,
    player::{DEADLINE, Socket, call, descriptors, open, sign_in, ws},
    report::{Report, cpu_of, histogram, per, quantiles, record},
};

/// Between two messages of one player, and two inputs.
const CHATTING: Duration = Duration::from_millis(500);
const INPUTS: Duration = Duration::from_millis(200);
/// How long after the end the last visits may take, beside their match.
const TAIL: Duration = Duration::from_secs(20);
/// Reasons that are told apart; the rest are one.
const REASONS: usize = 30;
const STEPS: [&str; 8] = ["login", "connect", "join", "chat", "matched", "first_state", "finished", "visit"];

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Players who arrive in a second when the load is at its highest. A cluster that is given needs the mode `play` of
    /// asobi/src/bench, the channels `global:c0` to c9, and its limits lifted
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    arrivals: u32,
    /// How the rate of arrivals changes over warm-up and measurement
    #[arg(long, value_enum, default_value_t = Curve::Day)]
    curve: Curve,
    /// Players who are there at once at most: who arrives beyond is turned away, and counted
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(2..=50_000))]
    population: u32,
    /// Lobby channels
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    lobbies: u32,
    /// Messages of each player before they queue, two a second
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=100))]
    messages: u32,
    /// How long a match is played
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    match_seconds: u64,
}

/// What all visits share.
struct Stage {
    http: reqwest::Client,
    gateways: Vec<String>,
    options: Options,
    run: uuid::Uuid,
}

/// What one visit took, by step, and what ended it early.
struct Visit {
    due: Instant,
    ended: Instant,
    steps: Vec<(&'static str, Duration)>,
    error: Option<String>,
}

struct Day {
    measure_from: Instant,
    steps: BTreeMap<&'static str, Histogram<u64>>,
    errors: BTreeMap<String, u64>,
    finished: u64,
    /// Those who came through while the CPU was measured; who was there before with the part that was measured.
    players: f64,
    turned_away: u64,
}

pub async fn run(options: &Options, target: &Target) -> anyhow::Result<Report> {
    descriptors(usize::try_from(options.population)?)?;
    let stage = Arc::new(Stage {
        http: reqwest::Client::builder().timeout(DEADLINE).build()?,
        gateways: target.gateways.clone(),
        options: options.clone(),
        run: uuid::Uuid::now_v7(),
    });
    // A cluster that takes no guests shall not be measured for a minute first.
    sign_in(&stage.http, &stage.gateways[0], format!("bench-{}-first", stage.run)).await?;
    let lasting = options.common.warming() + options.common.measured();
    let mut arrivals = options.curve.arrivals(f64::from(options.arrivals), lasting);
    // Nobody is left without an opponent.
    arrivals.truncate(arrivals.len() & !1);
    say!("{} players come within {lasting:?} …", arrivals.len());
    let start = Instant::now() + Duration::from_millis(100);
    let measure_from = start + options.common.warming();
    let (mut visits, mut day, mut before) = (JoinSet::new(), Day::from(measure_from), None);
    let arriving = arrivals.len();
    for (n, after) in arrivals.into_iter().enumerate() {
        let due = start + after;
        sleep_until(due.into()).await;
        if before.is_none() && due >= measure_from {
            before = Some(target.spent());
        }
        while let Some(visit) = visits.try_join_next() {
            day.add(visit?);
        }
        if visits.len() >= options.population as usize {
            day.turned_away += 1;
            continue;
        }
        let stage = Arc::clone(&stage);
        visits.spawn(async move { stage.visit(n, due).await });
    }
    let late = Instant::now() + Duration::from_secs(options.match_seconds) + TAIL;
    while let Ok(Some(visit)) = timeout_at(late.into(), visits.join_next()).await {
        day.add(visit?);
    }
    let unfinished = visits.len();
    visits.abort_all();
    let processes = before.map(|before| target.since(&before)).unwrap_or_default();
    Ok(day.report(options, arriving, unfinished, processes))
}

impl Stage {
    async fn visit(&self, n: usize, due: Instant) -> Visit {
        let mut visit = Visit { due, ended: due, steps: Vec::with_capacity(STEPS.len()), error: None };
        if let Err(error) = self.live(n, &mut visit).await {
            visit.error = Some(reason(&error));
        }
        visit.ended = Instant::now();
        visit
    }

    async fn live(&self, n: usize, visit: &mut Visit) -> anyhow::Result<()> {
        let gateway = &self.gateways[n % self.gateways.len()];
        let guest = sign_in(&self.http, gateway, format!("bench-{}-{n}", self.run)).await?;
        let mut from = visit.step("login", visit.due);
        let mut socket = open(&ws(gateway)).await?;
        call(&mut socket, "session.connect", json!({"token": guest.access_token})).await?;
        from = visit.step("connect", from);
        let channel = format!("global:c{}", n % self.options.lobbies as usize);
        call(&mut socket, "chat.join", json!({"channel_id": channel})).await?;
        let joined = visit.step("join", from);
        for message in 0..self.options.messages {
            let due = joined + CHATTING * message;
            sleep_until(due.into()).await;
            call(&mut socket, "chat.send", json!({"channel_id": channel, "content": format!("{n}: {message}")}))
                .await?;
            visit.step("chat", due);
        }
        call(&mut socket, "chat.leave", json!({"channel_id": channel})).await?;
        from = Instant::now();
        socket.send(Message::text(r#"{"type":"matchmaker.add","cid":"q","payload":{"mode":"play"}}"#)).await?;
        pushed(&mut socket, "match.matched").await?;
        from = visit.step("matched", from);
        self.play(&mut socket, visit, from).await?;
        let _ = timeout(DEADLINE, socket.close(None)).await;
        visit.step("visit", visit.due);
        Ok(())
    }

    /// Inputs at a rate until the match's time is over; then it is ended by whoever is first to say so.
    async fn play(&self, socket: &mut Socket, visit: &mut Visit, matched: Instant) -> anyhow::Result<()> {
        let over = matched + Duration::from_secs(self.options.match_seconds);
        let (mut next, mut seen, mut said) = (matched, false, false);
        loop {
            ensure!(Instant::now() < over + DEADLINE, "match.finished did not come");
            let message = tokio::select! {
                message = socket.next() => message.context("the gateway closed a socket")??,
                () = sleep_until(next.into()) => {
                    let ends = Instant::now() >= over;
                    if !said {
                        let input = json!({"type": "match.input", "payload": {"over": ends}});
                        socket.send(Message::text(input.to_string())).await?;
                    }
                    said |= ends;
                    next += INPUTS;
                    continue;
                }
            };
            let Message::Text(text) = message else { continue };
            if text.starts_with(r#"{"type":"match.state""#) {
                if !seen {
                    visit.step("first_state", matched);
                }
                seen = true;
            } else if text.contains(r#""type":"match.finished""#) {
                if said {
                    visit.step("finished", over);
                }
                return Ok(());
            }
        }
    }
}

impl Visit {
    /// Ends a step that began then; the next one begins now.
    fn step(&mut self, name: &'static str, from: Instant) -> Instant {
        let now = Instant::now();
        self.steps.push((name, now - from));
        now
    }
}

/// A refusal by its reason, anything else by what went wrong first.
fn reason(error: &anyhow::Error) -> String {
    let text = error.to_string();
    let text = text.split_once("was refused: ").map_or(text.as_str(), |(_, reason)| reason.trim_matches('"'));
    // A whole frame: its reason is what is of interest.
    let code = text.split_once(r#""reason":""#).and_then(|(_, rest)| rest.split_once('"')).map(|(reason, _)| reason);
    code.unwrap_or(text).chars().take(60).collect()
}

impl Day {
    fn from(measure_from: Instant) -> Self {
        Self {
            measure_from,
            steps: BTreeMap::new(),
            errors: BTreeMap::new(),
            finished: 0,
            players: 0.0,
            turned_away: 0,
        }
    }

    fn add(&mut self, visit: Visit) {
        if visit.error.is_none() {
            let (lasted, measured) =
                (visit.ended - visit.due, visit.ended.saturating_duration_since(visit.due.max(self.measure_from)));
            self.players += measured.as_secs_f64() / lasted.as_secs_f64().max(f64::EPSILON);
        }
        if visit.due < self.measure_from {
            return;
        }
        for (step, took) in visit.steps {
            record(self.steps.entry(step).or_insert_with(histogram), took);
        }
        match visit.error {
            None => self.finished += 1,
            Some(reason) => {
                let known = self.errors.len() < REASONS || self.errors.contains_key(&reason);
                *self.errors.entry(if known { reason } else { "others".to_owned() }).or_default() += 1;
            }
        }
    }

    fn report(&self, options: &Options, arriving: usize, unfinished: usize, processes: Vec<Value>) -> Report {
        let failed: u64 = self.errors.values().sum();
        let steps: Map<String, Value> =
            STEPS.iter().filter_map(|step| Some(((*step).to_owned(), quantiles(self.steps.get(step)?)))).collect();
        let errors: Map<String, Value> = self.errors.iter().map(|(code, count)| (code.clone(), json!(count))).collect();
        let mut report = Report::new("mixed")
            .field("arriving", arriving)
            .field("finished", self.finished)
            .field("failed", failed)
            .field("unfinished", unfinished)
            .field("turned_away", self.turned_away)
            .field("visits_per_second", per(1.0 / options.common.measured().as_secs_f64(), 1, self.finished))
            .field("step_ms", steps)
            .field("errors", errors);
        if !processes.is_empty() {
            let each = |of: &str| per(cpu_of(&processes, of) / self.players.max(1.0), 1, 1_000);
            report = report
                .field("gateway_cpu_s_per_1k_players", each("gateway"))
                .field("match_host_cpu_s_per_1k_players", each("match-"))
                .field("matchmaker_cpu_s_per_1k_players", each("matchmaker"))
                .field("postgresql_cpu_s_per_1k_players", each("postgresql"))
                .field("processes", processes);
        }
        report.fails_if(self.finished == 0, "nobody came through the whole day")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_there_before_counts_with_the_part_that_was_measured() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut day = Day::from(at(10));
        for (due, ended) in [(2, 8), (8, 12), (12, 16)] {
            day.add(Visit { due: at(due), ended: at(ended), steps: vec![], error: None });
        }
        assert_eq!((day.players, day.finished), (1.5, 1));
    }

    #[test]
    fn what_failed_is_counted_by_its_reason() {
        let of = |text: &str| reason(&anyhow::anyhow!(text.to_owned()));
        assert_eq!(of(r#"chat.join was refused: "not_authorized""#), "not_authorized");
        let frame = r#"the wish was refused: {"type":"error","payload":{"reason":"unknown_mode"}}"#;
        assert_eq!(of(frame), "unknown_mode");
        assert_eq!(of("the gateway closed a socket"), "the gateway closed a socket");
    }
}
