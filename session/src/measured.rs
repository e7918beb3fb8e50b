//! What `benches/instructions.rs` measures of the inside, and nothing else.

use std::sync::Arc;

use crate::{
    chat::Channels,
    conn::{Bounds, Conn},
    frame::Frame,
    link::SessionNo,
};

const CHANNEL: &str = "global:measured";

/// A channel whose members are all here, each with an outbox and none with a socket.
pub struct Room {
    channels: Channels,
    members: Vec<Arc<Conn>>,
    seq: i64,
}

impl Room {
    /// Its members have heard one message each, so that their queues have the few slots that they keep.
    #[must_use]
    pub fn of(members: u64) -> Self {
        let bounds = Bounds { frames: 64, bytes: 1 << 20 };
        let members: Vec<_> = (1..=members).map(|no| Arc::new(Conn::new(SessionNo(no), bounds))).collect();
        let mut room = Self { channels: Channels::new(), members, seq: 0 };
        for member in &room.members {
            let cell = room.channels.join(CHANNEL, member);
            cell.place(0);
            // Refused: a member who hears nothing, which whoever measures finds out.
            let _ = cell.admit(member.no, Frame::from("joined".to_owned()), Vec::new());
        }
        room.say(Frame::from("first".to_owned()));
        room.heard();
        room
    }

    /// The next message of the channel, handed to everybody.
    pub fn say(&mut self, frame: Frame) {
        self.seq += 1;
        self.channels.stored([(CHANNEL, self.seq, frame)]);
    }

    /// Takes what waits for the members, and says how much it was.
    pub fn heard(&self) -> usize {
        self.members.iter().map(|member| std::iter::from_fn(|| member.outbox.pop()).count()).sum()
    }
}
