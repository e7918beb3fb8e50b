//! Tables for people and JSON for scripts.

use std::io::{self, Write as _};

use serde_json::Value;

/// Prints text and a newline. Whoever reads may have seen enough, as `head` has.
pub fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _gone = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// One JSON value on one line.
pub fn json(value: &Value) {
    line(&value.to_string());
}

/// Columns as wide as their widest cell, names above in capitals; the last one is not padded.
pub fn table<const N: usize>(names: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([names[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let render = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let names = names.map(str::to_uppercase);
    std::iter::once(&names).chain(rows).map(render).collect::<Vec<_>>().join("\n")
}

/// A duration as people say it: `340 ms`, `2.5 s`, `3 min 20 s`.
pub fn milliseconds(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["gateway-0".to_owned(), "ready".to_owned()], ["m".to_owned(), "süß".to_owned()]];
        assert_eq!(table(["node", "state"], &rows), "NODE       STATE\ngateway-0  ready\nm          süß");
    }

    #[test]
    fn durations_read_well() {
        let said: Vec<_> = [0, 999, 1_000, 59_999, 60_000, 200_500].into_iter().map(milliseconds).collect();
        assert_eq!(said, ["0 ms", "999 ms", "1.0 s", "59.9 s", "1 min 0 s", "3 min 20 s"]);
    }
}
