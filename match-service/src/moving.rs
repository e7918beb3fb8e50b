//! Where this host's matches go when they go: to the host somebody names, or in a drain to whichever has room.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use asobi_cluster::{Directory, Role};
use asobi_proto::match_v1::{AdoptMatchRequest, match_host_service_client::MatchHostServiceClient};
use asobi_service_kit::grpc::{Channels, with_deadline};
use asobi_store::{
    allocation::{self, Host as Candidate},
    within,
};
use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use sqlx::PgPool;
use tokio::{runtime::Handle, time::Instant};
use tonic::Code;
use uuid::Uuid;

use crate::host::{Adopted, Host, MoveError, Peers, Target};

/// How long another host may take to have a match running. The match is frozen meanwhile.
const ADOPT: Duration = Duration::from_secs(2);
/// Matches that move at once: each is frozen for as long as it takes, so few and fast.
const AT_ONCE: usize = 8;
/// Hosts that are tried for one match in one round.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(3);

/// Other hosts over gRPC. Connections belong to the process's main runtime, whichever worker's match asks.
pub struct GrpcPeers {
    channels: Channels,
    runtime: Handle,
}

impl GrpcPeers {
    /// Call within the process's runtime.
    pub fn new(channels: Channels) -> Self {
        Self { channels, runtime: Handle::current() }
    }
}

#[async_trait]
impl Peers for GrpcPeers {
    async fn adopt(&self, target: &Target, request: AdoptMatchRequest) -> Adopted {
        let (channels, address) = (self.channels.clone(), target.grpc_addr.clone());
        let asking = async move {
            // Here and not outside: a new channel's own task belongs to the runtime, too.
            let client = MatchHostServiceClient::new(channels.get(&address));
            let mut client = client.max_encoding_message_size(MAX_SNAPSHOT);
            tokio::time::timeout(ADOPT, client.adopt_match(with_deadline(request, ADOPT))).await
        };
        let answer = self.runtime.spawn(asking).await;
        let Ok(answer) = answer else { return Adopted::Unknown("this host stops".to_owned()) };
        match answer {
            Ok(Ok(_)) => Adopted::Yes,
            Ok(Err(status)) => match status.code() {
                // Answers of one who has looked at it and written nothing.
                Code::Aborted
                | Code::FailedPrecondition
                | Code::InvalidArgument
                | Code::NotFound
                | Code::ResourceExhausted
                | Code::Unauthenticated
                | Code::Unimplemented => Adopted::Refused(status.message().to_owned()),
                _ => Adopted::Unknown(status.message().to_owned()),
            },
            Err(_) => Adopted::Unknown(format!("no answer within {ADOPT:?}")),
        }
    }
}

/// A snapshot with all around it, bytes: the largest state, its seats and effects.
pub const MAX_SNAPSHOT: usize = 32 << 20;

/// Finds places for matches.
pub struct Mover {
    pub node_id: String,
    pub pool: PgPool,
    pub directory: Arc<Directory>,
    /// Whether a match may go on with another version of its code.
    pub any_version: bool,
}

impl Mover {
    /// The host somebody named.
    ///
    /// # Errors
    /// It is this one, or none that is ready.
    pub fn named(&self, node_id: &str) -> Result<Target, MoveError> {
        if node_id == self.node_id {
            return Err(MoveError::NoSuchHost(format!("it runs on {node_id} already")));
        }
        let node = self.directory.get(node_id).filter(|node| node.role == Role::Match.as_str() && node.is_ready());
        let Some(node) = node else {
            return Err(MoveError::NoSuchHost(format!("{node_id:?} is no match host that is ready")));
        };
        let Some(grpc_addr) = node.grpc_addr.clone() else {
            return Err(MoveError::NoSuchHost(format!("{node_id:?} has no gRPC address")));
        };
        Ok(Target { node_id: node.node_id.clone(), incarnation: node.incarnation, grpc_addr })
    }

