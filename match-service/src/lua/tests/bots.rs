//! Bots: their script beside the match's, what they think, and what they are called.

use asobi_proto::{effect::EffectBody, mode::Bots};
use serde_json::json;
use uuid::Uuid;

use super::{Play, folder, id, lines, problems, registry};

const GAME: &str = r#"match_size = 4
bots = { script = "bots/ai.lua", fill_after_ms = 2000, max = 3 }
state_strategy = "shared"
speed = 5
function init() return { n = 0, who = {}, seen = {} } end
function join(id, s) table.insert(s.who, id) return s end
function leave(id, s) table.insert(s.who, "-" .. id) return s end
function handle_input(id, input, s)
  table.insert(s.seen, { id, input.n, game.random(1000000) })
  if input["then"] == "fail" then error("on purpose") end
  return s
end
function tick(s) s.n = s.n + 1 s.globals = { tostring(think), tostring(plan) } return s end
function get_state(s) return s end
"#;

const AI: &str = r#"local plans = require("plans")
plan = plans.first
speed = 7
tick = nil
function think(bot_id, state)
  if state.n == 3 then return nil end
  if state.n == 4 then state.n = 99 error("lost its mind") end
  if state.n == 5 then while true do end end
  game.broadcast("thought", { by = bot_id })
  return { n = plan + state.n, me = bot_id, seen = init == nil and match_size == nil, random = game.random(1000) }
end
"#;

const BOT: u128 = 0xb07;
const BOT_ID: &str = "bot_Ada_a3f91c";

fn files() -> [(&'static str, &'static str); 4] {
    [
        ("config.lua", "return { m = 'game/match.lua' }"),
        ("game/match.lua", GAME),
        ("game/bots/ai.lua", AI),
        ("game/bots/plans.lua", "return { first = 10 }"),
    ]
}

/// A match in which a player and a bot have seats.
fn play() -> Play {
    let mut play = Play::with(&files(), "m");
    play.join(1).expect("joins");
    play.game.know_bot(Uuid::from_u128(BOT), BOT_ID);
    play.join(BOT).expect("joins");
    play
}

#[test]
fn settings_of_bots_are_read_and_checked() {
    let dir = folder(&files());
    let bots = |script: &str, fill_after_ms, max| Some(Bots { script: script.into(), fill_after_ms, max });
    assert_eq!(registry(dir.path()).modes()[0].1.bots, bots("bots/ai.lua", 2000, 3));
    let short = "match_size = 3\nbots = { script = 'ai.lua' }\nfunction init() return {} end";
    let dir = folder(&[("match.lua", short), ("ai.lua", "function think() end")]);
    assert_eq!(registry(dir.path()).modes()[0].1.bots, bots("ai.lua", 5000, 2));

    let shape = "match.lua:2: bots must be { script = \"…\", fill_after_ms = …, max = … }, the last two whole numbers that may be left out";
    for (bots, ai, says) in [
        ("5", "", shape),
        ("{}", "", shape),
        ("{ script = 5 }", "", shape),
        ("{ script = 'ai.lua', fill_after_ms = 0.5 }", "function think() end", shape),
        ("{ script = 'ai.lua', maximum = 3 }", "function think() end", shape),
        ("{ script = 'ai.lua', max = 0 }", "function think() end", "match.lua:2: bots must have a max from 1 to 1000"),
        (
            "{ script = 'ai.lua', fill_after_ms = 86400001 }",
            "function think() end",
            "match.lua:2: bots must have a fill_after_ms from 0 to 86400000",
        ),
        ("{ script = 'gone.lua' }", "", "match.lua:2: bots: there is no file `gone.lua`"),
        ("{ script = '../ai.lua' }", "", "match.lua:2: bots: `../ai.lua` leads out of the games folder"),
        ("{ script = 'ai.lua' }", "x = 1\ny = = 2", "ai.lua:2: Expected identifier when parsing expression, got '='"),
        ("{ script = 'ai.lua' }", "x = 1\nerror('boom')", "ai.lua:2: boom"),
        ("{ script = 'ai.lua' }", "x = 1", "ai.lua:-: defines no think(bot_id, state)"),
        ("{ script = 'ai.lua' }", "x = 1\nthink = 5", "ai.lua:2: think must be a function"),
    ] {
        let script = format!("match_size = 2\nbots = {bots}\nfunction init() return {{}} end");
        let found = lines(&problems(&[("match.lua", &script), ("ai.lua", ai)]));
        assert_eq!(found, [says], "{bots}");
    }
}

#[test]
fn a_bot_thinks_in_an_environment_of_its_own() {
    let mut play = play();
    let thought = play.think(BOT).expect("thinks").expect("does something");
    let thought: serde_json::Value = serde_json::from_str(&thought).expect("JSON");
    assert_eq!((&thought["n"], &thought["me"], &thought["seen"]), (&json!(10), &json!(BOT_ID), &json!(true)));
    assert_eq!(play.outcome.pushes.len(), 1);
    play.tick().expect("the match's own tick is still there");
    assert_eq!(play.state()["globals"], json!(["nil", "nil"]));
}

