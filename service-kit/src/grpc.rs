//! Calls between the processes of a cluster: the key they show, the channels they share, and how error codes travel.

mod caller;
mod channels;
mod key;
mod layer;
mod status;

pub use caller::{Caller, Scopes};
pub use channels::{Channels, ClusterChannel, ClusterInterceptor, with_deadline};
pub use key::ClusterKey;
pub(crate) use layer::ClusterLayer;
pub use status::{error_code, invalid, refusal, status};

/// The metadata key under which a process shows the cluster key.
pub const KEY_HEADER: &str = "x-asobi-cluster-key";
