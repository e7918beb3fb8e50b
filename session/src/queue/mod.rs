//! The queue as players of this node see it: putting them in and taking them out, and telling those who asked for it where they stand.

mod status;
mod watch;

use std::{sync::Arc, time::Duration};

use asobi_proto::{
    bus::{TicketItem, Topic},
    mode::ModeSettings,
};
use asobi_store::{
    inbox::StoredEvent,
    tickets::{self, CancelError, Created, TicketError, Wish, WishError},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{conn::limits::PerKey, hub::Hub};

/// Of one call, from our side.
const DEADLINE: Duration = Duration::from_secs(3);
/// Players whose rate of invitations is remembered at once.
const RATE_KEYS: usize = 100_000;

/// What a node keeps for its players' parties and tickets; the rest is rows.
pub(crate) struct Queue {
    /// Invitations by their sender.
    pub invites: PerKey<Uuid>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self { invites: PerKey::new(Duration::from_secs(60), RATE_KEYS) }
    }
}

pub(crate) fn start(hub: &Arc<Hub>) {
    hub.spawn("queue status", status::run(Arc::clone(hub)));
    hub.spawn("parties", watch::run(Arc::clone(hub)));
}

/// What a player asks for.
#[derive(Debug, Clone)]
pub struct Enqueue {
    pub player: Uuid,
    pub mode: String,
    pub properties: Value,
    pub query: Option<String>,
    /// The party that the player leads.
    pub party: Option<Uuid>,
}

/// Why nobody was queued.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    #[error("there is no such mode")]
    UnknownMode,
    #[error(transparent)]
    Wish(#[from] WishError),
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

impl Hub {
    /// Queues a player, who is known to exist, or with a party all of it, and wakes the leader.
    ///
    /// # Errors
    /// See [`EnqueueError`].
    pub async fn enqueue(&self, asked: &Enqueue) -> Result<(Created, Arc<ModeSettings>), EnqueueError> {
        let settings = self.modes.get(&asked.mode).await.ok_or(EnqueueError::UnknownMode)?;
        let wish = Wish { properties: &asked.properties, query: asked.query.as_deref() };
        tickets::check(wish, &settings)?;
        let most = i64::try_from(self.config.matchmaker.max_queue).unwrap_or(i64::MAX);
        let created = bounded(async {
            let Some(party) = asked.party else {
                return tickets::create(&self.pool, asked.player, &asked.mode, wish, &settings, most).await;
            };
            let created =
                tickets::create_party(&self.pool, party, asked.player, &asked.mode, wish, &settings, most).await?;
            self.publish_told(&created.told);
            Ok(created.created)
        })
        .await?;
        if !created.already_queued {
            self.wake_leader(created.ticket.id, false);
        }
        Ok((created, settings))
    }

    /// Takes a ticket out for its player, a party's for its leader, and wakes the leading matchmaker.
    ///
    /// # Errors
    /// See [`CancelError`].
    pub async fn withdraw(&self, ticket_id: Uuid, player: Uuid) -> Result<(), CancelError> {
        let deadline = |_| CancelError::Db(asobi_store::Error::Deadline(DEADLINE));
        let cancelling = tickets::cancel(&self.pool, ticket_id, player);
        let cancelled = tokio::time::timeout(DEADLINE, cancelling).await.map_err(deadline)??;
        self.publish_told(&cancelled.told);
        self.wake_leader(ticket_id, true);
        Ok(())
    }

    pub(crate) fn publish_told(&self, told: &[StoredEvent]) {
        for told in told {
            asobi_bus::inbox::publish(&self.publisher, told.player_id, told.seq, &told.event);
        }
    }

    /// A lost wake-up costs the leader's own look into the rows.
    pub(crate) fn wake_leader(&self, ticket_id: Uuid, gone: bool) {
        let _ = self.publisher.publish(Topic::Queue, &TicketItem { ticket_id, gone, backfill: false });
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, TicketError>>) -> Result<T, TicketError> {
    let deadline = |_| TicketError::Db(asobi_store::Error::Deadline(DEADLINE));
    tokio::time::timeout(DEADLINE, work).await.map_err(deadline)?
}
