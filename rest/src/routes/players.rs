//! `/players/*`

use asobi_proto::{error::ErrorCode, social_v1::TextKind};
use asobi_session::{auth::FieldErrors, moderation::Judged};
use asobi_store::players::{self, Changes, Player};
use axum::extract::State;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Json, Shared, id};
use crate::{
    body::Fields,
    docs::schemas,
    error::{ApiError, Result},
    extract::Path,
    middleware::Caller,
    render::timestamp,
};

const DISPLAY_NAME_CHARS: usize = 64;
const AVATAR_URL_CHARS: usize = 2_048;
/// Of the metadata's JSON text.
const METADATA_BYTES: usize = 16 * 1024;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(show, update)).routes(routes!(erase))
}

#[utoipa::path(
    get,
    path = "/players/{id}",
    tag = "players",
    summary = "A profile",
    params(("id" = uuid::Uuid, Path, description = "The player")),
    responses((status = 200, body = schemas::Player)),
    extensions(("x-errors" = json!(["invalid_payload", "player.not_found"]))),
)]
async fn show(State(rest): State<Shared>, Path(path): Path<String>) -> Result<Json> {
    if path == "me" {
        return Err(not_found());
    }
    let player = players::get(&rest.pool, id(&path)?).await?.ok_or_else(not_found)?;
    Ok(axum::Json(answer(player)))
}

#[utoipa::path(
    put,
    path = "/players/{id}",
    tag = "players",
    summary = "Change one's own profile",
    params(("id" = uuid::Uuid, Path, description = "Oneself")),
    request_body = schemas::PlayerChanges,
    responses((status = 200, body = schemas::Player)),
    extensions(("x-errors" = json!(["invalid_payload", "player.not_found", "forbidden", "validation_failed"]))),
)]
async fn update(
    State(rest): State<Shared>,
    Path(path): Path<String>,
    Caller(claims): Caller,
    fields: Fields,
) -> Result<Json> {
    if id(&path)? != claims.player_id {
        return Err(ApiError::forbidden("Only one's own profile can be changed."));
    }
    let mut changes = changes(&fields.object()?).map_err(|errors| ApiError::validation("errors", &errors))?;
    if let Some(Some(name)) = &mut changes.display_name {
        judge(&rest, claims.player_id, name).await?;
    }
    let player = players::update(&rest.pool, claims.player_id, changes).await?.ok_or_else(not_found)?;
    Ok(axum::Json(answer(player)))
}

#[utoipa::path(
    post,
    path = "/players/me/erase",
    tag = "players",
    summary = "Erase oneself: everything of the player goes; three tries a minute",
    request_body = schemas::Confirmation,
    responses((status = 200, body = schemas::Deleted)),
    extensions(("x-errors" = json!(["missing_field", "player.confirmation_failed", "player.not_found"]))),
)]
async fn erase(State(rest): State<Shared>, Caller(claims): Caller, fields: Fields) -> Result<Json> {
    rest.limits.check_erase(claims.player_id)?;
    rest.issuer.erase(&claims, fields.optional_string("password")).await?;
    Ok(axum::Json(json!({"deleted": true})))
}

fn changes(fields: &Fields) -> Result<Changes, FieldErrors> {
    let mut errors = FieldErrors::new();
    let display_name = text(fields, "display_name", DISPLAY_NAME_CHARS, &mut errors);
    let avatar_url = text(fields, "avatar_url", AVATAR_URL_CHARS, &mut errors);
    let metadata = match fields.get("metadata") {
        None => None,
        Some(value @ Value::Object(_)) => match metadata_problem(value) {
            None => Some(value.clone()),
            Some(problem) => {
                errors.insert("metadata", vec![problem]);
                None
            }
        },
        Some(_) => {
            errors.insert("metadata", vec!["cannot cast to map".into()]);
            None
        }
    };
    if errors.is_empty() { Ok(Changes { display_name, avatar_url, metadata }) } else { Err(errors) }
}

/// None: not given. Inner none: to be emptied.
fn text(fields: &Fields, field: &'static str, most: usize, errors: &mut FieldErrors) -> Option<Option<String>> {
    let problem = match fields.given(field)? {
        Value::Null => return Some(None),
        Value::String(text) if text.chars().count() > most => format!("should be at most {most} character(s)"),
        Value::String(text) if text.contains('\0') => "has invalid format".into(),
        Value::String(text) => return Some(Some(text.clone())),
        _ => "cannot cast to string".into(),
    };
    errors.insert(field, vec![problem]);
    None
}

/// What the list of words and the studio's filter make of a name.
async fn judge(rest: &Shared, player: uuid::Uuid, name: &mut String) -> Result<()> {
    match rest.hub.judge_name(TextKind::DisplayName, player, name).await {
        Judged::Clean => {}
        Judged::Changed(changed) => *name = changed,
        Judged::Refused => return Err(ApiError::field("display_name", "is not allowed")),
        Judged::Unavailable => return Err(ApiError::not_ready("The name cannot be judged now; please try again.")),
    }
    Ok(())
}

fn metadata_problem(value: &Value) -> Option<String> {
    let text = value.to_string();
    if text.len() > METADATA_BYTES {
        return Some(format!("should be at most {METADATA_BYTES} byte(s)"));
    }
    // jsonb holds no NUL.
    text.contains("\\u0000").then(|| "has invalid format".into())
}

fn not_found() -> ApiError {
    ApiError::new(ErrorCode::PLAYER_NOT_FOUND, "There is no such player.")
}

fn answer(player: Player) -> Value {
    json!({
        "id": player.id,
        "username": player.username,
        "display_name": player.display_name,
        "avatar_url": player.avatar_url,
        "metadata": player.metadata,
        "inserted_at": timestamp(player.inserted_at),
        "updated_at": timestamp(player.updated_at),
    })
}
