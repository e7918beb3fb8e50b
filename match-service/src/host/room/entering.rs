//! How sessions and players come to a match, and how they go.

use std::sync::Arc;

use asobi_session::link::{Entered, FrameKind, LinkError, SessionNo};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{GivenUp, Joining, OPS, Op, Phase, RefusedByGame, Room};
use crate::{
    game::{Game, Joined, Outcome},
    host::{
        mailbox::SessionKey,
        port::{Port, refused},
        seats::Attached,
    },
};

impl Room {
    /// A session attaches to its player's seat, or asks for one.
    pub async fn enter(
        &mut self,
        port: &Arc<Port>,
        session: SessionNo,
        player: Uuid,
        join: Option<String>,
        reply: oneshot::Sender<Result<Entered, LinkError>>,
    ) {
        let refusal = if self.ending() {
            "match_not_found"
        } else if self.seats.has(player) {
            self.attach(port, session, player, reply).await;
            return;
        } else if join.is_none() {
            "not_in_match"
        } else if !self.joinable {
            "match_locked"
        } else if self.free() == 0 && !self.make_room().await {
            "match_full"
        } else if self.ops.len() >= OPS {
            let _ = reply.send(Err(LinkError::Full));
            return;
        } else {
            self.joining += 1;
            self.ops.push_back(Op::TakeSeat(Joining {
                player,
                port: Arc::clone(port),
                session,
                ctx: join.filter(|ctx| !ctx.is_empty()),
                reply,
            }));
            return;
        };
        let _ = reply.send(Err(refused(refusal)));
    }

    /// The row of a seat is written: the game decides whether the player gets it.
    pub async fn joined(&mut self, joining: Joining, still_there: bool) {
        if self.ending() {
            return;
        }
        if !self.seats.has(joining.player)
            && let Err(reason) = self.seat(joining.player, joining.ctx.as_deref()).await
        {
            let refused = RefusedByGame { reply: Some(joining.reply), reason };
            let reply = Some(GivenUp::Refused(refused));
            self.ops.push_back(Op::GiveUp { players: vec![joining.player], reply });
            self.settle().await;
            return;
        }
        // Who completes the match is told that it runs.
        self.begin();
        if still_there {
            self.attach(&joining.port, joining.session, joining.player, joining.reply).await;
        }
        self.settle().await;
    }

    /// Asks the game to seat a player; the error is its reason.
    pub(super) async fn seat(&mut self, player: Uuid, ctx: Option<&str>) -> Result<(), Option<String>> {
        let joined = self
            .callback(Some(player), async |game: &mut dyn Game, outcome: &mut Outcome| {
                game.join(player, ctx, outcome).await
            })
            .await;
        match joined {
            Some((Joined::Seated, outcome)) => {
                self.deserted_at = None;
                self.seats.add(player, self.ttl());
                // Only now: what the game says in `join` may be for who joins.
                self.apply(outcome).await;
                self.state_due = true;
                Ok(())
            }
            Some((Joined::Refused(reason), outcome)) => {
                self.apply(outcome).await;
                Err(reason)
            }
            None => Err(None),
        }
    }

    async fn attach(
        &mut self,
        port: &Arc<Port>,
        session: SessionNo,
        player: Uuid,
        reply: oneshot::Sender<Result<Entered, LinkError>>,
    ) {
        let Some(attached) = self.seats.attach(player, port, session) else {
            let _ = reply.send(Err(refused("not_in_match")));
            return;
        };
        let applied = self.seats.applied((port.number, session));
        let _ = reply.send(Ok(Entered { view: self.view(), applied }));
        if attached == Attached::Back {
            self.run(Some(player), async |game: &mut dyn Game, outcome: &mut Outcome| {
                game.on_reconnect(player, outcome).await
            })
            .await;
        }
        for frame in self.seats.take_early(player) {
            port.deliver(&[session], FrameKind::Event, frame);
        }
        if self.turn_based() {
            // With the next checkpoint: what is not written yet is shown to nobody.
            self.state_due = true;
        } else if self.taken_up || !self.settings.send_unchanged || self.phase == Phase::Waiting {
            self.show(player, port, session).await;
        }
        self.settle().await;
    }

    /// Sends one session the state as it is: the next regular one may be long in coming.
    async fn show(&mut self, player: Uuid, port: &Arc<Port>, session: SessionNo) {
        let whose = (!self.settings.shared_state).then_some(player);
        if let Some(frame) = self.state_frame(whose).await {
            port.deliver(&[session], FrameKind::State, frame);
        }
    }

    /// A session is gone.
    pub async fn detach(&mut self, session: SessionKey, follows: bool) {
        let Some(player) = self.seats.detach(session, self.ttl(), follows) else { return };
        if !self.ending() {
            self.disconnected(player).await;
            self.settle().await;
        }
    }

    pub(super) async fn disconnected(&mut self, player: Uuid) {
        let call = async |game: &mut dyn Game, outcome: &mut Outcome| game.on_disconnect(player, outcome).await;
        self.run(Some(player), call).await;
    }

    /// The session's player gives up the seat.
    pub async fn leave(&mut self, session: SessionKey, reply: oneshot::Sender<Result<(), LinkError>>) {
        match self.seats.player_of(session) {
            Some(player) if !self.ending() => self.vacate(vec![player], Some(GivenUp::Left(reply))).await,
            // Nothing to give up: that is an answer too.
            _ => {
                let _ = reply.send(Ok(()));
            }
        }
    }

    pub(super) async fn vacate(&mut self, players: Vec<Uuid>, reply: Option<GivenUp>) {
        for player in &players {
            if let Some(sessions) = self.seats.remove(*player) {
                self.inputs.retain(|(from, _)| from != player);
                for (port, sessions) in sessions {
                    port.dropped(&sessions, self.setup.match_id);
                }
                let player = *player;
                self.run(None, async |game: &mut dyn Game, outcome: &mut Outcome| game.leave(player, outcome).await)
                    .await;
                self.state_due = true;
            }
        }
        self.ops.push_back(Op::GiveUp { players, reply });
        self.settle().await;
    }
}
