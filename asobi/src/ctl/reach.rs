//! How `asobi ctl` reaches a cluster, and what it shows there:
//!
//! | given | nodes come from | what is shown |
//! | --- | --- | --- |
//! | the database alone | the database | a token made there, for a quarter of an hour, made again while the command runs |
//! | `--token` | the database, or `--addr` | that token |
//! | `--cert`, `--key`, `--ca` | the database, or `--addr` | the certificate, over TLS |

use std::sync::Arc;

use anyhow::{Context as _, bail};
use asobi_cluster::access;
use asobi_service_kit::{
    config::Config,
    grpc::{BearerToken, Channels, Tls, TlsFiles},
};
use asobi_store::{DatabaseOptions, within};
use nix::unistd::{User, geteuid, gethostname};
use sqlx::PgPool;
use tokio_util::task::AbortOnDropHandle;

use super::{DEADLINE, Flags};

/// As much as a token's name may have.
const NAME_BYTES: usize = 128;

/// Where the cluster is found.
pub enum Reach {
    Database {
        pool: PgPool,
        /// Keeps the token good that was made there.
        _renewal: Option<AbortOnDropHandle<()>>,
    },
    /// A node's gRPC address.
    Address(String),
}

/// Finds the cluster, and makes a token where none is given and nodes are called.
///
/// # Errors
/// With a sentence that says what is missing.
pub async fn reach(args: &Flags, calls: bool, config: &Config) -> anyhow::Result<(Reach, Channels)> {
    let tls = tls(args, config)?;
    let bearer = BearerToken::default();
    let channels = if args.cert.is_some() { Channels::bare() } else { Channels::bearer(bearer.clone()) };
    let channels = channels.over(tls);
    if let Some(token) = &args.token {
        bearer.set(token);
    }
    let shows = args.token.is_some() || args.cert.is_some();
    if let Some(addr) = &args.addr {
        if !shows {
            bail!("--addr needs a token (--token or ASOBI_TOKEN) or a certificate (--cert, --key and --ca)");
        }
        return Ok((Reach::Address(addr.clone()), channels));
    }
    let pool = connect(config).await?;
    let renewal = if shows || !calls { None } else { Some(make_token(&pool, bearer).await?) };
    Ok((Reach::Database { pool, _renewal: renewal }, channels))
}

async fn connect(config: &Config) -> anyhow::Result<PgPool> {
    let timeout = config.database.timeout();
    let options = DatabaseOptions {
        url: config.database.url.expose().to_owned(),
        max_connections: 1,
        timeout,
        application_name: "asobi/ctl".to_owned(),
    };
    let pool = asobi_store::connect(&options).await.context(
        "the database cannot be reached; give the cluster's with --database-url, ASOBI_DATABASE_URL or --config, or a node with --addr and a token",
    )?;
    if let Some(problem) = within(timeout, asobi_store::schema_problem(&pool)).await? {
        bail!(problem);
    }
    Ok(pool)
}

/// Makes a token, and another one in good time for as long as the handle is kept.
async fn make_token(pool: &PgPool, bearer: BearerToken) -> anyhow::Result<AbortOnDropHandle<()>> {
    let name = whoever();
    bearer.set(&access::bootstrap(pool, &name, DEADLINE).await.context("no token could be made in the database")?);
    let pool = pool.clone();
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(access::BOOTSTRAP / 2).await;
            // The next attempt is before this one's end, too.
            match access::bootstrap(&pool, &name, DEADLINE).await {
                Ok(secret) => bearer.set(&secret),
                Err(error) => eprintln!("the token for this command could not be renewed: {error}"),
            }
        }
    })))
}

fn tls(args: &Flags, config: &Config) -> anyhow::Result<Option<Arc<Tls>>> {
    let configured = Some(&config.grpc.tls_ca).filter(|ca| !ca.as_os_str().is_empty());
    let Some(ca) = args.ca.as_ref().or(configured).cloned() else {
        if args.cert.is_some() {
            bail!("--cert needs --ca (or grpc.tls_ca): the authority that the nodes' own certificates are of");
        }
        return Ok(None);
    };
    // Never the cluster's own certificate, which may lie in its configuration: an operator is no node.
    let own = args.cert.clone().zip(args.key.clone());
    Tls::load(TlsFiles { own, ca, name: config.grpc.tls_name.clone() }).map(Some)
}

/// Who made it, as the audit shall know them: the account and the machine.
fn whoever() -> String {
    let user = User::from_uid(geteuid()).ok().flatten().map_or_else(|| geteuid().to_string(), |user| user.name);
    let host = gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_else(|| "unknown".to_owned());
    let mut name: String = format!("ctl:{user}@{host}").chars().filter(|c| !c.is_control()).collect();
    while name.len() > NAME_BYTES {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_makes_a_token_has_a_name() {
        let name = whoever();
        assert!(name.starts_with("ctl:") && name.contains('@') && name.len() <= NAME_BYTES, "{name}");
    }
}
