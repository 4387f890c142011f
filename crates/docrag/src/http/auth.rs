//! Who asks, whether they may, and how often.
//!
//! A key or a session's token comes as `Authorization: Bearer …`; a session also as a cookie. What was looked up counts for
//! [`TRUST`], so that a revoked key works for that long at most on other replicas, and not at all on this one.
//!
//! Failed tries are counted by client address. A good key is never locked out by its neighbours' failures (behind a
//! proxy all clients may share one address); since a secret has 256 random bits, the limit is there for the noise and the
//! load, not because anybody could guess.

use super::App;
use super::around::{RequestId, Tenant};
use super::problem::{Answer, Trouble};
use crate::cache::Verdict;
use crate::service::{Caller, Scopes};
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

pub(super) const COOKIE_NAME: &str = "docrag_session";
const TRUST: Duration = Duration::from_secs(5);
/// Entries beyond which stale ones are swept out.
const MANY: usize = 4_096;
/// Longer than any key or token of ours.
const LONGEST_SECRET: usize = 200;
const WINDOW_SECONDS: u64 = 60;

/// A key or a session that was let in.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) tenant: String,
    pub(super) scopes: Scopes,
    pub(super) key_id: Uuid,
    pub(super) session_id: Option<Uuid>,
}

/// A secret and how it came.
struct Shown {
    secret: String,
    by_cookie: bool,
}

/// Identities looked up a moment ago, by the hash of their secret.
#[derive(Default)]
pub(super) struct Known {
    entries: Mutex<HashMap<[u8; 32], (Identity, Instant)>>,
}

/// A caller with scope `read`.
pub(super) struct Reader(pub(super) Caller);
/// A caller with scope `write`.
pub(super) struct Writer(pub(super) Caller);
/// A caller with scope `admin`.
pub(super) struct Admin(pub(super) Caller);

impl Identity {
    pub(super) fn actor(&self) -> String {
        self.session_id.map_or_else(|| format!("key:{}", self.key_id), |id| format!("session:{id}"))
    }
}

