//! When callbacks are called, what they return, and what becomes of it.

use std::time::Duration;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Play, counter, id};
use crate::game::{Joined, Outcome, Timer};

#[test]
fn init_is_told_what_the_match_is() {
    let mut play = counter("");
    assert_eq!(play.state(), json!({"n": 0, "seed": 0x42, "mode": "default", "id": id(0x42)}));
}

#[test]
fn a_failed_callback_changes_nothing() {
    let mut play = counter(
        r#"function handle_input(id, input, state)
  state.n = state.n + 1
  game.broadcast("counted", { n = state.n })
  game.leaderboard.submit("b", id, 1)
  if input.fail then error("on purpose") end
  if input.nothing then return end
  return state
end"#,
    );
    play.join(1).expect("joins");
    play.input(1, &json!({})).expect("counts");
    let error = play.input(1, &json!({"fail": true})).expect_err("fails");
    assert_eq!(
        (error.script.as_str(), error.line, error.callback, error.message.as_str(), error.fatal),
        ("match.lua", Some(12), "handle_input", "on purpose", false)
    );
    let error = play.input(1, &json!({"nothing": true})).expect_err("fails");
    assert_eq!(error.message, "must return the state, but returned nothing");
    assert_eq!(play.state()["n"], 1);
    assert_eq!(play.outcome.pushes.len(), 1);
    assert_eq!(play.outcome.effects.len(), 1);
    play.input(1, &json!({})).expect("goes on");
    assert_eq!(play.state()["n"], 2);
}

#[test]
fn what_was_done_before_a_callback_failed_stays_done() {
    let mut play = counter(
        r#"function handle_input(id, input, state)
  state.n = state.n * 10 + input.n
  state.seen = state.seen or {}
  table.insert(state.seen, { id = game.id(), drawn = game.random(1000000), n = input.n })
  if input.fail then error("on purpose") end
  game.broadcast("did", { n = input.n })
  return state
end
function tick(state) state.n = -1 error("on purpose") end
function get_state(state) return { n = state.n, seen = state.seen } end"#,
    );
    play.join(1).expect("joins");
    for n in 1..=3 {
        play.input(1, &json!({"n": n})).expect("done");
    }
    let before = play.state();
    assert_eq!(before["n"], 123);
    play.input(1, &json!({"n": 4, "fail": true})).expect_err("fails");
    assert_eq!(play.state(), before, "the same ids and numbers too");
    play.input(1, &json!({"n": 5})).expect("done");
    let before = play.state();
    assert_eq!(before["n"], 1235);
    play.tick().expect_err("fails");
    assert_eq!(play.state(), before);
    assert_eq!(play.outcome.pushes.len(), 4, "nothing is said twice");
}

#[test]
fn join_may_refuse_with_or_without_a_reason() {
    let mut play = counter(
        r#"local n = 0
function join(id, state, ctx)
  state.n = state.n + 1
  if ctx == nil then return nil, "no_code" end
  if ctx.code == "odd" then return nil, "bad\nreason" end
  if ctx.code == "good" then return state end
end"#,
    );
    let mut join = |ctx: Option<&str>| play.join_with(1, ctx).expect("answers");
    assert_eq!(join(None), Joined::Refused(Some("no_code".into())));
    assert_eq!(join(Some(r#"{"code":"odd"}"#)), Joined::Refused(None));
    assert_eq!(join(Some(r#"{"code":"bad"}"#)), Joined::Refused(None));
    assert_eq!(join(Some(r#"{"code":"good"}"#)), Joined::Seated);
    assert_eq!(play.state()["n"], 1);
}

#[test]
fn finished_carries_the_result() {
    let mut play = counter(
        r#"function tick(state)
  state._finished = true
  state._result = { winner = "x", losers = game.array() }
  return state
end"#,
    );
    play.tick().expect("ticks");
    let result: Json = serde_json::from_str(play.outcome.finished.as_deref().expect("finished")).expect("JSON");
    assert_eq!(result, json!({"winner": "x", "losers": []}));
}

#[test]
fn a_result_without_json_ends_the_match_and_says_so() {
    let mut play = counter("function tick(s) s._finished = true s._result = { f = print } return s end");
    let error = play.tick().expect_err("no JSON");
    assert_eq!(error.message, "a function has no JSON");
    let result = play.outcome.finished.as_deref().expect("finished all the same");
    assert!(result.contains("error"), "{result}");
}

#[test]
fn states_can_be_each_players_own() {
    let mut play = Play::script(
        r#"function init() return { tick = 0 } end
function join(id, state) return state end
function get_state(player_id, state) return { you = player_id } end"#,
    );
    let json = play.state_of(Some(7)).expect("a state");
    assert_eq!(json, format!("{{\"you\":\"{}\"}}", id(7)));
}

#[test]
fn every_callback_is_called_with_its_player_and_keeps_what_it_returns() {
    let mut play = Play::script(
        r#"state_strategy = "shared"
local function note(name) return function(id, s) table.insert(s, name .. " " .. id:sub(-1)) return s end end
function init() return {} end
join, leave, on_disconnect, on_reconnect = note("join"), note("leave"), note("lost"), note("back")
function handle_input(id, input, s) table.insert(s, id:sub(-1) .. " says " .. input.word) return s end
function tick(s) table.insert(s, "tick") return s end
function on_timer(name, data, s) table.insert(s, name .. " " .. tostring(data)) return s end
function get_state(s) return s end"#,
    );
    let player = Uuid::from_u128(1);
    play.join(1).expect("joins");
    play.input(1, &json!({"word": "hello"})).expect("says");
    play.runtime.block_on(play.game.on_disconnect(player, &mut play.outcome)).expect("is lost");
    play.runtime.block_on(play.game.on_reconnect(player, &mut play.outcome)).expect("is back");
    play.tick().expect("ticks");
    play.timer(&Timer { after: Duration::ZERO, name: "bell".into(), data: None }).expect("rings");
    play.leave(1).expect("leaves");
    let expected = ["join 1", "1 says hello", "lost 1", "back 1", "tick", "bell nil", "leave 1"];
    assert_eq!(play.state(), json!(expected));
}

#[test]
fn a_callback_that_is_not_there_does_nothing() {
    let mut play = Play::script("function init() return { n = 1 } end");
    let player = Uuid::from_u128(1);
    assert_eq!(play.join(1), Ok(Joined::Seated));
    play.input(1, &json!({})).expect("nothing happens");
    play.tick().expect("nothing happens");
    play.timer(&Timer { after: Duration::ZERO, name: "bell".into(), data: None }).expect("nothing happens");
    play.runtime.block_on(play.game.on_disconnect(player, &mut play.outcome)).expect("nothing happens");
    play.runtime.block_on(play.game.on_reconnect(player, &mut play.outcome)).expect("nothing happens");
    assert_eq!(play.think(1), Ok(None));
    play.leave(1).expect("nothing happens");
    assert_eq!(play.state(), json!({}));
    assert_eq!(play.outcome, Outcome::default());
}
