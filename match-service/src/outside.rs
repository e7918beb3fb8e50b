//! What games can ask the other services: storage in the database, boards of the social service.

use async_trait::async_trait;

use crate::game::{Ask, AskError, Outside};

/// Answers nothing: for matches that run without services around them.
pub struct Nowhere;

#[async_trait]
impl Outside for Nowhere {
    async fn ask(&self, _ask: Ask) -> Result<String, AskError> {
        Err(AskError::Unavailable)
    }
}
