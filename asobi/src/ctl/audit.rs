//! `asobi ctl audit`: who did what, and who was refused.

use std::time::Duration;

use asobi_proto::ops_v1::{AuditEntry, AuditOutcome, ListAuditRequest, access_service_client::AccessServiceClient};
use asobi_service_kit::grpc::with_deadline;
use clap::Args;
use prost_types::Timestamp;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Ctl, DEADLINE, given::duration, output, shown::time};

/// What operators did and what was refused, newest first
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only of this one, e.g. token:ci
    #[arg(long, default_value = "")]
    actor: String,
    /// Only what was done to this, e.g. a player's id
    #[arg(long, default_value = "")]
    subject: String,
    /// Only this, e.g. PlayerService/BanPlayer
    #[arg(long, default_value = "")]
    action: String,
    /// Only what is not older: 1h, 7d
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    /// So many at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

pub async fn run(args: &AuditArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let from = args.since.map(|since| (OffsetDateTime::now_utc() - since).unix_timestamp());
    let mut request = ListAuditRequest {
        page_size: i32::try_from(args.limit).unwrap_or(i32::MAX),
        actor: args.actor.clone(),
        subject: args.subject.clone(),
        action: args.action.clone(),
        from: from.map(|seconds| Timestamp { seconds, nanos: 0 }),
        ..ListAuditRequest::default()
    };
    let mut entries = Vec::new();
    loop {
        let page = ctl
            .ask(None, async |channel| {
                AccessServiceClient::new(channel).list_audit(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
        entries.extend(page.entries);
        request.page_token = page.next_page_token;
        if entries.len() >= args.limit || request.page_token.is_empty() {
            break;
        }
    }
    entries.truncate(args.limit);
    if ctl.json {
        output::json(&entries.iter().map(object).collect());
        return Ok(());
    }
    let rows: Vec<_> = entries.iter().map(row).collect();
    output::line(&output::table(["at", "who", "what", "to", "outcome", "detail"], &rows));
    Ok(())
}

fn outcome(entry: &AuditEntry) -> &'static str {
    match entry.outcome() {
        AuditOutcome::Done => "done",
        AuditOutcome::Refused => "refused",
        AuditOutcome::Unspecified => "unknown",
    }
}

fn row(entry: &AuditEntry) -> [String; 6] {
    let detail = if entry.detail_json == "{}" { String::new() } else { entry.detail_json.clone() };
    [
        time(entry.at.as_ref()),
        entry.actor.clone(),
        entry.action.clone(),
        entry.subject.clone(),
        outcome(entry).to_owned(),
        detail,
    ]
}

fn object(entry: &AuditEntry) -> Value {
    let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    json!({
        "id": entry.entry_id,
        "at": time(entry.at.as_ref()),
        "actor": entry.actor,
        "action": entry.action,
        "subject": text(&entry.subject),
        "outcome": outcome(entry),
        "request_id": text(&entry.request_id),
        "detail": serde_json::from_str::<Value>(&entry.detail_json).unwrap_or(Value::Null),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line_and_an_object() {
        let entry = AuditEntry {
            at: Some(Timestamp { seconds: 0, nanos: 0 }),
            actor: "token:ci".into(),
            action: "OpsService/ListNodes".into(),
            outcome: AuditOutcome::Refused.into(),
            detail_json: r#"{"why":"needs the scope read"}"#.into(),
            ..AuditEntry::default()
        };
        assert_eq!(row(&entry)[1..5], ["token:ci", "OpsService/ListNodes", "", "refused"]);
        assert_eq!(object(&entry)["detail"]["why"], "needs the scope read");
        assert_eq!(object(&entry)["subject"], Value::Null);
    }
}
