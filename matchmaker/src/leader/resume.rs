//! Work that the rows say was left over: an earlier leader's, that of a call whose outcome is unknown, that of a failover.

use std::sync::Arc;

use asobi_store::{
    allocation::{self, Open},
    backfill,
};
use tokio::sync::mpsc;

use crate::{
    allocate::Tell,
    deps::{Error, Reign, Result},
};

/// Rows of one look.
const ROWS: i64 = 1_000;

/// Where it goes.
#[derive(Clone)]
pub struct Work {
    pub creates: mpsc::Sender<Open>,
    pub tells: mpsc::Sender<Tell>,
    pub joins: mpsc::Sender<backfill::Open>,
}

/// Goes on with matches whose players were not told and that nobody in this process has in hand.
pub async fn matches(reign: &Arc<Reign>, work: &Work) -> Result<()> {
    let rows = reign.bounded(async { Ok(allocation::untold(&reign.deps.pool, ROWS).await?) }).await?;
    let mine = reign.take_in_hand(rows.iter().map(|row| row.id));
    if !mine.is_empty() {
        tracing::info!(matches = mine.len(), "Matches whose players were not told yet are taken up.");
    }
    for row in rows.into_iter().filter(|row| mine.contains(&row.id)) {
        let handed = if row.state == "allocating" {
            work.creates.send(row).await.is_ok()
        } else {
            work.tells.send(Tell { match_id: row.id, traceparent: row.traceparent }).await.is_ok()
        };
        if !handed {
            return Err(Error::Over);
        }
    }
    Ok(())
}

/// The same with players who were claimed for a running match.
pub async fn joins(reign: &Arc<Reign>, work: &Work) -> Result<()> {
    let rows = reign.bounded(async { Ok(backfill::open(&reign.deps.pool, ROWS).await?) }).await?;
    for row in rows {
        if reign.take_joining(row.match_id) {
            work.joins.send(row).await.map_err(|_| Error::Over)?;
        }
    }
    Ok(())
}
