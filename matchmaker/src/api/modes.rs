//! What operators see of modes and tell them, and what running matches ask for.

use asobi_proto::{
    bus::{TicketItem, Topic, WakeItem},
    error::ErrorCode,
    matchmaker_v1::{
        GetQueueStatsRequest, GetQueueStatsResponse, QueueStats, RequestBackfillRequest, RequestBackfillResponse,
        SetModeSettingsRequest, SetModeSettingsResponse,
    },
    mode::ModeSettings,
};
use asobi_service_kit::grpc::{invalid, refusal, status};
use asobi_store::{
    backfill::{self, RequestError},
    modes,
    tickets::{self, Wish},
};
use serde_json::Value;
use tonic::Status;

use super::{Api, id, not_leading, object, unavailable};
use crate::stats::ModeStats;

/// What operators may override: the settings that the queue acts on. A match's own are its script's.
const OVERRIDABLE: [&str; 12] = [
    "backfill",
    "match_size",
    "max_latency_ms",
    "max_wait_seconds",
    "min_players",
    "quick_play",
    "regions",
    "relax_after_ms",
    "skill_expand_rate",
    "skill_window",
    "strategy",
    "teams",
];

impl Api {
    pub(super) fn stats(&self, request: &GetQueueStatsRequest) -> Result<GetQueueStatsResponse, Status> {
        let stats = self.deps.stats().ok_or_else(not_leading)?;
        let (_, term, _) = self.deps.status.read();
        let wanted = |stats: &ModeStats| request.mode.is_empty() || stats.mode == request.mode;
        let modes = stats.into_iter().filter(wanted).map(written).collect();
        Ok(GetQueueStatsResponse { modes, term })
    }

    pub(super) async fn set_paused(&self, mode: &str, paused: bool) -> Result<(), Status> {
        if !self.bounded(modes::set_paused(&self.deps.pool, mode, paused)).await? {
            return Err(unknown_mode());
        }
        tracing::info!(mode, paused, "A mode was paused or resumed.");
        self.wake_modes();
        Ok(())
    }

    /// A lost wake-up costs others their next look at the rows.
    fn wake_modes(&self) {
        let _ = self.deps.publisher.publish(Topic::Modes, &WakeItem {});
    }

    pub(super) async fn set_settings(
        &self,
        request: &SetModeSettingsRequest,
    ) -> Result<SetModeSettingsResponse, Status> {
        let over = object(&request.settings_json, "settings_json")?;
        let script = self.bounded(modes::announced(&self.deps.pool, &request.mode)).await?.ok_or_else(unknown_mode)?;
        let counts = checked(&script, &over).map_err(|problem| invalid("settings_json", problem))?;
        if !self.bounded(modes::set_operator_settings(&self.deps.pool, &request.mode, &over)).await? {
            return Err(unknown_mode());
        }
        tracing::info!(mode = request.mode, settings = %over, "A mode's settings were overridden.");
        self.wake_modes();
        let settings_json = serde_json::to_string(&counts).map_err(|error| Status::internal(error.to_string()))?;
        Ok(SetModeSettingsResponse { settings_json })
    }

    pub(super) async fn backfill(&self, request: &RequestBackfillRequest) -> Result<RequestBackfillResponse, Status> {
        let match_id = id(&request.match_id, "match_id")?;
        if request.players < 0 {
            return Err(invalid("players", "must be at least 0"));
        }
        let properties = object(&request.properties_json, "properties_json")?;
        tickets::check(Wish::from(&properties), &ModeSettings::default())
            .map_err(|error| invalid("properties_json", error.to_string()))?;
        let asking = async { Ok(backfill::request(&self.deps.pool, match_id, request.players, &properties).await) };
        self.bounded(asking).await?.map_err(|error| match error {
            RequestError::NotRunning => status(ErrorCode::MATCH_NOT_FOUND, error.to_string()),
            RequestError::NotOffered => refusal("backfill_disabled", error.to_string()),
            RequestError::Db(error) => unavailable(error),
        })?;
        self.publish(&TicketItem { ticket_id: match_id, gone: false, backfill: true });
        Ok(RequestBackfillResponse {})
    }
}

fn unknown_mode() -> Status {
    status(ErrorCode::OPS_NOT_FOUND, "no host has announced the mode")
}

/// What counts with an operator's settings over the script's, or what is wrong with it: the rules are those of scripts.
fn checked(script: &Value, over: &Value) -> Result<ModeSettings, String> {
    for name in over.as_object().into_iter().flat_map(serde_json::Map::keys) {
        if !OVERRIDABLE.contains(&name.as_str()) {
            return Err(format!("{name} cannot be overridden; these can: {}", OVERRIDABLE.join(", ")));
        }
    }
    let settings = modes::merged(script, over).map_err(|error| error.to_string())?;
    let problems: Vec<String> = settings.problems().iter().map(|(name, what)| format!("{name} {what}")).collect();
    if problems.is_empty() { Ok(settings) } else { Err(problems.join("; ")) }
}

fn written(stats: ModeStats) -> QueueStats {
    QueueStats {
        mode: stats.mode,
        tickets: stats.tickets,
        players: stats.players,
        oldest_wait_ms: stats.oldest_wait_ms,
        wait_p50_ms: stats.wait_p50_ms,
        wait_p95_ms: stats.wait_p95_ms,
        matches_per_second: stats.matches_per_second,
        paused: stats.paused,
        backfill_wanted: stats.backfill_wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn overrides_keep_to_the_rules_of_scripts() {
        let script = json!({"match_size": 2, "max_players": 4, "min_players": 2});
        assert_eq!(checked(&script, &json!({})).map(|s| s.match_size), Ok(2));
        assert_eq!(
            checked(&script, &json!({"match_size": 4, "teams": {"count": 2, "size": 2}})).map(|s| s.match_size),
            Ok(4)
        );
        let wrong = |over: Value| checked(&script, &over).expect_err("refused");
        assert_eq!(wrong(json!({"match_size": 5})), "max_players must be at least match_size");
        assert!(wrong(json!({"tick_rate": 30})).starts_with("tick_rate cannot be overridden"));
        assert!(wrong(json!({"no_such": 1})).starts_with("no_such cannot be overridden"));
        assert!(wrong(json!({"match_size": "two"})).contains("invalid type"));
        assert!(wrong(json!({"strategy": "luck"})).contains("unknown variant"));
        assert!(wrong(json!({"teams": {"count": 3, "size": 3}})).starts_with("teams "));
    }
}
