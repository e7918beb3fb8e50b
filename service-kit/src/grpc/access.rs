//! Who is let in, and to what. The first of these that a caller shows decides; one that is no good is refused, not passed over:
//!
//! ```text
//!  certificate ──► of the authority, with a role? ──────────────┐
//!  cluster key ──► one of the accepted? (else they are read again) ├─► caller ──► may call this method? ──► in
//!  bearer token ─► known, not expired, not revoked? ────────────┘      │ no                     │ no
//!  nothing, or unknown ──► UNAUTHENTICATED                             └─► PERMISSION_DENIED ◄──┘  and into the audit
//! ```
//!
//! | what is shown | answer |
//! | --- | --- |
//! | nothing; a key or token nobody knows | UNAUTHENTICATED, with what to send |
//! | a token that has ended; a stranger's certificate, or one without a role | PERMISSION_DENIED |
//! | a good one without the scope; an operator's for a method of the cluster's own | PERMISSION_DENIED |
//! | a token, while it cannot be looked up | UNAVAILABLE: try again |
//! | more unknown tokens from one address than are looked up | RESOURCE_EXHAUSTED: try again |

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use asobi_proto::{
    error::ErrorCode,
    scope::{Need, need},
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use tonic::Status;

use super::{Caller, ClusterKeys, KEY_HEADER, PeerCertificate, Scopes, Tls, status, tls::Identity};

/// What the metadata's longest token may have; a longer one is unknown.
const TOKEN_BYTES: usize = 256;
/// How often what an operator's stream was let in with is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
const NOTHING: &str = "this call needs a client certificate, the cluster key in the metadata x-asobi-cluster-key, or a token as \
                       `authorization: Bearer asobi_…`; `asobi ctl token create` makes one";

/// Knows the tokens of operators, and writes down what was refused.
#[tonic::async_trait]
pub trait Operators: fmt::Debug + Send + Sync {
    /// Whose token this is; bounded in time, and for tokens that nobody knows in rate by the address they come from.
    async fn bearer(&self, token: &str, from: Option<IpAddr>) -> Shown;

    /// A key was shown that is not known: perhaps it is newer than what was last read. Reads again, though not for each call.
    async fn read_keys(&self);

    /// Takes note of a call that was refused. Never waits; drops, and counts, what would be too much.
    fn refused(&self, refusal: Refusal);
}

/// What became of looking a token up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// It is good.
    Known {
        /// `token:<name>`
        name: Arc<str>,
        scopes: Scopes,
    },
    Unknown,
    /// It is good no longer.
    Ended {
        name: Arc<str>,
        /// How: "has expired", "was revoked".
        how: &'static str,
    },
    /// Too many that nobody knows came from there.
    TooMany,
    /// It cannot be said now.
    Away,
}

/// A call that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub who: Who,
    /// `Service/Method`; empty for one that no `.proto` file has.
    pub action: String,
    /// What was missing.
    pub why: String,
    pub from: Option<IpAddr>,
}

/// Who was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Somebody who is known, as the audit calls them.
    Known(Arc<str>),
    /// Whoever holds this certificate, by the subject it claims.
    Certificate(String),
    /// Whoever showed a token or key that nobody knows.
    Unknown(&'static str),
}

/// Decides who may call. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Access {
    keys: ClusterKeys,
    operators: Option<Arc<dyn Operators>>,
    tls: Option<Arc<Tls>>,
}

/// What a call shows.
#[derive(Clone)]
pub(super) enum Credential {
    Certificate(Arc<PeerCertificate>),
    Key(HeaderValue),
    Token(String),
    Nothing,
}

impl Access {
    /// The cluster's processes alone, in plain text.
    pub fn new(keys: impl Into<ClusterKeys>) -> Self {
        Self { keys: keys.into(), operators: None, tls: None }
    }

    /// Operators, too.
    #[must_use]
    pub fn and_operators(mut self, operators: Arc<dyn Operators>) -> Self {
        self.operators = Some(operators);
        self
    }

