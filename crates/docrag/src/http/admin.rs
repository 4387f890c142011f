//! Corpora, status, the audit log, and what the index holds.

use super::App;
use super::auth::{Admin, Reader, Writer};
use super::documents::{checked_limit, checked_name};
use super::extract::{Json, Path, Query, present};
use super::problem::{Answer, Trouble};
use crate::search::SearchMode;
use crate::service::{ServiceError, Status};
use crate::store::audit::{AuditCursor, AuditRecord};
use crate::store::corpora::CorpusRecord;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fmt::Write as _;
use utoipa::{IntoParams, ToSchema};

const AUDIT_LIMIT: usize = 100;
const AUDIT_MOST: usize = 1_000;
/// Lines of the index's listing that are sent at once.
const LINES: usize = 1_000;

#[derive(Serialize, ToSchema)]
pub(super) struct CorpusList {
    items: Vec<CorpusRecord>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModeBody {
    search_mode: SearchMode,
    /// Why; `by hand` when it is left out.
    #[serde(default, deserialize_with = "present")]
    #[schema(min_length = 1, max_length = 200, nullable = false, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    reason: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<usize>,
    /// `next` of the page before.
    #[param(pattern = r"^-?[0-9]{1,17}\.[0-9a-f]{32}$", nullable = false)]
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct AuditPage {
    items: Vec<AuditRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Lists corpora and how they are searched
#[utoipa::path(get, path = "/v1/corpora", tag = "corpora", operation_id = "list_corpora",
    responses((status = 200, description = "By name", body = CorpusList)))]
pub(super) async fn corpora(State(app): State<App>, Reader(caller): Reader) -> Answer<axum::Json<CorpusList>> {
    let items = app.service.store().corpora(&caller.tenant).await?;
    Ok(axum::Json(CorpusList { items }))
}

/// Sets how a corpus is searched when a request does not say
#[utoipa::path(put, path = "/v1/corpora/{name}/mode", tag = "corpora", operation_id = "set_corpus_mode",
    params(("name" = String, Path, description = "The corpus")),
    request_body = ModeBody,
    responses((status = 200, description = "The corpus as it is now", body = CorpusRecord)))]
pub(super) async fn set_mode(
    State(app): State<App>,
    Writer(caller): Writer,
    Path(name): Path<String>,
    Json(body): Json<ModeBody>,
) -> Answer<axum::Json<CorpusRecord>> {
    let gone = || Trouble::not_found("such corpus");
    let name = checked_name("name", name, 200).map_err(|_| gone())?;
    let reason = checked_name("reason", body.reason.unwrap_or_else(|| "by hand".to_owned()), 200)?;
    let store = app.service.store();
    if !store.set_search_mode(&caller, &name, body.search_mode, &reason).await? {
        return Err(gone());
    }
    // The next search of this process already follows it.
    app.service.cache().put_mode(&caller.tenant, &name, body.search_mode);
    store.corpus(&caller.tenant, &name).await?.map(axum::Json).ok_or_else(gone)
}

/// Counts documents by state, and says how far the indexes are
#[utoipa::path(get, path = "/v1/status", tag = "operations", operation_id = "status",
    responses((status = 200, description = "Of the key's tenant", body = Status)))]
pub(super) async fn status(State(app): State<App>, Reader(caller): Reader) -> Answer<axum::Json<Status>> {
    Ok(axum::Json(app.service.status(Some(&caller.tenant)).await?))
}

/// Lists what was written and who logged in, the newest first
#[utoipa::path(get, path = "/v1/audit", tag = "operations", operation_id = "audit", params(AuditQuery),
    responses((status = 200, description = "A page of entries", body = AuditPage)))]
pub(super) async fn audit(
    State(app): State<App>,
    Admin(caller): Admin,
    Query(query): Query<AuditQuery>,
) -> Answer<axum::Json<AuditPage>> {
    let limit = checked_limit(query.limit, AUDIT_LIMIT, AUDIT_MOST)?;
    let cursor = query.cursor.map(|text| read_cursor(&text)).transpose()?;
    let mut items = app.service.store().audit(&caller.tenant, cursor, limit + 1).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| more);
    let next = last.map(|entry| format!("{}.{}", entry.at.as_microsecond(), entry.id.simple()));
    Ok(axum::Json(AuditPage { items, next }))
}

fn read_cursor(text: &str) -> Answer<AuditCursor> {
    let read = || {
        let (micros, id) = text.split_once('.')?;
        Some(AuditCursor { at: Timestamp::from_microsecond(micros.parse().ok()?).ok()?, id: id.parse().ok()? })
    };
    read().ok_or_else(|| Trouble::invalid("cursor is not one that a page gave as `next`"))
}

/// Lists what the dense index holds, to be compared with Postgres
///
/// One JSON object a line: `id` of the chunk and its `chunk_hash`, in hex.
#[utoipa::path(get, path = "/v1/admin/index", tag = "operations", operation_id = "held",
    responses((status = 200, description = "What is held of the key's tenant, by id", body = String, content_type = "application/x-ndjson")))]
pub(super) async fn index(State(app): State<App>, Admin(caller): Admin) -> Answer<Response> {
    let held = app.service.dense().held(Some(&caller.tenant)).await.map_err(ServiceError::from)?;
    let pieces: Vec<Vec<crate::index::Held>> = held.chunks(LINES).map(<[_]>::to_vec).collect();
    let stream = futures_util::stream::iter(pieces.into_iter().map(|lines| {
        let text = lines.iter().fold(String::new(), |mut text, held| {
            let _ = write!(text, "{{\"id\":\"{}\",\"chunk_hash\":\"", held.id);
            for byte in &held.chunk_hash {
                let _ = write!(text, "{byte:02x}");
            }
            text.push_str("\"}\n");
            text
        });
        Ok::<_, Infallible>(Bytes::from(text))
    }));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}
