//! The server's settings, as they hold for our sessions, against `deploy/postgresql/asobi.conf`.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::{
    Patient,
    finding::{Finding, Verdict},
    reading::rows,
};

enum Good {
    Is(&'static [&'static str]),
    IsNot(&'static [&'static str]),
    /// In the unit of pg_settings.
    AtLeast(i64),
    /// 0 counts as no bound where a bound is wanted.
    Within(i64, i64),
}

struct Rule {
    name: &'static str,
    good: Good,
    verdict: Verdict,
    /// What it means otherwise.
    means: &'static str,
    /// A value to set.
    set: &'static str,
    restart: bool,
}

const fn rule(name: &'static str, good: Good, verdict: Verdict, means: &'static str, set: &'static str) -> Rule {
    Rule { name, good, verdict, means, set, restart: false }
}

const fn at_start(name: &'static str, good: Good, means: &'static str, set: &'static str) -> Rule {
    Rule { name, good, verdict: Verdict::Warn, means, set, restart: true }
}

use Good::{AtLeast, Is, IsNot, Within};
use Verdict::{Fail, Warn};

const RULES: [Rule; 16] = [
    rule("fsync", Is(&["on"]), Fail, "a crash of the machine destroys the database", "on"),
    rule("full_page_writes", Is(&["on"]), Fail, "a crash of the machine leaves torn pages", "on"),
    rule("autovacuum", Is(&["on"]), Fail, "hot tables grow without end, and the queue with them gets slow", "on"),
    rule("track_counts", Is(&["on"]), Fail, "autovacuum does not know what to look at", "on"),
    rule("default_transaction_read_only", Is(&["off"]), Fail, "every transaction of a process may only read", "off"),
    rule(
        "default_transaction_isolation",
        Is(&["read committed"]),
        Fail,
        "transactions fail with serialization errors that nobody repeats",
        "'read committed'",
    ),
    rule(
        "idle_session_timeout",
        Is(&["0"]),
        Warn,
        "quiet connections of pools are closed, and opened again when somebody waits for them",
        "0",
    ),
    rule(
        "wal_level",
        IsNot(&["minimal"]),
        Warn,
        "there can be no standby, no read replica and no point-in-time recovery",
        "replica",
    ),
    at_start("archive_mode", IsNot(&["off"]), "there is no point-in-time recovery, only the last whole backup", "on"),
    rule("max_wal_size", AtLeast(4_096), Warn, "checkpoints come by volume, and each makes the log larger", "'8GB'"),
    at_start("shared_buffers", AtLeast(65_536), "the hot tables do not fit; a quarter of the memory is usual", "'4GB'"),
    rule("autovacuum_naptime", Within(1, 60), Warn, "hot tables are looked at too seldom", "'15s'"),
    rule(
        "max_notify_queue_pages",
        AtLeast(1_048_576),
        Warn,
        "a listener that stands still fills the notification queue soon, and then commits fail",
        "1048576",
    ),
    rule(
        "jit",
        Is(&["off"]),
        Warn,
        "statements of a millisecond are compiled when they are taken for large ones",
        "off",
    ),
    rule(
        "password_encryption",
        Is(&["scram-sha-256"]),
        Warn,
        "passwords that are set now can be guessed from their hashes",
        "'scram-sha-256'",
    ),
    rule(
        "max_slot_wal_keep_size",
        IsNot(&["-1"]),
        Warn,
        "a replication slot that nobody reads fills the disk",
        "'20GB'",
    ),
];

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    let mut session = patient.direct().await?;
    let rows = rows(&mut session, "SELECT name, setting, source, current_setting(name, true) FROM pg_settings").await?;
    let mut settings = BTreeMap::new();
    for row in rows {
        let [name, source]: [String; 2] = [row.try_get(0)?, row.try_get(2)?];
        let [value, shown]: [Option<String>; 2] = [row.try_get(1)?, row.try_get(3)?];
        let value = value.unwrap_or_default();
        settings.insert(name, Setting { shown: shown.unwrap_or_else(|| value.clone()), value, source });
    }
    Ok(judge(&settings))
}

