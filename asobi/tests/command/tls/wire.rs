//! The client's half of TLS, and the balancer in front.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{PATIENCE, rest::Account};

/// Whom a client believes, and to be whom.
pub struct Trust {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Trust {
    pub fn new(ca: &Path, name: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name: ServerName::try_from(name.to_owned())? })
    }

    /// A connection to a URL's host and port, from one of this machine's addresses.
    pub async fn connect(&self, url: &str, from: Ipv4Addr) -> anyhow::Result<TlsStream<TcpStream>> {
        let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).context("a URL")?;
        let to: SocketAddr = authority.parse()?;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let connecting = async { self.connector.connect(self.name.clone(), socket.connect(to).await?).await };
        Ok(timeout(PATIENCE, connecting).await??)
    }

    /// The certificate that is shown there now.
    pub async fn shown(&self, url: &str) -> anyhow::Result<CertificateDer<'static>> {
        let stream = self.connect(url, Ipv4Addr::LOCALHOST).await?;
        let chain = stream.get_ref().1.peer_certificates().context("a certificate")?;
        Ok(chain.first().context("a certificate")?.clone().into_owned())
    }

    /// One request to the API on a connection of its own; status and body.
    pub async fn ask(
        &self,
        base: &str,
        from: Ipv4Addr,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(u16, Value)> {
        let mut stream = self.connect(base, from).await?;
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let head = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: play.test\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await?;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    pub async fn register(&self, base: &str, name: &str) -> anyhow::Result<Account> {
        let body = json!({"username": format!("{name}-tls"), "password": "correct horse"});
        let (status, answer) = self.ask(base, Ipv4Addr::LOCALHOST, "POST", "/auth/register", Some(body)).await?;
        ensure!(status == 200, "{status}: {answer}");
        let text = |key: &str| answer[key].as_str().map(str::to_owned).context("a text");
        Ok(Account {
            http: reqwest::Client::new(),
            base: base.to_owned(),
            player_id: text("player_id")?,
            username: text("username")?,
            access_token: text("access_token")?,
            refresh_token: text("refresh_token")?,
        })
    }
}

/// The real HAProxy, which passes on what it does not understand and says whom it stands for.
pub struct HaProxy {
    pub url: String,
    _child: Child,
    _dir: tempfile::TempDir,
}

impl HaProxy {
    pub async fn start(server: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = dir.path().join("haproxy.cfg");
        let config = format!(
            "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             listen players\n  bind {address}\n  server gateway {server} send-proxy-v2 check inter 500ms\n"
        );
        fs::write(&file, config)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().context("haproxy is not installed")?;
        let started = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            ensure!(child.try_wait()?.is_none() && started.elapsed() < PATIENCE, "haproxy does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { url: format!("https://{address}"), _child: child, _dir: dir })
    }
}
