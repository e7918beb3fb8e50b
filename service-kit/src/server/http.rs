use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, StatusCode, header},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::door::{Door, Entered, Place};
use crate::{address::X_FORWARDED_FOR, shutdown::Shutdown};

/// How long a client may take to send a request's head; also how long a connection may idle between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest head of a request.
const HEAD_BYTES: usize = 32 * 1024;
/// After a failed accept, usually for want of file descriptors: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves HTTP/1.1 with upgrades until the drain, as a critical task. Handlers may take
/// `ConnectInfo<SocketAddr>`.
///
/// When leaving it asks clients to come back on another connection, by `connection: close` in each answer. When draining
/// it stops accepting and lets requests under way end; at the cut their connections are dropped.
/// Upgraded connections (WebSockets) are the upgrading handler's to track and to close.
pub fn serve_http(listener: TcpListener, router: Router, shutdown: &Shutdown) {
    serve_http_until(listener, router, shutdown, shutdown.draining());
}

/// [`serve_http`] for players, who come in through a door: TLS, and a balancer's PROXY header, as the configuration says. What handlers
/// take as `ConnectInfo<SocketAddr>` is the client's address then, not the balancer's.
pub fn serve_players(listener: TcpListener, door: Door, router: Router, shutdown: &Shutdown) {
    let stop = shutdown.draining();
    shutdown.spawn("certificates of http", door.clone().follow(stop.clone()));
    serve(listener, door, router, shutdown, stop);
}

/// [`serve_http`], but stopping when `stop` is cancelled, for a server that has to answer while the process drains.
pub fn serve_http_until(listener: TcpListener, router: Router, shutdown: &Shutdown, stop: CancellationToken) {
    serve(listener, Door::default(), router, shutdown, stop);
}

fn serve(listener: TcpListener, door: Door, router: Router, shutdown: &Shutdown, stop: CancellationToken) {
    let stages = Stages { leaving: shutdown.leaving(), stop, cut: shutdown.cut() };
    shutdown.spawn_critical("http server", accept(listener, door, router, stages));
}

/// Of a server's end.
#[derive(Clone)]
struct Stages {
    leaving: CancellationToken,
    stop: CancellationToken,
    cut: CancellationToken,
}

async fn accept(listener: TcpListener, door: Door, router: Router, stages: Stages) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = door.accept(&listener) => accepted,
            () = stages.stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let come = Come { door: door.clone(), stream, peer, place };
                connections.spawn(serve_connection(come, router.clone(), stages.clone()));
            }
            Err(error) if is_the_peers_doing(&error) => {}
            Err(error) => {
                tracing::error!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Whoever stands at the door.
struct Come {
    door: Door,
    stream: TcpStream,
    peer: SocketAddr,
    place: Option<Place>,
}

impl Come {
    async fn enter(self) -> Option<Entered> {
        // Fails if the peer has gone meanwhile, which reading will notice.
        let _gone = self.stream.set_nodelay(true);
        self.door.enter(self.stream, self.peer, self.place).await
    }
}

async fn serve_connection(come: Come, router: Router, stages: Stages) {
    let Stages { leaving, stop, cut } = stages;
    let entered = tokio::select! {
        entered = come.enter() => entered,
        () = stop.cancelled() => return,
    };
    let Some(Entered { wire, client: peer, unsaid }) = entered else { return };
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(Body::new);
        if unsaid {
            // The address is a trusted proxy's, but nobody knows who is behind it: it has vouched for no header.
            request.headers_mut().remove(X_FORWARDED_FOR);
        }
        request.extensions_mut().insert(ConnectInfo(peer));
        let (answering, leaving) = (router.clone().oneshot(request), leaving.clone());
        async move {
            let mut response = answering.await?;
            // A connection that is closed idle may cross the next request on its way.
            if leaving.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cut.cancelled() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = cut.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(client.address = %peer, %error, "an HTTP connection ended with an error");
    }
}

fn is_the_peers_doing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}
