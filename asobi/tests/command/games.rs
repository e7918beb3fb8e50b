//! Games on trial, and games played in the terminal: no cluster, no database.

use std::{fs, path::Path, process::Output};

use super::child::output;

/// Every example game, and those of the other tests.
const GAMES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../games");

const COUNTER: &str = r#"match_size = 2
state_strategy = "shared"
function init(config) return { n = 0, seed = config.seed } end
function join(id, state) return state end
function leave(id, state) game.broadcast("gone", { id = id }) return state end
function handle_input(id, input, state)
  state.n = state.n + input.add
  game.send(id, { n = state.n })
  game.storage.set("counter", "last", state.n)
  if input.later then game.after(200, "bell", { n = 100 }) end
  if input.finish then state._finished = true state._result = { winner = id, stored = game.storage.get("counter", "last").ok } end
  return state
end
function on_timer(name, data, state) state.n = state.n + data.n return state end
function tick(state) return state end
function get_state(state) return { n = state.n } end
"#;

/// A folder of games.
fn games(files: &[(&str, &str)]) -> anyhow::Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    for (name, text) in files {
        fs::write(dir.path().join(name), text)?;
    }
    Ok(dir)
}

/// Exit code, what was printed, what was said to the person.
fn read(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn check(dir: &Path, more: &[&str]) -> anyhow::Result<(Option<i32>, String, String)> {
    let dir = dir.display().to_string();
    Ok(read(&output(&[&["check", &dir], more].concat(), &[]).await?))
}

/// Plays the lines as `--inputs`.
async fn play(dir: &Path, mode: &str, lines: &str, more: &[&str]) -> anyhow::Result<(Option<i32>, String, String)> {
    let script = tempfile::NamedTempFile::new()?;
    fs::write(script.path(), lines)?;
    let (dir, script) = (dir.display().to_string(), script.path().display().to_string());
    let arguments = ["play", mode, "--games", &dir, "--inputs", &script];
    Ok(read(&output(&[&arguments, more].concat(), &[]).await?))
}

#[tokio::test]
async fn the_example_games_have_no_mistakes() -> anyhow::Result<()> {
    let (code, printed, said) = check(Path::new(GAMES), &[]).await?;
    assert_eq!((code, said.as_str()), (Some(0), ""), "{printed}");
    assert!(printed.contains("arena: 2 to 8 players, 10 ticks a second, fill, version "), "{printed}");
    assert!(printed.contains("tictactoe: 2 players, turn by turn, fill, version "), "{printed}");
    assert!(printed.ends_with(" modes, no mistakes\n"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn every_mistake_of_a_folder_is_named_with_file_and_line() -> anyhow::Result<()> {
    let dir = games(&[
        ("config.lua", "return {\n  a = 'a.lua',\n  b = 'b.lua',\n  gone = 'gone.lua' }"),
        ("a.lua", "match_size = 2\nfunction tick(state)\n  local x = = 1\nend\n"),
        ("b.lua", "match_size = 0\nfunction init() return {} end"),
    ])?;
    let (code, printed, said) = check(dir.path(), &[]).await?;
    assert_eq!((code, printed.as_str()), (Some(1), ""));
    let place = |file: &str| dir.path().join(file).display().to_string();
    for mistake in [
        format!("{}:3: Expected identifier", place("a.lua")),
        format!("{}:1: match_size must be a whole number from 1 to 1000", place("b.lua")),
        format!("{}:4: mode `gone`: there is no file `gone.lua`", place("config.lua")),
        "3 mistakes".to_owned(),
    ] {
        assert!(said.contains(&mistake), "{mistake} is not in:\n{said}");
    }
    let (code, _, said) = check(Path::new("/nowhere/games"), &[]).await?;
    assert_eq!(code, Some(1));
    assert!(said.contains("/nowhere/games"), "{said}");
    Ok(())
}

#[tokio::test]
async fn mistakes_that_only_running_shows_are_found() -> anyhow::Result<()> {
    let good = "match_size = 2\nfunction init() return {} end\nfunction join(id, s) return s end\n";
    for (script, place, message) in [
        ("match_size = 2\nfunction init()\n  local x = nil + 1\nend", "match.lua:3: default: init: ", "arithmetic"),
        (
            "match_size = 2\nfunction init() return {} end\nfunction join(id, s)\n  s.players[id] = 1\nend",
            "match.lua:4: default: join: ",
            "nil",
        ),
        (&format!("{good}function tick(s)\n  return s.missing.field\nend"), "match.lua:5: default: tick: ", "nil"),
        (
            &format!("{good}function get_state(id, s) return 5 end"),
            "match.lua: default: get_state: ",
            "must return a table",
        ),
        (
            &format!("{good}function tick(s) s.on = {{ hit = print }} return s end"),
            "match.lua: default: save: ",
            "state.on.hit is a function",
        ),
        (
            &format!(
                "{good}local kept\nfunction tick(s)\n  kept = kept or (s.n == nil and {{}})\n  s.n = #kept\n  return s\nend"
            ),
            "match.lua:7: default: tick: ",
            "boolean",
        ),
    ] {
        let dir = games(&[("match.lua", script)])?;
        let (code, _, said) = check(dir.path(), &[]).await?;
        assert_eq!(code, Some(1), "{script}");
        let line = said.lines().next().unwrap_or_default();
        assert!(line.contains(place) && line.contains(message), "{script}:\n{said}");
        let (code, printed, said) = check(dir.path(), &["--load-only"]).await?;
        assert_eq!((code, said.as_str()), (Some(0), ""), "{script}");
        assert!(printed.contains("1 mode, no mistakes"), "{printed}");
    }
    Ok(())
}

#[tokio::test]
async fn a_match_is_played_line_by_line() -> anyhow::Result<()> {
    let dir = games(&[("match.lua", COUNTER)])?;
    let lines = "# two players are there
1 {\"add\": 5, \"later\": true}
/tick
/tick 2

2 {\"add\": 1}
/join
/leave 2
/leave 2
/state
1 {\"add\": 0, \"finish\": true}
/tick 5
";
    let (code, printed, said) = play(dir.path(), "default", lines, &["--seed", "7"]).await?;
    assert_eq!((code, said.as_str()), (Some(0), ""), "{printed}");
    let expected = [
        "default with the seed 7",
        "1 joined",
        "2 joined",
        "0 ms, state: {\"n\":0}",
        "to 1: {\"n\":5}",
        "effect: store {\"collection\":\"counter\",\"key\":\"last\",\"player_id\":null,\"value\":5}",
        "100 ms, state: {\"n\":5}",
        "200 ms, state: {\"n\":105}",
        "to 2: {\"n\":106}",
        "effect: store {\"collection\":\"counter\",\"key\":\"last\",\"player_id\":null,\"value\":106}",
        "match_full: 3 finds no seat",
        "2 left",
        "to all: match.gone {\"id\":\"00000000-0000-0000-0000-000000000002\"}",
        "nobody here has the number 2",
        "300 ms, state: {\"n\":106}",
        "to 1: {\"n\":106}",
        "effect: store {\"collection\":\"counter\",\"key\":\"last\",\"player_id\":null,\"value\":106}",
        "finished: {\"stored\":106,\"winner\":\"00000000-0000-0000-0000-000000000001\"}",
    ];
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    Ok(())
}

#[tokio::test]
async fn mistakes_in_a_match_are_said_and_it_goes_on() -> anyhow::Result<()> {
    let dir = games(&[("match.lua", COUNTER)])?;
    let (code, printed, _) = play(dir.path(), "default", "1 {}\n1 {\"add\": 2}\n/state", &[]).await?;
    assert_eq!(code, Some(1));
    assert!(printed.contains("error: match.lua:7: handle_input: attempt to perform arithmetic"), "{printed}");
    assert!(printed.ends_with("0 ms, state: {\"n\":2}\n"), "{printed}");
    for (lines, says) in [
        ("1 {}\nnonsense", "line 2: `nonsense` is neither a command nor an input"),
        ("/nonsense", "line 1: there is no command /nonsense; there are /tick"),
        ("1 [1]", "line 1: an input is a JSON object"),
        ("1 {", "line 1: the input is not JSON"),
        ("/tick many", "line 1: /tick takes a number from 1 to 1000000"),
        ("/leave", "line 1: /leave takes a player's number"),
    ] {
        let (code, _, said) = play(dir.path(), "default", lines, &[]).await?;
        assert_eq!(code, Some(1), "{lines}");
        assert!(said.contains(says), "{says} is not in:\n{said}");
    }
    let (code, _, said) = play(dir.path(), "arena", "", &[]).await?;
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no mode `arena` in ") && said.contains("; there are: default"), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_arena_plays_the_same_match_from_the_same_seed() -> anyhow::Result<()> {
    let lines = "1 {\"aim_x\": 100, \"aim_y\": 300, \"shoot\": true}\n2 {\"aim_x\": 0, \"aim_y\": 0, \"shoot\": true}";
    let arena = async |seed: &str| {
        play(Path::new(GAMES), "arena", lines, &["--ticks", "40", "--players", "3", "--seed", seed]).await
    };
    let (code, printed, said) = arena("7").await?;
    assert_eq!((code, said.as_str()), (Some(0), ""), "{printed}");
    assert!(printed.contains("\n3 joined\n") && printed.contains("to all: match.hit {"), "{printed}");
    let states = |printed: &str| -> Vec<serde_json::Value> {
        let texts = printed.lines().filter_map(|line| line.split_once(" ms, state: "));
        texts.filter_map(|(_, state)| serde_json::from_str(state).ok()).collect()
    };
    assert_eq!(states(&printed).len(), 41, "{printed}");
    assert_eq!(states(&printed), states(&arena("7").await?.1));
    assert_ne!(states(&printed), states(&arena("8").await?.1), "whoever is hit comes back elsewhere");
    Ok(())
}

#[tokio::test]
async fn bots_take_the_seats_that_are_missing() -> anyhow::Result<()> {
    let script = "match_size = 3
bots = { script = 'ai.lua', max = 2 }
state_strategy = 'shared'
function init() return { seen = {} } end
function join(id, s) table.insert(s.seen, id) return s end
function handle_input(id, input, s)
  table.insert(s.seen, id .. ' says ' .. input.word)
  if input.more then game.bots.remove('Bot') game.bots.add('Ada') end
  return s
end
function tick(s) return s end
function get_state(s) return { last = s.seen[#s.seen] } end";
    let ai = "function think(id, state) if #state.seen < 4 then return { word = 'hello' } end end";
    let dir = games(&[("match.lua", script), ("ai.lua", ai)])?;
    let (code, printed, said) =
        play(dir.path(), "default", "/tick\n1 {\"word\": \"more\", \"more\": true}", &["--players", "1"]).await?;
    assert_eq!((code, said.as_str()), (Some(0), ""), "{printed}");
    for line in [
        "1 joined",
        "bot_Bot_000001 joined",
        "bot_Bot_000002 joined",
        "100 ms, state: {\"last\":\"bot_Bot_000001 says hello\"}",
        "1001 left",
        "bot_Ada_000003 joined",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in:\n{printed}");
    }
    Ok(())
}
