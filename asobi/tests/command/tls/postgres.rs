//! A PostgreSQL that speaks TLS and takes nobody without it.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use nix::unistd::{User, geteuid};
use tokio::process::{Child, Command};

use crate::support::{PATIENCE, authority::Authority};

pub struct Postgres {
    server: Child,
    pub port: u16,
    dir: tempfile::TempDir,
}

impl Postgres {
    /// With a certificate of this authority for 127.0.0.1 and no other name. In the database `certs` it asks clients for one of the
    /// same authority.
    pub async fn start(authority: &Authority) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
        let data = dir.path().join("data");
        let user = if geteuid().is_root() { User::from_name("postgres")? } else { None };
        fs::create_dir(&data)?;
        let files = authority.sign_for("postgres", &["127.0.0.1"])?;
        let (cert, key, ca) = (dir.path().join("server.pem"), dir.path().join("server.key"), dir.path().join("ca.pem"));
        fs::copy(&files.cert, &cert)?;
        fs::copy(&files.key, &key)?;
        fs::copy(authority.ca(), &ca)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        for path in [&data, &key] {
            if let Some(user) = &user {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            }
        }
        let command = |program: &str| -> anyhow::Result<Command> {
            let mut command = Command::new(binaries()?.join(program));
            command.current_dir(dir.path()).kill_on_drop(true);
            if let Some(user) = &user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            }
            Ok(command)
        };
        let path = |path: &Path| path.display().to_string();
        let made = command("initdb")?.args(["--no-sync", "-U", "asobi", "-A", "trust", "-D", &path(&data)]).output();
        let made = made.await?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let hba = "hostssl certs all 127.0.0.1/32 trust clientcert=verify-ca\nhostssl all all 127.0.0.1/32 trust\n";
        fs::write(data.join("pg_hba.conf"), hba)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", path(&cert)),
            format!("ssl_key_file={}", path(&key)),
            format!("ssl_ca_file={}", path(&ca)),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "fsync=off".to_owned(),
        ];
        let settings = settings.iter().flat_map(|setting| ["-c", setting]);
        let log = fs::File::create(dir.path().join("log"))?;
        let server = command("postgres")?
            .args(["-D", &path(&data), "-p", &port.to_string()])
            .args(settings)
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()?;
        let postgres = Self { server, port, dir };
        postgres.create("asobi", &authority.ca()).await?;
        Ok(postgres)
    }

    /// The URL of a database, with these parameters.
    pub fn url(&self, host: &str, database: &str, parameters: &str) -> String {
        format!("postgres://asobi@{host}:{}/{database}?{parameters}", self.port)
    }

    /// Makes a database, once the server is there.
    pub async fn create(&self, database: &str, ca: &Path) -> anyhow::Result<()> {
        let url = self.url("127.0.0.1", "postgres", &format!("sslmode=verify-full&sslrootcert={}", ca.display()));
        let started = Instant::now();
        let pool = loop {
            match sqlx::PgPool::connect(&url).await {
                Ok(pool) => break pool,
                Err(error) if started.elapsed() > PATIENCE => {
                    let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                    return Err(error).context(log);
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        };
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&pool).await?;
        pool.close().await;
        Ok(())
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.server.kill().await?)
    }
}

/// Where this machine's PostgreSQL has its programs.
fn binaries() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("ASOBI_POSTGRES_BIN").filter(|dir| !dir.is_empty()) {
        return Ok(named.into());
    }
    let installed = fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    let mut dirs: Vec<PathBuf> = installed.flatten().map(|entry| entry.path().join("bin")).collect();
    dirs.retain(|dir| dir.join("initdb").is_file());
    dirs.sort();
    dirs.pop().context("PostgreSQL is not installed")
}
