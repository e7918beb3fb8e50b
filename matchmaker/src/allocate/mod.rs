//! From a group of tickets to a match whose players know it. Every step is a row's change, so that whoever leads next goes on where the
//! rows stand.
//!
//! ```text
//!   tickets pending
//!        │ (1) claim: one fenced transaction for many groups; a group that lost a ticket, or whose player has a seat, is put back
//!        ▼
//!   allocating, epoch 1, not told ◄───────────────┐
//!        │ (2) CreateMatch(match, epoch, term)     │ refused or no answer: compare-and-set to another host, epoch + 1
//!        ├────────────────────────────────────────┘
//!        │                  third failure, or no host left ──► failed: seats go; tickets pending again, or failed and told
//!        │ (3) the host claims: allocating → running where host, incarnation and epoch are its own
//!        ▼
//!   running, not told ── host is gone ──► failed as above: nobody knew of the match
//!        │ (4) tell: inbox events and told = true in one fenced transaction, then the bus
//!        ▼
//!   running, told ◄──────────────────────────────────────────────────────────────────────────────────────┐
//!        │ host is dead, another can go on: (5) fail over: one fenced transaction for many matches          │
//!        ├─────────────► allocating, epoch + 1, not told, failovers + 1; its checkpoint's epoch with it     │
//!        │                    │  (2) CreateMatch(restore), compare-and-set to another host as above         │
//!        │                    │  (3) the host claims; it reads the checkpoint itself                        │
//!        │                    ▼                                                                             │
//!        │               running, not told, failovers > 0 ── (4) tell: `moved` to who sits there now ───────┘
//!        │                    └── host is dead ──► (5) again
//!        └── host is dead, and for `matchmaker.failover_timeout_ms` none goes on with it ──► failed (host_lost), players told
//! ```
//!
//! What makes a host dead is in [`asobi_cluster::death`].
//!
//! **Invariant:** a player has at most one row in `match_players`; a match that is not over has exactly its players' rows.
//!
//! **Invariant:** nobody hears of a match before its host has claimed it, and everybody hears of it at least once: `told` and the inbox
//! events are one transaction.
//!
//! **Invariant:** at most one host can claim a match: the row names host, incarnation and epoch, and only a row that is still `allocating`
//! under the old epoch, or whose host is dead, is given to another. A call whose outcome is unknown needs no probe for that reason: the row says whether it
//! was claimed, and changing the epoch makes the call that is still under way come to nothing.
//!
//! **Invariant:** a match and its checkpoint change their epoch in one transaction, so that a host which lost a match, and does not know it,
//! writes neither.
//!
//! **Invariant:** a match that went on elsewhere once is known to its players whatever `told` says: their tickets never wait again for it.
//!
//! | what fails | what holds |
//! | --- | --- |
//! | the leader, before the commit of (1) | nothing happened, the tickets wait |
//! | the leader, after it | the next one finds the untold row and calls `CreateMatch` again: the same match and epoch answer as the first time |
//! | the leader, after (3) | the next one finds it running and untold, and tells |
//! | the leader, after the commit of (4), before the bus | the next leader publishes the last seconds' events again |
//! | the commit's answer, at any step | the row is read again by the sweep, a second later |
//! | the host, before (3) | refused or no answer: another host under the next epoch |
//! | the host, after (3), before (4) | orphaned and untold: the tickets wait again with their old times |
//! | the host, after (4) | (5), for quick play's matches too |
//! | the leader, before the commit of (5) | the rows name the dead host still: the next one fails over |
//! | the leader, after it | the next one finds an untold row with `failovers` and goes on at (2) or (4) |
//! | the host it goes to, before (3) | another one, as often as it takes within the time-out |
//! | the host it goes to, after (3) | (5) again |
//! | there is no checkpoint yet | restored all the same: the host then starts afresh |
//! | no host has the version of its script, or room | it waits, untouched or allocating, and is lost after the time-out; a new leader begins to count anew |
//! | it ends at the new host before (4) | who was formed into it and sits nowhere else is told `match.finished` |
//! | the host was taken for dead, and lives | its row and its checkpoint are another's; its next heartbeat ends it |
//! | an old leader that believes | its transactions do not begin (`fence`), hosts refuse its term |
//! | a cancel after (1) | `not_found`: the ticket is no longer pending |
//!
//! A ticket is one player's or a party's: all of its rows change their state together, or the group is put back.
//!
//! # Backfill
//!
//! A running match can ask for players (`backfills`); it is served before new groups are formed.
//!
//! ```text
//!   tickets pending, request stored
//!        │ (b1) claim: one fenced transaction: the match runs and wants that many, seats taken, tickets matched, claims stored
//!        ▼
//!   claimed ◄──────────────────────────────┐
//!        │ (b2) AddPlayers(match, epoch, term) │ no answer: attempts + 1, asked again a second later
//!        ├─────────────────────────────────┘
//!        ├── seated ──► (b3) tell: claims gone and inbox events in one fenced transaction, then the bus
//!        │
//!        └── not seated, refused, match over, or third call without an answer
//!                   ──► (b4) put back: seats and claims go; tickets pending again with their old times, or failed and told
//! ```
//!
//! **Invariant:** a player who has a claim has a seat in that match and a ticket `matched` with it, and has not been told.
//!
//! | what fails | what holds |
//! | --- | --- |
//! | the leader, before the commit of (b1) | nothing happened, tickets and request wait |
//! | the leader, after it | the next one finds the claims and calls `AddPlayers` again; the host answers for who is seated already as for the others |
//! | the leader, after the commit of (b3), before the bus | the next leader publishes the last seconds' events again |
//! | the match ends, before (b3) | the end takes the seats; the sweep finds the claims of a match that does not run: (b4) |
//! | the host dies | request and claims stay with the match, which goes on at another host: when it runs there, its host is asked as before. Who has a claim is not among the players of its `CreateMatch` |
//! | the match is lost with its host | (b4) for who was not told, then the others are told |
//! | the host is slow beyond three calls | (b4); if it seats them after all, their seats are empty ones that `player_ttl_ms` ends |
//! | some of a party are seated, some refused | who is seated plays; the others' part of the ticket fails and they are told |
//! | what was refused | is not asked for again by itself: the match asks anew, so that nobody is sent to it in a loop |

mod claim;
mod create;
mod join;
mod lose;
mod tell;
mod traces;

use asobi_store::allocation::Open;

pub use claim::{Batch, claim};
pub use create::{give_up_all, run as run_creates};
pub use join::{claim_for, put_back, run as run_joins};
pub use lose::{Lost, lose};
pub use tell::{Tell, run as run_tells};

use crate::hosts::HostId;

/// Matches between (1) and (2). When it is full the leader forms no more groups: tickets wait as rows.
pub const CREATE_QUEUE: usize = 4_096;
/// Matches between (3) and (4). When it is full, creates wait with theirs.
pub const TELL_QUEUE: usize = 4_096;
/// Running matches between (b1) and (b2). When it is full the leader forms no more groups.
pub const JOIN_QUEUE: usize = 1_024;
/// Failures after which a match, or a call for a running one, is given up.
const ATTEMPTS: usize = 3;

/// What `Open` says of where a match belongs.
fn host_of(open: &Open) -> HostId {
    HostId { node: open.host_node.clone(), incarnation: open.host_incarnation }
}
