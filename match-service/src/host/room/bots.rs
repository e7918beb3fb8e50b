//! Bots: they fill a match that waits, take the seats of those who left, and make room for players.
//!
//! A bot has a seat and no connection, and no row: it is the match's alone. The script knows it by its id, like `bot_Ada_3f91c2`.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Phase, Room};
use crate::game::{BotWish, Game, Joined, Outcome};

/// Of bots that nobody named.
const NAMES: [&str; 8] = ["Ada", "Bo", "Cleo", "Dov", "Edda", "Finn", "Gus", "Hedy"];

impl Room {
    /// Sets the time at which bots come, or takes it back: while somebody is missing, and only where the mode has bots.
    pub(super) fn mind_bots(&mut self) {
        let Some(bots) = &self.settings.bots else { return };
        let missing = self.seats.len() + self.joining < self.settings.match_size as usize;
        let more = self.seats.bots().count() < bots.max as usize;
        // Nobody plays with bots alone.
        if missing && more && self.seats.humans() > 0 {
            let after = Duration::from_millis(bots.fill_after_ms);
            self.bots_at.get_or_insert_with(|| Instant::now() + after);
        } else {
            self.bots_at = None;
        }
    }

    pub(super) async fn fill_with_bots(&mut self) {
        self.bots_at = None;
        let Some(most) = self.settings.bots.as_ref().map(|bots| bots.max as usize) else { return };
        while self.end.is_none()
            && self.seats.len() + self.joining < self.settings.match_size as usize
            && self.seats.bots().count() < most
        {
            let name = NAMES[self.seats.bots().count() % NAMES.len()];
            if !self.add_bot(name).await {
                break;
            }
        }
        self.begin();
    }

    /// False: there is no seat for it, or the game does not take it.
    async fn add_bot(&mut self, name: &str) -> bool {
        let most = self.settings.bots.as_ref().map_or(0, |bots| bots.max as usize);
        if self.free() == 0 || self.seats.bots().count() >= most {
            return false;
        }
        let bot = Uuid::now_v7();
        let tail = bot.as_u128() & 0xff_ffff;
        let id = format!("bot_{name}_{tail:06x}");
        self.game.know_bot(bot, &id);
        let joined =
            self.callback(None, async |game: &mut dyn Game, outcome: &mut Outcome| game.join(bot, None, outcome).await);
        let Some((joined, outcome)) = joined.await else { return false };
        if joined == Joined::Seated {
            self.seats.add_bot(bot, id.into());
            self.state_due = true;
        }
        // The bots that a bot's join asks for are not asked for in a circle: `apply` only notes wishes.
        self.apply_but_bots(outcome);
        joined == Joined::Seated
    }

    async fn remove_bot(&mut self, bot: Uuid) {
        if self.seats.remove(bot).is_none() {
            return;
        }
        self.inputs.retain(|(from, _)| *from != bot);
        self.state_due = true;
        let left =
            self.callback(None, async |game: &mut dyn Game, outcome: &mut Outcome| game.leave(bot, outcome).await);
        if let Some(((), outcome)) = left.await {
            self.apply_but_bots(outcome);
        }
    }

    /// A bot gives its seat to a player who wants in. False: there is none.
    pub(super) async fn make_room(&mut self) -> bool {
        let last = self.seats.bots().last().map(|(bot, _)| bot);
        let Some(bot) = last else { return false };
        self.remove_bot(bot).await;
        true
    }

    pub(super) async fn grant_bots(&mut self, wishes: Vec<BotWish>) {
        for wish in wishes {
            match wish {
                BotWish::Add(name) => {
                    if !self.add_bot(&name).await {
                        tracing::debug!(game.match_id = %self.setup.match_id, name, "There is no seat for a bot.");
                    }
                }
                BotWish::Remove(name) => {
                    let named = |id: &str| id == name || bot_name(id) == Some(name.as_str());
                    let bot = self.seats.bots().find(|(_, id)| named(id)).map(|(bot, _)| bot);
                    if let Some(bot) = bot {
                        self.remove_bot(bot).await;
                    }
                }
            }
        }
    }

    /// Asks every bot what it does in this tick. Its inputs come after those of the players.
    pub(super) async fn let_bots_think(&mut self) {
        if self.phase != Phase::Running || self.settings.bots.is_none() {
            return;
        }
        let bots: Vec<Uuid> = self.seats.bots().map(|(bot, _)| bot).collect();
        for bot in bots {
            if self.end.is_some() {
                return;
            }
            let thought =
                self.callback(None, async |game: &mut dyn Game, outcome: &mut Outcome| game.think(bot, outcome).await);
            if let Some((thought, outcome)) = thought.await {
                self.apply_but_bots(outcome);
                self.bot_inputs.extend(thought.map(|input| (bot, Bytes::from(input))));
            }
        }
    }
}

/// The name in a bot's id.
fn bot_name(id: &str) -> Option<&str> {
    id.strip_prefix("bot_")?.rsplit_once('_').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::bot_name;

    #[test]
    fn an_id_has_its_name() {
        assert_eq!(bot_name("bot_Ada_3f91c2"), Some("Ada"));
        assert_eq!(bot_name("bot_the_one_3f91c2"), Some("the_one"));
        assert_eq!(bot_name("ada"), None);
    }
}
