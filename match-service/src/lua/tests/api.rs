//! The `game` table, and what of Lua is there.

use std::time::Duration;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{counter, score};
use crate::game::{Push, Timer};

#[test]
fn pushes_keep_their_order_and_their_rules() {
    let mut play = counter(
        r#"answers = {}
function handle_input(id, input, state)
  local big = { x = string.rep("x", 70000) }
  local results = {
    game.broadcast("round-1", { n = 1 }), game.send(id, "hello"), game.broadcast("empty"),
    game.broadcast("state", {}), game.broadcast("a b", {}), game.broadcast("", {}), game.broadcast(1, {}),
    game.broadcast("x", "text"), game.broadcast("x", big), game.send("nobody", {}),
    game.send("00000000-0000-0000-0000-000000000009", {}), game.send(id, print),
  }
  for i, r in ipairs(results) do results[i] = r == true or r.error end
  game.broadcast("answers", results)
  return state
end"#,
    );
    play.join(1).expect("joins");
    play.input(1, &json!({})).expect("runs");
    let player = Uuid::from_u128(1);
    assert_eq!(
        play.outcome.pushes[..3],
        [
            Push::Broadcast { event: "round-1".into(), payload: r#"{"n":1}"#.into() },
            Push::Message { player, message: r#""hello""#.into() },
            Push::Broadcast { event: "empty".into(), payload: "{}".into() },
        ]
    );
    let Push::Broadcast { payload, .. } = &play.outcome.pushes[3] else {
        panic!("the answers are broadcast");
    };
    let answers: Json = serde_json::from_str(payload).expect("JSON");
    let answers = answers.as_array().expect("an array");
    assert_eq!(answers[..3], [true, true, true].map(Json::from));
    assert_eq!(answers[3], "`state` is a reserved event");
    assert!(answers[4..].iter().all(Json::is_string), "{answers:?}");
    assert_eq!(play.outcome.pushes.len(), 4);
}

#[test]
fn scores_timers_and_joinable_are_effects() {
    let mut play = counter(
        r#"function handle_input(id, input, state)
  assert(game.leaderboard.submit("board", id, 12.5, 3) == true)
  assert(game.leaderboard.submit("board", "nobody", 1).error)
  assert(game.leaderboard.submit("board", id, 0/0).error)
  assert(game.match.set_joinable(false) == true)
  assert(game.match.set_joinable(1).error)
  assert(game.after(1500, "bell", { n = 1 }) == true)
  assert(game.after(-1, "bell").error)
  return state
end
function on_timer(name, data, state)
  state.n = data.n + #name
  return state
end"#,
    );
    play.join(1).expect("joins");
    play.input(1, &json!({})).expect("runs");
    assert_eq!(play.outcome.joinable, Some(false));
    let score = score(&play, 0);
    assert_eq!(
        (score.board.as_str(), score.player_id, score.score, score.sub_score),
        ("board", Uuid::from_u128(1), 12.5, 3.0)
    );
    let timer = Timer { after: Duration::from_millis(1500), name: "bell".into(), data: Some(r#"{"n":1}"#.into()) };
    assert_eq!(play.outcome.timers, std::slice::from_ref(&timer));
    play.timer(&timer).expect("the bell rings");
    assert_eq!(play.state()["n"], 5);
}

#[test]
fn random_numbers_come_from_the_matchs_seed() {
    let script = r#"function tick(state)
  state.n = { game.random(), math.random(), game.random(6), math.random(10, 20), #game.id() }
  return state
end"#;
    let draw = || {
        let mut play = counter(script);
        play.tick().expect("runs");
        play.state()["n"].clone()
    };
    let first = draw();
    assert_eq!(first, draw());
    assert_ne!(first[0], first[1]);
    assert!((1..=6).contains(&first[2].as_i64().expect("whole")));
    assert_eq!(first[4], 36);
}

#[test]
fn what_a_game_has_no_business_with_is_not_there() {
    let mut play = counter(
        r#"function tick(state)
  for _, name in ipairs({ "io", "package", "debug", "load", "loadstring", "loadfile", "dofile", "getfenv", "setfenv",
    "collectgarbage", "newproxy" }) do
    assert(_G[name] == nil, name)
  end
  for name in pairs(os) do
    assert(name == "clock" or name == "date" or name == "difftime" or name == "time", name)
  end
  local ok, problem = pcall(print, "x")
  assert(not ok and string.find(tostring(problem), "game.log", 1, true))
  assert(not pcall(function() string.rep = nil end))
  assert(not pcall(function() game.id = nil end))
  assert(not pcall(function() game.leaderboard.submit = nil end))
  assert(not pcall(function() getmetatable("").__index = nil end))
  return state
end"#,
    );
    play.tick().expect("nothing is missing that should be there");
}

#[test]
fn logging_is_limited_per_second() {
    let mut play = counter(
        r#"function tick(state)
  assert(game.log("info", "x", { a = 1 }) == true)
  assert(game.log("loud", "x").error)
  assert(game.log("info").error)
  for _ = 1, 40 do state.n = state.n + (game.log("debug", "x") and 1 or 0) end
  return state
end"#,
    );
    play.tick().expect("runs");
    assert_eq!(play.state()["n"], 29);
}

#[test]
fn random_numbers_keep_to_what_they_are_asked_for() {
    let mut play = counter(
        r#"function tick(s)
  local wrong = 0
  for _, f in ipairs({ game.random, math.random }) do
    for _ = 1, 200 do
      local a, b, c = f(), f(3), f(-2, 2)
      assert(a >= 0 and a < 1 and b >= 1 and b <= 3 and c >= -2 and c <= 2 and b % 1 == 0 and c % 1 == 0)
    end
    for _, args in ipairs({ { 0 }, { 1.5 }, { 2, 1 }, { "x" }, { 1, 2, 3 } }) do
      if not pcall(f, table.unpack(args)) then wrong += 1 end
    end
  end
  math.randomseed(5)
  local first = game.random(1e9)
  math.randomseed(5)
  s.n = { wrong, first == math.random(1e9) }
  return s
end"#,
    );
    play.tick().expect("runs");
    assert_eq!(play.state()["n"], json!([10, true]));
}

#[test]
fn arrays_stay_arrays_when_they_are_empty() {
    let mut play = counter(
        r#"function handle_input(id, input, s)
  s.n = { game.array(), {}, input.list, game.array({ 1 }), game.array(5), game.array(table.freeze({})) }
  return s
end"#,
    );
    play.join(1).expect("joins");
    play.input(1, &json!({"list": []})).expect("runs");
    let arrays = play.state()["n"].take();
    assert_eq!((&arrays[0], &arrays[1], &arrays[2], &arrays[3]), (&json!([]), &json!({}), &json!([]), &json!([1])));
    assert!(arrays[4]["error"].is_string() && arrays[5]["error"].is_string(), "{arrays}");
}
