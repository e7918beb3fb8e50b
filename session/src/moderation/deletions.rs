//! Deleted messages, on their way to the members of their channels, and the last ones for whoever comes back.

use std::collections::VecDeque;

use asobi_store::{
    chat::deletions::{self, Deletion},
    within,
};
use parking_lot::Mutex;
use sqlx::PgPool;

use super::DEADLINE;
use crate::{chat::ChannelId, frame::Frame, hub::Hub};

/// Deletions remembered: the newest of the last day.
const REMEMBERED: usize = 4_096;
/// Rows of one read.
const ROWS: i64 = 500;
/// Told to one who comes back.
const TOLD: usize = 100;

#[derive(Default)]
pub(crate) struct Deletions(Mutex<VecDeque<Deletion>>);

impl Deletions {
    /// Remembers what was deleted before this node began; nobody here has seen it.
    pub(super) async fn begin(&self, pool: &PgPool) -> asobi_store::Result<()> {
        let newest = deletions::newest(pool, i64::try_from(REMEMBERED).unwrap_or(i64::MAX));
        let newest = within(DEADLINE, newest).await?;
        *self.0.lock() = newest.into();
        Ok(())
    }

    fn add(&self, deletion: Deletion) {
        let mut remembered = self.0.lock();
        if remembered.len() >= REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(deletion);
    }

    /// What was deleted of a channel's messages up to a number, the newest ones of it: who has seen those may not know.
    pub(crate) fn up_to(&self, channel: &str, seq: i64) -> Vec<Frame> {
        let remembered = self.0.lock();
        let of = remembered.iter().rev().filter(|deletion| deletion.channel_id == channel && deletion.seq <= seq);
        let mut frames: Vec<Frame> = of.take(TOLD).map(|deletion| Frame::from(deletion.frame())).collect();
        frames.reverse();
        frames
    }
}

impl Hub {
    /// Reads deletions after a version, which moves along, and tells the members of their channels.
    pub(super) async fn read_deletions(&self, after: &mut i64) -> asobi_store::Result<()> {
        loop {
            let page = within(DEADLINE, deletions::since(&self.pool, *after, ROWS)).await?;
            let full = i64::try_from(page.len()).is_ok_and(|n| n >= ROWS);
            for deletion in page {
                *after = deletion.version;
                // The two of a direct message hear of it through their inboxes, on every connection.
                let told = ChannelId::scheme(&deletion.channel_id) == "dm";
                self.chat.channels.delete(&deletion.channel_id, deletion.seq, &Frame::from(deletion.frame()), told);
                self.moderation.deletions.add(deletion);
            }
            if !full {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn who_comes_back_hears_of_what_they_have_seen() {
        let deletions = Deletions::default();
        for (version, channel, seq) in [(1, "global:x", 5), (2, "global:y", 1), (3, "global:x", 9), (4, "global:x", 2)]
        {
            deletions.add(Deletion { version, channel_id: channel.into(), seq, message_id: Uuid::nil() });
        }
        let seqs = |channel, seq| -> Vec<i64> {
            let frames = deletions.up_to(channel, seq);
            let parsed = frames.iter().map(|frame| serde_json::from_str::<serde_json::Value>(frame.as_str()).unwrap());
            parsed.map(|frame| frame["payload"]["seq"].as_i64().unwrap()).collect()
        };
        assert_eq!(seqs("global:x", 8), [5, 2]);
        assert_eq!((seqs("global:x", 1), seqs("global:z", 9)), (vec![], vec![]));
        for seq in 0..10_000 {
            deletions.add(Deletion { version: seq, channel_id: "global:x".into(), seq, message_id: Uuid::nil() });
        }
        let remembered = deletions.0.lock().len();
        assert_eq!((remembered, seqs("global:x", i64::MAX).len()), (REMEMBERED, TOLD));
    }
}
