//! Scripts that change while matches run.

use std::{fs, time::Duration};

use crate::{
    game::Registry,
    lua::{Watcher, tests::LIMITS},
};

use super::{folder, registry};

const GAME: &str = "match_size = 2\nlocal numbers = require('numbers')\nfunction init() return { n = numbers.one } end
function tick(s) s.late = require('late') return s end";

fn files() -> [(&'static str, &'static str); 4] {
    [
        ("config.lua", "return { m = 'm.lua' }"),
        ("m.lua", GAME),
        ("numbers.lua", "return { one = 1 }"),
        ("late.lua", "return 1"),
    ]
}

struct Watched {
    dir: tempfile::TempDir,
    watcher: Watcher,
    registry: Registry,
}

impl Watched {
    fn new() -> Self {
        let dir = folder(&files());
        let (watcher, registry, _) = Watcher::load(dir.path(), LIMITS).expect("loads");
        Self { dir, watcher, registry }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).expect("written");
    }

    fn version(&self, mode: &str) -> String {
        self.registry.get(mode).expect("the mode is there").version().to_owned()
    }

    async fn changes(&mut self) {
        self.registry = self.watcher.changed().await;
    }

    /// Nothing comes of it within many looks.
    async fn stays(&mut self) {
        let waited = tokio::time::timeout(Duration::from_secs(10), self.watcher.changed()).await;
        assert!(waited.is_err(), "there are new games");
    }
}

#[tokio::test(start_paused = true)]
async fn every_text_that_a_match_may_run_changes_its_version() {
    let mut watched = Watched::new();
    let first = watched.version("m");
    assert!(first.len() == 16 && first.bytes().all(|b| b.is_ascii_hexdigit()), "{first}");
    let mut seen = vec![first.clone()];
    for (name, text) in [
        ("numbers.lua", "return { one = 22 }"),
        ("late.lua", "return 22"),
        ("m.lua", &GAME.replace("s.late", "s.later")),
    ] {
        watched.write(name, text);
        watched.changes().await;
        assert!(!seen.contains(&watched.version("m")), "{name}");
        seen.push(watched.version("m"));
    }
    for (name, text) in files() {
        watched.write(name, text);
    }
    watched.changes().await;
    assert_eq!(watched.version("m"), first, "the same texts are the same version");
}

#[tokio::test(start_paused = true)]
async fn the_manifest_may_name_new_modes_and_give_up_others() {
    let mut watched = Watched::new();
    let first = watched.version("m");
    watched.write("other.lua", "match_size = 1\nfunction init() return {} end");
    watched.write("config.lua", "return { m = 'm.lua', other = 'other.lua' }");
    watched.changes().await;
    assert!(watched.registry.get("other").is_some());
    assert_eq!(watched.version("m"), first, "what did not change is as it was");
    watched.write("config.lua", "return { other = 'other.lua' }");
    watched.changes().await;
    assert!(watched.registry.get("m").is_none());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_load_leaves_the_last_games() {
    let mut watched = Watched::new();
    watched.write("numbers.lua", "return { one = = }");
    watched.stays().await;
    // Whole again, as it was: the games in force are these.
    watched.write("numbers.lua", files()[2].1);
    watched.stays().await;
    watched.write("m.lua", "match_size = 0");
    watched.stays().await;
    fs::remove_file(watched.dir.path().join("numbers.lua")).expect("removed");
    watched.write("m.lua", &GAME.replace("numbers", "digits"));
    watched.stays().await;
    // A file that was looked for and not found.
    watched.write("digits.lua", "return { one = 3 }");
    watched.changes().await;
    assert_eq!(watched.registry.modes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_only_written_again_is_no_change() {
    let mut watched = Watched::new();
    let file = fs::File::options().append(true).open(watched.dir.path().join("m.lua")).expect("opens");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touched");
    watched.stays().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_may_be_given_up_and_begun_again_at_any_time() {
    let mut watched = Watched::new();
    watched.write("numbers.lua", "return { one = 4711 }");
    let mut given_up = 0;
    let changed = loop {
        // Shorter than the time between two looks.
        match tokio::time::timeout(Duration::from_millis(70), watched.watcher.changed()).await {
            Ok(registry) => break registry,
            Err(_late) => given_up += 1,
        }
        assert!(given_up < 1000, "it never comes");
    };
    assert!(given_up > 2 && changed.get("m").is_some());
}

#[test]
fn the_version_counts_the_bots_script_too() {
    let version = |ai: &str, plans: &str| {
        let script = "match_size = 2\nbots = { script = 'ai.lua' }\nfunction init() return {} end";
        let dir = folder(&[("match.lua", script), ("ai.lua", ai), ("plans.lua", plans)]);
        registry(dir.path()).get("default").expect("the mode is there").version().to_owned()
    };
    let ai = "local plans = require('plans')\nfunction think() end";
    let first = version(ai, "return 1");
    assert_eq!(first, version(ai, "return 1"));
    assert_ne!(first, version(ai, "return 2"));
    assert_ne!(first, version("function think() return nil end", "return 1"));
}
