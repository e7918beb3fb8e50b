//! `FriendService`: the rules of who is whose friend. Each change is one transaction with an inbox event for both, so that every node that
//! holds one of them reads its presence subscriptions again; a request and its acceptance are notifications to the other side.
//!
//! | the row | asked again | the other side asks | answered `accepted` | answered `blocked` | removed |
//! | --- | --- | --- | --- | --- | --- |
//! | none | pending | pending, theirs | not found | blocked, the blocker's row | not found |
//! | pending | the same | accepted | accepted, by the other side only | blocked | gone, by either |
//! | accepted | the same | the same | the same | blocked | gone, by either |
//! | blocked | the same | the same | accepted, by who was asked and blocked | the same | gone, by who blocked |
//!
//! **Invariant:** nobody becomes a friend without having asked or accepted: who blocks the one they asked cannot accept for them.

use asobi_proto::{
    bus::{InboxAction, InboxEvent},
    error::ErrorCode,
    social_v1::{
        AddFriendRequest, AddFriendResponse, AnswerFriendRequest, AnswerFriendResponse, FriendStatus as WireStatus,
        Friendship as WireFriendship, ListFriendsRequest, ListFriendsResponse, RemoveFriendRequest,
        RemoveFriendResponse, friend_service_server::FriendService,
    },
};
use asobi_service_kit::grpc::status;
use asobi_store::{
    friends::{self, FriendStatus, Friendship, Wanted},
    groups::invites,
    notifications::{self, NewNotification},
    within,
};
use serde_json::json;
use sqlx::PgConnection;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    deeds::{Deeds, Done},
    wire::{id, limit, optional_id, timestamp, unavailable},
};

/// The type of the notification of a request, gone with the request.
const REQUEST: &str = "friend_request";

pub struct Friends {
    pub deeds: Deeds,
}

/// What a player may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Myself,
    NoSuchPlayer,
    NoSuchFriendship,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Myself => status(ErrorCode::SOCIAL_CANNOT_FRIEND_SELF, "nobody is their own friend"),
            Refusal::NoSuchPlayer => status(ErrorCode::SOCIAL_FRIEND_NOT_FOUND, "there is no such player"),
            Refusal::NoSuchFriendship => status(ErrorCode::SOCIAL_FRIENDSHIP_NOT_FOUND, "there is no such friendship"),
        }
    }
}

/// What a deed came to: the row as it is now, and whether it changed.
type Deed = Result<(Friendship, bool), Refusal>;

async fn add(conn: &mut PgConnection, player: Uuid, friend: Uuid) -> asobi_store::Result<Deed> {
    if player == friend {
        return Ok(Err(Refusal::Myself));
    }
    if !friends::player_exists(conn, friend).await? {
        return Ok(Err(Refusal::NoSuchPlayer));
    }
    // The pair's row may be removed between the two statements.
    for _ in 0..3 {
        if let Some(row) = friends::insert(conn, player, friend).await? {
            return Ok(Ok((row, true)));
        }
        match friends::lock_pair(conn, player, friend).await? {
            Some(row) if row.status == FriendStatus::Pending && row.friend_id == player => {
                return Ok(Ok((friends::set_status(conn, row.id, FriendStatus::Accepted, None).await?, true)));
            }
            Some(row) => return Ok(Ok((row, false))),
            None => {}
        }
    }
    Ok(Err(Refusal::NoSuchFriendship))
}

async fn answer(
    conn: &mut PgConnection,
    player: Uuid,
    friend: Uuid,
    status: FriendStatus,
) -> asobi_store::Result<Deed> {
    let Some(row) = friends::lock_pair(conn, player, friend).await? else {
        return if status == FriendStatus::Blocked {
            block_a_stranger(conn, player, friend).await
        } else {
            Ok(Err(Refusal::NoSuchFriendship))
        };
    };
    if row.blocked_by.is_some_and(|by| by != player) {
        // Who is blocked is not told by an answer of their own, and changes nothing.
        return Ok(Err(Refusal::NoSuchFriendship));
    }
    if row.status == status {
        return Ok(Ok((row, false)));
    }
    match status {
        FriendStatus::Blocked => Ok(Ok((friends::set_status(conn, row.id, status, Some(player)).await?, true))),
        // Nobody accepts their own request, not by way of a block either.
        FriendStatus::Accepted if row.friend_id == player => {
            Ok(Ok((friends::set_status(conn, row.id, status, None).await?, true)))
        }
        _ => Ok(Err(Refusal::NoSuchFriendship)),
    }
}

/// Who was never asked can be unwanted, too.
async fn block_a_stranger(conn: &mut PgConnection, player: Uuid, friend: Uuid) -> asobi_store::Result<Deed> {
    if player == friend || !friends::player_exists(conn, friend).await? {
        return Ok(Err(Refusal::NoSuchFriendship));
    }
    // None: they ask in this very moment; the answer can be given to that.
    match friends::insert(conn, player, friend).await? {
        Some(row) => Ok(Ok((friends::set_status(conn, row.id, FriendStatus::Blocked, Some(player)).await?, true))),
        None => Ok(Err(Refusal::NoSuchFriendship)),
    }
}

async fn remove(conn: &mut PgConnection, player: Uuid, friend: Uuid) -> asobi_store::Result<Deed> {
    match friends::lock_pair(conn, player, friend).await? {
        Some(row) if row.blocked_by.is_none_or(|by| by == player) => {
            friends::delete(conn, row.id).await?;
            Ok(Ok((row, true)))
        }
        _ => Ok(Err(Refusal::NoSuchFriendship)),
    }
}