impl Known {
    fn get(&self, secret: &str) -> Option<Identity> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (identity, until) = entries.get(&hash(secret))?;
        (*until > Instant::now()).then(|| identity.clone())
    }

    fn put(&self, secret: &str, identity: &Identity) {
        let now = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MANY {
            entries.retain(|_, (_, until)| *until > now);
        }
        entries.insert(hash(secret), (identity.clone(), now + TRUST));
    }

    /// After a key was revoked or a session ended.
    pub(super) fn forget(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The layer of every route that needs a key.
pub(super) async fn authenticated(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let (identity, verdict) = match admitted(&app, &parts).await {
        Ok(admitted) => admitted,
        Err(trouble) => return trouble.into_response(),
    };
    let limit = app.service.settings().limits.requests_per_minute;
    let tenant = Tenant(identity.tenant.clone());
    let mut response = if verdict.allowed {
        parts.extensions.insert(caller(&identity, &parts));
        parts.extensions.insert(identity);
        next.run(Request::from_parts(parts, body)).await
    } else {
        too_often(&app, &identity.tenant, identity.key_id, &verdict).into_response()
    };
    set_limit_headers(response.headers_mut(), limit, &verdict);
    response.extensions_mut().insert(tenant);
    response
}

async fn admitted(app: &App, parts: &Parts) -> Answer<(Identity, Verdict)> {
    let shown = shown(&parts.headers).ok_or_else(|| {
        Trouble::unauthenticated("send `Authorization: Bearer dr_…` with an API key, or log in on the page")
    })?;
    let identity = match identify(app, &shown.secret).await? {
        Ok(identity) => identity,
        Err(reason) => return Err(failed(app, &parts.extensions, &parts.headers, reason).await),
    };
    if shown.by_cookie && !is_safe(&parts.method) && !is_same_origin(&parts.headers) {
        let detail = "a write with the session cookie must come from this service's own page";
        return Err(Trouble::new(StatusCode::FORBIDDEN, "cross-origin", detail));
    }
    let verdict = counted(app, identity.key_id).await;
    Ok((identity, verdict))
}

/// One more request of this key.
pub(super) async fn counted(app: &App, key: Uuid) -> Verdict {
    let limit = app.service.settings().limits.requests_per_minute;
    app.service.cache().allow(&format!("key:{key}"), limit).await
}

/// What a key is told that asks more often than it may.
pub(super) fn too_often(app: &App, tenant: &str, key: Uuid, verdict: &Verdict) -> Trouble {
    let limit = app.service.settings().limits.requests_per_minute;
    app.service.metrics().rate_limited();
    tracing::warn!(tenant, %key, limit, "rate limit exceeded by a key");
    let detail = format!("this key may ask {limit} times a minute");
    limited(verdict, &detail)
}

/// Whose secret this is; inside, why it does not let in.
pub(super) async fn identify(app: &App, secret: &str) -> Answer<Result<Identity, String>> {
    if secret.len() > LONGEST_SECRET {
        return Ok(Err("unknown".to_owned()));
    }
    if let Some(identity) = app.known.get(secret) {
        return Ok(Ok(identity));
    }
    let store = app.service.store();
    let found = if secret.starts_with(crate::store::keys::PREFIX) {
        store.authenticate_key(secret).await?.map(|key| Identity {
            tenant: key.tenant,
            scopes: key.scopes,
            key_id: key.id,
            session_id: None,
        })
    } else {
        store.authenticate_session(secret).await?.map(|session| Identity {
            tenant: session.tenant,
            scopes: session.scopes,
            key_id: session.key_id,
            session_id: Some(session.id),
        })
    };
    if let Ok(identity) = &found {
        app.known.put(secret, identity);
    }
    Ok(found.map_err(|refusal| refusal.to_string()))
}

/// Notes a failed try and says so: 401, or 429 when there were too many from this address.
pub(super) async fn failed(
    app: &App,
    extensions: &axum::http::Extensions,
    headers: &HeaderMap,
    reason: String,
) -> Trouble {
    let client = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_string());
    let client = client.unwrap_or_else(|| "unknown".to_owned());
    let forwarded = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let request_id = extensions.get::<RequestId>().map(|id| id.0.as_str());
    app.service.metrics().auth_failure();
    tracing::warn!(client, forwarded, reason, request_id, "auth failed");
    let limit = app.service.settings().limits.failed_logins_per_minute;
    let verdict = app.service.cache().allow(&format!("auth:{client}"), limit).await;
    if verdict.allowed {
        return Trouble::unauthenticated("the key or session is unknown, expired or revoked");
    }
    app.service.metrics().rate_limited();
    tracing::warn!(client, limit, request_id, "rate limit exceeded by failed authentications");
    limited(&verdict, "too many wrong keys from this address")
}

fn limited(verdict: &Verdict, detail: &str) -> Trouble {
    Trouble::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail)
        .retry_after(verdict.retry_after.as_secs_f64().ceil() as u64)
}

fn set_limit_headers(headers: &mut HeaderMap, limit: u32, verdict: &Verdict) {
    if limit == 0 {
        return;
    }
    let reset = if verdict.allowed { WINDOW_SECONDS } else { verdict.retry_after.as_secs_f64().ceil() as u64 };
    headers.insert("ratelimit-limit", HeaderValue::from(limit));
    headers.insert("ratelimit-remaining", HeaderValue::from(verdict.remaining));
    headers.insert("ratelimit-reset", HeaderValue::from(reset));
}

fn caller(identity: &Identity, parts: &Parts) -> Caller {
    let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    Caller { tenant: identity.tenant.clone(), actor: identity.actor(), scopes: identity.scopes, request_id }
}

