//! Answers kept in Redis.
//!
//! The key holds everything that an answer depends on, the state of the index and the model included, so an answer is
//! never given for another state. Kept are whole answers of the model that cite something; never errors, quotes,
//! answers that were cut, or those from a search that did less than it should. Before an answer is given again, its
//! passages are read again: metadata changes do not move the index, and a document may be deleted before the index
//! has followed.

use super::flow::About;
use super::{AskEvent, Citation, Done, NumberedPassage};
use crate::search::Passage;
use crate::service::{ModelState, Service};
use crate::store::passages::StoredPassage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write;
use uuid::Uuid;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) passages: Vec<NumberedPassage>,
    pub(super) text: String,
    pub(super) citations: Vec<Citation>,
    pub(super) done: Done,
}

impl Service {
    /// The answer to the same question, as long as nothing has changed.
    pub(super) async fn remembered(&self, about: &About<'_>) -> Option<Vec<AskEvent>> {
        let model = self.answers().chat.as_ref()?.model();
        if !self.cache().is_there() || !matches!(self.model_state(), ModelState::Serving { .. }) {
            return None;
        }
        let key = about.key(model, &self.index_version(about.tenant));
        let kept = self.cache().answer(&key).await;
        let kept = kept.and_then(|kept| serde_json::from_str::<Remembered>(&kept).ok());
        let kept = match kept {
            Some(kept) if self.is_still_so(about.tenant, &kept.passages).await => Some(kept),
            _ => None,
        };
        self.metrics().cache("answer", kept.is_some());
        kept.map(Remembered::into_events)
    }

    async fn is_still_so(&self, tenant: &str, passages: &[NumberedPassage]) -> bool {
        let ids: Vec<Uuid> = passages.iter().map(|numbered| numbered.passage.chunk_id).collect();
        let Ok(rows) = self.store().passages(tenant, &ids).await else { return false };
        let rows: HashMap<Uuid, StoredPassage> = rows.into_iter().map(|row| (row.chunk_id, row)).collect();
        passages.iter().all(|numbered| {
            let kept = &numbered.passage;
            rows.get(&kept.chunk_id).is_some_and(|row| same(kept, row))
        })
    }
}

fn same(kept: &Passage, row: &StoredPassage) -> bool {
    (&kept.content, &kept.metadata, &kept.title, &kept.source) == (&row.content, &row.metadata, &row.title, &row.source)
}

impl Remembered {
    fn into_events(self) -> Vec<AskEvent> {
        let Self { passages, text, citations, done } = self;
        // Nothing was spent this time.
        let done = Done { cached: true, prompt_tokens: 0, completion_tokens: 0, cost: 0.0, estimated: false, ..done };
        let mut events = vec![AskEvent::Passages { passages }, AskEvent::Token { text }];
        events.extend(citations.into_iter().map(AskEvent::Citation));
        events.push(AskEvent::Done(done));
        events
    }
}

impl About<'_> {
    /// A hash over each part with its length, so that no two requests run together.
    pub(super) fn key(&self, model: &str, index_version: &str) -> String {
        let mut hash = Sha256::new();
        let mode = self.mode.as_str();
        let mut filter = self.request.filter.clone();
        filter.documents.sort_unstable();
        filter.documents.dedup();
        let filter = serde_json::to_string(&filter).unwrap_or_default();
        let question = normalised(&self.request.question);
        let limit = self.limit.to_string();
        for part in [self.tenant, &self.request.corpus, mode, &limit, &filter, &question, model, index_version] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Questions that differ in blanks and capitals only are the same.
fn normalised(question: &str) -> String {
    question.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::AskRequest;
    use super::*;
    use crate::search::SearchMode;
    use serde_json::json;

    fn key(tenant: &str, mode: SearchMode, request: serde_json::Value, index_version: &str) -> String {
        let request: AskRequest = serde_json::from_value(request).unwrap();
        About { tenant, mode, limit: 6, request: &request }.key("model", index_version)
    }

    #[test]
    fn only_the_same_question_about_the_same_state_has_the_same_key() {
        let of = |tenant, request| key(tenant, SearchMode::Hybrid, request, "1.2");
        let known = of("a", json!({"question": "How large is a page?"}));
        assert_eq!(known, of("a", json!({"question": " how  LARGE is\na page? "})));
        let others = [
            of("b", json!({"question": "How large is a page?"})),
            of("a", json!({"question": "How large is a table?"})),
            of("a", json!({"question": "How large is a page?", "corpus": "other"})),
            of("a", json!({"question": "How large is a page?", "filter": {"metadata": {"year": 2024}}})),
            key("a", SearchMode::Dense, json!({"question": "How large is a page?"}), "1.2"),
            key("a", SearchMode::Hybrid, json!({"question": "How large is a page?"}), "1.3"),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(&known, other, "{at}");
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        let of = |tenant, corpus| key(tenant, SearchMode::Hybrid, json!({"question": "q", "corpus": corpus}), "1");
        assert_ne!(of("ab", "c"), of("a", "bc"));
    }
}
