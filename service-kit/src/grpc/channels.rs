use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::{AsciiMetadataValue, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{ClusterKey, KEY_HEADER};
use crate::telemetry;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that does not answer any more is given up within about a lease, also where nothing says so: the network may swallow all.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to one process of the cluster; made lazily, re-made when it breaks, shared by its clones. Clients take
/// it by value: `MatchHostClient::new(channels.get(addr)?)`.
pub type ClusterChannel = InterceptedService<Channel, ClusterInterceptor>;

/// The channels of this process to the others, one per address. Clones share them.
///
/// The map is bounded by the addresses that the cluster has had: a node's address stays when the node is gone, which is
/// some hundred bytes, until [`Channels::forget`].
#[derive(Debug, Clone)]
pub struct Channels {
    interceptor: ClusterInterceptor,
    channels: Arc<RwLock<HashMap<String, ClusterChannel>>>,
}

/// Adds the cluster key and the current trace to each call.
#[derive(Debug, Clone)]
pub struct ClusterInterceptor {
    /// `None` if the key cannot be sent, which the server answers.
    key: Option<AsciiMetadataValue>,
}

impl Channels {
    pub fn new(key: impl Into<ClusterKey>) -> Self {
        let key = MetadataValue::try_from(key.into().expose()).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Self { interceptor: ClusterInterceptor { key }, channels: Arc::default() }
    }

    /// The channel to `host:port`. Nothing is connected before the first call; a call to an address that cannot be
    /// reached fails with UNAVAILABLE after at most a second.
    pub fn get(&self, addr: &str) -> ClusterChannel {
        if let Some(channel) = self.channels.read().unwrap_or_else(PoisonError::into_inner).get(addr) {
            return channel.clone();
        }
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        channels.entry(addr.to_owned()).or_insert_with(|| self.connect(addr)).clone()
    }

    /// Drops the channel to an address whose node is gone; calls under way go on.
    pub fn forget(&self, addr: &str) {
        self.channels.write().unwrap_or_else(PoisonError::into_inner).remove(addr);
    }

    fn connect(&self, addr: &str) -> ClusterChannel {
        // An address that is no URI becomes one nobody answers, so that callers have one kind of failure, not two.
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap_or_else(|error| {
            tracing::error!(addr, %error, "a node's gRPC address is not host:port");
            Endpoint::from_static("http://invalid.invalid:0")
        });
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect_lazy();
        InterceptedService::new(channel, self.interceptor.clone())
    }
}

impl Interceptor for ClusterInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(key) = &self.key {
            metadata.insert(KEY_HEADER, key.clone());
        }
        if let Some(trace) = telemetry::traceparent().and_then(|trace| MetadataValue::try_from(trace).ok()) {
            metadata.insert("traceparent", trace);
        }
        Ok(request)
    }
}

/// A request that fails with DEADLINE_EXCEEDED (here) or is dropped (there) when the time is over.
pub fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
