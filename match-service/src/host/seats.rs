//! Who sits in a match, in seat order, and through which sessions they are there.

mod saved;
mod seen;

pub use saved::Safe;

use std::{collections::HashMap, sync::Arc, time::Duration};

use asobi_session::link::{FrameKind, SessionNo};
use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::{mailbox::SessionKey, moment::Moment, port::Port};

/// Frames kept for a player whose first session is still on its way, such as what a script says in `join`. The oldest goes when there are more.
const EARLY: usize = 16;
/// How long who was attached may take to come to the match's host before the script hears of a disconnect.
const FOLLOW: Duration = Duration::from_secs(5);
/// Sessions of one player whose input numbers are remembered. The oldest goes when there are more.
const REMEMBERED: usize = 16;

/// A seat and its player.
pub struct Seat {
    pub player: Uuid,
    /// What the game calls a bot; none: a player.
    pub bot: Option<Arc<str>>,
    sessions: Vec<(Arc<Port>, SessionNo)>,
    /// When the seat is given up, while no session is attached.
    gone_at: Option<Moment>,
    /// Somebody was attached who is on the way to this host, or the match itself was: until then nobody is missed.
    awaited: Option<Instant>,
    /// Whether any session ever was attached.
    attached_once: bool,
    early: Vec<Bytes>,
    numbers: Vec<Number>,
    /// The last state sent, to leave out one that is the same.
    last_state: Option<Bytes>,
}

/// How far a session's inputs have come.
struct Number {
    /// The node it is on, `node_id#incarnation`.
    origin: Arc<str>,
    session: SessionNo,
    /// The last that was taken.
    taken: u64,
    /// The last its node was told of as safe.
    told: u64,
}

/// All seats of a match.
#[derive(Default)]
pub struct Seats {
    seats: Vec<Seat>,
    by_session: HashMap<SessionKey, Uuid>,
    /// Every attached session by its edge; made again after a change.
    groups: Option<Vec<(Arc<Port>, Vec<SessionNo>)>>,
}

/// What attaching a session changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Attached {
    /// It is the player's first.
    First,
    /// The player had been disconnected.
    Back,
    /// The player has other sessions, or this one was attached already.
    Also,
}

impl Seats {
    #[must_use]
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    #[must_use]
    pub fn has(&self, player: Uuid) -> bool {
        self.seats.iter().any(|seat| seat.player == player)
    }

    /// In seat order.
    pub fn players(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.seats.iter().map(|seat| seat.player)
    }

    #[must_use]
    pub fn player_of(&self, session: SessionKey) -> Option<Uuid> {
        self.by_session.get(&session).copied()
    }

    /// Whether anybody would see a state.
    #[must_use]
    pub fn anybody_there(&self) -> bool {
        !self.by_session.is_empty()
    }

    /// A new seat, nobody attached yet; it waits so long.
    pub fn add(&mut self, player: Uuid, ttl: Duration) {
        self.seats.push(Seat { gone_at: Some(Moment::after(ttl)), ..Seat::new(player) });
    }

    /// A bot's seat, which waits for nobody.
    pub fn add_bot(&mut self, bot: Uuid, id: Arc<str>) {
        self.seats.push(Seat { bot: Some(id), ..Seat::new(bot) });
    }

    /// Bots, in seat order.
    pub fn bots(&self) -> impl Iterator<Item = (Uuid, &Arc<str>)> {
        self.seats.iter().filter_map(|seat| Some((seat.player, seat.bot.as_ref()?)))
    }

    /// Seats of players.
    #[must_use]
    pub fn humans(&self) -> usize {
        self.seats.iter().filter(|seat| seat.bot.is_none()).count()
    }

