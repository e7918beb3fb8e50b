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
    tickets::{self, CancelError, Created, NewTicket, TicketError, Wish, WishError},
    within,
};
use serde_json::Value;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tracing::Span;
use uuid::Uuid;

use crate::{
    conn::limits::PerKey,
    hub::Hub,
    together::{self, Ask, Together},
};

/// Of one call, from our side.
const DEADLINE: Duration = Duration::from_secs(3);
/// Players whose rate of invitations is remembered at once.
const RATE_KEYS: usize = 100_000;
/// Wishes that wait to be written; past it who wishes waits for room, within their deadline.
const WISHES: usize = 4_096;

type Wished = Result<Created, TicketError>;

/// What a node keeps for its players' parties and tickets; the rest is rows.
pub(crate) struct Queue {
    /// Invitations by their sender.
    pub invites: PerKey<Uuid>,
    /// Tickets on their way into rows, but for those of parties.
    tickets: Together<NewTicket, Wished>,
}

/// See [`write`].
pub(crate) type Wishes = mpsc::Receiver<Ask<NewTicket, Wished>>;

impl Queue {
    pub(crate) fn new() -> (Self, Wishes) {
        let (tickets, wishes) = Together::new(WISHES);
        (Self { invites: PerKey::new(Duration::from_secs(60), RATE_KEYS), tickets }, wishes)
    }
}

pub(crate) fn start(hub: &Arc<Hub>, wishes: Wishes) {
    let most = hub.max_queue();
    let pool = hub.pool.clone();
    hub.spawn("tickets", together::run(wishes, move |wishes| write(pool.clone(), wishes, most)));
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
        let created = bounded(async {
            let Some(party) = asked.party else {
                let new = NewTicket {
                    player: asked.player,
                    mode: asked.mode.clone(),
                    properties: asked.properties.clone(),
                    query: asked.query.clone(),
                    settings: Arc::clone(&settings),
                    span: Span::current(),
                };
                return self.queue.tickets.ask(new).await.unwrap_or_else(|| Err(unanswered()));
            };
            let most = self.max_queue();
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

    fn max_queue(&self) -> i64 {
        i64::try_from(self.config.matchmaker.max_queue).unwrap_or(i64::MAX)
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
    tokio::time::timeout(DEADLINE, work).await.map_err(|_| unanswered())?
}

fn unanswered() -> TicketError {
    TicketError::Db(asobi_store::Error::Deadline(DEADLINE))
}

/// Writes the tickets of many players, each answered by themselves.
///
/// | what happens | what the players hear |
/// | --- | --- |
/// | the commit is confirmed | queued, or why not |
/// | the database refuses something of the batch, or a lock is not to be had | nothing of it is stored; each is tried alone, as if they had come alone |
/// | the connection is lost, or the time is over | `not_ready`; whether they are queued is unknown, and a repeat is answered the ticket that waits |
/// | a player no longer waits for the answer | before it was begun: not written; after that: queued, as the repeat says |
async fn write(pool: PgPool, wishes: Vec<NewTicket>, most: i64) -> Option<Vec<Wished>> {
    match within(DEADLINE, tickets::create_many(&pool, &wishes, most)).await {
        Ok(answers) => Some(answers),
        Err(error) => {
            tracing::warn!(%error, tickets = wishes.len(), "Whether tickets were written is unknown.");
            None
        }
    }
}
