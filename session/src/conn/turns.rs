//! What one connection says, in its order: each is judged by itself, at the same time as others, and handed on when those before it were.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Conn;

/// Of one connection at the same time; past it the sender is pushed back.
const MOST: usize = 64;

/// The turns that were given out.
#[derive(Default)]
pub(crate) struct Turns {
    open: usize,
    /// Ends when the last one does.
    last: Option<oneshot::Receiver<()>>,
}

/// A place in the order. Given up when dropped, whether it was used or not.
pub(crate) struct Turn {
    conn: Arc<Conn>,
    before: Option<oneshot::Receiver<()>>,
    _mine: oneshot::Sender<()>,
}

impl Turn {
    /// None: too many wait.
    pub(crate) fn take(conn: &Arc<Conn>) -> Option<Self> {
        let mut local = conn.local();
        let turns = &mut local.said;
        if turns.open >= MOST {
            return None;
        }
        turns.open += 1;
        let (mine, last) = oneshot::channel();
        let before = turns.last.replace(last);
        drop(local);
        Some(Self { conn: Arc::clone(conn), before, _mine: mine })
    }

    /// Waits until all before it are over.
    pub(crate) async fn come(&mut self) {
        if let Some(before) = &mut self.before {
            // Nothing is ever sent: it ends.
            let _ = before.await;
            self.before = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut local = self.conn.local();
        local.said.open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::{conn::Bounds, link::SessionNo};

    #[test]
    fn turns_come_in_their_order_and_are_bounded() {
        let conn = Arc::new(Conn::new(SessionNo(1), Bounds { frames: 4, bytes: 100 }));
        let mut turns: Vec<Turn> = std::iter::from_fn(|| Turn::take(&conn)).collect();
        assert_eq!(turns.len(), MOST);
        let (mut second, mut first) = (turns.remove(1), turns.remove(0));
        assert!(second.come().now_or_never().is_none());
        assert!(first.come().now_or_never().is_some());
        let mut second_comes = Box::pin(second.come());
        assert!(second_comes.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second_comes.as_mut().now_or_never().is_some());
        assert!(Turn::take(&conn).is_some(), "there is room again");
    }
}
