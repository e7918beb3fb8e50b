//! What a player may wish for, checked before anything is written.

use asobi_proto::{
    mode::{ModeSettings, Strategy},
    query::Query,
};
use serde_json::Value;

/// Of the properties' JSON text.
const PROPERTIES_BYTES: usize = 4_096;
/// Of a region's name.
const REGION_BYTES: usize = 63;
/// Regions with a measured round trip.
const LATENCIES: usize = 32;
/// Nobody waits longer for a packet, ms.
const WORST_LATENCY: f64 = 600_000.0;

/// What a ticket says of its players, and what it asks of the others.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// A JSON object.
    pub properties: &'a Value,
    /// A filter over the others' properties, in the language of `asobi_proto::query`.
    pub query: Option<&'a str>,
}

impl<'a> From<&'a Value> for Wish<'a> {
    fn from(properties: &'a Value) -> Self {
        Self { properties, query: None }
    }
}

/// Why a wish is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// A sentence that names what is wrong.
    #[error("{0}")]
    Properties(&'static str),
    /// At which byte, from 0, and why.
    #[error("{message}")]
    Query { position: usize, message: String },
}

/// Whether the wish makes sense in its mode.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(wish: Wish<'_>, settings: &ModeSettings) -> Result<(), WishError> {
    properties(wish.properties)?;
    let Some(query) = wish.query else { return Ok(()) };
    if settings.strategy != Strategy::Query {
        let message = "only modes of the strategy `query` take one".to_owned();
        return Err(WishError::Query { position: 0, message });
    }
    // PostgreSQL's texts hold no NUL; the language allows it between quotes.
    if let Some(position) = query.find('\0') {
        return Err(WishError::Query { position, message: "a filter holds no NUL character".to_owned() });
    }
    match Query::parse(query) {
        Ok(_) => Ok(()),
        Err(error) => Err(WishError::Query { position: error.position, message: error.message }),
    }
}

fn properties(value: &Value) -> Result<(), WishError> {
    let wrong = |what| Err(WishError::Properties(what));
    let Value::Object(properties) = value else { return wrong("must be an object") };
    let text = value.to_string();
    // PostgreSQL's JSON holds no NUL.
    if text.len() > PROPERTIES_BYTES || text.contains("\\u0000") {
        return wrong("must be at most 4 KiB of JSON without NUL characters");
    }
    let region = |name: &str| (1..=REGION_BYTES).contains(&name.len());
    match properties.get("region") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) if region(name) => {}
        Some(_) => return wrong("region must be a text of 1 to 63 bytes"),
    }
    match properties.get("latencies") {
        None | Some(Value::Null) => {}
        Some(Value::Object(all)) if all.len() <= LATENCIES => {
            let sound = |ms: &Value| ms.as_f64().is_some_and(|ms| (0.0..=WORST_LATENCY).contains(&ms));
            if !all.iter().all(|(name, ms)| region(name) && sound(ms)) {
                return wrong("latencies must map regions to milliseconds");
            }
        }
        Some(_) => return wrong("latencies must be an object of at most 32 regions"),
    }
    Ok(())
}

/// The most players who can come together in this mode: a team, or a whole match.
#[must_use]
pub fn largest_party(settings: &ModeSettings) -> u32 {
    settings.teams.map_or(settings.match_size, |teams| teams.size)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_that_postgresql_could_not_store_is_refused_with_its_place() {
        let settings = ModeSettings { strategy: Strategy::Query, ..ModeSettings::default() };
        let properties = json!({});
        let with = |query| check(Wish { properties: &properties, query: Some(query) }, &settings);
        assert_eq!(with("name = \"ab\""), Ok(()));
        let refused = with("name = \"a\0b\"").expect_err("refused");
        assert!(matches!(refused, WishError::Query { position: 9, .. }), "{refused:?}");
    }
}
