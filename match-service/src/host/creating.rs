//! How a match comes to be here: new, from a checkpoint, or from another host.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use asobi_store::{checkpoints, effects::Effect, matches::Fence};
use bytes::Bytes;
use tokio::sync::watch;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    Done, Entry, Host,
    actor::{Actor, Surroundings, persist},
    mailbox::{Mailbox, Shared, Stop, mailbox},
    outside::{MatchOutside, Stored},
    room::{Ground, Room},
};
use crate::game::{GameError, GameFactory, Outside, Setup};

/// How often a claim whose outcome is unknown is repeated.
const CLAIMS: u32 = 3;

/// A match that shall be made here, as its row says.
#[derive(Debug, Clone)]
pub struct NewMatch {
    pub match_id: Uuid,
    pub mode: String,
    pub epoch: i64,
    /// Of the leader that asks; 0: no leader.
    pub term: i64,
    pub host_incarnation: i64,
    pub players: Vec<Uuid>,
    /// The players by team; empty: no teams.
    pub teams: Vec<Vec<Uuid>>,
    pub origin: Origin,
}

/// Where a match comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It begins.
    New,
    /// It ran on a host that is gone, and goes on from its last checkpoint.
    Checkpoint,
    /// It runs on another host, which gives it away.
    Adopted(Adoption),
}

/// What the other host hands over.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// Its fence.
    pub from: Fence,
    pub snapshot: Bytes,
    /// Those that no checkpoint has written yet.
    pub effects: Vec<Effect>,
    /// Of the code the match runs with; empty: any will do.
    pub version: String,
}

/// Why a match was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    #[error("{0}")]
    Fenced(String),
    #[error("mode `{0}` is not served here")]
    UnknownMode(String),
    #[error("this host has all the matches it takes")]
    Full,
    #[error("this host takes no more matches")]
    Draining,
    #[error("the game did not start: {0}")]
    Game(String),
    #[error("the match's row could not be claimed in time")]
    Unclaimed,
    #[error("the match's checkpoint could not be read in time")]
    Unread,
}

impl Host {
    /// Makes a match. A repeat for the same match and epoch answers as the first call did, and waits with it. What was begun goes on when the
    /// caller does not wait.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub async fn create(self: &Arc<Self>, new: NewMatch) -> Result<(), CreateError> {
        self.check_fences(new.host_incarnation, new.term).map_err(CreateError::Fenced)?;
        let mut done = self.begin(new)?;
        match done.wait_for(Option::is_some).await {
            Ok(done) => done.clone().unwrap_or(Err(CreateError::Unclaimed)).map(drop),
            Err(_) => Err(CreateError::Game("its task broke off".into())),
        }
    }

    fn begin(self: &Arc<Self>, new: NewMatch) -> Result<watch::Receiver<Done>, CreateError> {
        let mut matches = self.matches.lock();
        if let Some(entry) = matches.get(&new.match_id) {
            let here = entry.handle.epoch();
            if here == new.epoch {
                return Ok(entry.done.clone());
            }
            if here > new.epoch {
                return Err(CreateError::Fenced(format!("epoch {} is over, {here} runs here", new.epoch)));
            }
            entry.handle.stop(Stop::Lost);
        }
        if self.draining.load(Ordering::Relaxed) {
            return Err(CreateError::Draining);
        }
        let Some(factory) = self.registry.read().get(&new.mode).cloned() else {
            return Err(CreateError::UnknownMode(new.mode));
        };
        if let Origin::Adopted(adoption) = &new.origin {
            let (theirs, ours) = (adoption.version.as_str(), factory.version());
            if !theirs.is_empty() && !ours.is_empty() && theirs != ours {
                return Err(CreateError::Fenced(format!("the match runs with version {theirs}, here is {ours}")));
            }
        }
        if matches.len() >= self.capacity {
            return Err(CreateError::Full);
        }
        let mode = new.mode.clone();
        let worker = self.workers.iter().min_by_key(|worker| worker.matches());
        let Some(worker) = worker else {
            return Err(CreateError::Full);
        };
        let (handle, inbox) = mailbox(new.match_id, new.epoch, self.input_limit, self.runtime.clone());
        let (tell, done) = watch::channel(None);
        let presence = Presence {
            host: Arc::clone(self),
            match_id: new.match_id,
            run: Arc::clone(&inbox.shared),
            load: Arc::clone(&worker.load),
        };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let span = asobi_trace::child!(
            "create match",
            asobi.match.id = %new.match_id,
            asobi.match.epoch = new.epoch,
            asobi.mode = new.mode,
        );
        let given = worker.give(Box::new(move || {
            tokio::task::spawn_local(live(presence, factory, new, inbox, tell, span));
        }));
        if !given {
            // The job was dropped, and with it the presence that counted it.
            return Err(CreateError::Full);
        }
        matches.insert(handle.match_id, Entry { handle, mode, done: done.clone() });
        let count = matches.len();
        drop(matches);
        self.tell_load(count);
        Ok(done)
    }
}

