//! What is in force and why, for people: `asobi config --effective`.

use std::collections::BTreeMap;

use toml::Value;

use super::error::Source;

/// Keys whose values are never printed.
const SECRETS: [&str; 2] = ["cluster.key", "cluster.previous_key"];
/// URLs of which only the password is hidden: the rest is what one looks for when a database is wrong.
const URLS: [&str; 4] = ["database.url", "database.direct_url", "database.replica_url", "database.bus_url"];

/// The values in force with their sources, in the order of their keys.
#[derive(Debug, Clone, Default)]
pub struct Provenance(Vec<EffectiveValue>);

/// One line of the configuration in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveValue {
    pub key: String,
    /// As TOML would have it; secrets are replaced by "…".
    pub shown: String,
    pub source: Source,
}

impl Provenance {
    pub(super) fn new(values: &BTreeMap<String, (Value, Source)>) -> Self {
        let entry = |(key, (value, source)): (&String, &(Value, Source))| EffectiveValue {
            key: key.clone(),
            shown: show(key, value),
            source: source.clone(),
        };
        Self(values.iter().map(entry).collect())
    }

    pub fn values(&self) -> &[EffectiveValue] {
        &self.0
    }
}

/// The value as TOML, without what is secret.
pub(super) fn show(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        _ if SECRETS.contains(&key) => "\"…\"".to_owned(),
        Value::String(text) if URLS.contains(&key) => Value::String(hide_password(text)).to_string(),
        _ => value.to_string(),
    }
}

/// Replaces the password of a URL, and any query parameter that could be one, by "…".
fn hide_password(url: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(b, q)| (b, Some(q)));
    let base = match (base.split_once("://"), base.rsplit_once('@')) {
        (Some((scheme, _)), Some((user, host))) => {
            let user = user.get(scheme.len() + 3..).unwrap_or_default();
            match user.split_once(':') {
                Some((name, _)) => format!("{scheme}://{name}:…@{host}"),
                None => base.to_owned(),
            }
        }
        _ => base.to_owned(),
    };
    let Some(query) = query else { return base };
    let shown: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.contains("pass") => format!("{name}=…"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{base}?{}", shown.join("&"))
}

#[cfg(test)]
mod tests {
    use super::hide_password;

    #[test]
    fn passwords_of_urls_are_hidden() {
        let hidden = |url| hide_password(url);
        assert_eq!(hidden("postgres://a:b@h:1/d"), "postgres://a:…@h:1/d");
        assert_eq!(hidden("postgres://a:p@ss@h/d"), "postgres://a:…@h/d");
        assert_eq!(hidden("postgres://a@h/d"), "postgres://a@h/d");
        assert_eq!(hidden("postgres://h/d?password=x&a=b"), "postgres://h/d?password=…&a=b");
        assert_eq!(hidden("nonsense"), "nonsense");
    }
}