    /// Moves everything away, for as long as there is time: a host that has no room now may have some in a moment.
    /// Answers whether all is gone.
    pub async fn empty(&self, host: &Arc<Host>, until: Instant) -> bool {
        // Matches that cannot be moved at all are let be.
        let mut stuck: HashSet<Uuid> = HashSet::new();
        while host.count() > 0 && Instant::now() < until {
            let mut waiting = host.running_matches();
            waiting.retain(|(id, _)| !stuck.contains(id));
            if !waiting.is_empty() {
                stuck.extend(self.round(host, waiting).await);
            }
            let pause = PAUSE.min(until.saturating_duration_since(Instant::now()));
            host.emptied(pause).await;
        }
        host.count() == 0
    }

    /// Tries once to place each of the matches. Answers those that no host will ever take.
    async fn round(&self, host: &Arc<Host>, waiting: Vec<(Uuid, String)>) -> Vec<Uuid> {
        let hosts = match within(DEADLINE, allocation::hosts(&self.pool)).await {
            Ok(hosts) => hosts,
            Err(error) => {
                tracing::warn!(%error, "The other hosts could not be read; the matches wait.");
                return Vec::new();
            }
        };
        let mut others: Vec<Candidate> = hosts.into_iter().filter(|host| host.node_id != self.node_id).collect();
        tracing::info!(matches = waiting.len(), hosts = others.len(), "Matches move to other hosts.");
        let versions: HashMap<String, String> =
            host.modes().into_iter().map(|(mode, _, version)| (mode, version)).collect();
        let plans: Vec<(Uuid, Vec<Target>)> = waiting
            .into_iter()
            .map(|(match_id, mode)| {
                let version = versions.get(&mode).filter(|_| !self.any_version).map_or("", String::as_str);
                (match_id, choose(&mut others, &mode, version))
            })
            .collect();
        let moves = stream::iter(plans).map(|(match_id, targets)| self.place(host, match_id, targets));
        moves.buffer_unordered(AT_ONCE).filter_map(async |stuck| stuck).collect().await
    }

    /// Some: the match cannot be moved, wherever to.
    async fn place(&self, host: &Arc<Host>, match_id: Uuid, targets: Vec<Target>) -> Option<Uuid> {
        for target in targets {
            let node_id = target.node_id.clone();
            match host.move_match(match_id, target).await {
                Ok(_) | Err(MoveError::NotHere | MoveError::Ending) => return None,
                Err(MoveError::Unsavable(why)) => {
                    tracing::warn!(game.match_id = %match_id, why, "A match cannot move; it runs here until it ends.");
                    return Some(match_id);
                }
                Err(error) => {
                    tracing::info!(game.match_id = %match_id, host.id = node_id, %error, "A host does not take a match.");
                }
            }
        }
        None
    }
}

/// Hosts on which a match may go on, the least loaded first; the match is counted to that one.
fn choose(hosts: &mut [Candidate], mode: &str, version: &str) -> Vec<Target> {
    let mut fitting: Vec<&mut Candidate> =
        hosts.iter_mut().filter(|host| host.continues(mode, version) && !host.is_full()).collect();
    fitting.sort_by_key(|host| host.burden());
    if let Some(first) = fitting.first_mut() {
        first.open += 1;
    }
    let target = |host: &mut Candidate| Target {
        node_id: host.node_id.clone(),
        incarnation: host.incarnation,
        grpc_addr: host.grpc_addr.clone(),
    };
    fitting.into_iter().take(TRIES).map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node_id: &str, open: i64, version: &str) -> Candidate {
        Candidate {
            node_id: node_id.into(),
            incarnation: 1,
            grpc_addr: format!("{node_id}:1"),
            region: String::new(),
            capacity: 10,
            open,
            modes: HashMap::from([("arena".into(), version.into())]),
        }
    }

    #[test]
    fn matches_spread_over_the_hosts_that_have_their_code_and_room() {
        let mut hosts =
            [candidate("a", 0, "v1"), candidate("b", 1, "v1"), candidate("c", 0, "v2"), candidate("d", 10, "v1")];
        let mut first = |version: &str| -> Vec<String> {
            choose(&mut hosts, "arena", version).into_iter().map(|target| target.node_id).collect()
        };
        assert_eq!(first("v1"), ["a", "b"]);
        assert_eq!(first("v1"), ["a", "b"]);
        assert_eq!(first("v1"), ["b", "a"], "the ones before were counted");
        assert_eq!(first("")[0], "c", "with any code");
        assert!(choose(&mut hosts, "chess", "").is_empty());
    }
}