/// Keeps a match in the host's books for as long as its task lives, however that ends.
struct Presence {
    host: Arc<Host>,
    match_id: Uuid,
    run: Arc<Shared>,
    load: Arc<AtomicUsize>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        // Not here: a job that is dropped unrun is dropped under the lock of the books.
        let (host, match_id, run) = (Arc::clone(&self.host), self.match_id, Arc::clone(&self.run));
        self.host.runtime.spawn(async move {
            host.remove(match_id, &run);
        });
    }
}

/// The whole life of a match, on its worker's thread.
async fn live(
    presence: Presence,
    factory: Arc<dyn GameFactory>,
    new: NewMatch,
    inbox: Mailbox,
    tell: watch::Sender<Done>,
    span: tracing::Span,
) {
    let host = &presence.host;
    let fence = host.fence(new.match_id, new.epoch);
    let making = make(host, factory.as_ref(), &new, &fence).instrument(span);
    match making.await {
        Ok(room) => {
            tracing::info!(
                game.match_id = %new.match_id,
                match.epoch = new.epoch,
                game.mode = new.mode,
                players = room.seats.len(),
                "A match runs."
            );
            tell.send_replace(Some(Ok(Instant::now())));
            let around = Surroundings {
                rows: Arc::clone(&host.rows),
                peers: Arc::clone(&host.peers),
                trust: Arc::clone(&host.trust),
                version: factory.version().to_owned(),
            };
            Actor::new(room, fence, inbox, around).run().await;
            tracing::info!(game.match_id = %new.match_id, game.mode = new.mode, "A match has ended here.");
        }
        Err(error) => {
            if error == CreateError::Unclaimed {
                // It may be claimed all the same, and nobody may be told of a match that is not there.
                host.fail_row(new.match_id, new.epoch).await;
            }
            tracing::warn!(game.match_id = %new.match_id, game.mode = new.mode, %error, "A match was not made.");
            tell.send_replace(Some(Err(error)));
        }
    }
    drop(presence);
}

/// The room, once the row is this host's.
async fn make(host: &Host, factory: &dyn GameFactory, new: &NewMatch, fence: &Fence) -> Result<Room, CreateError> {
    let failed = |error: GameError| CreateError::Game(error.to_string());
    let ground = ground(host, factory, new).map_err(failed)?;
    match &new.origin {
        Origin::New => {
            let room = Room::start(ground, &new.players).await.map_err(failed)?;
            claim(host, fence, factory.version()).await.map(|()| room)
        }
        Origin::Checkpoint => {
            let room = match last_checkpoint(host, fence).await? {
                Some(body) => Room::restore(ground, &body, Some(&new.players)).await,
                // Its host was gone before the first was written.
                None => Room::start(ground, &new.players).await,
            };
            let room = room.map_err(failed)?;
            claim(host, fence, factory.version()).await.map(|()| room)
        }
        Origin::Adopted(adoption) => {
            let room = Room::restore(ground, &adoption.snapshot, None).await.map_err(failed)?;
            let adoption = checkpoints::Adoption {
                from: adoption.from.clone(),
                to: fence.clone(),
                body: adoption.snapshot.clone(),
                effects: adoption.effects.clone(),
            };
            // The host that gives it away is frozen until the row says whose it is, and so is this one.
            if persist("move", || host.rows.adopt(adoption.clone())).await {
                Ok(room)
            } else {
                Err(CreateError::Fenced("the match's row is not, or no longer, that host's".into()))
            }
        }
    }
}

fn ground(host: &Host, factory: &dyn GameFactory, new: &NewMatch) -> Result<Ground, GameError> {
    let setup = Setup::new(new.match_id, new.mode.clone()).with_teams(new.teams.clone());
    let stored = Arc::<Stored>::default();
    let services = Arc::clone(&host.outside);
    let outside: Arc<dyn Outside> = Arc::new(MatchOutside { stored: Arc::clone(&stored), services });
    Ok(Ground {
        game: factory.create(&setup, Arc::clone(&outside))?,
        setup,
        settings: factory.settings().clone(),
        manners: host.manners,
        trust: Arc::clone(&host.trust),
        meters: Arc::clone(&host.meters),
        stored,
        outside,
        void: Arc::clone(&host.void),
    })
}

async fn last_checkpoint(host: &Host, fence: &Fence) -> Result<Option<Vec<u8>>, CreateError> {
    for _ in 0..CLAIMS {
        match host.rows.last_checkpoint(fence.clone()).await {
            Ok(body) => return Ok(body),
            Err(error) => {
                tracing::warn!(%error, game.match_id = %fence.match_id, "A match's checkpoint could not be read yet.");
            }
        }
    }
    Err(CreateError::Unread)
}

async fn claim(host: &Host, fence: &Fence, version: &str) -> Result<(), CreateError> {
    for _ in 0..CLAIMS {
        match host.rows.claim(fence.clone(), version.to_owned()).await {
            Ok(true) => return Ok(()),
            Ok(false) => {
                return Err(CreateError::Fenced("the match's row is not, or no longer, this host's".into()));
            }
            Err(error) => {
                tracing::warn!(%error, game.match_id = %fence.match_id, "A match's row could not be claimed yet.");
            }
        }
    }
    Err(CreateError::Unclaimed)
}
