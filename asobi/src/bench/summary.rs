//! All rounds of a run: each figure's median and spread, as a table for people and one object for scripts.

use std::{collections::BTreeMap, fmt::Write as _, fs::OpenOptions, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::report::Report;

/// One figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Of how many values; results of earlier versions do not say it.
    #[serde(default)]
    pub values: usize,
    /// Which way is better, where one is.
    pub better: Better,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Less,
    More,
    /// A count, or an option that is repeated: it says how it was, not how good.
    Neither,
}

/// What is printed, written and compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    pub scenario: String,
    /// Of the program that measured.
    pub version: String,
    /// Its arguments, without those that only say where the result goes.
    pub command: Vec<String>,
    #[serde(rename = "rounds_measured")]
    pub rounds: usize,
    pub figures: BTreeMap<String, Figure>,
    pub failed: Vec<String>,
    /// The fields of the scenario, numbers as medians.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Summary {
    /// # Errors
    /// There was no round.
    pub fn of(reports: Vec<Report>, command: Vec<String>) -> anyhow::Result<Self> {
        let last = reports.last().cloned().context("no round was measured")?;
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for report in &reports {
            flatten("", &Value::Object(report.fields.clone()), &mut values);
            // What the scenario repeated by itself is known better than its sum.
            let mut own = BTreeMap::new();
            report.own_rounds.iter().for_each(|row| flatten("", row, &mut own));
            values.extend(own);
        }
        let figures: BTreeMap<String, Figure> = values
            .into_iter()
            .filter_map(|(name, of)| {
                let figure = Figure::of(of, last.better(&name).unwrap_or_else(|| better(&name)))?;
                Some((name, figure))
            })
            .collect();
        let mut fields = last.fields;
        for (name, value) in &mut fields {
            settle(name, value, &figures);
        }
        let mut failed: Vec<String> = reports.iter().flat_map(|r| &r.faults).map(|f| (*f).to_owned()).collect();
        failed.dedup();
        Ok(Self {
            scenario: last.scenario.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command,
            rounds: reports.len().max(last.own_rounds.len()),
            figures,
            failed,
            fields,
        })
    }

    /// # Errors
    /// The file cannot be read, or is no result of a bench.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut result: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no result of asobi bench (--out FILE writes one)", file.display()))?;
        for figure in result.figures.values_mut().filter(|figure| figure.values == 0) {
            figure.values = result.rounds;
        }
        Ok(result)
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
    }

    pub fn table(&self) -> String {
        let wide = self.figures.keys().map(String::len).max().unwrap_or_default().max(6);
        let mut table = format!("\n{}, {} round(s)\n", self.scenario, self.rounds);
        let _ = writeln!(table, "  {:<wide$} {:>12}  {:<25} unit", "figure", "median", "spread");
        for (name, figure) in &self.figures {
            let spread = if figure.values > 1 {
                format!("{} .. {}", number(figure.min), number(figure.max))
            } else {
                "-".to_owned()
            };
            let _ = writeln!(table, "  {name:<wide$} {:>12}  {spread:<25} {}", number(figure.median), unit(name));
        }
        for (name, value) in self.fields.iter().filter(|(_, value)| value.is_string()) {
            let _ = writeln!(table, "  {name:<wide$} {}", value.as_str().unwrap_or_default());
        }
        for what in &self.failed {
            let _ = writeln!(table, "  FAILED: {what}");
        }
        table
    }
}

impl Figure {
    pub fn of(mut values: Vec<f64>, better: Better) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median: rounded(median), min, max, values: values.len(), better })
    }

    /// Mistakes that did not occur, in so many rounds.
    pub fn nothing(rounds: usize) -> Self {
        Self { median: 0.0, min: 0.0, max: 0.0, values: rounds, better: Better::Less }
    }
}

/// By what a row is called: a process, or what was asked.
fn name_of(row: &Value) -> Option<&str> {
    row["node"].as_str().or_else(|| row["what"].as_str())
}

