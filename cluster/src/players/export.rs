//! A player's data as a stream of records. Nothing runs by itself: the next page is read when whoever asked has taken the last one, so that
//! an export takes no more memory than a page, however much there is.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    time::Duration,
};

use asobi_proto::{error::ErrorCode, ops_v1::ExportPlayerResponse};
use asobi_service_kit::grpc::status;
use asobi_store::{
    export::{self, After, Record, Section},
    within,
};
use futures_util::{Stream, stream};
use sqlx::PgPool;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use uuid::Uuid;

use super::wire::unavailable;

/// Exports of one process at the same time.
pub(super) const AT_ONCE: usize = 4;
const ROWS: i64 = 200;
/// Of one page.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) type Records = Pin<Box<dyn Stream<Item = Result<ExportPlayerResponse, Status>> + Send>>;

struct Export {
    pool: PgPool,
    player: Uuid,
    /// Those to come; the first is being read.
    sections: VecDeque<Section>,
    after: After,
    read: VecDeque<Record>,
    counts: BTreeMap<&'static str, u64>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

pub(super) fn records(pool: PgPool, player: Uuid, permit: OwnedSemaphorePermit) -> Records {
    let export = Export {
        pool,
        player,
        sections: Section::ALL.into(),
        after: After::Start,
        read: VecDeque::new(),
        counts: BTreeMap::new(),
        ended: false,
        _permit: permit,
    };
    Box::pin(stream::try_unfold(export, |mut export| async move {
        Ok(export.next().await?.map(|(kind, json)| {
            let record = ExportPlayerResponse { kind: kind.into(), json: json.to_string() };
            (record, export)
        }))
    }))
}

impl Export {
    async fn next(&mut self) -> Result<Option<Record>, Status> {
        loop {
            if let Some((kind, record)) = self.read.pop_front() {
                *self.counts.entry(kind).or_default() += 1;
                return Ok(Some((kind, record)));
            }
            let Some(section) = self.sections.front().copied() else { break };
            let page = export::page(&self.pool, self.player, section, &self.after, ROWS);
            let page = within(DEADLINE, page).await.map_err(|error| unavailable(&error))?;
            self.read.extend(page.records);
            match page.next {
                Some(after) => self.after = after,
                None => {
                    self.sections.pop_front();
                    self.after = After::Start;
                }
            }
        }
        if std::mem::replace(&mut self.ended, true) {
            return Ok(None);
        }
        Ok(Some(export::end(self.player, &self.counts)))
    }
}

pub(super) fn too_many() -> Status {
    status(
        ErrorCode::RATE_LIMITED,
        "as many exports as this node makes at once are under way; ask another one or again",
    )
}
