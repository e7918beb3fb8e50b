use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tonic_health::ServingStatus;

use crate::{
    grpc::{ClusterKey, ClusterLayer},
    health::Readiness,
    shutdown::Shutdown,
};

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves gRPC until the drain, as a critical task: the routes behind the cluster key, `grpc.health.v1` driven by
/// `readiness`, and reflection of all of Asobi's services.
///
/// When draining it takes no more connections and lets calls under way end; long streams are their handlers' to end. At
/// the cut the rest is dropped. A message may have 4 MiB, which is tonic's default for what it decodes.
pub fn serve_grpc(
    listener: TcpListener,
    routes: Routes,
    readiness: &Readiness,
    key: impl Into<ClusterKey>,
    shutdown: &Shutdown,
) {
    serve_grpc_until(listener, routes, readiness, key, shutdown, shutdown.draining());
}

/// [`serve_grpc`], but stopping when `stop` is cancelled, for a process that others have to reach while it drains.
pub fn serve_grpc_until(
    listener: TcpListener,
    routes: Routes,
    readiness: &Readiness,
    key: impl Into<ClusterKey>,
    shutdown: &Shutdown,
    stop: CancellationToken,
) {
    let key = key.into();
    let (cut, readiness) = (shutdown.cut(), readiness.clone());
    shutdown.spawn_critical("grpc server", async move {
        let serving = serve(listener, routes, readiness, key, stop);
        tokio::select! {
            served = serving => served,
            () = cut.cancelled() => Ok(()),
        }
    });
}

async fn serve(
    listener: TcpListener,
    routes: Routes,
    readiness: Readiness,
    key: ClusterKey,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    // Nobody may see the reporter's own first value, which is "serving".
    reporter.set_service_status("", ServingStatus::NotServing).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(asobi_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(ClusterLayer::new(key))
        .add_routes(routes)
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(nodelay(listener), stop.cancelled_owned());
    let mut readiness = readiness.follow();
    let follow = async {
        while let Some(ready) = readiness.next().await {
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status("", status).await;
        }
    };
    tokio::select! {
        served = server => Ok(served?),
        () = follow => Ok(()),
    }
}

fn nodelay(listener: TcpListener) -> impl tokio_stream::Stream<Item = std::io::Result<tokio::net::TcpStream>> {
    use tokio_stream::StreamExt as _;
    TcpListenerStream::new(listener).map(|accepted| {
        accepted.inspect(|stream| {
            // Fails if the peer has gone meanwhile, which reading will notice.
            let _gone = stream.set_nodelay(true);
        })
    })
}
