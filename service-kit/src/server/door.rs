//! What a player's connection goes through before its first request: the PROXY header of a balancer, then TLS, each where the
//! configuration says so, in bounded time and number.
//!
//! | what comes | what becomes of it |
//! | --- | --- |
//! | nothing, or too slowly | closed after [`GREETING`] |
//! | a PROXY header is asked for, and the peer is no trusted proxy | closed before a byte is read |
//! | a PROXY header is asked for, and there is none | closed |
//! | plain HTTP, where TLS is spoken | a 400 that says so, closed |
//! | a handshake that fails | closed with TLS's own alert |
//!
//! Each is counted in `asobi_http_refused_total` by its reason; who leaves without a word is not.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use rustls::{ServerConfig, crypto::ring};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{proxy, wire::Wire};
use crate::{
    address::Proxies,
    config::Http,
    service::Misconfigured,
    tls::{Certified, Watched, certificates, not_after, private_key},
};

/// For the header and the handshake together. Who takes longer is cut off: it holds a place that others wait for.
const GREETING: Duration = Duration::from_secs(5);
/// Greetings under way; each may cost some 40 KB. Past it nobody is accepted before one of them ends; the system's backlog waits.
const GREETINGS: usize = 2_048;
/// Of whoever left without a word, which is no refusal.
const GONE: &str = "gone";
/// The first byte of a handshake. No method of HTTP begins with it.
const HANDSHAKE_RECORD: u8 = 0x16;
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 53\r\n\r\n\
    This address speaks TLS only: use https:// or wss://.";
/// Of what somebody who spoke plain HTTP goes on to send before the answer has reached them.
const FAREWELL_BYTES: u64 = 64 * 1024;
const FAREWELL: Duration = Duration::from_secs(1);

/// How players come in at `http.listen`. The default is a plain connection.
#[derive(Clone, Default)]
pub struct Door(Option<Arc<Guarded>>);

struct Guarded {
    tls: Option<Arc<Watched<Certificate>>>,
    /// Whose PROXY headers are believed; none: there is no such header.
    proxies: Option<Proxies>,
    places: Arc<Semaphore>,
    /// Whether the log has said that somebody who is no trusted proxy came; the counter says how often.
    warned: AtomicBool,
}

struct Certificate {
    server: Arc<ServerConfig>,
    not_after: Option<i64>,
}

impl Certified for Certificate {
    fn not_after(&self) -> Option<i64> {
        self.not_after
    }
}

/// A connection that has come through.
pub(super) struct Entered {
    pub wire: Wire,
    /// The client's address: the peer's, or the one that a trusted proxy's header says.
    pub client: SocketAddr,
    /// Whether a proxy's header did not say whom it stands for: then the client's word for it counts even less.
    pub unsaid: bool,
}

impl Door {
    /// As the configuration says.
    ///
    /// # Errors
    /// [`Misconfigured`]: a file cannot be read or is not what it should be.
    pub fn of(config: &Http) -> anyhow::Result<Self> {
        let files = [config.tls_cert.clone(), config.tls_key.clone()];
        let tls = if config.has_tls() {
            let [cert, key] = files.clone();
            let read = move |_| Certificate::read(&cert, &key);
            let tls = Watched::load("http", files.into(), read);
            Some(tls.map_err(|error| Misconfigured(format!("http.tls_…: {error:#}")))?)
        } else {
            None
        };
        let proxies = config.proxy_protocol.required().then(|| Proxies::new(&config.trusted_proxies));
        if tls.is_none() && proxies.is_none() {
            return Ok(Self(None));
        }
        let places = Arc::new(Semaphore::new(GREETINGS));
        Ok(Self(Some(Arc::new(Guarded { tls, proxies, places, warned: AtomicBool::new(false) }))))
    }

    /// Reads the certificate again whenever its files change, until `stop`.
    pub(super) async fn follow(self, stop: CancellationToken) {
        match self.0.and_then(|guarded| guarded.tls.clone()) {
            Some(tls) => tls.follow(stop).await,
            None => stop.cancelled().await,
        }
    }

    /// Reads the certificate's files again if they have changed since the last time; whether they had.
    ///
    /// # Errors
    /// What they are now cannot be used; what was there stays.
    pub fn look(&self) -> anyhow::Result<bool> {
        self.0.as_ref().and_then(|guarded| guarded.tls.as_ref()).map_or(Ok(false), |tls| tls.look())
    }

