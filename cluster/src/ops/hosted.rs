//! Asking a match's host, wherever the match is: its row names the host, and who was asked too late is looked up again.
//!
//! | what happens | what is answered |
//! | --- | --- |
//! | the host does not have the match (it has moved, or has just ended) | the row is read again, three times in all; then UNAVAILABLE |
//! | the host does not answer in time, or cannot be reached | the same: another host may be given the match meanwhile |
//! | the match is over, or is not running yet | FAILED_PRECONDITION |
//! | the host refuses | what it says |

use std::{sync::Arc, time::Duration};

use asobi_proto::{error::ErrorCode, ops_v1::hosted_match_service_client::HostedMatchServiceClient};
use asobi_service_kit::grpc::{Channels, ClusterChannel, refusal, status};
use asobi_store::{
    matches::{self, MatchRow},
    within,
};
use sqlx::PgPool;
use tokio::time::Instant;
use tonic::{Code, Status};
use uuid::Uuid;

use super::lists::unread;
use crate::Directory;

const DEADLINE: Duration = Duration::from_secs(3);
/// Between two looks at where a match is.
const PAUSE: Duration = Duration::from_millis(150);
const TRIES: u32 = 3;

/// The way to hosts.
#[derive(Clone)]
pub(super) struct Hosts {
    pub directory: Arc<Directory>,
    pub channels: Channels,
}

/// A host that runs a match, and the row that says so.
pub(super) struct Hosting {
    pub row: MatchRow,
    pub channel: ClusterChannel,
}

impl Hosting {
    pub fn client(&self) -> HostedMatchServiceClient<ClusterChannel> {
        HostedMatchServiceClient::new(self.channel.clone())
    }
}

/// A match's row.
pub(super) async fn row(pool: &PgPool, match_id: Uuid) -> Result<MatchRow, Status> {
    let row = within(DEADLINE, matches::by_id(pool, match_id)).await.map_err(unread)?;
    row.ok_or_else(|| status(ErrorCode::MATCH_NOT_FOUND, "there is no such match"))
}

pub(super) fn is_over(row: &MatchRow) -> bool {
    row.state == "finished" || row.state == "failed"
}

impl Hosts {
    /// The host in a running match's row.
    pub fn of(&self, row: MatchRow) -> Result<Hosting, Status> {
        if row.state != "running" {
            let over = if is_over(&row) { "match_over" } else { "match_not_running" };
            return Err(refusal(over, format!("the match is {}, not running", row.state)));
        }
        let node = self.directory.incarnation(&row.host_node, row.host_incarnation);
        let address = node.as_ref().and_then(|node| node.grpc_addr.as_deref());
        let Some(address) = address else {
            return Err(Status::unavailable(format!("the match's host {} is not known here", row.host_node)));
        };
        Ok(Hosting { channel: self.channels.get(address), row })
    }

    /// Asks a match's host within `bound`, all tries together. Only what may be asked twice.
    pub async fn ask<T, F>(
        &self,
        pool: &PgPool,
        match_id: Uuid,
        bound: Duration,
        ask: impl Fn(Hosting) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let until = Instant::now() + bound;
        let mut tries = 0;
        loop {
            tries += 1;
            let asking = async { ask(self.of(row(pool, match_id).await?)?).await };
            let answer = tokio::time::timeout_at(until, asking).await;
            let away = match answer.unwrap_or_else(|_| Err(Status::unavailable("the match's host does not answer"))) {
                Err(away) if is_away(&away) => away,
                answer => return answer,
            };
            if tries >= TRIES || Instant::now() + PAUSE >= until {
                return Err(Status::unavailable(away.message()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether the match may be asked elsewhere, or again: a row that is not there is known by its code.
pub(super) fn is_away(status: &Status) -> bool {
    let no_row = asobi_service_kit::grpc::error_code(status) == Some(ErrorCode::MATCH_NOT_FOUND);
    !no_row && matches!(status.code(), Code::NotFound | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_that_is_not_at_its_host_is_looked_for_and_one_without_a_row_is_not() {
        assert!(is_away(&Status::not_found("the match does not run here")));
        assert!(is_away(&Status::unavailable("gone")));
        assert!(!is_away(&status(ErrorCode::MATCH_NOT_FOUND, "there is no such match")));
        assert!(!is_away(&Status::failed_precondition("the script cannot be saved")));
    }
}
