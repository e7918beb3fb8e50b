//! Applies what matches did to the world outside: woken by the bus, and every few seconds all the same. Any number of services do so at
//! once; each effect happens once, see [`effects_apply`].
//!
//! What is published here after a commit can be lost, with the process or with a full queue, and nobody publishes it again: a message is
//! then found by the gap in its channel's numbers, and the last one of a channel by each node's sweep of its channels; a notification by
//! the sweep of inboxes; a score by the gap in its board's numbers. Rows are the truth.

use std::{sync::Arc, time::Duration};

use asobi_bus::{PublishError, Publisher, Subscription};
use asobi_proto::bus::{ChatItem, Topic};
use asobi_store::{
    chat::{self, Message},
    effects_apply::{Applied, Applier},
    within,
};
use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::boards::Boards;

const POLL: Duration = Duration::from_secs(3);
/// Effects of one transaction.
const BATCH: i64 = 256;
const AFTER_ERROR: Duration = Duration::from_millis(500);

/// What is needed to apply effects, and to tell of them.
pub struct Effects {
    pub pool: PgPool,
    pub publisher: Publisher,
    pub boards: Arc<Boards>,
    pub applier: Applier,
    /// Of one transaction.
    pub bound: Duration,
}

impl Effects {
    /// Applies until `stop`; the batch that is under way then is finished.
    pub async fn run(mut self, mut wake: Subscription, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = wake.next() => if event.is_none() { return },
                () = tokio::time::sleep(POLL) => {}
            }
            // One look at the rows serves all who called meanwhile.
            while let Some(Some(_)) = wake.next().now_or_never() {}
            while let Err(error) = self.apply_all(&stop).await {
                tracing::warn!(%error, "Effects of matches could not be applied for now; they are tried again.");
                if error.no_partition()
                    && let Err(error) = within(self.bound, chat::history::make_days(&self.pool)).await
                {
                    tracing::warn!(%error, "The days of the chat's history could not be made.");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AFTER_ERROR) => {}
                }
            }
        }
    }

    async fn apply_all(&mut self, stop: &CancellationToken) -> asobi_store::Result<()> {
        while !stop.is_cancelled() {
            let applied = within(self.bound, self.applier.batch(&self.pool, BATCH)).await?;
            let done = applied.effects;
            for id in &applied.reset {
                self.boards.changed(id).await;
            }
            self.publish(applied);
            if i64::try_from(done).unwrap_or(i64::MAX) < BATCH {
                return Ok(());
            }
        }
        Ok(())
    }

    fn publish(&self, applied: Applied) {
        let Applied { effects, scores, reset: _, messages, events, refused } = applied;
        for (match_id, ordinal, why) in &refused {
            tracing::error!(match.id = %match_id, effect.ordinal = ordinal, why, "An effect can never be applied and was put aside.");
        }
        metrics::counter!("asobi_social_effects_total", "outcome" => "refused").increment(refused.len() as u64);
        metrics::counter!("asobi_social_effects_total", "outcome" => "applied")
            .increment(effects.saturating_sub(refused.len()) as u64);
        self.boards.written(scores);
        for message in &messages {
            hint(&self.publisher, message);
        }
        for (player, seq, event) in &events {
            asobi_bus::inbox::publish(&self.publisher, *player, *seq, event);
        }
    }
}

/// Tells every node of a stored message; of one that is too long for the bus, that it is there.
fn hint(publisher: &Publisher, message: &Message) {
    let Ok(frame) = RawValue::from_string(message.frame()) else { return };
    let topic = Topic::chat(&message.channel_id);
    let item = ChatItem {
        channel_id: message.channel_id.as_str().into(),
        seq: message.seq,
        frame: Some(&frame),
        taken_us: None,
    };
    // Full is counted by the publisher.
    if publisher.publish(topic, &item) == Err(PublishError::TooLarge) {
        let _ = publisher.publish(topic, &ChatItem { frame: None, ..item });
    }
}
