//! `asobi.ops.v1.HostedMatchService`: what other processes of the cluster ask for operators of the matches that run here.

use std::{pin::Pin, sync::Arc, time::Duration};

use asobi_proto::ops_v1::{
    EndHostedMatchRequest, EndHostedMatchResponse, InspectHostedMatchRequest, InspectHostedMatchResponse,
    WatchHostedMatchRequest, WatchHostedMatchResponse, WatchedState,
    hosted_match_service_server::{HostedMatchService, HostedMatchServiceServer},
};
use asobi_service_kit::grpc::invalid;
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::host::{AskError, Host, Seen};

/// Watches of all matches of this host; more are refused.
const WATCHERS: usize = 128;
/// Views a second: those that are asked for where nothing is said, and the most.
const USUAL: u32 = 2;
const MOST: u32 = 20;

/// `stop` ends the streams.
pub fn service(host: Arc<Host>, stop: CancellationToken) -> HostedMatchServiceServer<impl HostedMatchService> {
    HostedMatchServiceServer::new(Hosted { host, stop, watchers: Arc::new(Semaphore::new(WATCHERS)) })
}

struct Hosted {
    host: Arc<Host>,
    stop: CancellationToken,
    watchers: Arc<Semaphore>,
}

type Watch = Pin<Box<dyn Stream<Item = Result<WatchHostedMatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl HostedMatchService for Hosted {
    async fn inspect_hosted_match(
        &self,
        request: Request<InspectHostedMatchRequest>,
    ) -> Result<Response<InspectHostedMatchResponse>, Status> {
        let request = request.into_inner();
        let match_id = id(&request.match_id, "match_id")?;
        let inspection = self.host.inspect(match_id, player(&request.player_id)?).await.map_err(|e| status(&e))?;
        Ok(Response::new(InspectHostedMatchResponse { inspection: Some(inspection) }))
    }

    type WatchHostedMatchStream = Watch;

    async fn watch_hosted_match(&self, request: Request<WatchHostedMatchRequest>) -> Result<Response<Watch>, Status> {
        let request = request.into_inner();
        let match_id = id(&request.match_id, "match_id")?;
        let place = Arc::clone(&self.watchers).try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted("too many matches are watched at this host"))?;
        let every = Duration::from_secs(1) / pace(request.max_per_second);
        let views = self.host.watch(match_id, player(&request.player_id)?, every).await.map_err(|e| status(&e))?;
        let watching =
            Watching { views, stop: self.stop.clone(), node_id: self.host.node_id().to_owned(), _place: place };
        Ok(Response::new(Box::pin(stream::unfold(watching, Watching::next))))
    }

    async fn end_hosted_match(
        &self,
        request: Request<EndHostedMatchRequest>,
    ) -> Result<Response<EndHostedMatchResponse>, Status> {
        let request = request.into_inner();
        let match_id = id(&request.match_id, "match_id")?;
        self.host.end(match_id, request.result_json).await.map_err(|error| status(&error))?;
        Ok(Response::new(EndHostedMatchResponse {}))
    }
}

struct Watching {
    views: watch::Receiver<Seen>,
    stop: CancellationToken,
    node_id: String,
    /// One of the places for watchers.
    _place: OwnedSemaphorePermit,
}

impl Watching {
    /// The next view that is new; none: the match is over, or not here any more, or this host goes down.
    async fn next(mut self) -> Option<(Result<WatchHostedMatchResponse, Status>, Self)> {
        loop {
            tokio::select! {
                changed = self.views.changed() => changed.ok()?,
                () = self.stop.cancelled() => return None,
            }
            let seen = self.views.borrow_and_update().clone();
            let Some((number, view)) = seen else { continue };
            let state = WatchedState { view: Some((*view).clone()), number, node_id: self.node_id.clone() };
            return Some((Ok(WatchHostedMatchResponse { state: Some(state) }), self));
        }
    }
}

fn pace(asked: u32) -> u32 {
    if asked == 0 { USUAL } else { asked.min(MOST) }
}

fn id(text: &str, field: &str) -> Result<Uuid, Status> {
    Uuid::try_parse(text).map_err(|_| invalid(field, "must be a UUID"))
}

fn player(text: &str) -> Result<Option<Uuid>, Status> {
    if text.is_empty() { Ok(None) } else { id(text, "player_id").map(Some) }
}

fn status(error: &AskError) -> Status {
    let message = error.to_string();
    match error {
        AskError::NotHere => Status::not_found(message),
        AskError::Unanswered | AskError::Busy => Status::unavailable(message),
        AskError::Watched => Status::resource_exhausted(message),
    }
}