/// One of pg_settings.
#[derive(Debug, Clone, Default)]
struct Setting {
    /// In its own unit.
    value: String,
    /// For people.
    shown: String,
    source: String,
}

/// `settings`: by name; those that this release does not have are not there.
fn judge(settings: &BTreeMap<String, Setting>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RULES
        .iter()
        .filter_map(|rule| {
            let setting = settings.get(rule.name)?;
            (!rule.good.holds(&setting.value)).then(|| rule.broken(setting))
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok(
            "settings",
            "the server's settings are as deploy/postgresql/asobi.conf has them, where it matters",
        ));
    }
    findings
}

impl Good {
    fn holds(&self, value: &str) -> bool {
        let number = value.parse::<i64>();
        match self {
            Is(values) => values.contains(&value),
            IsNot(values) => !values.contains(&value),
            AtLeast(least) => number.is_ok_and(|number| number >= *least),
            Within(least, most) => number.is_ok_and(|number| (*least..=*most).contains(&number)),
        }
    }
}

impl Rule {
    fn broken(&self, setting: &Setting) -> Finding {
        let Self { name, set, means, verdict, .. } = self;
        let says = format!("{name} is {}: {means}", setting.shown);
        // What was set for the role or the database wins over the server's own.
        let change = match setting.source.as_str() {
            "user" | "database user" => {
                format!("ALTER ROLE … RESET {name} (or ALTER ROLE … IN DATABASE … RESET {name})")
            }
            "database" => format!("ALTER DATABASE … RESET {name}"),
            _ if self.restart => format!("ALTER SYSTEM SET {name} = {set}, then restart the server"),
            _ => format!("ALTER SYSTEM SET {name} = {set}, then SELECT pg_reload_conf()"),
        };
        Finding { check: "settings", verdict: *verdict, says, change }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that has what the file says.
    fn well() -> BTreeMap<String, Setting> {
        let values = [
            ("fsync", "on"),
            ("shared_buffers", "524288"),
            ("autovacuum_naptime", "15"),
            ("wal_level", "replica"),
            ("max_slot_wal_keep_size", "20480"),
        ];
        values.into_iter().map(|(name, value)| (name.to_owned(), set(value, "configuration file"))).collect()
    }

    fn set(value: &str, source: &str) -> Setting {
        Setting { value: value.to_owned(), shown: value.to_owned(), source: source.to_owned() }
    }

    #[test]
    fn what_is_as_it_should_be_is_one_line() {
        let found = judge(&well());
        assert_eq!((found.len(), found[0].verdict), (1, Verdict::Ok), "{found:?}");
    }

    #[test]
    fn what_is_not_is_named_with_where_to_change_it() {
        let broken = |name: &str, value: &str, source: &str| {
            let mut settings = well();
            settings.insert(name.into(), set(value, source));
            judge(&settings).swap_remove(0)
        };
        let found = broken("fsync", "off", "configuration file");
        assert_eq!(
            (found.verdict, found.change.as_str()),
            (Fail, "ALTER SYSTEM SET fsync = on, then SELECT pg_reload_conf()")
        );
        let found = broken("default_transaction_read_only", "on", "database");
        assert_eq!(
            (found.verdict, found.change.as_str()),
            (Fail, "ALTER DATABASE … RESET default_transaction_read_only")
        );
        let found = broken("shared_buffers", "16384", "default");
        assert!(found.verdict == Warn && found.change.ends_with("restart the server"), "{found:?}");
        assert_eq!(broken("autovacuum_naptime", "600", "user").verdict, Warn);
    }

    #[test]
    fn each_rule_stands_in_the_file_with_a_reason() {
        let file = include_str!("../../../deploy/postgresql/asobi.conf");
        for rule in &RULES {
            let line =
                file.lines().find(|line| line.trim_start_matches(['#', ' ']).starts_with(&format!("{} = ", rule.name)));
            assert!(line.is_some(), "{} is not in asobi.conf", rule.name);
        }
    }
}
