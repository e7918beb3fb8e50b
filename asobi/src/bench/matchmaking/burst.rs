//! Everybody queues at once, again and again.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    Options, ms,
    ticket::{Ticket, Told},
};
use crate::bench::{
    cluster::Target,
    report::{Report, cpu_of, histogram, per, quantiles, record},
};

/// What a party must never find.
pub const PARTED: &str = "a party's members were told of different matches";

/// What was found in all bursts.
pub struct Bursts {
    rounds: Vec<Value>,
    all_told: Vec<f64>,
    /// Of those who came in parties.
    parties: Histogram<u64>,
    /// Players whom nobody was left to fill up a match with.
    left_over: u64,
    /// Parties whose players were told of different matches.
    apart: u64,
}

/// What one burst's players were told.
struct One {
    told: Histogram<u64>,
    last: Duration,
}

impl Bursts {
    pub fn new() -> Self {
        Self { rounds: Vec::new(), all_told: Vec::new(), parties: histogram(), left_over: 0, apart: 0 }
    }

    /// One more; the time until the last player is told.
    pub async fn burst(
        &mut self,
        tickets: Vec<Ticket>,
        options: &Options,
        target: &Target,
    ) -> anyhow::Result<Vec<Ticket>> {
        let before = target.spent();
        let start = Instant::now();
        let mut queueing = JoinSet::new();
        for (n, mut ticket) in tickets.into_iter().enumerate() {
            let (mode, properties) = options.wish(n);
            queueing.spawn(async move {
                ticket.queue(mode, &properties).await?;
                let told = ticket.told(start).await?;
                anyhow::Ok((ticket, told))
            });
        }
        let mut all = Vec::new();
        while let Some(done) = queueing.join_next().await {
            all.push(done??);
        }
        let processes = target.since(&before);
        let (mut tickets, mut one) = (Vec::with_capacity(all.len()), One { told: histogram(), last: Duration::ZERO });
        for (ticket, told) in all {
            self.tell(&mut one, &ticket, &told, options)?;
            tickets.push(ticket);
        }
        try_join_all(tickets.iter_mut().map(Ticket::finish)).await?;
        let spent = |of: &str| per(cpu_of(&processes, of), 1, 1);
        self.all_told.push(ms(one.last));
        self.rounds.push(json!({
            "all_told_ms": ms(one.last),
            "told_ms": quantiles(&one.told),
            "matchmaker_cpu_s": spent("matchmaker"),
            "match_host_cpu_s": spent("match-"),
            "gateway_cpu_s": spent("gateway"),
            "postgresql_cpu_s": spent("postgresql"),
        }));
        Ok(tickets)
    }

    /// Counts what a ticket's players were told.
    fn tell(&mut self, one: &mut One, ticket: &Ticket, told: &Told, options: &Options) -> anyhow::Result<()> {
        let matched = told.together()?;
        self.apart += u64::from(matched.is_none());
        // They waited for the rule that fewer will do, which says nothing of how fast anybody is.
        if matched.is_some_and(|matched| matched.players < options.match_size()) {
            self.left_over += u64::try_from(ticket.size())?;
            return Ok(());
        }
        for after in &told.after {
            record(&mut one.told, *after);
            one.last = one.last.max(*after);
            if ticket.size() > 1 {
                record(&mut self.parties, *after);
            }
        }
        Ok(())
    }

    pub fn report(self, options: &Options, report: Report) -> Report {
        let mut report = report.field("burst_all_told_ms_median", median(self.all_told)).field("burst", self.rounds);
        if options.parties > 0 {
            report = report
                .field("parties_percent", options.parties)
                .latency("burst_party_told_ms", &self.parties)
                .field("burst_left_over", self.left_over)
                .field("parties_wrong", self.apart);
        }
        report.fails_if(self.apart > 0, PARTED)
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}
