use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use asobi_service_kit::{Config, Shutdown, config::ConfigArgs};
use asobi_store::{DatabaseOptions, schema};
use sqlx::PgPool;

/// A migration may build an index on a large table, which no other statement does.
const TIMEOUT: Duration = Duration::from_secs(3_600);

/// Bring the database's schema up to date
///
/// Beside a cluster that runs: a migration that has to wait for a table gives up after two seconds, says who uses it, and tries again. A
/// schema that is newer than this build is left as it is.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Change nothing: say what would be applied. The exit code is 1 when that is anything
    #[arg(long)]
    pub check: bool,
}

/// `asobi migrate`: applies what is missing; several at the same time wait for each other.
///
/// # Errors
/// If the database does not answer or a migration fails.
pub async fn run(config: Arc<Config>, shutdown: Shutdown, check: bool) -> anyhow::Result<()> {
    let options = DatabaseOptions {
        url: config.database.direct().to_owned(),
        // One migrates, one looks who stands in its way.
        max_connections: 2,
        timeout: TIMEOUT,
        application_name: "asobi/migrate".to_owned(),
    };
    let migrating = async {
        let connecting = tokio::time::timeout(config.database.timeout(), asobi_store::connect(&options));
        let pool = connecting.await.context("no answer")?.context("the database cannot be reached")?;
        let versions = schema::versions(&pool).await?;
        if versions.have > Some(versions.want) {
            let (schema, build) = (versions.have, versions.want);
            tracing::info!(schema, build, "the database's schema is newer than this build; it stays as it is");
        }
        let pending = pending(&pool).await?;
        anyhow::ensure!(!check || pending == 0, "{pending} migrations are to be applied: run `asobi migrate`");
        if !check {
            asobi_store::migrate(&pool).await?;
        }
        pool.close().await;
        tracing::info!("the database's schema is up to date");
        anyhow::Ok(())
    };
    // Nobody is sent to a migration: it need not wait until others have noticed.
    let leaving = shutdown.leaving();
    tokio::select! {
        migrated = migrating => migrated,
        () = leaving.cancelled() => anyhow::bail!("interrupted; the migration under way was rolled back"),
    }
}

/// Says what is to be applied.
async fn pending(pool: &PgPool) -> anyhow::Result<usize> {
    let pending = schema::pending(pool).await?;
    for migration in &pending {
        let (version, what, concurrent) = (migration.version, &migration.description, migration.concurrent);
        tracing::info!(version, concurrent, "to be applied: {what}");
    }
    Ok(pending.len())
}
