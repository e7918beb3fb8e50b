//! Calls that wait for another service's answer.

use std::time::Duration;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Play, counter, id};
use crate::game::{ANSWER_WITHIN, Ask, AskError};

/// A tick that puts the value of an expression into the state.
fn ticks(expression: &str) -> Play {
    counter(&format!("local A = '{}'\nfunction tick(s)\n  s.n = {expression}\n  return s\nend", id(1)))
}

#[test]
fn each_question_reaches_its_service_and_its_answer_the_script() {
    let player = Uuid::from_u128(1);
    let stored = |player| Ask::Stored { collection: "c".into(), key: "k".into(), player };
    for (call, ask, answer, seen) in [
        ("game.storage.get('c', 'k')", stored(None), r#"{"a":[1,2.5]}"#, json!({"ok": {"a": [1, 2.5]}})),
        ("game.storage.get('c', 'k')", stored(None), "null", json!({})),
        ("game.storage.player_get(A, 'c', 'k')", stored(Some(player)), "\"text\"", json!({"ok": "text"})),
        ("game.leaderboard.top('b', 3)", Ask::Top { board: "b".into(), n: 3 }, "[]", json!({"ok": []})),
        (
            "game.leaderboard.rank('b', A)",
            Ask::Rank { board: "b".into(), player },
            r#"{"rank":1}"#,
            json!({"ok": {"rank": 1}}),
        ),
        (
            "game.leaderboard.around('b', A, 2)",
            Ask::Around { board: "b".into(), player, n: 2 },
            "[1]",
            json!({"ok": [1]}),
        ),
    ] {
        let mut play = ticks(call);
        play.answer(Ok(answer));
        play.tick().expect("ticks");
        assert_eq!(play.asked(), [ask], "{call}");
        assert_eq!(play.state()["n"], seen, "{call}");
    }
}

#[test]
fn wrong_arguments_ask_nobody() {
    let calls = [
        "game.storage.get()",
        "game.storage.get('c')",
        "game.storage.get(string.rep('c', 65), 'k')",
        "game.storage.get('c', 'k\\0')",
        "game.storage.player_get('nobody', 'c', 'k')",
        "game.leaderboard.top('b')",
        "game.leaderboard.top('b', 0)",
        "game.leaderboard.top('b', 101)",
        "game.leaderboard.top('b', 1.5)",
        "game.leaderboard.top('', 1)",
        "game.leaderboard.rank('b')",
        "game.leaderboard.rank('b', 'nobody')",
        "game.leaderboard.around('b', A)",
        "game.leaderboard.around('b', 'nobody', 1)",
    ];
    let mut play = ticks(&format!("{{ {} }}", calls.join(", ")));
    play.tick().expect("ticks");
    let answers = play.state()["n"].take();
    for (n, call) in calls.iter().enumerate() {
        assert!(answers[n]["error"].is_string(), "{call}: {}", answers[n]);
    }
    assert_eq!(play.asked(), []);
}

#[test]
fn who_does_not_answer_in_time_or_cannot_is_told_to_the_script() {
    let mut play = ticks("{ game.storage.get('c', 'a'), game.storage.get('c', 'b'), game.storage.get('c', 'd') }");
    play.answer(Err(AskError::Unavailable));
    play.answer(Ok("7"));
    let began = play.runtime.block_on(async { tokio::time::Instant::now() });
    play.tick().expect("ticks");
    assert_eq!(play.state()["n"], json!([{"error": "unavailable"}, {"ok": 7}, {"error": "timeout"}]));
    let took = play.runtime.block_on(async move { began.elapsed() });
    assert!((ANSWER_WITHIN..ANSWER_WITHIN + Duration::from_millis(10)).contains(&took), "{took:?}");
}

#[test]
fn a_callback_sees_what_it_has_written_itself() {
    let mut play = counter(&format!(
        "local A = '{}'
function tick(s)
  game.storage.set('c', 'k', 1)
  game.storage.set('c', 'k', {{ n = 2 }})
  game.storage.player_set(A, 'c', 'k', 3)
  s.n = {{ game.storage.get('c', 'k'), game.storage.player_get(A, 'c', 'k'), game.storage.get('c', 'other') }}
  game.storage.set('c', 'k', nil)
  table.insert(s.n, game.storage.get('c', 'k').ok == nil)
  return s
end",
        id(1)
    ));
    play.answer(Ok("9"));
    play.tick().expect("ticks");
    assert_eq!(play.state()["n"], json!([{"ok": {"n": 2}}, {"ok": 3}, {"ok": 9}, true]));
    assert_eq!(play.asked().len(), 1, "the host is asked for what the callback did not write");
    play.answer(Ok("null"));
    play.answer(Ok("null"));
    let mut later = counter(
        "function tick(s) s.n = game.storage.get('c', 'k').ok or 'none' game.storage.set('c', 'k', 1) return s end",
    );
    for _ in 0..2 {
        later.answer(Ok("null"));
        later.tick().expect("ticks");
        assert_eq!(later.state()["n"], "none", "what an earlier callback wrote is the host's to know");
    }
}

#[test]
fn a_callback_may_wait_longer_than_it_may_run_and_still_has_its_budget() {
    let mut play = counter(
        "function tick(s) for n = 1, 20 do s.n = s.n + (game.storage.get('c', 'k').error == 'timeout' and 1 or 0) end return s end",
    );
    play.tick().expect("five seconds of waiting are none of work");
    assert_eq!(play.state()["n"], 20);

    let mut play = counter(
        "function tick(s) for n = 1, 3 do game.storage.get('c', 'k') end s.n = 1 while true do pcall(game.storage.get, 'c', 'k') end end",
    );
    let error = play.tick().expect_err("never ends");
    assert_eq!(error.message, "ran longer than 50 ms");
    assert_eq!(play.state()["n"], 0);
}

#[test]
fn one_callback_has_its_bound_of_questions() {
    let mut play = ticks("{} for n = 1, 40 do s.n[n] = game.storage.get('c', 'k').ok or 0 end local x = 1");
    for _ in 0..40 {
        play.answer(Ok("1"));
    }
    play.tick().expect("ticks");
    assert_eq!(play.asked().len(), 32);
    assert_eq!(play.state()["n"].as_array().expect("a list").iter().filter_map(Json::as_i64).sum::<i64>(), 32);
    play.tick().expect("the next callback may ask again");
    assert_eq!(play.asked().len(), 32);
}

#[test]
fn a_question_from_a_coroutine_reaches_the_host_too() {
    let mut play = counter(
        r#"function tick(s)
  local co = coroutine.create(function(first)
    local got = game.storage.get("c", "a").ok
    local second = coroutine.yield(first + got)
    local inner = coroutine.wrap(function() return game.storage.get("c", "b").ok end)
    return second + inner(), "last"
  end)
  local ok, one = coroutine.resume(co, 1)
  local also, two, last = coroutine.resume(co, 100)
  local each = {}
  local walk = coroutine.wrap(function() for n = 1, 3 do coroutine.yield(n) end end)
  for n in walk do table.insert(each, n) end
  local guarded, got = pcall(function() return game.storage.get("c", "d").ok end)
  s.n = { ok, one, also, two, last, coroutine.status(co), select('#', coroutine.resume(coroutine.create(function() end))), each,
    guarded, got }
  return s
end"#,
    );
    for answer in ["10", "20", "30"] {
        play.answer(Ok(answer));
    }
    play.tick().expect("ticks");
    assert_eq!(play.state()["n"], json!([true, 11, true, 120, "last", "dead", 1, [1, 2, 3], true, 30]));
}

#[test]
fn where_nothing_can_wait_a_question_says_so() {
    for (setup, expression) in [
        ("local early = game.storage.get('c', 'k')", "early.error"),
        ("local t = setmetatable({}, { __index = function() return game.storage.get('c', 'k') end })", "t.x.error"),
        (
            "local seen table.sort({ 1, 2, 3 }, function(a, b) seen = game.storage.get('c', 'k') return a < b end)",
            "seen.error",
        ),
        ("local seen string.gsub('x', 'x', function() seen = game.storage.get('c', 'k') end)", "seen.error"),
        (
            "local t = setmetatable({}, { __index = function() return coroutine.wrap(function() return game.storage.get('c', 'k') end)() end })",
            "t.x.error",
        ),
    ] {
        let mut play = counter(&format!(
            "{setup}\nfunction tick(s) {} s.n = {expression} return s end",
            if setup.contains("early") { "" } else { setup }
        ));
        play.tick().unwrap_or_else(|error| panic!("{setup}: {error}"));
        let seen = play.state()["n"].take();
        assert!(seen.as_str().is_some_and(|seen| seen.contains("cannot wait for an answer")), "{setup}: {seen}");
        assert_eq!(play.asked(), [], "{setup}");
    }
}

#[test]
fn a_yield_of_the_script_is_no_question() {
    for yields in [
        "coroutine.yield()",
        "coroutine.yield({})",
        "pcall(coroutine.yield, {})",
        "pcall(function() coroutine.yield(table.freeze({})) end)",
        // Not even where a question was put and not waited for.
        "coroutine.wrap(function() coroutine.yield() end)() coroutine.yield(nil)",
    ] {
        let mut play = counter(&format!("function tick(s) s.n = 5 {yields} return s end"));
        let error = play.tick().expect_err("fails");
        assert_eq!(error.message, "attempt to yield from outside a coroutine", "{yields}");
        assert_eq!(play.state()["n"], 0);
    }
}

#[test]
fn a_callback_that_has_asked_is_never_repeated() {
    let mut play = counter(
        r#"function handle_input(id, input, s)
  s.n = s.n * 10 + input.n
  if input.ask then s.n = s.n + game.storage.get("c", "k").ok end
  if input.fail then error("on purpose") end
  return s
end
function tick(s) s.n = -1 error("on purpose") end"#,
    );
    play.join(1).expect("joins");
    play.input(1, &json!({"n": 1})).expect("counts");
    play.answer(Ok("5"));
    play.input(1, &json!({"n": 2, "ask": true})).expect("counts");
    play.input(1, &json!({"n": 3})).expect("counts");
    play.tick().expect_err("fails");
    assert_eq!(play.asked().len(), 1, "the answer is not asked for again");
    assert_eq!(play.state()["n"], 173, "and what came of it stays");
    play.answer(Ok("5"));
    play.input(1, &json!({"n": 4, "ask": true, "fail": true})).expect_err("fails");
    assert_eq!(play.state()["n"], 173);
    play.input(1, &json!({"n": 4})).expect("counts");
    assert_eq!(play.state()["n"], 1734);
}

#[test]
fn every_callback_may_ask() {
    let mut play = Play::unstarted_script(
        r#"state_strategy = "shared"
local function ask(s) s.n = s.n + game.storage.get("c", "k").ok return s end
function init() return ask({ n = 0 }) end
function join(id, s) return ask(s) end
function leave(id, s) return ask(s) end
function handle_input(id, input, s) return ask(s) end
function tick(s) return ask(s) end
function get_state(s) return { n = s.n, asked = game.storage.get("c", "k").ok } end"#,
    );
    for _ in 0..6 {
        play.answer(Ok("1"));
    }
    play.start();
    play.join(1).expect("joins");
    play.input(1, &json!({})).expect("runs");
    play.tick().expect("ticks");
    play.leave(1).expect("leaves");
    assert_eq!(play.state(), json!({"n": 5, "asked": 1}));
}
