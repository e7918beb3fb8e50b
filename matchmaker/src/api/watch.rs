//! `WatchTicket`: a stream that reads its ticket's row once a second and says what changed. Rows are read, not listened for: a watcher lives on
//! any replica, and a tool's second does not matter.

use std::{pin::Pin, sync::Arc, time::Duration};

use asobi_proto::matchmaker_v1::{self as wire, Ticket, TicketState, WatchTicketResponse};
use asobi_store::{tickets, within};
use futures_util::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::{Api, tickets::written as ticket_written};
use crate::{deps::Deps, stats::Estimate};

pub(super) type Watch = Pin<Box<dyn Stream<Item = Result<WatchTicketResponse, Status>> + Send>>;

const EVERY: Duration = Duration::from_secs(1);
/// How long a stream outlives its ticket's time while nobody leads who could end the ticket.
const PATIENCE: time::Duration = time::Duration::minutes(2);
/// Reads in a row that may fail before the watcher is told.
const FAILURES: u32 = 10;

struct Watching {
    deps: Arc<Deps>,
    draining: CancellationToken,
    ticket_id: Uuid,
    last: Option<WatchTicketResponse>,
    over: bool,
    failures: u32,
    /// One of the places for watchers.
    _place: OwnedSemaphorePermit,
}

impl Api {
    pub(super) async fn watch(&self, ticket_id: Uuid) -> Result<Watch, Status> {
        let place = Arc::clone(&self.watchers).try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted("too many tickets are watched here"))?;
        // Whether there is such a ticket is known before the stream begins.
        self.ticket(ticket_id).await?;
        let watching = Watching {
            deps: Arc::clone(&self.deps),
            draining: self.draining.clone(),
            ticket_id,
            last: None,
            over: false,
            failures: 0,
            _place: place,
        };
        Ok(Box::pin(stream::unfold(watching, async |mut watching| {
            let next = watching.next().await?;
            Some((next, watching))
        })))
    }
}

impl Watching {
    /// What is to be said next; none: that was all.
    async fn next(&mut self) -> Option<Result<WatchTicketResponse, Status>> {
        while !self.over {
            if self.last.is_some() || self.failures > 0 {
                tokio::select! {
                    () = tokio::time::sleep(EVERY) => {}
                    () = self.draining.cancelled() => {
                        self.over = true;
                        return Some(Err(Status::unavailable("this matchmaker goes down; watch at another")));
                    }
                }
            }
            let read = within(self.deps.limits.database, tickets::get(&self.deps.pool, self.ticket_id)).await;
            match read {
                Ok(Some(ticket)) => {
                    self.failures = 0;
                    if let Some(change) = self.changed(ticket) {
                        return Some(Ok(change));
                    }
                }
                // Ended, and purged while the database was away.
                Ok(None) => self.over = true,
                Err(error) => {
                    self.failures += 1;
                    if self.failures >= FAILURES {
                        self.over = true;
                        return Some(Err(super::unavailable(error)));
                    }
                }
            }
        }
        None
    }

    fn changed(&mut self, ticket: tickets::Ticket) -> Option<WatchTicketResponse> {
        let pending = ticket.state == tickets::TicketState::Pending;
        self.over = !pending || ticket.expires_at + PATIENCE < time::OffsetDateTime::now_utc();
        let estimate = if pending { self.deps.estimates(&[ticket.id]).unwrap_or_default().pop() } else { None };
        let now = WatchTicketResponse { ticket: Some(ticket_written(ticket)), estimate: estimate.map(written) };
        if self.last.as_ref().is_some_and(|last| same(last, &now)) {
            return None;
        }
        self.last = Some(now.clone());
        Some(now)
    }
}

/// Time passes in every estimate; that alone is no news.
fn same(a: &WatchTicketResponse, b: &WatchTicketResponse) -> bool {
    let state = |r: &WatchTicketResponse| r.ticket.as_ref().map_or(TicketState::Unspecified, Ticket::state);
    let position = |r: &WatchTicketResponse| r.estimate.as_ref().map(|e| e.position);
    state(a) == state(b) && position(a) == position(b)
}

pub(super) fn written(estimate: Estimate) -> wire::Estimate {
    wire::Estimate {
        ticket_id: estimate.ticket_id.to_string(),
        waited_ms: estimate.waited_ms,
        estimated_wait_ms: estimate.estimated_wait_ms,
        position: estimate.position,
    }
}
