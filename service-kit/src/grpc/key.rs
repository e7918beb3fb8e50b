use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use tonic::metadata::{AsciiMetadataValue, MetadataValue};

/// The secret that the processes of one cluster show each other. `Debug` does not show it.
#[derive(Clone)]
pub struct ClusterKey(Arc<str>);

impl ClusterKey {
    /// An empty key matches nothing: a process without one is reachable by nobody, not by everybody.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// Compares in a time that depends on the lengths only.
    pub fn matches(&self, shown: &[u8]) -> bool {
        let key = self.0.as_bytes();
        if key.is_empty() || shown.len() != key.len() {
            return false;
        }
        let difference = key.iter().zip(shown).fold(0, |acc, (a, b)| acc | (a ^ b));
        std::hint::black_box(difference) == 0
    }

    fn header(&self) -> Option<AsciiMetadataValue> {
        let mut value = MetadataValue::try_from(&*self.0).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl<T: Into<Arc<str>>> From<T> for ClusterKey {
    fn from(key: T) -> Self {
        Self::new(key)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// The keys of the cluster as they are now: the one that is shown, and those that are accepted. Clones share them, so that
/// a rotation reaches every channel and server of the process at once.
#[derive(Debug, Clone)]
pub struct ClusterKeys(Arc<RwLock<Arc<Set>>>);

#[derive(Debug)]
struct Set {
    /// `None` if the key cannot be sent, which the server answers.
    header: Option<AsciiMetadataValue>,
    accepted: Vec<ClusterKey>,
}

impl ClusterKeys {
    /// `shown` is accepted, too.
    pub fn new(shown: impl Into<ClusterKey>, others: impl IntoIterator<Item = ClusterKey>) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(Set::new(shown.into(), others)))))
    }

    /// Puts others in their place.
    pub fn set(&self, shown: impl Into<ClusterKey>, others: impl IntoIterator<Item = ClusterKey>) {
        let set = Arc::new(Set::new(shown.into(), others));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = set;
    }

    /// Whether this is one of those that are accepted. Each is compared: how long it takes tells nothing of which.
    pub fn accept(&self, shown: &[u8]) -> bool {
        self.now().accepted.iter().fold(false, |found, key| found | key.matches(shown))
    }

    pub(crate) fn header(&self) -> Option<AsciiMetadataValue> {
        self.now().header.clone()
    }

    fn now(&self) -> Arc<Set> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Into<Arc<str>>> From<T> for ClusterKeys {
    fn from(key: T) -> Self {
        Self::new(ClusterKey::new(key), [])
    }
}

impl Set {
    fn new(shown: ClusterKey, others: impl IntoIterator<Item = ClusterKey>) -> Self {
        let header = shown.header();
        Self { header, accepted: std::iter::once(shown).chain(others).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_key_matches() {
        let key = ClusterKey::new("correct horse");
        assert!(key.matches(b"correct horse"));
        for wrong in ["", "correct hors", "correct horsE", "correct horse "] {
            assert!(!key.matches(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(!ClusterKey::new("").matches(b""));
    }

    #[test]
    fn a_rotation_reaches_whoever_shares_the_keys() {
        let keys = ClusterKeys::from("the old one");
        let shared = keys.clone();
        keys.set("the new one", [ClusterKey::from("the old one")]);
        assert!(shared.accept(b"the old one") && shared.accept(b"the new one") && !shared.accept(b"another"));
        assert_eq!(shared.header().unwrap(), "the new one");
        keys.set("the new one", []);
        assert!(!shared.accept(b"the old one"));
    }
}