/// Numbers by their paths. Rows with a name are figures of their own; those without are repetitions, whose numbers are values of the same figures.
fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, Vec<f64>>) {
    let under = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Number(number) => {
            let number = number.as_f64().filter(|number| number.is_finite());
            number.into_iter().for_each(|number| into.entry(path.to_owned()).or_default().push(number));
        }
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(&under(key), value, into)),
        Value::Array(rows) => {
            for row in rows {
                match name_of(row) {
                    Some(name) => flatten(&under(name), row, into),
                    None if row.is_object() => flatten(path, row, into),
                    None => {}
                }
            }
        }
        _ => {}
    }
}

/// Puts the medians where the last round's numbers are.
fn settle(path: &str, value: &mut Value, figures: &BTreeMap<String, Figure>) {
    match value {
        // Counts stay whole numbers where the median is one.
        Value::Number(number) => {
            if let Some(figure) = figures.get(path).filter(|figure| number.as_f64() != Some(figure.median)) {
                *value = json!(figure.median);
            }
        }
        Value::Object(fields) => {
            fields.iter_mut().for_each(|(key, value)| settle(&format!("{path}.{key}"), value, figures));
        }
        Value::Array(rows) => {
            for row in rows {
                if let Some(name) = name_of(row).map(str::to_owned) {
                    settle(&format!("{path}.{name}"), row, figures);
                }
            }
        }
        _ => {}
    }
}

/// Whether a part of the name says so. Rows and quantiles have the unit in the middle: `burst.told_ms.p99`.
fn says(name: &str, key: &str) -> bool {
    name.split('.').any(|part| part.contains(key)) || (key == "_ms" && name.split('.').any(|part| part == "ms"))
}

/// By what a figure is called: the scenarios name units and directions.
fn better(name: &str) -> Better {
    let first = name.split('.').next().unwrap_or(name);
    // Options that are repeated, and bounds.
    let given = ["max_gap_ms", "paced_rate", "inputs_per_second", "steady_players_per_second"];
    let less = ["_ms", "cpu_s", "_kb", "_mb", "kb_per", "bytes_per", "ratio"];
    if given.contains(&first) {
        Better::Neither
    } else if first.contains("per_second") {
        Better::More
    } else if counts_mistakes(name) || first.ends_with("_s") || less.iter().any(|key| says(name, key)) {
        Better::Less
    } else {
        Better::Neither
    }
}

/// Whether the figure counts what should not have happened at all: absent, it is nothing.
pub fn counts_mistakes(name: &str) -> bool {
    let (first, leaf) = (name.split('.').next().unwrap_or(name), name.rsplit('.').next().unwrap_or(name));
    let mistakes = [
        "missing",
        "lost",
        "errors",
        "refused",
        "wrong",
        "failed",
        "unfinished",
        "out_of_order",
        "twice",
        "turned_away",
        "unanswered",
        "unseen",
        "ended_early",
    ];
    mistakes.iter().any(|key| first.contains(key) || leaf.contains(key))
}

pub fn unit(name: &str) -> &'static str {
    let (first, leaf) = (name.split('.').next().unwrap_or(name), name.rsplit('.').next().unwrap_or(name));
    let has = |key: &str| says(name, key);
    if has("cpu_s") {
        "CPU s"
    } else if has("per_second") {
        "1/s"
    } else if has("_ms") {
        "ms"
    } else if leaf.ends_with("_mb") {
        "MB"
    } else if has("kb") {
        "KB"
    } else if has("bytes") {
        "bytes"
    } else if first.ends_with("_s") {
        "s"
    } else if has("ratio") {
        "times"
    } else {
        ""
    }
}

