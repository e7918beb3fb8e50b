//! What games can ask the other services: storage in the database, boards of the social service.
//!
//! ```text
//!  ask ─► under way (bounded) ─► on the process's main runtime: rows · a social service, and if that one is away another ─► JSON text
//!             └ full: unavailable        └ after ANSWER_WITHIN: timeout
//! ```

use std::{future::Future, sync::Arc, time::Duration};

use asobi_cluster::{
    Directory,
    social::{Repeat, SocialError, SocialNodes},
};
use asobi_proto::social_v1::{
    LeaderboardEntry, ListAroundRequest, ListTopRequest, leaderboard_service_client::LeaderboardServiceClient,
};
use asobi_rest::board_entry;
use asobi_service_kit::grpc::Channels;
use asobi_store::{boards::ID_BYTES, storage, within};
use async_trait::async_trait;
use serde_json::Value;
use sqlx::PgPool;
use tokio::{runtime::Handle, sync::Semaphore};
use tonic::Code;
use uuid::Uuid;

use crate::game::{ANSWER_WITHIN, Ask, AskError, Outside};

/// Questions of all matches that are under way; past it one is answered [`AskError::Unavailable`] at once.
const UNDER_WAY: usize = 256;
/// What one social service is given: one that hangs leaves another the time to answer.
const ATTEMPT: Duration = Duration::from_millis(150);
/// As REST has them.
const MOST_TOP: u32 = 100;
const MOST_AROUND: u32 = 50;

/// Answers nothing: for matches that run without services around them.
pub struct Nowhere;

#[async_trait]
impl Outside for Nowhere {
    async fn ask(&self, _ask: Ask) -> Result<String, AskError> {
        Err(AskError::Unavailable)
    }
}

/// The services around a host. Connections belong to the runtime that opened them, so questions are answered on the process's main one,
/// whichever worker's match asks.
pub struct Services {
    asked: Arc<Asked>,
    runtime: Handle,
    under_way: Arc<Semaphore>,
}

/// Who is asked.
struct Asked {
    pool: PgPool,
    social: SocialNodes,
}

impl Services {
    /// Call within the process's runtime.
    #[must_use]
    pub fn new(pool: PgPool, directory: Arc<Directory>, channels: Channels) -> Self {
        let social = SocialNodes::new(directory, channels, ATTEMPT);
        let asked = Arc::new(Asked { pool, social });
        Self { asked, runtime: Handle::current(), under_way: Arc::new(Semaphore::new(UNDER_WAY)) }
    }

    async fn answer(&self, ask: Ask) -> Result<String, AskError> {
        let Ok(permit) = Arc::clone(&self.under_way).try_acquire_owned() else {
            return Err(AskError::Unavailable);
        };
        let asked = Arc::clone(&self.asked);
        // It ends in time also when the match is gone, and counts as under way until then.
        let task = self.runtime.spawn(async move {
            let _permit = permit;
            tokio::time::timeout(ANSWER_WITHIN, asked.answer(ask)).await.unwrap_or(Err(AskError::Timeout))
        });
        // It fails only when the runtime shuts down.
        task.await.unwrap_or(Err(AskError::Unavailable))
    }
}

#[async_trait]
impl Outside for Services {
    async fn ask(&self, ask: Ask) -> Result<String, AskError> {
        let answer = self.answer(ask).await;
        let outcome = match &answer {
            Ok(_) => "answered",
            Err(AskError::Timeout) => "timeout",
            Err(AskError::Unavailable) => "unavailable",
        };
        metrics::counter!("asobi_match_asks_total", "outcome" => outcome).increment(1);
        answer
    }
}

impl Asked {
    async fn answer(&self, ask: Ask) -> Result<String, AskError> {
        let answer = match ask {
            Ask::Stored { collection, key, player } => self.stored(&collection, &key, player).await?,
            Ask::Top { board, n } => self.top(board, n).await?.into_iter().map(board_entry).collect(),
            Ask::Around { board, player, n } => {
                self.around(board, player, n).await?.into_iter().map(board_entry).collect()
            }
            Ask::Rank { board, player } => {
                let id = player.to_string();
                let mut around = self.around(board, player, 1).await?.into_iter();
                around.find(|entry| entry.player_id == id).map_or(Value::Null, board_entry)
            }
        };
        Ok(answer.to_string())
    }

    async fn stored(&self, collection: &str, key: &str, player: Option<Uuid>) -> Result<Value, AskError> {
        // No such name can have been stored, and none can be asked for.
        if collection.contains('\0') || key.contains('\0') {
            return Ok(Value::Null);
        }
        let read = within(ANSWER_WITHIN, async {
            match player {
                None => storage::get_game(&self.pool, collection, key).await,
                Some(player) => storage::get_player(&self.pool, player, collection, key).await,
            }
        });
        match read.await {
            Ok(value) => Ok(value.unwrap_or_default()),
            Err(asobi_store::Error::Deadline(_)) => Err(AskError::Timeout),
            Err(error) => {
                tracing::debug!(%error, "A match's question found no database.");
                Err(AskError::Unavailable)
            }
        }
    }

    async fn top(&self, board: String, n: u32) -> Result<Vec<LeaderboardEntry>, AskError> {
        if !could_be(&board) {
            return Ok(Vec::new());
        }
        let request = ListTopRequest { leaderboard_id: board.clone(), limit: bounded(n, MOST_TOP), period: None };
        let top = self.social.call(&board, Repeat::Safe, request, |channel, request| async move {
            LeaderboardServiceClient::new(channel).list_top(request).await
        });
        within_reach(top).await.map(|answer| answer.entries)
    }

    async fn around(&self, board: String, player: Uuid, n: u32) -> Result<Vec<LeaderboardEntry>, AskError> {
        if !could_be(&board) {
            return Ok(Vec::new());
        }
        let range = bounded(n, MOST_AROUND);
        let request =
            ListAroundRequest { leaderboard_id: board.clone(), player_id: player.to_string(), range, period: None };
        let around = self.social.call(&board, Repeat::Safe, request, |channel, request| async move {
            LeaderboardServiceClient::new(channel).list_around(request).await
        });
        within_reach(around).await.map(|answer| answer.entries)
    }
}

/// What a failed call is to a game.
async fn within_reach<T>(call: impl Future<Output = Result<T, SocialError>>) -> Result<T, AskError> {
    call.await.map_err(|error| {
        tracing::debug!(%error, "A match's question was not answered.");
        match error {
            SocialError::Away(status) if status.code() == Code::DeadlineExceeded => AskError::Timeout,
            SocialError::Nobody | SocialError::Away(_) | SocialError::Refused(_) => AskError::Unavailable,
        }
    })
}

fn could_be(board: &str) -> bool {
    (1..=ID_BYTES).contains(&board.len()) && !board.contains('\0')
}

fn bounded(n: u32, most: u32) -> i32 {
    i32::try_from(n.clamp(1, most)).unwrap_or(1)
}

#[cfg(test)]
mod tests;
