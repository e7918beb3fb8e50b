//! What players must be told on every connection, on any node. Each player with a session here has a mailbox with a
//! cursor; events are told in order, read from rows where hints were lost, and some are acted on first.
//!
//! ```text
//!  hint or row ──► order ──► ready ──► plain: pushed to all sessions at once
//!                   │            └───► with an action: one task per player acts, then pushes, one after the other
//!                   ├──► about a group: looked up at once, whatever else is acted on
//!                   └──► a kick: those sockets that connected before it are closed at once
//! ```

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use asobi_bus::{Bus, BusEvent, Subscription};
use asobi_proto::{
    bus::{InboxAction, InboxEvent, InboxItem, Topic},
    frame,
};
use asobi_store::{inbox, within};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use crate::{
    close::Close,
    frame::{Frame, FrameKind},
    hub::{Hub, Player},
    order::Order,
    seat,
};

/// Notifications that may wait for us; past it the rows are read instead.
const BUS_QUEUE: usize = 1_024;
/// Players whose gaps may wait; past it the sweep finds them.
const REPAIRS: usize = 4_096;
/// Events that may wait for an action before them. Past it the newest are dropped, and counted.
const READY: usize = 1_024;
const PLAYERS: usize = 500;
const ROWS: i64 = 200;
const DEADLINE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(250);
const SWEEP: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Mailbox(Mutex<State>);

/// An event on its way to the player, with the span of that where its trace is recorded.
struct Delivery {
    event: InboxEvent,
    span: Span,
}

#[derive(Default)]
struct State {
    order: Order<Delivery>,
    ready: VecDeque<Delivery>,
    /// Groups the player came into or left, to be looked up.
    groups: Vec<Uuid>,
    /// Operators closed the player's sockets, by which events and why.
    kicks: Vec<(i64, String)>,
    /// A task acts on what is ready.
    working: bool,
    /// The gap is being looked after.
    repairing: bool,
}

/// The way to the task that reads what hints did not bring.
pub(crate) struct Repairs {
    players: mpsc::Sender<Arc<Player>>,
    sweep: Notify,
}

impl Mailbox {
    /// Says after which event the player's first session here begins.
    pub(crate) fn place(&self, hub: &Arc<Hub>, player: &Arc<Player>, cursor: i64) {
        {
            let mut state = self.0.lock();
            let State { order, ready, groups, kicks, .. } = &mut *state;
            order.place(cursor, |seq, event| admit(ready, groups, kicks, seq, event));
        }
        self.pump(hub, player);
    }

    /// Takes an event, or the news that there is one to be read.
    pub(crate) fn offer(&self, hub: &Arc<Hub>, player: &Arc<Player>, seq: i64, event: Option<InboxEvent>) {
        self.deliver(hub, player, seq, event.map(|event| Delivery { event, span: Span::none() }));
    }

    fn deliver(&self, hub: &Arc<Hub>, player: &Arc<Player>, seq: i64, event: Option<Delivery>) {
        let repair = {
            let mut state = self.0.lock();
            let State { order, ready, groups, kicks, repairing, .. } = &mut *state;
            order.offer(seq, event, |seq, event| admit(ready, groups, kicks, seq, event));
            order.gap().is_some() && !std::mem::replace(repairing, true)
        };
        self.pump(hub, player);
        if repair && hub.inbox.players.try_send(Arc::clone(player)).is_err() {
            self.0.lock().repairing = false;
        }
    }

    fn has_gap(&self) -> bool {
        self.0.lock().order.gap().is_some()
    }

    fn cursor(&self) -> Option<i64> {
        self.0.lock().order.last()
    }

    /// Takes what the rows say: where the inbox stands, and of the events up to there those after `before`, at most [`ROWS`].
    fn fill(&self, hub: &Arc<Hub>, player: &Arc<Player>, rows: Vec<(i64, InboxEvent)>, stands: i64, before: i64) {
        // Events that expired before they were read here, or that a failover took back.
        let lost = stands < before || i64::try_from(rows.len()).is_ok_and(|n| n < ROWS && n < stands - before);
        let more = {
            let mut state = self.0.lock();
            let State { order, ready, groups, kicks, repairing, .. } = &mut *state;
            *repairing = false;
            if stands < before {
                order.reset(stands);
                false
            } else {
                let complete = i64::try_from(rows.len()).unwrap_or(ROWS) < ROWS;
                let through = if complete { stands } else { rows.last().map_or(stands, |row| row.0) };
                let deliver = |(seq, event)| (seq, Delivery { event, span: Span::none() });
                let rows: Vec<_> = rows.into_iter().map(deliver).collect();
                order.fill(rows, through, |seq, event| admit(ready, groups, kicks, seq, event));
                !complete
            }
        };
        self.pump(hub, player);
        if lost {
            let (rooms, player) = (Arc::clone(hub), Arc::clone(player));
            hub.spawn("rooms", async move { rooms.recheck_rooms(&player).await });
        }
        if more {
            // The news of the last one, which is behind those that were not read yet.
            self.offer(hub, player, stands, None);
        }
    }