    /// Over TLS where there is one.
    #[must_use]
    pub fn over(mut self, tls: Option<Arc<Tls>>) -> Self {
        self.tls = tls;
        self
    }

    pub(crate) fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Who makes a call of this path, if they may.
    pub(super) async fn admit(&self, shown: Credential, path: &str, from: Option<IpAddr>) -> Result<Caller, Status> {
        let refusal = |who, why: &str| Refusal { who, action: action(path), why: why.to_owned(), from };
        let caller = match shown {
            Credential::Nothing => return Err(unauthenticated("nothing", NOTHING)),
            Credential::Certificate(certificate) => match certificate.identity() {
                Identity::Caller(caller) => caller,
                Identity::Stranger { subject, why } => {
                    return Err(self.deny("certificate", refusal(Who::Certificate(subject), why)));
                }
            },
            Credential::Key(key) if self.accepts(&key).await => Caller::Node,
            Credential::Key(_) => {
                let why = "the cluster key in the metadata x-asobi-cluster-key is not this cluster's";
                self.write_down(refusal(Who::Unknown("key"), why));
                return Err(unauthenticated("key", why));
            }
            Credential::Token(token) => match self.bearer(&token, from).await {
                Shown::Known { name, scopes } => Caller::Operator { name, scopes },
                Shown::Ended { name, how } => {
                    return Err(self.deny("ended", refusal(Who::Known(name), &format!("its token {how}"))));
                }
                Shown::Unknown => {
                    let why = "nobody knows the token in the metadata authorization";
                    self.write_down(refusal(Who::Unknown("token"), why));
                    return Err(unauthenticated("token", why));
                }
                Shown::TooMany => {
                    metrics::counter!("asobi_grpc_denied_total", "reason" => "rate").increment(1);
                    return Err(status(ErrorCode::RATE_LIMITED, "too many unknown tokens come from there"));
                }
                Shown::Away => return Err(status(ErrorCode::NOT_READY, "tokens cannot be looked up now")),
            },
        };
        match lacks(&caller, path) {
            None => Ok(caller),
            Some(why) => Err(self.deny("scope", refusal(Who::Known(caller.to_string().into()), &why))),
        }
    }

    /// Waits until what an operator's call was let in with is good no longer: streams do not outlive it.
    pub(super) async fn ended(self, shown: Credential, from: Option<IpAddr>) -> Status {
        loop {
            tokio::time::sleep(AGAIN).await;
            let why = match &shown {
                Credential::Token(token) => match self.bearer(token, from).await {
                    Shown::Ended { how, .. } => format!("its token {how}"),
                    Shown::Unknown => "its token is gone".to_owned(),
                    // What cannot be said now is looked at again.
                    Shown::Known { .. } | Shown::TooMany | Shown::Away => continue,
                },
                Credential::Certificate(certificate) => match certificate.identity() {
                    Identity::Caller(_) => continue,
                    Identity::Stranger { why, .. } => why.to_owned(),
                },
                Credential::Key(_) | Credential::Nothing => continue,
            };
            return status(ErrorCode::FORBIDDEN, why);
        }
    }

    async fn accepts(&self, key: &HeaderValue) -> bool {
        if self.keys.accept(key.as_bytes()) {
            return true;
        }
        let Some(operators) = &self.operators else { return false };
        operators.read_keys().await;
        self.keys.accept(key.as_bytes())
    }

    async fn bearer(&self, token: &str, from: Option<IpAddr>) -> Shown {
        match &self.operators {
            Some(operators) if token.len() <= TOKEN_BYTES => operators.bearer(token, from).await,
            _ => Shown::Unknown,
        }
    }

    fn deny(&self, reason: &'static str, refusal: Refusal) -> Status {
        metrics::counter!("asobi_grpc_denied_total", "reason" => reason).increment(1);
        let denied = status(ErrorCode::FORBIDDEN, refusal.why.clone());
        self.write_down(refusal);
        denied
    }

