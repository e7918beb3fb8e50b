//! What connections ask of the rows when they come: read for many at a time ([`batch`]), with a part of the pool that is theirs alone. So
//! however many come back at once, health checks, REST and what this node writes find a connection.

use std::{collections::HashMap, sync::Arc, time::Duration};

use asobi_store::{
    chat, inbox,
    matches::{self, LiveSeat},
    welcome::{self, Bond, Friend, Welcome},
    within,
};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    batch::{self, Batched, Questions, Unanswered},
    chat::ChannelId,
    hub::Hub,
};

/// Of one read.
const DEADLINE: Duration = Duration::from_secs(3);
/// What part of the pool reads for many may take, and reads for one as much again; each at least one connection.
const PART: u32 = 4;

pub(crate) struct LookUps {
    /// Where a player's inbox stands.
    pub inboxes: Batched<Uuid, i64>,
    pub welcomes: Batched<Uuid, Welcome>,
    pub friends: Batched<Uuid, Vec<Friend>>,
    /// Whether a player may use a channel that rows decide on.
    pub access: Batched<(Uuid, ChannelId), bool>,
    /// Where a channel stands.
    pub channels: Batched<String, i64>,
    /// Where a match runs, if it does: a burst of matches is told at one moment.
    pub whereabouts: Batched<Uuid, Option<LiveSeat>>,
    permits: Arc<Semaphore>,
    /// For [`Self::alone`], which may be many: they do not get in the way of reads for all.
    alone: Semaphore,
}

/// Of [`LookUps`], for [`start`].
pub(crate) struct Asked {
    inboxes: Questions<Uuid, i64>,
    welcomes: Questions<Uuid, Welcome>,
    friends: Questions<Uuid, Vec<Friend>>,
    access: Questions<(Uuid, ChannelId), bool>,
    channels: Questions<String, i64>,
    whereabouts: Questions<Uuid, Option<LiveSeat>>,
}

/// With permits for a part of a pool of so many connections.
pub(crate) fn new(connections: u32) -> (LookUps, Asked) {
    let part = usize::try_from(connections / PART).unwrap_or(1).max(1);
    let (inboxes, of_inboxes) = batch::new();
    let (welcomes, of_welcomes) = batch::new();
    let (friends, of_friends) = batch::new();
    let (access, of_access) = batch::new();
    let (channels, of_channels) = batch::new();
    let (whereabouts, of_whereabouts) = batch::new();
    let asked = Asked {
        inboxes: of_inboxes,
        welcomes: of_welcomes,
        friends: of_friends,
        access: of_access,
        channels: of_channels,
        whereabouts: of_whereabouts,
    };
    let (permits, alone) = (Arc::new(Semaphore::new(part)), Semaphore::new(part));
    (LookUps { inboxes, welcomes, friends, access, channels, whereabouts, permits, alone }, asked)
}

pub(crate) fn start(hub: &Arc<Hub>, asked: Asked) {
    let (permits, pool) = (|| Arc::clone(&hub.look_ups.permits), || hub.pool.clone());
    let from = pool();
    let inboxes = batch::answer(asked.inboxes, permits(), "inboxes", move |players| {
        let pool = from.clone();
        async move { Ok(within(DEADLINE, inbox::positions(&pool, &players)).await?.into_iter().collect()) }
    });
    let from = pool();
    let welcomes = batch::answer(asked.welcomes, permits(), "welcomes", move |players| {
        let pool = from.clone();
        async move { within(DEADLINE, welcome::welcomes(&pool, &players)).await }
    });
    let from = pool();
    let friends = batch::answer(asked.friends, permits(), "friends", move |players| {
        let pool = from.clone();
        async move { within(DEADLINE, welcome::friends(&pool, &players)).await }
    });
    let from = pool();
    let access = batch::answer(asked.access, permits(), "access", move |pairs| {
        let pool = from.clone();
        async move { within(DEADLINE, access(&pool, pairs)).await }
    });
    let from = pool();
    let channels = batch::answer(asked.channels, permits(), "channels", move |ids| {
        let pool = from.clone();
        async move { Ok(within(DEADLINE, chat::positions(&pool, &ids)).await?.into_iter().collect()) }
    });
    let from = pool();
    let whereabouts = batch::answer(asked.whereabouts, permits(), "whereabouts", move |ids| {
        let pool = from.clone();
        async move {
            let live = within(DEADLINE, matches::whereabouts(&pool, &ids)).await?;
            Ok(live.into_iter().map(|live| (live.match_id, Some(live))).collect())
        }
    });
    hub.spawn("look-ups of inboxes", inboxes);
    hub.spawn("look-ups of welcomes", welcomes);
    hub.spawn("look-ups of friends", friends);
    hub.spawn("look-ups of access", access);
    hub.spawn("look-ups of channels", channels);
    hub.spawn("look-ups of whereabouts", whereabouts);
}

/// One statement for each kind of channel that is asked about.
async fn access(
    pool: &sqlx::PgPool,
    asked: Vec<(Uuid, ChannelId)>,
) -> asobi_store::Result<HashMap<(Uuid, ChannelId), bool>> {
    let (mut seats, mut groups, mut direct) = (Vec::new(), Vec::new(), Vec::new());
    for (player, channel) in &asked {
        match channel {
            ChannelId::Match(id) => seats.push((*player, *id)),
            ChannelId::Room(id) => groups.push((*player, *id)),
            ChannelId::Dm(a, b) => direct.push((*a, *b)),
            // Nothing in rows opens them.
            ChannelId::Global(_) | ChannelId::Closed => {}
        }
    }
    let mut bound = Vec::new();
    for (bond, pairs) in [(Bond::Seat, seats), (Bond::Group, groups), (Bond::Block, direct)] {
        let found = if pairs.is_empty() { Vec::new() } else { welcome::bound(pool, bond, &pairs).await? };
        bound.push(found.into_iter().collect::<std::collections::HashSet<_>>());
    }
    let allowed = |player: Uuid, channel: &ChannelId| match channel {
        ChannelId::Match(id) => bound[0].contains(&(player, *id)),
        ChannelId::Room(id) => bound[1].contains(&(player, *id)),
        ChannelId::Dm(a, b) => !bound[2].contains(&(*a, *b)),
        ChannelId::Global(_) | ChannelId::Closed => false,
    };
    Ok(asked.into_iter().map(|(player, channel)| ((player, channel.clone()), allowed(player, &channel))).collect())
}

impl LookUps {
    /// A read for one connection alone, within a part of the pool as large as that of the others.
    ///
    /// # Errors
    /// It was not its turn in time, or the database did not answer.
    pub(crate) async fn alone<T>(&self, read: impl Future<Output = asobi_store::Result<T>>) -> asobi_store::Result<T> {
        let late = |_| asobi_store::Error::Deadline(DEADLINE);
        // Nobody closes it.
        let _permit = tokio::time::timeout(DEADLINE, self.alone.acquire()).await.map_err(late)?;
        within(DEADLINE, read).await
    }
}

impl From<Unanswered> for asobi_store::Error {
    fn from(_: Unanswered) -> Self {
        Self::Deadline(DEADLINE)
    }
}
