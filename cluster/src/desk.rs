//! Where deeds of operators are done: once per request id, and written down in the very transaction that does them.
//!
//! ```text
//!  request id taken? ── done before ──► its answer again, nothing is done
//!        │ new
//!        ▼
//!  the deed ── refused ──► nothing is left behind
//!        │
//!        ▼
//!  audit + answer kept ──► commit ──► hints (the caller's to send)
//! ```
//!
//! **Invariant:** a deed that is there is in the audit, and one that is in the audit as done is there. Dying anywhere leaves all of it or nothing;
//! whoever asks again with the same id learns which.

use std::time::Duration;

use asobi_proto::error::ErrorCode;
use asobi_service_kit::grpc::{Caller, invalid, status};
use asobi_store::{
    audit::{self, Begun, Entry, REQUEST_ID_BYTES, RequestKey},
    within,
};
use prost::Message;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};
use tonic::Status;

/// Does deeds.
#[derive(Clone)]
pub struct Desk {
    pool: PgPool,
    /// Of one transaction.
    bound: Duration,
}

/// What is written down of a deed, besides that it was done.
pub struct Deed<'a> {
    pub caller: &'a Caller,
    /// `Service/Method`
    pub action: &'static str,
    /// Empty: the caller does not care; it is done each time it is sent.
    pub request_id: &'a str,
    /// What it is done to; empty: nothing that has a name.
    pub subject: String,
    /// An object.
    pub detail: Value,
}

/// A deed's answer, and what its caller does after the commit.
#[derive(Debug)]
pub struct Did<A, T> {
    pub answer: A,
    /// None: it was done before, and told then.
    pub after: Option<T>,
}

impl Desk {
    #[must_use]
    pub fn new(pool: PgPool, bound: Duration) -> Self {
        Self { pool, bound }
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Does a deed once. The deed answers, beside its answer, what is to be done after the commit.
    ///
    /// # Errors
    /// What the deed refuses with; INVALID_ARGUMENT for a request id that is too long or belongs to another request; UNAVAILABLE
    /// when the database does not answer: whether it was done is then learnt by asking again with the same id.
    pub async fn once<M: Message, A: Message + Default, T>(
        &self,
        deed: Deed<'_>,
        request: &M,
        act: impl AsyncFnOnce(&mut PgConnection) -> asobi_store::Result<Result<(A, T), Status>>,
    ) -> Result<Did<A, T>, Status> {
        let actor = deed.caller.to_string();
        let request_id = request_id(deed.request_id)?;
        let hash = hash(deed.action, request);
        let key = RequestKey { actor: &actor, request_id: &request_id, hash: &hash };
        let done = within(self.bound, async {
            let mut tx = asobi_store::begin(&self.pool).await?;
            match audit::begin_request(&mut tx, key).await? {
                Begun::New => {}
                Begun::Done(answer) => return Ok(Ok((answer, None))),
                Begun::Taken => return Ok(Err(taken())),
            }
            let (answer, after) = match act(&mut tx).await? {
                Ok(acted) => acted,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let answer = answer.encode_to_vec();
            audit::append(&mut tx, &entry(&deed, &actor, &request_id)).await?;
            audit::finish_request(&mut tx, key, &answer).await?;
            tx.commit().await?;
            Ok(Ok((answer, Some(after))))
        });
        let (answer, after) = done.await.map_err(|error| unavailable(&error))??;
        Ok(Did { answer: decode(&answer)?, after })
    }

    /// What this request was answered before, for deeds that are done elsewhere: they ask first, do it, and [`Desk::record`] it. Such a deed must
    /// do no harm when it is done twice, since dying in between forgets it.
    ///
    /// # Errors
    /// As [`Desk::once`]
    pub async fn before<M: Message, A: Message + Default>(
        &self,
        deed: &Deed<'_>,
        request: &M,
    ) -> Result<Option<A>, Status> {
        let actor = deed.caller.to_string();
        let request_id = request_id(deed.request_id)?;
        let hash = hash(deed.action, request);
        let key = RequestKey { actor: &actor, request_id: &request_id, hash: &hash };
        let begun = within(self.bound, async {
            // Rolled back: only looked at.
            let mut tx = asobi_store::begin(&self.pool).await?;
            audit::begin_request(&mut tx, key).await
        });
        match begun.await.map_err(|error| unavailable(&error))? {
            Begun::New => Ok(None),
            Begun::Done(answer) => decode(&answer).map(Some),
            Begun::Taken => Err(taken()),
        }
    }

    /// Writes down a deed that was done elsewhere, and its answer.
    ///
    /// # Errors
    /// As [`Desk::once`]
    pub async fn record<M: Message, A: Message + Default>(
        &self,
        deed: Deed<'_>,
        request: &M,
        answer: A,
    ) -> Result<A, Status> {
        Ok(self.once(deed, request, async |_| Ok(Ok((answer, ())))).await?.answer)
    }
}

fn request_id(given: &str) -> Result<String, Status> {
    match given.len() {
        0 => Ok(audit::fresh_request_id()),
        1..=REQUEST_ID_BYTES if !given.contains('\0') => Ok(given.to_owned()),
        _ => Err(invalid("request_id", format!("must have at most {REQUEST_ID_BYTES} bytes of text"))),
    }
}

fn hash<M: Message>(action: &str, request: &M) -> Vec<u8> {
    Sha256::new().chain_update(action).chain_update([0]).chain_update(request.encode_to_vec()).finalize().to_vec()
}

fn entry(deed: &Deed<'_>, actor: &str, request_id: &str) -> Entry {
    Entry {
        actor: actor.to_owned(),
        action: deed.action.to_owned(),
        subject: deed.subject.clone(),
        done: true,
        request_id: (!deed.request_id.is_empty()).then(|| request_id.to_owned()),
        detail: deed.detail.clone(),
    }
}

fn taken() -> Status {
    invalid("request_id", "was used for another request; give each request its own")
}

fn decode<A: Message + Default>(answer: &[u8]) -> Result<A, Status> {
    A::decode(answer).map_err(|error| {
        tracing::error!(%error, "An answer that was kept cannot be read.");
        status(ErrorCode::INTERNAL, "what this request was answered before cannot be read")
    })
}

/// The database failed: logged here, said without details.
fn unavailable(error: &asobi_store::Error) -> Status {
    tracing::warn!(%error, "What an operator asked could not be written, or it is not known whether it was.");
    status(ErrorCode::NOT_READY, "the database does not answer; ask again with the same request_id")
}
