//! TLS between the processes of a cluster and with operators: who connects may show a certificate, and whoever does has
//! proven to hold its key; whether it counts is decided per call ([`PeerCertificate`]), so that a stranger's is answered and
//! written down and not only a broken connection.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{Caller, certificate};
use crate::{
    config::Grpc,
    service::Misconfigured,
    tls::{Certified, Watched, certificates, not_after, private_key},
};

/// The files, all in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// This process's certificate, those that lead to the authority after it, and its key. Without, nothing is shown.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The authority, or several: whose certificates count.
    pub ca: PathBuf,
    /// The name that servers' certificates must have; empty: the host of the address that is called.
    pub name: String,
}

/// What is in the files, as it is now: read again when they change.
pub struct Tls {
    files: TlsFiles,
    watched: Arc<Watched<Loaded>>,
}

struct Loaded {
    /// Counts up with each reading.
    generation: u64,
    client: Arc<ClientConfig>,
    /// Without a certificate of its own a process serves nothing.
    server: Option<Arc<ServerConfig>>,
    authority: Arc<dyn ClientCertVerifier>,
    not_after: Option<i64>,
}

impl Certified for Loaded {
    fn not_after(&self) -> Option<i64> {
        self.not_after
    }
}

impl Tls {
    /// What the configuration says; none: plain text.
    ///
    /// # Errors
    /// [`Misconfigured`]: a file cannot be read or is not what it should be.
    pub fn of(config: &Grpc) -> anyhow::Result<Option<Arc<Self>>> {
        if config.tls_cert.as_os_str().is_empty() {
            return Ok(None);
        }
        let own = Some((config.tls_cert.clone(), config.tls_key.clone()));
        let files = TlsFiles { own, ca: config.tls_ca.clone(), name: config.tls_name.clone() };
        let tls = Self::load(files).map_err(|error| Misconfigured(format!("grpc.tls_…: {error:#}")))?;
        Ok(Some(tls))
    }

    /// # Errors
    /// A file cannot be read or is not what it should be; it is named.
    pub fn load(files: TlsFiles) -> anyhow::Result<Arc<Self>> {
        let (own, read) = (files.own.clone(), files.clone());
        let all = own.into_iter().flat_map(|(cert, key)| [cert, key]).chain([files.ca.clone()]).collect();
        let watched = Watched::load("grpc", all, move |generation| Loaded::read(&read, generation))?;
        Ok(Arc::new(Self { files, watched }))
    }

