//! A bound for each place in the source that logs, so that none of them can fill a disk or hide the others.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::callsite::Identifier;

/// How long a window is.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Places that are told apart. A program has less than that; past it the rest share one.
const SITES: usize = 8_192;

/// So many lines of one place in each window. The first of the next window says how many were held back.
#[derive(Debug)]
pub(super) struct Limit {
    most: u32,
    sites: Mutex<Sites>,
}

#[derive(Debug, Default)]
struct Sites {
    known: HashMap<Identifier, Site>,
    others: Site,
}

#[derive(Debug, Default)]
struct Site {
    opened: Option<Instant>,
    written: u32,
    held: u64,
}

impl Limit {
    /// 0: no bound.
    pub fn new(most: u32) -> Self {
        Self { most, sites: Mutex::default() }
    }

    /// Whether a line may be written, and then how many of its place were held back in the window before.
    pub fn take(&self, site: &Identifier, now: Instant) -> Option<u64> {
        if self.most == 0 {
            return Some(0);
        }
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let Sites { known, others } = &mut *sites;
        let site = if known.len() < SITES || known.contains_key(site) {
            known.entry(site.clone()).or_default()
        } else {
            others
        };
        site.take(self.most, now)
    }
}

impl Site {
    fn take(&mut self, most: u32, now: Instant) -> Option<u64> {
        if self.opened.is_none_or(|opened| now.saturating_duration_since(opened) >= WINDOW) {
            let held = std::mem::take(&mut self.held);
            (self.opened, self.written) = (Some(now), 1);
            return Some(held);
        }
        if self.written >= most {
            self.held += 1;
            metrics::counter!("asobi_log_lines_suppressed_total").increment(1);
            return None;
        }
        self.written += 1;
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_its_lines_and_the_next_tells_the_rest() {
        let (mut site, start) = (Site::default(), Instant::now());
        let written = (0..10).filter(|_| site.take(3, start).is_some()).count();
        assert_eq!(written, 3);
        assert_eq!(site.take(3, start + WINDOW), Some(7), "the first of the next window says so");
        assert_eq!(site.take(3, start + WINDOW), Some(0), "once");
        assert_eq!(site.take(3, start + 5 * WINDOW), Some(0));
    }
}
