//! The players' address: TLS with certificates that change, and balancers that say whom they stand for.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_service_kit::{
    Config, Shutdown,
    server::{Door, bind, serve_players},
};
use axum::{Router, extract::ConnectInfo, http::HeaderMap, routing::get};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const LONG: Duration = Duration::from_secs(30);
const NAME: &str = "play.test";

/// An authority, and the files of the certificate that it has last signed for `NAME`.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    _dir: tempfile::TempDir,
    cert: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let authority = Self { issuer, _dir: dir, cert, key };
        authority.sign();
        authority
    }

    /// Puts a new certificate into the files.
    fn sign(&self) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        fs::write(&self.cert, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&self.key, key.serialize_pem()).unwrap();
    }

    fn sets(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.display().to_string();
        vec![("http.tls_cert", path(&self.cert)), ("http.tls_key", path(&self.key))]
    }

    async fn connect(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), tcp).await
    }
}

/// A server that says who asks, and what their headers say of it.
struct Served {
    address: SocketAddr,
    door: Door,
    shutdown: Shutdown,
}

impl Served {
    async fn new(sets: &[(&str, String)]) -> Self {
        let config = Config::with_sets(sets.iter().map(|(key, value)| (*key, value.as_str()))).unwrap();
        let door = Door::of(&config.http).unwrap();
        let (listener, address) = bind("http.listen", "127.0.0.1:0").await.unwrap();
        let who = async |ConnectInfo(client): ConnectInfo<SocketAddr>, headers: HeaderMap| {
            let said = headers.get("x-forwarded-for").map(|value| value.to_str().unwrap().to_owned());
            format!("{} says {}", client, said.unwrap_or_default())
        };
        let shutdown = Shutdown::manual(LONG);
        serve_players(listener, door.clone(), Router::new().route("/", get(who)), &shutdown);
        Self { address, door, shutdown }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn end(self) {
        self.shutdown.begin();
        tokio::time::timeout(LONG, self.shutdown.finished()).await.unwrap();
        assert!(!self.shutdown.failed());
    }
}

const ASK: &str = "GET / HTTP/1.1\r\nhost: play.test\r\nx-forwarded-for: 6.6.6.6\r\n\r\n";

/// The body of the answer to [`ASK`] on a connection that stays open; empty where it was closed.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let answering = async {
        stream.write_all(ASK.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.windows(4).any(|four| four == b"\r\n\r\n") || !answer.windows(4).any(|four| four == b"says") {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(String::from_utf8(answer).unwrap())
    };
    let answer = tokio::time::timeout(LONG, answering).await.unwrap().unwrap_or_default();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn players_connect_over_tls_and_certificates_change_under_them() {
    let authority = Authority::new();
    let served = Served::new(&authority.sets()).await;
    let mut before = authority.connect(served.tcp().await).await.unwrap();
    assert_eq!(before.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(ask(&mut before).await.starts_with("127.0.0.1:"));
    assert!(!served.door.look().unwrap(), "nothing has changed");

    // A certificate whose key has not come yet is none: the old one stays.
    let key = fs::read(&authority.key).unwrap();
    authority.sign();
    let next = fs::read(&authority.key).unwrap();
    fs::write(&authority.key, key).unwrap();
    assert!(served.door.look().is_err());
    let between = authority.connect(served.tcp().await).await.unwrap();
    assert_eq!(shown(&between), shown(&before));

    fs::write(&authority.key, next).unwrap();
    assert!(served.door.look().unwrap());
    let mut after = authority.connect(served.tcp().await).await.unwrap();
    assert_ne!(shown(&after), shown(&before));
    for stream in [&mut before, &mut after] {
        assert!(ask(stream).await.starts_with("127.0.0.1:"), "both live");
    }
    drop((before, between, after));
    served.end().await;
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_and_who_says_nothing_is_cut_off() {
    let authority = Authority::new();
    let served = Served::new(&authority.sets()).await;
    let silent = served.tcp().await;
    let since = Instant::now();

    let mut plain = served.tcp().await;
    plain.write_all(ASK.as_bytes()).await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("use https:// or wss://."), "{answer}");
    let length = answer.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), length.parse::<usize>().unwrap());

    let mut nonsense = served.tcp().await;
    nonsense.write_all(&[0x16; 600]).await.unwrap();
    let mut end = Vec::new();
    let _ = tokio::time::timeout(LONG, nonsense.read_to_end(&mut end)).await.unwrap();

    // Nobody was held up, and the silent one goes.
    authority.connect(served.tcp().await).await.unwrap();
    let mut silent = silent;
    let read = tokio::time::timeout(LONG, silent.read(&mut [0])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)) && since.elapsed() >= Duration::from_secs(4), "{read:?}");
    served.end().await;
}

fn proxied(trusted: &str) -> Vec<(&'static str, String)> {
    vec![("http.proxy_protocol", "require".to_owned()), ("http.trusted_proxies", trusted.to_owned())]
}

#[tokio::test]
async fn a_trusted_proxy_says_whom_it_stands_for_before_tls() {
    let authority = Authority::new();
    let served = Served::new(&[authority.sets(), proxied("127.0.0.1")].concat()).await;
    let mut tcp = served.tcp().await;
    tcp.write_all(b"PROXY TCP4 203.0.113.9 127.0.0.1 4000 443\r\n").await.unwrap();
    let mut stream = authority.connect(tcp).await.unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&mut stream).await, "203.0.113.9:4000 says 6.6.6.6");
    }
    // Its own connection, such as a check of health, vouches for no header.
    let mut tcp = served.tcp().await;
    tcp.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0").await.unwrap();
    let own = tcp.local_addr().unwrap();
    let mut stream = authority.connect(tcp).await.unwrap();
    assert_eq!(ask(&mut stream).await, format!("{own} says "));
    drop(stream);
    served.end().await;
}

#[tokio::test]
async fn without_a_header_of_a_trusted_proxy_nobody_comes_in() {
    let header = b"PROXY TCP4 203.0.113.9 127.0.0.1 4000 80\r\n";
    let trusting = Served::new(&proxied("127.0.0.1")).await;
    let mut through = trusting.tcp().await;
    through.write_all(header).await.unwrap();
    assert!(ask(&mut through).await.starts_with("203.0.113.9:4000 "));
    assert_eq!(ask(&mut trusting.tcp().await).await, "", "there is no header");
    drop(through);

    let distrusting = Served::new(&proxied("10.0.0.0/8")).await;
    let mut stranger = distrusting.tcp().await;
    let _ = stranger.write_all(header).await;
    assert_eq!(ask(&mut stranger).await, "", "not from there");
    trusting.end().await;
    distrusting.end().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_said_at_the_start() {
    let (one, other) = (Authority::new(), Authority::new());
    let path = |path: &Path| path.display().to_string();
    let of = |cert: String, key: String| {
        let config = Config::with_sets([("http.tls_cert", cert), ("http.tls_key", key)]).unwrap();
        format!("{:#}", Door::of(&config.http).err().expect("a mistake"))
    };
    let said = of(path(&one.cert), path(&other.key));
    assert!(said.contains("http.tls_") && said.contains("do not belong together"), "{said}");
    let said = of(path(&one.cert), "/nowhere".to_owned());
    assert!(said.contains("/nowhere cannot be read as a key"), "{said}");
}
