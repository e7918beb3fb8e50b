//! `asobi doctor`: whether the database and the cluster are as the processes need them, and what to change where they are not. It reads, and
//! changes nothing.
//!
//! Each check is a module: it reads facts within [`DEADLINE`], and a function without I/O judges them. A check that cannot read its facts is a
//! finding of its own, so that one broken thing hides no other.

mod budget;
mod bus;
mod finding;
mod nodes;
mod reading;
mod replica;
mod rights;
mod schema;
mod server;
mod sessions;
mod settings;
mod tables;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use asobi_service_kit::{
    Config,
    config::{self, ConfigArgs, EXIT_CONFIG},
};
use futures_util::future::BoxFuture;
use sqlx::{PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::time::timeout;

use crate::ctl::output;
use finding::{Finding, Verdict};

/// Of one check.
const DEADLINE: Duration = Duration::from_secs(15);
/// Of one connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Check the database and the cluster, and say what to change
///
/// Run it with the configuration of the cluster's processes, where their addresses can be reached. It needs the database; nodes are looked at
/// where there are any. Nothing is changed. The exit code is 1 when something is wrong, and 0 when all is well or only worth a look.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// The PostgreSQL database of the cluster (database.url) [env: ASOBI_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// A configuration file, such as the cluster's own [env: ASOBI_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one configuration key, e.g. database.direct_url; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// # Errors
/// Never for what it finds.
pub async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let layers =
        ConfigArgs { config: args.config, set: args.set, database_url: args.database_url, ..ConfigArgs::default() };
    let config = match config::load(&layers) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let findings = Patient { config }.examine().await;
    if args.json {
        output::json(&findings.iter().map(Finding::object).collect());
    } else {
        output::line(&finding::report(&findings));
    }
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What every check is given.
struct Patient {
    config: Config,
}

type Check<'a> = (&'static str, BoxFuture<'a, anyhow::Result<Vec<Finding>>>);

impl Patient {
    async fn examine(&self) -> Vec<Finding> {
        if let Err(error) = self.direct().await {
            let change = "correct database.direct_url (or database.url, where it is empty), or start the server";
            return vec![Finding::fail("database", format!("it cannot be reached: {error:#}"), change)];
        }
        let checks: [Check<'_>; 10] = [
            ("server", Box::pin(server::check(self))),
            ("settings", Box::pin(settings::check(self))),
            ("schema", Box::pin(schema::check(self))),
            ("rights", Box::pin(rights::check(self))),
            ("sessions", Box::pin(sessions::check(self))),
            ("bus", Box::pin(bus::check(self))),
            ("tables", Box::pin(tables::check(self))),
            ("replica", Box::pin(replica::check(self))),
            ("budget", Box::pin(budget::check(self))),
            ("nodes", Box::pin(nodes::check(self))),
        ];
        let mut findings = Vec::new();
        for (name, check) in checks {
            match timeout(DEADLINE, check).await {
                Ok(Ok(found)) => findings.extend(found),
                Ok(Err(error)) => findings.push(Finding::fail(
                    name,
                    format!("it could not be checked: {error:#}"),
                    "see what else is found; the same without an answer is the server's or the network's",
                )),
                Err(_) => findings.push(Finding::fail(
                    name,
                    format!("no answer within {} s", DEADLINE.as_secs()),
                    "look at the server's load and at the network in between",
                )),
            }
        }
        findings
    }

    fn options(&self, url: &str) -> anyhow::Result<PgConnectOptions> {
        let options = asobi_store::connect_options(url, "asobi/doctor", self.config.database.timeout())?;
        // Nothing is prepared under a name: a pooler that cannot keep names is to be found, not to be run into.
        Ok(options.statement_cache_capacity(0))
    }

    async fn connect(&self, url: &str) -> anyhow::Result<PgConnection> {
        let options = self.options(url)?;
        let connecting = Box::pin(<PgConnection as sqlx::Connection>::connect_with(&options));
        Ok(timeout(CONNECT, connecting).await.with_context(|| format!("no connection within {CONNECT:?}"))??)
    }

    /// A session past every pooler.
    async fn direct(&self) -> anyhow::Result<PgConnection> {
        self.connect(self.config.database.direct()).await
    }

    /// Where the bus is: the database that has it alone, where there is one.
    fn bus(&self) -> &str {
        let database = &self.config.database;
        if database.bus_url.is_empty() { database.direct() } else { database.bus_url.expose() }
    }

    /// A session past every pooler, for what takes a pool.
    async fn pool(&self) -> anyhow::Result<PgPool> {
        let options = self.options(self.config.database.direct())?;
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT);
        Ok(Box::pin(pool.connect_with(options)).await?)
    }
}
