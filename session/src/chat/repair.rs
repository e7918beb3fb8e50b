//! Reading back what hints did not bring: after a moment of patience once per channel, and by a sweep that finds a lost
//! tail, which no later message would tell of.

use std::{collections::HashMap, sync::Arc, time::Duration};

use asobi_store::{chat, within};
use tokio::sync::mpsc;

use super::{channels::Cell, shared_frame};
use crate::hub::Hub;

/// Cells that may wait; past it the sweep finds them.
const QUEUE: usize = 4_096;
/// Channels and rows per channel of one read.
const CHANNELS: usize = 256;
const ROWS: usize = 500;
/// Between two reads of what was missed: its readers' sockets get it out of their queues meanwhile.
const DRAIN: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(250);
const SWEEP: Duration = Duration::from_millis(2_500);

#[derive(Clone)]
pub(crate) struct Repairs(mpsc::Sender<Arc<Cell>>);

impl Repairs {
    /// False when too many wait.
    pub(super) fn ask(&self, cell: &Arc<Cell>) -> bool {
        self.0.try_send(Arc::clone(cell)).is_ok()
    }
}

pub(super) fn queue() -> (Repairs, mpsc::Receiver<Arc<Cell>>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Repairs(sender), receiver)
}

pub(super) async fn run(hub: Arc<Hub>, mut cells: mpsc::Receiver<Arc<Cell>>) {
    let mut waiting = Vec::new();
    while cells.recv_many(&mut waiting, CHANNELS).await > 0 {
        // What is merely late arrives meanwhile.
        tokio::time::sleep(hub.config.chat.gap()).await;
        while !waiting.is_empty() {
            let answered = read(&hub, &mut waiting).await;
            tokio::time::sleep(if answered { DRAIN } else { RETRY.mul_f64(rand::random_range(0.5..1.5)) }).await;
        }
    }
}

/// Fills what is missing; cells stay in the list while something is. False when the database did not answer.
async fn read(hub: &Hub, cells: &mut Vec<Arc<Cell>>) -> bool {
    let mut gaps = Vec::with_capacity(cells.len());
    cells.retain(|cell| match cell.gap() {
        Some((after, highest)) => {
            gaps.push(((cell.id.to_string(), after), highest));
            true
        }
        None => {
            cell.repaired();
            // Something may have come between the look and the word that nobody looks any more.
            if cell.gap().is_some() {
                hub.chat.channels.repair(cell);
            }
            false
        }
    });
    if cells.is_empty() {
        return true;
    }
    metrics::counter!("asobi_chat_gap_reads_total").increment(gaps.len() as u64);
    // Whoever reads at all must not be taken for slow because a node was cut off for a while: never a queue full at once.
    let most = ROWS.min(hub.config.session.queue_frames / 4).max(1);
    let cursors: Vec<(String, i64)> = gaps.iter().map(|gap| gap.0.clone()).collect();
    let messages = match within(DEADLINE, chat::after(&hub.pool, &cursors, i64::try_from(most).unwrap_or(1))).await {
        Ok(messages) => messages,
        Err(error) => {
            tracing::warn!(%error, channels = cells.len(), "Missed chat messages could not be read; it is tried again.");
            return false;
        }
    };
    let mut by_channel: HashMap<String, Vec<_>> = HashMap::new();
    for message in messages {
        by_channel.entry(message.channel_id.clone()).or_default().push((message.seq, shared_frame(&message)));
    }
    for (cell, (_, highest)) in cells.iter().zip(gaps) {
        let rows = by_channel.remove(&*cell.id).unwrap_or_default();
        let complete = rows.len() < most;
        let through = if complete { highest } else { rows.last().map_or(0, |row| row.0) };
        cell.fill(rows, through);
    }
    true
}

/// Compares where channels stand, every now and then and after every doubt.
pub(super) async fn sweep(hub: Arc<Hub>) {
    loop {
        tokio::select! {
            () = hub.chat.channels.swept() => {}
            () = tokio::time::sleep(SWEEP.mul_f64(rand::random_range(0.7..1.3))) => {}
        }
        let cells = hub.chat.channels.all();
        for part in cells.chunks(CHANNELS) {
            while !compare(&hub, part).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn compare(hub: &Hub, cells: &[Arc<Cell>]) -> bool {
    let before: Vec<Option<i64>> = cells.iter().map(|cell| cell.last()).collect();
    let ids: Vec<String> = cells.iter().map(|cell| cell.id.to_string()).collect();
    let Ok(positions) = within(DEADLINE, chat::positions(&hub.pool, &ids)).await else { return false };
    let positions: HashMap<String, i64> = positions.into_iter().collect();
    for (cell, before) in cells.iter().zip(before) {
        let stands = positions.get(&*cell.id).copied().unwrap_or(0);
        if cell.compare(stands, before) {
            hub.chat.channels.repair(cell);
        }
    }
    true
}
