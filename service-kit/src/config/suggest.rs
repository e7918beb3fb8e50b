/// The known key nearest to a mistyped one, if any is near enough to be meant.
pub(super) fn nearest<'k>(typed: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // A key without its section ("frames_per_second") is the commonest slip of all.
    let mut best: Option<(usize, &str)> = None;
    for key in known {
        let bare = key.split_once('.').map_or(key, |(_, bare)| bare);
        let distance = if bare == typed { 0 } else { edits(typed, key) };
        if best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, key));
        }
    }
    best.filter(|(distance, _)| *distance <= (typed.chars().count() / 3).max(2)).map(|(_, key)| key)
}

/// Levenshtein's distance: insertions, deletions and replacements from one word to the other.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant_and_stays_silent_otherwise() {
        let known = ["limits.frames_per_second", "auth.guest", "chat.queue"];
        assert_eq!(nearest("limits.frame_per_second", known.into_iter()), Some(known[0]));
        assert_eq!(nearest("frames_per_second", known.into_iter()), Some(known[0]));
        assert_eq!(nearest("auth.guests", known.into_iter()), Some(known[1]));
        assert_eq!(nearest("entirely.different", known.into_iter()), None);
    }
}
