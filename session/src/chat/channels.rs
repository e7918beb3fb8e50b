//! This node's members of each channel, and where each channel stands.
//!
//! ```text
//!  member:  joining (what comes live is kept aside) ──► live
//!  cell:    made by the first joiner ──► placed (where it stands was read) ──► dead, when the last member has left
//! ```

use std::{
    cell::LazyCell,
    sync::{Arc, OnceLock},
};

use asobi_proto::bus::ChatItem;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::repair::Repairs;
use crate::{
    conn::Conn,
    count,
    frame::Frame,
    link::SessionNo,
    order::{Offer, Order},
};

/// Numbers of messages remembered that were deleted before they came here. Past it the oldest are forgotten, and shown until they are read
/// anew.
const GONE: usize = 64;
/// Live messages kept aside for a member whose missed ones are being read. Past it the join fails and is to be repeated.
const ASIDE: usize = 512;

pub(crate) struct Channels {
    cells: papaya::HashMap<Arc<str>, Arc<Cell>, RandomState>,
    repairs: OnceLock<Repairs>,
    sweep: Notify,
}

/// What came together, by channel: each member is woken once for all of it.
#[derive(Default)]
struct News(Vec<(Arc<Cell>, Vec<Item>)>);

/// A message's number and, unless it has to be read, its frame.
type Item = (i64, Option<Frame>);

impl News {
    fn add(&mut self, cell: Arc<Cell>, seq: i64, frame: Option<Frame>) {
        match self.0.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &cell)) {
            Some((_, items)) => items.push((seq, frame)),
            None => self.0.push((cell, vec![(seq, frame)])),
        }
    }
}

/// One channel with members here.
pub(crate) struct Cell {
    pub id: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    order: Order<Frame>,
    members: Vec<Member>,
    /// The last member has left and the cell is out of the map: join another.
    dead: bool,
    /// Its gap is being looked after.
    repairing: bool,
    /// Deleted before they came here, and what tells so: hints and reads that are under way may still bring their content.
    gone: Vec<(i64, Frame)>,
}

impl State {
    /// Whether a message was deleted before it came here.
    fn is_gone(&self, seq: i64) -> bool {
        self.gone.iter().any(|(gone, _)| *gone == seq)
    }

    /// Takes out what tells of messages that have come meanwhile.
    fn come(&mut self) -> Vec<Frame> {
        let last = self.order.last().unwrap_or(0);
        let come = self.gone.extract_if(.., |(seq, _)| *seq <= last);
        come.map(|(_, frame)| frame).collect()
    }
}

struct Member {
    conn: Arc<Conn>,
    /// While joining: after which number live messages are kept aside (none: the cell is not placed yet), and those.
    joining: Option<Box<Joining>>,
}

#[derive(Default)]
struct Joining {
    from: Option<i64>,
    aside: Vec<Frame>,
    overflowed: bool,
}

impl Channels {
    pub(crate) fn new() -> Self {
        Self {
            cells: papaya::HashMap::with_hasher(RandomState::default()),
            repairs: OnceLock::new(),
            sweep: Notify::new(),
        }
    }

    pub(super) fn set_repairs(&self, repairs: Repairs) {
        let _ = self.repairs.set(repairs);
    }

    /// Makes the connection a joining member. It becomes a live one by [`Cell::admit`], or leaves.
    pub(crate) fn join(&self, id: &str, conn: &Arc<Conn>) -> Arc<Cell> {
        loop {
            let cell = self.cell(id);
            let mut state = cell.state.lock();
            if state.dead {
                drop(state);
                // Whoever declared it dead is about to take it out.
                std::hint::spin_loop();
                continue;
            }
            let joining = Joining { from: state.order.last(), ..Joining::default() };
            state.members.retain(|m| m.conn.no != conn.no);
            state.members.push(Member { conn: Arc::clone(conn), joining: Some(Box::new(joining)) });
            drop(state);
            return cell;
        }
    }

