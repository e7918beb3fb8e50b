//! Every strategy against the same promises, with random queues. Failing cases are printed with the seed that replays them.

use proptest::{
    prelude::{any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest},
    strategy::Strategy as _,
    test_runner::TestCaseError,
};

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Come { size: usize, skill: f64, region: usize, query: Option<usize> },
    Go(prop::sample::Index),
    Later(i64),
}

const QUERIES: [&str; 4] = [
    "abs(skill - self.skill) <= 300",
    r#"region = self.region"#,
    r#"region != "us" and skill < 1500"#,
    "not (skill > 1000) or min(skill, 9) = 9",
];
const REGIONS: [&str; 3] = ["eu", "us", ""];

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..4, 0.0_f64..2_000.0, 0_usize..3, prop::option::of(0_usize..4))
            .prop_map(|(size, skill, region, query)| Step::Come { size, skill, region, query }),
        1 => any::<prop::sample::Index>().prop_map(Step::Go),
        2 => (1_i64..20).prop_map(Step::Later),
    ]
}

fn modes() -> impl proptest::strategy::Strategy<Value = ModeSettings> {
    let kinds = prop::sample::select(vec![Kind::Fill, Kind::SkillBased, Kind::Query]);
    let teams = prop::sample::select(vec![
        None,
        Some(Teams { count: 2, size: 2 }),
        Some(Teams { count: 2, size: 3 }),
        Some(Teams { count: 3, size: 1 }),
    ]);
    (kinds, teams, 1_u32..7, 1_u32..5, prop::option::of(1_000_u64..30_000), any::<bool>()).prop_map(
        |(strategy, teams, match_size, min_players, relax_after_ms, regions)| ModeSettings {
            strategy,
            teams,
            match_size: teams.map_or(match_size, |t| t.count * t.size),
            min_players,
            relax_after_ms,
            regions: if regions { vec!["eu".into(), "us".into()] } else { Vec::new() },
            ..ModeSettings::default()
        },
    )
}

/// What every group must be, whatever the strategy.
fn check(
    taken: &Taken,
    settings: &ModeSettings,
    now_us: i64,
    model: &mut BTreeMap<Uuid, Arc<Waiting>>,
) -> Result<(), TestCaseError> {
    let rules = Rules::from(settings);
    let tickets: Vec<&Arc<Waiting>> = taken.group.tickets().collect();
    for ticket in &tickets {
        prop_assert!(model.remove(&ticket.ticket_id).is_some(), "a ticket twice, or one that does not wait");
    }
    let sizes: Vec<usize> = taken.group.teams.iter().map(|team| team.iter().map(|t| t.size()).sum()).collect();
    prop_assert_eq!(sizes.len(), rules.shape.teams);
    prop_assert!(sizes.iter().all(|size| *size == sizes[0]), "teams are equal: {:?}", sizes);
    let players: usize = sizes.iter().sum();
    let relaxed = tickets.iter().any(|t| rules.is_relaxed(t, now_us));
    prop_assert!(
        players == rules.shape.full() || (relaxed && players >= rules.shape.least && players < rules.shape.full())
    );
    for (n, a) in tickets.iter().enumerate() {
        for b in &tickets[n + 1..] {
            prop_assert!(fit(a, b, settings, now_us), "{:?} and {:?} do not fit", a, b);
        }
    }
    let common = tickets.iter().fold(u64::MAX, |bits, t| bits & rules.regions_of(t));
    prop_assert!(common != 0);
    prop_assert_eq!(taken.regions.is_empty(), settings.regions.is_empty());
    Ok(())
}

fn fit(a: &Waiting, b: &Waiting, settings: &ModeSettings, now_us: i64) -> bool {
    // Reckoned in another way than the strategy does.
    let window =
        |t: &Waiting| settings.skill_window + settings.skill_expand_rate * (now_us - t.submitted_us) as f64 / 5e6;
    match settings.strategy {
        Kind::Fill => true,
        Kind::SkillBased => (a.skill - b.skill).abs() <= window(a).min(window(b)) + 1e-6,
        Kind::Query => a.suits(b),
    }
}

