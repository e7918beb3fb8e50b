//! Strategies and the index around them, case by case; with random queues in `random`.

mod random;

use asobi_proto::{
    mode::{ModeSettings, Strategy as Kind, Teams},
    query::{Facts, Query},
};
use serde_json::{Value, json};

use super::*;

const SECOND: i64 = 1_000_000;

fn settings(strategy: Kind, match_size: u32) -> ModeSettings {
    ModeSettings { strategy, match_size, min_players: match_size, max_players: match_size, ..ModeSettings::default() }
}

fn mode(name: &str, settings: ModeSettings) -> Mode {
    Mode { name: name.into(), settings, paused: false, queued: 0, estimated_wait_ms: None }
}

fn index(settings: ModeSettings) -> Index {
    let mut index = Index::default();
    index.set_modes(vec![mode("arena", settings)]);
    index
}

/// A ticket of `size` players, submitted at `at` seconds.
fn waiting(id: u128, at: i64, size: usize, properties: &Value, query: Option<&str>) -> Waiting {
    let member = |n: usize| Member {
        row: Uuid::from_u128(id + n as u128 * 1_000),
        player_id: Uuid::from_u128(id + (n as u128 + 1) * 1_000_000),
    };
    Waiting {
        submitted_us: at * SECOND,
        ticket_id: Uuid::from_u128(id),
        members: (0..size).map(member).collect(),
        skill: properties["skill"].as_f64().unwrap_or(0.0),
        facts: Facts::of(properties),
        latencies: properties
            .get("latencies")
            .and_then(Value::as_object)
            .map(|all| all.iter().map(|(name, ms)| (name.as_str().into(), ms.as_f64().expect("a number"))).collect()),
        query: query.map(|text| Query::parse(text).expect("a filter")),
        traceparent: None,
    }
}

fn ticket(waiting: Waiting) -> Ticket {
    Ticket { mode: "arena".into(), waiting: Arc::new(waiting) }
}

fn add(index: &mut Index, id: u128, at: i64, size: usize, properties: Value) {
    index.insert(ticket(waiting(id, at, size, &properties, None)));
}

fn anywhere() -> Vec<String> {
    vec![String::new()]
}

fn form(index: &mut Index, at: i64) -> Option<Vec<u128>> {
    index.take_group("arena", &anywhere(), at * SECOND).map(|taken| taken.group.ids())
}

#[test]
fn the_oldest_are_matched_first() {
    let mut index = index(settings(Kind::Fill, 2));
    for (at, id) in [(30, 1), (10, 2), (20, 3)] {
        add(&mut index, id, at, 1, json!({}));
    }
    assert_eq!(form(&mut index, 100), Some(vec![2, 3]));
    assert_eq!(form(&mut index, i64::MAX / SECOND), None);
}

#[test]
fn fewer_will_do_when_the_oldest_has_waited_long_enough() {
    for kind in [Kind::Fill, Kind::SkillBased, Kind::Query] {
        let relaxing = ModeSettings { min_players: 2, relax_after_ms: Some(5_000), ..settings(kind, 4) };
        let mut index = index(relaxing);
        add(&mut index, 1, 1, 1, json!({}));
        assert_eq!(form(&mut index, 100), None, "{kind:?}: one is not enough");
        add(&mut index, 2, 98, 1, json!({}));
        assert_eq!(form(&mut index, 100), Some(vec![1, 2]), "{kind:?}");
        add(&mut index, 3, 100, 1, json!({}));
        add(&mut index, 4, 103, 1, json!({}));
        assert_eq!(form(&mut index, 104), None, "{kind:?}");
        assert_eq!(index.due_us(), Some(105 * SECOND), "{kind:?}");
        assert_eq!(form(&mut index, 105), Some(vec![3, 4]), "{kind:?}");
        assert_eq!(index.due_us(), None, "{kind:?}");
    }
}

