//! What a leader does while it leads: four tasks that share a [`Reign`].
//!
//! ```text
//!  bus ──► grouping ──(claimed)──► creates ──(running)──► tells ──► inboxes, bus
//!             ▲ requeued tickets      │ ▲                   ▲
//!             └───────────────────────┘ └───── sweep ───────┘  what the rows say was left over
//! ```

mod grouping;
mod sweep;

use std::{sync::Arc, time::Duration};

use asobi_bus::Subscription;
use asobi_cluster::leader::Leadership;
use asobi_store::allocation;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    allocate,
    deps::{Deps, Reign},
};

/// How long what is in flight may take when this process drains; the next leader finishes what did not make it.
const WIND_UP: Duration = Duration::from_secs(2);

/// Leads until the leadership is over or `quiet` is cancelled; then no group is formed any more and what is in flight is finished.
/// `events`: to queue, modes and nodes, fresh, so that it begins with a resync.
pub async fn lead(deps: Arc<Deps>, leadership: Leadership, events: Subscription, quiet: CancellationToken) {
    let over = leadership.over();
    deps.status.leads(leadership.term);
    let mut work = start(&deps, leadership, events, &quiet);
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
}

/// Publishes again what the leader before this one may have committed and not published: who has it already passes it over by its number.
async fn republish(reign: Arc<Reign>) {
    const SECONDS: f64 = 15.0;
    const EVENTS: i64 = 5_000;
    let pool = &reign.deps.pool;
    match reign.bounded(async { Ok(allocation::recent_events(pool, SECONDS, EVENTS).await?) }).await {
        Ok(events) => {
            for event in events {
                asobi_bus::inbox::publish(&reign.deps.publisher, event.player_id, event.seq, &event.event);
            }
        }
        Err(error) => tracing::warn!(%error, "Recent inbox events could not be published again."),
    }
}

fn start(deps: &Arc<Deps>, leadership: Leadership, events: Subscription, quiet: &CancellationToken) -> JoinSet<()> {
    let reign = Arc::new(Reign::new(Arc::clone(deps), leadership));
    let (creates, create_queue) = mpsc::channel(allocate::CREATE_QUEUE);
    let (tells, tell_queue) = mpsc::channel(allocate::TELL_QUEUE);
    let mut work = JoinSet::new();
    let grouping = grouping::Grouping::new(Arc::clone(&reign), events, creates.clone());
    work.spawn(grouping.run(quiet.clone()));
    let sweep = sweep::Sweep::new(Arc::clone(&reign), creates, tells.clone());
    work.spawn(sweep.run(quiet.clone()));
    work.spawn(allocate::run_creates(Arc::clone(&reign), create_queue, tells));
    work.spawn(republish(Arc::clone(&reign)));
    work.spawn(allocate::run_tells(reign, tell_queue));
    work
}
