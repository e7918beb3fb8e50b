//! Giving the match to another host, live.

use std::sync::atomic::Ordering;

use asobi_proto::match_v1::{AdoptMatchRequest, PendingEffect};
use asobi_service_kit::telemetry;
use asobi_session::link::{LinkError, MovedTo};
use asobi_store::effects::Effect;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Actor, writing::persist};
use crate::host::{
    mailbox::Message,
    peers::{Adopted, MoveError, Target},
    room::Op,
};

/// A wish to move.
pub struct Moving {
    target: Target,
    reply: oneshot::Sender<Result<i64, MoveError>>,
}

impl Moving {
    pub fn refuse(self, why: MoveError) {
        let _ = self.reply.send(Err(why));
    }
}

impl Actor {
    pub(super) fn want_to_move(&mut self, target: Target, reply: oneshot::Sender<Result<i64, MoveError>>) {
        // An earlier wish is told so by its dropped reply.
        self.moving = Some(Moving { target, reply });
    }

    /// The wish, once nothing is being written and nobody is half seated: what the other host gets is all there is. A checkpoint that was only
    /// about to be taken would say nothing that the snapshot does not.
    pub(super) fn may_move(&mut self) -> Option<Moving> {
        if self.moving.as_ref()?.reply.is_closed() {
            self.moving = None;
        } else if self.room.ending() {
            self.refuse_to_move(MoveError::Ending);
        } else if self.writing.is_none()
            && self.room.joining == 0
            && self.room.ops.iter().all(|op| matches!(op, Op::Checkpoint))
        {
            return self.moving.take();
        }
        None
    }

    /// Nothing else happens in the match until it is known who has it.
    pub(super) async fn carry_over(&mut self, moving: Moving) {
        let Moving { target, reply } = moving;
        let snapshot = match self.room.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                let _ = reply.send(Err(MoveError::Unsavable(error.to_string())));
                return;
            }
        };
        self.mailbox.shared.moving.store(true, Ordering::Release);
        let request = self.request(snapshot, &target);
        let outcome = match self.around.peers.adopt(&target, request).await {
            Adopted::Yes => Ok(()),
            Adopted::Refused(why) => Err(MoveError::Refused(why)),
            Adopted::Unknown(why) => {
                tracing::warn!(
                    game.match_id = %self.fence.match_id, host.id = target.node_id, why,
                    "A match stays frozen until its row says whether it has moved."
                );
                if self.reclaim().await { Err(MoveError::Unanswered(why)) } else { Ok(()) }
            }
        };
        let outcome = match outcome {
            Ok(()) => {
                let epoch = self.fence.epoch + 1;
                self.leave_to(target, epoch);
                Ok(epoch)
            }
            Err(error) => Err(error),
        };
        self.mailbox.shared.moving.store(false, Ordering::Release);
        let _ = reply.send(outcome);
    }

    fn request(&self, snapshot: Bytes, target: &Target) -> AdoptMatchRequest {
        AdoptMatchRequest {
            match_id: self.fence.match_id.to_string(),
            mode: self.room.mode().to_owned(),
            from_node: self.fence.host_node.clone(),
            from_incarnation: self.fence.host_incarnation,
            epoch: self.fence.epoch,
            host_incarnation: target.incarnation,
            snapshot,
            effects: self.room.effects.iter().filter_map(pending).collect(),
            traceparent: telemetry::traceparent().unwrap_or_default(),
            version: self.around.version.clone(),
        }
    }

    /// True: the match is ours, under the next epoch, and no move that is still under way can take it.
    async fn reclaim(&mut self) -> bool {
        let (rows, fence) = (&self.around.rows, &self.fence);
        let ours = persist("claim", || rows.reclaim(fence.clone())).await;
        if ours {
            self.fence.epoch += 1;
            self.mailbox.shared.epoch.store(self.fence.epoch, Ordering::Release);
        }
        ours
    }

    /// It runs there. Whoever is here, or comes for it, is sent on; what was asked of it in between is answered so that it is asked again.
    fn leave_to(&mut self, target: Target, epoch: i64) {
        let match_id = self.fence.match_id;
        let to = MovedTo { match_id, node_id: target.node_id, incarnation: target.incarnation, epoch };
        tracing::info!(game.match_id = %match_id, host.id = to.node_id, match.epoch = epoch, "A match has moved.");
        metrics::counter!("asobi_match_moves_total").increment(1);
        self.over = true;
        self.room.hand_over(&to);
        self.mailbox.receiver.close();
        while let Ok(message) = self.mailbox.receiver.try_recv() {
            match message {
                Message::Enter { port, session, join, reply, .. } => {
                    let _ = reply.send(Err(LinkError::Unavailable));
                    if join.is_none() {
                        port.moved(&[session], &to);
                    }
                }
                Message::Leave { reply, .. } => drop(reply.send(Err(LinkError::Unavailable))),
                Message::Move { reply, .. } => drop(reply.send(Err(MoveError::NotHere))),
                // Inputs are sent again there, by whoever sent them; the others have nobody who waits.
                Message::Input { .. } | Message::Add { .. } | Message::Detach { .. } | Message::Reload(_) => {}
                // Asked again there, by who learns it from the dropped question.
                Message::Inspect { .. } | Message::Watch { .. } | Message::End { .. } => {}
            }
        }
    }
}

/// None: it could never be written, and would keep the match here.
fn pending(effect: &Effect) -> Option<PendingEffect> {
    let body = effect.body.to_json().ok()?.to_string();
    Some(PendingEffect { ordinal: effect.ordinal, body: body.into(), kind: effect.body.kind().to_owned() })
}
