//! From a wish to be matched to the frame that says with whom: many at once, one after the other, and beside a queue that is long already.

mod burst;
mod ticket;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep_until};

pub(super) use self::ticket::pushed;
use self::{
    burst::Bursts,
    ticket::{Ticket, tickets},
};
use super::{
    Common,
    cluster::{Target, Wanted},
    player::enter_many,
    pool::Pool,
    report::{Report, cpu_of, histogram, per, record},
};

/// Of the mode `group`, in which parties are.
const GROUP: usize = 4;
/// Between the first of a match and the others, so that these find it waiting.
const APART: Duration = Duration::from_millis(15);

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Players who queue at the same moment for matches of two. A cluster that is given needs the modes `pair`, `skill` and
    /// `group` of asobi/src/bench and --set limits.auth_per_second=0
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=10000))]
    burst: u32,
    /// How often the burst is repeated within a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    bursts: u32,
    /// How the burst is matched: whoever is there, or those who are about as good, each pair far from all others
    #[arg(long, value_enum, default_value_t = Strategy::Fill)]
    strategy: Strategy,
    /// Of a hundred tickets so many are parties of two, three or four, and matches are of four; above 50 there would be too few who come alone to fill
    /// them up
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=50))]
    parties: u32,
    /// Players who queue in a second, one after the other
    #[arg(long, default_value_t = 33, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Tickets that wait already, in a mode that looks at skill; 0: this part is left out
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pool: u32,
    /// With --pool: tickets that come, and go again, in a second
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(0..=20000))]
    churn: u32,
    /// With --pool: kill the leader at the end, and measure until its successor serves
    #[arg(long)]
    kill_leader: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Strategy {
    Fill,
    Skill,
}

impl Options {
    pub fn kills(&self) -> bool {
        self.kill_leader
    }

    /// # Errors
    /// Parties are to be matched by skill, or a pool's tickets cannot be written.
    pub fn wanted(&self) -> anyhow::Result<Wanted> {
        ensure!(
            self.parties == 0 || self.strategy == Strategy::Fill,
            "--parties are matched with whoever is there: not with --strategy skill"
        );
        ensure!(self.players()? > 0, "--parties are matched by fours: a --burst of four at least");
        self.common.knows("the tickets of a --pool are written into the database", self.pool > 0)?;
        // One that can die.
        Ok(Wanted { matchmakers: 2, ..Wanted::default() })
    }

    /// Players of a match.
    fn match_size(&self) -> usize {
        if self.parties > 0 { GROUP } else { 2 }
    }

    /// Players of a burst: those of whole matches.
    fn players(&self) -> anyhow::Result<usize> {
        let burst = usize::try_from(self.burst)?;
        Ok(burst - burst % self.match_size())
    }

    /// What the ticket of this number queues for.
    fn wish(&self, n: usize) -> (&'static str, Value) {
        match self.strategy {
            Strategy::Fill if self.parties > 0 => ("group", json!({})),
            Strategy::Fill => ("pair", json!({})),
            Strategy::Skill => ("skill", json!({"skill": n / 2 * 1_000})),
        }
    }
}

pub async fn run(options: &Options, target: &Target) -> anyhow::Result<Report> {
    let players = enter_many(target, options.players()?).await?;
    let mut waiting = tickets(players, options.parties, GROUP).await?;
    let mut bursts = Bursts::new();
    for _ in 0..options.bursts {
        waiting = bursts.burst(waiting, options, target).await?;
    }
    let report = Report::new("matchmaking")
        .field("burst_players", options.players()?)
        .field("burst_strategy", format!("{:?}", options.strategy));
    let report = bursts.report(options, report);
    let (mut report, idle) = steady(options, Idle::of(waiting), target, report).await?;
    if options.pool > 0 {
        report = beside_a_pool(options, idle, target, report).await?;
    }
    Ok(report)
}

fn ms(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e6).round() / 1e3
}

/// Those who do not play.
#[derive(Default)]
struct Idle {
    alone: VecDeque<Ticket>,
    parties: VecDeque<Ticket>,
}

impl Idle {
    fn of(tickets: impl IntoIterator<Item = Ticket>) -> Self {
        let mut idle = Self::default();
        idle.extend(tickets);
        idle
    }

    fn extend(&mut self, tickets: impl IntoIterator<Item = Ticket>) {
        for ticket in tickets {
            if ticket.size() > 1 { self.parties.push_back(ticket) } else { self.alone.push_back(ticket) }
        }
    }

    /// Two who come alone, or a party with as many of them as fill its match up.
    fn company(&mut self, party: bool) -> Option<Vec<Ticket>> {
        let first = if party { self.parties.pop_front() } else { self.alone.pop_front() }?;
        let others = if party { GROUP - first.size() } else { 1 };
        let enough = self.alone.len() >= others;
        let mut company = vec![first];
        if enough {
            company.extend(self.alone.drain(..others));
        }
        enough.then_some(company)
    }
}

/// What one match of the steady rate was.
struct Met {
    tickets: Vec<Ticket>,
    /// From when the wish of the last ones was due until all were told.
    elapsed: Duration,
    /// Its players, if it counts.
    players: Option<u64>,
    /// Each of its tickets is in one match.
    together: bool,
}

