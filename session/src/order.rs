//! Delivering in sequence what arrives out of sequence or not at all. Pure: who reads the missing rows, and when, is the
//! caller's business.
//!
//! ```text
//!             place(n)            offer(last + 1)
//!  unplaced ───────────► placed ◄──────────────────┐ deliver
//!     │ offer: held        │ offer(> last + 1)     │
//!     │                    ▼                       │
//!     └──────────────►  gap: held, until offered or filled from rows
//! ```
//!
//! Invariant: each sequence number is delivered at most once, and never after a higher one.

use std::collections::BTreeMap;

/// Items held while something before them is missing. Beyond it they are let go, and the rows tell them later.
const HELD: usize = 512;

/// What became of an offered item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It was the next one, and was delivered.
    Delivered,
    /// It was delivered before.
    Behind,
    /// Something before it is missing, or it came without its content.
    Missing,
}

#[derive(Debug)]
pub(crate) struct Order<T> {
    last: Option<i64>,
    held: BTreeMap<i64, T>,
    /// The highest number heard of, delivered or not.
    highest: i64,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { last: None, held: BTreeMap::new(), highest: 0 }
    }
}

impl<T> Order<T> {
    /// The last number that was delivered; none while it is not known where to begin.
    pub(crate) fn last(&self) -> Option<i64> {
        self.last
    }

    /// The number after which something is missing, and the highest that was heard of.
    pub(crate) fn gap(&self) -> Option<(i64, i64)> {
        self.last.filter(|last| self.highest > *last).map(|last| (last, self.highest))
    }

    /// Says where delivery begins (after `last`), if that is not known yet.
    pub(crate) fn place(&mut self, last: i64, deliver: impl FnMut(i64, T)) {
        if self.last.is_none() {
            self.last = Some(last);
            self.highest = self.highest.max(last);
            self.advance(last, deliver);
        }
    }

    /// Takes an item, or (none) the news that there is one whose content must be read.
    pub(crate) fn offer(&mut self, seq: i64, item: Option<T>, mut deliver: impl FnMut(i64, T)) -> Offer {
        if self.last.is_some_and(|last| seq <= last) {
            return Offer::Behind;
        }
        self.highest = self.highest.max(seq);
        match (self.last, item) {
            (Some(last), Some(item)) if seq == last + 1 => {
                deliver(seq, item);
                self.last = Some(seq);
                self.held.remove(&seq);
                self.advance(seq, deliver);
                Offer::Delivered
            }
            (_, item) => {
                if let Some(item) = item.filter(|_| self.held.len() < HELD) {
                    self.held.insert(seq, item);
                }
                Offer::Missing
            }
        }
    }

    /// Takes what the rows say after [`Self::last`]: everything up to `through` is in `rows` or does not exist any more.
    pub(crate) fn fill(&mut self, rows: impl IntoIterator<Item = (i64, T)>, through: i64, deliver: impl FnMut(i64, T)) {
        let Some(last) = self.last else { return };
        let mut through = through.max(last);
        for (seq, item) in rows {
            through = through.max(seq);
            if seq > last {
                self.held.entry(seq).or_insert(item);
            }
        }
        self.highest = self.highest.max(through);
        self.advance(through, deliver);
    }

    /// Lets go of what is held under a number; the rows tell it then.
    pub(crate) fn let_go(&mut self, seq: i64) {
        self.held.remove(&seq);
    }

    /// Begins anew after `last`: the rows have gone back behind what was delivered.
    pub(crate) fn reset(&mut self, last: i64) {
        *self = Self { last: Some(last), held: BTreeMap::new(), highest: last };
    }

