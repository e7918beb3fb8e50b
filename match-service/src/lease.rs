//! Whether this host may act for its matches: what renews its [`Trust`], and what does not.
//!
//! ```text
//!   lease renewed in time ────────────────────────────► trusted until the lease ends
//!   the database is silent, half of the lease is over ─► witnesses are asked
//!        nobody who answers has the database ─────────► it is away: trusted for another half lease, asked again
//!        somebody has it ─────────────────────────────► we are cut off from it: trusted on only while every matchmaker answers,
//!                                                       because the one that leads reaches us then and gives nothing away
//!        nobody answers ──────────────────────────────► we are cut off: the trust runs out with the lease
//!   it has run out ───────────────────────────────────► nothing but the rows gives it back: renewed, then compared
//! ```
//!
//! | what happens | what this host does | why nobody else runs its matches at the same time |
//! | --- | --- | --- |
//! | the database is away for everybody | its matches go on | taking a match is a write |
//! | its way to the database is cut, the others' is not | they go on while all matchmakers answer | who leads probes before it takes, and is answered |
//! | it is cut off from everybody | they freeze at the lease's end | a lease is judged later than it ends here: by the database, from when the renewal came |
//! | it was stopped, and goes on | they are frozen until the rows were read | the time ran out while it stood still |

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_cluster::{Directory, Membership, Node, Role};
use asobi_proto::ops_v1::{WitnessRequest, ops_service_client::OpsServiceClient};
use asobi_service_kit::grpc::{Channels, with_deadline};
use asobi_store::{matches, within};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::host::{Host, Trust};

/// How long a witness may take; with short leases a quarter of one.
const ANSWER: Duration = Duration::from_millis(800);
/// Nodes that are asked in one round, besides all matchmakers.
const GATEWAYS: usize = 8;

/// What the keeper looks at.
pub struct TrustKeeper {
    membership: Arc<Membership>,
    directory: Arc<Directory>,
    channels: Channels,
    host: Arc<Host>,
    trust: Arc<Trust>,
    pool: PgPool,
    timeout: Duration,
    /// Said once.
    outage: bool,
    doubt: bool,
}

/// What others say of the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Witnesses {
    answered: usize,
    have_database: usize,
    matchmakers: usize,
    matchmakers_answered: usize,
}

impl Witnesses {
    /// Whether nobody can be about to take our matches.
    fn clear_us(self) -> bool {
        let outage = self.answered > 0 && self.have_database == 0;
        let reached = self.matchmakers > 0 && self.matchmakers == self.matchmakers_answered;
        outage || reached
    }
}

impl TrustKeeper {
    pub fn new(node: &Node, host: &Arc<Host>, trust: &Arc<Trust>, timeout: Duration) -> Self {
        Self {
            membership: Arc::clone(&node.membership),
            directory: Arc::clone(&node.directory),
            channels: node.channels.clone(),
            host: Arc::clone(host),
            trust: Arc::clone(trust),
            pool: node.pool.clone(),
            timeout,
            outage: false,
            doubt: false,
        }
    }

