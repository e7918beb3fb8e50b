use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;

use crate::{health::Readiness, shutdown::Shutdown, telemetry};

/// Serves `/metrics` (Prometheus), `/live` (200 as long as the process answers) and `/ready` (200, or 503 with the
/// reasons, one per line) until everything else has ended, so that a drain can be watched.
pub fn serve_metrics(listener: TcpListener, readiness: Readiness, shutdown: &Shutdown) {
    telemetry::install_metrics();
    let (leaving, seen, stops) = (shutdown.leaving(), readiness.clone(), shutdown.leaving());
    telemetry::observe(move || {
        metrics::gauge!("asobi_ready").set(if seen.ready() && !stops.is_cancelled() { 1.0 } else { 0.0 });
        true
    });
    let ready = async move |State(readiness): State<Readiness>| {
        if leaving.is_cancelled() {
            return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
        }
        match readiness.reasons() {
            reasons if reasons.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
            reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
        }
    };
    let router = Router::new()
        .route("/metrics", get(async || telemetry::render_metrics()))
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .with_state(readiness);
    shutdown.spawn_background("metrics server", async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics endpoint has failed");
        }
    });
}
