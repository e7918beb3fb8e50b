//! What the role of the processes may do, against what they do.

use sqlx::Row as _;

use super::{Patient, finding::Finding, reading::rows};

const RIGHTS: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

/// One right that the role has or lacks.
struct Right {
    of: String,
    what: String,
    has: bool,
}

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    // As processes come in, not as the migrator.
    let mut session = patient.connect(patient.config.database.url.expose()).await?;
    let mut rights = Vec::new();
    let tables = rows(
        &mut session,
        "SELECT c.relname::text, has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'INSERT'),
                has_table_privilege(c.oid, 'UPDATE'), has_table_privilege(c.oid, 'DELETE')
         FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND c.relname !~ '^chat_messages_[0-9]{8}$' ORDER BY 1",
    )
    .await?;
    for row in &tables {
        let table: String = row.try_get(0)?;
        for (i, right) in RIGHTS.iter().enumerate() {
            if needed(&table).contains(right) {
                rights.push(Right { of: table.clone(), what: (*right).to_owned(), has: row.try_get(i + 1)? });
            }
        }
    }
    let others = rows(
        &mut session,
        "SELECT c.relname::text, 'USAGE', has_sequence_privilege(c.oid, 'USAGE') FROM pg_class c
         WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'S' AND c.relname = 'node_incarnations'
         UNION ALL
         SELECT p.proname::text, 'EXECUTE', has_function_privilege(p.oid, 'EXECUTE') FROM pg_proc p
         WHERE p.pronamespace = current_schema()::regnamespace AND p.proname IN ('chat_partition', 'chat_drop_day')",
    )
    .await?;
    for row in &others {
        rights.push(Right { of: row.try_get(0)?, what: row.try_get(1)?, has: row.try_get(2)? });
    }
    Ok(vec![judge(&rights)])
}

/// What processes do with a table. Rows of the other tables they read, write and delete.
fn needed(table: &str) -> &'static [&'static str] {
    match table {
        "_sqlx_migrations" | "cluster_secrets" | "schema_support" => &RIGHTS[..1],
        "audit" => &RIGHTS[..2],
        _ => &RIGHTS,
    }
}

fn judge(rights: &[Right]) -> Finding {
    if rights.is_empty() {
        let says = "the role sees no table in its schema: there is none, or its search_path leads elsewhere, or it may not use the schema";
        return Finding::fail("rights", says, "run `asobi migrate`, then deploy/postgresql/roles.sql");
    }
    let lacking: Vec<String> =
        rights.iter().filter(|right| !right.has).map(|right| format!("{} on {}", right.what, right.of)).collect();
    if lacking.is_empty() {
        return Finding::ok("rights", format!("the role has each of the {} rights that processes need", rights.len()));
    }
    const SHOWN: usize = 6;
    let more = lacking.len().saturating_sub(SHOWN);
    let mut says = format!("the role lacks {}", lacking[..lacking.len().min(SHOWN)].join(", "));
    if more > 0 {
        says.push_str(&format!(" and {more} more"));
    }
    Finding::fail("rights", says, "run deploy/postgresql/roles.sql again, and connect as asobi_service")
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn each_right_that_lacks_is_named() {
        let right = |of: &str, has| Right { of: of.into(), what: "UPDATE".into(), has };
        assert_eq!(judge(&[right("tickets", true)]).verdict, Verdict::Ok);
        let found = judge(&[right("tickets", true), right("players", false)]);
        assert_eq!((found.verdict, found.says.as_str()), (Verdict::Fail, "the role lacks UPDATE on players"));
        let many: Vec<Right> = (0..8).map(|i| right(&format!("t{i}"), false)).collect();
        assert!(judge(&many).says.ends_with("and 2 more"));
        assert_eq!(judge(&[]).verdict, Verdict::Fail);
        assert_eq!(needed("audit"), ["SELECT", "INSERT"]);
    }
}