    /// The next connection, once there is a place for its greeting, if it needs one.
    pub(super) async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, Option<Place>)> {
        let place = match &self.0 {
            None => None,
            // Nobody closes the semaphore.
            Some(guarded) => Arc::clone(&guarded.places).acquire_owned().await.ok(),
        };
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, place.map(Place)))
    }

    /// Takes a connection in. None: it was refused, which is counted, or has gone.
    pub(super) async fn enter(&self, tcp: TcpStream, peer: SocketAddr, place: Option<Place>) -> Option<Entered> {
        let Some(guarded) = &self.0 else {
            return Some(Entered { wire: Wire::Plain(tcp), client: peer, unsaid: false });
        };
        // In a box of its own: it is large, and the connection outlives it by far.
        let greeting = Box::pin(tokio::time::timeout(GREETING, guarded.greet(tcp, peer)));
        let greeted = greeting.await.unwrap_or(Err(Refused::new("too_slow", io::ErrorKind::TimedOut.into())));
        drop(place);
        greeted.inspect_err(|refused| guarded.note(peer, refused)).ok()
    }
}

/// One of the greetings under way.
pub(super) struct Place(#[expect(dead_code, reason = "it is held, and given back when dropped")] OwnedSemaphorePermit);

struct Refused {
    reason: &'static str,
    error: io::Error,
}

impl Refused {
    fn new(reason: &'static str, error: io::Error) -> Self {
        Self { reason, error }
    }
}

impl Guarded {
    async fn greet(&self, mut tcp: TcpStream, peer: SocketAddr) -> Result<Entered, Refused> {
        let (mut client, mut unsaid) = (peer, false);
        if let Some(proxies) = &self.proxies {
            if !proxies.trusts(peer.ip()) {
                return Err(Refused::new("untrusted_proxy", io::ErrorKind::PermissionDenied.into()));
            }
            let said = proxy::read(&mut tcp).await.map_err(|error| Refused::new("proxy_header", error))?;
            (client, unsaid) = (said.unwrap_or(peer), said.is_none());
        }
        let Some(tls) = &self.tls else { return Ok(Entered { wire: Wire::Plain(tcp), client, unsaid }) };
        let mut first = [0];
        let looked = tcp.peek(&mut first).await.map_err(|error| Refused::new("handshake", error))?;
        if looked == 0 {
            // A check that only connects, as balancers make it.
            return Err(Refused::new(GONE, io::ErrorKind::UnexpectedEof.into()));
        }
        if first[0] != HANDSHAKE_RECORD {
            say_it_is_tls(tcp).await;
            return Err(Refused::new("plain_http", io::ErrorKind::InvalidData.into()));
        }
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.now().server));
        let stream = acceptor.accept(tcp).await.map_err(|error| Refused::new("handshake", error))?;
        Ok(Entered { wire: Wire::Tls(Box::new(stream)), client, unsaid })
    }

    fn note(&self, peer: SocketAddr, refused: &Refused) {
        let Refused { reason, error } = refused;
        if *reason == GONE {
            return;
        }
        metrics::counter!("asobi_http_refused_total", "reason" => *reason).increment(1);
        tracing::debug!(client.address = %peer, reason, %error, "a connection was refused");
        if *reason == "untrusted_proxy" && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                client.address = %peer,
                "A connection was refused because http.proxy_protocol asks for a PROXY header and http.trusted_proxies does \
                 not have its address. This is said once; asobi_http_refused_total counts."
            );
        }
    }
}

/// Whoever typed http:// reads why it does not work. What they send is read for a moment, or the answer would be lost to a reset.
async fn say_it_is_tls(mut tcp: TcpStream) {
    let farewell = async {
        tcp.write_all(PLAIN_HTTP).await?;
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp.take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    let _said = tokio::time::timeout(FAREWELL, farewell).await;
}

impl Certificate {
    fn read(cert: &std::path::Path, key: &std::path::Path) -> anyhow::Result<Self> {
        let (chain, private) = (certificates(cert)?, private_key(key)?);
        let not_after = not_after(&chain);
        let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .with_context(|| format!("{} and {} do not belong together", cert.display(), key.display()))?;
        // No HTTP/2: WebSockets over it are rare among clients, and one of its connections could carry many players.
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { server: Arc::new(server), not_after })
    }
}