#[test]
fn a_large_party_that_has_waited_gets_the_singles_it_needs() {
    let mut index = index(settings(Kind::Fill, 4));
    add(&mut index, 1, 1, 3, json!({}));
    for (id, at) in [(2, 2), (3, 3)] {
        add(&mut index, id, at, 3, json!({}));
    }
    assert_eq!(form(&mut index, 10), None, "threes alone do not make four");
    for (id, at) in [(4, 4), (5, 5), (6, 6), (7, 7), (8, 8), (9, 9)] {
        add(&mut index, id, at, 1, json!({}));
    }
    assert_eq!(form(&mut index, 10), Some(vec![1, 4]));
    assert_eq!(form(&mut index, 10), Some(vec![2, 5]));
    assert_eq!(form(&mut index, 10), Some(vec![3, 6]));
    assert_eq!(form(&mut index, 10), None);
}

#[test]
fn a_party_is_in_one_team() {
    for kind in [Kind::Fill, Kind::SkillBased, Kind::Query] {
        let teams = ModeSettings { teams: Some(Teams { count: 2, size: 3 }), ..settings(kind, 6) };
        let mut index = index(teams);
        for (id, size) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
            add(&mut index, id, 1, size, json!({}));
        }
        let taken = index.take_group("arena", &anywhere(), SECOND).expect("two and one, twice");
        assert!(taken.named_teams);
        let sizes: Vec<usize> = taken.group.teams.iter().map(|t| t.iter().map(|t| t.size()).sum()).collect();
        assert_eq!(sizes, [3, 3], "{kind:?}");
        for (id, size) in [(11, 2), (12, 2), (13, 2)] {
            add(&mut index, id, 1, size, json!({}));
        }
        assert_eq!(form(&mut index, 2), None, "{kind:?}: three pairs are no two threes");
    }
}

#[test]
fn windows_widen_and_must_reach_both_ways() {
    let mode = ModeSettings { skill_window: 100.0, skill_expand_rate: 50.0, ..settings(Kind::SkillBased, 2) };
    let mut index = index(mode);
    add(&mut index, 1, 0, 1, json!({"skill": 1_000}));
    add(&mut index, 2, 100, 1, json!({"skill": 1_200}));
    assert_eq!(form(&mut index, 100), None, "the older one's window reaches, the newer one's does not");
    assert_eq!(index.due_us(), Some(110 * SECOND), "a hundred more at fifty in five seconds");
    assert_eq!(form(&mut index, 109), None);
    assert_eq!(form(&mut index, 110), Some(vec![1, 2]));
    // Of two that fit the nearer one, unless the other has waited for long.
    add(&mut index, 3, 200, 1, json!({"skill": 0}));
    add(&mut index, 4, 200, 1, json!({"skill": 150}));
    add(&mut index, 5, 200, 1, json!({"skill": 90}));
    assert_eq!(form(&mut index, 200), Some(vec![3, 5]));
    add(&mut index, 6, 203, 1, json!({"skill": 240}));
    assert_eq!(form(&mut index, 203), Some(vec![4, 6]));
}

#[test]
fn the_fairest_teams_are_made() {
    let teams = ModeSettings {
        teams: Some(Teams { count: 2, size: 2 }),
        skill_window: 1_000.0,
        ..settings(Kind::SkillBased, 4)
    };
    let mut index = index(teams);
    for (id, skill) in [(1, 100), (2, 200), (3, 300), (4, 400)] {
        add(&mut index, id, 1, 1, json!({"skill": skill}));
    }
    let taken = index.take_group("arena", &anywhere(), SECOND).expect("four");
    let sums: Vec<f64> = taken.group.teams.iter().map(|team| team.iter().map(|t| t.skill).sum()).collect();
    assert_eq!(sums, [500.0, 500.0]);
}

