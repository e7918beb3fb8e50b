//! What a match's game asks of the world: its own unwritten storage first, then the services.

use std::{collections::HashMap, sync::Arc};

use asobi_proto::effect::StoreEffect;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use uuid::Uuid;

use crate::game::{Ask, AskError, Outside};

type Key = (String, String, Option<Uuid>);

/// What a match has stored and no checkpoint has written yet. Bounded by the match's effects.
#[derive(Default)]
pub struct Stored(Mutex<HashMap<Key, (i64, Value)>>);

impl Stored {
    /// A value that waits to be written, with its effect's ordinal.
    pub fn note(&self, ordinal: i64, store: &StoreEffect) {
        let key = (store.collection.clone(), store.key.clone(), store.player_id);
        self.0.lock().insert(key, (ordinal, store.value.clone()));
    }

    /// Effects up to this one are written.
    pub fn written(&self, upto: i64) {
        self.0.lock().retain(|_, (ordinal, _)| *ordinal > upto);
    }

    fn get(&self, ask: &Ask) -> Option<String> {
        let Ask::Stored { collection, key, player } = ask else { return None };
        let key = (collection.clone(), key.clone(), *player);
        self.0.lock().get(&key).map(|(_, value)| value.to_string())
    }
}

/// See the module.
pub struct MatchOutside {
    pub stored: Arc<Stored>,
    pub services: Arc<dyn Outside>,
}

#[async_trait]
impl Outside for MatchOutside {
    async fn ask(&self, ask: Ask) -> Result<String, AskError> {
        match self.stored.get(&ask) {
            Some(value) => Ok(value),
            None => self.services.ask(ask).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::outside::Nowhere;

    #[tokio::test]
    async fn a_match_sees_what_it_stored_until_it_is_written() {
        let stored = Arc::new(Stored::default());
        let outside = MatchOutside { stored: Arc::clone(&stored), services: Arc::new(Nowhere) };
        let ask = || Ask::Stored { collection: "c".into(), key: "k".into(), player: None };
        let store = |value| StoreEffect { collection: "c".into(), key: "k".into(), player_id: None, value };
        assert_eq!(outside.ask(ask()).await, Err(AskError::Unavailable));
        stored.note(1, &store(json!(1)));
        stored.note(2, &store(json!({"n": 2})));
        stored.written(1);
        assert_eq!(outside.ask(ask()).await.as_deref(), Ok(r#"{"n":2}"#));
        stored.written(2);
        assert_eq!(outside.ask(ask()).await, Err(AskError::Unavailable));
    }
}