    /// The channel's cell, if it has members here.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Cell>> {
        self.cells.pin().get(id).cloned()
    }

    fn cell(&self, id: &str) -> Arc<Cell> {
        let cells = self.cells.pin();
        if let Some(cell) = cells.get(id) {
            return Arc::clone(cell);
        }
        let id: Arc<str> = id.into();
        let fresh = Arc::new(Cell { id: Arc::clone(&id), state: Mutex::default() });
        Arc::clone(cells.get_or_insert(id, fresh))
    }

    pub(crate) fn leave(&self, id: &str, no: SessionNo) {
        let cells = self.cells.pin();
        let Some(cell) = cells.get(id) else { return };
        let mut state = cell.state.lock();
        state.members.retain(|m| m.conn.no != no);
        if state.members.is_empty() {
            state.dead = true;
            cells.remove(id);
        }
    }

    /// Takes all connections of a player out of a channel that is no longer theirs. A join under way is refused by
    /// [`Cell::admit`].
    pub(crate) fn expel(&self, id: &str, player: Uuid) {
        let cells = self.cells.pin();
        let Some(cell) = cells.get(id) else { return };
        let mut expelled = Vec::new();
        {
            let mut state = cell.state.lock();
            let (gone, stay) =
                std::mem::take(&mut state.members).into_iter().partition(|m| m.conn.player() == Some(player));
            state.members = stay;
            expelled.extend(Vec::into_iter(gone).map(|member: Member| member.conn));
            if state.members.is_empty() {
                state.dead = true;
                cells.remove(id);
            }
        }
        // A connection's own lock is never taken under a cell's.
        for conn in expelled {
            conn.local().channels.retain(|c| &**c != id);
        }
    }

    /// Hints from the bus, which came together.
    pub(super) fn hear<'a>(&self, items: impl IntoIterator<Item = ChatItem<'a>>) {
        let mut news = News::default();
        for item in items {
            // Most channels of a large cluster have no members here: their frames are not even copied.
            let Some(cell) = self.find(&item.channel_id) else { continue };
            news.add(cell, item.seq, item.frame.map(|raw| Frame::from(raw.get().to_owned()).taken(item.taken_us)));
        }
        self.offer(news);
    }

    /// Messages this node stored itself, in one batch.
    pub(crate) fn stored<'a>(&self, messages: impl IntoIterator<Item = (&'a str, i64, Frame)>) {
        let mut news = News::default();
        for (channel, seq, frame) in messages {
            let Some(cell) = self.find(channel) else { continue };
            news.add(cell, seq, Some(frame));
        }
        self.offer(news);
    }

    /// A message was deleted: its members are told, unless they are `told` otherwise, and what is on its way comes without its content.
    pub(crate) fn delete(&self, id: &str, seq: i64, frame: &Frame, told: bool) {
        if let Some(cell) = self.find(id) {
            cell.delete(seq, frame, told);
        }
    }

    fn offer(&self, news: News) {
        for (cell, items) in news.0 {
            if cell.offer(items) {
                self.repair(&cell);
            }
        }
    }

    /// Has a cell's gap looked after; when too many are waiting, the sweep finds it.
    pub(super) fn repair(&self, cell: &Arc<Cell>) {
        if self.repairs.get().is_some_and(|repairs| repairs.ask(cell)) {
            return;
        }
        cell.repaired();
    }

    pub(super) fn all(&self) -> Vec<Arc<Cell>> {
        self.cells.pin().values().cloned().collect()
    }

    pub(super) fn sweep_now(&self) {
        self.sweep.notify_one();
    }

    pub(super) async fn swept(&self) {
        self.sweep.notified().await;
    }
}

/// Why a member cannot be admitted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// Too much came while its missed messages were read.
    Overflowed,
    /// It is no member any more: it was expelled meanwhile, or its connection has ended.
    Gone,
}

impl Cell {
    /// After which number the joining member's live messages are kept aside; none while the cell is not placed.
    pub(crate) fn from(&self, no: SessionNo) -> Option<i64> {
        self.state.lock().members.iter().find(|m| m.conn.no == no)?.joining.as_ref()?.from
    }

    /// Says where the channel stands, unless somebody did before.
    pub(crate) fn place(&self, last: i64) {
        let mut state = self.state.lock();
        if state.order.last().is_some() {
            return;
        }
        let State { order, members, .. } = &mut *state;
        for joining in members.iter_mut().filter_map(|m| m.joining.as_mut()) {
            joining.from.get_or_insert(last);
        }
        let mut due = Vec::new();
        order.place(last, |_, frame| due.push(frame));
        hand_out(members, &due);
    }

    /// Makes a joining member live: its reply, what it missed, what was kept aside, and from then on what comes.
    pub(crate) fn admit(&self, no: SessionNo, reply: Frame, missed: Vec<Frame>) -> Result<(), NotAdmitted> {
        let mut state = self.state.lock();
        let Some(member) = state.members.iter_mut().find(|m| m.conn.no == no) else { return Err(NotAdmitted::Gone) };
        let joining = member.joining.take().unwrap_or_default();
        if joining.overflowed {
            return Err(NotAdmitted::Overflowed);
        }
        for frame in std::iter::once(reply).chain(missed).chain(joining.aside) {
            member.conn.push(frame);
        }
        Ok(())
    }

    /// Where the channel stands here.
    pub(crate) fn last(&self) -> Option<i64> {
        self.state.lock().order.last()
    }

