//! What one more ticket costs a queue of a hundred thousand: from its insertion to the decision whom it is matched with, if anybody.
//! `cargo bench -p asobi-matchmaker`

use std::{sync::Arc, time::Instant};

use asobi_matchmaker::{Index, Member, Taken, Ticket, Waiting};
use asobi_proto::{
    mode::{ModeSettings, Strategy, Teams},
    query::{Facts, Query},
};
use asobi_store::modes::Mode;
use serde_json::{Value, json};
use uuid::Uuid;

const WAITING: u128 = 100_000;
const NEWCOMERS: u128 = 20_000;
const NOW_US: i64 = 60_000_000;

type Maker = fn(u128) -> (usize, Value, Option<&'static str>);

fn ticket(id: u128, make: Maker) -> Ticket {
    let (size, properties, query) = make(id);
    let member = |n: usize| Member {
        row: Uuid::from_u128(id * 8 + n as u128),
        player_id: Uuid::from_u128((id * 8 + n as u128) << 64),
    };
    let waiting = Waiting {
        submitted_us: i64::try_from(id * 100).unwrap_or(i64::MAX),
        ticket_id: Uuid::from_u128(id),
        members: (0..size).map(member).collect(),
        skill: properties["skill"].as_f64().unwrap_or(0.0),
        facts: Facts::of(&properties),
        latencies: None,
        query: query.and_then(|text| Query::parse(text).ok()),
        traceparent: None,
    };
    Ticket { mode: "arena".into(), waiting: Arc::new(waiting) }
}

fn measure(name: &str, settings: ModeSettings, waiting: Maker, newcomer: Maker) {
    let mut index = Index::default();
    index.set_modes(vec![Mode { name: "arena".into(), settings, paused: false, queued: 0, estimated_wait_ms: None }]);
    let everywhere = [String::new()];
    let started = Instant::now();
    for id in 0..WAITING {
        index.insert(ticket(id, waiting));
    }
    while index.take_group("arena", &everywhere, NOW_US).is_some() {}
    let (filled, depth) = (started.elapsed(), index.len());
    let mut formed: Vec<Taken> = Vec::new();
    let mut micros: Vec<f64> = Vec::new();
    for id in WAITING..WAITING + NEWCOMERS {
        let new = ticket(id, newcomer);
        let started = Instant::now();
        index.insert(new);
        let taken = index.take_group("arena", &everywhere, NOW_US);
        micros.push(started.elapsed().as_secs_f64() * 1e6);
        // The queue keeps its length: who was waiting waits again, the newcomer goes.
        if let Some(taken) = taken {
            formed.push(taken.clone());
            index.put_back(taken, |other| other != Uuid::from_u128(id));
            while index.take_group("arena", &everywhere, NOW_US).is_some() {}
        } else {
            index.remove(Uuid::from_u128(id));
        }
    }
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros[(micros.len() as f64 * share) as usize];
    println!(
        "{name:<44} {depth:>7} waiting (built in {:>5.0} ms)  {:>6} of {NEWCOMERS} matched  p50 {:>7.1} µs  p99 {:>7.1} µs  worst {:>8.1} µs",
        filled.as_secs_f64() * 1e3,
        formed.len(),
        at(0.5),
        at(0.99),
        micros[micros.len() - 1],
    );
}

/// Scattered, and the same in each run.
fn place(id: u128) -> f64 {
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) % WAITING) as f64
}

fn main() {
    let mode = |strategy, match_size| ModeSettings {
        strategy,
        match_size,
        max_players: match_size,
        min_players: match_size,
        skill_window: 0.4,
        skill_expand_rate: 0.0,
        ..ModeSettings::default()
    };
    let alone: Maker = |id| (1, json!({"skill": id as f64}), None);
    measure(
        "fill, pairs waiting for a single",
        mode(Strategy::Fill, 3),
        |_| (2, json!({}), None),
        |id| (1 + usize::from(id % 2 == 0), json!({}), None),
    );
    let teams = ModeSettings { teams: Some(Teams { count: 2, size: 5 }), ..mode(Strategy::Fill, 10) };
    measure("fill, 5 against 5, parties of four waiting", teams, |_| (4, json!({}), None), |_| (1, json!({}), None));
    measure("skill_based, 2, windows too narrow", mode(Strategy::SkillBased, 2), alone, |id| {
        (1, json!({"skill": place(id) + if id % 2 == 0 { 0.2 } else { 0.5 }}), None)
    });
    let widening = ModeSettings { skill_expand_rate: 0.000_1, ..mode(Strategy::SkillBased, 2) };
    measure("skill_based, 2, windows widening", widening, alone, |id| (1, json!({"skill": place(id) + 0.5}), None));
    let ten = ModeSettings { skill_window: 8.4, ..mode(Strategy::SkillBased, 20) };
    measure("skill_based, 20, nineteen about", ten, alone, |id| (1, json!({"skill": place(id) + 0.5}), None));
    let filter = "region = self.region and abs(skill - self.skill) <= 0.4";
    let regional: Maker = |id| {
        let region = format!("r{}", id % 20);
        (
            1,
            json!({"skill": id as f64, "region": region}),
            Some("region = self.region and abs(skill - self.skill) <= 0.4"),
        )
    };
    measure(
        &format!("query, {filter}").chars().take(44).collect::<String>(),
        mode(Strategy::Query, 2),
        regional,
        |id| {
            let at = place(id);
            (
                1,
                json!({"skill": at + 0.2, "region": format!("r{}", at as u64 % 20)}),
                Some("region = self.region and abs(skill - self.skill) <= 0.4"),
            )
        },
    );
    measure("query, a filter nobody passes", mode(Strategy::Query, 2), regional, |_| {
        (1, json!({"skill": 1}), Some("version * 2 > self.skill or not (skill >= 0)"))
    });
}