    fn write_down(&self, refusal: Refusal) {
        tracing::debug!(?refusal, "a gRPC call was refused");
        if let Some(operators) = &self.operators {
            operators.refused(refusal);
        }
    }
}

impl<T: Into<ClusterKeys>> From<T> for Access {
    fn from(keys: T) -> Self {
        Self::new(keys)
    }
}

impl Credential {
    pub(super) fn of(headers: &HeaderMap, certificate: Option<&Arc<PeerCertificate>>) -> Self {
        if let Some(certificate) = certificate {
            return Self::Certificate(Arc::clone(certificate));
        }
        if let Some(key) = headers.get(KEY_HEADER) {
            return Self::Key(key.clone());
        }
        let Some(shown) = headers.get(AUTHORIZATION) else { return Self::Nothing };
        let bearer = shown.to_str().ok().and_then(|shown| shown.split_once(' '));
        match bearer {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Self::Token(token.trim().to_owned()),
            _ => Self::Nothing,
        }
    }
}

fn unauthenticated(reason: &'static str, why: &str) -> Status {
    metrics::counter!("asobi_grpc_unauthenticated_total", "reason" => reason).increment(1);
    status(ErrorCode::UNAUTHENTICATED, why)
}

/// What the caller would need for a method; none: nothing, they may.
fn lacks(caller: &Caller, path: &str) -> Option<String> {
    match need(path) {
        _ if *caller == Caller::Node => None,
        Some(Need::Scope(scope)) if caller.has(scope) => None,
        Some(Need::Scope(scope)) => Some(format!("needs the scope {scope}")),
        Some(Need::Node) | None => Some("needs to be a process of the cluster".to_owned()),
    }
}

/// Whether there is such a method.
pub(super) fn exists(path: &str) -> bool {
    need(path).is_some()
}

