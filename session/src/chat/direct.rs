//! Direct messages: stored in the two players' channel, told to the recipient through their inbox, both or neither.

use std::sync::Arc;

use asobi_service_kit::telemetry;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{ChannelId, Outgoing, Refusal, SendError, Sent};
use crate::hub::Hub;

/// Why a direct message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DirectError {
    #[error("the content is empty")]
    ContentEmpty,
    #[error("the content is too large")]
    ContentTooLarge,
    #[error("one of the two blocks the other")]
    Blocked,
    #[error("it cannot be told whether the message may be sent")]
    Unavailable,
    #[error(transparent)]
    Send(#[from] SendError),
}

impl Hub {
    /// Sends a direct message; answers its channel when it is stored.
    ///
    /// # Errors
    /// [`DirectError`]
    pub async fn send_direct(
        self: &Arc<Self>,
        sender: Uuid,
        recipient: Uuid,
        content: String,
        key: Option<String>,
    ) -> Result<(String, Sent), DirectError> {
        if content.is_empty() {
            return Err(DirectError::ContentEmpty);
        }
        if content.len() > self.config.limits.chat_bytes {
            return Err(DirectError::ContentTooLarge);
        }
        let channel_id = ChannelId::dm(sender, recipient);
        let channel = ChannelId::Dm(sender.min(recipient), sender.max(recipient));
        self.may_use(sender, &channel).await.map_err(|refusal| match refusal {
            Refusal::Blocked => DirectError::Blocked,
            Refusal::NotAuthorized | Refusal::Unavailable => DirectError::Unavailable,
        })?;
        let (done, answer) = oneshot::channel();
        let message = Outgoing {
            channel_id: channel_id.clone(),
            sender,
            content,
            key,
            recipient: Some(recipient),
            traceparent: telemetry::traceparent(),
        };
        // Nobody waiting any more is no error: the message is stored all the same.
        self.chat.send(message, move |outcome| {
            let _ = done.send(outcome);
        })?;
        // The writer answers everything it takes, within its own deadlines.
        let sent = answer.await.map_err(|_| SendError::Unconfirmed)??;
        Ok((channel_id, sent))
    }
}
