//! The table of metrics, the code, docs/metrics.md, the dashboards and the alert rules say the same. docs/metrics.md is written from the table:
//!
//! ASOBI_WRITE_METRICS=1 cargo test -p asobi-service-kit --test catalogue

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use asobi_service_kit::telemetry::catalogue::{self, Kind};
use serde_json::Value;

const WRITE: &str = "ASOBI_WRITE_METRICS";
const DOCUMENT: &str = "docs/metrics.md";
/// What stands above is written by hand.
const BELOW: &str = "<!-- What follows is written from service-kit/src/telemetry/catalogue. -->\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below a folder whose names end so.
fn files(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !matches!(name, "target" | "tests" | "node_modules") && !name.starts_with('.') {
                files(&path, end, found);
            }
        } else if name.ends_with(end) && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// The first arguments of the macros in a source file: each with its macro's name. Macros that describe are left out, and so is what stands
/// below a module of tests.
fn moved(source: &str) -> Vec<(&'static str, String)> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut moved = Vec::new();
    for kind in ["counter", "gauge", "histogram"] {
        let name = format!("{kind}!(");
        for (at, _) in source.match_indices(&name) {
            let before = source[..at].chars().next_back().unwrap_or(' ');
            let commented = source[..at].rsplit('\n').next().is_some_and(|line| line.trim_start().starts_with("//"));
            if before == '_' || before.is_alphanumeric() || commented {
                continue;
            }
            let first = source[at + name.len()..].trim_start();
            let end = first.find([',', ')']).unwrap_or(first.len());
            moved.push((kind, first[..end].trim().to_owned()));
        }
    }
    moved
}

#[test]
fn macros_are_found_over_lines_and_descriptions_are_not() {
    let source = "metrics::counter!(\n    \"a_total\",\n \"x\" => y).increment(1); describe_gauge!(\"b\", \"B.\"); gauge!(\"c\").set(0.0);\n\
                  // counter!(\"d\")\n#[cfg(test)]\nmod tests {\n counter!(\"e\") }";
    let expected = [("counter", "\"a_total\""), ("gauge", "\"c\"")];
    assert_eq!(moved(source), expected.map(|(kind, name)| (kind, name.to_owned())));
}

#[test]
fn what_the_code_counts_is_in_the_table_and_the_other_way_round() {
    let mut sources = Vec::new();
    files(&root(), ".rs", &mut sources);
    assert!(sources.len() > 200, "the sources are not there");
    let table: BTreeMap<&str, &str> = catalogue::all()
        .map(|metric| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            (metric.name, kind)
        })
        .collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for path in &sources {
        // It makes whatever the table says.
        if path.ends_with("telemetry/catalogue.rs") {
            continue;
        }
        for (kind, name) in moved(&fs::read_to_string(path).unwrap()) {
            let Some(name) = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) else {
                wrong.push(format!("{}: {kind}!({name}) has no name of its own", path.display()));
                continue;
            };
            if table.get(name) != Some(&kind) {
                wrong.push(format!("{}: the {kind} {name} is not in the table", path.display()));
            }
            seen.insert(name.to_owned());
        }
    }
    let idle = table.keys().filter(|name| !seen.contains(**name)).map(|name| format!("nothing moves {name}"));
    wrong.extend(idle);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_document_is_what_the_table_makes_of_it() {
    let document = read(DOCUMENT);
    let (head, _) = document.split_once(BELOW).expect("the line above what is generated");
    let expected = format!("{head}{BELOW}{}", catalogue::markdown());
    if std::env::var_os(WRITE).is_some() {
        fs::write(root().join(DOCUMENT), &expected).unwrap();
    } else {
        assert_eq!(document, expected, "run {WRITE}=1 cargo test -p asobi-service-kit --test catalogue");
    }
}

/// What may follow a histogram's name.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The metrics of an expression that are ours, or are the process's own.
fn named(expression: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':');
    expression.split(word).filter(|word| word.starts_with("asobi_") || word.starts_with("process_")).collect()
}

/// What an expression asks for that is not there.
fn missing(expression: &str) -> Vec<String> {
    let known = |name: &str| {
        let histogram = OF_HISTOGRAMS.iter().find_map(|end| catalogue::find(name.strip_suffix(end)?));
        match histogram {
            Some(metric) => matches!(metric.kind, Kind::Histogram(_)),
            None => catalogue::find(name).is_some_and(|metric| !matches!(metric.kind, Kind::Histogram(_))),
        }
    };
    named(expression).into_iter().filter(|name| !known(name)).map(ToOwned::to_owned).collect()
}

#[test]
fn names_are_read_out_of_expressions() {
    let expression =
        r#"sum by (node) (rate(asobi_bus_batch_items_sum{job="asobi"}[5m])) / asobi_nonsense > process_open_fds"#;
    assert_eq!(named(expression).len(), 3);
    assert_eq!(missing(expression), ["asobi_nonsense"]);
    assert_eq!(missing("asobi_bus_batch_items"), ["asobi_bus_batch_items"], "a histogram has no series of its own");
    assert_eq!(missing("asobi_ready_count"), ["asobi_ready_count"]);
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" || name == "query" || name == "definition" => {
                        found.push(text.to_owned());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn dashboards_ask_for_what_is_there() {
    let mut dashboards = Vec::new();
    files(&root().join("deploy/grafana"), ".json", &mut dashboards);
    assert!(dashboards.len() >= 5, "{dashboards:?}");
    for path in dashboards {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut asked = Vec::new();
        expressions(&dashboard, &mut asked);
        assert!(asked.len() >= 5, "{}", path.display());
        for expression in asked {
            assert_eq!(missing(&expression), Vec::<String>::new(), "{}: {expression}", path.display());
        }
    }
}

/// Of a rules file in YAML as we write it: each alert with the lines that are its own.
fn alerts(rules: &str) -> BTreeMap<String, String> {
    let mut alerts = BTreeMap::new();
    let mut name = String::new();
    for line in rules.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if let Some(alert) = line.trim_start().strip_prefix("- alert: ") {
            alert.trim().clone_into(&mut name);
        }
        if !name.is_empty() {
            let own: &mut String = alerts.entry(name.clone()).or_default();
            own.push_str(line);
            own.push('\n');
        }
    }
    alerts
}

#[test]
fn every_alert_asks_for_what_is_there_and_has_a_paragraph() {
    let alerts = alerts(&read("deploy/prometheus/alerts.yml"));
    assert!(alerts.len() >= 15, "{:?}", alerts.keys());
    let guide = read("docs/operations.md");
    for (alert, rule) in &alerts {
        assert_eq!(missing(rule), Vec::<String>::new(), "{alert}");
        let anchor = format!("docs/operations.md#{}", alert.to_lowercase());
        for needed in ["for: ", "severity: ", "summary: ", &anchor] {
            assert!(rule.contains(needed), "{alert} has no {needed}");
        }
        let paragraph = guide.split_once(&format!("\n### {alert}\n")).map(|(_, rest)| rest);
        let paragraph = paragraph.unwrap_or_else(|| panic!("docs/operations.md has no paragraph on {alert}"));
        let paragraph = paragraph.split("\n#").next().unwrap_or_default();
        for part in ["**Means**", "**Look at**", "**Do**"] {
            assert!(paragraph.contains(part), "the paragraph on {alert} has no {part}");
        }
    }
    let listed = guide.lines().filter_map(|line| line.strip_prefix("### Asobi"));
    for name in listed.map(|rest| format!("Asobi{rest}")) {
        assert!(alerts.contains_key(&name), "there is no alert {name}");
    }
}