/// Two by two at a rate, some of them as parties and who fills these up; the time from the last one's wish until all are told.
async fn steady(options: &Options, mut idle: Idle, target: &Target, report: Report) -> anyhow::Result<(Report, Idle)> {
    let each = Duration::from_secs_f64(1.0 / f64::from(options.rate));
    let start = Instant::now() + each;
    let measure_from = start + options.common.warming();
    let end = measure_from + options.common.measured();
    let mut playing: JoinSet<anyhow::Result<Met>> = JoinSet::new();
    let mut seen = Steady { told: histogram(), players: 0, apart: 0 };
    let (mut due, mut before, mut share) = (start, None, 0);
    while due < end {
        sleep_until(due.into()).await;
        if before.is_none() && due >= measure_from {
            before = Some(target.spent());
        }
        while let Some(met) = playing.try_join_next() {
            idle.extend(seen.count(met??));
        }
        share += options.parties;
        let party = share >= 100;
        share -= if party { 100 } else { 0 };
        let company =
            idle.company(party).context("all players still play: more of them (--burst), or a lower --rate")?;
        let players: usize = company.iter().map(Ticket::size).sum();
        let counts = (due >= measure_from).then_some(u64::try_from(players)?);
        playing.spawn(async move {
            let met = meet(company, if party { "group" } else { "pair" }, json!({}), due).await?;
            Ok(Met { players: counts, ..met })
        });
        due += each * u32::try_from(players)?;
    }
    let processes = before.map(|before| target.since(&before)).unwrap_or_default();
    while let Some(met) = playing.join_next().await {
        idle.extend(seen.count(met??));
    }
    let report = report
        .field("steady_players_per_second", options.rate)
        .latency("steady_told_ms", &seen.told)
        .field("matchmaker_cpu_s_per_1k_players", per(cpu_of(&processes, "matchmaker"), seen.players, 1_000))
        .field("postgresql_cpu_s_per_1k_players", per(cpu_of(&processes, "postgresql"), seen.players, 1_000))
        .field("processes", processes)
        .fails_if(seen.apart > 0, burst::PARTED);
    Ok((report, idle))
}

/// What is known of the steady rate so far.
struct Steady {
    told: Histogram<u64>,
    players: u64,
    apart: u64,
}

impl Steady {
    fn count(&mut self, met: Met) -> Vec<Ticket> {
        self.apart += u64::from(!met.together);
        if let Some(players) = met.players {
            record(&mut self.told, met.elapsed);
            self.players += players;
        }
        met.tickets
    }
}

/// The first queues when it is due and waits, the others meet it; from when their wish was due until all are told. All are idle again afterwards.
async fn meet(mut tickets: Vec<Ticket>, mode: &str, properties: Value, due: Instant) -> anyhow::Result<Met> {
    let wished = if tickets.len() > 1 { due + APART } else { due };
    for (n, ticket) in tickets.iter_mut().enumerate() {
        if n == 1 {
            sleep_until(wished.into()).await;
        }
        ticket.queue(mode, &properties).await?;
    }
    let told = try_join_all(tickets.iter_mut().map(|ticket| ticket.told(wished))).await?;
    let elapsed = wished.elapsed();
    try_join_all(tickets.iter_mut().map(Ticket::finish)).await?;
    let mut together = true;
    for told in told {
        together &= told.together()?.is_some();
    }
    Ok(Met { tickets, elapsed, players: None, together })
}

/// Pairs that meet while so many others wait, come and go; then the leader dies.
async fn beside_a_pool(options: &Options, mut idle: Idle, target: &Target, report: Report) -> anyhow::Result<Report> {
    let url = target.database_url.as_deref().context("the ready file names no database")?;
    let pool = Pool::fill(url, options.pool).await?;
    let pair = idle.company(false).context("two players are needed")?;
    // Whoever has just read the long queue serves again when the first pair has met.
    let Met { tickets: mut pair, elapsed: settled, .. } = meet(pair, "skill", pool.probe(), Instant::now()).await?;
    say!(
        "{} wait, the first pair met after {settled:?}; measuring for {:?} …",
        options.pool,
        options.common.measured()
    );
    let churning = pool.churn(options.churn);
    let before = target.spent();
    let end = Instant::now() + options.common.measured();
    let mut told: Histogram<u64> = histogram();
    while Instant::now() < end {
        let met = meet(pair, "skill", pool.probe(), Instant::now()).await?;
        record(&mut told, met.elapsed);
        pair = met.tickets;
    }
    let processes = target.since(&before);
    let came = churning.stop().await?;
    let seconds = options.common.measured().as_secs_f64();
    let mut report = report
        .field("pool", options.pool)
        .field("pool_tickets_in_and_out_per_second", per(1.0 / seconds, 1, came))
        .latency("pool_told_ms", &told)
        .field("pool_matchmaker_cpu_s_per_s", per(cpu_of(&processes, "matchmaker") / seconds, 1, 1))
        .field("pool_processes", processes);
    if options.kill_leader {
        let killed = pool.kill_leader().await?;
        meet(pair, "skill", pool.probe(), killed).await?;
        report = report.field("new_leader_serves_ms", ms(killed.elapsed()));
    }
    Ok(report)
}
