use std::{fmt, sync::Arc};

use http::HeaderMap;

use super::KEY_HEADER;

/// The secret that the processes of one cluster show each other. `Debug` does not show it.
#[derive(Clone)]
pub struct ClusterKey(Arc<str>);

impl ClusterKey {
    /// An empty key matches nothing: a process without one is reachable by nobody, not by everybody.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
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

    /// Whether a call's metadata carry this key; `Err` is a sentence for the caller.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        match headers.get(KEY_HEADER) {
            None => Err("this call needs the cluster key in the metadata x-asobi-cluster-key"),
            Some(shown) if self.matches(shown.as_bytes()) => Ok(()),
            Some(_) => Err("the cluster key in the metadata x-asobi-cluster-key is not this cluster's"),
        }
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
}
