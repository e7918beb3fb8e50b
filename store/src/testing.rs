//! Fresh databases for tests, each a copy of a migrated template, on the server that `ASOBI_TEST_DATABASE_URL` names.

use std::{str::FromStr, time::Duration};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, postgres::PgConnectOptions};
use uuid::Uuid;

/// A database that is dropped with [`TestDatabase::drop_now`], or with the server that `./test` stops at its end.
pub struct TestDatabase {
    pub url: String,
    pub pool: PgPool,
    admin_url: String,
    name: String,
}

/// The server tests run on.
///
/// # Panics
/// When the variable is not set: such tests are run by `./test`.
#[must_use]
pub fn server_url() -> String {
    std::env::var("ASOBI_TEST_DATABASE_URL")
        .expect("ASOBI_TEST_DATABASE_URL names the server for tests; ./test sets it")
}

/// The URL of another database on the same server.
#[must_use]
pub fn url_of(server: &str, database: &str) -> String {
    let (base, query) = server.split_once('?').map_or((server, None), |(b, q)| (b, Some(q)));
    let authority_end = base.find("://").map_or(0, |i| i + 3);
    let path = base[authority_end..].find('/').map_or(base.len(), |i| authority_end + i);
    let mut url = format!("{}/{database}", &base[..path]);
    if let Some(query) = query {
        url = format!("{url}?{query}");
    }
    url
}

impl TestDatabase {
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn create() -> anyhow::Result<Self> {
        let admin_url = server_url();
        let template = template(&admin_url).await?;
        let name = format!("asobi_test_{}", Uuid::now_v7().simple());
        let mut admin = PgConnection::connect(&admin_url).await?;
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE {template}"))).await?;
        admin.close().await?;
        let url = url_of(&admin_url, &name);
        let pool = crate::connect(&crate::DatabaseOptions {
            url: url.clone(),
            max_connections: 5,
            timeout: Duration::from_secs(10),
            application_name: "asobi/test".into(),
        })
        .await?;
        Ok(Self { url, pool, admin_url, name })
    }

    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn drop_now(self) -> anyhow::Result<()> {
        self.pool.close().await;
        let mut admin = PgConnection::connect(&self.admin_url).await?;
        admin.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))).await?;
        Ok(())
    }
}

/// Makes the migrated template if this server does not have the one of this schema yet.
async fn template(admin_url: &str) -> anyhow::Result<String> {
    // The name is of the schema: a changed migration makes another template.
    let checksum = crate::schema::checksums()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let name = format!("asobi_template_{checksum:016x}");
    let mut admin = PgConnection::connect(admin_url).await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(crate::lock_keys::TEST_TEMPLATE).execute(&mut admin).await?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await?;
    if !exists {
        let building = format!("{name}_building");
        admin.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {building}"))).await?;
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {building}"))).await?;
        let options = PgConnectOptions::from_str(&url_of(admin_url, &building))?;
        let pool = PgPool::connect_with(options).await?;
        crate::migrate(&pool).await?;
        pool.close().await;
        admin.execute(AssertSqlSafe(format!("ALTER DATABASE {building} RENAME TO {name}"))).await?;
    }
    admin.close().await?;
    Ok(name)
}
