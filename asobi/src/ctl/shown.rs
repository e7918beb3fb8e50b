//! How answers are put into words: what the tables of several commands have in common.

use prost_types::Timestamp;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Names and what they stand for, one pair on a line, in two columns. Pairs without a text are left out.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let shown: Vec<_> = pairs.iter().filter(|(_, text)| !text.is_empty()).collect();
    let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let lines = shown.iter().map(|(name, text)| format!("{name:<width$}  {text}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A time as RFC 3339, to the second.
pub fn when(at: Option<Timestamp>) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(at?.seconds).ok()?.format(&Rfc3339).ok()
}

/// [`when`], and nothing where there is none.
pub fn time(at: Option<&Timestamp>) -> String {
    when(at.copied()).unwrap_or_default()
}

/// Unix seconds; null where there is none.
pub fn seconds(at: Option<&Timestamp>) -> Value {
    at.map_or(Value::Null, |at| at.seconds.into())
}

/// Text, or null where it is empty.
pub fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// JSON that was sent as text; null where there is none.
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// What a script printed may hold anything: nothing of it shall reach the terminal as an order.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_line_up_and_what_is_empty_is_left_out() {
        let shown = pairs(&[("id", "1".into()), ("nothing", String::new()), ("longer", "x".into())]);
        assert_eq!(shown, "id      1\nlonger  x");
    }

    #[test]
    fn times_are_read_by_people_and_programs() {
        let at = Timestamp { seconds: 86_400, nanos: 5 };
        assert_eq!((time(Some(&at)).as_str(), seconds(Some(&at))), ("1970-01-02T00:00:00Z", 86_400.into()));
        assert_eq!((time(None), seconds(None)), (String::new(), Value::Null));
    }

    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
