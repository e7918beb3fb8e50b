//! Groups by their names, and by their members.

use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Group, GroupRole};
use crate::Result;

/// Which page of the groups in the order of their names.
#[derive(Debug, Clone, Default)]
pub struct PageOfGroups {
    /// What the name begins with, in any case.
    pub prefix: String,
    pub open: Option<bool>,
    /// Those after a name in lower case and an id.
    pub after: Option<(String, Uuid)>,
    pub limit: i64,
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub group: Group,
    pub members: i64,
    /// By which it is sorted.
    pub sorted_by: String,
}

/// A group in the list of one of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedMembership {
    pub group: Group,
    pub members: i64,
    pub role: GroupRole,
    pub joined_at: OffsetDateTime,
}

/// By name, then by id.
///
/// # Errors
/// When the database fails.
pub async fn search(pool: &PgPool, page: &PageOfGroups) -> Result<Vec<Listed>> {
    let (after_name, after_id) = page.after.clone().unzip();
    let rows = sqlx::query!(
        r#"SELECT g.id, g.name, g.description, g.max_members, g.open, g.creator_id, g.metadata, g.inserted_at, g.updated_at,
                  lower(g.name) AS "sorted_by!", (SELECT count(*) FROM group_members m WHERE m.group_id = g.id) AS "members!"
           FROM groups g
           WHERE lower(g.name) COLLATE "C" LIKE $1 AND ($2::boolean IS NULL OR g.open = $2)
             AND ($3::text IS NULL OR (lower(g.name) COLLATE "C", g.id) > ($3, $4::uuid))
           ORDER BY lower(g.name) COLLATE "C", g.id LIMIT $5"#,
        beginning(&page.prefix),
        page.open,
        after_name,
        after_id,
        page.limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Listed {
            group: Group {
                id: row.id,
                name: row.name,
                description: row.description,
                max_members: row.max_members,
                open: row.open,
                creator_id: row.creator_id,
                metadata: row.metadata,
                inserted_at: row.inserted_at,
                updated_at: row.updated_at,
            },
            members: row.members,
            sorted_by: row.sorted_by,
        })
        .collect())
}

/// A pattern of what begins so, whatever signs are in it.
fn beginning(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for sign in prefix.to_lowercase().chars() {
        if matches!(sign, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(sign);
    }
    pattern.push('%');
    pattern
}

/// The groups that a player is in, by id, those after one.
///
/// # Errors
/// When the database fails.
pub async fn of_player(pool: &PgPool, player: Uuid, after: Option<Uuid>, limit: i64) -> Result<Vec<ListedMembership>> {
    let rows = sqlx::query!(
        r#"SELECT g.id, g.name, g.description, g.max_members, g.open, g.creator_id, g.metadata, g.inserted_at, g.updated_at,
                  mine.role, mine.joined_at, (SELECT count(*) FROM group_members m WHERE m.group_id = g.id) AS "members!"
           FROM group_members mine JOIN groups g ON g.id = mine.group_id
           WHERE mine.player_id = $1 AND ($2::uuid IS NULL OR g.id > $2) ORDER BY g.id LIMIT $3"#,
        player,
        after,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| ListedMembership {
            group: Group {
                id: row.id,
                name: row.name,
                description: row.description,
                max_members: row.max_members,
                open: row.open,
                creator_id: row.creator_id,
                metadata: row.metadata,
                inserted_at: row.inserted_at,
                updated_at: row.updated_at,
            },
            members: row.members,
            role: GroupRole::of(&row.role),
            joined_at: row.joined_at,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_patterns_are_signs_of_names() {
        assert_eq!(beginning("50%_\\X"), "50\\%\\_\\\\x%");
        assert_eq!(beginning(""), "%");
    }
}