    /// True when something is missing and nobody looks after it yet.
    fn offer(&self, items: impl IntoIterator<Item = Item>) -> bool {
        let mut state = self.state.lock();
        let (mut due, mut missing) = (Vec::new(), false);
        for (seq, frame) in items {
            let frame = if state.is_gone(seq) { None } else { frame };
            missing |= state.order.offer(seq, frame, |_, frame| due.push(frame)) == Offer::Missing;
        }
        let State { order, members, repairing, .. } = &mut *state;
        hand_out(members, &due);
        missing && order.gap().is_some() && !std::mem::replace(repairing, true)
    }

    /// The number after which something is missing, and the highest heard of.
    pub(super) fn gap(&self) -> Option<(i64, i64)> {
        self.state.lock().order.gap()
    }

    pub(super) fn repaired(&self) {
        self.state.lock().repairing = false;
    }

    pub(super) fn fill(&self, rows: Vec<(i64, Frame)>, through: i64) {
        let mut state = self.state.lock();
        let order = &mut state.order;
        let mut due = Vec::new();
        order.fill(rows, through, |_, frame| due.push(frame));
        // Read before they were deleted, perhaps.
        due.extend(state.come());
        hand_out(&mut state.members, &due);
    }

    fn delete(&self, seq: i64, frame: &Frame, told: bool) {
        let mut state = self.state.lock();
        let last = state.order.last();
        if !told && last.is_none_or(|last| seq <= last) {
            hand_out(&mut state.members, std::slice::from_ref(frame));
        }
        if last.is_some_and(|last| seq <= last) {
            return;
        }
        state.order.let_go(seq);
        if state.gone.len() >= GONE {
            state.gone.remove(0);
        }
        state.gone.push((seq, frame.clone()));
    }

    /// The counter's row says where the channel stands; `before` is what [`Self::last`] said before it was read. True when
    /// something is missing and nobody looks after it yet.
    pub(super) fn compare(&self, stands: i64, before: Option<i64>) -> bool {
        let Some(before) = before else { return false };
        if stands < before {
            // A failover took acknowledged messages back.
            tracing::warn!(channel.id = %self.id, stands, before, "A channel's counter went back; it is followed from there.");
            self.state.lock().order.reset(stands);
            return false;
        }
        self.offer([(stands, None)])
    }
}

