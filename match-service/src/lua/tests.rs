//! The scripts' contract, rule by rule. Scripts are written into a folder of their own and loaded as a host loads them.

mod queue;

use std::{fs, path::Path, time::Duration};

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Limits, LoadError, load};
use crate::game::{Game, GameError, Joined, Outcome, Push, Registry, Setup, Timer};

const LIMITS: Limits = Limits { memory_bytes: 8 << 20, callback: Duration::from_millis(50) };

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("written");
    }
    dir
}

fn problems(files: &[(&str, &str)]) -> LoadError {
    let dir = folder(files);
    match load(dir.path(), LIMITS) {
        Ok(_) => panic!("the folder loaded"),
        Err(error) => error,
    }
}

fn lines(error: &LoadError) -> Vec<String> {
    error
        .problems
        .iter()
        .map(|p| format!("{}:{}: {}", p.file, p.line.map_or("-".to_owned(), |line| line.to_string()), p.message))
        .collect()
}

fn registry(path: &Path) -> Registry {
    registry_with(path, LIMITS)
}

fn registry_with(path: &Path, limits: Limits) -> Registry {
    load(path, limits).unwrap_or_else(|error| panic!("{error}")).0
}

/// A match of the one script given, started.
struct Play {
    game: Box<dyn Game>,
    outcome: Outcome,
    _dir: tempfile::TempDir,
}

impl Play {
    fn with(files: &[(&str, &str)], mode: &str) -> Self {
        let dir = folder(files);
        Self::of(registry(dir.path()), mode, dir)
    }

    fn of(registry: Registry, mode: &str, dir: tempfile::TempDir) -> Self {
        let setup = Setup::new(Uuid::from_u128(0x42), mode);
        let factory = registry.get(mode).expect("the mode is there");
        let mut game = factory.create(&setup).expect("creates");
        let mut outcome = Outcome::default();
        game.init(&mut outcome).expect("starts");
        Self { game, outcome, _dir: dir }
    }

    fn script(text: &str) -> Self {
        Self::bounded(text, LIMITS)
    }

    fn bounded(text: &str, limits: Limits) -> Self {
        let dir = folder(&[("match.lua", &format!("match_size = 2\n{text}"))]);
        Self::of(registry_with(dir.path(), limits), "default", dir)
    }

    fn state(&mut self) -> Json {
        let mut json = String::new();
        self.game.state(None, &mut json, &mut self.outcome).expect("a state");
        serde_json::from_str(&json).expect("is JSON")
    }

    fn input(&mut self, n: u128, input: &Json) -> Result<(), GameError> {
        self.game.input(Uuid::from_u128(n), &input.to_string(), &mut self.outcome)
    }

    fn join(&mut self, n: u128) -> Result<Joined, GameError> {
        self.game.join(Uuid::from_u128(n), None, &mut self.outcome)
    }

    fn tick(&mut self) -> Result<(), GameError> {
        self.game.tick(&mut self.outcome)
    }
}

fn id(n: u128) -> String {
    Uuid::from_u128(n).to_string()
}

/// A game that runs an input's `lua`-named case and counts what it survived.
const COUNTER: &str = r#"
state_strategy = "shared"
function init(config) return { n = 0, seed = config.seed, mode = config.mode, id = config.match_id } end
function join(id, state) return state end
function get_state(state) return { n = state.n, seed = state.seed, mode = state.mode, id = state.id } end
"#;

fn counter(callback: &str) -> Play {
    Play::script(&format!("{COUNTER}\n{callback}"))
}

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
fn a_callback_that_runs_too_long_changes_nothing_each_time() {
    let mut play = counter("function tick(state) state.n = state.n + 1 while true do end end");
    for _ in 0..3 {
        assert!(play.tick().expect_err("never ends").message.contains("ran longer"));
        assert_eq!(play.state()["n"], 0);
    }
}

