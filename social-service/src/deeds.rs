//! How a player's deed becomes rows and news: one transaction with the rows, the inbox events and the notifications, and the
//! hints after its commit.

use std::time::Duration;

use asobi_bus::Publisher;
use asobi_cluster::desk::{Deed as Order, Desk};
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

/// What is published after the commit.
type Hints = Vec<notifications::Published>;

impl Deeds {
    /// Runs one deed. A refusal leaves nothing behind.
    pub async fn run<T, R: Into<Status>>(
        &self,
        deed: impl AsyncFnOnce(&mut PgConnection) -> Result<Result<Done<T>, R>>,
    ) -> Result<T, Status> {
        let done = within(self.bound, async {
            let mut tx = asobi_store::begin(&self.pool).await?;
            let done = match deed(&mut tx).await? {
                Ok(done) => done,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let written = self.write(&mut tx, done).await?;
            tx.commit().await?;
            Ok(Ok(written))
        });
        let (value, hints) = done.await.map_err(|e| unavailable(&e))?.map_err(Into::into)?;
        self.publish(&hints);
        Ok(value)
    }

    /// Runs one deed of an operator: once per request id, with its entry in the audit.
    pub async fn order<M, A, T, R>(
        &self,
        desk: &Desk,
        order: Order<'_>,
        request: &M,
        deed: impl AsyncFnOnce(&mut PgConnection) -> Result<Result<Done<T>, R>>,
        answer: impl FnOnce(T) -> A,
    ) -> Result<A, Status>
    where
        M: prost::Message,
        A: prost::Message + Default,
        R: Into<Status>,
    {
        let did = desk.once(order, request, async |conn| {
            let done = match deed(conn).await? {
                Ok(done) => done,
                Err(refusal) => return Ok(Err(refusal.into())),
            };
            let (value, hints) = self.write(conn, done).await?;
            Ok(Ok((answer(value), hints)))
        });
        let did = did.await?;
        self.publish(&did.after.unwrap_or_default());
        Ok(did.answer)
    }

    /// The inbox events of a deed, in its transaction.
    pub async fn write<T>(&self, conn: &mut PgConnection, done: Done<T>) -> Result<(T, Hints)> {
        let Done { value, mut events, told } = done;
        events.extend(told.iter().map(|n| (n.player_id, n.event())));
        let seqs = inbox::append(conn, &events).await?;
        if !told.is_empty() {
            notifications::trim(conn, &told, self.kept).await?;
        }
        let hints = seqs.into_iter().zip(events).map(|(seq, (player, event))| (player, seq, event));
        Ok((value, hints.collect()))
    }

    pub fn publish(&self, hints: &[notifications::Published]) {
        for (player, seq, event) in hints {
            asobi_bus::inbox::publish(&self.publisher, *player, *seq, event);
        }
    }
}
