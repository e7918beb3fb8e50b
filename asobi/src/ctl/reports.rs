//! `asobi ctl reports`: what players report of each other, and what came of it.

use anyhow::Context as _;
use asobi_cluster::Role;
use asobi_proto::social_v1::{
    GetReportRequest, ListReportsRequest, Report, ReportState, ResolveReportRequest,
    moderation_service_client::ModerationServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ctl, DEADLINE, given::request_id, output, shown::when};

/// Of a message's text in the table.
const SHOWN: usize = 40;

/// What players report of each other
#[derive(Debug, Args)]
pub struct ReportsArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Newest first; the open ones, unless --all
    List {
        /// Resolved ones, too
        #[arg(long)]
        all: bool,
        /// Only about this player
        #[arg(long, value_name = "ID")]
        player: Option<Uuid>,
        /// Only by this player
        #[arg(long, value_name = "ID")]
        reporter: Option<Uuid>,
        /// How many at most
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// One report, with the message as it was when it was reported
    Show { id: Uuid },
    /// Say what came of a report
    Resolve {
        id: Uuid,
        /// In a word: banned, muted, unfounded; at most 64 bytes
        resolution: String,
        /// For colleagues; at most 1000 bytes
        #[arg(long, default_value = "")]
        note: String,
    },
}

pub async fn run(args: &ReportsArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        Order::List { all, player, reporter, limit } => {
            let state = if *all { ReportState::Unspecified } else { ReportState::Open };
            let id = |id: &Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
            let request = ListReportsRequest {
                state: state.into(),
                player_id: id(player),
                reporter_id: id(reporter),
                ..ListReportsRequest::default()
            };
            list(ctl, request, *limit).await
        }
        Order::Show { id } => {
            let request = GetReportRequest { report_id: id.to_string() };
            let answer = ctl.ask(Some(Role::Social), async |channel| {
                ModerationServiceClient::new(channel).get_report(with_deadline(request.clone(), DEADLINE)).await
            });
            show(ctl, &answer.await?.report.context("a report")?);
            Ok(())
        }
        Order::Resolve { id, resolution, note } => {
            let request = ResolveReportRequest {
                report_id: id.to_string(),
                resolution: resolution.clone(),
                remark: note.clone(),
                request_id: request_id(),
            };
            let answer = ctl.ask(Some(Role::Social), async |channel| {
                ModerationServiceClient::new(channel).resolve_report(with_deadline(request.clone(), DEADLINE)).await
            });
            show(ctl, &answer.await?.report.context("a report")?);
            Ok(())
        }
    }
}

async fn list(ctl: &Ctl, mut request: ListReportsRequest, limit: usize) -> anyhow::Result<()> {
    let mut reports: Vec<Report> = Vec::new();
    while reports.len() < limit {
        request.page_size = i32::try_from((limit - reports.len()).min(500)).unwrap_or(500);
        let page = ctl.ask(Some(Role::Social), async |channel| {
            ModerationServiceClient::new(channel).list_reports(with_deadline(request.clone(), DEADLINE)).await
        });
        let page = page.await?;
        reports.extend(page.reports);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        output::json(&reports.iter().map(described).collect());
        return Ok(());
    }
    let rows: Vec<[String; 7]> = reports.iter().map(row).collect();
    output::line(&output::table(["id", "at", "state", "kind", "player", "by", "message"], &rows));
    Ok(())
}

fn row(report: &Report) -> [String; 7] {
    let state = if report.state() == ReportState::Resolved { report.resolution.clone() } else { "open".to_owned() };
    // On one line, whatever a player wrote.
    let content = report.message.as_ref().map(|m| m.content.as_str()).unwrap_or_default();
    let content = content.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    [
        report.id.clone(),
        when(report.reported_at).unwrap_or_default(),
        state,
        report.kind.clone(),
        report.player_id.clone(),
        report.reporter_id.clone(),
        content,
    ]
}

fn show(ctl: &Ctl, report: &Report) {
    let described = described(report);
    if ctl.json {
        output::json(&described);
        return;
    }
    let fields = described.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let rows: Vec<[String; 2]> = fields
        .map(|(name, value)| {
            [name.clone(), value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"))]
        })
        .collect();
    output::line(&output::table(["field", "value"], &rows));
}

fn described(report: &Report) -> Value {
    let message = report.message.as_ref().map(|message| {
        json!({"channel_id": message.channel_id, "seq": message.seq, "message_id": message.message_id,
               "content": message.content, "sent_at": when(message.sent_at)})
    });
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let state = if report.state() == ReportState::Resolved { "resolved" } else { "open" };
    json!({
        "id": report.id,
        "reported_at": when(report.reported_at),
        "state": state,
        "kind": report.kind,
        "player_id": report.player_id,
        "reporter_id": given(&report.reporter_id),
        "note": given(&report.note),
        "message": message,
        "resolution": given(&report.resolution),
        "remark": given(&report.remark),
        "resolved_by": given(&report.resolved_by),
        "resolved_at": when(report.resolved_at),
    })
}