#[test]
fn a_search_that_nothing_could_stop_is_refused() {
    let mut play = counter(
        r#"function tick(state)
  local text = string.rep("a", 200000)
  local ok, problem = pcall(function() return text:find(string.rep("a", 100000) .. "b", 1, true) end)
  assert(not ok and problem:find("too long", 1, true))
  assert(not pcall(string.split, text, string.rep("a", 100000)))
  assert(("a,b"):split(",")[2] == "b" and select(2, ("abc"):find("b(c)")) == 3)
  state.n = 7
  return state
end"#,
    );
    play.tick().expect("ticks");
    assert_eq!(play.state()["n"], 7);
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
    let mut join = |ctx: Option<&str>| play.game.join(Uuid::from_u128(1), ctx, &mut play.outcome).expect("answers");
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
    let mut json = String::new();
    play.game.state(Some(Uuid::from_u128(7)), &mut json, &mut play.outcome).expect("a state");
    assert_eq!(json, format!("{{\"you\":\"{}\"}}", id(7)));
}

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
    let score = &play.outcome.scores[0];
    assert_eq!(
        (score.board.as_str(), score.player, score.score, score.sub_score),
        ("board", Uuid::from_u128(1), 12.5, 3.0)
    );
    let timer = Timer { after: Duration::from_millis(1500), name: "bell".into(), data: Some(r#"{"n":1}"#.into()) };
    assert_eq!(play.outcome.timers, std::slice::from_ref(&timer));
    play.game.timer(&timer, &mut play.outcome).expect("the bell rings");
    assert_eq!(play.state()["n"], 5);
}

#[test]
fn what_this_release_lacks_says_so() {
    let mut play = counter(
        r#"function tick(state)
  for _, f in ipairs({ game.notify, game.chat.send, game.storage.get, game.storage.player_set, game.leaderboard.top,
    game.bots.add }) do
    assert(f("a", "b").error == "not_available")
  end
  state.n = 1
  return state
end"#,
    );
    play.tick().expect("runs");
    assert_eq!(play.state()["n"], 1);
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
fn modules_load_once_and_only_from_the_folder() {
    let main = r#"match_size = 2
local a = require("lib.a")
assert(require("lib.a") == a)
function init() return { n = a.n } end
function get_state(state) return state end
state_strategy = "shared"
"#;
    let mut play = Play::with(
        &[
            ("config.lua", r#"return { m = "game/match.lua" }"#),
            ("game/match.lua", main),
            ("game/lib/a.lua", r#"return { n = require("lib.b") + 1 }"#),
            ("game/lib/b.lua", "return 41"),
        ],
        "m",
    );
    assert_eq!(play.state(), json!({"n": 42}));
    for (module, says) in [
        ("..secret", "is no module name"),
        ("../secret", "is no module name"),
        ("/etc/passwd", "is no module name"),
        ("absent", "there is no file `absent.lua`"),
        ("match", "requires itself"),
    ] {
        let error = problems(&[
            ("match.lua", "match_size = 2\nrequire('x')\nfunction init() end"),
            ("x.lua", &format!("return require('{}')", if module == "match" { "x" } else { module })),
        ]);
        assert!(error.problems[0].message.contains(says), "{module}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn a_symlink_out_of_the_folder_is_refused() {
    let outside = folder(&[("secret.lua", "return 1")]);
    let dir = folder(&[("config.lua", r#"return { m = "link.lua", n = "../x.lua", o = "/etc/passwd" }"#)]);
    std::os::unix::fs::symlink(outside.path().join("secret.lua"), dir.path().join("link.lua")).expect("linked");
    let Err(error) = load(dir.path(), LIMITS) else {
        panic!("it loaded");
    };
    assert_eq!(error.problems.len(), 3, "{error}");
    assert!(error.problems.iter().all(|p| p.message.contains("leads out of the games folder")), "{error}");
}

#[test]
fn every_mistake_is_named_with_its_line() {
    let error = problems(&[
        ("config.lua", "return {\n  a = \"a.lua\",\n  b = \"b.lua\",\n  gone = \"gone.lua\",\n  n = 3,\n}"),
        ("a.lua", "match_size = 2\nfunction tick(state)\n  local x = = 1\nend\n"),
        (
            "b.lua",
            "max_players = 0\nstrategy = \"luck\"\nlisted = \"yes\"\ntick_rate = 2.5\nstate_strategy = 1\ninit = 5\nfunction tick() end",
        ),
    ]);
    let lines = lines(&error);
    assert_eq!(lines[0], "config.lua:5: mode `n` must name its script's path, not a integer");
    assert!(lines[1].starts_with("a.lua:3: "), "{}", lines[1]);
    assert_eq!(
        lines[2..],
        [
            "b.lua:-: match_size is required: how many players form a match",
            "b.lua:1: max_players must be a whole number from 1 to 1000",
            "b.lua:2: strategy must be \"fill\", \"skill_based\" or \"query\"",
            "b.lua:4: tick_rate must be a whole number from 0 to 120",
            "b.lua:5: state_strategy must be \"shared\" or \"per_player\"",
            "b.lua:3: listed must be true or false",
            "b.lua:6: init must be a function",
            "config.lua:4: mode `gone`: there is no file `gone.lua`",
        ]
    );
}

#[test]
fn a_folder_without_games_and_a_manifest_without_modes_are_mistakes() {
    assert!(lines(&problems(&[("readme.txt", "")]))[0].contains("neither a config.lua nor a match.lua"));
    assert!(lines(&problems(&[("config.lua", "return {}")]))[0].contains("names no mode"));
    assert!(lines(&problems(&[("config.lua", "return 1")]))[0].contains("must return a table"));
    assert!(lines(&problems(&[("config.lua", "x = 1\nerror('boom')")]))[0].starts_with("config.lua:2: boom"));
    assert!(
        lines(&problems(&[
            ("config.lua", "registration = 'maybe'\nreturn { m = 'm.lua' }"),
            ("m.lua", "match_size = 1 function init() end")
        ]))[0]
            .starts_with("config.lua:1: registration")
    );
}

#[test]
fn settings_have_their_defaults_and_names() {
    let dir = folder(&[(
        "match.lua",
        "match_size = 3\nmax_players = 6\nstrategy = 'skill_based'\nlisted = true\nplayer_ttl_ms = 5\nfunction init() end",
    )]);
    let registry = registry(dir.path());
    let (mode, settings) = &registry.modes()[0];
    assert_eq!(mode, "default");
    assert_eq!((settings.match_size, settings.max_players, settings.min_players, settings.tick_rate), (3, 6, 3, 10));
    assert!(settings.listed && !settings.quick_play && !settings.shared_state && settings.send_unchanged);
    assert_eq!(settings.player_ttl_ms, 5);
}

/// What a script does to hurt its host, and what comes of it.
fn hurt(body: &str, limits: Limits) -> (Play, GameError) {
    let script = format!(
        "{COUNTER}\nfunction bomb(s) {body} end\nfunction tick(s) s.n = s.n + 1 if s.n == 2 then bomb(s) end return s end"
    );
    let mut play = Play::bounded(&script, limits);
    play.tick().expect("the first tick is harmless");
    let Err(error) = play.tick() else {
        panic!("the second tick survived: {body}");
    };
    (play, error)
}

#[test]
fn loops_end_at_the_budget_and_the_match_goes_on() {
    for body in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "local function f() pcall(f) pcall(f) end f()",
        "repeat xpcall(function() while true do end end, function() while true do end end) until false",
        "local co = coroutine.wrap(function() while true do end end) while true do pcall(co) end",
        "string.find(string.rep('a', 40), string.rep('a?', 40) .. string.rep('a', 40))",
        "string.gsub(string.rep('x', 500000), '.-b', '')",
        "local t = setmetatable({}, { __index = function() while true do end end }) return t.x",
        "table.sort(table.create(100000, 1), function() while true do end end)",
    ] {
        let (mut play, error) = hurt(body, LIMITS);
        assert_eq!(error.message, "ran longer than 50 ms", "{body}");
        assert_eq!(error.script, "match.lua", "{body}");
        assert!(!error.fatal, "{body}");
        assert_eq!(play.state()["n"], 1, "{body}");
    }
}

#[test]
fn memory_ends_the_game_and_cannot_be_swallowed() {
    for body in [
        "local t = {} while true do t[#t + 1] = string.rep('x', 1000) .. #t end",
        "string.rep('x', 100000000)",
        "pcall(string.rep, 'x', 100000000)",
        "pcall(function() local t = {} while true do t[#t + 1] = {} end end)",
        "local s = 'x' while true do s = s .. s end",
        "pcall(function() table.create(50000000, 1) end)",
        "coroutine.resume(coroutine.create(function() return buffer.create(100000000) end))",
    ] {
        // Filling the memory takes its time in a debug build.
        let patient = Limits { callback: Duration::from_secs(20), ..LIMITS };
        let (_, error) = hurt(body, patient);
        assert!(error.fatal, "{body}: {error}");
        assert_eq!(error.message, "used more than the match's memory", "{body}");
    }
}

#[test]
fn recursion_and_odd_errors_are_errors() {
    for (body, says) in [
        ("local function f() return 1 + f() end f()", "stack overflow"),
        ("error({ code = 1 })", ""),
        ("error()", ""),
        ("error(nil)", ""),
        ("local x = nil + 1", "arithmetic"),
        ("table.move({}, 1, 2^31 - 2, 2)", "million"),
        ("coroutine.yield()", "yield"),
        (
            "setmetatable({}, { __gc = 1, __index = function(t) return t.x end }).y = nil; local t = setmetatable({}, { __index = function(t) return t.x end }) return t.x",
            "overflow",
        ),
    ] {
        let (mut play, error) = hurt(body, LIMITS);
        assert!(error.message.contains(says), "{body}: {error}");
        assert!(!error.fatal, "{body}");
        play.tick().expect_err("the state is as before, so it fails again");
    }
}

#[test]
fn a_state_or_input_in_a_circle_is_an_error() {
    let mut play = counter("function tick(s) s.n = s return s end");
    play.tick().expect("a state may refer to itself");
    let mut json = String::new();
    let error = play.game.state(None, &mut json, &mut play.outcome).expect_err("but has no JSON then");
    assert!(error.message.contains("circle"), "{error}");
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
    let mut play = counter("function handle_input(id, input, s) return s end");
    play.join(1).expect("joins");
    play.game.input(Uuid::from_u128(1), &deep, &mut play.outcome).expect_err("too deep");
}

fn example(mode: &str) -> Play {
    let games = Path::new(env!("CARGO_MANIFEST_DIR")).join("../games");
    Play::of(registry(&games), mode, tempfile::tempdir().expect("a folder"))
}

#[test]
fn the_arena_ends_after_a_minute_even_if_nobody_plays() {
    let mut play = example("arena");
    for n in 1..=2 {
        assert_eq!(play.join(n), Ok(Joined::Seated));
    }
    for _ in 0..599 {
        play.tick().expect("ticks");
    }
    assert_eq!(play.outcome.finished, None);
    assert_eq!(play.state()["shots"], json!([]));
    play.tick().expect("ticks");
    let result: Json = serde_json::from_str(play.outcome.finished.as_deref().expect("over")).expect("JSON");
    assert_eq!((&result["winner"], &result["reason"]), (&json!(id(1)), &json!("time")));
    assert_eq!(play.outcome.effects.len(), 1);
}

#[test]
fn the_arena_is_won_by_hits_and_survives_garbage() {
    let mut play = example("arena");
    for n in 1..=3 {
        assert_eq!(play.join(n), Ok(Joined::Seated));
    }
    for garbage in [json!({}), json!({"move_x": "a", "shoot": [], "aim_x": {}}), json!({"move_y": 1e300})] {
        play.input(2, &garbage).expect("ignored");
    }
    for _ in 0..590 {
        let victim = play.state()["players"][id(2)].clone();
        let aim = json!({"aim_x": victim["x"], "aim_y": victim["y"], "shoot": true});
        play.input(1, &aim).expect("aims");
        play.tick().expect("ticks");
        if play.outcome.finished.is_some() {
            break;
        }
    }
    let result: Json = serde_json::from_str(play.outcome.finished.as_deref().expect("over")).expect("JSON");
    assert_eq!((&result["winner"], &result["reason"]), (&json!(id(1)), &json!("score")));
    assert_eq!(play.outcome.scores[0].board, "arena");
    assert!((play.outcome.scores[0].score - 5.0).abs() < f64::EPSILON);
}

#[test]
fn tictactoe_refuses_wrong_moves_and_knows_a_line_and_a_draw() {
    let play_moves = |moves: &[(u128, Json)]| {
        let mut play = example("tictactoe");
        play.join(1).expect("joins");
        play.join(2).expect("joins");
        for (player, cell) in moves {
            play.input(*player, &json!({"cell": cell})).expect("moves");
        }
        play
    };
    let line = [(1, 1), (2, 4), (1, 2), (2, 5), (1, 3)].map(|(p, c)| (p, json!(c)));
    let won = play_moves(&line);
    let result: Json = serde_json::from_str(won.outcome.finished.as_deref().expect("over")).expect("JSON");
    assert_eq!((&result["winner"], &result["loser"]), (&json!(id(1)), &json!(id(2))));
    let full = [(1, 1), (2, 2), (1, 3), (2, 5), (1, 4), (2, 6), (1, 8), (2, 7), (1, 9)].map(|(p, c)| (p, json!(c)));
    let drawn = play_moves(&full);
    assert!(drawn.outcome.finished.as_deref().is_some_and(|r| r.contains("draw")));
    let wrong = [(2, json!(1)), (1, json!(0)), (1, json!("x")), (1, json!(1.5)), (1, json!(1)), (2, json!(1))];
    let refused = play_moves(&wrong);
    let said: Vec<_> = refused
        .outcome
        .pushes
        .iter()
        .map(|push| match push {
            Push::Message { message, .. } => message.as_str(),
            Push::Broadcast { .. } => "",
        })
        .collect();
    assert_eq!(
        said,
        [
            r#"{"error":"not_your_turn"}"#,
            r#"{"error":"no_such_cell"}"#,
            r#"{"error":"no_such_cell"}"#,
            r#"{"error":"no_such_cell"}"#,
            r#"{"error":"cell_taken"}"#,
        ]
    );
}

#[test]
fn echo_counts_and_ends_on_request() {
    let mut play = example("echo");
    play.join(1).expect("joins");
    play.input(1, &json!({"n": 41})).expect("counts");
    play.input(1, &json!({"n": 42})).expect("counts");
    assert_eq!(play.state(), json!({"tick": 0, "players": {id(1): {"inputs": 2, "last": 42}}}));
    play.input(1, &json!({"finish": true})).expect("ends");
    assert_eq!(play.outcome.finished, Some(format!("{{\"winner\":\"{}\"}}", id(1))));
}