    /// Delivers everything held up to `through`, and what follows it without a hole.
    fn advance(&mut self, through: i64, mut deliver: impl FnMut(i64, T)) {
        let mut last = self.last.unwrap_or(0);
        while let Some(entry) = self.held.first_entry() {
            let seq = *entry.key();
            if seq > through.max(last) && seq != last.max(through) + 1 {
                break;
            }
            let item = entry.remove();
            if seq > last {
                deliver(seq, item);
                last = seq;
            }
        }
        self.last = Some(last.max(through));
        self.highest = self.highest.max(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Collects what is delivered.
    #[derive(Default)]
    struct Seen(Vec<i64>);

    impl Seen {
        fn offer(&mut self, order: &mut Order<i64>, seq: i64) -> Offer {
            order.offer(seq, Some(seq), |_, item| self.0.push(item))
        }

        fn fill(&mut self, order: &mut Order<i64>, rows: &[i64], through: i64) {
            order.fill(rows.iter().map(|s| (*s, *s)), through, |_, item| self.0.push(item));
        }
    }

    fn placed(last: i64) -> (Order<i64>, Seen) {
        let mut order = Order::default();
        order.place(last, |_, _| {});
        (order, Seen::default())
    }

    #[test]
    fn in_order_is_delivered_and_repeats_are_not() {
        let (mut order, mut seen) = placed(4);
        assert_eq!(seen.offer(&mut order, 5), Offer::Delivered);
        assert_eq!(seen.offer(&mut order, 5), Offer::Behind);
        assert_eq!(seen.offer(&mut order, 6), Offer::Delivered);
        assert_eq!((seen.0, order.gap()), (vec![5, 6], None));
    }

    #[test]
    fn a_swap_is_held_for_a_moment() {
        let (mut order, mut seen) = placed(0);
        assert_eq!(seen.offer(&mut order, 2), Offer::Missing);
        assert_eq!(order.gap(), Some((0, 2)));
        assert_eq!(seen.offer(&mut order, 1), Offer::Delivered);
        assert_eq!((seen.0, order.gap()), (vec![1, 2], None));
    }

    #[test]
    fn a_loss_is_filled_from_rows_and_later_news_wait_for_their_turn() {
        let (mut order, mut seen) = placed(0);
        seen.offer(&mut order, 3);
        seen.offer(&mut order, 6);
        seen.fill(&mut order, &[1, 2, 3, 4], 3);
        assert_eq!((seen.0.as_slice(), order.gap()), ([1, 2, 3, 4].as_slice(), Some((4, 6))));
        seen.offer(&mut order, 5);
        assert_eq!(seen.0, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn rows_that_are_gone_do_not_hold_up_what_follows() {
        let (mut order, mut seen) = placed(0);
        seen.offer(&mut order, 3);
        seen.fill(&mut order, &[], 3);
        assert_eq!((seen.0.as_slice(), order.last(), order.gap()), ([3].as_slice(), Some(3), None));
    }

    #[test]
    fn a_reference_is_read() {
        let (mut order, mut seen) = placed(7);
        assert_eq!(order.offer(8, None, |_, _| {}), Offer::Missing);
        assert_eq!(order.gap(), Some((7, 8)));
        seen.fill(&mut order, &[8], 8);
        assert_eq!((seen.0.as_slice(), order.gap()), ([8].as_slice(), None));
    }

    #[test]
    fn what_came_before_the_beginning_is_known_is_sorted_out_by_it() {
        let (mut order, mut seen): (Order<i64>, _) = (Order::default(), Seen::default());
        for seq in [4, 5, 6] {
            assert_eq!(seen.offer(&mut order, seq), Offer::Missing);
        }
        assert_eq!(order.gap(), None);
        order.place(5, |_, item| seen.0.push(item));
        assert_eq!((seen.0.as_slice(), order.last()), ([6].as_slice(), Some(6)));
    }

    #[test]
    fn a_history_that_went_back_begins_anew() {
        let (mut order, mut seen) = placed(90);
        order.reset(10);
        assert_eq!(seen.offer(&mut order, 11), Offer::Delivered);
    }

    #[test]
    fn any_arrival_order_delivers_each_once_and_in_order() {
        // Every permutation of five arrivals, each once lost until the rows are read.
        let mut permutation = [1, 2, 3, 4, 5];
        permute(&mut permutation, 0, &mut |arrivals| {
            for lost in 1..=5 {
                let (mut order, mut seen) = placed(0);
                for seq in arrivals.iter().filter(|s| **s != lost) {
                    seen.offer(&mut order, *seq);
                }
                let rows: Vec<i64> = (order.last().unwrap_or(0) + 1..=5).collect();
                seen.fill(&mut order, &rows, 5);
                assert_eq!(seen.0, [1, 2, 3, 4, 5], "{arrivals:?} without {lost}");
            }
        });
    }

    fn permute(items: &mut [i64; 5], from: usize, check: &mut impl FnMut(&[i64; 5])) {
        if from == items.len() {
            return check(items);
        }
        for i in from..items.len() {
            items.swap(from, i);
            permute(items, from + 1, check);
            items.swap(from, i);
        }
    }
}
