//! Which scope a call needs, as the `.proto` files say.

use std::fmt;

include!(concat!(env!("OUT_DIR"), "/scopes.rs"));

/// What a caller from outside the cluster may do; see `asobi/ops/v1/scope.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Read,
    Operate,
    Moderate,
    Erase,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Read, Self::Operate, Self::Moderate, Self::Erase];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Moderate => "moderate",
            Self::Erase => "erase",
        }
    }

    /// The scope of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    /// The scope with that number on the wire.
    #[must_use]
    pub fn of_number(number: i32) -> Option<Self> {
        usize::try_from(number - 1).ok().and_then(|at| Self::ALL.get(at).copied())
    }
}

impl From<Scope> for crate::ops_v1::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Read => Self::Read,
            Scope::Operate => Self::Operate,
            Scope::Moderate => Self::Moderate,
            Scope::Erase => Self::Erase,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The cluster's own processes, and whoever has this scope.
    Scope(Scope),
    /// The cluster's own processes.
    Node,
}

/// What `/package.Service/Method` needs; none: no `.proto` file here has it.
#[must_use]
pub fn need(path: &str) -> Option<Need> {
    let at = SCOPES.binary_search_by_key(&path, |(method, _)| method).ok()?;
    let (_, number) = SCOPES[at];
    Some(Scope::of_number(number).map_or(Need::Node, Need::Scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_need_what_their_files_say() {
        assert_eq!(need("/asobi.ops.v1.OpsService/ListNodes"), Some(Need::Scope(Scope::Read)));
        assert_eq!(need("/asobi.ops.v1.OpsService/Witness"), Some(Need::Node));
        assert_eq!(need("/asobi.ops.v1.OpsService/NoSuch"), None);
    }

    #[test]
    fn every_method_is_found() {
        assert!(SCOPES.is_sorted_by(|(a, _), (b, _)| a < b));
        assert!(SCOPES.iter().all(|(method, _)| need(method).is_some()));
    }

    #[test]
    fn scopes_have_their_numbers_and_names() {
        use crate::ops_v1::Scope as Wire;
        for (scope, wire) in Scope::ALL.into_iter().zip([Wire::Read, Wire::Operate, Wire::Moderate, Wire::Erase]) {
            assert_eq!(Scope::of_number(wire as i32), Some(scope));
            assert_eq!((Scope::of(scope.as_str()), Wire::from(scope)), (Some(scope), wire));
        }
        assert_eq!(Scope::of_number(Wire::Unspecified as i32), None);
    }
}
