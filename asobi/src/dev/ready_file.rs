//! The file that tells scripts where everything is. Its keys are a contract.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use anyhow::Context as _;
use asobi_cluster::NodeRow;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    pub database_url: String,
    pub gateways: Vec<Entry>,
    pub match_hosts: Vec<Entry>,
    pub matchmakers: Vec<Entry>,
    pub social_services: Vec<Entry>,
}

/// Addresses that a process does not have are null; `leading` only matchmakers have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub node_id: String,
    /// `http://host:port`, without a slash at the end.
    pub http: Option<String>,
    /// The whole URL, ending in `/ws`.
    pub ws: Option<String>,
    /// `host:port`, as the next.
    pub grpc: Option<String>,
    pub metrics: Option<String>,
    pub pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leading: Option<bool>,
}

impl Entry {
    pub fn of(row: &NodeRow) -> Self {
        Self {
            node_id: row.node_id.clone(),
            http: row.http_url.clone(),
            ws: row.ws_url.clone(),
            grpc: row.grpc_addr.clone(),
            metrics: row.metrics_addr.clone(),
            pid: u32::try_from(row.pid).unwrap_or(0),
            leading: None,
        }
    }
}

impl Ready {
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        [&self.gateways, &self.match_hosts, &self.matchmakers, &self.social_services].into_iter().flatten()
    }

    /// Writes a file beside it and moves that over it: whoever reads finds all or nothing.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().with_context(|| format!("cannot write the ready file {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_the_contract() {
        let entry = |leading| Entry {
            node_id: "n".to_owned(),
            http: None,
            ws: None,
            grpc: Some("127.0.0.1:1".to_owned()),
            metrics: None,
            pid: 7,
            leading,
        };
        let ready = Ready {
            database_url: "postgres://h/d".to_owned(),
            gateways: vec![entry(None)],
            match_hosts: vec![],
            matchmakers: vec![entry(Some(true))],
            social_services: vec![],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready.json");
        ready.write(&path).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let gateway = serde_json::json!({
            "node_id": "n", "http": null, "ws": null, "grpc": "127.0.0.1:1", "metrics": null, "pid": 7,
        });
        let mut matchmaker = gateway.clone();
        matchmaker["leading"] = true.into();
        let expected = serde_json::json!({
            "database_url": "postgres://h/d", "gateways": [gateway], "match_hosts": [], "matchmakers": [matchmaker],
            "social_services": [],
        });
        assert_eq!(read, expected);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