/// What the other side is told of a change: that they were asked, or that they were accepted.
fn notice(row: &Friendship, by: Uuid) -> Option<NewNotification> {
    let (kind, subject) = match row.status {
        FriendStatus::Pending => (REQUEST, "New friend request"),
        FriendStatus::Accepted => ("friend_accepted", "Friend request accepted"),
        FriendStatus::Blocked => return None,
    };
    Some(NewNotification { kind: kind.into(), subject: subject.into(), content: json!({"from_player_id": by}) })
}

impl Friends {
    /// Runs one deed; of a change both sides' nodes hear, and the other side is notified.
    async fn deed(
        &self,
        player: Uuid,
        friend: Uuid,
        told: bool,
        deed: impl AsyncFnOnce(&mut PgConnection) -> asobi_store::Result<Deed>,
    ) -> Result<Friendship, Status> {
        let changed = |friend_id| InboxEvent { frame: None, action: Some(InboxAction::Friends { friend_id }) };
        self.deeds
            .run(async |conn| {
                friends::hold_players(conn, player, friend).await?;
                let (row, has_changed) = match deed(conn).await? {
                    Ok(done) => done,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                if !has_changed {
                    return Ok(Ok(Done::quietly(row)));
                }
                if row.status == FriendStatus::Blocked {
                    invites::delete_between(conn, player, friend).await?;
                }
                let told = match notice(&row, player).filter(|_| told) {
                    Some(notice) => {
                        // Whoever asks and withdraws again and again has one place among what the other side keeps.
                        notifications::retract(conn, friend, &notice.kind, player).await?;
                        notifications::insert(conn, &[friend], &notice).await?
                    }
                    None => {
                        notifications::retract(conn, friend, REQUEST, player).await?;
                        Vec::new()
                    }
                };
                Ok(Ok(Done { value: row, events: vec![(player, changed(friend)), (friend, changed(player))], told }))
            })
            .await
    }
}

fn wire(row: Friendship) -> WireFriendship {
    WireFriendship {
        id: row.id.to_string(),
        player_id: row.player_id.to_string(),
        friend_id: row.friend_id.to_string(),
        status: wire_status(row.status).into(),
        inserted_at: timestamp(row.inserted_at),
        updated_at: timestamp(row.updated_at),
    }
}

fn wire_status(status: FriendStatus) -> WireStatus {
    match status {
        FriendStatus::Pending => WireStatus::Pending,
        FriendStatus::Accepted => WireStatus::Accepted,
        FriendStatus::Blocked => WireStatus::Blocked,
    }
}

fn known_status(status: WireStatus) -> Option<FriendStatus> {
    match status {
        WireStatus::Unspecified => None,
        WireStatus::Pending => Some(FriendStatus::Pending),
        WireStatus::Accepted => Some(FriendStatus::Accepted),
        WireStatus::Blocked => Some(FriendStatus::Blocked),
    }
}

#[tonic::async_trait]
impl FriendService for Friends {
    async fn list_friends(
        &self,
        request: Request<ListFriendsRequest>,
    ) -> Result<Response<ListFriendsResponse>, Status> {
        let request = request.into_inner();
        let player = id(&request.player_id, "player_id")?;
        let status = known_status(request.status());
        let wanted = Wanted {
            incoming: request.incoming,
            status,
            before: optional_id(&request.before, "before")?,
            limit: limit(request.limit, 50, 200).into(),
        };
        let rows = within(self.deeds.bound, friends::list(&self.deeds.pool, player, wanted)).await;
        let friends = rows.map_err(|e| unavailable(&e))?.into_iter().map(wire).collect();
        Ok(Response::new(ListFriendsResponse { friends }))
    }

    async fn add_friend(&self, request: Request<AddFriendRequest>) -> Result<Response<AddFriendResponse>, Status> {
        let request = request.into_inner();
        let (player, friend) = (id(&request.player_id, "player_id")?, id(&request.friend_id, "friend_id")?);
        let row = self.deed(player, friend, true, async |conn| add(conn, player, friend).await).await?;
        Ok(Response::new(AddFriendResponse { friendship: Some(wire(row)) }))
    }

    async fn answer_friend(
        &self,
        request: Request<AnswerFriendRequest>,
    ) -> Result<Response<AnswerFriendResponse>, Status> {
        let request = request.into_inner();
        let (player, friend) = (id(&request.player_id, "player_id")?, id(&request.friend_id, "friend_id")?);
        let Some(answered @ (FriendStatus::Accepted | FriendStatus::Blocked)) = known_status(request.status()) else {
            return Err(status(ErrorCode::VALIDATION_FAILED, "status must be accepted or blocked"));
        };
        let row = self.deed(player, friend, true, async |conn| answer(conn, player, friend, answered).await).await?;
        Ok(Response::new(AnswerFriendResponse { friendship: Some(wire(row)) }))
    }

    async fn remove_friend(
        &self,
        request: Request<RemoveFriendRequest>,
    ) -> Result<Response<RemoveFriendResponse>, Status> {
        let request = request.into_inner();
        let (player, friend) = (id(&request.player_id, "player_id")?, id(&request.friend_id, "friend_id")?);
        self.deed(player, friend, false, async |conn| remove(conn, player, friend).await).await?;
        Ok(Response::new(RemoveFriendResponse {}))
    }
}
