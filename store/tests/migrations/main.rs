//! Migrations run beside the release before them: each is held against the rules, and applied under a table that is in use.

mod applying;
mod lexer;
mod rules;

use std::{fs, path::Path};

use rules::{Harm, complaints};

/// The migrations from before there was a release: nobody ran on what they changed.
const BEFORE_ANY_RELEASE: i64 = 14;

fn migrations() -> Vec<(i64, String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let files = fs::read_dir(dir).expect("the migrations").map(|entry| entry.expect("a file").path());
    let mut all: Vec<_> = files
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let number = name.split('_').next().and_then(|number| number.parse().ok()).expect("a number");
            (number, name, fs::read_to_string(&path).expect("a migration"))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn no_migration_locks_a_table_or_breaks_the_release_before() {
    let wrong: Vec<String> = migrations()
        .iter()
        .filter(|(number, ..)| *number > BEFORE_ANY_RELEASE)
        .flat_map(|(_, name, text)| complaints(text).into_iter().map(move |complaint| format!("{name}: {complaint}")))
        .collect();
    assert!(
        wrong.is_empty(),
        "{}\nWhere it must be, say why in the file: `-- locks: …`, or `-- contract: …`",
        wrong.join("\n")
    );
}

#[test]
fn what_was_done_before_any_release_would_be_refused_today() {
    let of =
        |wanted| migrations().into_iter().find(|(number, ..)| *number == wanted).map(|(.., text)| complaints(&text));
    let found: Vec<String> = of(5).expect("0005").iter().map(ToString::to_string).collect();
    for part in ["RENAME takes away from chat_messages", "ALTER COLUMN TYPE rewrites chat_channels", "DROP TABLE"] {
        assert!(found.iter().any(|complaint| complaint.contains(part)), "{part}: {found:#?}");
    }
    assert!(of(6).expect("0006").is_empty(), "it only adds");
}

#[test]
fn each_way_to_do_harm_is_known() {
    use Harm::{Breaks, Locks};
    let harms = |text: &str| complaints(text).into_iter().map(|complaint| complaint.harm).collect::<Vec<_>>();
    for (text, harm) in [
        ("ALTER TABLE players DROP COLUMN guest", Breaks),
        ("ALTER TABLE public.players RENAME COLUMN guest TO visitor", Breaks),
        ("ALTER TABLE players ALTER COLUMN guest SET NOT NULL", Breaks),
        ("ALTER TABLE players ALTER guest DROP DEFAULT", Breaks),
        ("ALTER TABLE players ADD COLUMN a text, ADD b int NOT NULL", Breaks),
        ("ALTER TABLE players ALTER COLUMN id TYPE text", Locks),
        ("ALTER TABLE players ADD COLUMN a uuid NOT NULL DEFAULT gen_random_uuid()", Locks),
        ("ALTER TABLE players ADD COLUMN a int CHECK (a > 0)", Locks),
        ("ALTER TABLE players ADD COLUMN a uuid REFERENCES groups", Locks),
        ("ALTER TABLE players ADD CONSTRAINT a CHECK (guest)", Locks),
        ("ALTER TABLE players ADD UNIQUE (avatar_url)", Locks),
        ("ALTER TABLE players SET UNLOGGED", Locks),
        ("CREATE INDEX a ON players (guest)", Locks),
        ("CREATE UNIQUE INDEX IF NOT EXISTS a ON public.players USING btree (guest)", Locks),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS a ON players (guest)", Locks),
        ("-- no-transaction\nCREATE INDEX CONCURRENTLY a ON players (guest)", Locks),
        ("-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a ON players (guest); SELECT 1", Locks),
        (
            "ALTER TABLE players ADD CONSTRAINT a CHECK (guest) NOT VALID; ALTER TABLE players VALIDATE CONSTRAINT a",
            Locks,
        ),
        ("UPDATE players SET guest = false", Locks),
        ("DELETE FROM ONLY tickets", Locks),
        ("INSERT INTO mutes SELECT * FROM bans", Locks),
        ("TRUNCATE sessions", Locks),
        ("LOCK TABLE players", Locks),
        ("DO $$ BEGIN EXECUTE 'ALTER TABLE players DROP COLUMN guest'; END $$", Locks),
        ("SELECT chat_partition(current_date)", Locks),
        ("DROP TABLE bans", Breaks),
        ("DROP FUNCTION chat_partition(date)", Breaks),
        ("-- no-transaction\nDROP INDEX CONCURRENTLY groups_name", Breaks),
        ("CREATE TRIGGER a BEFORE UPDATE ON players EXECUTE FUNCTION b()", Breaks),
    ] {
        assert!(harms(text).contains(&harm), "{text}: {:?}", complaints(text));
    }
}

#[test]
fn what_only_adds_passes() {
    for text in [
        "CREATE TABLE a (b int REFERENCES players); CREATE INDEX c ON a (b); INSERT INTO a SELECT 1; UPDATE a SET b = 2; ALTER TABLE a ADD COLUMN d int NOT NULL",
        "CREATE UNLOGGED TABLE IF NOT EXISTS a (b int); ALTER TABLE a ADD UNIQUE (b)",
        "ALTER TABLE players ADD COLUMN a text, ADD COLUMN b int NOT NULL DEFAULT 0, ADD COLUMN c timestamptz DEFAULT now()",
        "ALTER TABLE players SET (fillfactor = 70)",
        "ALTER TABLE match_effects DROP CONSTRAINT a, ADD CONSTRAINT a CHECK (kind IN ('x', 'y')) NOT VALID",
        "ALTER TABLE players VALIDATE CONSTRAINT a",
        "ALTER TABLE players ALTER COLUMN guest DROP NOT NULL, ALTER COLUMN guest SET DEFAULT true",
        "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a ON players (guest)",
        "INSERT INTO moderation_versions (what) VALUES ('x')",
    ] {
        assert_eq!(complaints(text), [], "{text}");
    }
}

#[test]
fn an_excuse_has_a_reason_and_a_contract_keeps_old_builds_out() {
    let drop = "DROP TABLE bans;";
    assert_eq!(complaints(&format!("-- contract: yes\n{drop}")).len(), 1, "that is no reason");
    let reasoned = format!("-- contract: no release since 0.3 reads or writes it\n{drop}");
    assert_eq!(complaints(&reasoned).len(), 1, "builds that do would still start");
    assert_eq!(complaints(&format!("{reasoned} UPDATE schema_support SET oldest = 21;")), []);
    assert_eq!(complaints("-- locks: a table of four rows, read once a minute\nCREATE INDEX a ON modes (paused)"), []);
    assert_eq!(complaints("-- locks: a table of four rows, read once a minute\nDROP TABLE modes").len(), 1);
}
