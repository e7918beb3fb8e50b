//! How a player's deed becomes rows and news: one transaction with the rows, the inbox events and the notifications, and the
//! hints after its commit.

use std::time::Duration;

use asobi_bus::Publisher;
use asobi_proto::bus::InboxEvent;
use asobi_store::{
    Result, inbox,
    notifications::{self, Notification},
    within,
};
use sqlx::{PgConnection, PgPool};
use tonic::Status;
use uuid::Uuid;

use crate::wire::unavailable;

#[derive(Clone)]
pub struct Deeds {
    pub pool: PgPool,
    pub publisher: Publisher,
    /// Of one transaction.
    pub bound: Duration,
    /// Notifications that one player keeps.
    pub kept: i64,
}

/// What a deed came to, and who is to hear of it.
pub struct Done<T> {
    pub value: T,
    pub events: Vec<(Uuid, InboxEvent)>,
    /// Rows written by the deed, to be pushed.
    pub told: Vec<Notification>,
}

impl<T> Done<T> {
    /// It changed nothing that anybody must hear of.
    pub fn quietly(value: T) -> Self {
        Self { value, events: Vec::new(), told: Vec::new() }
    }
}

impl Deeds {
    /// Runs one deed. A refusal leaves nothing behind.
    pub async fn run<T, R: Into<Status>>(
        &self,
        deed: impl AsyncFnOnce(&mut PgConnection) -> Result<Result<Done<T>, R>>,
    ) -> Result<T, Status> {
        let done = within(self.bound, async {
            let mut tx = asobi_store::begin(&self.pool).await?;
            let Done { value, mut events, told } = match deed(&mut tx).await? {
                Ok(done) => done,
                Err(refusal) => return Ok(Err(refusal)),
            };
            events.extend(told.iter().map(|n| (n.player_id, n.event())));
            let seqs = inbox::append(&mut tx, &events).await?;
            if !told.is_empty() {
                notifications::trim(&mut tx, &told, self.kept).await?;
            }
            tx.commit().await?;
            Ok(Ok((value, events, seqs)))
        });
        let (value, events, seqs) = done.await.map_err(|e| unavailable(&e))?.map_err(Into::into)?;
        for (seq, (player, event)) in seqs.iter().zip(&events) {
            asobi_bus::inbox::publish(&self.publisher, *player, *seq, event);
        }
        Ok(value)
    }
}
