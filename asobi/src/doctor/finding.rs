//! What a check says.

use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Ok,
    /// Worth a look; the cluster runs.
    Warn,
    /// Something does not work, or a promise is not kept.
    Fail,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Verdict,
    /// One sentence: what it is and what it means.
    pub says: String,
    /// The setting or command; empty where there is nothing to do.
    pub change: String,
}

impl Finding {
    pub fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, says: says.into(), change: String::new() }
    }

    pub fn warn(check: &'static str, says: impl Into<String>, change: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, says: says.into(), change: change.into() }
    }

    pub fn fail(check: &'static str, says: impl Into<String>, change: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, says: says.into(), change: change.into() }
    }

    pub fn object(&self) -> Value {
        let change = Some(&self.change).filter(|change| !change.is_empty());
        let verdict = self.verdict.as_str().to_lowercase();
        json!({"check": self.check, "verdict": verdict, "says": self.says, "change": change})
    }
}

/// The findings as a table, what to change below each, and a last line that counts them.
pub fn report(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, verdict, says, change } in findings {
        text.push_str(&format!("{:<4}  {check:<width$}  {says}\n", verdict.as_str()));
        if !change.is_empty() {
            text.push_str(&format!("{:4}  {:width$}  → {change}\n", "", ""));
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (well, look, wrong) = (count(Verdict::Ok), count(Verdict::Warn), count(Verdict::Fail));
    text.push_str(&format!("{well} well, {look} worth a look, {wrong} wrong"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_what_to_change() {
        let findings = [Finding::ok("server", "fine"), Finding::fail("settings", "fsync is off", "turn it on")];
        let expected = "ok    server    fine\nFAIL  settings  fsync is off\n                → turn it on\n1 well, 0 worth a look, 1 wrong";
        assert_eq!(report(&findings), expected);
        let object = findings[1].object();
        assert_eq!((&object["verdict"], &object["change"]), (&json!("fail"), &json!("turn it on")));
        assert_eq!(findings[0].object()["change"], Value::Null);
    }
}