#[test]
fn a_bot_may_do_nothing_and_its_mistakes_are_its_own() {
    let mut play = play();
    for _ in 0..3 {
        play.tick().expect("ticks");
    }
    assert_eq!(play.think(BOT), Ok(None));
    play.tick().expect("ticks");
    let error = play.think(BOT).expect_err("fails");
    assert_eq!(error.to_string(), "game/bots/ai.lua:7: think: lost its mind");
    assert_eq!(play.state()["n"], 4, "the state is as it was");
    play.tick().expect("ticks");
    let error = play.think(BOT).expect_err("never ends");
    assert!(!error.fatal && error.message.contains("ran longer than 50 ms"), "{error}");
    play.tick().expect("ticks");
    assert!(play.think(BOT).expect("thinks").is_some());
}

#[test]
fn what_a_bot_thinks_must_be_an_input() {
    for (returns, says) in [
        ("5", "must return an input or nil, but returned a integer"),
        ("{ 1, 2 }", "must return an input with names or nil, but returned a list"),
        ("{ f = print }", "a function has no JSON"),
    ] {
        let ai = format!("function think() return {returns} end");
        let script = "match_size = 2\nbots = { script = 'ai.lua' }\nfunction init() return {} end";
        let mut play = Play::with(&[("match.lua", script), ("ai.lua", &ai)], "default");
        assert_eq!(play.think(BOT).expect_err("is no input").message, says, "{returns}");
    }
}

#[test]
fn thoughts_between_inputs_do_not_disturb_the_way_back() {
    let mut play = play();
    play.input(1, &json!({"n": 1})).expect("runs");
    play.think(BOT).expect("thinks, and draws a number");
    play.input(BOT, &json!({"n": 2})).expect("runs");
    play.input(1, &json!({"n": 3, "then": "fail"})).expect_err("fails");
    let undone = play.state()["seen"].clone();

    let mut other = self::play();
    other.input(1, &json!({"n": 1})).expect("runs");
    other.think(BOT).expect("thinks, and draws a number");
    other.input(BOT, &json!({"n": 2})).expect("runs");
    assert_eq!(undone, other.state()["seen"], "the same numbers were drawn again");
    assert_eq!(undone.as_array().map(Vec::len), Some(2));
}

#[test]
fn a_bot_is_called_by_its_id() {
    let mut play = play();
    play.input(BOT, &json!({"n": 1})).expect("runs");
    assert_eq!(play.state()["who"], json!([id(1), BOT_ID]));
    assert_eq!(play.state()["seen"][0][0], BOT_ID);
    play.leave(BOT).expect("leaves");
    assert_eq!(play.state()["who"][2], format!("-{BOT_ID}"));
    play.join(BOT).expect("joins, as somebody who is no bot");
    assert_eq!(play.state()["who"][3], id(BOT));
}

#[test]
fn what_is_for_players_is_not_for_bots() {
    let script = format!(
        "match_size = 2
bots = {{ script = 'ai.lua' }}
state_strategy = 'shared'
function init() return {{}} end
function tick(s)
  local bot, player = '{BOT_ID}', '{}'
  s.answers = {{
    game.send(bot, {{ n = 1 }}), game.send(player, {{ n = 1 }}), game.send('bot_Bob_000000', {{ n = 1 }}),
    game.notify_many({{ bot, player }}, 't', 's'), game.notify(bot, 't', 's'), game.leaderboard.submit('b', bot, 1),
    game.chat.send('global:a', bot, 'x'), game.storage.player_set(bot, 'c', 'k', 1), game.storage.player_get(bot, 'c', 'k'),
    game.leaderboard.rank('b', bot), game.leaderboard.around('b', bot, 1),
  }}
  return s
end
function get_state(s) return s end",
        id(1)
    );
    let mut play = Play::with(&[("match.lua", &script), ("ai.lua", "function think() end")], "default");
    play.join(1).expect("joins");
    play.game.know_bot(Uuid::from_u128(BOT), BOT_ID);
    play.join(BOT).expect("joins");
    play.tick().expect("ticks");
    let answers = play.state()["answers"].take();
    assert_eq!((&answers[0], &answers[1]), (&json!(true), &json!(true)));
    assert!(answers[2]["error"].is_string(), "there is no such bot");
    assert_eq!(answers[3], json!({"ok": [id(1)]}));
    assert_eq!(answers[4], json!({"ok": []}));
    assert_eq!(answers[5], true);
    assert!((6..11).all(|n| answers[n]["error"].is_string()), "{answers}");
    assert_eq!(play.outcome.pushes.len(), 1);
    let [EffectBody::Notify(notified)] = &play.outcome.effects[..] else {
        panic!("one effect: {:?}", play.outcome.effects);
    };
    assert_eq!(notified.player_ids, [Uuid::from_u128(1)]);
    assert_eq!(play.asked(), []);
}

#[test]
fn bots_are_known_again_after_a_move() {
    let mut play = play();
    let saved = play.save().expect("can be saved");
    let dir = folder(&files());
    let mut other = Play::unstarted(&registry(dir.path()), "m", dir);
    other.game.restore(&saved, &[1, BOT].map(Uuid::from_u128)).expect("can be restored");
    assert_eq!(play.think(BOT), other.think(BOT));
    other.input(BOT, &json!({"n": 1})).expect("runs");
    assert_eq!(other.state()["seen"][0][0], BOT_ID);
}