fn shown(headers: &HeaderMap) -> Option<Shown> {
    match headers.get(AUTHORIZATION) {
        Some(value) => {
            let (scheme, secret) = value.to_str().ok()?.split_once(' ')?;
            let bearer = scheme.eq_ignore_ascii_case("bearer");
            bearer.then(|| Shown { secret: secret.trim().to_owned(), by_cookie: false })
        }
        None => cookie(headers).map(|secret| Shown { secret, by_cookie: true }),
    }
}

pub(super) fn cookie(headers: &HeaderMap) -> Option<String> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let own = pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(name, _)| *name == COOKIE_NAME);
    own.map(|(_, value)| value.to_owned())
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Browsers say where a request comes from; one that says nothing is not from our page.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match text(axum::http::HeaderName::from_static("sec-fetch-site")) {
        Some(site) => site == "same-origin",
        None => match (text(ORIGIN), text(HOST)) {
            (Some(origin), Some(host)) => {
                let own = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
                own.is_some_and(|own| own.eq_ignore_ascii_case(host))
            }
            _ => false,
        },
    }
}

/// The caller, when the scope is there.
fn scoped(parts: &Parts, scope: &'static str, has: impl Fn(Scopes) -> bool) -> Answer<Caller> {
    // A route outside the layer would have no caller; that is a mistake of ours, and must not let anybody in.
    let caller = parts.extensions.get::<Caller>().ok_or_else(Trouble::internal)?;
    if has(caller.scopes) {
        return Ok(caller.clone());
    }
    let detail =
        format!("this key lacks the scope `{scope}`; `docrag key create --scope {scope}` makes one that has it");
    Err(Trouble::new(StatusCode::FORBIDDEN, "forbidden", detail))
}

impl FromRequestParts<App> for Reader {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Answer<Self> {
        scoped(parts, "read", |scopes| scopes.read).map(Self)
    }
}

impl FromRequestParts<App> for Writer {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Answer<Self> {
        scoped(parts, "write", |scopes| scopes.write).map(Self)
    }
}

impl FromRequestParts<App> for Admin {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Answer<Self> {
        scoped(parts, "admin", |scopes| scopes.admin).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_write_by_cookie_counts_only_from_our_own_page() {
        assert!(is_same_origin(&headers(&[("sec-fetch-site", "same-origin"), ("host", "rag.example")])));
        assert!(is_same_origin(&headers(&[("origin", "https://rag.example:8443"), ("host", "rag.example:8443")])));
        for foreign in [
            &[("sec-fetch-site", "same-site"), ("origin", "https://rag.example"), ("host", "rag.example")][..],
            &[("sec-fetch-site", "none"), ("host", "rag.example")],
            &[("origin", "https://evil.example"), ("host", "rag.example")],
            &[("origin", "https://rag.example.evil"), ("host", "rag.example")],
            &[("origin", "null"), ("host", "rag.example")],
            &[("host", "rag.example")],
        ] {
            assert!(!is_same_origin(&headers(foreign)), "{foreign:?}");
        }
    }

    #[test]
    fn the_header_goes_before_the_cookie_and_other_schemes_are_no_keys() {
        let both = headers(&[("authorization", "bearer dr_1"), ("cookie", "a=b; docrag_session=ds_2")]);
        assert_eq!(shown(&both).map(|shown| (shown.secret, shown.by_cookie)), Some(("dr_1".into(), false)));
        let only_cookie = headers(&[("cookie", "a=b; docrag_session=ds_2")]);
        assert_eq!(shown(&only_cookie).map(|shown| (shown.secret, shown.by_cookie)), Some(("ds_2".into(), true)));
        assert!(shown(&headers(&[("authorization", "Basic ZG86cmFn"), ("cookie", "docrag_session=ds_2")])).is_none());
    }

    #[test]
    fn what_was_revoked_is_forgotten_at_once() {
        let known = Known::default();
        let identity =
            Identity { tenant: "t".into(), scopes: Scopes::default(), key_id: Uuid::nil(), session_id: None };
        known.put("dr_1", &identity);
        assert!(known.get("dr_1").is_some() && known.get("dr_2").is_none());
        known.forget();
        assert!(known.get("dr_1").is_none());
    }
}
