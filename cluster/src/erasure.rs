//! The erasure of a player, at their own wish or an operator's: one deed, in two transactions.
//!
//! ```text
//!  leave the party (the others are told) ──► log-ins revoked · rows deleted · audit ──► commit ──► sockets, queue
//! ```
//!
//! Dying in between leaves a player without a party; whoever asked asks again.

use asobi_bus::{Publisher, inbox};
use asobi_proto::bus::{TicketItem, Topic};
use asobi_store::{
    Error, Result,
    parties::{self, PartyError},
    players,
    tokens::{self, Revocation},
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// The reason of an erasure's revocation: nobody comes back to this player's seat.
pub const REASON: &str = "erased";

/// What an erasure ended that others hold in memory; to be told after its commit.
#[derive(Debug)]
pub struct Ended {
    pub revocation: Revocation,
    /// Tickets that waited.
    pub tickets: Vec<Uuid>,
}

/// The others of the party are told and have another leader. By itself, before the erasure: it locks the party first, as everybody
/// does; and whoever is invited once more in between leaves a membership that goes with the player's row.
///
/// # Errors
/// When the database does not answer.
pub async fn leave_party(pool: &PgPool, publisher: &Publisher, player: Uuid) -> Result<()> {
    match parties::leave(pool, player).await {
        Ok(changed) => {
            for told in &changed.told {
                inbox::publish(publisher, told.player_id, told.seq, &told.event);
            }
            withdrawn(publisher, changed.tickets);
            Ok(())
        }
        Err(PartyError::Db(error)) => Err(error),
        Err(_) => Ok(()),
    }
}

/// Ends all of a player's log-ins and deletes what is theirs, in the caller's transaction, which also writes the audit. None: there is
/// no such player.
///
/// # Errors
/// When the database does not answer.
pub async fn erase(conn: &mut PgConnection, player: Uuid, access_ttl_s: f64) -> Result<Option<Ended>, Error> {
    if players::credentials(conn, player).await?.is_none() {
        return Ok(None);
    }
    let revocation = tokens::revoke_player(conn, player, REASON, access_ttl_s).await?;
    let erased = players::erase(conn, player).await?;
    Ok(Some(Ended { revocation, tickets: erased.tickets }))
}

/// Tells the leader of the queue, who finds a lost one by its sweep.
pub fn withdrawn(publisher: &Publisher, tickets: Vec<Uuid>) {
    for ticket_id in tickets {
        let gone = TicketItem { ticket_id, gone: true, ..TicketItem::default() };
        let _ = publisher.publish(Topic::Queue, &gone);
    }
}
