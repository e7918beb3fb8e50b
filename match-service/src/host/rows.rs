//! What a match asks of the database, so that the rules of a match can be tested without one.

use std::{future::Future, sync::Arc, time::Duration};

use asobi_bus::Publisher;
use asobi_proto::{
    bus::{TicketItem, Topic, WakeItem},
    mode::ModeSettings,
};
use asobi_store::{
    Error,
    backfill::{self, RequestError},
    checkpoints::{self, Adoption, Checkpoint},
    effects::Effect,
    matches::{self, Ending, Fence, ListingState, SeatTaken},
};
use async_trait::async_trait;
use serde_json::Value;
use sqlx::PgPool;
use tokio::runtime::Handle;
use tracing::Instrument as _;
use uuid::Uuid;

use super::together::Together;
use crate::game::Backfill;

/// A match's rows. Every call is bounded in time; after an error the outcome is unknown and the call may be repeated.
#[async_trait]
pub trait Rows: Send + Sync {
    /// Whether the match is this host's, and runs, with this version of its code. Repeating it answers the same.
    async fn claim(&self, fence: Fence, version: String) -> Result<bool, Error>;
    /// What the match was when it was written last, see [`checkpoints::read`].
    async fn last_checkpoint(&self, fence: Fence) -> Result<Option<Vec<u8>>, Error>;
    /// False: the match is not, or no longer, the writer's.
    async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<bool, Error>;
    /// See [`checkpoints::adopt`].
    async fn adopt(&self, adoption: Adoption) -> Result<bool, Error>;
    /// See [`checkpoints::reclaim`].
    async fn reclaim(&self, fence: Fence) -> Result<bool, Error>;
    /// True once the match has ended under this fence, also when it had before.
    async fn finish(&self, fence: Fence, finished: bool, result: String, effects: Vec<Effect>) -> Result<bool, Error>;
    /// See [`matches::lose`].
    async fn lose(&self, fence: Fence, result: &'static str) -> Result<bool, Error>;
    /// See [`matches::take_seat`].
    async fn take_seat(&self, fence: Fence, player: Uuid) -> Result<SeatTaken, Error>;
    /// See [`matches::give_up_seats`].
    async fn give_up_seats(&self, fence: Fence, players: Vec<Uuid>) -> Result<(), Error>;
    /// See [`matches::put_listing`].
    async fn put_listing(&self, fence: Fence, settings: ModeSettings, state: ListingState) -> Result<(), Error>;
    /// Asks the queue for players, in place of what was asked before. What the mode does not offer is let go.
    async fn request_backfill(&self, fence: Fence, asked: Backfill) -> Result<(), Error>;
}

/// How long states gather before they are written. Matches are not due at the same moment; one by one, each would be four
/// round trips, and those, not the states, are what they cost PostgreSQL.
const GATHER: Duration = Duration::from_millis(25);

/// The rows in PostgreSQL. Connections belong to the runtime that opened them, so all work runs on the process's main one, whichever worker's
/// match asks.
pub struct PgRows {
    pool: PgPool,
    publisher: Publisher,
    runtime: Handle,
    timeout: Duration,
    claims: Arc<Together<(Fence, String), bool>>,
    /// Checkpoints that somebody waits for, or that do something to the world.
    checkpoints: Arc<Together<Checkpoint, bool>>,
    /// The others: only what a failover goes back to.
    states: Arc<Together<Checkpoint, bool>>,
}

impl PgRows {
    /// Call within the process's runtime. `timeout`: of one call, from our side.
    #[must_use]
    pub fn new(pool: PgPool, publisher: Publisher, timeout: Duration) -> Self {
        Self {
            pool,
            publisher,
            runtime: Handle::current(),
            timeout,
            claims: Arc::default(),
            checkpoints: Arc::default(),
            states: Arc::new(Together::gathering(GATHER)),
        }
    }

    async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let bound = self.timeout;
        let task = self.runtime.spawn(asobi_store::within(bound, work).in_current_span());
        // It fails only when the runtime shuts down or the query code panicked.
        task.await.unwrap_or(Err(Error::Deadline(bound)))
    }

    fn wake_effects(&self, written: bool) {
        if written {
            // A lost wake-up costs the time until the rows are polled.
            let _ = self.publisher.publish(Topic::Effects, &WakeItem {});
        }
    }
}

