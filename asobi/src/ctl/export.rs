//! `asobi ctl player export`: everything about a player, line by line, and whether it is all there.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use asobi_proto::ops_v1::{ExportPlayerRequest, ExportPlayerResponse, player_service_client::PlayerServiceClient};
use asobi_service_kit::grpc::with_deadline;
use clap::Args;
use serde_json::{Value, json, value::RawValue};
use tonic::Streaming;
use uuid::Uuid;

use super::{Ctl, output, refusal};

/// Of the whole export.
const EXPORT: Duration = Duration::from_secs(3_600);
/// Longest wait for the next record.
const RECORD: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct ExportArgs {
    pub id: Uuid,
    /// The file to write; it is there only when it is complete. Without it, standard output
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

pub async fn run(args: &ExportArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let request = ExportPlayerRequest { player_id: args.id.to_string() };
    let mut records = ctl
        .ask(None, async |channel| {
            PlayerServiceClient::new(channel).export_player(with_deadline(request.clone(), EXPORT)).await
        })
        .await?;
    let Some(path) = &args.out else {
        write(&mut records, &mut io::stdout().lock()).await?;
        return Ok(());
    };
    let part = beside(path);
    let file = File::create(&part).with_context(|| format!("{} cannot be written", part.display()))?;
    let mut file = BufWriter::new(file);
    let written = match write(&mut records, &mut file).await {
        Ok(written) => written,
        Err(error) => {
            let _ = fs::remove_file(&part);
            return Err(error);
        }
    };
    file.into_inner().context("the export could not be written")?.sync_all()?;
    fs::rename(&part, path).with_context(|| format!("{} cannot be written", path.display()))?;
    if ctl.json {
        output::json(&json!({"player_id": args.id, "done": "exported", "records": written, "file": path}));
    } else {
        output::line(&format!("{written} records of {} are in {}", args.id, path.display()));
    }
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Writes each record as one line; answers how many there were, when the last one says the same.
async fn write(records: &mut Streaming<ExportPlayerResponse>, out: &mut impl Write) -> anyhow::Result<u64> {
    let mut written = 0;
    loop {
        let next = tokio::time::timeout(RECORD, records.message()).await.context("the next record does not come")?;
        let Some(record) = next.map_err(|status| refusal(&status))? else {
            bail!("the export is cut off after {written} records: it has no end");
        };
        let data: &RawValue = serde_json::from_str(&record.json).context("a record is no JSON")?;
        let line = serde_json::to_string(&Line { kind: &record.kind, data })?;
        writeln!(out, "{line}").context("the export could not be written")?;
        if record.kind == "end" {
            let end: Value = serde_json::from_str(&record.json)?;
            ensure!(end["records"].as_u64() == Some(written), "records are missing: {written} came, but {end}");
            out.flush()?;
            return Ok(written);
        }
        written += 1;
    }
}

#[derive(serde::Serialize)]
struct Line<'a> {
    kind: &'a str,
    data: &'a RawValue,
}
