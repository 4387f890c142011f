//! Documents: taking them in, looking at them, deleting them.

use super::App;
use super::auth::{Reader, Writer};
use super::extract::{Path, Query, present};
use super::problem::{Answer, Trouble};
use super::upload;
use crate::search::{DEFAULT_CORPUS, default_corpus};
use crate::service::{Accepted, Outcome};
use crate::store::documents::{DocumentList, DocumentRecord, DocumentState, Page};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

const DEFAULT_LIMIT: usize = 50;
const MOST: usize = 1_000;

/// A document, with either `content` or `content_base64`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentBody {
    /// Your own name of the document: a path, a URL, a key. The same name again means a new content of the same document.
    #[schema(min_length = 1, max_length = 1000, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    pub source: String,
    /// Text, Markdown or HTML.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, nullable = false)]
    pub content: Option<String>,
    /// Bytes, for PDF and for text that is not UTF-8.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, format = Byte, nullable = false)]
    pub content_base64: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 1000, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    pub title: Option<String>,
    /// `text/plain`, `text/markdown`, `text/html` or `application/pdf`; guessed from the name and the content when it is
    /// left out.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = r"^(text/plain|text/markdown|text/html|application/pdf)$")]
    pub media_type: Option<String>,
    /// At most 16 KB; searches filter by it.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schema(value_type = Object)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(default = "default_corpus")]
    #[schema(min_length = 1, max_length = 200, default = "default", pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    pub corpus: String,
}

/// The fields of an upload.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes a form; `upload` reads it")]
pub(super) struct DocumentForm {
    /// The document. Its file name is its `source` and its content type its `media_type` unless they are given.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    #[schema(min_length = 1, max_length = 1000, nullable = false, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    source: Option<String>,
    #[schema(min_length = 1, max_length = 1000, nullable = false, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    title: Option<String>,
    #[schema(nullable = false, pattern = r"^(text/plain|text/markdown|text/html|application/pdf)$")]
    media_type: Option<String>,
    /// A JSON object.
    #[schema(nullable = false)]
    metadata: Option<String>,
    #[schema(min_length = 1, max_length = 200, nullable = false, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    corpus: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    #[param(max_length = 200, nullable = false, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    corpus: Option<String>,
    /// Deleted ones are listed only when they are asked for.
    #[param(inline, nullable = false)]
    state: Option<DocumentState>,
    #[param(minimum = 1, maximum = 1000, default = 50, nullable = false)]
    limit: Option<usize>,
    /// `next` of the page before.
    #[param(pattern = r"^-?[0-9]{1,17}\.[0-9a-f]{32}$", nullable = false)]
    cursor: Option<String>,
}

/// Takes a document in
///
/// When the answer comes, the document survives everything; reading, chunking, embedding and indexing follow.
#[utoipa::path(
    post,
    path = "/v1/documents",
    tag = "documents",
    operation_id = "create_document",
    request_body(content(
        (DocumentBody = "application/json"),
        (DocumentForm = "multipart/form-data")
    )),
    responses(
        (status = 200, description = "It was there already, with this content; nothing is done", body = Accepted),
        (status = 202, description = "Accepted", body = Accepted,
            headers(("location" = String, description = "Where its state is shown"))),
    )
)]
pub(super) async fn create(State(app): State<App>, Writer(caller): Writer, request: Request) -> Answer<Response> {
    let (document, _room) = upload::read(&app, request).await?;
    let accepted = app.service.accept(&caller, document).await?;
    let status = if accepted.outcome == Outcome::Unchanged { StatusCode::OK } else { StatusCode::ACCEPTED };
    let place = format!("/v1/documents/{}", accepted.id);
    Ok((status, [(header::LOCATION, place)], Json(accepted)).into_response())
}

/// Lists documents, the last changed first
#[utoipa::path(
    get,
    path = "/v1/documents",
    tag = "documents",
    operation_id = "list_documents",
    params(ListQuery),
    responses((status = 200, description = "A page of documents", body = Page<DocumentRecord>))
)]
pub(super) async fn list(
    State(app): State<App>,
    Reader(caller): Reader,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Page<DocumentRecord>>> {
    let limit = checked_limit(query.limit, DEFAULT_LIMIT, MOST)?;
    let corpus = query.corpus.map(|name| checked_name("corpus", name, 200)).transpose()?;
    let list = DocumentList { corpus, state: query.state, cursor: query.cursor, limit };
    Ok(Json(app.service.documents(&caller, list).await?))
}

/// Shows a document: its state, its error, its times
#[utoipa::path(
    get,
    path = "/v1/documents/{id}",
    tag = "documents",
    operation_id = "show_document",
    params(("id" = Uuid, Path, description = "As it was answered when the document was accepted")),
    responses((status = 200, description = "The document", body = DocumentRecord))
)]
pub(super) async fn show(
    State(app): State<App>,
    Reader(caller): Reader,
    Path(id): Path<Uuid>,
) -> Answer<Json<DocumentRecord>> {
    Ok(Json(app.service.document(&caller, id).await?))
}

/// Deletes a document
///
/// Searches find it no longer as soon as the indexes have followed, which takes moments.
#[utoipa::path(
    delete,
    path = "/v1/documents/{id}",
    tag = "documents",
    operation_id = "delete_document",
    params(("id" = Uuid, Path, description = "As it was answered when the document was accepted")),
    responses((status = 202, description = "It is gone, and the indexes follow"))
)]
pub(super) async fn remove(State(app): State<App>, Writer(caller): Writer, Path(id): Path<Uuid>) -> Answer<StatusCode> {
    app.service.delete(&caller, id).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) fn checked_limit(asked: Option<usize>, default: usize, most: usize) -> Answer<usize> {
    match asked {
        None => Ok(default),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit),
        Some(limit) => Err(Trouble::invalid(format!("limit is {limit}; it must be 1 to {most}"))),
    }
}

/// A name as it may come from outside.
pub(super) fn checked_name(what: &str, name: String, longest: usize) -> Answer<String> {
    if name.is_empty() || name.chars().count() > longest || name.chars().any(char::is_control) {
        let rule = format!("{what} must have 1 to {longest} characters, none of them a control character");
        return Err(Trouble::invalid(rule));
    }
    Ok(name)
}

pub(super) fn default_corpus_name() -> String {
    DEFAULT_CORPUS.to_owned()
}
