//! How many instructions a ticket costs the queue's index: where it goes in, and where somebody is looked for.
//! `scripts/bench-instructions`

#![expect(clippy::disallowed_methods, reason = "the harness's main ends its process itself")]

use std::{hint::black_box, sync::Arc};

use asobi_matchmaker::{Index, Member, Ticket, Waiting};
use asobi_proto::{
    mode::{ModeSettings, Strategy},
    query::{Facts, Query},
};
use asobi_store::modes::Mode;
use gungraun::prelude::*;
use serde_json::json;
use uuid::Uuid;

const WAITING: u64 = 20_000;
/// So many that the seeds of hash maps, which differ from run to run, decide nothing.
const NEWCOMERS: u64 = 500;
const NOW_US: i64 = 60_000_000;
const FILTER: &str = "region = self.region and abs(skill - self.skill) <= 0.4";

fn ticket(id: u64, skill: f64, strategy: Strategy) -> Ticket {
    let member = Member { row: Uuid::from_u128(u128::from(id)), player_id: Uuid::from_u128(u128::from(id) << 64) };
    let waiting = Waiting {
        submitted_us: i64::try_from(id * 100).unwrap_or(i64::MAX),
        ticket_id: Uuid::from_u128(u128::from(id)),
        members: [member].into(),
        skill,
        facts: Facts::of(&json!({"skill": skill, "region": format!("r{}", skill as u64 % 20)})),
        latencies: None,
        query: (strategy == Strategy::Query).then(|| Query::parse(FILTER).expect("a filter")),
        traceparent: None,
    };
    Ticket { mode: "arena".into(), waiting: Arc::new(waiting) }
}

/// Everybody waits alone: windows are too narrow for the neighbour's skill.
fn waiting(strategy: Strategy) -> Index {
    let settings = ModeSettings {
        strategy,
        match_size: 2,
        max_players: 2,
        min_players: 2,
        skill_window: 0.4,
        skill_expand_rate: 0.0,
        ..ModeSettings::default()
    };
    let mut index = Index::default();
    index.set_modes(vec![Mode { name: "arena".into(), settings, paused: false, queued: 0, estimated_wait_ms: None }]);
    for id in 0..WAITING {
        index.insert(ticket(id, id as f64, strategy));
    }
    assert_eq!(search_all(&mut index), 0);
    index
}

/// Scattered; every other one has a partner.
fn newcomers(strategy: Strategy) -> Vec<Ticket> {
    let place = |id: u64| (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) % WAITING) as f64;
    (WAITING..WAITING + NEWCOMERS)
        .map(|id| ticket(id, place(id) + if id % 2 == 0 { 0.2 } else { 0.5 }, strategy))
        .collect()
}

fn search_all(index: &mut Index) -> usize {
    let everywhere = [String::new()];
    std::iter::from_fn(|| index.take_group("arena", &everywhere, NOW_US)).count()
}

fn before(strategy: Strategy) -> (Index, Vec<Ticket>) {
    (waiting(strategy), newcomers(strategy))
}

fn after(strategy: Strategy) -> Index {
    let (mut index, newcomers) = before(strategy);
    newcomers.into_iter().for_each(|ticket| index.insert(ticket));
    index
}

#[library_benchmark]
#[bench::skill(before(Strategy::SkillBased))]
#[bench::query(before(Strategy::Query))]
fn insert((mut index, newcomers): (Index, Vec<Ticket>)) -> Index {
    for ticket in newcomers {
        index.insert(black_box(ticket));
    }
    black_box(index)
}

#[library_benchmark]
#[bench::skill(after(Strategy::SkillBased))]
#[bench::query(after(Strategy::Query))]
fn search(mut index: Index) -> Index {
    let found = search_all(&mut index);
    assert!(black_box(found) > NEWCOMERS as usize / 4, "{found} found a partner");
    index
}

library_benchmark_group!(name = queue, benchmarks = [insert, search]);
main!(library_benchmark_groups = queue);
