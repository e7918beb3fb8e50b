//! `asobi ctl token`: who may call from outside the cluster.

use std::time::Duration;

use anyhow::{Context as _, bail};
use asobi_proto::{
    ops_v1::{
        CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Scope as WireScope, Token,
        access_service_client::AccessServiceClient,
    },
    scope::Scope,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Ctl, DEADLINE,
    given::{duration, request_id},
    output,
    shown::time,
};

/// Tokens for tools and people outside of the cluster: make, list, revoke
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Make a token. It is printed once and kept nowhere
    Create {
        /// 1 to 64 of letters, digits, '-', '_', '.' and '@': how the audit knows its bearer
        name: String,
        /// What it may: read, operate, moderate, erase; several with commas
        #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',', value_parser = scope)]
        scopes: Vec<Scope>,
        /// How long it is good: 12h, 30d; at most 366d
        #[arg(long = "for", value_name = "TIME", value_parser = duration, default_value = "90d")]
        lasting: Duration,
    },
    /// All tokens, newest first; also those that are over, for a month
    List,
    /// End a token on all nodes
    Revoke { id: Uuid },
}

pub async fn run(args: &TokenArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        Order::Create { name, scopes, lasting } => create(ctl, name, scopes, *lasting).await,
        Order::List => list(ctl).await,
        Order::Revoke { id } => {
            let request = RevokeTokenRequest { request_id: request_id(), token_id: id.to_string() };
            let answer = ctl
                .ask(None, async |channel| {
                    AccessServiceClient::new(channel).revoke_token(with_deadline(request.clone(), DEADLINE)).await
                })
                .await?;
            let token = answer.token.context("the answer is without a token")?;
            if ctl.json {
                output::json(&object(&token));
            } else {
                output::line(&format!("{} ({}) is good no longer", token.name, token.token_id));
            }
            Ok(())
        }
    }
}

async fn create(ctl: &Ctl, name: &str, scopes: &[Scope], lasting: Duration) -> anyhow::Result<()> {
    let request = CreateTokenRequest {
        request_id: request_id(),
        name: name.to_owned(),
        scopes: scopes.iter().map(|scope| WireScope::from(*scope).into()).collect(),
        ttl_s: i64::try_from(lasting.as_secs()).unwrap_or(i64::MAX),
    };
    let answer = ctl
        .ask(None, async |channel| {
            AccessServiceClient::new(channel).create_token(with_deadline(request.clone(), DEADLINE)).await
        })
        .await?;
    let token = answer.token.context("the answer is without a token")?;
    if answer.secret.is_empty() {
        bail!(
            "{} was made, but a node's answer with the secret was lost; revoke it with `asobi ctl token revoke {}` and make another",
            token.name,
            token.token_id
        );
    }
    if ctl.json {
        let mut object = object(&token);
        object["token"] = answer.secret.into();
        output::json(&object);
    } else {
        output::line(&answer.secret);
        eprintln!(
            "It is shown this once. {} may {} until {}.",
            token.name,
            names(&token),
            time(token.expires_at.as_ref())
        );
    }
    Ok(())
}

async fn list(ctl: &Ctl) -> anyhow::Result<()> {
    let mut tokens = Vec::new();
    let mut request = ListTokensRequest::default();
    loop {
        let page = ctl
            .ask(None, async |channel| {
                AccessServiceClient::new(channel).list_tokens(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
        tokens.extend(page.tokens);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        output::json(&tokens.iter().map(object).collect());
        return Ok(());
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let rows: Vec<_> = tokens.iter().map(|token| row(token, now)).collect();
    output::line(&output::table(["id", "name", "may", "state", "until", "used", "made by"], &rows));
    Ok(())
}

fn row(token: &Token, now: i64) -> [String; 7] {
    let expired = token.expires_at.as_ref().is_none_or(|at| at.seconds <= now);
    let state = match (&token.revoked_at, expired) {
        (Some(_), _) => "revoked",
        (None, true) => "expired",
        (None, false) => "good",
    };
    let until = time(token.revoked_at.as_ref().or(token.expires_at.as_ref()));
    let used = time(token.used_at.as_ref());
    [token.token_id.clone(), token.name.clone(), names(token), state.to_owned(), until, used, token.created_by.clone()]
}

fn object(token: &Token) -> Value {
    let seconds = |at: &Option<Timestamp>| at.as_ref().map(|at| at.seconds);
    json!({
        "token_id": token.token_id,
        "name": token.name,
        "scopes": scopes(token).map(Scope::as_str).collect::<Vec<_>>(),
        "created_by": token.created_by,
        "created_at": seconds(&token.created_at),
        "expires_at": seconds(&token.expires_at),
        "revoked_at": seconds(&token.revoked_at),
        "used_at": seconds(&token.used_at),
    })
}

fn scopes(token: &Token) -> impl Iterator<Item = Scope> {
    token.scopes.iter().filter_map(|number| Scope::of_number(*number))
}

fn names(token: &Token) -> String {
    scopes(token).map(Scope::as_str).collect::<Vec<_>>().join(",")
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::of(text).ok_or_else(|| "read, operate, moderate or erase".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whether_it_is_good() {
        let stamp = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let mut token = Token { name: "ci".into(), scopes: vec![1, 3, 99], expires_at: stamp(100), ..Token::default() };
        assert_eq!(row(&token, 99)[1..5], ["ci", "read,moderate", "good", "1970-01-01T00:01:40Z"]);
        assert_eq!(row(&token, 100)[3], "expired");
        token.revoked_at = stamp(50);
        assert_eq!(row(&token, 99)[3..5], ["revoked", "1970-01-01T00:00:50Z"]);
    }
}
