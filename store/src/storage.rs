//! What scripts store: values of the game's own, and of each player, by collection and key.

use std::collections::BTreeMap;

use asobi_proto::effect::StoreEffect;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::Result;

/// Longest name of a collection, in characters.
pub const COLLECTION_CHARS: usize = 64;
/// Longest key, in characters.
pub const KEY_CHARS: usize = 128;
/// Longest value, in bytes of JSON.
pub const VALUE_BYTES: usize = 64 * 1024;

/// A value of the game's own.
///
/// # Errors
/// When the database does not answer.
pub async fn get_game(pool: &PgPool, collection: &str, key: &str) -> Result<Option<Value>> {
    let value =
        sqlx::query_scalar!("SELECT value FROM game_storage WHERE collection = $1 AND key = $2", collection, key);
    Ok(value.fetch_optional(pool).await?)
}

/// A value of a player's.
///
/// # Errors
/// When the database does not answer.
pub async fn get_player(pool: &PgPool, player: Uuid, collection: &str, key: &str) -> Result<Option<Value>> {
    let value = sqlx::query_scalar!(
        "SELECT value FROM player_storage WHERE player_id = $1 AND collection = $2 AND key = $3",
        player,
        collection,
        key
    );
    Ok(value.fetch_optional(pool).await?)
}

/// Stores and removes values in their order, inside the caller's transaction: the last one of a key stays. Those of players who do not
/// exist any more are let go. Names and values are checked by the caller, see [`problem`].
///
/// Rows are locked in sorted order, the game's before the players', so that two transactions never wait for each other here.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn apply(conn: &mut PgConnection, effects: &[&StoreEffect]) -> Result<()> {
    let mut game: BTreeMap<(&str, &str), &Value> = BTreeMap::new();
    let mut players: BTreeMap<(Uuid, &str, &str), &Value> = BTreeMap::new();
    for effect in effects {
        let (collection, key) = (effect.collection.as_str(), effect.key.as_str());
        match effect.player_id {
            None => game.insert((collection, key), &effect.value),
            Some(player) => players.insert((player, collection, key), &effect.value),
        };
    }
    put_game(conn, &game).await?;
    put_players(conn, &players).await
}

// What is removed is written as null first: that locks the row where its turn is. Nobody else ever sees it so.
async fn put_game(conn: &mut PgConnection, values: &BTreeMap<(&str, &str), &Value>) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let collections: Vec<&str> = values.keys().map(|key| key.0).collect();
    let keys: Vec<&str> = values.keys().map(|key| key.1).collect();
    let bodies: Vec<Value> = values.values().map(|value| (*value).clone()).collect();
    sqlx::query!(
        "INSERT INTO game_storage (collection, key, value)
         SELECT c, k, v FROM UNNEST($1::text[], $2::text[], $3::jsonb[]) AS t (c, k, v) ORDER BY c, k
         ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value, updated_at = now()",
        &collections as &[&str],
        &keys as &[&str],
        &bodies,
    )
    .execute(&mut *conn)
    .await?;
    if bodies.iter().any(Value::is_null) {
        sqlx::query!(
            "DELETE FROM game_storage s USING UNNEST($1::text[], $2::text[]) AS t (c, k)
             WHERE s.collection = c AND s.key = k AND s.value = 'null'::jsonb",
            &collections as &[&str],
            &keys as &[&str],
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

async fn put_players(conn: &mut PgConnection, values: &BTreeMap<(Uuid, &str, &str), &Value>) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let owners: Vec<Uuid> = values.keys().map(|key| key.0).collect();
    let collections: Vec<&str> = values.keys().map(|key| key.1).collect();
    let keys: Vec<&str> = values.keys().map(|key| key.2).collect();
    let bodies: Vec<Value> = values.values().map(|value| (*value).clone()).collect();
    // Who is there is held until the commit, and who is being erased waited for: the foreign key can then not fail.
    sqlx::query!(
        "WITH there AS MATERIALIZED (SELECT id FROM players WHERE id = ANY($1) ORDER BY id FOR KEY SHARE)
         INSERT INTO player_storage (player_id, collection, key, value)
         SELECT p, c, k, v FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::jsonb[]) AS t (p, c, k, v)
         JOIN there ON there.id = p ORDER BY p, c, k
         ON CONFLICT (player_id, collection, key) DO UPDATE SET value = excluded.value, updated_at = now()",
        &owners,
        &collections as &[&str],
        &keys as &[&str],
        &bodies,
    )
    .execute(&mut *conn)
    .await?;
    if bodies.iter().any(Value::is_null) {
        sqlx::query!(
            "DELETE FROM player_storage s USING UNNEST($1::uuid[], $2::text[], $3::text[]) AS t (p, c, k)
             WHERE s.player_id = p AND s.collection = c AND s.key = k AND s.value = 'null'::jsonb",
            &owners,
            &collections as &[&str],
            &keys as &[&str],
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}