fn hand_out(members: &mut [Member], frames: &[Frame]) {
    if frames.is_empty() {
        return;
    }
    metrics::histogram!("asobi_chat_fan_out_recipients").record(members.len() as f64);
    let timed = count::every(members.len());
    // Who joins gets them when what was missed has been read, which says nothing of how long a message takes.
    let untimed = LazyCell::new(|| count::untimed(frames));
    for (n, member) in members.iter_mut().enumerate() {
        match &mut member.joining {
            None => member.conn.push_all(if n % timed == 0 { frames } else { &untimed }),
            Some(joining) if joining.aside.len() + frames.len() <= ASIDE => joining.aside.extend_from_slice(&untimed),
            Some(joining) => joining.overflowed = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::Bounds;

    fn conn(no: u64) -> Arc<Conn> {
        Arc::new(Conn::new(SessionNo(no), Bounds { frames: 100, bytes: 10_000 }))
    }

    fn frames(conn: &Conn) -> Vec<String> {
        std::iter::from_fn(|| conn.outbox.pop()).map(|f| f.as_str().to_owned()).collect()
    }

    fn text(text: &str) -> Frame {
        Frame::from(text.to_owned())
    }

    #[test]
    fn of_a_large_channel_some_receivers_are_timed_and_of_a_small_one_all() {
        for (members, expected) in [(5, 5), (70, 24)] {
            let channels = Channels::new();
            let conns: Vec<_> = (1..=members).map(conn).collect();
            for conn in &conns {
                let cell = channels.join("global:x", conn);
                cell.place(0);
                cell.admit(conn.no, text("joined"), Vec::new()).unwrap();
            }
            channels.stored([("global:x", 1, text("m1").taken(Some(7)))]);
            let last = |conn: &Arc<Conn>| std::iter::from_fn(|| conn.outbox.pop()).last().expect("m1");
            let got: Vec<Frame> = conns.iter().map(last).collect();
            assert!(got.iter().all(|frame| frame.as_str() == "m1"));
            assert_eq!(got.iter().filter(|frame| frame.taken_us() == Some(7)).count(), expected);
        }
    }

    #[test]
    fn a_joiner_gets_reply_missed_and_live_in_that_order() {
        let (channels, ada) = (Channels::new(), conn(1));
        let cell = channels.join("global:x", &ada);
        assert_eq!(cell.from(ada.no), None);
        channels.stored([("global:x", 5, text("m5"))]);
        channels.stored([("global:x", 6, text("m6"))]);
        cell.place(5);
        assert_eq!(cell.from(ada.no), Some(5));
        assert_eq!(cell.admit(ada.no, text("joined"), vec![text("m4"), text("m5")]), Ok(()));
        channels.stored([("global:x", 7, text("m7"))]);
        assert_eq!(frames(&ada), ["joined", "m4", "m5", "m6", "m7"]);
    }

    #[test]
    fn a_second_joiner_begins_where_the_channel_stands() {
        let (channels, ada, bo) = (Channels::new(), conn(1), conn(2));
        channels.join("global:x", &ada).place(0);
        channels.join("global:x", &ada).admit(ada.no, text("joined"), Vec::new()).unwrap();
        channels.stored([("global:x", 1, text("m1"))]);
        let cell = channels.join("global:x", &bo);
        assert_eq!((cell.from(bo.no), cell.last()), (Some(1), Some(1)));
        channels.stored([("global:x", 2, text("m2"))]);
        cell.admit(bo.no, text("joined"), Vec::new()).unwrap();
        assert_eq!(frames(&ada), ["joined", "m1", "m2"]);
        assert_eq!(frames(&bo), ["joined", "m2"]);
    }

    #[test]
    fn the_last_to_leave_takes_the_cell_along() {
        let (channels, ada) = (Channels::new(), conn(1));
        let cell = channels.join("global:x", &ada);
        channels.leave("global:x", ada.no);
        assert!(channels.all().is_empty() && cell.state.lock().dead);
        assert!(!Arc::ptr_eq(&cell, &channels.join("global:x", &ada)));
    }

    #[test]
    fn who_is_expelled_hears_nothing_more_and_their_join_fails() {
        let (channels, ada, bo) = (Channels::new(), conn(1), conn(2));
        let player = Uuid::from_u128(7);
        assert!(ada.set_player(player) && bo.set_player(Uuid::from_u128(8)));
        for member in [&ada, &bo] {
            let cell = channels.join("room:x", member);
            member.local().channels.push(Arc::clone(&cell.id));
            cell.place(0);
        }
        let cell = channels.find("room:x").unwrap();
        cell.admit(bo.no, text("joined"), Vec::new()).unwrap();
        channels.expel("room:x", player);
        assert_eq!(cell.admit(ada.no, text("joined"), Vec::new()), Err(NotAdmitted::Gone));
        channels.stored([("room:x", 1, text("m1"))]);
        assert_eq!((frames(&ada), frames(&bo)), (vec![], vec!["joined".to_owned(), "m1".to_owned()]));
        assert!(ada.local().channels.is_empty() && bo.local().channels.len() == 1);
        channels.expel("room:x", Uuid::from_u128(8));
        assert!(channels.all().is_empty());
    }

    #[test]
    fn members_hear_of_a_deletion_once_they_can_have_seen_the_message() {
        let (channels, ada) = (Channels::new(), conn(1));
        let cell = channels.join("global:x", &ada);
        cell.place(0);
        cell.admit(ada.no, text("joined"), Vec::new()).unwrap();
        channels.stored([("global:x", 1, text("m1")), ("global:x", 3, text("m3"))]);
        assert_eq!(frames(&ada), ["joined", "m1"]);
        channels.delete("global:x", 1, &text("d1"), false);
        assert_eq!(frames(&ada), ["d1"]);
        channels.delete("global:x", 1, &text("d1"), true);
        // Held, and not come yet: what still brings their content is not believed.
        channels.delete("global:x", 3, &text("d3"), false);
        channels.delete("global:x", 2, &text("d2"), false);
        channels.stored([("global:x", 2, text("m2"))]);
        assert_eq!((frames(&ada), cell.gap()), (Vec::<String>::new(), Some((1, 3))));
        cell.fill(vec![(2, text("t2")), (3, text("t3"))], 3);
        assert_eq!(frames(&ada), ["t2", "t3", "d3", "d2"], "a read may have come before the deletion");
        channels.stored([("global:x", 4, text("m4"))]);
        assert_eq!((frames(&ada), cell.gap()), (vec!["m4".to_owned()], None));
        channels.delete("global:other", 1, &text("d1"), false);
    }

    #[test]
    fn a_counter_ahead_is_a_gap_and_one_behind_a_new_beginning() {
        let (channels, ada) = (Channels::new(), conn(1));
        let cell = channels.join("global:x", &ada);
        cell.place(5);
        assert!(!cell.compare(5, Some(5)));
        assert!(cell.compare(7, Some(5)) && !cell.compare(7, Some(5)));
        assert_eq!(cell.gap(), Some((5, 7)));
        cell.compare(2, Some(5));
        assert_eq!((cell.last(), cell.gap()), (Some(2), None));
    }
}
