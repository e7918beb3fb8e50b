//! What a leader does while it leads: tasks that share a [`Reign`].
//!
//! ```text
//!  bus ──► grouping ──(claimed)──► creates ──(running)──► tells ──► inboxes, bus
//!             ▲  └────(claimed for a running match)──► joins ──────────────┘
//!             │ requeued tickets      │ ▲               │ ▲ ▲
//!             └───────────────────────┴─┼───────────────┘ │ │
//!                                       ├──── sweep ──────┴─┤  what the rows say was left over
//!                                       └──── watch ────────┘  matches whose host is dead go to another
//!          moves ──► hosts: MoveMatch, from a host that cannot reach the database, and from a full one to an empty one
//! ```

mod failover;
pub mod feed;
mod grouping;
mod moves;
mod rebalance;
mod resume;
mod rounds;
mod sweep;
mod watch;

use std::{sync::Arc, time::Duration};

use asobi_cluster::leader::Leadership;
use asobi_store::allocation;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{feed::Feed, grouping::Grouping};
use crate::{
    allocate,
    deps::{Deps, Reign, lock},
};

/// How long what is in flight may take when this process drains; the next leader finishes what did not make it.
const WIND_UP: Duration = Duration::from_secs(2);

/// Leads until the leadership is over or `quiet` is cancelled; then no group is formed any more and what is in flight is finished.
/// `feed`: what this process followed the queue with while it stood by.
pub async fn lead(
    deps: Arc<Deps>,
    leadership: Leadership,
    feed: Arc<tokio::sync::Mutex<Feed>>,
    quiet: CancellationToken,
) {
    let over = leadership.over();
    deps.status.leads(leadership.term);
    let mut work = start(&deps, leadership, feed, &quiet);
    let wind_up = async {
        quiet.cancelled().await;
        tokio::time::sleep(WIND_UP).await;
    };
    tokio::pin!(wind_up);
    loop {
        tokio::select! {
            () = over.cancelled() => break,
            () = &mut wind_up => break,
            ended = work.join_next() => match ended {
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(_) => {}
                None => break,
            },
        }
    }
    // Whatever is dropped here was not committed, or its rows say how far it came.
    work.shutdown().await;
    deps.status.stands_by();
    lock(&deps.labels).clear_queues();
}

/// Publishes again what the leader before this one may have committed and not published: who has it already passes it over by its number.
async fn republish(reign: Arc<Reign>) {
    const SECONDS: f64 = 15.0;
    const EVENTS: i64 = 5_000;
    let pool = &reign.deps.pool;
    match reign.bounded(async { Ok(allocation::recent_events(pool, SECONDS, EVENTS).await?) }).await {
        Ok(events) => reign.publish_stored(&events),
        Err(error) => tracing::warn!(%error, "Recent inbox events could not be published again."),
    }
}

fn start(
    deps: &Arc<Deps>,
    leadership: Leadership,
    feed: Arc<tokio::sync::Mutex<Feed>>,
    quiet: &CancellationToken,
) -> JoinSet<()> {
    let reign = Arc::new(Reign::new(Arc::clone(deps), leadership));
    let (creates, create_queue) = mpsc::channel(allocate::CREATE_QUEUE);
    let (tells, tell_queue) = mpsc::channel(allocate::TELL_QUEUE);
    let (joins, join_queue) = mpsc::channel(allocate::JOIN_QUEUE);
    let mut work = JoinSet::new();
    let grouping = Grouping { reign: Arc::clone(&reign), creates: creates.clone(), joins: joins.clone() };
    work.spawn(grouping.run(feed, quiet.clone()));
    let left = resume::Work { creates, tells: tells.clone(), joins };
    work.spawn(rounds::run(watch::Watch::new(Arc::clone(&reign), left.clone()), quiet.clone()));
    work.spawn(rounds::run(sweep::Sweep::new(Arc::clone(&reign), left), quiet.clone()));
    work.spawn(moves::run(Arc::clone(&reign), quiet.clone()));
    work.spawn(allocate::run_creates(Arc::clone(&reign), create_queue, tells));
    work.spawn(allocate::run_joins(Arc::clone(&reign), join_queue));
    work.spawn(republish(Arc::clone(&reign)));
    work.spawn(allocate::run_tells(reign, tell_queue));
    work
}
