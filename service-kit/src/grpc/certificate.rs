//! Whom a certificate is of: one URI among its alternative names says so.
//!
//! | URI | who |
//! | --- | --- |
//! | `asobi://node` | a process of the cluster |
//! | `asobi://operator/<name>?scopes=read,moderate` | an operator with these scopes |

use asobi_proto::scope::Scope;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::{Caller, Scopes};

const NAME_BYTES: usize = 64;
/// Of what a stranger's certificate calls itself.
const SUBJECT_CHARS: usize = 100;

/// What a certificate says, whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// For people; without control characters, and not long.
    pub subject: String,
    /// Unix seconds.
    pub not_after: i64,
    /// `Err` says what is missing.
    pub role: Result<Caller, &'static str>,
}

/// Reads a certificate. None: it is none.
pub(super) fn read(der: &[u8]) -> Option<Said> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject().to_string();
    let subject: String = subject.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARS).collect();
    let names = certificate.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let uris = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("asobi://"),
        _ => None,
    });
    Some(Said { subject, not_after: certificate.validity().not_after.timestamp(), role: role(uris) })
}

fn role<'a>(mut roles: impl Iterator<Item = &'a str>) -> Result<Caller, &'static str> {
    let role = roles.next().ok_or("its certificate names no role: a URI asobi://… among its alternative names")?;
    if roles.next().is_some() {
        return Err("its certificate names more than one role");
    }
    if role == "node" {
        return Ok(Caller::Node);
    }
    let wrong = "its certificate's role is neither asobi://node nor asobi://operator/<name>?scopes=…";
    let (name, scopes) = role.strip_prefix("operator/").and_then(|rest| rest.split_once("?scopes=")).ok_or(wrong)?;
    if !is_operator_name(name) {
        return Err("its certificate's role has a name that is not 1 to 64 of letters, digits, '-', '_', '.' and '@'");
    }
    let scopes: Option<Scopes> = scopes.split(',').map(Scope::of).collect::<Option<Vec<_>>>().map(Scopes::from_iter);
    let scopes = scopes.ok_or("its certificate's role has a scope other than read, operate, moderate and erase")?;
    Ok(Caller::Operator { name: format!("cert:{name}").into(), scopes })
}

/// What operators and their tokens may be called: nothing that could be taken for anything else in the audit.
#[must_use]
pub fn is_operator_name(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_what_their_uri_says() {
        assert_eq!(role(["node"].into_iter()), Ok(Caller::Node));
        let scopes = [Scope::Read, Scope::Erase].into_iter().collect();
        let operator = Caller::Operator { name: "cert:ada@example".into(), scopes };
        assert_eq!(role(["operator/ada@example?scopes=read,erase"].into_iter()), Ok(operator));
        let wrong = [
            "",
            "nodes",
            "node/",
            "operator/ada",
            "operator/?scopes=read",
            "operator/a:b?scopes=read",
            "operator/ada?scopes=",
            "operator/ada?scopes=read,all",
            "operator/ada?scopes=READ",
            "operator/ada?scopes=read&x",
        ];
        for wrong in wrong {
            assert!(role([wrong].into_iter()).is_err(), "{wrong}");
        }
        assert!(role(std::iter::empty()).is_err());
        assert!(role(["node", "operator/ada?scopes=read"].into_iter()).is_err(), "two roles are none");
    }

    #[test]
    fn nonsense_is_no_certificate() {
        assert_eq!(read(b"nonsense"), None);
        assert_eq!(read(b""), None);
    }
}
