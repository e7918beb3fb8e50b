//! What a script does to hurt its host, and what comes of it.

use std::{sync::Arc, time::Duration};

use mlua::{MultiValue, Value};
use serde_json::json;
use uuid::Uuid;

use super::{COUNTER, LIMITS, Limits, Play, counter, folder, registry_with};
use crate::{
    game::{GameError, Setup, Timer},
    lua::{source::Folder, vm::Vm},
};

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

/// What comes of a body that runs in the second tick.
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
    let error = play.state_of(None).expect_err("but has no JSON then");
    assert!(error.message.contains("circle"), "{error}");
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
    let mut play = counter("function handle_input(id, input, s) return s end");
    play.join(1).expect("joins");
    play.input_text(1, &deep).expect_err("too deep");
}

type Call<'a> = &'a dyn Fn(&mut Play) -> Option<GameError>;

/// What a body comes to in each callback that is not a tick.
fn everywhere(body: &str, limits: Limits) -> Vec<(&'static str, GameError)> {
    let game = format!(
        "match_size = 2\nbots = {{ script = 'ai.lua' }}\n{COUNTER}
local function bomb(s) {body} end
function join(id, s) s.n = 1 bomb(s) return s end
function handle_input(id, input, s) s.n = 1 bomb(s) return s end
function on_timer(name, data, s) s.n = 1 bomb(s) return s end
function leave(id, s) s.n = 1 bomb(s) return s end"
    );
    let ai = format!("local function bomb(s) {body} end function think(id, s) s.n = 1 bomb(s) return {{}} end");
    let files = [("match.lua", &*game), ("ai.lua", &*ai)];
    let bell = Timer { after: Duration::ZERO, name: "bell".into(), data: None };
    let callbacks: [(&str, Call<'_>); 5] = [
        ("join", &|play| play.join(1).err()),
        ("handle_input", &|play| play.input(1, &json!({})).err()),
        ("on_timer", &|play| play.timer(&bell).err()),
        ("leave", &|play| play.leave(1).err()),
        ("think", &|play| play.think(9).err()),
    ];
    callbacks
        .into_iter()
        .map(|(callback, call)| {
            let dir = folder(&files);
            let mut play = Play::of(&registry_with(dir.path(), limits), "default", dir);
            let error = call(&mut play).unwrap_or_else(|| panic!("{callback} survived: {body}"));
            if !error.fatal {
                assert_eq!(play.state()["n"], 0, "{callback}: {body}");
            }
            (callback, error)
        })
        .collect()
}

#[test]
fn no_callback_hurts_more_than_itself() {
    for (body, says, fatal) in [
        ("while true do end", "ran longer than 50 ms", false),
        ("while true do pcall(function() while true do end end) end", "ran longer than 50 ms", false),
        ("local function f() return 1 + f() end f()", "stack overflow", false),
        ("string.find(string.rep('a', 40), string.rep('a?', 40) .. string.rep('a', 40))", "ran longer", false),
        ("pcall(string.rep, 'x', 100000000)", "used more than the match's memory", true),
    ] {
        for (callback, error) in everywhere(body, LIMITS) {
            assert!(error.message.contains(says), "{callback}: {body}: {error}");
            assert_eq!((error.callback, error.fatal), (callback, fatal), "{body}");
        }
    }
}

#[test]
fn a_vm_that_waits_for_its_match_is_small() {
    let dir = folder(&[("match.lua", &format!("match_size = 2\n{COUNTER}"))]);
    let games = Arc::new(Folder::open(dir.path()).expect("opens"));
    let script = games.file("match.lua").expect("is there");
    let vm = Vm::load(&games, &script, &Setup::new(Uuid::nil(), "default"), LIMITS).expect("loads");
    vm.lua.gc_collect().expect("collects");
    // Luau takes its memory in pages of 16 KiB for each size of things, so it holds more than it uses.
    let used = 1024 * vm.lua.load("return gcinfo()").eval::<usize>().expect("known");
    println!("an idle match's VM uses {used} of {} bytes", vm.lua.used_memory());
    assert!(used < 100_000, "{used} bytes");
}

#[test]
#[should_panic(expected = "the host's own mistake")]
fn a_panic_of_the_host_is_not_swallowed_by_a_script() {
    let dir = folder(&[(
        "match.lua",
        "function tick() pcall(function() xpcall(panics, function() end) end) coroutine.wrap(function() end)() end",
    )]);
    let games = Arc::new(Folder::open(dir.path()).expect("opens"));
    let script = games.file("match.lua").expect("is there");
    let vm = Vm::load(&games, &script, &Setup::new(Uuid::nil(), "default"), LIMITS).expect("loads");
    let panics = vm.lua.create_function(|_, ()| -> mlua::Result<()> { panic!("the host's own mistake") });
    vm.lua.globals().set("panics", panics.expect("made")).expect("set");
    let Value::Function(tick) = vm.global("tick") else {
        panic!("there is a tick");
    };
    let _ = vm.call_again("tick", &tick, MultiValue::new());
}