    /// Looks at the files until `stop`, and reads them again when they have changed. What cannot be used is logged, and the last that could stays.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        Arc::clone(&self.watched).follow(stop).await;
    }

    /// Reads the files again if they have changed since the last time; whether they had.
    ///
    /// # Errors
    /// What they are now cannot be used.
    pub fn look(&self) -> anyhow::Result<bool> {
        self.watched.look()
    }

    /// The server's half of a handshake.
    ///
    /// # Errors
    /// The peer speaks no TLS, shows a certificate whose key it does not hold, or is gone.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        let config = self.now().server.clone();
        let config = config.ok_or_else(|| io::Error::other("there is no certificate to serve with"))?;
        TlsAcceptor::from(config).accept(tcp).await
    }

    /// Connects to `http://host:port` over TLS: the scheme is what keeps others from wrapping it once more.
    pub(super) fn connector(
        tls: &Arc<Self>,
    ) -> impl Service<Uri, Response = TokioIo<client::TlsStream<TcpStream>>, Error = io::Error, Future: Send> + Send + use<>
    {
        let tls = Arc::clone(tls);
        tower::service_fn(move |uri: Uri| {
            let tls = Arc::clone(&tls);
            async move { tls.connect(&uri).await.map(TokioIo::new) }
        })
    }

    async fn connect(&self, uri: &Uri) -> io::Result<client::TlsStream<TcpStream>> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = if self.files.name.is_empty() { host } else { &self.files.name };
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
        tcp.set_nodelay(true)?;
        let connecting = TlsConnector::from(Arc::clone(&self.now().client)).connect(name, tcp);
        connecting.await.inspect_err(|error| {
            metrics::counter!("asobi_grpc_tls_failures_total", "side" => "client").increment(1);
            tracing::debug!(%uri, %error, "a node could not be reached over TLS");
        })
    }

    fn now(&self) -> Arc<Loaded> {
        self.watched.now()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Loaded {
    fn read(files: &TlsFiles, generation: u64) -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.ca)? {
            roots.add(authority).with_context(|| format!("{} has no authority's certificate", files.ca.display()))?;
        }
        let roots = Arc::new(roots);
        let authority =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let (mut client, server, not_after) = match &files.own {
            None => (client.with_no_client_auth(), None, None),
            Some((cert, key)) => {
                let fits = || format!("{} and {} do not belong together", cert.display(), key.display());
                let (chain, key) = (certificates(cert)?, private_key(key)?);
                let server = server_config(&provider, chain.clone(), key.clone_key()).with_context(fits)?;
                let not_after = not_after(&chain);
                (client.with_client_auth_cert(chain, key).with_context(fits)?, Some(Arc::new(server)), not_after)
            }
        };
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { generation, client: Arc::new(client), server, authority, not_after })
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(Anybody { provider: Arc::clone(provider) }))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Takes any certificate whose key the peer holds, or none: what it is worth is decided per call.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate that the other side of a connection has shown and holds the key of.
pub(crate) struct PeerCertificate {
    chain: Vec<CertificateDer<'static>>,
    tls: Arc<Tls>,
    judged: Mutex<Option<Judged>>,
}

struct Judged {
    generation: u64,
    /// Unix seconds.
    not_after: i64,
    identity: Identity,
}

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    Caller(Caller),
    /// Somebody's who is not let in.
    Stranger {
        subject: String,
        why: &'static str,
    },
}

impl PeerCertificate {
    /// None: none was shown.
    pub(crate) fn of(tls: &Arc<Tls>, stream: &server::TlsStream<TcpStream>) -> Option<Self> {
        let chain = stream.get_ref().1.peer_certificates().filter(|chain| !chain.is_empty())?;
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Some(Self { chain, tls: Arc::clone(tls), judged: Mutex::default() })
    }

    /// Whose it is now: a connection outlives neither its certificate nor the authority that signed it.
    pub(crate) fn identity(&self) -> Identity {
        let (loaded, now) = (self.tls.now(), UnixTime::now());
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        match &*judged {
            Some(known) if known.generation == loaded.generation && seconds < known.not_after => known.identity.clone(),
            _ => {
                let (identity, not_after) = self.judge(&loaded, now);
                *judged = Some(Judged { generation: loaded.generation, not_after, identity: identity.clone() });
                identity
            }
        }
    }

    fn judge(&self, loaded: &Loaded, now: UnixTime) -> (Identity, i64) {
        let stranger = |subject: String, why| Identity::Stranger { subject, why };
        let Some((certificate, intermediates)) = self.chain.split_first() else {
            return (stranger(String::new(), "it shows no certificate"), i64::MAX);
        };
        let Some(said) = certificate::read(certificate) else {
            return (stranger("unreadable".to_owned(), "its certificate cannot be read"), i64::MAX);
        };
        let identity = match (loaded.authority.verify_client_cert(certificate, intermediates, now), said.role) {
            (Err(error), _) => stranger(said.subject, why(&error)),
            (Ok(_), Err(missing)) => stranger(said.subject, missing),
            (Ok(_), Ok(caller)) => Identity::Caller(caller),
        };
        (identity, said.not_after)
    }
}

fn why(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => "its certificate has expired",
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet"
        }
        rustls::Error::InvalidCertificate(Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. }) => {
            "its certificate is not made for clients"
        }
        _ => "its certificate is not of this cluster's authority",
    }
}
