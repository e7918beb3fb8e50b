//! Seats as operators see them.

use asobi_proto::ops_v1::InspectedSeat;
use tokio::time::Instant;

use super::{Seat, Seats};

impl Seats {
    /// In seat order.
    #[must_use]
    pub fn inspect(&self, now: Instant) -> Vec<InspectedSeat> {
        self.seats.iter().map(|seat| inspect(seat, now)).collect()
    }
}

fn inspect(seat: &Seat, now: Instant) -> InspectedSeat {
    let until = seat.gone_at.map(|gone| gone.at).or(seat.awaited);
    let waits = until.map(|at| at.saturating_duration_since(now).as_millis());
    InspectedSeat {
        player_id: if seat.bot.is_none() { seat.player.to_string() } else { String::new() },
        bot: seat.bot.as_deref().unwrap_or_default().to_owned(),
        sessions: u32::try_from(seat.sessions.len()).unwrap_or(u32::MAX),
        waits_ms: waits.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
    }
}
