//! What operators ask of matches that run here. Nothing of it waits in a match's way: a full queue refuses it.

use std::time::Duration;

use asobi_proto::ops_v1::MatchInspection;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{
    Host,
    mailbox::{MatchHandle, Message},
    room::{Seen, Wish},
};

/// How long a match may take to answer: it may be in a callback that waits, or frozen for a move.
const ANSWER: Duration = Duration::from_secs(2);
/// How long the end of a match may take to be written.
const END: Duration = Duration::from_secs(4);

/// Why an operator gets no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("the match does not run here")]
    NotHere,
    #[error("the match did not answer in time")]
    Unanswered,
    #[error("the match has too much to do")]
    Busy,
    #[error("too many watch this match")]
    Watched,
}

impl Host {
    /// A running match as it is, and what the player sees of it; none: all of its state.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn inspect(&self, match_id: Uuid, player: Option<Uuid>) -> Result<MatchInspection, AskError> {
        let handle = self.runs(match_id)?;
        let mut inspection = ask(&handle, ANSWER, |reply| Message::Inspect { player, reply }).await?;
        inspection.node_id.clone_from(&self.node_id);
        Ok(inspection)
    }

    /// A running match as it changes: the receiver has the last view, and is closed when the match is over or runs elsewhere.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn watch(
        &self,
        match_id: Uuid,
        player: Option<Uuid>,
        every: Duration,
    ) -> Result<watch::Receiver<Seen>, AskError> {
        let handle = self.runs(match_id)?;
        let (seen, views) = watch::channel(None);
        let room = ask(&handle, ANSWER, |reply| Message::Watch { wish: Wish { player, every, seen }, reply }).await?;
        if room { Ok(views) } else { Err(AskError::Watched) }
    }

    /// Ends a match, with a result as JSON text; answers when that is written.
    ///
    /// # Errors
    /// See [`AskError`]. After [`AskError::Unanswered`] it may end all the same. [`AskError::NotHere`] also when it has just ended by itself.
    pub async fn end(&self, match_id: Uuid, result: String) -> Result<(), AskError> {
        let handle = self.runs(match_id)?;
        let theirs = ask(&handle, END, |reply| Message::End { result, reply }).await?;
        if theirs { Ok(()) } else { Err(AskError::NotHere) }
    }

    fn runs(&self, match_id: Uuid) -> Result<MatchHandle, AskError> {
        self.running(match_id).and_then(|_| self.find(match_id)).ok_or(AskError::NotHere)
    }

    /// The node's id, as the registry has it.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.node_id
    }
}

async fn ask<T>(
    handle: &MatchHandle,
    bound: Duration,
    question: impl FnOnce(oneshot::Sender<T>) -> Message,
) -> Result<T, AskError> {
    let (reply, answer) = oneshot::channel();
    if !handle.offer(question(reply)) {
        return Err(if handle.is_over() { AskError::NotHere } else { AskError::Busy });
    }
    match tokio::time::timeout(bound, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        // A match that has ended or moved drops the question.
        Ok(Err(_)) => Err(AskError::NotHere),
        Err(_) => Err(AskError::Unanswered),
    }
}
