use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use asobi_service_kit::{Config, Shutdown};
use asobi_store::DatabaseOptions;

/// A migration may rewrite a table, which no other statement does.
const TIMEOUT: Duration = Duration::from_secs(3_600);

/// `asobi migrate`: applies what is missing; several at the same time wait for each other.
///
/// # Errors
/// If the database does not answer or a migration fails.
pub async fn run(config: Arc<Config>, shutdown: Shutdown) -> anyhow::Result<()> {
    let options = DatabaseOptions {
        url: config.database.direct().to_owned(),
        max_connections: 1,
        timeout: TIMEOUT,
        application_name: "asobi/migrate".to_owned(),
    };
    let migrating = async {
        let connecting = tokio::time::timeout(config.database.timeout(), asobi_store::connect(&options));
        let pool = connecting.await.context("no answer")?.context("the database cannot be reached")?;
        asobi_store::migrate(&pool).await?;
        pool.close().await;
        tracing::info!("the database's schema is up to date");
        anyhow::Ok(())
    };
    let draining = shutdown.draining();
    tokio::select! {
        migrated = migrating => migrated,
        () = draining.cancelled() => anyhow::bail!("interrupted; the migration under way was rolled back"),
    }
}
