//! A client frame that was written once and is shared by reference count with every socket it goes to.

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::Bytes;

use crate::count;
pub use crate::link::FrameKind;

/// One whole client frame: JSON text. Cloning counts a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    text: Utf8Bytes,
    /// What is counted of it, worked out once for all that it goes to: its type's number in the low byte, above it when the
    /// sender's node took it, unix microseconds, 0: that is not measured.
    note: u64,
}

const KIND: u64 = 0xff;

impl Frame {
    /// None when the bytes are not UTF-8, which no WebSocket text frame may carry.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        Utf8Bytes::try_from(bytes).ok().map(Self::of)
    }

    fn of(text: Utf8Bytes) -> Self {
        let note = u64::try_from(count::kind_out(&text)).unwrap_or(KIND) & KIND;
        Self { text, note }
    }

    /// The same frame, of a message that was taken then.
    #[must_use]
    pub(crate) fn taken(self, at_us: Option<u64>) -> Self {
        Self { note: self.note & KIND | at_us.unwrap_or(0) << 8, ..self }
    }

    /// Its type's place in the table of types that are counted.
    pub(crate) fn kind(&self) -> usize {
        usize::try_from(self.note & KIND).unwrap_or(0)
    }

    pub(crate) fn taken_us(&self) -> Option<u64> {
        Some(self.note >> 8).filter(|us| *us > 0)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }

    pub(crate) fn into_message(self) -> Message {
        Message::Text(self.text)
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Self::of(text.into())
    }
}
