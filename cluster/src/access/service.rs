//! `asobi.ops.v1.AccessService`, answered by every process.

use std::sync::Arc;

use asobi_proto::{
    error::ErrorCode,
    ops_v1::{
        AuditEntry, AuditOutcome, CreateTokenRequest, CreateTokenResponse, ListAuditRequest, ListAuditResponse,
        ListTokensRequest, ListTokensResponse, RevokeTokenRequest, RevokeTokenResponse, RotateClusterKeyRequest,
        RotateClusterKeyResponse, Scope as WireScope, Token as WireToken,
        access_service_server::{AccessService, AccessServiceServer},
    },
    scope::Scope,
};
use asobi_service_kit::grpc::{
    Caller, Operators as _, Refusal, Scopes, Who, invalid, is_operator_name, refusal, status,
};
use asobi_store::{
    audit::{self, Filter, Kept},
    cluster_keys,
    operators::{self, NewToken, Token},
    within,
};
use prost_types::Timestamp;
use serde_json::json;
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Gate, keys, tokens};
use crate::desk::{Deed, Desk};

pub(super) const CREATE: &str = "AccessService/CreateToken";
const REVOKE: &str = "AccessService/RevokeToken";
const ROTATE: &str = "AccessService/RotateClusterKey";

const DAY_S: u32 = 86_400;
const PAGE: i64 = 100;
const PAGE_MOST: i64 = 500;
const FILTER_BYTES: usize = 256;
/// From when a key is made until it is shown: several readings of every node, each of which takes one.
const AHEAD_S: f64 = 15.0;
const OVERLAP_S: u32 = 600;
const AGAIN: &str = "this request was done before, and the secret is in its first answer alone; if that was lost, revoke the token and make another";

/// The service, to be added to a process's routes.
#[must_use]
pub fn service(gate: Arc<Gate>, desk: Desk) -> AccessServiceServer<impl AccessService> {
    AccessServiceServer::new(Service { gate, desk })
}

struct Service {
    gate: Arc<Gate>,
    desk: Desk,
}