    /// What everybody calls who sits there, in seat order.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.seats.iter().map(|seat| match &seat.bot {
            Some(id) => id.to_string(),
            None => seat.player.hyphenated().to_string(),
        })
    }

    fn seat(&mut self, player: Uuid) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.player == player)
    }

    /// Attaches a session to its player's seat. None: there is no such seat.
    pub fn attach(&mut self, player: Uuid, port: &Arc<Port>, session: SessionNo) -> Option<Attached> {
        let key = (port.number, session);
        if self.by_session.get(&key).is_some_and(|other| *other != player) {
            self.detach(key, Duration::ZERO, false);
        }
        let seat = self.seat(player)?;
        let attached = match (seat.sessions.is_empty(), seat.attached_once) {
            // Who is back from the match's last host was never away.
            _ if seat.awaited.is_some() => Attached::Also,
            (false, _) => Attached::Also,
            (true, false) => Attached::First,
            (true, true) => Attached::Back,
        };
        seat.attached_once = true;
        (seat.gone_at, seat.awaited) = (None, None);
        if !seat.sessions.iter().any(|(at, number)| at.number == port.number && *number == session) {
            seat.sessions.push((Arc::clone(port), session));
        }
        self.by_session.insert(key, player);
        self.groups = None;
        Some(attached)
    }

    /// What was kept for a player until somebody was there to see it.
    pub fn take_early(&mut self, player: Uuid) -> Vec<Bytes> {
        self.seat(player).map(|seat| std::mem::take(&mut seat.early)).unwrap_or_default()
    }

    /// Detaches a session. The player is returned when it was their last one; the seat then waits so long. Who `follows` the match to its
    /// host is not missed yet.
    pub fn detach(&mut self, session: SessionKey, ttl: Duration, follows: bool) -> Option<Uuid> {
        let player = self.by_session.remove(&session)?;
        self.groups = None;
        let seat = self.seat(player)?;
        seat.sessions.retain(|(port, number)| (port.number, *number) != session);
        if !seat.sessions.is_empty() {
            return None;
        }
        if follows {
            seat.awaited = Some(Instant::now() + FOLLOW);
            return None;
        }
        seat.gone_at = Some(Moment::after(ttl));
        Some(player)
    }

    /// Takes a seat away, and returns the sessions that were attached to it, by edge.
    pub fn remove(&mut self, player: Uuid) -> Option<Vec<(Arc<Port>, Vec<SessionNo>)>> {
        let index = self.seats.iter().position(|seat| seat.player == player)?;
        let seat = self.seats.remove(index);
        self.groups = None;
        for (port, session) in &seat.sessions {
            self.by_session.remove(&(port.number, *session));
        }
        Some(grouped(&seat.sessions))
    }

    /// Whether this input is new; then its number is remembered.
    pub fn is_new_input(&mut self, session: SessionKey, number: u64) -> Option<Uuid> {
        let player = self.player_of(session)?;
        let seat = self.seat(player)?;
        let (port, session) = seat.sessions.iter().find(|(port, at)| (port.number, *at) == session)?;
        let known = seat.numbers.iter_mut().find(|known| known.session == *session && known.origin == port.origin);
        match known {
            Some(known) if number <= known.taken => return None,
            Some(known) => known.taken = number,
            None => {
                if seat.numbers.len() >= REMEMBERED {
                    seat.numbers.remove(0);
                }
                let origin = Arc::clone(&port.origin);
                seat.numbers.push(Number { origin, session: *session, taken: number, told: 0 });
            }
        }
        Some(player)
    }

    /// The last input of a session that was taken, 0: none was.
    #[must_use]
    pub fn applied(&self, session: SessionKey) -> u64 {
        let seat = self.player_of(session).and_then(|player| self.seats.iter().find(|seat| seat.player == player));
        let Some(seat) = seat else { return 0 };
        let Some((port, no)) = seat.sessions.iter().find(|(port, at)| (port.number, *at) == session) else { return 0 };
        let known = seat.numbers.iter().find(|known| known.session == *no && known.origin == port.origin);
        known.map_or(0, |known| known.taken)
    }

    /// Players whose seats have waited long enough.
    #[must_use]
    pub fn expired(&self, now: Instant) -> Vec<Uuid> {
        let over = |seat: &&Seat| seat.gone_at.is_some_and(|gone| gone.at <= now);
        self.seats.iter().filter(over).map(|seat| seat.player).collect()
    }

    /// Players who were attached at the match's last host and have not come here in time; from now on their seats wait so long.
    pub fn missing(&mut self, now: Instant, ttl: Duration) -> Vec<Uuid> {
        let late = self.seats.iter_mut().filter(|seat| seat.awaited.is_some_and(|until| until <= now));
        late.map(|seat| {
            (seat.awaited, seat.gone_at) = (None, Some(Moment::after(ttl)));
            seat.player
        })
        .collect()
    }

    /// When the next seat will have waited long enough.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.seats.iter().filter_map(|seat| seat.gone_at.map(|gone| gone.at).or(seat.awaited)).min()
    }

    /// One frame to everybody, once per edge. Players nobody has attached yet keep events for later.
    pub fn deliver_all(&mut self, kind: FrameKind, frame: &Bytes) {
        if kind == FrameKind::Event {
            for seat in self.seats.iter_mut().filter(|seat| !seat.attached_once && seat.bot.is_none()) {
                keep(seat, frame);
            }
        }
        for (port, sessions) in self.groups() {
            port.deliver(sessions, kind, frame.clone());
        }
    }

    /// One frame to all sessions of a player.
    pub fn deliver(&mut self, player: Uuid, kind: FrameKind, frame: &Bytes) {
        let Some(seat) = self.seat(player) else {
            return;
        };
        if !seat.attached_once && seat.bot.is_none() && kind == FrameKind::Event {
            keep(seat, frame);
            return;
        }
        match seat.sessions.as_slice() {
            [] => {}
            [(port, session)] => port.deliver(&[*session], kind, frame.clone()),
            many => {
                for (port, sessions) in grouped(many) {
                    port.deliver(&sessions, kind, frame.clone());
                }
            }
        }
    }

    /// Players somebody is attached for, in seat order, each with the last state they were sent.
    pub fn present(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.seats.iter_mut().filter(|seat| !seat.sessions.is_empty())
    }

    /// Keeps a player's state as the last one; true when it was that already.
    pub fn replace_last(&mut self, player: Uuid, frame: &Bytes) -> bool {
        let Some(seat) = self.seat(player) else { return false };
        let same = seat.last_state.as_ref() == Some(frame);
        if !same {
            seat.last_state = Some(frame.clone());
        }
        same
    }

    /// Every attached session by its edge.
    pub fn groups(&mut self) -> &[(Arc<Port>, Vec<SessionNo>)] {
        self.groups.get_or_insert_with(|| {
            let all: Vec<_> = self.seats.iter().flat_map(|seat| seat.sessions.iter().cloned()).collect();
            grouped(&all)
        })
    }
}

impl Seat {
    fn new(player: Uuid) -> Self {
        Self {
            player,
            bot: None,
            sessions: Vec::new(),
            gone_at: None,
            awaited: None,
            attached_once: false,
            early: Vec::new(),
            numbers: Vec::new(),
            last_state: None,
        }
    }
}

fn keep(seat: &mut Seat, frame: &Bytes) {
    if seat.early.len() >= EARLY {
        seat.early.remove(0);
    }
    seat.early.push(frame.clone());
}

fn grouped(sessions: &[(Arc<Port>, SessionNo)]) -> Vec<(Arc<Port>, Vec<SessionNo>)> {
    let mut groups: Vec<(Arc<Port>, Vec<SessionNo>)> = Vec::new();
    for (port, session) in sessions {
        match groups.iter_mut().find(|(at, _)| at.number == port.number) {
            Some((_, members)) => members.push(*session),
            None => groups.push((Arc::clone(port), vec![*session])),
        }
    }
    groups
}
