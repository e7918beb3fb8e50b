use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::{AsciiMetadataValue, MetadataValue},
    service::Interceptor,
    transport::Endpoint,
};

use super::{ClusterChannel, ClusterKeys, KEY_HEADER, Tls};
use crate::telemetry;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that does not answer any more is given up within about a lease, also where nothing says so: the network may swallow all.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The channels of this process to the others, one per address. Clones share them.
///
/// The map is bounded by the addresses that the cluster has had: a node's address stays when the node is gone, which is
/// some hundred bytes, until [`Channels::forget`].
#[derive(Debug, Clone)]
pub struct Channels {
    interceptor: ClusterInterceptor,
    tls: Option<Arc<Tls>>,
    channels: Arc<RwLock<HashMap<String, ClusterChannel>>>,
}

/// Adds what the caller shows and the current trace to each call.
#[derive(Debug, Clone)]
pub struct ClusterInterceptor {
    shows: Shows,
}

/// What each call carries.
#[derive(Debug, Clone)]
enum Shows {
    Key(ClusterKeys),
    Bearer(BearerToken),
    /// The connection's certificate says it all.
    Nothing,
}

/// The token that an operator's tool shows; clones share it, so that it can be replaced before it ends. `Debug` does not show it.
#[derive(Clone, Default)]
pub struct BearerToken(Arc<RwLock<Option<AsciiMetadataValue>>>);

impl BearerToken {
    /// Puts another in its place. One that cannot be sent is not, which the server answers.
    pub fn set(&self, secret: &str) {
        let value = MetadataValue::try_from(format!("Bearer {secret}")).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn header(&self) -> Option<AsciiMetadataValue> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

impl Channels {
    /// Those of a process of the cluster.
    pub fn new(keys: impl Into<ClusterKeys>) -> Self {
        Self::showing(Shows::Key(keys.into()))
    }

    /// Those of an operator's tool.
    #[must_use]
    pub fn bearer(token: BearerToken) -> Self {
        Self::showing(Shows::Bearer(token))
    }

    /// Those of whoever shows a certificate, or nothing.
    #[must_use]
    pub fn bare() -> Self {
        Self::showing(Shows::Nothing)
    }

    fn showing(shows: Shows) -> Self {
        Self { interceptor: ClusterInterceptor { shows }, tls: None, channels: Arc::default() }
    }

    /// Over TLS where there is one; channels made before stay as they are.
    #[must_use]
    pub fn over(mut self, tls: Option<Arc<Tls>>) -> Self {
        self.tls = tls;
        self
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
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let channel = match &self.tls {
            None => endpoint.connect_lazy(),
            Some(tls) => endpoint.connect_with_connector_lazy(Tls::connector(tls)),
        };
        ClusterChannel::new(channel, self.interceptor.clone())
    }
}

impl Interceptor for ClusterInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        let (name, value) = match &self.shows {
            Shows::Key(keys) => (KEY_HEADER, keys.header()),
            Shows::Bearer(token) => ("authorization", token.header()),
            Shows::Nothing => ("", None),
        };
        if let Some(value) = value {
            metadata.insert(name, value);
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
