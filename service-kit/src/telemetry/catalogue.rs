//! Every metric that a process exposes: what it is called, what it counts, by which labels, and which roles have it.
//!
//! One table is behind the HELP lines of `/metrics`, the units of OTLP, docs/metrics.md, and the tests that hold the code, the
//! dashboards and the alert rules against it. A metric that is not in it fails a test, and so does one that nobody moves.
//!
//! Invariant: labels are bounded. A label's values are listed here, or it has a rule that says what bounds them; nothing that
//! a client sends becomes one.

mod cluster;
mod matches;
mod players;

use std::fmt::Write as _;

pub use players::{FRAMES_IN, FRAMES_OUT};

/// What a process is. The names of these are the label `role` of everything that is scraped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    pub const GATEWAY: Self = Self(1);
    pub const MATCH: Self = Self(2);
    pub const MATCHMAKER: Self = Self(4);
    pub const SOCIAL: Self = Self(8);
    /// Those that players connect to.
    pub const PLAYERS: Self = Self(1 | 2);
    pub const ALL: Self = Self(15);

    /// Each role, with its name.
    pub const EACH: [(Self, &str); 4] = [
        (Self::GATEWAY, "gateway"),
        (Self::MATCH, "match-service"),
        (Self::MATCHMAKER, "matchmaker"),
        (Self::SOCIAL, "social-service"),
    ];

    /// By the name that a process has itself, "match" and "social" too.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let each =
            Self::EACH.into_iter().find(|(_, known)| *known == name || known.strip_suffix("-service") == Some(name));
        each.map(|(role, _)| role)
    }

    /// The name of one role.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::EACH.into_iter().find(|(role, _)| *role == self).map_or("", |(_, name)| name)
    }

    #[must_use]
    pub fn has(self, role: Self) -> bool {
        self.0 & role.0 != 0
    }

    fn text(self) -> String {
        if self == Self::ALL {
            return "all".to_owned();
        }
        let names: Vec<&str> =
            Self::EACH.into_iter().filter(|(role, _)| self.has(*role)).map(|(_, name)| name).collect();
        names.join(", ")
    }
}

/// Upper bounds of a histogram's buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buckets {
    /// Seconds, from a call inside one machine to one that has run into a deadline.
    Seconds,
    /// Seconds that people wait.
    Waits,
    /// Counts and sizes, such as rows of a batch.
    Counts,
    Bytes,
}

impl Buckets {
    #[must_use]
    pub fn bounds(self) -> &'static [f64] {
        match self {
            Self::Seconds => &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
            Self::Waits => &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0],
            Self::Counts => &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 10_000.0],
            Self::Bytes => &[256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram(Buckets),
}

/// A label, and what bounds its values.
#[derive(Debug, Clone, Copy)]
pub enum Label {
    /// These and no others.
    Of(&'static str, &'static [&'static str]),
    /// What the rule says.
    Rule(&'static str, &'static str),
}

impl Label {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Of(name, _) | Self::Rule(name, _) => name,
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [Label],
    pub roles: Roles,
    /// A gauge that is there, with 0, before anybody has set it. Counters and histograms whose values are listed always are.
    zero: bool,
    /// Ends with a full stop.
    pub help: &'static str,
}

const fn metric(kind: Kind, name: &'static str, roles: Roles, help: &'static str) -> Metric {
    Metric { name, kind, labels: &[], roles, zero: false, help }
}

const fn counter(name: &'static str, roles: Roles, help: &'static str) -> Metric {
    metric(Kind::Counter, name, roles, help)
}

const fn gauge(name: &'static str, roles: Roles, help: &'static str) -> Metric {
    metric(Kind::Gauge, name, roles, help)
}

const fn histogram(buckets: Buckets, name: &'static str, roles: Roles, help: &'static str) -> Metric {
    metric(Kind::Histogram(buckets), name, roles, help)
}

impl Metric {
    const fn by(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    const fn zero(self) -> Self {
        Self { zero: true, ..self }
    }

    /// Whether a process of its roles has it from the start, with every value of its labels, so that an alert sees the first
    /// step and not only the second.
    #[must_use]
    pub fn from_start(&self) -> bool {
        let listed = self.labels.iter().all(|label| matches!(label, Label::Of(..)));
        listed && (self.kind != Kind::Gauge || self.zero)
    }

    /// As of UCUM, as OTLP wants it.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let units = [("_seconds", "s"), ("_bytes", "By")];
        units.iter().find(|(suffix, _)| name.ends_with(suffix)).map_or("1", |(_, unit)| unit)
    }

    /// Every combination of the listed values.
    fn combinations(&self) -> Vec<Vec<::metrics::Label>> {
        let mut all: Vec<Vec<::metrics::Label>> = vec![Vec::new()];
        for label in self.labels {
            let Label::Of(name, values) = label else { return Vec::new() };
            let with = |before: &Vec<::metrics::Label>, value: &&'static str| {
                before.iter().cloned().chain([::metrics::Label::from_static_parts(name, value)]).collect()
            };
            all = all.iter().flat_map(|before| values.iter().map(move |value| with(before, value))).collect();
        }
        all
    }

    /// Makes its series, as they were if they are there.
    fn register(&self) {
        for labels in self.combinations() {
            match self.kind {
                Kind::Counter => ::metrics::counter!(self.name, labels).increment(0),
                Kind::Gauge => ::metrics::gauge!(self.name, labels).increment(0.0),
                Kind::Histogram(_) => drop(::metrics::histogram!(self.name, labels)),
            }
        }
    }

    fn describe(&self) {
        match self.kind {
            Kind::Counter => ::metrics::describe_counter!(self.name, self.help),
            Kind::Gauge => ::metrics::describe_gauge!(self.name, self.help),
            Kind::Histogram(_) => ::metrics::describe_histogram!(self.name, self.help),
        }
    }
}

/// The table.
pub fn all() -> impl Iterator<Item = &'static Metric> + Clone {
    cluster::TABLE.iter().chain(players::TABLE).chain(matches::TABLE)
}