proptest! {
    #[test]
    fn every_group_is_what_its_mode_allows_and_pairs_are_never_left(settings in modes(), steps in prop::collection::vec(step(), 0..80)) {
        let mut index = index(settings.clone());
        let rules = Rules::from(&settings);
        let mut model: BTreeMap<Uuid, Arc<Waiting>> = BTreeMap::new();
        let (mut now, mut next) = (0_i64, 0_u128);
        for step in steps {
            match step {
                Step::Come { size, skill, region, query } => {
                    next += 1;
                    let properties = match REGIONS[region] { "" => json!({"skill": skill}), name => json!({"skill": skill, "region": name}) };
                    let query = query.filter(|_| settings.strategy == Kind::Query).map(|n| QUERIES[n]);
                    let new = ticket(waiting(next, now, size, &properties, query));
                    model.insert(new.waiting.ticket_id, Arc::clone(&new.waiting));
                    index.insert(new);
                }
                Step::Go(which) => if let Some(id) = model.keys().nth(which.index(model.len().max(1))).copied() {
                    model.remove(&id);
                    prop_assert!(index.remove(id).is_some());
                },
                Step::Later(seconds) => now += seconds,
            }
            let now_us = now * SECOND;
            while let Some(taken) = index.take_group("arena", &anywhere(), now_us) {
                check(&taken, &settings, now_us, &mut model)?;
            }
            prop_assert_eq!(index.len(), model.len());
            prop_assert_eq!(index.depths()[0].players, model.values().map(|t| t.size()).sum::<usize>());
            // Two that could be a match are one: nobody who could be matched is passed over.
            if rules.shape.full() == 2 && rules.shape.teams == 1 {
                let alone: Vec<_> = model.values().filter(|t| t.size() == 1).collect();
                for (n, a) in alone.iter().enumerate() {
                    for b in &alone[n + 1..] {
                        let together = rules.regions_of(a) & rules.regions_of(b) != 0;
                        // A rounding's width from the edge of a window is neither here nor there.
                        prop_assert!(!(together && fit(a, b, &ModeSettings { skill_window: settings.skill_window - 1e-3, ..settings.clone() }, now_us)), "{:?} and {:?} wait", a, b);
                    }
                }
            }
        }
    }

    #[test]
    fn filling_takes_the_oldest_that_can_be_matched(sizes in prop::collection::vec(1_usize..5, 0..40), match_size in 1_u32..7) {
        let mut index = index(settings(Kind::Fill, match_size));
        let mut model: BTreeMap<u128, usize> = BTreeMap::new();
        for (n, size) in sizes.iter().enumerate() {
            let id = n as u128 + 1;
            model.insert(id, *size);
            add(&mut index, id, n as i64, *size, json!({}));
        }
        let full = match_size as usize;
        while let Some(ids) = form(&mut index, 1_000) {
            // Nobody older than the first could have been part of any match.
            for older in model.keys().filter(|id| **id < ids[0]) {
                prop_assert!(!part_of_a_match(*older, &model, full), "{} was passed over", older);
            }
            for id in &ids {
                prop_assert!(model.remove(id).is_some());
            }
        }
        prop_assert!(model.keys().all(|id| !part_of_a_match(*id, &model, full)), "somebody is left who could play: {:?}", model);
    }
}

/// By trying all sums.
fn part_of_a_match(id: u128, waiting: &BTreeMap<u128, usize>, full: usize) -> bool {
    let mut reachable = vec![false; full + 1];
    let Some(own) = reachable.get_mut(waiting[&id]) else { return false };
    *own = true;
    for (_, size) in waiting.iter().filter(|(other, _)| **other != id) {
        for sum in (*size..=full).rev() {
            reachable[sum] |= reachable[sum - size];
        }
    }
    reachable[full]
}
