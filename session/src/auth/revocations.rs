//! What is revoked, in memory. It grows with the logouts of one access token's life, and forgets them after it.

use std::collections::HashMap;

use asobi_proto::bus::RevokedItem;
use parking_lot::RwLock;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Claims;

#[derive(Default)]
pub(super) struct Revocations {
    /// By family or player id, which never coincide.
    items: RwLock<HashMap<Uuid, RevokedItem>>,
}

impl Revocations {
    /// Whether it was news.
    pub fn insert(&self, item: &RevokedItem) -> bool {
        let mut items = self.items.write();
        match items.get(&item.subject) {
            Some(known) if known.issued_before >= item.issued_before => false,
            _ => {
                items.insert(item.subject, item.clone());
                true
            }
        }
    }

    pub fn ended(&self, claims: &Claims) -> bool {
        let items = self.items.read();
        [claims.family, claims.player_id].iter().filter_map(|id| items.get(id)).any(|item| claims.ended_by(item))
    }

    /// Forgets what no living token can be concerned by. A minute late, for clocks that differ.
    pub fn forget_expired(&self) {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        self.items.write().retain(|_, item| item.expires_at + 60 > now);
    }
}
