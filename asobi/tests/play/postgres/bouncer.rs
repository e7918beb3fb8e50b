//! The real PgBouncer with the configuration of `deploy/postgresql`, but for addresses and passwords.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};

use anyhow::Context as _;
use nix::unistd::{User, geteuid};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::support::until;

/// Killed when dropped.
pub struct Bouncer {
    _child: Child,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Bouncer {
    /// In front of the server of a URL.
    pub async fn start(server: &str, pool_mode: &str) -> anyhow::Result<Self> {
        let server = reqwest::Url::parse(server)?;
        let (host, upstream) = (server.host_str().context("a host")?, server.port().unwrap_or(5432));
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
        let users = dir.path().join("userlist.txt");
        fs::write(&users, "\"asobi_service\" \"\"\n")?;
        let ini = dir.path().join("pgbouncer.ini");
        let ours = [
            ("asobi", String::new()),
            ("listen_port", port.to_string()),
            ("auth_type", "trust".to_owned()),
            ("auth_file", users.display().to_string()),
            ("pool_mode", pool_mode.to_owned()),
        ];
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/postgresql/pgbouncer.ini");
        let text = adapted(&fs::read_to_string(shipped)?, &ours);
        fs::write(&ini, text.replace("[databases]\n", &format!("[databases]\n* = host={host} port={upstream}\n")))?;
        let mut command = Command::new("pgbouncer");
        command.arg(&ini).stdin(Stdio::null()).kill_on_drop(true);
        if geteuid().is_root() {
            // It refuses to run as root, as the server does.
            let user = User::from_name("postgres")?.context("there is no user postgres")?;
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let child = command.spawn().context("pgbouncer cannot be started; ./test installs it")?;
        until("PgBouncer listens", async || Ok(TcpStream::connect(("127.0.0.1", port)).await.is_ok())).await?;
        Ok(Self { _child: child, _dir: dir, port })
    }

    /// The way through it that a URL past it has.
    pub fn url(&self, direct: &str) -> anyhow::Result<String> {
        let mut url = reqwest::Url::parse(direct)?;
        let set = url.set_port(Some(self.port)).and_then(|()| url.set_host(Some("127.0.0.1")).map_err(drop));
        set.ok().context("a URL with a host and a port")?;
        Ok(url.into())
    }
}

/// The file with some values replaced; a line whose value becomes empty is gone.
fn adapted(text: &str, ours: &[(&str, String)]) -> String {
    let lines = text.lines().map(|line| {
        let key = line.split('=').next().unwrap_or_default().trim();
        match ours.iter().find(|(name, _)| *name == key) {
            Some((_, value)) if value.is_empty() => String::new(),
            Some((name, value)) => format!("{name} = {value}"),
            None => line.to_owned(),
        }
    });
    lines.map(|line| line + "\n").collect()
}