/// As the audit names it: without the package, and only what exists, so that nobody can make up names there.
fn action(path: &str) -> String {
    if need(path).is_none() {
        return String::new();
    }
    let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or_default();
    format!("{}/{method}", service.rsplit('.').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use asobi_proto::scope::Scope;
    use tonic::Code;

    use super::*;
    use crate::grpc::error_code;

    const READ: &str = "/asobi.ops.v1.OpsService/ListNodes";
    const NODES: &str = "/asobi.ops.v1.OpsService/Witness";

    #[derive(Debug, Default)]
    struct Few {
        refused: Mutex<Vec<Refusal>>,
        later: Option<ClusterKeys>,
    }

    #[tonic::async_trait]
    impl Operators for Few {
        async fn bearer(&self, token: &str, _: Option<IpAddr>) -> Shown {
            match token {
                "reader" => Shown::Known { name: "token:reader".into(), scopes: [Scope::Read].into_iter().collect() },
                "moderator" => Shown::Known { name: "token:m".into(), scopes: [Scope::Moderate].into_iter().collect() },
                "old" => Shown::Ended { name: "token:old".into(), how: "has expired" },
                "flood" => Shown::TooMany,
                "away" => Shown::Away,
                _ => Shown::Unknown,
            }
        }

        async fn read_keys(&self) {
            if let Some(keys) = &self.later {
                keys.set("the next key", []);
            }
        }

        fn refused(&self, refusal: Refusal) {
            self.refused.lock().unwrap().push(refusal);
        }
    }

    fn shown(name: &str, value: &str) -> Credential {
        let mut headers = HeaderMap::new();
        headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        Credential::of(&headers, None)
    }

    fn token(token: &str) -> Credential {
        shown("authorization", &format!("Bearer {token}"))
    }

    #[tokio::test]
    async fn each_credential_is_answered_as_the_table_says() {
        let few = Arc::new(Few::default());
        let operators = Arc::clone(&few) as Arc<dyn Operators>;
        let access = Access::new("the very key").and_operators(operators);
        let caller = access.admit(shown(KEY_HEADER, "the very key"), NODES, None).await.unwrap();
        assert_eq!(caller, Caller::Node);
        let caller = access.admit(token("reader"), READ, None).await.unwrap();
        assert_eq!(caller.to_string(), "token:reader");
        let unknown = "/asobi.ops.v1.OpsService/NoSuch";
        assert!(access.admit(shown(KEY_HEADER, "the very key"), unknown, None).await.is_ok(), "the router's to refuse");
        assert!(few.refused.lock().unwrap().is_empty());

        let refusals = [
            (Credential::Nothing, READ, Code::Unauthenticated, "authorization: Bearer asobi_"),
            (shown("authorization", "Basic x"), READ, Code::Unauthenticated, "authorization: Bearer asobi_"),
            (shown(KEY_HEADER, "another"), READ, Code::Unauthenticated, "not this cluster's"),
            (token("made up"), READ, Code::Unauthenticated, "nobody knows"),
            (token(&"x".repeat(5_000)), READ, Code::Unauthenticated, "nobody knows"),
            (token("moderator"), READ, Code::PermissionDenied, "needs the scope read"),
            (token("reader"), NODES, Code::PermissionDenied, "a process of the cluster"),
            (token("reader"), unknown, Code::PermissionDenied, "a process of the cluster"),
            (token("old"), READ, Code::PermissionDenied, "has expired"),
            (token("flood"), READ, Code::ResourceExhausted, "too many"),
            (token("away"), READ, Code::Unavailable, "looked up"),
        ];
        for (credential, path, code, says) in refusals {
            let refused = access.admit(credential, path, None).await.unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
            assert!(refused.message().contains(says), "{refused}");
            assert!(error_code(&refused).is_some(), "{refused}");
        }
        let refused = few.refused.lock().unwrap();
        let actors: Vec<_> = refused.iter().map(|refusal| &refusal.who).collect();
        let known = |name: &str| Who::Known(name.into());
        let expected = [
            Who::Unknown("key"),
            Who::Unknown("token"),
            Who::Unknown("token"),
            known("token:m"),
            known("token:reader"),
        ];
        assert_eq!(actors[..5], expected.iter().collect::<Vec<_>>());
        assert_eq!(
            (actors.len(), refused[3].action.as_str(), refused[5].action.as_str()),
            (7, "OpsService/ListNodes", "")
        );
    }

    #[tokio::test]
    async fn a_key_that_is_not_known_yet_is_read_before_it_is_refused() {
        let keys = ClusterKeys::from("the very key");
        let few = Arc::new(Few { later: Some(keys.clone()), ..Few::default() });
        let access = Access::new(keys).and_operators(few);
        assert_eq!(access.admit(shown(KEY_HEADER, "the next key"), NODES, None).await.unwrap(), Caller::Node);
        assert!(access.admit(shown(KEY_HEADER, "the very key"), NODES, None).await.is_err(), "it is retired by that");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_the_token_it_was_let_in_with() {
        let access = Access::new("the very key").and_operators(Arc::new(Few::default()));
        for (ends, says) in [("old", "its token has expired"), ("made up", "its token is gone")] {
            let ended = access.clone().ended(token(ends), None).await;
            assert_eq!((ended.code(), ended.message()), (Code::PermissionDenied, says));
            assert_eq!(crate::grpc::error_code(&ended), Some(ErrorCode::FORBIDDEN), "{ends}");
        }
        for lasts in [token("reader"), token("away"), shown(KEY_HEADER, "the very key")] {
            let ended = tokio::time::timeout(Duration::from_secs(60), access.clone().ended(lasts, None)).await;
            assert!(ended.is_err(), "{ended:?}");
        }
    }

    #[tokio::test]
    async fn without_operators_no_token_is_known() {
        let refused = Access::new("the very key").admit(token("reader"), READ, None).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
}
