//! What a player's connection goes through before its first request: the PROXY header of a balancer, then TLS, each where the
//! configuration says so, in bounded time and number.
//!
//! | what comes | what becomes of it |
//! | --- | --- |
//! | nothing, or too slowly | closed after [`GREETING`] |
//! | one more greeting of an address that has [`SHARE`] of them under way, and is no trusted proxy | closed before a byte is read |
//! | a PROXY header is asked for, and the peer is no trusted proxy | closed before a byte is read |
//! | a PROXY header is asked for, and there is none | closed |
//! | plain HTTP, where TLS is spoken | a 400 that says so, closed |
//! | a handshake that fails | closed with TLS's own alert |
//!
//! Each is counted in `asobi_http_refused_total` by its reason; who leaves without a word is not.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
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
    address::{Proxies, limited_as},
    config::Http,
    service::Misconfigured,
    tls::{Certified, Watched, certificates, not_after, private_key},
};

/// For the header and the handshake together. Who takes longer is cut off: it holds a place that others wait for.
const GREETING: Duration = Duration::from_secs(5);
/// Greetings under way; each may cost some 40 KB. Past it nobody is accepted before one of them ends; the system's backlog waits.
const GREETINGS: usize = 2_048;
/// Greetings of one address under way: eight that stay silent do not fill the door.
const SHARE: usize = 256;
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
    /// Whose PROXY headers are believed, and who stands for many players.
    proxies: Proxies,
    /// Whether each connection begins with such a header.
    headed: bool,
    places: Arc<Semaphore>,
    shares: Arc<Shares>,
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
        let headed = config.proxy_protocol.required();
        if tls.is_none() && !headed {
            return Ok(Self(None));
        }
        Ok(Self(Some(Arc::new(Guarded {
            tls,
            proxies: Proxies::new(&config.trusted_proxies),
            headed,
            places: Arc::new(Semaphore::new(GREETINGS)),
            shares: Arc::default(),
            warned: AtomicBool::new(false),
        }))))
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
            Some(guarded) => guarded.place().await,
        };
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, place.map(Place)))
    }

    /// Takes a connection in. None: it was refused, which is counted, or has gone.
    pub(super) async fn enter(&self, tcp: TcpStream, peer: SocketAddr, place: Option<Place>) -> Option<Entered> {
        let Some(guarded) = &self.0 else {
            return Some(Entered { wire: Wire::Plain(tcp), client: peer, unsaid: false });
        };
        let greeted = match guarded.share(peer.ip()) {
            Ok(share) => {
                // In a box of its own: it is large, and the connection outlives it by far.
                let greeting = Box::pin(tokio::time::timeout(GREETING, guarded.greet(tcp, peer)));
                let greeted = greeting.await;
                drop(share);
                greeted.unwrap_or(Err(Refused::new("too_slow", io::ErrorKind::TimedOut.into())))
            }
            Err(refused) => Err(refused),
        };
        drop(place);
        greeted.inspect_err(|refused| guarded.note(peer, refused)).ok()
    }
}

/// One of the greetings under way.
pub(super) struct Place(#[expect(dead_code, reason = "it is held, and given back when dropped")] OwnedSemaphorePermit);

/// How many greetings each address has under way; none that has none.
#[derive(Default)]
struct Shares(Mutex<HashMap<IpAddr, usize>>);

impl Shares {
    fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = under_way.entry(address).or_default();
        (*count < SHARE).then(|| {
            *count += 1;
            Share { of: Arc::clone(self), address }
        })
    }
}

/// One of an address's greetings under way.
struct Share {
    of: Arc<Shares>,
    address: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut under_way = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = under_way.get_mut(&self.address) else { return };
        *count -= 1;
        if *count == 0 {
            under_way.remove(&self.address);
        }
    }
}

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
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        metrics::counter!("asobi_http_door_full_total").increment(1);
        // Nobody closes the semaphore.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// None: this address stands for many, and has no bound of its own.
    fn share(&self, peer: IpAddr) -> Result<Option<Share>, Refused> {
        if self.proxies.trusts(peer) {
            return Ok(None);
        }
        let share = self.shares.take(limited_as(peer));
        share.map(Some).ok_or_else(|| Refused::new("too_many", io::ErrorKind::QuotaExceeded.into()))
    }

    async fn greet(&self, mut tcp: TcpStream, peer: SocketAddr) -> Result<Entered, Refused> {
        let (mut client, mut unsaid) = (peer, false);
        if self.headed {
            if !self.proxies.trusts(peer.ip()) {
                return Err(Refused::new("untrusted_proxy", io::ErrorKind::PermissionDenied.into()));
            }
            first_byte(&tcp, "proxy_header").await?;
            let said = proxy::read(&mut tcp).await.map_err(|error| Refused::new("proxy_header", error))?;
            (client, unsaid) = (said.unwrap_or(peer), said.is_none());
        }
        let Some(tls) = &self.tls else { return Ok(Entered { wire: Wire::Plain(tcp), client, unsaid }) };
        if first_byte(&tcp, "handshake").await? != HANDSHAKE_RECORD {
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

/// The first byte of what comes, which stays there. Whoever sends none and leaves has made a check that only connects, as balancers do; some leave
/// with a reset.
async fn first_byte(tcp: &TcpStream, reason: &'static str) -> Result<u8, Refused> {
    let mut first = [0];
    match tcp.peek(&mut first).await {
        Ok(0) => Err(Refused::new(GONE, io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => Ok(first[0]),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(Refused::new(GONE, error)),
        Err(error) => Err(Refused::new(reason, error)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_share_of_the_door_and_a_network_of_one_customer_is_one() {
        let shares: Arc<Shares> = Arc::default();
        let [one, same, other]: [IpAddr; 3] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|ip| limited_as(ip.parse().expect("an address")));
        let mut held: Vec<Share> = (0..SHARE).filter_map(|_| shares.take(one)).collect();
        assert_eq!(held.len(), SHARE);
        assert!(shares.take(same).is_none(), "its share is used up");
        assert!(shares.take(other).is_some(), "another's is not");
        held.pop();
        assert!(shares.take(same).is_some());
        drop(held);
        assert!(shares.0.lock().expect("whole").is_empty(), "nothing is kept of those who have gone");
    }

    /// Who connects to see whether somebody is there is no refusal, whether they leave well or with a reset.
    #[tokio::test]
    async fn a_check_that_only_connects_has_gone() {
        let guarded = Guarded {
            tls: None,
            proxies: Proxies::new(&["127.0.0.1".to_owned()]),
            headed: true,
            places: Arc::new(Semaphore::new(1)),
            shares: Arc::default(),
            warned: AtomicBool::new(false),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        for reset in [false, true] {
            let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
            let (server, peer) = listener.accept().await.expect("accepted");
            if reset {
                client.set_zero_linger().expect("open");
            }
            drop(client);
            let refused = guarded.greet(server, peer).await.err().expect("nobody is there");
            assert_eq!(refused.reason, GONE, "{:?}", refused.error);
        }
    }
}
