use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tonic_health::ServingStatus;

use super::incoming::incoming;
use crate::{
    grpc::{Access, ClusterLayer},
    health::Readiness,
    shutdown::Shutdown,
};

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves gRPC until the drain, as a critical task: the routes for those whom `access` lets in, `grpc.health.v1` driven by
/// `readiness`, and reflection of all of Asobi's services.
///
/// When draining it takes no more connections and lets calls under way end; long streams are their handlers' to end. At
/// the cut the rest is dropped. A message may have 4 MiB, which is tonic's default for what it decodes.
pub fn serve_grpc(
    listener: TcpListener,
    routes: Routes,
    readiness: &Readiness,
    access: impl Into<Access>,
    shutdown: &Shutdown,
) {
    serve_grpc_until(listener, routes, readiness, access, shutdown, shutdown.draining());
}

/// [`serve_grpc`], but stopping when `stop` is cancelled, for a process that others have to reach while it drains.
pub fn serve_grpc_until(
    listener: TcpListener,
    routes: Routes,
    readiness: &Readiness,
    access: impl Into<Access>,
    shutdown: &Shutdown,
    stop: CancellationToken,
) {
    let access = access.into();
    let (cut, readiness) = (shutdown.cut(), readiness.clone());
    shutdown.spawn_critical("grpc server", async move {
        let serving = serve(listener, routes, readiness, access, stop);
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
    access: Access,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    warn_if_open(&listener, &access);
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
        .layer(ClusterLayer::new(access.clone()))
        .add_routes(routes)
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming(listener, access.tls().cloned()), stop.cancelled_owned());
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

/// What crosses a network in plain text can be read there, the cluster key and tokens included.
fn warn_if_open(listener: &TcpListener, access: &Access) {
    let Ok(address) = listener.local_addr() else { return };
    if access.tls().is_none() && !address.ip().is_loopback() {
        tracing::warn!(
            grpc.address = %address,
            "gRPC is served in plain text beyond this machine: whoever reads that network reads the cluster key and tokens. \
             Keep the network to the cluster, or set grpc.tls_cert, grpc.tls_key and grpc.tls_ca."
        );
    }
}
