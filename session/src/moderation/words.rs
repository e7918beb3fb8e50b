//! What chat must not say, as one automaton: a text is gone through once, however many words there are.

use aho_corasick::AhoCorasick;
use asobi_store::words::{self, Word};

/// What was found in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// The text with asterisks, one for each character of a word.
    Masked(String),
    Refused,
}

pub(super) struct Words {
    automaton: AhoCorasick,
    /// Of each word, in the automaton's order.
    rules: Vec<Rule>,
}

#[derive(Clone, Copy)]
struct Rule {
    refuses: bool,
    whole: bool,
}

/// None: there are no words.
pub(super) fn compile(words: &[Word]) -> Option<Words> {
    if words.is_empty() {
        return None;
    }
    let rules = words.iter().map(|word| Rule { refuses: word.refuses, whole: word.whole }).collect();
    match AhoCorasick::new(words.iter().map(|word| word.word.as_bytes())) {
        Ok(automaton) => Some(Words { automaton, rules }),
        Err(error) => {
            // Only more patterns than there may be words could bring this about.
            tracing::error!(%error, words = words.len(), "The list of words cannot be used; nothing is filtered by it.");
            None
        }
    }
}

impl Words {
    pub fn find(&self, text: &str) -> Found {
        let (lower, origins) = lowered(text);
        let mut masked: Vec<std::ops::Range<usize>> = Vec::new();
        for found in self.automaton.find_overlapping_iter(&lower) {
            let Some(rule) = self.rules.get(found.pattern().as_usize()) else { continue };
            if rule.whole && !stands_alone(&lower, found.start(), found.end()) {
                continue;
            }
            if rule.refuses {
                return Found::Refused;
            }
            // Of the characters that the found ones were made of.
            let ends = found.end().checked_sub(1).and_then(|last| origins.get(last));
            if let (Some(first), Some(last)) = (origins.get(found.start()), ends) {
                masked.push(first.start..last.end);
            }
        }
        if masked.is_empty() { Found::Nothing } else { Found::Masked(mask(text, &masked)) }
    }
}

/// A text in lower case, and where in the text the character of each of its bytes stands.
fn lowered(text: &str) -> (String, Vec<std::ops::Range<usize>>) {
    let (mut lower, mut origins) = (String::with_capacity(text.len()), Vec::with_capacity(text.len()));
    for (at, c) in text.char_indices() {
        let before = lower.len();
        words::push_lower(&mut lower, c);
        origins.extend(std::iter::repeat_n(at..at + c.len_utf8(), lower.len() - before));
    }
    (lower, origins)
}

fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let before = text.get(..start).and_then(|text| text.chars().next_back());
    let after = text.get(end..).and_then(|text| text.chars().next());
    [before, after].into_iter().flatten().all(|c| !c.is_alphanumeric())
}

fn mask(text: &str, ranges: &[std::ops::Range<usize>]) -> String {
    let mut hidden = vec![false; text.len()];
    for byte in ranges.iter().flat_map(Clone::clone) {
        if let Some(byte) = hidden.get_mut(byte) {
            *byte = true;
        }
    }
    text.char_indices().map(|(at, c)| if hidden[at] { '*' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn list(words: &[(&str, bool, bool)]) -> Words {
        let word = |(word, refuses, whole): &(&str, bool, bool)| Word {
            word: words::lower(word),
            refuses: *refuses,
            whole: *whole,
            added_by: String::new(),
            added_at: OffsetDateTime::UNIX_EPOCH,
        };
        compile(&words.iter().map(word).collect::<Vec<_>>()).expect("words")
    }

    fn masked(text: &str) -> Found {
        Found::Masked(text.into())
    }

    #[test]
    fn words_are_masked_wherever_they_stand_or_as_words() {
        let words = list(&[("darn", false, true), ("heck", false, false)]);
        assert_eq!(words.find("Darn, what the HECKler said"), masked("****, what the ****ler said"));
        assert_eq!(words.find("darning"), Found::Nothing);
        assert_eq!(words.find("oh darn"), masked("oh ****"));
        assert_eq!(words.find("nothing here"), Found::Nothing);
    }

    #[test]
    fn a_word_that_refuses_wins() {
        let words = list(&[("a b", false, false), ("worse", true, true)]);
        assert_eq!(words.find("a b worse"), Found::Refused);
        assert_eq!(words.find("a b worsen"), masked("*** worsen"));
    }

    #[test]
    fn other_scripts_and_letters_that_grow_are_masked_where_they_are() {
        let words = list(&[("ÜBEL", false, true), ("хуже", false, false), ("i̇x", false, false)]);
        assert_eq!(words.find("so übel! Übelst"), masked("so ****! Übelst"));
        assert_eq!(words.find("ПОХУЖЕ"), masked("ПО****"));
        assert_eq!(words.find("aİXb"), masked("a**b"), "one letter, three bytes in lower case");
    }

    #[test]
    fn overlapping_words_are_all_masked() {
        let words = list(&[("abc", false, false), ("cde", false, false), ("b", false, false)]);
        assert_eq!(words.find("xabcdex"), masked("x*****x"));
        assert!(compile(&[]).is_none());
    }
}
