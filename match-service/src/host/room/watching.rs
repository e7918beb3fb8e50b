//! What operators see of a match: once, or as it changes. Where nobody watches this costs the look at an empty list.
//!
//! ```text
//!   anything happens ─► the version counts up ─► a watch is due, at its own pace ─► its view is made, and replaces the last
//! ```
//!
//! A watch has one place for a view: who reads slowly, or not at all, costs nothing more.

use std::{sync::Arc, time::Duration};

use asobi_proto::ops_v1::{InspectedTimer, MatchInspection, MatchView};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use super::{Phase, Room};
use crate::game::Outcome;

/// Watches of one match; more are refused.
const WATCHES: usize = 16;
/// Of a whole state.
const STATE_BYTES: usize = 256 * 1024;
/// Of what a player sees: as much as a script can send.
const VIEW_BYTES: usize = 1 << 20;

/// A view and its number, for whoever watches.
pub type Seen = Option<(u64, Arc<MatchView>)>;

/// A wish to watch.
pub struct Wish {
    /// Whose view; none: all of the state.
    pub player: Option<Uuid>,
    /// At most one view in so much time.
    pub every: Duration,
    pub seen: watch::Sender<Seen>,
}

struct Watched {
    wish: Wish,
    next_at: Instant,
    /// The version it was shown last; none: nothing yet.
    shown: Option<u64>,
}

/// All watches of a match.
#[derive(Default)]
pub struct Watches {
    watches: Vec<Watched>,
    /// Counts what happens.
    version: u64,
}

impl Watches {
    /// Something happens that may be seen.
    pub fn touch(&mut self) {
        self.version += 1;
    }

    /// When the next view is to be made.
    pub fn due(&self) -> Option<Instant> {
        let behind = |watched: &&Watched| watched.shown != Some(self.version);
        self.watches.iter().filter(behind).map(|watched| watched.next_at).min()
    }

    fn len(&mut self) -> usize {
        self.watches.retain(|watched| !watched.wish.seen.is_closed());
        self.watches.len()
    }
}

impl Room {
    /// False: too many watch already.
    pub fn watch(&mut self, wish: Wish) -> bool {
        let room = self.watches.len() < WATCHES;
        if room {
            self.watches.watches.push(Watched { wish, next_at: Instant::now(), shown: None });
        }
        room
    }

    /// Makes the views that are due.
    pub async fn serve_watches(&mut self, now: Instant) {
        if self.watches.watches.is_empty() || self.watches.len() == 0 {
            return;
        }
        let version = self.watches.version;
        // Who watches the same is shown the same.
        let mut made: Vec<(Option<Uuid>, Arc<MatchView>)> = Vec::new();
        let mut watches = std::mem::take(&mut self.watches.watches);
        for watched in &mut watches {
            if watched.shown == Some(version) || watched.next_at > now {
                continue;
            }
            let player = watched.wish.player;
            let view = match made.iter().find(|(of, _)| *of == player) {
                Some((_, view)) => Arc::clone(view),
                None => {
                    let view = Arc::new(self.view_of(player).await);
                    made.push((player, Arc::clone(&view)));
                    view
                }
            };
            watched.shown = Some(version);
            watched.next_at = now + watched.wish.every;
            watched.wish.seen.send_if_modified(|seen| {
                let news = seen.as_ref().is_none_or(|(_, before)| *before != view);
                if news {
                    *seen = Some((version, view));
                }
                news
            });
        }
        self.watches.watches = watches;
    }

    /// What a player sees, or all of the state. What a script asks for while it says so does not happen: nobody is shown it.
    async fn view_of(&mut self, player: Option<Uuid>) -> MatchView {
        let Some(player) = player else {
            return match self.game.show(STATE_BYTES) {
                Ok(shown) => MatchView { state_json: shown.json, truncated: shown.truncated, ..MatchView::default() },
                Err(error) => problem(error.message),
            };
        };
        if !self.seats.has(player) {
            return problem("the player has no seat in the match".into());
        }
        let (mut json, mut outcome) = (String::new(), Outcome::default());
        let whose = (!self.settings.shared_state).then_some(player);
        match self.game.state(whose, &mut json, &mut outcome).await {
            Ok(()) if json.len() > VIEW_BYTES => MatchView {
                truncated: true,
                ..problem(format!("the state has {} bytes, more than {VIEW_BYTES}", json.len()))
            },
            Ok(()) => MatchView { state_json: json, ..MatchView::default() },
            Err(error) => problem(error.to_string()),
        }
    }

    /// All that there is to say of the match at this moment; the node's id is the caller's to add.
    pub async fn inspect(&mut self, player: Option<Uuid>) -> MatchInspection {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let now = Instant::now();
        let mut timers: Vec<_> = self.timers.iter().collect();
        timers.sort_unstable_by_key(|due| (due.at.at, due.number));
        let timers = timers.into_iter().map(|due| InspectedTimer {
            name: due.timer.name.clone(),
            due_in_ms: millis(due.at.at.saturating_duration_since(now)),
            data_json: due.timer.data.clone().unwrap_or_default(),
        });
        MatchInspection {
            phase: match self.phase {
                Phase::Waiting => "waiting",
                Phase::Running => "running",
                Phase::Ending => "ending",
            }
            .to_owned(),
            joinable: self.joinable,
            tick_rate: self.settings.tick_rate,
            ticks: self.ticks,
            inputs_waiting: count(self.inputs.len()),
            joining: count(self.joining),
            effects_waiting: count(self.effects.len()),
            backfill_wanted: self.backfill.as_ref().map_or(0, |asked| asked.wanted),
            timers: timers.collect(),
            seats: self.seats.inspect(now),
            watchers: count(self.watches.len()),
            view: Some(self.view_of(player).await),
            ..MatchInspection::default()
        }
    }
}

fn problem(problem: String) -> MatchView {
    MatchView { problem, ..MatchView::default() }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