    /// Tells what is ready. Plain frames are pushed here and now; the first action hands over to a task.
    fn pump(&self, hub: &Arc<Hub>, player: &Arc<Player>) {
        let mut state = self.0.lock();
        let groups = std::mem::take(&mut state.groups);
        if !groups.is_empty() {
            hub.spawn("groups", look_up(Arc::clone(hub), Arc::clone(player), groups));
        }
        for (seq, reason) in std::mem::take(&mut state.kicks) {
            kick(player, seq, &reason);
        }
        if state.working {
            return;
        }
        while let Some(next) = state.ready.pop_front() {
            if next.event.action.is_some() {
                state.ready.push_front(next);
                state.working = true;
                drop(state);
                hub.spawn("inbox", work(Arc::clone(hub), Arc::clone(player)));
                return;
            }
            tell(player, &next.event);
        }
    }

    fn next(&self) -> Option<Delivery> {
        let mut state = self.0.lock();
        let next = state.ready.pop_front();
        state.working = next.is_some();
        next
    }
}

fn admit(
    ready: &mut VecDeque<Delivery>,
    groups: &mut Vec<Uuid>,
    kicks: &mut Vec<(i64, String)>,
    seq: i64,
    delivery: Delivery,
) {
    let event = &delivery.event;
    if let Some(InboxAction::Kicked { reason }) = &event.action {
        let reason = reason.clone();
        return kicks.push((seq, reason));
    }
    // What ended must end within a second: it does not wait for a match's host.
    if let Some(InboxAction::Group { group_id, .. }) = event.action
        && !groups.contains(&group_id)
    {
        groups.push(group_id);
    }
    if ready.len() < READY {
        ready.push_back(delivery);
    } else {
        metrics::counter!("asobi_session_frames_dropped_total", "reason" => "inbox_full").increment(1);
    }
}

/// Closes the sockets that were there before the event; whoever connected after it had read an inbox with it.
fn kick(player: &Player, seq: i64, reason: &str) {
    player.each(|conn| {
        if conn.local().since < seq {
            conn.push(Frame::from(frame::push("session.kicked", serde_json::json!({"reason": reason}))));
            conn.close(Close::Kicked);
        }
    });
}

fn tell(player: &Player, event: &InboxEvent) {
    let Some(frame) = frame_of(event) else { return };
    // Held back for a session that was not told yet that it is connected.
    player.each(|conn| {
        conn.outbox.push_from_match(FrameKind::Event, frame.clone());
    });
}

fn frame_of(event: &InboxEvent) -> Option<Frame> {
    event.frame.as_ref().map(|raw| Frame::from(raw.get().to_owned()))
}

async fn look_up(hub: Arc<Hub>, player: Arc<Player>, groups: Vec<Uuid>) {
    for group in groups {
        hub.group_changed(player.id, group).await;
    }
}

async fn work(hub: Arc<Hub>, player: Arc<Player>) {
    while let Some(Delivery { event, span }) = player.mailbox.next() {
        act(&hub, &player, &event).instrument(span).await;
    }
}

async fn act(hub: &Arc<Hub>, player: &Arc<Player>, event: &InboxEvent) {
    match &event.action {
        None | Some(InboxAction::Group { .. } | InboxAction::Kicked { .. }) => tell(player, event),
        Some(InboxAction::Matched { match_id }) => {
            seat::matched(hub, player, *match_id, frame_of(event)).await;
        }
        Some(InboxAction::Friends { friend_id }) => {
            hub.forget_direct(player.id, *friend_id);
            tell(player, event);
            hub.presence.friends_changed(hub, player).await;
        }
        Some(InboxAction::Moved { match_id }) => {
            seat::failed_over(hub, player, *match_id).await;
            tell(player, event);
        }
        Some(InboxAction::MatchGone { match_id }) => {
            for conn in player.conns() {
                if let Some(seat) = conn.clear_seat(*match_id) {
                    seat.link.detach(conn.no, false);
                }
            }
            tell(player, event);
        }
    }
}

