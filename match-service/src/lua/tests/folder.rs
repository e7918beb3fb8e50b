//! The games folder: manifest, settings, modules, and every mistake with its line.

use asobi_proto::mode::{Bots, ModeSettings, Strategy, Teams};
use serde_json::json;

use super::{LIMITS, Play, folder, lines, load, problems, registry};
use crate::lua::Manifest;

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
    let (mode, settings, _) = &registry.modes()[0];
    assert_eq!(mode, "default");
    assert_eq!((settings.match_size, settings.max_players, settings.min_players, settings.tick_rate), (3, 6, 3, 10));
    assert!(settings.listed && !settings.quick_play && !settings.shared_state && settings.send_unchanged);
    assert_eq!(settings.player_ttl_ms, 5);
}

#[test]
fn every_setting_is_read() {
    let dir = folder(&[(
        "match.lua",
        "match_size = 4 max_players = 8 min_players = 3 relax_after_ms = 1500 strategy = 'query' skill_window = 12.5
skill_expand_rate = 0 teams = { count = 2, size = 2 } regions = { 'eu' } max_latency_ms = 90 backfill = true tick_rate = 0
state_strategy = 'shared' send_unchanged = false listed = true quick_play = true player_ttl_ms = 0 max_wait_seconds = 5
checkpoint_interval_ms = 250 bots = { script = 'ai.lua', fill_after_ms = 0, max = 1 }
function init() return {} end",
    ), ("ai.lua", "function think() end")]);
    let expected = ModeSettings {
        match_size: 4,
        max_players: 8,
        min_players: 3,
        relax_after_ms: Some(1500),
        strategy: Strategy::Query,
        skill_window: 12.5,
        skill_expand_rate: 0.0,
        teams: Some(Teams { count: 2, size: 2 }),
        regions: vec!["eu".into()],
        max_latency_ms: Some(90),
        backfill: true,
        tick_rate: 0,
        shared_state: true,
        send_unchanged: false,
        listed: true,
        quick_play: true,
        player_ttl_ms: 0,
        max_wait_seconds: 5,
        checkpoint_interval_ms: 250,
        bots: Some(Bots { script: "ai.lua".into(), fill_after_ms: 0, max: 1 }),
    };
    assert_eq!(registry(dir.path()).modes()[0].1, expected);

    let dir = folder(&[("match.lua", "match_size = 2\nfunction init() return {} end")]);
    assert_eq!(registry(dir.path()).modes()[0].1, ModeSettings::default(), "what is not set has its default");
}

#[test]
fn each_setting_out_of_its_bounds_is_a_mistake() {
    for (global, wrong) in [
        ("match_size", "0"),
        ("max_players", "1001"),
        ("min_players", "'two'"),
        ("relax_after_ms", "-1"),
        ("strategy", "'luck'"),
        ("skill_window", "-1"),
        ("skill_expand_rate", "0/0"),
        ("teams", "5"),
        ("regions", "{}"),
        ("max_latency_ms", "0"),
        ("backfill", "1"),
        ("bots", "true"),
        ("tick_rate", "121"),
        ("state_strategy", "'own'"),
        ("send_unchanged", "'no'"),
        ("listed", "1"),
        ("quick_play", "0"),
        ("player_ttl_ms", "1.5"),
        ("max_wait_seconds", "0"),
        ("checkpoint_interval_ms", "9"),
    ] {
        let size = if global == "match_size" { "" } else { "match_size = 2 " };
        let script = format!("{size}function init() return {{}} end\n\n{global} = {wrong}");
        let found = lines(&problems(&[("match.lua", &script)]));
        let place = format!("match.lua:3: {global} must ");
        assert!(found.len() == 1 && found[0].starts_with(&place), "{script}: {found:?}");
    }
}

#[test]
fn the_manifest_may_say_something_of_the_whole_deployment() {
    let manifest = |text: &str| {
        let game = ("m.lua", "match_size = 2\nfunction init() return {} end");
        let dir = folder(&[("config.lua", &format!("{text}\nreturn {{ m = 'm.lua' }}")), game]);
        load(dir.path(), LIMITS).expect("loads").1
    };
    assert_eq!(manifest(""), Manifest { guest_auth: None, registration: None });
    assert_eq!(
        manifest("guest_auth = false\nregistration = 'open'"),
        Manifest { guest_auth: Some(false), registration: Some(true) }
    );
    assert_eq!(manifest("registration = 'closed'").registration, Some(false));
    let game = ("m.lua", "match_size = 2\nfunction init() return {} end");
    let wrong = lines(&problems(&[("config.lua", "guest_auth = 1\nreturn { m = 'm.lua' }"), game]));
    assert_eq!(wrong, ["config.lua:1: guest_auth must be true or false"]);
}
