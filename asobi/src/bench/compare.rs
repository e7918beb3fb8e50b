//! Two results of one scenario: what got better or worse, by how much, and whether that is more than the rounds differ by themselves.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::ensure;
use clap::Args;
use serde::Serialize;

use super::summary::{Better, Figure, Summary, counts_mistakes, number, unit};

/// Two files that `--out` wrote.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The earlier result
    before: PathBuf,
    /// The later one
    after: PathBuf,
    /// Exit with 1 when a figure got worse by more than this, beyond the spread of both
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_above: Option<f64>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    json: bool,
}

/// A share that something may get worse by.
///
/// # Errors
/// No number, or a negative one.
pub fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.trim_end_matches('%').parse().map_err(|_| "expected a number of percent".to_owned())?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err("expected a number of percent from 0 on".into()) }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    pub figure: String,
    pub before: f64,
    pub after: f64,
    /// Absent where it was nothing before.
    pub percent: Option<f64>,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Better,
    Worse,
    /// The spreads of both overlap: nothing is known.
    WithinSpread,
    /// No round beside it says how much it differs by itself.
    BetterOfOneRound,
    WorseOfOneRound,
    /// Although there were several rounds.
    MeasuredOnce,
    Same,
}

impl Verdict {
    fn says(self) -> &'static str {
        match self {
            Self::Better => "better, outside of the spread",
            Self::Worse => "WORSE, outside of the spread",
            Self::WithinSpread => "within the spread",
            Self::BetterOfOneRound => "better; one round, spread unknown",
            Self::WorseOfOneRound => "worse; one round, spread unknown",
            Self::MeasuredOnce => "measured once, spread unknown",
            Self::Same => "same",
        }
    }

    fn is_worse(self) -> bool {
        matches!(self, Self::Worse | Self::WorseOfOneRound)
    }
}

/// # Errors
/// They are of different scenarios.
pub fn comparable(before: &str, after: &str) -> anyhow::Result<()> {
    ensure!(before == after, "a result of {before} cannot be compared with one of {after}");
    Ok(())
}

/// Figures of both that have a direction. What counts mistakes is nothing where it is absent: a kind of them that did not occur has no line.
///
/// # Errors
/// They are of different scenarios.
pub fn changes(before: &Summary, after: &Summary) -> anyhow::Result<Vec<Change>> {
    comparable(&before.scenario, &after.scenario)?;
    let names: BTreeSet<&String> = before.figures.keys().chain(after.figures.keys()).collect();
    let of = |summary: &Summary, name: &str| {
        let figure = summary.figures.get(name).copied();
        figure.or_else(|| counts_mistakes(name).then_some(Figure::nothing(summary.rounds)))
    };
    let both = names.into_iter().filter_map(|name| Some((name, of(before, name)?, of(after, name)?)));
    Ok(both
        .filter(|(_, _, now)| now.better != Better::Neither)
        .map(|(name, then, now)| Change {
            figure: name.clone(),
            before: then.median,
            after: now.median,
            percent: (then.median != 0.0).then(|| ((now.median / then.median - 1.0) * 1e3).round() / 10.0),
            verdict: verdict(&then, &now, before.rounds > 1 && after.rounds > 1 && !counts_mistakes(name)),
        })
        .collect())
}

/// `rounds`: both were measured again and again, so that what was taken only once says nothing.
#[expect(clippy::float_cmp, reason = "two figures that were rounded alike")]
fn verdict(then: &Figure, now: &Figure, rounds: bool) -> Verdict {
    if then.median == now.median {
        return Verdict::Same;
    }
    let spread = then.values > 1 && now.values > 1;
    if rounds && !spread {
        return Verdict::MeasuredOnce;
    }
    if spread && now.min <= then.max && then.min <= now.max {
        return Verdict::WithinSpread;
    }
    let less = now.median < then.median;
    match (less == (now.better == Better::Less), spread) {
        (true, true) => Verdict::Better,
        (false, true) => Verdict::Worse,
        (true, false) => Verdict::BetterOfOneRound,
        (false, false) => Verdict::WorseOfOneRound,
    }
}

/// Whether a figure got worse by more than that. One that was nothing before has got worse without bound.
pub fn fails(changes: &[Change], above: f64) -> bool {
    changes.iter().any(|c| c.verdict.is_worse() && c.percent.is_none_or(|percent| percent.abs() > above))
}

