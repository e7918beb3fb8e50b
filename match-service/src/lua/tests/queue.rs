//! What scripts say to the queue and hear of it.

use std::sync::Arc;

use asobi_proto::mode::Teams;
use futures_util::FutureExt as _;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Play, counter, folder, lines, problems, registry};
use crate::{
    game::{Outcome, Setup},
    outside::Nowhere,
};

#[test]
fn a_match_asks_for_players_within_its_seats() {
    let mut play = Play::script(
        r#"max_players = 4
backfill = true
function join(player_id, state) return state end
function handle_input(player_id, input, state)
  local asked = game.match.request_backfill(input.n, input.properties)
  state.answer = asked == true or asked.error
  return state
end
function get_state(state) return state end"#,
    );
    play.join(1).expect("seated");
    let mut ask = |input: Json| {
        play.outcome.backfill = None;
        play.input(1, &input).expect("runs");
        (play.state()["answer"].clone(), play.outcome.backfill.take().map(|b| (b.wanted, b.properties)))
    };
    assert_eq!(ask(json!({"n": 3})), (json!(true), Some((3, "{}".to_owned()))));
    let told = ask(json!({"n": 1, "properties": {"skill": 12}}));
    assert_eq!(told, (json!(true), Some((1, r#"{"skill":12}"#.to_owned()))));
    assert_eq!(ask(json!({"n": 0})), (json!(true), Some((0, "{}".to_owned()))));
    assert_eq!(ask(json!({"n": 4})).0, "the match has fewer free seats than that");
    assert_eq!(ask(json!({"n": -1})).0, "request_backfill takes a whole number of players");
    assert_eq!(ask(json!({"n": 1, "properties": [1]})), (json!("the properties must have names"), None));

    let mut closed = counter("function tick(state) state.n = game.match.request_backfill(1).error return state end");
    closed.tick().expect("runs");
    assert_eq!(closed.state()["n"], "the mode does not set backfill = true");
}

#[test]
fn teams_reach_init() {
    let script = "match_size = 2\nfunction init(config) return { teams = config.teams or 'none' } end
function get_state(state) return state end";
    let dir = folder(&[("match.lua", script)]);
    let registry = registry(dir.path());
    let factory = registry.get("default").expect("the mode is there");
    let state = |teams: Vec<Vec<Uuid>>| {
        let setup = Setup::new(Uuid::from_u128(1), "default").with_teams(teams);
        let mut game = factory.create(&setup, Arc::new(Nowhere)).expect("creates");
        let (mut outcome, mut json) = (Outcome::default(), String::new());
        game.init(&mut outcome).now_or_never().expect("asks nobody").expect("starts");
        game.state(None, &mut json, &mut outcome).now_or_never().expect("asks nobody").expect("a state");
        serde_json::from_str::<Json>(&json).expect("is JSON")["teams"].clone()
    };
    assert_eq!(state(Vec::new()), "none");
    let (a, b) = (Uuid::from_u128(7), Uuid::from_u128(8));
    assert_eq!(state(vec![vec![a], vec![b]]), json!([[a], [b]]));
}

#[test]
fn settings_of_the_queue_are_read_and_checked() {
    let good = "match_size = 4\nteams = { count = 2, size = 2 }\nregions = { 'eu', 'us' }\nmax_latency_ms = 80\nbackfill = true
function init() return {} end";
    let dir = folder(&[("match.lua", good)]);
    let settings = registry(dir.path()).modes()[0].1.clone();
    assert_eq!(settings.teams, Some(Teams { count: 2, size: 2 }));
    assert_eq!(
        (settings.regions, settings.max_latency_ms, settings.backfill),
        (vec!["eu".into(), "us".into()], Some(80), true)
    );
    let bad = "match_size = 4
teams = { count = 3, size = 2 }
regions = 'eu'
max_latency_ms = 0
backfill = 1
function init() return {} end";
    let mut found = lines(&problems(&[("match.lua", bad)]));
    found.sort();
    assert_eq!(
        found,
        [
            "match.lua:2: teams must have a count and a size that make match_size when multiplied",
            "match.lua:3: regions must be a list of names, such as { \"eu\", \"us\" }",
            "match.lua:4: max_latency_ms must be a whole number from 1 to 600000",
            "match.lua:5: backfill must be true or false",
        ]
    );
    let shape = lines(&problems(&[("match.lua", "match_size = 2\nteams = { 1, 2 }\nfunction init() return {} end")]));
    assert_eq!(shape, ["match.lua:2: teams must be { count = …, size = … }, both whole numbers"]);
}
