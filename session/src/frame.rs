//! A client frame that was written once and is shared by reference count with every socket it goes to.

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::Bytes;

pub use crate::link::FrameKind;

/// One whole client frame: JSON text. Cloning counts a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Utf8Bytes);

impl Frame {
    /// None when the bytes are not UTF-8, which no WebSocket text frame may carry.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        Utf8Bytes::try_from(bytes).ok().map(Self)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn into_message(self) -> Message {
        Message::Text(self.0)
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}