pub fn table(before: &Summary, after: &Summary, changes: &[Change]) -> String {
    let wide = changes.iter().map(|c| c.figure.len()).max().unwrap_or_default().max(6);
    let mut table = format!("\n{} of {} and {}\n", after.scenario, before.version, after.version);
    if before.command != after.command {
        let _ =
            writeln!(table, "  NOT THE SAME LOAD: `{}`, then `{}`", before.command.join(" "), after.command.join(" "));
    }
    let _ = writeln!(table, "  {:<wide$} {:>12} {:>12} {:>9}  unit", "figure", "before", "after", "change");
    for change in changes {
        let percent = change.percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:+.1} %"));
        let _ = writeln!(
            table,
            "  {:<wide$} {:>12} {:>12} {percent:>9}  {:<5} {}",
            change.figure,
            number(change.before),
            number(change.after),
            unit(&change.figure),
            change.verdict.says()
        );
    }
    table
}

/// # Errors
/// A file is no result, or they are of different scenarios.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let (before, after) = (Summary::read(&options.before)?, Summary::read(&options.after)?);
    let changes = changes(&before, &after)?;
    eprintln!("{}", table(&before, &after, &changes));
    let failed = options.fail_above.is_some_and(|above| fails(&changes, above));
    if options.json {
        println!("{}", serde_json::json!({"scenario": after.scenario, "changes": changes, "failed": failed}));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::report::Report;

    fn result(values: &[f64]) -> Summary {
        let rounds = values.iter().map(|ms| {
            Report::new("chat")
                .field("ack_ms", json!({"p99": ms}))
                .field("per_second", 1_000.0 / ms)
                .field("members", *ms)
        });
        Summary::of(rounds.collect(), vec![]).unwrap()
    }

    fn verdicts(before: &[f64], after: &[f64]) -> Vec<(String, Verdict)> {
        let changes = changes(&result(before), &result(after)).unwrap();
        changes.into_iter().map(|c| (c.figure, c.verdict)).collect()
    }

    #[test]
    fn a_change_counts_when_the_rounds_do_not_overlap() {
        let both = |verdict| vec![("ack_ms.p99".to_owned(), verdict), ("per_second".to_owned(), verdict)];
        assert_eq!(verdicts(&[10.0, 11.0, 12.0], &[13.0, 14.0, 15.0]), both(Verdict::Worse));
        assert_eq!(verdicts(&[13.0, 14.0, 15.0], &[10.0, 11.0, 12.0]), both(Verdict::Better));
        assert_eq!(verdicts(&[10.0, 11.0, 14.0], &[13.0, 14.0, 15.0]), both(Verdict::WithinSpread));
        assert_eq!(verdicts(&[10.0], &[11.0]), both(Verdict::WorseOfOneRound));
        assert_eq!(verdicts(&[10.0], &[10.0]), both(Verdict::Same));
    }

    #[test]
    fn what_got_worse_within_the_bound_or_the_spread_does_not_fail() {
        let worse = changes(&result(&[10.0, 10.0]), &result(&[12.0, 12.0])).unwrap();
        assert!(fails(&worse, 10.0) && !fails(&worse, 20.0), "{worse:?}");
        let within = changes(&result(&[10.0, 13.0]), &result(&[12.0, 15.0])).unwrap();
        assert!(!fails(&within, 1.0), "{within:?}");
    }

    #[test]
    fn what_was_measured_once_in_several_rounds_is_neither_better_nor_worse() {
        let once = |of: &str, value: u64| {
            let rows = vec![json!({"states": 5}), json!({"states": 5})];
            let report = Report::new("match").rounds(rows);
            let report = if of == "gap" {
                report.field("longest_gap_ms", value)
            } else {
                report.field("errors", json!({of: value}))
            };
            Summary::of(vec![report], vec![]).unwrap()
        };
        let slower = changes(&once("gap", 100), &once("gap", 900)).unwrap();
        assert_eq!(slower[0].verdict, Verdict::MeasuredOnce, "{slower:?}");
        assert!(!fails(&slower, 10.0));
        // A mistake is no noise, and one that has not occurred is none.
        let wrong = changes(&once("gap", 100), &once("full", 3)).unwrap();
        assert_eq!((wrong[0].figure.as_str(), wrong[0].before, wrong[0].after), ("errors.full", 0.0, 3.0), "{wrong:?}");
        assert!(fails(&wrong, 10.0) && !fails(&changes(&once("full", 3), &once("gap", 1)).unwrap(), 0.0));
    }

    #[test]
    fn different_scenarios_are_refused_and_shares_have_a_sign() {
        let mut other = result(&[1.0]);
        other.scenario = "match".into();
        assert!(changes(&result(&[1.0]), &other).is_err());
        assert_eq!((percent("5%"), percent("-1").is_err(), percent("much").is_err()), (Ok(5.0), true, true));
    }
}
