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
//!   running, told     ── host is gone ──► failed (host_lost), players told
//! ```
//!
//! **Invariant:** a player has at most one row in `match_players`; a match that is not over has exactly its players' rows.
//!
//! **Invariant:** nobody hears of a match before its host has claimed it, and everybody hears of it at least once: `told` and the inbox
//! events are one transaction.
//!
//! **Invariant:** at most one host can claim a match: the row names host, incarnation and epoch, and only a row that is still `allocating`
//! under the old epoch is given to another. A call whose outcome is unknown needs no probe for that reason: the row says whether it
//! was claimed, and changing the epoch makes the call that is still under way come to nothing.
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
//! | an old leader that believes | its transactions do not begin (`fence`), hosts refuse its term |
//! | a cancel after (1) | `not_found`: the ticket is no longer pending |

mod claim;
mod create;
mod tell;

use asobi_store::allocation::Open;

pub use claim::{Batch, claim};
pub use create::{give_up_all, run as run_creates};
pub use tell::run as run_tells;

use crate::hosts::HostId;

/// Matches between (1) and (2). When it is full the leader forms no more groups: tickets wait as rows.
pub const CREATE_QUEUE: usize = 4_096;
/// Matches between (3) and (4). When it is full, creates wait with theirs.
pub const TELL_QUEUE: usize = 4_096;
/// Failures after which a match is given up.
const ATTEMPTS: i32 = 3;

/// What `Open` says of where a match belongs.
fn host_of(open: &Open) -> HostId {
    HostId { node: open.host_node.clone(), incarnation: open.host_incarnation }
}
