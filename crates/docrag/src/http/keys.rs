//! API keys of the caller's tenant.

use super::App;
use super::auth::Admin;
use super::documents::checked_name;
use super::extract::{Json, Path};
use super::problem::{Answer, Trouble};
use crate::service::Scopes;
use crate::store::keys::{KeyRecord, NewKey};
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ScopeName {
    Read,
    Write,
    Admin,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBody {
    /// For people: who or what uses it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    name: String,
    /// `read` searches and asks, `write` changes documents, `admin` manages keys.
    #[schema(min_items = 1, max_items = 3)]
    scopes: Vec<ScopeName>,
    /// It never expires when this is left out.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// A new key. The secret is shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct NewKeyResponse {
    #[serde(flatten)]
    key: KeyRecord,
    /// For `Authorization: Bearer …`.
    secret: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct KeyList {
    items: Vec<KeyRecord>,
}

/// Lists keys, without their secrets
#[utoipa::path(get, path = "/v1/keys", tag = "keys", operation_id = "list_keys",
    responses((status = 200, description = "The newest first", body = KeyList)))]
pub(super) async fn list(State(app): State<App>, Admin(caller): Admin) -> Answer<axum::Json<KeyList>> {
    let items = app.service.store().keys(Some(&caller.tenant)).await?;
    Ok(axum::Json(KeyList { items }))
}

/// Makes a key
#[utoipa::path(post, path = "/v1/keys", tag = "keys", operation_id = "create_key", request_body = KeyBody,
    responses((status = 201, description = "The key; its secret is not shown again", body = NewKeyResponse)))]
pub(super) async fn create(
    State(app): State<App>,
    Admin(caller): Admin,
    Json(body): Json<KeyBody>,
) -> Answer<(StatusCode, axum::Json<NewKeyResponse>)> {
    let name = checked_name("name", body.name, 200)?;
    if !(1..=3).contains(&body.scopes.len()) {
        return Err(Trouble::invalid("scopes are one to three of read, write and admin"));
    }
    let has = |scope| body.scopes.contains(&scope);
    let scopes = Scopes { read: has(ScopeName::Read), write: has(ScopeName::Write), admin: has(ScopeName::Admin) };
    let new = NewKey { tenant: caller.tenant.clone(), name, scopes, expires_at: body.expires_at };
    let (key, secret) = app.service.store().create_key(&caller, &new).await?;
    let secret = secret.expose_secret().to_owned();
    Ok((StatusCode::CREATED, axum::Json(NewKeyResponse { key, secret })))
}

/// Revokes a key, and with it the sessions that were opened by it
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys", operation_id = "revoke_key",
    params(("id" = Uuid, Path, description = "The key's id")),
    responses((status = 204, description = "It lets nobody in any more")))]
pub(super) async fn revoke(State(app): State<App>, Admin(caller): Admin, Path(id): Path<Uuid>) -> Answer<StatusCode> {
    if !app.service.store().revoke_key(&caller, id).await? {
        return Err(Trouble::not_found("such key, or it is revoked already"));
    }
    app.known.forget();
    Ok(StatusCode::NO_CONTENT)
}
