//! Calls between the processes of a cluster and of operators: what callers show, who they are and what they may, the channels processes share, and
//! how error codes travel.

mod access;
mod caller;
mod certificate;
mod channels;
mod guard;
mod key;
mod layer;
mod status;
mod tls;
mod traced;

pub use access::{Access, Operators, Refusal, Shown, Who};
pub use caller::{Caller, Scopes};
pub use certificate::is_operator_name;
pub use channels::{BearerToken, Channels, ClusterInterceptor, with_deadline};
pub use key::{ClusterKey, ClusterKeys};
pub(crate) use layer::{ClusterLayer, Peer};
pub use status::{NOT_LEADING, error_code, invalid, reason, refusal, status};
pub(crate) use tls::PeerCertificate;
pub use tls::{Tls, TlsFiles};
pub use traced::ClusterChannel;

/// The metadata key under which a process shows the cluster key.
pub const KEY_HEADER: &str = "x-asobi-cluster-key";
