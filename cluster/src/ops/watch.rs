//! `WatchMatch`: one match from its host, and from the next one when it moves.
//!
//! ```text
//!   the row ── runs at a host ──► its stream ── a state ──► sent on
//!     ▲  │                            │
//!     │  └── over ──► `ended`, the end │ ended, broke
//!     └────────── after a moment ◄────┘
//! ```
//!
//! The row decides, whatever a host says: a match that is over has ended, one that runs elsewhere is watched there. A host that is lost costs
//! the time until its matches are given to another.

use std::{pin::Pin, time::Duration};

use asobi_proto::ops_v1::{
    WatchHostedMatchRequest, WatchHostedMatchResponse, WatchMatchRequest, WatchMatchResponse, WatchedEnd, WatchedMove,
    watch_match_response::Kind,
};
use asobi_store::matches::MatchRow;
use futures_util::{Stream, stream};
use sqlx::PgPool;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};
use uuid::Uuid;

use super::{
    hosted::{self, Hosts},
    matches::state,
};

pub(super) type Watch = Pin<Box<dyn Stream<Item = Result<WatchMatchResponse, Status>> + Send>>;

/// Between two looks at the row.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a match may be with no host that answers, or its row unread, before the watcher is told.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a host may take to begin.
const OPEN: Duration = Duration::from_secs(3);

/// A watch under way.
pub(super) struct Watching {
    pool: PgPool,
    hosts: Hosts,
    match_id: Uuid,
    asked: WatchHostedMatchRequest,
    row: MatchRow,
    /// From the host in the row.
    states: Option<Streaming<WatchHostedMatchResponse>>,
    /// Where the states came from last.
    seen_at: Option<(String, i64)>,
    /// Since when no host is heard.
    blind_since: Instant,
    over: bool,
    /// One of the places for watchers.
    _place: OwnedSemaphorePermit,
}

/// The messages, until the match has ended or this process goes down.
pub(super) fn stream(watching: Watching, draining: CancellationToken) -> Watch {
    Box::pin(stream::unfold((watching, draining), async |(mut watching, draining)| {
        if watching.over {
            return None;
        }
        let next = tokio::select! {
            next = watching.next() => next?,
            () = draining.cancelled() => {
                watching.over = true;
                Err(Status::unavailable("this node goes down; watch at another"))
            }
        };
        Some((next, (watching, draining)))
    }))
}

impl Watching {
    pub fn new(
        pool: PgPool,
        hosts: Hosts,
        match_id: Uuid,
        request: WatchMatchRequest,
        row: MatchRow,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let asked = WatchHostedMatchRequest {
            match_id: match_id.to_string(),
            player_id: request.player_id,
            max_per_second: request.max_per_second,
        };
        Self {
            pool,
            hosts,
            match_id,
            asked,
            row,
            states: None,
            seen_at: None,
            blind_since: Instant::now(),
            over: false,
            _place: place,
        }
    }

    /// What is said next; none: that was all.
    async fn next(&mut self) -> Option<Result<WatchMatchResponse, Status>> {
        while !self.over {
            if let Some(states) = &mut self.states {
                match states.message().await {
                    Ok(Some(WatchHostedMatchResponse { state: Some(state) })) => {
                        return Some(Ok(said(Kind::State(state))));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        self.states = None;
                        self.blind_since = Instant::now();
                    }
                }
                if self.states.is_some() {
                    continue;
                }
                self.look_again().await;
            }
            if hosted::is_over(&self.row) {
                self.over = true;
                let result_json = self.row.result.as_ref().map(ToString::to_string).unwrap_or_default();
                return Some(Ok(said(Kind::Ended(WatchedEnd { state: state(&self.row.state).into(), result_json }))));
            }
            match self.open().await {
                Ok(Some(moved)) => return Some(Ok(said(Kind::Moved(moved)))),
                Ok(None) => {}
                Err(status) => {
                    self.over = self.blind_since.elapsed() > PATIENCE || is_final(&status);
                    if self.over {
                        return Some(Err(status));
                    }
                    tokio::time::sleep(PAUSE).await;
                    self.look_again().await;
                }
            }
        }
        None
    }

    /// A row that cannot be read stays what it was.
    async fn look_again(&mut self) {
        match hosted::row(&self.pool, self.match_id).await {
            Ok(row) => self.row = row,
            Err(status) => {
                tracing::debug!(%status, game.match_id = %self.match_id, "A match that is watched was not found.");
            }
        }
    }

    /// Opens the host's stream; a move if it is another host than before.
    async fn open(&mut self) -> Result<Option<WatchedMove>, Status> {
        let hosting = self.hosts.of(self.row.clone())?;
        let mut client = hosting.client();
        // No deadline in the request: it would end the stream.
        let opening = client.watch_hosted_match(Request::new(self.asked.clone()));
        let opened = tokio::time::timeout(OPEN, opening).await;
        let opened = opened.map_err(|_| Status::unavailable("the match's host does not answer"))??;
        self.states = Some(opened.into_inner());
        let here = (self.row.host_node.clone(), self.row.epoch);
        let before = self.seen_at.replace(here.clone());
        let moved = before.is_some_and(|before| before.0 != here.0);
        Ok(moved.then_some(WatchedMove { node_id: here.0, epoch: here.1 }))
    }
}

/// What waiting does not help against: the request is wrong, or there is no room for watchers.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::ResourceExhausted | Code::PermissionDenied | Code::Unimplemented
    )
}

fn said(kind: Kind) -> WatchMatchResponse {
    WatchMatchResponse { kind: Some(kind) }
}
