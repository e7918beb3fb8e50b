//! What a ticket says of itself, as filters and strategies read it.

use serde_json::Value;

/// Properties that count; of more, the first by name.
const MAX_FACTS: usize = 32;
/// Bytes of a text that counts, and of a name.
const MAX_TEXT: usize = 256;

/// One property.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    Number(f64),
    Text(Box<str>),
    Bool(bool),
}

/// A ticket's properties: the numbers, short texts and truth values at the top of its JSON object. What is nested, null or too long is
/// not among them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// By name.
    all: Box<[(Box<str>, Fact)]>,
}

impl Facts {
    #[must_use]
    pub fn of(properties: &Value) -> Self {
        let fact = |value: &Value| match value {
            Value::Number(n) => n.as_f64().map(Fact::Number),
            Value::String(text) if text.len() <= MAX_TEXT => Some(Fact::Text(text.as_str().into())),
            Value::Bool(b) => Some(Fact::Bool(*b)),
            _ => None,
        };
        let Some(object) = properties.as_object() else { return Self::default() };
        let named = object.iter().filter(|(name, _)| name.len() <= MAX_TEXT);
        let mut all: Vec<(Box<str>, Fact)> =
            named.filter_map(|(name, value)| Some((name.as_str().into(), fact(value)?))).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all.truncate(MAX_FACTS);
        Self { all: all.into() }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Fact> {
        let at = self.all.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        self.all.get(at).map(|(_, fact)| fact)
    }

    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Some(Fact::Number(n)) => Some(*n),
            _ => None,
        }
    }

    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Fact::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Fact)> {
        self.all.iter().map(|(name, fact)| (&**name, fact))
    }
}
