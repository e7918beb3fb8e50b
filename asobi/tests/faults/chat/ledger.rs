//! What was sent, stored and heard in a conversation, and what is wrong with it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    time::Duration,
};

/// What became of a message, as far as its sender was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// `chat.sent` came, for the first or for a later attempt.
    Stored { message_id: String, seq: i64 },
    /// Refused each time it was tried, with an answer that says so for certain.
    Refused,
    /// `unconfirmed`, or the socket was lost before an answer, and it was not sent again.
    Unknown,
}

/// One message of a sender; the content is unique in the conversation.
#[derive(Debug, Clone)]
pub struct Line {
    pub content: String,
    pub outcome: Outcome,
    pub attempts: u32,
    /// Until all that was said together was settled.
    pub took: Duration,
}

/// A message as the database has it, or as a reader got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub seq: i64,
    pub message_id: String,
    pub content: String,
}

impl Entry {
    /// From a `chat.message`, or a message of the history.
    pub fn read(message: &serde_json::Value) -> Self {
        let text = |key: &str| message[key].as_str().map(str::to_owned);
        Self {
            seq: message["seq"].as_i64().unwrap_or_default(),
            // The history calls it as it always did.
            message_id: text("message_id").or_else(|| text("id")).unwrap_or_default(),
            content: text("content").unwrap_or_default(),
        }
    }
}

/// All that is known of one conversation in one channel, after it.
#[derive(Debug, Default)]
pub struct Ledger {
    pub sent: Vec<Line>,
    /// By number.
    pub rows: Vec<Entry>,
    /// What each reader heard, as it came.
    pub heard: BTreeMap<String, Vec<Entry>>,
}

/// A failure's message names so many mistakes of one kind.
const NAMED: usize = 8;

impl Ledger {
    /// The mistakes, as a text for people; none when everything is as it must be:
    ///
    /// - rows are numbered without holes, and each is of one line that was sent, no line in two rows;
    /// - a stored line has the very row that its sender was told of; a refused one has none;
    /// - each reader heard exactly the rows, in order.
    pub fn mistakes(&self) -> Option<String> {
        let mut mistakes = self.wrong_rows();
        mistakes.extend(self.wrong_lines());
        mistakes.extend(self.heard.iter().filter_map(|(reader, heard)| self.wrong_hearing(reader, heard)));
        (!mistakes.is_empty()).then(|| mistakes.join("\n"))
    }

    /// A line for the one who watches.
    pub fn summary(&self) -> String {
        let count = |wanted: fn(&Outcome) -> bool| self.sent.iter().filter(|l| wanted(&l.outcome)).count();
        let mut text = format!(
            "{} sent, {} stored, {} refused, {} unknown, {} repeated; {} rows",
            self.sent.len(),
            count(|o| matches!(o, Outcome::Stored { .. })),
            count(|o| *o == Outcome::Refused),
            count(|o| *o == Outcome::Unknown),
            self.sent.iter().filter(|l| l.attempts > 1).count(),
            self.rows.len(),
        );
        let heard: usize = self.heard.values().map(Vec::len).sum();
        let _ = write!(text, ", {heard} deliveries to {} readers", self.heard.len());
        text
    }

    fn wrong_rows(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let holes =
            self.rows.iter().zip(1..).filter(|(row, n)| row.seq != *n).map(|(row, n)| format!("{} at {n}", row.seq));
        mistakes.extend(named("rows are not numbered one by one", holes));
        let lines: HashMap<&str, &Line> = self.sent.iter().map(|line| (&*line.content, line)).collect();
        let strangers = self.rows.iter().filter(|row| !lines.contains_key(&*row.content)).map(shown);
        mistakes.extend(named("rows that nobody sent", strangers));
        mistakes.extend(named("lines stored twice", twice(&self.rows)));
        mistakes
    }

    fn wrong_lines(&self) -> Vec<String> {
        let rows: HashMap<&str, &Entry> = self.rows.iter().map(|row| (&*row.content, row)).collect();
        let row_of = |line: &Line| rows.get(&*line.content).copied();
        let mut mistakes = Vec::new();
        let lost = self.sent.iter().filter(|l| matches!(l.outcome, Outcome::Stored { .. }) && row_of(l).is_none());
        mistakes.extend(named("acknowledged, but not stored", lost.map(told)));
        let other = self.sent.iter().filter_map(|line| {
            let (Outcome::Stored { message_id, seq }, row) = (&line.outcome, row_of(line)?) else { return None };
            (row.seq != *seq || row.message_id != *message_id).then(|| format!("{} is {}", told(line), shown(row)))
        });
        mistakes.extend(named("acknowledged as another row", other));
        let refused = self.sent.iter().filter(|l| l.outcome == Outcome::Refused && row_of(l).is_some());
        mistakes.extend(named("refused, but stored", refused.map(told)));
        mistakes
    }