#[async_trait]
impl Rows for PgRows {
    async fn claim(&self, fence: Fence, version: String) -> Result<bool, Error> {
        let (pool, claims, bound) = (self.pool.clone(), Arc::clone(&self.claims), self.timeout);
        self.run(async move {
            let write = |claimed: Vec<(Fence, String)>| {
                let pool = pool.clone();
                async move {
                    let ours = matches::claim(&pool, &claimed).await?;
                    Ok(claimed.iter().map(|(fence, _)| ours.contains(&(fence.match_id, fence.epoch))).collect())
                }
            };
            claims.write((fence, version), bound, write).await
        })
        .await
    }

    async fn last_checkpoint(&self, fence: Fence) -> Result<Option<Vec<u8>>, Error> {
        let pool = self.pool.clone();
        self.run(async move { checkpoints::read(&pool, fence.match_id, fence.epoch).await }).await
    }

    async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<bool, Error> {
        let any = !checkpoint.effects.is_empty();
        let together = if any || checkpoint.durable { &self.checkpoints } else { &self.states };
        let (pool, together, bound) = (self.pool.clone(), Arc::clone(together), self.timeout);
        let written = self
            .run(async move {
                let write = |given: Vec<Checkpoint>| {
                    let pool = pool.clone();
                    async move {
                        let ours = checkpoints::write(&pool, &given).await?;
                        Ok(given.iter().map(|one| ours.contains(&(one.match_id, one.epoch))).collect())
                    }
                };
                together.write(checkpoint, bound, write).await
            })
            .await?;
        self.wake_effects(written && any);
        Ok(written)
    }

    async fn adopt(&self, adoption: Adoption) -> Result<bool, Error> {
        let (pool, any) = (self.pool.clone(), !adoption.effects.is_empty());
        let adopted = self.run(async move { checkpoints::adopt(&pool, &adoption).await }).await?;
        self.wake_effects(adopted && any);
        Ok(adopted)
    }

    async fn reclaim(&self, fence: Fence) -> Result<bool, Error> {
        let pool = self.pool.clone();
        self.run(async move { checkpoints::reclaim(&pool, &fence).await }).await
    }

    async fn finish(&self, fence: Fence, finished: bool, result: String, effects: Vec<Effect>) -> Result<bool, Error> {
        let pool = self.pool.clone();
        let any = !effects.is_empty();
        let ended = self
            .run(async move {
                let ending = Ending { finished, result: &result, effects: &effects };
                Ok(matches::finish(&pool, &fence, &ending).await? || matches::ended_by(&pool, &fence).await?)
            })
            .await?;
        self.wake_effects(ended && any);
        Ok(ended)
    }

    async fn lose(&self, fence: Fence, result: &'static str) -> Result<bool, Error> {
        let pool = self.pool.clone();
        self.run(async move { matches::lose(&pool, &fence, result).await }).await
    }

    async fn take_seat(&self, fence: Fence, player: Uuid) -> Result<SeatTaken, Error> {
        let pool = self.pool.clone();
        self.run(async move { matches::take_seat(&pool, &fence, player).await }).await
    }

    async fn give_up_seats(&self, fence: Fence, players: Vec<Uuid>) -> Result<(), Error> {
        let pool = self.pool.clone();
        self.run(async move { matches::give_up_seats(&pool, &fence, &players).await }).await
    }

    async fn put_listing(&self, fence: Fence, settings: ModeSettings, state: ListingState) -> Result<(), Error> {
        let pool = self.pool.clone();
        self.run(async move { matches::put_listing(&pool, &fence, &settings, state).await }).await
    }

    async fn request_backfill(&self, fence: Fence, asked: Backfill) -> Result<(), Error> {
        let (pool, match_id) = (self.pool.clone(), fence.match_id);
        let wanted = i32::try_from(asked.wanted).unwrap_or(i32::MAX);
        // The contract of scripts sees to its being an object; games in Rust may say anything.
        let properties = match serde_json::from_str::<Value>(&asked.properties) {
            Ok(properties @ Value::Object(_)) if !asked.properties.contains("\\u0000") => properties,
            _ => Value::Object(serde_json::Map::new()),
        };
        let asking = async move { Ok(backfill::request(&pool, match_id, wanted, &properties).await) };
        match self.run(asking).await? {
            Ok(()) => {
                // A lost wake-up costs the leader's own look into the rows.
                let item = TicketItem { ticket_id: match_id, gone: false, backfill: true };
                let _ = self.publisher.publish(Topic::Queue, &item);
                Ok(())
            }
            Err(RequestError::Db(error)) => Err(error),
            Err(error) => {
                tracing::warn!(game.match_id = %match_id, %error, "A wish for players was let go.");
                Ok(())
            }
        }
    }
}