pub(crate) fn new() -> (Repairs, mpsc::Receiver<Arc<Player>>) {
    let (players, queue) = mpsc::channel(REPAIRS);
    (Repairs { players, sweep: Notify::new() }, queue)
}

pub(crate) fn start(hub: &Arc<Hub>, bus: &Bus, gaps: mpsc::Receiver<Arc<Player>>) {
    let topics: Vec<Topic> = Topic::all_inbox().collect();
    hub.spawn("inbox hints", listen(Arc::clone(hub), bus.subscribe(&topics, BUS_QUEUE)));
    hub.spawn("inbox repairs", repair(Arc::clone(hub), gaps));
    hub.spawn("inbox sweep", sweep(Arc::clone(hub)));
}

async fn listen(hub: Arc<Hub>, mut events: Subscription) {
    while let Some(event) = events.next().await {
        match event {
            BusEvent::Resync => {
                metrics::counter!("asobi_session_resyncs_total", "what" => "inbox").increment(1);
                hub.inbox.sweep.notify_one();
            }
            BusEvent::Batch(notification) => {
                let Some(batch) = notification.batch() else { continue };
                for (n, raw) in batch.items.iter().enumerate() {
                    match serde_json::from_str::<InboxItem<'_>>(raw.get()) {
                        Ok(item) => hear(&hub, notification.topic, &item, batch.trace_of(n)),
                        Err(error) => tracing::warn!(%error, "An inbox hint could not be read; its row will be."),
                    }
                }
            }
        }
    }
}

fn hear(hub: &Arc<Hub>, topic: Topic, item: &InboxItem<'_>, traceparent: Option<&str>) {
    let Some(player) = hub.registry.player(item.player_id) else { return };
    // An event of a newer release that cannot be read here cannot be read from its row either: it is skipped there.
    let event = item.event.and_then(|raw| serde_json::from_str::<InboxEvent>(raw.get()).ok());
    let span = asobi_bus::processing(topic, traceparent);
    player.mailbox.deliver(hub, &player, item.seq, event.map(|event| Delivery { event, span }));
}

async fn repair(hub: Arc<Hub>, mut gaps: mpsc::Receiver<Arc<Player>>) {
    let mut players = Vec::new();
    while gaps.recv_many(&mut players, PLAYERS).await > 0 {
        tokio::time::sleep(hub.config.chat.gap()).await;
        metrics::counter!("asobi_session_inbox_gap_reads_total").increment(players.len() as u64);
        while !read(&hub, &players).await {
            tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.5..1.5))).await;
        }
        players.clear();
    }
}

async fn sweep(hub: Arc<Hub>) {
    loop {
        tokio::select! {
            () = hub.inbox.sweep.notified() => {}
            () = tokio::time::sleep(SWEEP.mul_f64(rand::random_range(0.7..1.3))) => {}
        }
        for players in hub.registry.players().chunks(PLAYERS) {
            while !read(&hub, players).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Brings these players' mailboxes up to where their inboxes stand. False when the database did not answer.
async fn read(hub: &Arc<Hub>, players: &[Arc<Player>]) -> bool {
    let placed: Vec<(&Arc<Player>, i64)> =
        players.iter().filter_map(|player| Some((player, player.mailbox.cursor()?))).collect();
    let ids: Vec<_> = placed.iter().map(|(player, _)| player.id).collect();
    // Positions first: every event up to them is in the rows that are read next, or has expired.
    let Ok(positions) = within(DEADLINE, inbox::positions(&hub.pool, &ids)).await else { return false };
    let positions: HashMap<_, _> = positions.into_iter().collect();
    let behind: Vec<_> = placed
        .into_iter()
        .map(|(player, cursor)| (player, cursor, positions.get(&player.id).copied().unwrap_or(0)))
        .filter(|(player, cursor, stands)| stands != cursor || player.mailbox.has_gap())
        .collect();
    if behind.is_empty() {
        return true;
    }
    let cursors: Vec<_> = behind.iter().map(|(player, cursor, _)| (player.id, *cursor)).collect();
    let Ok(rows) = within(DEADLINE, inbox::after(&hub.pool, &cursors, ROWS)).await else { return false };
    let mut by_player: HashMap<_, Vec<_>> = HashMap::new();
    for row in rows {
        by_player.entry(row.player_id).or_default().push((row.seq, row.event));
    }
    for (player, cursor, stands) in behind {
        let rows = by_player.remove(&player.id).unwrap_or_default();
        player.mailbox.fill(hub, player, rows, stands, cursor);
    }
    true
}
