//! Revocation closes sockets: `session.revoked`, then 1008.

use std::sync::Arc;

use asobi_cluster::erasure;
use asobi_proto::frame;
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

use super::Hub;
use crate::{auth::Claims, close::Close, conn::Conn, frame::Frame};

/// What a socket is told when its revocation was only found by looking.
const FOUND: &str = "revoked";

pub(crate) async fn follow(hub: Arc<Hub>) {
    let mut revoked = hub.verifier.revoked();
    loop {
        match revoked.recv().await {
            Ok(item) => {
                if item.reason == erasure::REASON {
                    give_up_seat(&hub, item.subject);
                }
                hub.close_where(&item.reason, |claims| claims.ended_by(&item));
            }
            Err(RecvError::Lagged(_)) => hub.close_where(FOUND, |claims| hub.verifier.is_revoked(claims)),
            Err(RecvError::Closed) => return,
        }
    }
}

impl Hub {
    fn close_where(&self, reason: &str, ended: impl Fn(&Claims) -> bool) {
        for conn in self.registry.all() {
            let hit = conn.local().claims.is_some_and(|claims| ended(&claims));
            if hit {
                revoke(&conn, reason);
            }
        }
    }

    /// Closes a session whose token was revoked while it was being registered.
    pub(crate) fn close_if_revoked(&self, conn: &Conn) {
        let claims = conn.local().claims;
        if claims.is_some_and(|claims| self.verifier.is_revoked(&claims)) {
            revoke(conn, FOUND);
        }
    }
}

/// Has the match go on without a player at once; without a connection their seat waits for its own time only.
fn give_up_seat(hub: &Arc<Hub>, player: Uuid) {
    let Some(player) = hub.registry.player(player) else { return };
    player.each(|conn| {
        if let Some(seat) = conn.stand() {
            let (conn, match_id) = (Arc::clone(conn), seat.match_id);
            hub.spawn("seat of an erased player", async move {
                if let Err(error) = seat.link.leave(conn.no).await {
                    tracing::debug!(?error, match.id = %match_id, "The seat of an erased player waits for its own time.");
                }
                seat.link.detach(conn.no, false);
            });
        }
    });
}

fn revoke(conn: &Conn, reason: &str) {
    conn.push(Frame::from(frame::push("session.revoked", serde_json::json!({"reason": reason}))));
    conn.close(Close::SessionRevoked);
}
