//! What went wrong, in the form of RFC 9457 (`application/problem+json`). Every error of every route is one.
//!
//! A handler makes a [`Problem`]; as a response it is only a note, and the outermost layer (`around`) writes it out with
//! the request's id. So do responses of libraries that know nothing of problems: their status is kept, their body not.

use crate::answer::AskProblem;
use crate::service::ServiceError;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::ToSchema;

pub(super) const MEDIA_TYPE: &str = "application/problem+json";
const TYPE_PREFIX: &str = "/problems/";
/// Seconds after which what was away is worth another try.
const RETRY_SECONDS: u64 = 5;

/// A kind of problem: the last part of its type URI, its title, and what whoever meets it can do.
pub(super) struct Kind {
    pub(super) slug: &'static str,
    pub(super) title: &'static str,
    pub(super) advice: &'static str,
}

const fn kind(slug: &'static str, title: &'static str, advice: &'static str) -> Kind {
    Kind { slug, title, advice }
}

pub(super) static KINDS: [Kind; 25] = [
    kind("bad-request", "The request is malformed", "Compare it with /openapi.json."),
    kind("bad-json", "The body is not JSON", "The detail names the line and column of the first mistake."),
    kind("bad-multipart", "The form is malformed", "Send multipart/form-data with a part called `file`."),
    kind("invalid", "A value is not allowed", "The detail names the value and what is allowed."),
    kind("filter-too-wide", "The filter matches too many documents", "Narrow the metadata filter."),
    kind(
        "unauthenticated",
        "A valid key is missing",
        "Send `Authorization: Bearer dr_…`; `docrag key create` makes keys.",
    ),
    kind("forbidden", "The key lacks a scope", "Use a key with the scope that the detail names."),
    kind(
        "cross-origin",
        "The request comes from another site",
        "Writes with the session cookie are taken from this page only.",
    ),
    kind("not-found", "There is no such thing", "It does not exist, or it belongs to another tenant."),
    kind("method-not-allowed", "The route has no such method", "The header `Allow` lists those it has."),
    kind(
        "too-large",
        "The body is too large",
        "The detail names the limit; split the document, or raise limits.body_bytes.",
    ),
    kind(
        "unsupported-media-type",
        "The content type is not known here",
        "Send application/json (or multipart/form-data for uploads).",
    ),
    kind("not-acceptable", "No representation fits the Accept header", "Accept application/json or text/event-stream."),
    kind("rate-limited", "Too many requests", "Wait as long as `Retry-After` says."),
    kind("timed-out", "The request took too long", "Try again; if it stays so, look at /health/ready."),
    kind("busy", "The service is busy", "Wait as long as `Retry-After` says."),
    kind("not-ready", "The service cannot answer yet, or no longer", "`dependencies` lists what is missing."),
    kind("database-unavailable", "The database does not answer", "Nothing is lost; try again in some seconds."),
    kind("database-error", "The database refused", "The log has the cause, under the request's id."),
    kind("embedder-unavailable", "The embedding model does not answer", "Search with mode `lexical`, or try again."),
    kind("index-unavailable", "The index does not answer", "Search with mode `lexical`, or try again."),
    kind(
        "model-differs",
        "Another embedding model runs than the one of the index",
        "Run `docrag reindex --re-embed`, or put the model back.",
    ),
    kind(
        "answer-interrupted",
        "The answering model broke off",
        "What came is incomplete; ask again. Of the configured time, answer.timeout_seconds is for the whole answer.",
    ),
    kind("internal", "Something broke inside", "The log has the cause, under the request's id."),
    kind("error", "The request failed", "The status says how."),
];

/// As it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A relative reference, `/problems/<kind>`; the service explains it there.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    pub kind: String,
    pub title: String,
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    pub detail: String,
    /// Also in the header `x-request-id` and in the log.
    pub request_id: String,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    problem: Problem,
    #[serde(flatten)]
    more: &'a serde_json::Map<String, serde_json::Value>,
}

/// A problem before it is sent.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) status: StatusCode,
    slug: Cow<'static, str>,
    detail: String,
    retry_after: Option<u64>,
    /// Members of its own beyond those that every problem has. Boxed: every answer carries the size of its error.
    more: Box<serde_json::Map<String, serde_json::Value>>,
}

pub(super) type Answer<T> = Result<T, Trouble>;

impl Trouble {
    pub(super) fn new(status: StatusCode, slug: &'static str, detail: impl Into<String>) -> Self {
        Self { status, slug: Cow::Borrowed(slug), detail: detail.into(), retry_after: None, more: Box::default() }
    }

