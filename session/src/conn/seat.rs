//! The seat of a session: which match, by which way, and what is sent there.
//!
//! Invariant: the lock of [`Local`](super::Local) is taken before those of a link, never after.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Conn,
    inputs::{Inputs, Opened, Rest},
};
use crate::link::{LinkError, MatchLink, MovedTo};

/// The match a session is attached to, or on its way to.
#[derive(Clone)]
pub(crate) struct Seat {
    pub match_id: Uuid,
    pub epoch: i64,
    pub link: Arc<dyn MatchLink>,
}

impl Seat {
    pub(crate) fn new(at: &MovedTo, link: Arc<dyn MatchLink>) -> Self {
        Self { match_id: at.match_id, epoch: at.epoch, link }
    }

    pub(crate) fn via(&self) -> Via {
        Via::of(&*self.link)
    }

    /// Whether it is the same match in the same place.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.match_id == other.match_id && self.epoch == other.epoch && self.via() == other.via()
    }
}

/// The session is at a later epoch of the match already.
#[derive(Debug)]
pub(crate) struct Outdated;

/// A link, known by its address while somebody holds it: what a frame that came through it is checked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Via(usize);

impl Via {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn of<L: MatchLink + ?Sized>(link: &L) -> Self {
        Self(std::ptr::from_ref(link).cast::<()>().addr())
    }
}

/// What a session in a match holds; the others hold no more than the place for it.
pub(super) struct Seated {
    seat: Seat,
    inputs: Inputs,
}

impl Conn {
    pub(crate) fn seat(&self) -> Option<Seat> {
        self.local().seated.as_ref().map(|seated| seated.seat.clone())
    }

    /// Whether frames that come through this link are for the session. Asked for every recipient: no lock is taken.
    pub(crate) fn hears(&self, via: Via) -> bool {
        self.via.load(Ordering::Acquire) == via.0
    }

    /// Gives the session a seat, and answers the one before. Its gate is closed unless it is the same seat again; what waits is
    /// kept if it is the same match.
    ///
    /// # Errors
    /// [`Outdated`], and nothing has changed.
    pub(crate) fn sit(&self, seat: Seat) -> Result<Option<Seat>, Outdated> {
        let mut local = self.local();
        let before = match &mut local.seated {
            Some(seated) if seated.seat.match_id == seat.match_id => {
                if seated.seat.epoch > seat.epoch {
                    return Err(Outdated);
                }
                if !seated.seat.is(&seat) {
                    seated.inputs.close();
                }
                Some(std::mem::replace(&mut seated.seat, seat.clone()))
            }
            seated => {
                let fresh = Seated { seat: seat.clone(), inputs: Inputs::default() };
                seated.replace(Box::new(fresh)).map(|before| before.seat)
            }
        };
        self.via.store(seat.via().0, Ordering::Release);
        Ok(before)
    }

    /// As [`Self::sit`], for a session that is in this very match through `from`, and not at this epoch or a later one.
    pub(crate) fn move_seat(&self, from: Via, seat: Seat) -> Option<Seat> {
        let mut local = self.local();
        let seated = local.seated.as_mut()?;
        let due = seated.seat.match_id == seat.match_id && seated.seat.via() == from && seated.seat.epoch < seat.epoch;
        if !due {
            return None;
        }
        self.via.store(seat.via().0, Ordering::Release);
        seated.inputs.close();
        Some(std::mem::replace(&mut seated.seat, seat))
    }

    /// Takes the seat away, if there is one.
    pub(crate) fn stand(&self) -> Option<Seat> {
        self.stand_if(|_| true)
    }

    /// Takes the seat away if it is one of this match.
    pub(crate) fn clear_seat(&self, match_id: Uuid) -> Option<Seat> {
        self.stand_if(|seat| seat.match_id == match_id)
    }

    /// As [`Self::clear_seat`], where a link says so: one that the session uses no more has no say.
    pub(crate) fn clear_seat_of(&self, via: Via, match_id: Uuid) -> Option<Seat> {
        self.stand_if(|seat| seat.match_id == match_id && seat.via() == via)
    }

    fn stand_if(&self, is_it: impl FnOnce(&Seat) -> bool) -> Option<Seat> {
        let mut local = self.local();
        local.seated.as_ref().filter(|seated| is_it(&seated.seat))?;
        self.via.store(Via::NONE.0, Ordering::Release);
        local.seated.take().map(|seated| seated.seat)
    }

    /// Takes an input. None: the session is in no match.
    pub(crate) fn input(&self, payload: Bytes) -> Option<Result<(), LinkError>> {
        let mut local = self.local();
        let number = local.numbered + 1;
        let Seated { seat, inputs } = &mut **local.seated.as_mut()?;
        let taken = inputs.take(number, payload, |number, payload| seat.link.input(self.no, number, payload));
        if taken.is_ok() {
            local.numbered = number;
        }
        Some(taken)
    }

    /// The seat's match has taken what came up to `applied`.
    pub(crate) fn open(&self, seat: &Seat, applied: u64) -> Opened {
        self.opening(seat, |inputs| inputs.open(applied, |number, payload| seat.link.input(self.no, number, payload)))
    }

