//! Players from the queue for a match that runs: the wish, and who comes by it.

use uuid::Uuid;

use super::{Op, Room};

impl Room {
    /// Seats players whom the queue chose, as far as there is room and the game takes them; answers who sits here. Who did before is among
    /// them, so that the question can be repeated.
    pub async fn add(&mut self, players: &[Uuid]) -> Vec<Uuid> {
        if self.ending() {
            return Vec::new();
        }
        let mut seated = Vec::with_capacity(players.len());
        for player in players {
            if self.seats.has(*player) {
                seated.push(*player);
            } else if self.end.is_none() && self.free() > 0 && self.seat(*player, None).await.is_ok() {
                seated.push(*player);
                if let Some(asked) = &mut self.backfill {
                    asked.wanted = asked.wanted.saturating_sub(1);
                }
            }
        }
        self.settle().await;
        seated
    }

    pub(super) fn free(&self) -> usize {
        (self.settings.max_players as usize).saturating_sub(self.seats.len() + self.joining)
    }

    /// Players who came by another way are not to be looked for any more.
    pub(super) fn trim_backfill(&mut self) {
        let free = u32::try_from(self.free()).unwrap_or(u32::MAX);
        if let Some(asked) = self.backfill.as_mut().filter(|asked| asked.wanted > free) {
            asked.wanted = free;
            self.ask_for_players();
        }
    }

    pub(super) fn ask_for_players(&mut self) {
        if !self.ops.iter().any(|op| matches!(op, Op::Backfill)) {
            self.ops.push_back(Op::Backfill);
        }
    }
}