    /// An answer that broke off.
    pub(super) fn of_answer(problem: AskProblem) -> Self {
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let slug = Cow::Owned(problem.slug);
        let trouble = Self { slug, ..Self::new(status, "error", problem.detail) };
        if status == StatusCode::SERVICE_UNAVAILABLE { trouble.retry_after(RETRY_SECONDS) } else { trouble }
    }

    pub(super) fn with(mut self, name: &str, value: serde_json::Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("there is no {what}"))
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let detail = format!("at most {limit} bytes are taken here");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    pub(super) fn media_type(expected: &str) -> Self {
        let detail = format!("send {expected}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    }

    pub(super) fn unauthenticated(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    pub(super) fn internal() -> Self {
        let detail = "the log has the cause, under this request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// What a library's response without a problem becomes.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (slug, detail) = match status {
            StatusCode::NOT_FOUND => ("not-found", "there is no such route; /docs lists them"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method-not-allowed", "the header `Allow` lists the methods of this route")
            }
            StatusCode::PAYLOAD_TOO_LARGE => ("too-large", "the body is larger than is taken here"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported-media-type", "the content type is not taken here"),
            status if status.is_server_error() => return Self { status, ..Self::internal() },
            StatusCode::BAD_REQUEST => ("bad-request", "the request is malformed"),
            _ => ("error", status.canonical_reason().unwrap_or("the request failed")),
        };
        Self::new(status, slug, detail)
    }

    /// The body that is sent, and its headers.
    pub(super) fn written(&self, request_id: &str) -> (Body, HeaderValue) {
        let known = KINDS.iter().find(|kind| kind.slug == self.slug);
        let problem = Problem {
            kind: format!("{TYPE_PREFIX}{}", self.slug),
            title: known.map_or("The request failed", |kind| kind.title).to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            request_id: request_id.to_owned(),
        };
        let text = serde_json::to_vec(&Written { problem, more: &self.more }).unwrap_or_default();
        (Body::from(text), HeaderValue::from_static(MEDIA_TYPE))
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"docrag\""));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// What the client may know of it. Causes inside are logged, here, once.
impl From<ServiceError> for Trouble {
    fn from(error: ServiceError) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let slug = error.slug();
        let detail = match (&error, status) {
            (ServiceError::Store(_), StatusCode::SERVICE_UNAVAILABLE) => {
                tracing::warn!(%error, "the database is away");
                "the database does not answer; nothing that was accepted is lost".to_owned()
            }
            (_, StatusCode::INTERNAL_SERVER_ERROR) => {
                tracing::error!(%error, "a request failed inside");
                return Self { slug: Cow::Borrowed(slug), ..Self::internal() };
            }
            _ => error.to_string(),
        };
        let trouble = Self::new(status, slug, detail);
        if status == StatusCode::SERVICE_UNAVAILABLE { trouble.retry_after(RETRY_SECONDS) } else { trouble }
    }
}

impl From<crate::store::StoreError> for Trouble {
    fn from(error: crate::store::StoreError) -> Self {
        ServiceError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn every_error_of_the_service_has_a_kind_that_is_explained() {
        let errors = [
            ServiceError::Invalid("x".into()),
            ServiceError::NotFound("x".into()),
            ServiceError::Forbidden("write"),
            ServiceError::TooLarge { limit: 1 },
            ServiceError::TimedOut(std::time::Duration::from_secs(1)),
            ServiceError::Store(StoreError::Unreachable("x".into())),
            ServiceError::Store(StoreError::NotConfigured),
            ServiceError::Embed(crate::embed::EmbedError::Stopped),
            ServiceError::Index(crate::index::IndexError::Refused { index: "memory", cause: "x".into() }),
            ServiceError::Internal("x".into()),
        ];
        let of_answers = [crate::answer::INTERRUPTED, "internal"];
        for slug in errors.iter().map(ServiceError::slug).chain(of_answers) {
            assert!(KINDS.iter().any(|kind| kind.slug == slug), "{slug} is not explained");
        }
    }

    #[test]
    fn what_broke_inside_is_not_told_outside() {
        let trouble = Trouble::from(ServiceError::Internal("password=hunter2".into()));
        assert_eq!(trouble.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!trouble.detail.contains("hunter2"), "{}", trouble.detail);
        let trouble = Trouble::from(ServiceError::Store(StoreError::Unreachable("10.0.0.7:5432".into())));
        assert_eq!(trouble.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!trouble.detail.contains("10.0.0.7"));
        assert!(trouble.retry_after.is_some());
    }
}