    fn wrong_hearing(&self, reader: &str, heard: &[Entry]) -> Option<String> {
        if heard == self.rows {
            return None;
        }
        let mut mistakes = Vec::new();
        let known: HashMap<i64, &Entry> = heard.iter().map(|entry| (entry.seq, entry)).collect();
        let rows: HashMap<i64, &Entry> = self.rows.iter().map(|row| (row.seq, row)).collect();
        let missing = self.rows.iter().filter(|row| !known.contains_key(&row.seq)).map(shown);
        mistakes.extend(named("did not hear", missing));
        mistakes.extend(named("heard twice", twice(heard)));
        let other = heard.iter().filter(|entry| rows.get(&entry.seq) != Some(entry)).map(shown);
        mistakes.extend(named("heard what is no row", other));
        let early = heard.windows(2).filter(|pair| pair[0].seq >= pair[1].seq);
        let early = early.map(|pair| format!("{} before {}", pair[0].seq, pair[1].seq));
        mistakes.extend(named("heard out of order", early));
        Some(format!("{reader}, with {} of {} rows: {}", heard.len(), self.rows.len(), mistakes.join("; ")))
    }
}

fn shown(entry: &Entry) -> String {
    format!("{}:{}", entry.seq, entry.content)
}

fn told(line: &Line) -> String {
    match &line.outcome {
        Outcome::Stored { seq, .. } => format!("{}, told {seq} at attempt {}", line.content, line.attempts),
        other => format!("{}, {other:?} at attempt {}", line.content, line.attempts),
    }
}

fn twice(entries: &[Entry]) -> impl Iterator<Item = String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for entry in entries {
        places.entry(&entry.content).or_default().push(entry.seq.to_string());
    }
    let twice: Vec<String> = places
        .into_iter()
        .filter(|(_, seqs)| seqs.len() > 1)
        .map(|(content, seqs)| format!("{content} as {}", seqs.join(" and ")))
        .collect();
    twice.into_iter()
}

/// A sentence with the first few; none without any.
fn named(what: &str, mistakes: impl Iterator<Item = String>) -> Option<String> {
    let mistakes: Vec<String> = mistakes.collect();
    if mistakes.is_empty() {
        return None;
    }
    let more = mistakes.len().checked_sub(NAMED).filter(|more| *more > 0);
    let more = more.map_or(String::new(), |more| format!(" and {more} more"));
    Some(format!("{what} ({}): {}{more}", mistakes.len(), mistakes[..mistakes.len().min(NAMED)].join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: i64, content: &str) -> Entry {
        Entry { seq, message_id: format!("id-{content}"), content: content.to_owned() }
    }

    fn line(content: &str, outcome: Outcome) -> Line {
        Line { content: content.to_owned(), outcome, attempts: 1, took: Duration::ZERO }
    }

    fn stored(seq: i64, content: &str) -> Line {
        line(content, Outcome::Stored { message_id: format!("id-{content}"), seq })
    }

    /// Three lines of which two are rows, and two readers who heard them.
    fn right() -> Ledger {
        let rows = vec![entry(1, "a"), entry(2, "b")];
        Ledger {
            sent: vec![stored(1, "a"), line("b", Outcome::Unknown), line("c", Outcome::Refused)],
            heard: [("ada", rows.clone()), ("bo", rows.clone())].map(|(who, heard)| (who.to_owned(), heard)).into(),
            rows,
        }
    }

    fn wrong(change: impl FnOnce(&mut Ledger)) -> String {
        let mut ledger = right();
        change(&mut ledger);
        ledger.mistakes().unwrap_or_default()
    }

    #[test]
    fn what_is_right_has_no_mistakes() {
        assert_eq!(right().mistakes(), None);
        assert_eq!(
            right().summary(),
            "3 sent, 1 stored, 1 refused, 1 unknown, 0 repeated; 2 rows, 4 deliveries to 2 readers"
        );
    }

    #[test]
    fn every_kind_of_mistake_is_found() {
        let heard = |ledger: &mut Ledger, heard| *ledger.heard.get_mut("bo").unwrap() = heard;
        for (found, sentence) in [
            (wrong(|l| l.sent.push(stored(3, "d"))), "acknowledged, but not stored (1): d, told 3 at attempt 1"),
            (wrong(|l| l.sent[0] = stored(2, "a")), "acknowledged as another row (1): a, told 2 at attempt 1 is 1:a"),
            (wrong(|l| l.rows.push(entry(3, "c"))), "refused, but stored (1): c"),
            (wrong(|l| l.rows.push(entry(3, "a"))), "lines stored twice (1): a as 1 and 3"),
            (wrong(|l| l.rows.push(entry(3, "x"))), "rows that nobody sent (1): 3:x"),
            (wrong(|l| l.rows.push(entry(4, "x"))), "rows are not numbered one by one (1): 4 at 3"),
            (wrong(|l| heard(l, vec![entry(1, "a")])), "bo, with 1 of 2 rows: did not hear (1): 2:b"),
            (wrong(|l| heard(l, vec![entry(1, "a"), entry(1, "a"), entry(2, "b")])), "heard twice (1): a as 1 and 1"),
            (wrong(|l| heard(l, vec![entry(2, "b"), entry(1, "a")])), "heard out of order (1): 2 before 1"),
            (wrong(|l| heard(l, vec![entry(1, "a"), entry(2, "x")])), "heard what is no row (1): 2:x"),
        ] {
            assert!(found.contains(sentence), "{sentence:?} is not in:\n{found}");
        }
    }

    #[test]
    fn a_long_list_is_cut() {
        let found = wrong(|l| l.sent.extend((0..20).map(|n| stored(n + 3, &format!("lost{n}")))));
        assert!(found.contains("and 12 more") && !found.contains("lost9,"), "{found}");
    }
}