/// The row of a metric.
#[must_use]
pub fn find(name: &str) -> Option<&'static Metric> {
    all().find(|metric| metric.name == name)
}

/// Gives every metric its HELP line.
pub(super) fn describe() {
    all().for_each(Metric::describe);
}

/// Makes what a process of this role has from the start.
pub(super) fn register(role: Roles) {
    all().filter(|metric| metric.roles.has(role) && metric.from_start()).for_each(Metric::register);
}

/// The table as the generated part of docs/metrics.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::new();
    let parts = [
        ("Every process", cluster::TABLE),
        ("Players: gateways and match hosts", players::TABLE),
        ("Matches, the queue, social services", matches::TABLE),
    ];
    for (title, table) in parts {
        let _ = writeln!(
            text,
            "\n## {title}\n\n| metric | kind | labels | roles | meaning |\n| --- | --- | --- | --- | --- |"
        );
        for metric in table {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            let start = if metric.from_start() { "" } else { "¹" };
            let (labels, roles) = (labels(metric), metric.roles.text());
            let _ = writeln!(text, "| `{}`{start} | {kind} | {labels} | {roles} | {} |", metric.name, metric.help);
        }
    }
    text
}

fn labels(metric: &Metric) -> String {
    let each = metric.labels.iter().map(|label| match label {
        Label::Of(name, values) => {
            let values: Vec<String> =
                values.iter().map(|value| format!("`{}`", if value.is_empty() { "\"\"" } else { value })).collect();
            format!("`{name}`: {}", values.join(" "))
        }
        Label::Rule(name, rule) => format!("`{name}`: {rule}"),
    });
    each.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_is_in_order() {
        let names: HashSet<&str> = all().map(|metric| metric.name).collect();
        assert_eq!(names.len(), all().count(), "a metric is listed twice");
        for metric in all() {
            let name = metric.name;
            assert!(name.starts_with("asobi_") || name.starts_with("process_"), "{name}");
            let counts = name.ends_with("_total");
            assert!(counts == (metric.kind == Kind::Counter) || name == "process_cpu_seconds_total", "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('|'), "{name}: {}", metric.help);
            let seconds = matches!(metric.kind, Kind::Histogram(Buckets::Seconds | Buckets::Waits));
            assert!(!seconds || name.ends_with("_seconds"), "{name}");
            assert!(metric.combinations().len() <= 100, "{name} has too many series");
        }
    }

    #[test]
    fn roles_have_the_names_they_are_scraped_under() {
        for (role, name) in Roles::EACH {
            assert_eq!((Roles::named(name), role.name()), (Some(role), name));
        }
        assert_eq!(Roles::named("match"), Some(Roles::MATCH));
        assert_eq!(Roles::named("nobody"), None);
        assert!(Roles::PLAYERS.has(Roles::GATEWAY) && !Roles::PLAYERS.has(Roles::SOCIAL));
    }

    #[test]
    fn every_combination_of_listed_values_is_made() {
        let two = counter("asobi_test_total", Roles::ALL, "A test.")
            .by(&[Label::Of("a", &["1", "2"]), Label::Of("b", &["x", "y", "z"])]);
        assert_eq!(two.combinations().len(), 6);
        assert!(two.from_start());
        let ruled = counter("asobi_test_total", Roles::ALL, "A test.").by(&[Label::Rule("a", "bounded")]);
        assert!(!ruled.from_start() && ruled.combinations().is_empty());
    }
}