    /// Keeps the trust as current as it can be, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let lease = self.membership.lease();
        loop {
            tokio::select! {
                () = tokio::time::sleep(lease / 20) => {}
                () = stop.cancelled() => return,
            }
            if self.trust.holds() {
                self.renew(lease).await;
            } else {
                self.regain(lease).await;
            }
        }
    }

    /// While it is trusted: by the lease, or by what others say.
    async fn renew(&mut self, lease: Duration) {
        let silent = self.membership.last_contact();
        if silent < lease / 2 {
            self.trust.extend(Instant::now() + lease - silent);
            if std::mem::take(&mut self.outage) {
                tracing::info!("The database answers again.");
            }
            return;
        }
        let asked = Instant::now();
        let witnesses = self.ask().await;
        if witnesses.clear_us() {
            // From before they were asked, and no longer than they are asked again twice.
            self.trust.extend(asked + lease / 2);
            if !std::mem::replace(&mut self.outage, true) {
                tracing::warn!(
                    silent_ms = silent.as_millis() as u64,
                    matches = self.host.count(),
                    answered = witnesses.answered,
                    have_database = witnesses.have_database,
                    "The database is silent; nobody can take this host's matches, so they go on."
                );
            }
        }
    }

    /// It has run out: only the rows say what is still ours.
    async fn regain(&mut self, lease: Duration) {
        if !std::mem::replace(&mut self.doubt, true) {
            tracing::error!(
                silent_ms = self.membership.last_contact().as_millis() as u64,
                matches = self.host.count(),
                "This host could not renew its lease; its matches are frozen until it knows which are still its own."
            );
        }
        let silent = self.membership.last_contact();
        if silent >= lease {
            return;
        }
        let identity = self.membership.identity();
        let read_from = Instant::now();
        let held = within(self.timeout, matches::held(&self.pool, &identity.node_id, identity.incarnation)).await;
        match held {
            Ok(held) => {
                // Rows without a match are the next regular comparison's.
                let _ = self.host.compare(&held, read_from);
                self.doubt = false;
                self.trust.extend(Instant::now() + lease.saturating_sub(self.membership.last_contact()));
                tracing::info!(matches = held.len(), "This host holds its lease again; what is still its own goes on.");
            }
            Err(error) => tracing::warn!(%error, "This host's rows could not be read yet."),
        }
    }

    async fn ask(&self) -> Witnesses {
        let nodes = self.directory.all();
        let of = |role: Role| {
            nodes.iter().filter(move |node| node.role == role.as_str() && node.state != "stopped" && node.alive)
        };
        let matchmakers = of(Role::Matchmaker).count();
        let asked = of(Role::Matchmaker).map(|node| (node, true));
        let asked = asked.chain(of(Role::Gateway).take(GATEWAYS).map(|node| (node, false)));
        let mut answers: FuturesUnordered<_> = asked
            .filter_map(|(node, matchmaker)| Some((node.grpc_addr.clone()?, matchmaker)))
            .map(|(addr, matchmaker)| async move { (self.witness(&addr).await, matchmaker) })
            .collect();
        let mut witnesses = Witnesses { matchmakers, ..Witnesses::default() };
        while let Some((answer, matchmaker)) = answers.next().await {
            let Some(has_database) = answer else { continue };
            witnesses.answered += 1;
            witnesses.have_database += usize::from(has_database);
            witnesses.matchmakers_answered += usize::from(matchmaker);
        }
        witnesses
    }

    /// Whether that node has the database; none: it does not answer.
    async fn witness(&self, addr: &str) -> Option<bool> {
        let bound = ANSWER.min(self.membership.lease() / 4);
        let mut client = OpsServiceClient::new(self.channels.get(addr));
        let asking = client.witness(with_deadline(WitnessRequest {}, bound));
        let answer = tokio::time::timeout(bound, asking).await.ok()?.ok()?;
        Some(answer.into_inner().database)
    }
}

#[cfg(test)]
mod tests {
    use super::Witnesses;

    fn clear(answered: usize, have_database: usize, matchmakers: usize, matchmakers_answered: usize) -> bool {
        Witnesses { answered, have_database, matchmakers, matchmakers_answered }.clear_us()
    }

    #[test]
    fn only_an_outage_for_all_or_every_matchmaker_clears_a_host() {
        assert!(clear(3, 0, 2, 1), "whoever answers lacks the database, too");
        assert!(!clear(0, 0, 2, 0), "nobody answers");
        assert!(!clear(3, 2, 2, 1), "the matchmaker that does not answer may lead");
        assert!(clear(4, 4, 2, 2), "whoever leads reaches us");
        assert!(!clear(2, 2, 0, 0), "gateways alone lead nothing, but a matchmaker may come");
    }
}
