//! The way in: `GET /ws`. What is refused here is refused before a socket costs anything, where the protocol allows it;
//! refusals that clients tell apart by close code need the socket first.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use asobi_proto::{error::ErrorCode, frame::ErrorFrame};
use asobi_service_kit::address::limited_as;
use axum::{
    Router,
    extract::{
        ConnectInfo, FromRequestParts, Request, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use super::socket;
use crate::{
    admission::{Later, Place},
    close::Close,
    hub::Hub,
};

/// The protocol layer's default of 128 KiB per socket is zeroed on every read.
const READ_BUFFER: usize = 4 * 1024;
const WRITE_BUFFER: usize = 4 * 1024;
/// Messages up to here are read, so that one over `limits.frame_bytes` can be answered; longer ones close the socket.
const MESSAGE_CAP: usize = 1024 * 1024;

/// File descriptors for what is no player's socket, or not yet one: requests, the database, other processes.
const OTHER_FILES: u64 = 1_024;

pub(crate) fn router(hub: Arc<Hub>) -> Router {
    Router::new().route("/ws", get(upgrade)).with_state(hub)
}

async fn upgrade(State(hub): State<Arc<Hub>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let Ok(ws) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        let mut error = ErrorFrame::for_reason("upgrade_required", "This address speaks WebSocket only.");
        error.code = ErrorCode::WS_REQUEST_FAILED;
        let upgrade = (header::UPGRADE, HeaderValue::from_static("websocket"));
        return refused(StatusCode::UPGRADE_REQUIRED, upgrade, &error);
    };
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let ws = ws
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(MESSAGE_CAP.max(2 * hub.config.limits.frame_bytes))
        .max_frame_size(MESSAGE_CAP.max(2 * hub.config.limits.frame_bytes));
    if let Some(close) = refusal(&hub, &parts.headers, peer) {
        metrics::counter!("asobi_session_refused_total", "reason" => close.reason()).increment(1);
        return ws.on_upgrade(move |socket| refuse(socket, close));
    }
    let (admission, place) = match admit(&hub) {
        Ok(admitted) => admitted,
        Err((reason, Later(seconds))) => {
            metrics::counter!("asobi_session_refused_total", "reason" => reason).increment(1);
            let mut error = ErrorFrame::for_reason("try_again_later", "This node takes no more sockets.");
            error.code = ErrorCode::NOT_READY;
            let mut answer =
                refused(StatusCode::SERVICE_UNAVAILABLE, (header::RETRY_AFTER, HeaderValue::from(seconds)), &error);
            // Whoever is to come later, or elsewhere, holds no descriptor meanwhile.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return answer;
        }
    };
    let tracked = hub.sockets.token();
    ws.on_upgrade(move |socket| async move {
        let _held = (admission, tracked);
        socket::serve(hub, socket, place).await;
    })
}

/// A socket's right to be there and its place among those that come in, or why there is none and when to ask again.
fn admit(hub: &Arc<Hub>) -> Result<(Admitted, Place), (&'static str, Later)> {
    let (now, chance) = (Instant::now(), rand::random());
    let admission = Admitted::of(hub).ok_or_else(|| ("admission", hub.admission.later(now, chance)))?;
    let place = hub.admission.enter(now, chance).map_err(|later| ("under_way", later))?;
    Ok((admission, place))
}

/// An answer without a socket, with the error object of REST.
fn refused(status: StatusCode, header: (HeaderName, HeaderValue), error: &ErrorFrame<'_>) -> Response {
    let body = json!({"error": {"code": error.code.as_str(), "message": error.message, "details": error.details}});
    (status, [header], axum::Json(body)).into_response()
}

fn refusal(hub: &Hub, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<Close> {
    let allowed = &hub.config.http.allowed_origins;
    if let (false, Some(origin)) = (allowed.is_empty(), headers.get(header::ORIGIN)) {
        let origin = origin.to_str().unwrap_or_default().trim_end_matches('/');
        if !allowed.iter().any(|a| a == "*" || a.trim_end_matches('/').eq_ignore_ascii_case(origin)) {
            return Some(Close::OriginRejected);
        }
    }
    let client = limited_as(hub.proxies.client(peer?, headers));
    (!hub.connects.allows(client, hub.config.limits.connects_per_second, Instant::now())).then_some(Close::RateLimited)
}

async fn refuse(mut socket: WebSocket, close: Close) {
    let farewell = async {
        if socket.send(Message::Close(Some(close.frame()))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), farewell).await;
}

/// One of the sockets this node takes; given back when dropped.
struct Admitted(Arc<Hub>);

impl Admitted {
    /// None while the node drains or holds as many sockets as it may.
    fn of(hub: &Arc<Hub>) -> Option<Self> {
        if hub.is_draining() {
            return None;
        }
        let held = hub.admitted.fetch_add(1, Ordering::AcqRel);
        let admission = Self(Arc::clone(hub));
        (held < hub.most_sockets).then_some(admission)
    }
}

/// How many sockets there may be: as configured, else as many as there are file descriptors, less those for everything else. Past them not even a
/// connection to the database could be opened.
pub(crate) fn most_sockets(configured: usize) -> usize {
    let Some(files) = getrlimit(Resource::Nofile).current.filter(|_| configured == 0) else {
        return if configured == 0 { usize::MAX } else { configured };
    };
    let others = (files / 8).min(OTHER_FILES);
    usize::try_from(files - others).unwrap_or(usize::MAX)
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::AcqRel);
    }
}
