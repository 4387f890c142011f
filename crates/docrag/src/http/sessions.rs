//! Sessions: a key once, a cookie from then on.

use super::App;
use super::around::{RequestId, Tenant};
use super::auth::{self, COOKIE_NAME, Identity};
use super::extract::Json;
use super::problem::{Answer, Trouble};
use crate::service::{Caller, Scopes};
use crate::store::audit::{AuditEntry, AuditOutcome};
use crate::store::keys::{AuthRefusal, KeyRecord};
use crate::store::sessions::LOGIN;
use axum::Extension;
use axum::extract::State;
use axum::http::header::{ORIGIN, SET_COOKIE};
use axum::http::{Extensions, HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginBody {
    /// An API key.
    #[schema(min_length = 1, max_length = 200, example = "dr_…")]
    key: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct LoginResponse {
    id: Uuid,
    tenant: String,
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// As in the cookie; also good for `Authorization: Bearer …`.
    token: String,
}

/// Who is asking.
#[derive(Serialize, ToSchema)]
pub(super) struct CurrentResponse {
    tenant: String,
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// `key:<id>` or `session:<id>`, as in the audit log.
    actor: String,
}

/// Logs in: an API key for a session
///
/// The session has the key's scopes, lasts `sessions.hours` at most, and ends with the key. The token comes as a cookie,
/// for browsers, and in the body, for everybody else.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", operation_id = "login", request_body = LoginBody,
    security(()),
    responses((status = 201, description = "Logged in", body = LoginResponse,
        headers(("set-cookie" = String, description = "The session's cookie: HttpOnly, SameSite=Strict")))))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(request_id): Extension<RequestId>,
    extensions: Extensions,
    headers: HeaderMap,
    Json(body): Json<LoginBody>,
) -> Answer<Response> {
    // A page elsewhere must not log anybody in with a key of its own choice.
    let told = headers.contains_key(HeaderName::from_static("sec-fetch-site")) || headers.contains_key(ORIGIN);
    if told && !auth::is_same_origin(&headers) {
        let detail = "log in from this service's own page";
        return Err(Trouble::new(StatusCode::FORBIDDEN, "cross-origin", detail));
    }
    let key = match app.service.store().authenticate_key(&body.key).await? {
        Ok(key) => key,
        Err(refusal) => {
            let trouble = auth::failed(&app, &extensions, &headers, refusal.to_string()).await;
            // What is beyond the limit is in the log only: strangers must not fill the audit log.
            if trouble.status == StatusCode::UNAUTHORIZED {
                app.service.store().write_audit(&refused_login(refusal, &request_id)).await?;
            }
            return Err(trouble);
        }
    };
    // A session costs a row and an entry in the audit log: logging in counts like every other request of the key.
    let verdict = auth::counted(&app, key.id).await;
    if !verdict.allowed {
        return Err(auth::too_often(&app, &key.tenant, key.id, &verdict));
    }
    log_in(&app, &key, &request_id).await
}

async fn log_in(app: &App, key: &KeyRecord, request_id: &RequestId) -> Answer<Response> {
    let settings = app.service.settings().sessions.clone();
    let (session, token) = app.service.store().create_session(key, settings.hours, &request_id.0).await?;
    let token = token.expose_secret().to_owned();
    let cookie = cookie(&token, settings.hours.saturating_mul(3_600), settings.secure_cookie);
    let body = LoginResponse {
        id: session.id,
        tenant: session.tenant.clone(),
        scopes: session.scopes,
        expires_at: session.expires_at,
        token,
    };
    let mut response = (StatusCode::CREATED, [(SET_COOKIE, cookie)], axum::Json(body)).into_response();
    response.extensions_mut().insert(Tenant(session.tenant));
    Ok(response)
}

fn refused_login(refusal: AuthRefusal, request_id: &RequestId) -> AuditEntry {
    AuditEntry {
        tenant: None,
        actor: "nobody".to_owned(),
        action: LOGIN.to_owned(),
        subject: String::new(),
        outcome: AuditOutcome::Refused,
        request_id: Some(request_id.0.clone()),
        details: serde_json::json!({"reason": refusal.to_string()}),
    }
}

/// Says who is asking
#[utoipa::path(get, path = "/v1/sessions/current", tag = "sessions", operation_id = "show_session",
    responses((status = 200, description = "The tenant and the scopes", body = CurrentResponse)))]
pub(super) async fn current(Extension(caller): Extension<Caller>) -> axum::Json<CurrentResponse> {
    axum::Json(CurrentResponse { tenant: caller.tenant, scopes: caller.scopes, actor: caller.actor })
}

/// Logs out
#[utoipa::path(delete, path = "/v1/sessions/current", tag = "sessions", operation_id = "logout",
    responses(
        (status = 204, description = "The session is over"),
        (status = 404, description = "The request came with a key, not with a session", body = super::Problem,
            content_type = "application/problem+json")
    ))]
pub(super) async fn end(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Extension(caller): Extension<Caller>,
) -> Answer<Response> {
    let Some(id) = identity.session_id else {
        return Err(Trouble::not_found("session: the request came with a key"));
    };
    app.service.store().end_session(&caller, id).await?;
    app.known.forget();
    let gone = cookie("", 0, app.service.settings().sessions.secure_cookie);
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, gone)]).into_response())
}

fn cookie(token: &str, seconds: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_script_and_no_other_site_gets_at_the_cookie() {
        let text = cookie("ds_1", 60, true);
        assert_eq!(text, "docrag_session=ds_1; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure");
        assert!(!cookie("ds_1", 60, false).contains("Secure"));
    }
}
