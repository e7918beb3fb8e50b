//! The supervised listening session. `PgListener` alone reconnects after some errors and not after others, says nothing
//! of what it lost, and waits for ever on a network that swallows packets; here every doubt ends the session, and every
//! new session begins with a resync.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_proto::bus::Topic;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{BusEvent, Notification, Shared};

const CONNECT: Duration = Duration::from_secs(5);
/// Silence after which the session must prove that it is alive, and the time it has for that.
const PING_AFTER: Duration = Duration::from_millis(500);
const PING_ANSWER: Duration = Duration::from_secs(2);
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_MOST: Duration = Duration::from_secs(2);

pub(crate) async fn supervise(
    direct: PgConnectOptions,
    topics: Vec<Topic>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let mut back_off = BACK_OFF_FIRST;
    loop {
        let session = async {
            let mut listener = connect(&direct, &topics, shared.pulse.channel()).await?;
            shared.confirm();
            shared.connected.send_replace(true);
            metrics::gauge!("asobi_bus_connected").set(1.0);
            shared.offer(&BusEvent::Resync);
            tracing::debug!(topics = topics.len(), "Listening on the bus.");
            back_off = BACK_OFF_FIRST;
            receive(&mut listener, &topics, &shared).await
        };
        let ended: Result<(), String> = tokio::select! {
            ended = session => ended,
            () = stop.cancelled() => return,
        };
        shared.connected.send_replace(false);
        metrics::gauge!("asobi_bus_connected").set(0.0);
        metrics::counter!("asobi_bus_listener_losses_total").increment(1);
        let error = ended.err().unwrap_or_else(|| "the connection closed".into());
        let pause = back_off.mul_f64(rand::random_range(0.5..1.0));
        tracing::warn!(error, retry_ms = pause.as_millis() as u64, "The bus lost its listening session.");
        back_off = (back_off * 2).min(BACK_OFF_MOST);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn connect(direct: &PgConnectOptions, topics: &[Topic], pulse: &str) -> Result<PgListener, String> {
    let names: Vec<String> = topics.iter().map(|t| t.channel()).chain([pulse.to_owned()]).collect();
    let connecting = async {
        // A pool of its own: the session runs nothing else, and is never given to anybody else.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(CONNECT)
            .connect_with(direct.clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        listener.listen_all(names.iter().map(String::as_str)).await?;
        Ok(listener)
    };
    match timeout(CONNECT, connecting).await {
        Ok(Ok(listener)) => Ok(listener),
        Ok(Err(error)) => Err(sqlx::Error::to_string(&error)),
        Err(_) => Err(format!("no connection within {CONNECT:?}")),
    }
}

/// Hands on what comes, until there is any doubt about the session.
async fn receive(listener: &mut PgListener, topics: &[Topic], shared: &Shared) -> Result<(), String> {
    let names: Vec<(String, Topic)> = topics.iter().map(|t| (t.channel(), *t)).collect();
    loop {
        let notification = match timeout(PING_AFTER, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => notification,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {
                ping(listener).await?;
                shared.confirm();
                continue;
            }
        };
        shared.confirm();
        if notification.channel() == shared.pulse.channel() {
            shared.pulse.heard(notification.payload(), Instant::now());
            continue;
        }
        let Some((_, topic)) = names.iter().find(|(name, _)| name == notification.channel()) else {
            continue;
        };
        shared.offer(&BusEvent::Batch(Arc::new(Notification::new(*topic, notification.payload().to_owned()))));
    }
}

async fn ping(listener: &mut PgListener) -> Result<(), String> {
    match timeout(PING_ANSWER, sqlx::query("SELECT 1").execute(listener)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer to a ping within {PING_ANSWER:?}")),
    }
}