#[tonic::async_trait]
impl AccessService for Service {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (scopes, ttl_s) = (scopes(&request.scopes)?, ttl_s(request.ttl_s)?);
        if !is_operator_name(&request.name) {
            return Err(invalid("name", "must have 1 to 64 of letters, digits, '-', '_', '.' and '@'"));
        }
        self.may_give(&caller, scopes, CREATE)?;
        let scopes: Vec<String> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
        let created_by = caller.to_string();
        let (secret, hash) = tokens::fresh();
        let token = NewToken {
            id: Uuid::now_v7(),
            name: &request.name,
            hash: &hash,
            scopes: &scopes,
            created_by: &created_by,
            ttl_s: ttl_s.into(),
        };
        let deed = Deed {
            caller: &caller,
            action: CREATE,
            request_id: &request.request_id,
            subject: request.name.clone(),
            detail: json!({"token_id": token.id, "scopes": scopes, "ttl_s": ttl_s}),
        };
        // The answer that is kept is without the secret.
        let made = self.desk.once(deed, &request, async |conn| {
            if operators::name_is_taken(conn, token.name).await? {
                return Ok(Err(invalid("name", "is that of another token that is good; revoke that one first")));
            }
            let made = operators::create(conn, &token).await?;
            Ok(Ok((CreateTokenResponse { token: Some(wire(made)), ..CreateTokenResponse::default() }, ())))
        });
        let made = made.await?;
        let told = if made.after.is_some() { (secret, String::new()) } else { (String::new(), AGAIN.to_owned()) };
        Ok(Response::new(CreateTokenResponse { secret: told.0, notice: told.1, ..made.answer }))
    }

    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        let request = request.into_inner();
        let (size, before) = (page_size(request.page_size)?, page_token::<Uuid>(&request.page_token)?);
        let reading = operators::list(&self.gate.pool, before, size + 1);
        let mut rows = within(self.gate.bound, reading).await.map_err(|error| unreadable(&error))?;
        let next_page_token = cut(&mut rows, size).map(|token| token.id.to_string()).unwrap_or_default();
        Ok(Response::new(ListTokensResponse { tokens: rows.into_iter().map(wire).collect(), next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = Uuid::parse_str(&request.token_id).map_err(|_| invalid("token_id", "is no UUID"))?;
        let reading = operators::by_id(&self.gate.pool, id);
        let token = within(self.gate.bound, reading).await.map_err(|error| unreadable(&error))?.ok_or_else(no_token)?;
        self.may_give(&caller, token.scopes.iter().filter_map(|scope| Scope::of(scope)).collect(), REVOKE)?;
        let deed = Deed {
            caller: &caller,
            action: REVOKE,
            request_id: &request.request_id,
            subject: token.name,
            detail: json!({"token_id": id}),
        };
        let revoked = self.desk.once(deed, &request, async |conn| match operators::revoke(conn, id).await? {
            Some(token) => Ok(Ok((RevokeTokenResponse { token: Some(wire(token)) }, ()))),
            None => Ok(Err(no_token())),
        });
        let revoked = revoked.await?;
        if revoked.after.is_some() {
            self.gate.changed();
        }
        Ok(Response::new(revoked.answer))
    }

    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let filter = Filter {
            actor: filter("actor", request.actor)?,
            subject: filter("subject", request.subject)?,
            action: filter("action", request.action)?,
            before: page_token(&request.page_token)?,
            from: request.from.map(|at| time("from", at)).transpose()?,
            until: request.until.map(|at| time("until", at)).transpose()?,
        };
        let reading = audit::list(&self.gate.pool, &filter, size + 1);
        let mut rows = within(self.gate.bound, reading).await.map_err(|error| unreadable(&error))?;
        let next_page_token = cut(&mut rows, size).map(|kept| kept.id.to_string()).unwrap_or_default();
        Ok(Response::new(ListAuditResponse { entries: rows.into_iter().map(entry).collect(), next_page_token }))
    }

    async fn rotate_cluster_key(
        &self,
        request: Request<RotateClusterKeyRequest>,
    ) -> Result<Response<RotateClusterKeyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let overlap_s = whole("overlap_s", request.overlap_s, OVERLAP_S, 30, DAY_S)?;
        if self.gate.keys.configured() {
            let how = "cluster.key is configured, so it is rotated there: restart the processes with the next key as cluster.previous_key, \
                       then with the two exchanged, then without";
            return Err(refusal(ErrorCode::VALIDATION_FAILED.as_str(), how));
        }
        let deed = Deed {
            caller: &caller,
            action: ROTATE,
            request_id: &request.request_id,
            subject: String::new(),
            detail: json!({"overlap_s": overlap_s}),
        };
        let key = keys::random_hex();
        let rotated = self.desk.once(deed, &request, async |conn| {
            let Some(rotation) = cluster_keys::rotate(conn, &key, AHEAD_S, overlap_s.into()).await? else {
                let busy = "another key is on its way to be shown; rotate again in some seconds";
                return Ok(Err(status(ErrorCode::RATE_LIMITED, busy)));
            };
            let answer = RotateClusterKeyResponse {
                active_from: Some(stamp(rotation.active_from)),
                old_retires_at: Some(stamp(rotation.old_retires_at)),
            };
            Ok(Ok((answer, ())))
        });
        let rotated = rotated.await?;
        if rotated.after.is_some() {
            self.gate.changed();
            tracing::info!(by = %caller, "The cluster has another key; it is shown in some seconds.");
        }
        Ok(Response::new(rotated.answer))
    }
}

impl Service {
    /// Nobody makes, or ends, a token that may more than they may themselves.
    fn may_give(&self, caller: &Caller, scopes: Scopes, action: &str) -> Result<(), Status> {
        let Some(lacking) = scopes.iter().find(|scope| !caller.has(*scope)) else { return Ok(()) };
        let why = format!("needs the scope {lacking} itself");
        self.gate.refused(Refusal {
            who: Who::Known(caller.to_string().into()),
            action: action.to_owned(),
            why: why.clone(),
            from: None,
        });
        Err(status(ErrorCode::FORBIDDEN, why))
    }
}

fn scopes(numbers: &[i32]) -> Result<Scopes, Status> {
    let wrong = || invalid("scopes", "must be one or more of read, operate, moderate and erase");
    // As many as there are, and some said twice.
    if numbers.is_empty() || numbers.len() > 16 {
        return Err(wrong());
    }
    let scopes = numbers.iter().map(|number| Scope::of_number(*number).ok_or_else(wrong));
    scopes.collect::<Result<Vec<_>, _>>().map(Scopes::from_iter)
}

fn ttl_s(given: i64) -> Result<u32, Status> {
    whole("ttl_s", given, 90 * DAY_S, 60, 366 * DAY_S)
}