pub fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e12 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// Whether a result can be written there: asked before anything is measured for it.
///
/// # Errors
/// The file cannot be written.
pub fn writable(file: &Path) -> anyhow::Result<()> {
    let new = !file.exists();
    // What is there stays until there is a result.
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    if new {
        std::fs::remove_file(file)?;
    }
    Ok(())
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(p99: f64, cpu: f64) -> Report {
        Report::new("heartbeat")
            .field("connections", 10)
            .field("answer_ms", json!({"p99": p99}))
            .field("processes", vec![json!({"node": "gateway-1", "cpu_s": cpu, "rss_mb": 9})])
    }

    #[test]
    fn figures_are_medians_with_their_spread_over_the_rounds() {
        let rounds = vec![round(3.0, 1.0), round(1.0, 2.0), round(8.0, 4.5), round(2.0, 3.0)];
        let summary = Summary::of(rounds, vec![]).unwrap();
        let p99 = summary.figures["answer_ms.p99"];
        assert_eq!((p99.median, p99.min, p99.max, p99.better), (2.5, 1.0, 8.0, Better::Less));
        assert_eq!(summary.figures["processes.gateway-1.cpu_s"].median, 2.5);
        assert_eq!(summary.figures["connections"].better, Better::Neither);
        assert_eq!(summary.fields["answer_ms"]["p99"], 2.5);
        assert_eq!(summary.fields["connections"], 10, "what is the same in all rounds stays as it was");
        assert!(summary.table().contains("1 .. 8"), "{}", summary.table());
    }

    #[test]
    fn rounds_that_a_scenario_made_by_itself_make_the_spread() {
        let rows = vec![json!({"states": 5}), json!({"states": 7}), json!({"states": 6})];
        let summary = Summary::of(vec![Report::new("match").field("states", 18).rounds(rows)], vec![]).unwrap();
        assert_eq!((summary.rounds, summary.figures["states"].median, summary.figures["states"].max), (3, 6.0, 7.0));
    }

    #[test]
    fn rows_with_a_name_are_figures_and_those_without_are_values_of_one() {
        let bursts = vec![json!({"all_told_ms": 900}), json!({"all_told_ms": 700}), json!({"all_told_ms": 800})];
        let report = Report::new("storm").field("burst", bursts);
        let report = report.field("bystanders", vec![json!({"what": "rest", "failed": 0, "ms": {"p99": 9}})]);
        let summary = Summary::of(vec![report], vec![]).unwrap();
        let told = summary.figures["burst.all_told_ms"];
        assert_eq!((told.median, told.min, told.values, told.better), (800.0, 700.0, 3, Better::Less));
        assert_eq!(summary.figures["bystanders.rest.ms.p99"].median, 9.0);
        assert_eq!(summary.fields["burst"][0]["all_told_ms"], 900, "each stays as it was");
        assert!(summary.table().contains("700 .. 900"), "{}", summary.table());
    }

    #[test]
    fn mistakes_are_better_fewer_and_what_a_flood_spent_says_how_much_was_done() {
        for name in ["failed", "unfinished", "out_of_order", "inputs_twice", "turned_away", "unanswered", "errors.full"]
        {
            assert_eq!(better(name), Better::Less, "{name}");
        }
        for name in ["burst.told_ms.p99", "bystanders.rest.ms.p99", "answer_ms.p50"] {
            assert_eq!((better(name), unit(name)), (Better::Less, "ms"), "{name}");
        }
        let cpu = vec![json!({"node": "gateway-1", "cpu_s": 4, "rss_mb": 9})];
        let flood = Report::new("chat").field("processes", cpu).field("ratio", 3).rising("ratio").flooded();
        let summary = Summary::of(vec![flood], vec![]).unwrap();
        let better = |name: &str| summary.figures[name].better;
        assert_eq!(better("processes.gateway-1.cpu_s"), Better::Neither);
        assert_eq!((better("processes.gateway-1.rss_mb"), better("ratio")), (Better::Less, Better::More));
    }

    #[test]
    fn a_result_is_read_as_it_was_written_and_another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("result.json");
        let summary = Summary::of(vec![round(3.0, 1.0)], vec!["heartbeat".into()]).unwrap();
        summary.write(&file).unwrap();
        assert_eq!(Summary::read(&file).unwrap().figures, summary.figures);
        std::fs::write(&file, r#"{"scenario": "heartbeat"}"#).unwrap();
        let refusal = Summary::read(&file).unwrap_err().to_string();
        assert!(refusal.contains("is no result of asobi bench"), "{refusal}");
    }
}
