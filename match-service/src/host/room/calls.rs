//! Calling the game, and doing what it asks for.

use std::time::Duration;

use asobi_proto::{effect::EffectBody, frame};
use asobi_session::link::FrameKind;
use asobi_store::effects::Effect;
use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Due, EFFECTS, End, FAILURES, Room, TIMERS};
use crate::{
    game::{Game, GameError, Outcome, Push},
    host::moment::Moment,
};

impl Room {
    pub(super) async fn send_states(&mut self) {
        if !self.seats.anybody_there() {
            return;
        }
        if self.settings.shared_state {
            let Some(frame) = self.state_frame(None).await else {
                return;
            };
            if !self.settings.send_unchanged && self.shared_last.as_ref() == Some(&frame) {
                return;
            }
            self.tell_all(FrameKind::State, &frame);
            self.shared_last = Some(frame);
            return;
        }
        let present: Vec<Uuid> = self.seats.present().map(|seat| seat.player).collect();
        for player in present {
            let Some(frame) = self.state_frame(Some(player)).await else {
                continue;
            };
            if !self.settings.send_unchanged && self.seats.replace_last(player, &frame) {
                continue;
            }
            self.tell(player, FrameKind::State, &frame);
        }
    }

    /// The whole `match.state` frame, written once.
    pub(super) async fn state_frame(&mut self, player: Option<Uuid>) -> Option<Bytes> {
        let mut json = String::with_capacity(self.state_bytes);
        json.push_str(r#"{"type":"match.state","payload":"#);
        let mut outcome = Outcome::default();
        match self.game.state(player, &mut json, &mut outcome).await {
            Ok(()) => {
                self.state_failures = 0;
                self.apply_but_bots(outcome);
                json.push('}');
                // The next one is hardly longer.
                self.state_bytes = json.len() + json.len() / 8;
                Some(Bytes::from(json))
            }
            Err(error) => {
                self.state_failures += 1;
                self.failed(player, &error);
                None
            }
        }
    }

    /// Calls the game and does what it asks for.
    pub(super) async fn run(
        &mut self,
        player: Option<Uuid>,
        call: impl AsyncFnOnce(&mut dyn Game, &mut Outcome) -> Result<(), GameError>,
    ) {
        if let Some(((), outcome)) = self.callback(player, call).await {
            self.apply(outcome).await;
        }
    }

    /// Calls the game. None when it failed; `player` is who is told in development, none: everybody.
    pub(super) async fn callback<T>(
        &mut self,
        player: Option<Uuid>,
        call: impl AsyncFnOnce(&mut dyn Game, &mut Outcome) -> Result<T, GameError>,
    ) -> Option<(T, Outcome)> {
        let mut outcome = Outcome::default();
        self.watches.touch();
        match call(self.game.as_mut(), &mut outcome).await {
            Ok(value) => {
                self.failures = 0;
                Some((value, outcome))
            }
            Err(error) => {
                self.failures += 1;
                self.apply_but_bots(outcome);
                self.failed(player, &error);
                None
            }
        }
    }

    pub(super) fn failed(&mut self, player: Option<Uuid>, error: &GameError) {
        metrics::counter!("asobi_match_callback_errors_total").increment(1);
        // Once a second says as much as sixty times.
        let now = Instant::now();
        if self.logged.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1)) {
            self.logged = Some(now);
            tracing::warn!(
                game.mode = self.setup.mode, game.match_id = %self.setup.match_id,
                script.file = error.script, script.line = error.line, script.callback = error.callback,
                "A callback failed: {}", error.message
            );
        }
        if self.manners.dev_errors {
            let payload = json!({
                "module": "lua", "callback": error.callback, "script": error.script,
                "line": error.line, "message": error.message,
            })
            .to_string();
            // Said at once, whatever is written: it is for who develops the game.
            let frame = Bytes::from(frame::push_raw("module.error", &payload));
            match player {
                Some(player) => self.seats.deliver(player, FrameKind::Event, &frame),
                None => self.seats.deliver_all(FrameKind::Event, &frame),
            }
        }
        if error.fatal {
            self.finish(false, json!({"error": "out_of_memory"}).to_string());
        } else if self.failures.max(self.state_failures) >= FAILURES {
            self.finish(false, json!({"error": "script_failed"}).to_string());
        }
    }

    pub(super) async fn apply(&mut self, mut outcome: Outcome) {
        let bots = std::mem::take(&mut outcome.bots);
        self.apply_but_bots(outcome);
        if !bots.is_empty() {
            self.grant_bots(bots).await;
        }
    }

    /// As [`apply`](Self::apply), for callbacks whose wishes about bots are not heard: those that are about bots themselves, and those for states.
    pub(super) fn apply_but_bots(&mut self, outcome: Outcome) {
        for push in outcome.pushes {
            match push {
                Push::Broadcast { event, payload } => {
                    let frame = Bytes::from(frame::push_raw(&format!("match.{event}"), &payload));
                    self.tell_all(FrameKind::Event, &frame);
                }
                Push::Message { player, message } => {
                    let payload = format!(r#"{{"module":"lua","message":{message}}}"#);
                    let frame = Bytes::from(frame::push_raw("module.message", &payload));
                    self.tell(player, FrameKind::Event, &frame);
                }
            }
        }
        if let Some(joinable) = outcome.joinable {
            self.joinable = joinable;
        }
        if let Some(backfill) = outcome.backfill {
            self.backfill = Some(backfill);
            self.ask_for_players();
        }
        for body in outcome.effects {
            // The contract of scripts sees to the board's name already; games in Rust may say anything, and what cannot be written would keep the
            // match from ending.
            let writable = !matches!(&body, EffectBody::Score(score) if score.board.contains('\0'));
            if self.effects.len() >= EFFECTS || !writable {
                metrics::counter!("asobi_match_effects_dropped_total").increment(1);
                continue;
            }
            if let EffectBody::Store(store) = &body {
                self.stored.note(self.next_ordinal, store);
            }
            self.effects.push(Effect { ordinal: self.next_ordinal, body });
            self.next_ordinal += 1;
        }
        for timer in outcome.timers {
            if self.timers.len() >= TIMERS {
                tracing::warn!(game.match_id = %self.setup.match_id, "A timer was let go: {TIMERS} are waiting.");
                break;
            }
            self.timer_number += 1;
            self.timers.push(Due { at: Moment::after(timer.after), number: self.timer_number, timer });
        }
        if let Some(result) = outcome.finished {
            self.finish(true, result);
        }
    }

    /// The match is over; the first reason counts.
    pub fn finish(&mut self, finished: bool, result: String) {
        if self.end.is_none() {
            self.end = Some(End { finished, result: storable(result) });
        }
    }
}

/// A result that PostgreSQL can store as it is; games in Rust may say anything.
fn storable(result: String) -> String {
    // Read as a whole: unlike a mere look at it, that refuses numbers and surrogates which the database refuses too.
    let json = serde_json::from_str::<serde_json::Value>(&result).is_ok();
    if json && !result.contains("\\u0000") {
        return result;
    }
    json!({"error": "invalid_result"}).to_string()
}
