//! What callers change, once per request id and into the audit. Each of these changes is the same when it is done twice, so it is done first and
//! written down after: whoever dies in between has it done again by whoever asks again.

use asobi_cluster::desk::Deed;
use prost::Message;
use tonic::{Response, Status};

use super::Api;

impl Api {
    pub(super) async fn once<M: Message, A: Message + Default + Clone>(
        &self,
        deed: Deed<'_>,
        request: &M,
        act: impl AsyncFnOnce() -> Result<A, Status>,
    ) -> Result<Response<A>, Status> {
        if let Some(answer) = self.desk.before(&deed, request).await? {
            return Ok(Response::new(answer));
        }
        let answer = act().await?;
        self.desk.record(deed, request, answer).await.map(Response::new)
    }
}
