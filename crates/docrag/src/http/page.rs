//! The page for people, its files, and what a kind of problem means.
//!
//! The server renders what is there; a small script sends forms and shows streamed answers. Everything that comes from a
//! document is hostile: templates escape it, the script only ever sets text.

use super::App;
use super::auth;
use super::extract::Path;
use super::problem::{Answer, KINDS, Trouble};
use crate::service::Caller;
use crate::store::documents::{DocumentList, DocumentRecord, DocumentState};
use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Response};

const SHOWN_DOCUMENTS: usize = 100;

struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

static ASSETS: [Asset; 3] = [
    Asset { name: "style.css", kind: "text/css; charset=utf-8", content: include_str!("../../assets/style.css") },
    Asset { name: "page.js", kind: "text/javascript; charset=utf-8", content: include_str!("../../assets/page.js") },
    Asset { name: "icon.svg", kind: "image/svg+xml", content: include_str!("../../assets/icon.svg") },
];

#[derive(Template)]
#[template(path = "login.html")]
struct Login;

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    tenant: String,
    may_write: bool,
    may_read: bool,
    notes: Vec<String>,
    corpora: Vec<String>,
    documents: Vec<Row>,
    more: bool,
    limit_mb: usize,
}

struct Row {
    id: String,
    name: String,
    source: String,
    corpus: String,
    state: &'static str,
    means: &'static str,
    error: Option<String>,
    chunks: i32,
}

/// The page, or the way in.
pub(super) async fn page(State(app): State<App>, headers: HeaderMap) -> Answer<Response> {
    let identity = match auth::cookie(&headers) {
        Some(token) => auth::identify(&app, &token).await?.ok(),
        None => None,
    };
    let Some(identity) = identity else { return rendered(&Login) };
    let actor = identity.actor();
    let caller = Caller { tenant: identity.tenant, actor, scopes: identity.scopes, request_id: String::new() };
    rendered(&whole(&app, &caller).await?)
}

async fn whole(app: &App, caller: &Caller) -> Answer<Page> {
    let list = DocumentList { limit: SHOWN_DOCUMENTS, ..DocumentList::default() };
    let (documents, more) = if caller.scopes.read {
        let page = app.service.documents(caller, list).await?;
        (page.items.into_iter().map(Row::from).collect(), page.next.is_some())
    } else {
        (Vec::new(), false)
    };
    let corpora = app.service.store().corpora(&caller.tenant).await?;
    Ok(Page {
        tenant: caller.tenant.clone(),
        may_write: caller.scopes.write,
        may_read: caller.scopes.read,
        notes: notes(app).await,
        corpora: corpora.into_iter().map(|corpus| corpus.name).collect(),
        documents,
        more,
        limit_mb: app.service.settings().limits.body_bytes >> 20,
    })
}

/// What is less than it could be, in plain words.
async fn notes(app: &App) -> Vec<String> {
    let mut notes = Vec::new();
    if app.service.settings().answer.endpoint.is_none() {
        notes.push(
            "No answering model is configured: a question is answered with the best passages. \
             Set answer.endpoint in docrag.toml to have answers written."
                .to_owned(),
        );
    }
    let away = Box::pin(app.service.ready()).await.into_iter().filter(|state| !state.ok);
    notes.extend(away.map(|state| format!("{}: {}", state.name, state.detail)));
    notes
}

impl From<DocumentRecord> for Row {
    fn from(document: DocumentRecord) -> Self {
        let means = match document.state {
            DocumentState::Received => "waiting to be read",
            DocumentState::Chunked => "being embedded",
            DocumentState::Embedded => "being indexed",
            DocumentState::Indexed => "searchable",
            DocumentState::Failed => "failed",
            DocumentState::Deleted => "deleted",
        };
        Self {
            id: document.id.to_string(),
            name: document.title.clone().unwrap_or_else(|| document.source.clone()),
            source: document.source,
            corpus: document.corpus,
            state: document.state.as_str(),
            means,
            error: document.error,
            chunks: document.chunk_count,
        }
    }
}

fn rendered(template: &impl Template) -> Answer<Response> {
    match template.render() {
        Ok(text) => Ok(Html(text).into_response()),
        Err(error) => {
            tracing::error!(%error, "the page cannot be rendered");
            Err(Trouble::internal())
        }
    }
}

pub(super) async fn asset(Path(name): Path<String>) -> Answer<Response> {
    let asset = ASSETS.iter().find(|asset| asset.name == name).ok_or_else(|| Trouble::not_found("such file"))?;
    // `no-cache` asks again each time: after an upgrade an old script must not meet a new page.
    Ok(([(CONTENT_TYPE, asset.kind), (CACHE_CONTROL, "no-cache")], asset.content).into_response())
}

/// What a problem's `type` leads to.
pub(super) async fn problem(Path(slug): Path<String>) -> Answer<String> {
    let kind = KINDS.iter().find(|kind| kind.slug == slug).ok_or_else(|| Trouble::not_found("such kind of problem"))?;
    Ok(format!("{}\n\n{}\n", kind.title, kind.advice))
}
