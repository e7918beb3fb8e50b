//! What this process logs, as operators see and change it.

use std::time::Duration;

use asobi_proto::ops_v1::{self, SetLogFilterRequest, SetLogFilterResponse};
use asobi_service_kit::{
    grpc::{Caller, invalid},
    telemetry::{self, LogFilter},
};
use serde_json::json;
use time::OffsetDateTime;
use tonic::Status;

use super::timestamp;
use crate::{
    NodeIdentity,
    desk::{Deed, Desk},
};

/// Longest time for which something else is logged: a week.
const LONGEST_S: i64 = 604_800;

/// # Errors
/// UNIMPLEMENTED in a process that does not log by the configuration: a test.
pub(super) fn now(identity: &NodeIdentity) -> Result<ops_v1::LogFilter, Status> {
    shown(identity, telemetry::log_filter())
}

/// Setting the same again does no harm, so that it may be done before it is written down.
///
/// # Errors
/// INVALID_ARGUMENT for a filter that is none, or a time that is too long; NOT_FOUND when another process is meant; those of the desk.
pub(super) async fn set(
    desk: &Desk,
    caller: &Caller,
    identity: &NodeIdentity,
    request: SetLogFilterRequest,
) -> Result<SetLogFilterResponse, Status> {
    if !request.node_id.is_empty() && request.node_id != identity.node_id {
        return Err(Status::not_found(format!("this is {}, not {}", identity.node_id, request.node_id)));
    }
    let lasts = lasts(request.lasts_s)?;
    let filter = (!request.filter.is_empty()).then_some(request.filter.as_str());
    if let Some(filter) = filter {
        telemetry::parse_filter(filter).map_err(|wrong| invalid("filter", wrong.to_string()))?;
    }
    let deed = Deed {
        caller,
        action: "OpsService/SetLogFilter",
        request_id: &request.request_id,
        subject: identity.node_id.clone(),
        detail: json!({"filter": request.filter, "lasts_s": request.lasts_s}),
    };
    if let Some(answer) = desk.before(&deed, &request).await? {
        return Ok(answer);
    }
    let set = telemetry::set_log_filter(filter, lasts).map_err(|wrong| invalid("filter", wrong.to_string()))?;
    tracing::info!(
        filter = filter.unwrap_or_default(),
        lasts_s = request.lasts_s,
        "An operator changed what is logged."
    );
    let answer = SetLogFilterResponse { log: Some(shown(identity, set)?) };
    desk.record(deed, &request, answer).await
}

fn lasts(seconds: i64) -> Result<Option<Duration>, Status> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(None),
        Ok(s) if seconds <= LONGEST_S => Ok(Some(Duration::from_secs(s))),
        _ => Err(invalid("lasts_s", format!("must be 0 to {LONGEST_S}"))),
    }
}

fn shown(identity: &NodeIdentity, log: Option<LogFilter>) -> Result<ops_v1::LogFilter, Status> {
    let log = log.ok_or_else(|| Status::unimplemented("this process does not log by the configuration"))?;
    Ok(ops_v1::LogFilter {
        node_id: identity.node_id.clone(),
        incarnation: identity.incarnation,
        filter: log.filter,
        configured: log.configured,
        until: log.until.map(|until| timestamp(OffsetDateTime::from(until))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_bounded() {
        assert_eq!(lasts(0).expect("right"), None);
        assert_eq!(lasts(LONGEST_S).expect("right"), Some(Duration::from_secs(604_800)));
        assert!(lasts(-1).is_err() && lasts(LONGEST_S + 1).is_err());
    }
}
