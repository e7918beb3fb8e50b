//! Connections as gRPC takes them: in plain text, or after a handshake of bounded length, of which only so many are under way.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::transport::server::Connected;

use super::wire::Wire;
use crate::grpc::{Peer, PeerCertificate, Tls};

/// A peer that takes longer is cut off: it holds a place that others wait for.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way. Past it nobody is accepted before one of them ends; the system's backlog waits.
const HANDSHAKES: usize = 256;

/// Accepts for ever. A connection that does not come about is an error of its own and ends nothing.
pub(super) fn incoming(listener: TcpListener, tls: Option<Arc<Tls>>) -> impl Stream<Item = io::Result<Connection>> {
    TcpListenerStream::new(listener)
        .map(move |accepted| {
            let tls = tls.clone();
            async move { greet(accepted?, tls).await }
        })
        .buffer_unordered(HANDSHAKES)
}

async fn greet(tcp: TcpStream, tls: Option<Arc<Tls>>) -> io::Result<Connection> {
    // Fails if the peer has gone meanwhile, which reading will notice.
    let _gone = tcp.set_nodelay(true);
    let address = tcp.peer_addr().ok();
    let Some(tls) = tls else { return Ok(Connection { stream: Wire::Plain(tcp), address, certificate: None }) };
    let shaken = tokio::time::timeout(HANDSHAKE, tls.accept(tcp)).await;
    let shaken = shaken.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")));
    match shaken {
        Ok(stream) => {
            let certificate = PeerCertificate::of(&tls, &stream).map(Arc::new);
            Ok(Connection { stream: Wire::Tls(Box::new(stream)), address, certificate })
        }
        Err(error) => {
            metrics::counter!("asobi_grpc_tls_failures_total", "side" => "server").increment(1);
            tracing::debug!(?address, %error, "a TLS handshake failed");
            Err(error)
        }
    }
}

/// One connection.
pub(super) struct Connection {
    stream: Wire,
    address: Option<SocketAddr>,
    certificate: Option<Arc<PeerCertificate>>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { address: self.address, certificate: self.certificate.clone() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
