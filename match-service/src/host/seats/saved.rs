//! Seats on their way to another host.

use std::{collections::HashMap, sync::Arc};

use asobi_proto::match_v1::{SavedNumber, SavedSeat};
use asobi_session::link::SessionNo;
use tokio::time::Instant;
use uuid::Uuid;

use super::{FOLLOW, Number, REMEMBERED, Seat, Seats};
use crate::host::{moment::Moment, port::Port};

/// Inputs of one edge's sessions that are safe.
pub type Safe = (Arc<Port>, Vec<(SessionNo, u64)>);

impl Seats {
    #[must_use]
    pub fn save(&self) -> Vec<SavedSeat> {
        self.seats.iter().map(save).collect()
    }

    /// The seats as they were; nobody is attached yet.
    ///
    /// # Errors
    /// Names what cannot be read.
    pub fn restore(saved: &[SavedSeat]) -> Result<Self, &'static str> {
        let seats = saved.iter().map(restore).collect::<Result<_, _>>()?;
        Ok(Self { seats, by_session: HashMap::new(), groups: None })
    }

    /// Notes what has been taken so far and was not told of, by edge: for when the state it went into is written.
    pub fn unsafe_inputs(&mut self) -> Vec<Safe> {
        let mut inputs: Vec<Safe> = Vec::new();
        for seat in &mut self.seats {
            for (port, session) in &seat.sessions {
                let known = seat.numbers.iter_mut().find(|n| n.session == *session && n.origin == port.origin);
                let Some(known) = known.filter(|known| known.told < known.taken) else { continue };
                known.told = known.taken;
                match inputs.iter_mut().find(|(at, _)| at.number == port.number) {
                    Some((_, numbers)) => numbers.push((*session, known.taken)),
                    None => inputs.push((Arc::clone(port), vec![(*session, known.taken)])),
                }
            }
        }
        inputs
    }
}

fn save(seat: &Seat) -> SavedSeat {
    SavedSeat {
        player_id: seat.player.hyphenated().to_string(),
        bot: seat.bot.as_deref().unwrap_or_default().to_owned(),
        present: !seat.sessions.is_empty() || seat.awaited.is_some(),
        waits_until_ms: seat.gone_at.map_or(0, |gone| gone.unix_ms),
        ever_present: seat.attached_once,
        numbers: seat.numbers.iter().map(save_number).collect(),
    }
}

fn save_number(number: &Number) -> SavedNumber {
    SavedNumber { origin: number.origin.to_string(), session: number.session.0, number: number.taken }
}

fn restore(saved: &SavedSeat) -> Result<Seat, &'static str> {
    let player = Uuid::try_parse(&saved.player_id).map_err(|_| "a seat's player")?;
    let numbers = saved.numbers.iter().take(REMEMBERED).map(|saved| Number {
        origin: saved.origin.as_str().into(),
        session: SessionNo(saved.session),
        taken: saved.number,
        told: saved.number,
    });
    Ok(Seat {
        bot: (!saved.bot.is_empty()).then(|| saved.bot.as_str().into()),
        awaited: saved.present.then(|| Instant::now() + FOLLOW),
        gone_at: (saved.waits_until_ms > 0).then(|| Moment::of(saved.waits_until_ms)),
        attached_once: saved.ever_present,
        numbers: numbers.collect(),
        ..Seat::new(player)
    })
}