/// A number within bounds; 0: the default.
fn whole(field: &str, given: i64, default: u32, least: u32, most: u32) -> Result<u32, Status> {
    match u32::try_from(given) {
        Ok(0) => Ok(default),
        Ok(given) if (least..=most).contains(&given) => Ok(given),
        _ => Err(invalid(field, format!("must be {least} to {most}, or 0 for {default}"))),
    }
}

fn page_size(given: i32) -> Result<i64, Status> {
    match given {
        0 => Ok(PAGE),
        1.. => Ok(i64::from(given).min(PAGE_MOST)),
        _ => Err(invalid("page_size", "must not be below 0")),
    }
}

fn page_token<T: std::str::FromStr>(given: &str) -> Result<Option<T>, Status> {
    if given.is_empty() {
        return Ok(None);
    }
    given.parse().map(Some).map_err(|_| invalid("page_token", "must be one that was answered, or empty"))
}

/// Takes the row away that was read only to know whether there is more; the last that stays, if there is.
fn cut<T>(rows: &mut Vec<T>, size: i64) -> Option<&T> {
    let size = usize::try_from(size).unwrap_or_default();
    if rows.len() <= size {
        return None;
    }
    rows.truncate(size);
    rows.last()
}

fn filter(field: &str, given: String) -> Result<Option<String>, Status> {
    if given.len() > FILTER_BYTES || given.contains('\0') {
        return Err(invalid(field, format!("must have at most {FILTER_BYTES} bytes of text")));
    }
    Ok((!given.is_empty()).then_some(given))
}

fn time(field: &str, given: Timestamp) -> Result<OffsetDateTime, Status> {
    let nanos = u32::try_from(given.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    OffsetDateTime::from_unix_timestamp(given.seconds)
        .ok()
        .zip(nanos)
        .and_then(|(second, nanos)| second.replace_nanosecond(nanos).ok())
        .ok_or_else(|| invalid(field, "is no time"))
}

fn stamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or_default() }
}

fn wire(token: Token) -> WireToken {
    let scopes = token.scopes.iter().filter_map(|scope| Scope::of(scope));
    WireToken {
        token_id: token.id.to_string(),
        name: token.name,
        scopes: scopes.map(|scope| WireScope::from(scope).into()).collect(),
        created_by: token.created_by,
        created_at: Some(stamp(token.created_at)),
        expires_at: Some(stamp(token.expires_at)),
        revoked_at: token.revoked_at.map(stamp),
        used_at: token.used_at.map(stamp),
    }
}

fn entry(kept: Kept) -> AuditEntry {
    let outcome = if kept.entry.done { AuditOutcome::Done } else { AuditOutcome::Refused };
    AuditEntry {
        entry_id: kept.id,
        at: Some(stamp(kept.at)),
        actor: kept.entry.actor,
        action: kept.entry.action,
        subject: kept.entry.subject,
        outcome: outcome.into(),
        request_id: kept.entry.request_id.unwrap_or_default(),
        detail_json: kept.entry.detail.to_string(),
    }
}

fn no_token() -> Status {
    status(ErrorCode::OPS_NOT_FOUND, "there is no token with that id; see ListTokens")
}

fn unreadable(error: &asobi_store::Error) -> Status {
    tracing::warn!(%error, "What an operator asked could not be read.");
    status(ErrorCode::NOT_READY, "the database does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_spans_are_bounded() {
        assert_eq!((page_size(0).unwrap(), page_size(7).unwrap(), page_size(i32::MAX).unwrap()), (100, 7, 500));
        assert!(page_size(-1).is_err());
        assert_eq!((ttl_s(0).unwrap(), ttl_s(60).unwrap()), (90 * DAY_S, 60));
        for wrong in [-1, 59, 366 * i64::from(DAY_S) + 1, i64::MAX, i64::MIN] {
            assert!(ttl_s(wrong).is_err(), "{wrong}");
        }
        assert!(page_token::<i64>("nonsense").is_err() && page_token::<i64>("").unwrap().is_none());
        let mut rows = vec![3, 2, 1];
        assert_eq!(cut(&mut rows, 3), None);
        assert_eq!(cut(&mut rows, 2), Some(&2));
        assert_eq!(rows, [3, 2]);
    }

    #[test]
    fn scopes_are_those_there_are() {
        assert_eq!(scopes(&[1, 2, 3, 4, 4]).unwrap(), Scopes::all());
        for wrong in [&[][..], &[0], &[5], &[1, -1], &[1; 17]] {
            assert!(scopes(wrong).is_err(), "{wrong:?}");
        }
    }
}
