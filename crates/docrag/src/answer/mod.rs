//! A question in, an answer with citations out.
//!
//! | file | what it does |
//! |---|---|
//! | `relevance` | whether anything was found to answer from; if not, no model is asked |
//! | `prompt` | what the model is sent: rules, and passages as delimited data |
//! | `chat` | the endpoint: stream, time limits, retries, circuit breaker |
//! | `citations` | which passages the answer names, and which it only claims to |
//! | `extractive` | an answer without a model: the sentences that fit best |
//! | `remember` | answers kept in Redis, for one state of the index only |
//! | `flow` | these in their order, as events |
//!
//! A model that is away is no error: the passages are the answer then, and the last event says why.

use crate::provider::{BreakerState, Endpoint};
use crate::search::{
    Passage, SearchFilter, SearchMode, check_corpus, check_filter, check_limit, check_text, default_corpus,
};
use crate::service::{Caller, Service, ServiceError};
use crate::settings::AnswerSettings;
use chat::Chat;
use flow::About;
use serde::{Deserialize, Serialize};
use spending::Prices;
use std::sync::Arc;
use utoipa::ToSchema;
use uuid::Uuid;

mod chat;
mod citations;
mod events;
mod extractive;
mod flow;
mod prompt;
mod relevance;
mod remember;
mod spending;
mod words;

pub use events::Events;
#[cfg(test)]
pub(crate) use flow::INTERRUPTED;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskRequest {
    #[schema(min_length = 1)]
    pub question: String,
    #[serde(default = "default_corpus")]
    pub corpus: String,
    /// The corpus's own mode when it is left out.
    #[serde(default)]
    pub mode: Option<SearchMode>,
    /// Passages that the answer is made from; `answer.passages` when it is left out.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    #[serde(default)]
    pub filter: SearchFilter,
}

/// A numbered passage: `[n]` in the answer means this one.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NumberedPassage {
    /// From 1.
    pub n: usize,
    #[serde(flatten)]
    pub passage: Passage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Citation {
    pub n: usize,
    pub chunk_id: Uuid,
    pub doc_id: Uuid,
    /// The sentence that was taken, when the answer is made of passages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
}

/// How it ended. The last event, unless an `error` was.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// A model wrote the answer.
    pub answered: bool,
    /// Nothing was found that could answer; no model was asked, or it said so itself.
    pub abstained: bool,
    /// There is an answer, and no passage is cited in it: do not rely on it.
    pub unsupported: bool,
    /// Citations of passages that do not exist; they were taken out.
    pub invented_citations: usize,
    /// Why there is less than an answer by a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why the search did less than asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// In the currency of `answer.price_per_million_…_tokens`.
    pub cost: f64,
    /// The provider did not count the tokens; these are about right.
    pub estimated: bool,
    /// From the cache: nothing was spent.
    pub cached: bool,
    pub index_version: String,
}

/// What went wrong while answering, in the shape of a problem (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AskProblem {
    /// As `ServiceError::slug`.
    pub slug: String,
    pub status: u16,
    pub detail: String,
}

/// One server-sent event: its name is `AskEvent::name`, its data the JSON of what it holds.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AskEvent {
    Passages { passages: Vec<NumberedPassage> },
    Token { text: String },
    Citation(Citation),
    Done(Done),
    Error { problem: AskProblem },
}

impl AskEvent {
    /// `passages`, `token`, `citation`, `done` or `error`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passages { .. } => "passages",
            Self::Token { .. } => "token",
            Self::Citation(_) => "citation",
            Self::Done(_) => "done",
            Self::Error { .. } => "error",
        }
    }

    /// What follows `data:`, on one line.
    pub fn data(&self) -> String {
        let tagged = serde_json::to_value(self).expect("these types have string keys only");
        tagged.get(self.name()).map(ToString::to_string).unwrap_or_default()
    }
}

/// The answering model and its breaker; made once.
pub struct Answers {
    chat: Option<Arc<Chat>>,
    /// Why there is none although one is configured.
    trouble: Option<String>,
    prices: Prices,
}

impl Answers {
    /// An endpoint that cannot be used is logged, and answers are passages.
    pub fn new(settings: &AnswerSettings) -> Self {
        let (chat, trouble) = match Chat::new(settings) {
            Ok(chat) => (chat.map(Arc::new), None),
            Err(error) => {
                tracing::error!(%error, "answer.endpoint cannot be used; answers are passages");
                (None, Some(error.to_string()))
            }
        };
        let prices = Prices {
            prompt: settings.price_per_million_prompt_tokens,
            completion: settings.price_per_million_completion_tokens,
        };
        Self { chat, trouble, prices }
    }

    /// `None` when none is configured that can be used.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.chat.as_ref().map(|chat| chat.endpoint())
    }

    /// `None` when no endpoint is configured; otherwise why it is not asked now, if it is not.
    pub fn state(&self) -> Option<Result<(), String>> {
        if let Some(trouble) = &self.trouble {
            return Some(Err(trouble.clone()));
        }
        Some(match self.chat.as_ref()?.endpoint().breaker().state() {
            BreakerState::Open { retry_in } => Err(format!("it failed too often; asked again in {retry_in:?}")),
            BreakerState::Closed | BreakerState::HalfOpen => Ok(()),
        })
    }
}

impl Service {
    /// Events of the answer; dropping the stream also ends the request to the model. What is wrong with the request
    /// itself, or keeps from searching, is an error before any event.
    pub async fn ask(&self, caller: &Caller, request: AskRequest) -> Result<Events, ServiceError> {
        if !caller.scopes.read {
            return Err(ServiceError::Forbidden("read"));
        }
        let settings = self.settings();
        let limit = request.limit.unwrap_or(settings.answer.passages);
        check_text("question", &request.question, settings.search.max_query_bytes)?;
        check_corpus(&request.corpus)?;
        check_limit("limit", limit, settings.search.max_limit)?;
        check_filter(&request.filter)?;
        let mode = self.mode_of(&caller.tenant, &request.corpus, request.mode).await?;
        let about = About { tenant: &caller.tenant, mode, limit, request: &request };
        if let Some(events) = self.remembered(&about).await {
            return Ok(Events::ready(events));
        }
        let found = self.search(caller, about.search()).await?;
        Ok(self.answered(&about, found))
    }
}

#[cfg(test)]
mod fixture {
    use super::*;

    /// Found by nothing yet.
    pub(super) fn passage(content: &str) -> Passage {
        Passage {
            chunk_id: Uuid::from_u128(1),
            doc_id: Uuid::from_u128(2),
            source: "manual/storage.html".to_owned(),
            title: None,
            heading: String::new(),
            content: content.to_owned(),
            metadata: serde_json::json!({}),
            position: 0,
            score: 0.0,
            cosine: None,
            bm25: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_its_name_and_one_line_of_data() {
        let token = AskEvent::Token { text: "a\nb".to_owned() };
        assert_eq!((token.name(), token.data().as_str()), ("token", r#"{"text":"a\nb"}"#));
        let done = AskEvent::Done(Done { answered: true, ..Done::default() });
        assert!(done.data().starts_with(r#"{"answered":true,"abstained":false"#), "{}", done.data());
        let error = AskEvent::Error { problem: AskProblem { slug: "x".into(), status: 502, detail: "y".into() } };
        assert_eq!(error.data(), r#"{"problem":{"slug":"x","status":502,"detail":"y"}}"#);
    }
}
