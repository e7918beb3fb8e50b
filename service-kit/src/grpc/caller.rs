//! Who makes a call, and what they may do: put into each request's extensions by the server's layer.

use std::{fmt, sync::Arc};

use asobi_proto::{error::ErrorCode, scope::Scope};
use tonic::{Request, Status};

use super::status;

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Every one.
    #[must_use]
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    #[must_use]
    pub fn has(self, scope: Scope) -> bool {
        self.0 & Self::bit(scope) != 0
    }

    /// Whether each of the others is in here, too.
    #[must_use]
    pub fn cover(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }

    fn bit(scope: Scope) -> u8 {
        1 << scope as u8
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | Self::bit(scope)))
    }
}

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process of this cluster, by the cluster key or its certificate.
    Node,
    /// Somebody or something outside of it.
    Operator {
        /// As the audit knows them: `token:<name>` or `cert:<name>`.
        name: Arc<str>,
        scopes: Scopes,
    },
}

impl Caller {
    /// Who makes this call.
    ///
    /// # Errors
    /// UNAUTHENTICATED: no layer has said who; a call that came past it is nobody's.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| status(ErrorCode::UNAUTHENTICATED, "nobody calls"))
    }

    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        match self {
            Self::Node => true,
            Self::Operator { scopes, .. } => scopes.has(scope),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Operator { name, .. } => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_a_set() {
        let some: Scopes = [Scope::Read, Scope::Moderate].into_iter().collect();
        assert!(some.has(Scope::Read) && !some.has(Scope::Operate) && !some.is_empty());
        assert!(Scopes::all().cover(some) && !some.cover(Scopes::all()) && some.cover(Scopes::default()));
        assert_eq!(some.iter().map(Scope::as_str).collect::<Vec<_>>(), ["read", "moderate"]);
    }

    #[test]
    fn nobody_is_no_caller() {
        assert_eq!(Caller::of(&Request::new(())).unwrap_err().code(), tonic::Code::Unauthenticated);
        let mut request = Request::new(());
        request.extensions_mut().insert(Caller::Node);
        assert_eq!(Caller::of(&request).unwrap(), Caller::Node);
    }
}
