//! Whether the schema and this build go together.

use asobi_store::schema::{self, Versions};

use super::{Patient, finding::Finding};

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    Ok(vec![judge(schema::versions(&patient.pool().await?).await?)])
}

fn judge(versions: Versions) -> Finding {
    let Versions { have, want, .. } = versions;
    if let Some(problem) = versions.problem() {
        return Finding::fail("schema", problem, "as it says; deploy/postgresql/roles.sql after it");
    }
    match have {
        Some(have) if have > want => Finding::ok(
            "schema",
            format!(
                "it is at version {have}, newer than this build's {want} and made to serve it too, as during an upgrade"
            ),
        ),
        _ => Finding::ok("schema", format!("it is at version {want}, as this build has it")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn newer_is_well_and_older_is_not() {
        let of = |have, oldest| judge(Versions { have, want: 16, oldest }).verdict;
        assert_eq!((of(Some(16), 0), of(Some(18), 16)), (Verdict::Ok, Verdict::Ok));
        assert_eq!((of(Some(15), 0), of(None, 0), of(Some(18), 17)), (Verdict::Fail, Verdict::Fail, Verdict::Fail));
    }
}
