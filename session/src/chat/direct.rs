//! Direct messages: stored in the two players' channel, told to the recipient through their inbox, both or neither.
//!
//! The recipient's account is not looked up, as the first release did not: a message to an id that names nobody is stored in
//! the sender's own history and told to no one. So nobody learns from an answer which accounts exist or were erased.

use std::{sync::Arc, time::Duration};

use asobi_proto::social_v1::TextKind;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{ChannelId, Outgoing, Refusal, SendError, Sent};
use crate::{
    hub::Hub,
    moderation::{Judged, Muted},
};

/// How long a sender waits. A writer that is busy with an outage answers in the end; by then its sender has been told that
/// the outcome is not known.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why a direct message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DirectError {
    #[error("the content is empty")]
    ContentEmpty,
    #[error("the content is too large")]
    ContentTooLarge,
    #[error("one of the two blocks the other")]
    Blocked,
    #[error("the sender is muted")]
    Muted(Muted),
    #[error("the content is refused")]
    Refused,
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
        let content = self.judge_direct(sender, recipient, content).await?;
        self.store_direct(sender, recipient, content, key).await
    }

    /// Whether a direct message may be sent; answers what is to be stored of it.
    pub(crate) async fn judge_direct(
        &self,
        sender: Uuid,
        recipient: Uuid,
        mut content: String,
    ) -> Result<String, DirectError> {
        if content.is_empty() {
            return Err(DirectError::ContentEmpty);
        }
        if content.len() > self.config.limits.chat_bytes {
            return Err(DirectError::ContentTooLarge);
        }
        let channel_id = ChannelId::dm(sender, recipient);
        let channel = ChannelId::Dm(sender.min(recipient), sender.max(recipient));
        let access = match self.known_access(sender, &channel) {
            Some(known) => known,
            None => self.may_use(sender, &channel).await,
        };
        access.map_err(|refusal| match refusal {
            Refusal::Blocked => DirectError::Blocked,
            Refusal::NotAuthorized | Refusal::Unavailable => DirectError::Unavailable,
        })?;
        if !self.moderation.is_read() && !self.moderation.reading().await {
            return Err(DirectError::Unavailable);
        }
        if let Some(mute) = self.moderation.muted(sender, &channel_id) {
            return Err(DirectError::Muted(mute));
        }
        content = judged(self.moderation.by_words(&content), content)?;
        if !self.moderation.has_filter() {
            return Ok(content);
        }
        judged(self.moderation.by_filter(TextKind::Direct, sender, &channel_id, &content).await, content)
    }

    /// Stores a direct message that may be sent.
    pub(crate) async fn store_direct(
        self: &Arc<Self>,
        sender: Uuid,
        recipient: Uuid,
        content: String,
        key: Option<String>,
    ) -> Result<(String, Sent), DirectError> {
        let channel_id = ChannelId::dm(sender, recipient);
        let (done, answer) = oneshot::channel();
        let message = Outgoing {
            channel_id: channel_id.clone(),
            sender,
            content,
            key,
            recipient: Some(recipient),
            span: asobi_trace::recorded_span(),
        };
        // Nobody waiting any more is no error: the message is stored all the same.
        self.chat.send(message, move |outcome| {
            let _ = done.send(outcome);
        })?;
        let sent = match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) | Err(_) => return Err(SendError::Unconfirmed.into()),
        };
        Ok((channel_id, sent))
    }
}

fn judged(judged: Judged, content: String) -> Result<String, DirectError> {
    match judged {
        Judged::Clean => Ok(content),
        Judged::Changed(changed) => Ok(changed),
        Judged::Refused => Err(DirectError::Refused),
        Judged::Unavailable => Err(DirectError::Unavailable),
    }
}
