//! The end of a match whose host is gone and that no other goes on with.

use asobi_store::{allocation, inbox};
use uuid::Uuid;

use super::put_back;
use crate::{
    deps::{Reign, Result},
    frames,
};

/// Why a match is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Its host is gone, and it was given to no other.
    Orphaned,
    /// It was given to another, and none has claimed it.
    Stranded,
}

/// Fails matches, named by id and epoch, whose players know of them, and tells those. No ticket waits again: they are long spent. Answers how
/// many were failed.
///
/// # Errors
/// When the database fails or this leadership is over.
pub async fn lose(reign: &Reign, matches: &[(Uuid, i64)], why: Lost) -> Result<usize> {
    let ids: Vec<Uuid> = matches.iter().map(|(id, _)| *id).collect();
    // Who was to join one of them has not heard of it, and waits again.
    let joining = reign.bounded(async { Ok(allocation::claimed(&reign.deps.pool, &ids).await?) }).await?;
    for match_id in joining {
        put_back(reign, match_id, None, "its host is gone").await?;
    }
    let (ended, events, seqs) = reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            let (ended, seats) = match why {
                Lost::Orphaned => allocation::fail_orphans(&mut tx, matches).await?,
                Lost::Stranded => allocation::fail_stranded(&mut tx, matches).await?,
            };
            let events: Vec<_> = seats
                .into_iter()
                .map(|(match_id, player)| (player, frames::finished(match_id, &frames::host_lost())))
                .collect();
            let seqs = inbox::append(&mut tx, &events).await?;
            tx.commit().await?;
            Ok((ended, events, seqs))
        })
        .await?;
    reign.publish(&seqs, &events);
    reign.not_stranded(ids);
    if ended > 0 {
        metrics::counter!("asobi_matchmaker_orphans_total").increment(ended as u64);
        tracing::error!(matches = ended, players = events.len(), "Matches were lost with their host.");
    }
    Ok(ended)
}