    pub(crate) fn resume(&self, seat: &Seat, rest: Rest) -> Opened {
        self.opening(seat, |inputs| inputs.resume(rest, |number, payload| seat.link.input(self.no, number, payload)))
    }

    fn opening(&self, seat: &Seat, open: impl FnOnce(&mut Inputs) -> Opened) -> Opened {
        match &mut self.local().seated {
            Some(seated) if seated.seat.is(seat) => open(&mut seated.inputs),
            _ => Opened::No,
        }
    }

    /// Whether inputs reach this very seat.
    pub(crate) fn is_open(&self, seat: &Seat) -> bool {
        self.local().seated.as_ref().is_some_and(|seated| seated.seat.is(seat) && seated.inputs.is_open())
    }

    /// Lets inputs wait, if they went this way.
    pub(crate) fn close_gate(&self, via: Via) {
        if let Some(seated) = &mut self.local().seated
            && seated.seat.via() == via
        {
            seated.inputs.close();
        }
    }

    /// Inputs up to this number are safe.
    pub(crate) fn safe(&self, number: u64) {
        if let Some(seated) = &mut self.local().seated {
            seated.inputs.safe(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use parking_lot::Mutex;

    use super::*;
    use crate::{
        conn::Bounds,
        link::{Entered, Entry, SessionNo},
    };

    /// A link that takes every input, and shows which.
    #[derive(Default)]
    struct Taker(Mutex<Vec<u64>>);

    #[async_trait]
    impl MatchLink for Taker {
        async fn enter(&self, _: Entry) -> Result<Entered, LinkError> {
            Err(LinkError::Unavailable)
        }

        async fn leave(&self, _: SessionNo) -> Result<(), LinkError> {
            Err(LinkError::Unavailable)
        }

        fn input(&self, _: SessionNo, number: u64, _: Bytes) -> Result<(), LinkError> {
            self.0.lock().push(number);
            Ok(())
        }

        fn detach(&self, _: SessionNo, _: bool) {}
    }

    fn seat(match_id: Uuid, epoch: i64, link: &Arc<Taker>) -> Seat {
        Seat { match_id, epoch, link: Arc::clone(link) as Arc<dyn MatchLink> }
    }

    fn play(conn: &Conn, inputs: usize) {
        for _ in 0..inputs {
            assert_eq!(conn.input(Bytes::from_static(b"{}")), Some(Ok(())));
        }
    }

    #[test]
    fn a_seat_that_moves_takes_its_inputs_along() {
        let conn = Conn::new(SessionNo(1), Bounds { frames: 4, bytes: 100 });
        let (old, new, id) = (Arc::<Taker>::default(), Arc::<Taker>::default(), Uuid::from_u128(1));
        let (first, second) = (seat(id, 1, &old), seat(id, 2, &new));
        assert_eq!(conn.input(Bytes::new()), None);
        assert!(conn.sit(first.clone()).is_ok_and(|before| before.is_none()));
        play(&conn, 1);
        assert_eq!(conn.open(&first, 0), Opened::Open);
        play(&conn, 2);
        assert!(conn.hears(first.via()) && !conn.hears(second.via()));

        assert!(conn.move_seat(second.via(), second.clone()).is_none(), "it is not there yet");
        assert!(conn.move_seat(first.via(), second.clone()).is_some_and(|before| before.is(&first)));
        assert!(conn.move_seat(first.via(), second.clone()).is_none(), "it has moved");
        assert!(!conn.hears(first.via()) && conn.hears(second.via()));
        play(&conn, 1);
        // Neither word of the old way nor an old row has a say.
        assert_eq!(conn.open(&first, 3), Opened::No);
        assert!(conn.sit(first.clone()).is_err() && conn.clear_seat_of(first.via(), id).is_none());
        assert_eq!(conn.open(&second, 2), Opened::Open);
        play(&conn, 1);
        assert_eq!((old.0.lock().clone(), new.0.lock().clone()), (vec![1, 2, 3], vec![3, 4, 5]));
        conn.close_gate(first.via());
        assert!(conn.is_open(&second));
        conn.close_gate(second.via());
        assert!(!conn.is_open(&second));
    }

    #[test]
    fn another_match_begins_without_the_inputs_of_the_last_but_not_with_their_numbers() {
        let conn = Conn::new(SessionNo(1), Bounds { frames: 4, bytes: 100 });
        let link = Arc::<Taker>::default();
        let (first, second) = (seat(Uuid::from_u128(1), 1, &link), seat(Uuid::from_u128(2), 1, &link));
        assert!(conn.sit(first).is_ok());
        play(&conn, 3);
        assert!(conn.sit(second.clone()).is_ok_and(|before| before.is_some()));
        play(&conn, 1);
        assert_eq!(conn.open(&second, 0), Opened::Open);
        assert_eq!(*link.0.lock(), [4]);
        assert!(conn.stand().is_some() && conn.stand().is_none() && !conn.hears(second.via()));
    }
}