#[test]
fn filters_hold_both_ways() {
    let mut index = index(settings(Kind::Query, 2));
    let mut add = |id, properties: Value, query: Option<&str>| {
        index.insert(ticket(waiting(id, i64::try_from(id).expect("small"), 1, &properties, query)));
        form(&mut index, 100)
    };
    let near = r#"region = "eu" and abs(skill - self.skill) <= 200"#;
    assert_eq!(add(1, json!({"region": "eu", "skill": 1_000}), Some(near)), None);
    assert_eq!(add(2, json!({"region": "us", "skill": 1_000}), None), None, "the first does not want it");
    assert_eq!(add(3, json!({"region": "eu", "skill": 1_300}), None), Some(vec![2, 3]), "they want each other");
    assert_eq!(
        add(4, json!({"region": "eu", "skill": 1_100}), Some("skill > 5000")),
        None,
        "it does not want the first"
    );
    assert_eq!(add(5, json!({"region": "eu", "skill": 900}), Some(near)), Some(vec![1, 5]));
}

#[test]
fn a_filter_finds_the_one_among_thousands_it_wants() {
    let mut index = index(settings(Kind::Query, 2));
    for id in 1..=3_000_u128 {
        let properties = json!({"clan": format!("c{id}"), "number": id as f64});
        index.insert(ticket(waiting(id, 1, 1, &properties, Some("false"))));
    }
    assert_eq!(form(&mut index, 2), None);
    let seeker = |id, query: &str| ticket(waiting(id, 5, 1, &json!({"number": 2_500.5}), Some(query)));
    index.insert(ticket(waiting(5_000, 3, 1, &json!({"clan": "mine", "number": 2_500}), Some("number > 2500"))));
    index.insert(seeker(5_001, r#"clan = "mine""#));
    assert_eq!(form(&mut index, 6), Some(vec![5_000, 5_001]), "by its text");
    index.insert(ticket(waiting(5_002, 3, 1, &json!({"number": 2_500}), Some("number > 2500"))));
    index.insert(seeker(5_003, "abs(number - self.number) < 100"));
    assert_eq!(form(&mut index, 6), Some(vec![5_002, 5_003]), "by its number");
    index.insert(ticket(waiting(5_004, 3, 1, &json!({"a": true}), Some("number > 2500"))));
    index.insert(seeker(5_005, "a or false"));
    let found = (7..60).find_map(|at| form(&mut index, at));
    assert_eq!(found, Some(vec![5_004, 5_005]), "by going through all of them, page by page");
}

#[test]
fn a_group_shares_a_region_that_has_room() {
    for kind in [Kind::Fill, Kind::SkillBased, Kind::Query] {
        let regions = vec!["eu".to_owned(), "us".to_owned()];
        let mut index = index(ModeSettings { regions, max_latency_ms: Some(80), ..settings(kind, 2) });
        add(&mut index, 1, 1, 1, json!({"region": "eu"}));
        add(&mut index, 2, 2, 1, json!({"region": "us"}));
        add(&mut index, 3, 3, 1, json!({"region": "mars"}));
        add(&mut index, 4, 4, 1, json!({"latencies": {"eu": 200, "us": 300}}));
        let both = ["eu".to_owned(), "us".to_owned()];
        assert_eq!(index.take_group("arena", &both, 100 * SECOND), None, "{kind:?}");
        add(&mut index, 5, 5, 1, json!({"latencies": {"eu": 70, "us": 20}}));
        let taken = index.take_group("arena", &both[1..], 100 * SECOND).expect("room in us only");
        assert_eq!((taken.group.ids(), taken.regions), (vec![2, 5], vec!["us".to_owned()]), "{kind:?}");
        add(&mut index, 6, 6, 1, json!({"latencies": {"eu": 70, "us": 20}}));
        add(&mut index, 7, 7, 1, json!({}));
        assert_eq!(index.take_group("arena", &both, 100 * SECOND).map(|t| t.regions), Some(vec!["eu".to_owned()]));
        assert_eq!(index.len(), 3);
    }
}

#[test]
fn the_best_common_region_comes_first() {
    let regions = vec!["eu".to_owned(), "us".to_owned()];
    let mut index = index(ModeSettings { regions, ..settings(Kind::Fill, 2) });
    add(&mut index, 1, 1, 1, json!({"latencies": {"eu": 70, "us": 20}}));
    add(&mut index, 2, 2, 1, json!({"latencies": {"eu": 60, "us": 30}}));
    let taken = index.take_group("arena", &anywhere(), 5 * SECOND).expect("a host without a region will do");
    assert_eq!(taken.regions, ["us", "eu"]);
}

#[test]
fn a_paused_mode_keeps_its_tickets() {
    let mut index = index(settings(Kind::Fill, 2));
    add(&mut index, 1, 1, 1, json!({}));
    add(&mut index, 2, 1, 1, json!({}));
    index.set_modes(vec![Mode { paused: true, ..mode("arena", settings(Kind::Fill, 2)) }]);
    assert_eq!((form(&mut index, 9), index.due_us(), index.len()), (None, None, 2));
    assert!(index.depths()[0].paused);
    index.set_modes(vec![mode("arena", settings(Kind::Fill, 2))]);
    assert_eq!(form(&mut index, 9), Some(vec![1, 2]));
}

#[test]
fn other_settings_count_for_who_waits_already() {
    let mut index = index(settings(Kind::SkillBased, 2));
    add(&mut index, 1, 1, 1, json!({"skill": 0}));
    add(&mut index, 2, 1, 1, json!({"skill": 5_000}));
    assert_eq!(form(&mut index, 2), None);
    index.set_modes(vec![mode("arena", settings(Kind::Fill, 2))]);
    assert_eq!(form(&mut index, 2), Some(vec![1, 2]));
}

fn wanted(places: usize, properties: &Value) -> (String, Wanted) {
    let as_ticket = waiting(900_000, 0, 1, properties, None);
    let states_skill = properties.get("skill").is_some();
    let wanted = Wanted { match_id: Uuid::from_u128(900_000), places, region: String::new(), as_ticket, states_skill };
    ("arena".into(), wanted)
}

#[test]
fn a_running_match_is_given_who_fits() {
    for (kind, expected) in [(Kind::Fill, vec![1, 2]), (Kind::SkillBased, vec![2, 4]), (Kind::Query, vec![2, 4])] {
        let mut index = index(settings(kind, 8));
        for (id, size, skill, query) in [
            (1, 1, 5_000, "skill > 4000"),
            (2, 1, 1_000, "true"),
            (3, 3, 1_000, "true"),
            (4, 1, 1_100, "skill >= 1000"),
        ] {
            let properties = json!({"skill": skill});
            let query = (kind == Kind::Query).then_some(query);
            index.insert(ticket(waiting(id, i64::try_from(id).expect("small"), size, &properties, query)));
        }
        index.set_wanted(vec![wanted(2, &json!({"skill": 1_000}))]);
        assert_eq!(index.wanting_modes(), ["arena"]);
        let (match_id, taken) = index.take_backfill("arena", 10 * SECOND).expect("there are some");
        assert_eq!((match_id.as_u128(), taken.group.ids()), (900_000, expected), "{kind:?}");
        assert_eq!(index.take_backfill("arena", 10 * SECOND), None, "{kind:?}: it has all it wanted");
        index.put_back(taken, |id| id == Uuid::from_u128(2));
        assert_eq!(index.len(), 3, "{kind:?}");
    }
}

#[test]
fn a_running_match_is_given_nobody_twice() {
    let regions = vec!["eu".to_owned(), "us".to_owned()];
    let mut index = index(ModeSettings { regions, ..settings(Kind::Fill, 8) });
    add(&mut index, 1, 1, 1, json!({}));
    // Its host is in no region: both pools are asked, and the ticket is in both.
    index.set_wanted(vec![wanted(3, &json!({}))]);
    let (_, taken) = index.take_backfill("arena", 5 * SECOND).expect("there is one");
    assert_eq!(taken.group.ids(), [1]);
    assert_eq!((index.len(), index.depths()[0].backfill_wanted), (0, 2));
}

#[test]
fn nobody_is_matched_in_a_mode_without_settings() {
    let mut index = Index::default();
    add(&mut index, 1, 1, 1, json!({}));
    add(&mut index, 2, 1, 1, json!({}));
    assert_eq!(form(&mut index, 5), None);
    assert_eq!(index.take_group("unheard of", &anywhere(), 0), None);
}

#[test]
fn settings_that_make_no_sense_still_make_progress() {
    let mut index = index(ModeSettings { min_players: 0, ..settings(Kind::Fill, 0) });
    add(&mut index, 1, 1, 1, json!({}));
    assert_eq!(form(&mut index, 1), Some(vec![1]));
    index.set_modes(vec![mode(
        "arena",
        ModeSettings { min_players: 9, relax_after_ms: Some(0), ..settings(Kind::Fill, 3) },
    )]);
    add(&mut index, 1, 1, 1, json!({}));
    add(&mut index, 2, 1, 7, json!({}));
    assert_eq!(form(&mut index, 1), None, "never fewer than match_size then, and nobody who has no place");
}

/// A studio's own: whoever came last plays alone.
#[derive(Default)]
struct Alone(Vec<Arc<Waiting>>);

impl Strategy for Alone {
    fn insert(&mut self, ticket: Arc<Waiting>) {
        self.0.push(ticket);
    }

    fn remove(&mut self, ticket: &Waiting) {
        self.0.retain(|own| own.ticket_id != ticket.ticket_id);
    }

    fn next_group(&mut self, _: &Rules, _: i64) -> Option<Group> {
        Some(Group { teams: vec![vec![self.0.pop()?]] })
    }

    fn due_us(&self, _: &Rules) -> Option<i64> {
        None
    }

    fn take_for(&mut self, _: &Wanted, _: &Rules, _: i64) -> Vec<Arc<Waiting>> {
        Vec::new()
    }
}

#[test]
fn a_studio_brings_its_own_strategy() {
    let mut index = Index::new(Strategies::default().with("arena", || Box::new(Alone::default())));
    index.set_modes(vec![mode("arena", settings(Kind::Fill, 2)), mode("duel", settings(Kind::Fill, 2))]);
    add(&mut index, 1, 1, 1, json!({}));
    add(&mut index, 2, 2, 1, json!({}));
    index.insert(Ticket { mode: "duel".into(), ..ticket(waiting(3, 1, 1, &json!({}), None)) });
    assert_eq!((form(&mut index, 5), form(&mut index, 5), form(&mut index, 5)), (Some(vec![2]), Some(vec![1]), None));
    assert_eq!(index.take_group("duel", &anywhere(), SECOND), None, "other modes are served as ever");
}

#[test]
fn positions_are_by_age_and_slices_go_on() {
    let mut index = index(settings(Kind::Fill, 50));
    for id in 1..=5 {
        add(&mut index, id, 10 - i64::try_from(id).expect("small"), 1, json!({}));
    }
    let standings = index.standings(&[Uuid::from_u128(5), Uuid::from_u128(2), Uuid::from_u128(77)], Instant::now());
    let places: Vec<(u128, i64)> = standings.iter().map(|s| (s.ticket_id.as_u128(), s.position)).collect();
    assert_eq!(places, [(5, 1), (2, 4)]);
    let first = index.slice(Uuid::nil(), 3);
    assert_eq!((first.len(), index.slice(first[2].0, 3).len()), (3, 2));
    let lacking = index.keep_only(&[1, 2, 9].map(Uuid::from_u128).into());
    assert_eq!((lacking, index.len()), (vec![Uuid::from_u128(9)], 2));
}

#[test]
fn what_a_player_waits_for_besides_goes_along() {
    let mut index = index(settings(Kind::Fill, 2));
    index.set_modes(vec![mode("trio", settings(Kind::Fill, 3))]);
    let mut party = waiting(7, 1, 2, &json!({}), None);
    party.members[1].player_id = Uuid::from_u128(1_000_001);
    add(&mut index, 1, 1, 1, json!({}));
    add(&mut index, 2, 2, 1, json!({}));
    index.insert(Ticket { mode: "trio".into(), waiting: Arc::new(party) });
    let taken = index.take_group("arena", &anywhere(), 9 * SECOND).expect("two");
    assert_eq!(taken.siblings.len(), 1, "a party one of whom is in another group");
    assert_eq!(index.len(), 0);
    index.put_back(taken, |id| id != Uuid::from_u128(2));
    assert_eq!(index.len(), 2);
}
