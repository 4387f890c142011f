//! What a request may ask for. Nothing of it becomes SQL or query syntax; what is refused here is refused because it
//! cannot mean anything, or would cost more than one search may.

use super::{SearchFilter, SearchRequest};
use crate::service::ServiceError;
use crate::settings::SearchSettings;
use serde_json::Value;

const LONGEST_CORPUS: usize = 200;
const MOST_METADATA_KEYS: usize = 20;
const LONGEST_METADATA_KEY: usize = 200;
const LONGEST_METADATA_VALUE: usize = 1_000;
const MOST_DOCUMENTS: usize = 1_000;

pub(super) fn check(request: &SearchRequest, settings: &SearchSettings) -> Result<(), ServiceError> {
    check_text("query", &request.query, settings.max_query_bytes)?;
    check_corpus(&request.corpus)?;
    check_limit("limit", request.limit, settings.max_limit)?;
    check_filter(&request.filter)
}

/// A query or a question.
pub(crate) fn check_text(name: &str, text: &str, most: usize) -> Result<(), ServiceError> {
    if text.len() > most {
        return invalid(format!("{name}: {} bytes, and {most} are allowed", text.len()));
    }
    if !text.chars().any(|c| !c.is_whitespace() && !c.is_control()) {
        return invalid(format!("{name}: is empty"));
    }
    Ok(())
}

pub(crate) fn check_corpus(corpus: &str) -> Result<(), ServiceError> {
    let length = corpus.chars().count();
    if length == 0 || length > LONGEST_CORPUS || corpus.chars().any(char::is_control) {
        return invalid(format!("corpus: is 1 to {LONGEST_CORPUS} characters, without control characters"));
    }
    Ok(())
}

pub(crate) fn check_limit(name: &str, limit: usize, most: usize) -> Result<(), ServiceError> {
    if limit == 0 || limit > most {
        return invalid(format!("{name}: is 1 to {most}, not {limit}"));
    }
    Ok(())
}

pub(crate) fn check_filter(filter: &SearchFilter) -> Result<(), ServiceError> {
    if filter.documents.len() > MOST_DOCUMENTS {
        return invalid(format!("filter.documents: at most {MOST_DOCUMENTS}"));
    }
    if filter.metadata.len() > MOST_METADATA_KEYS {
        return invalid(format!("filter.metadata: at most {MOST_METADATA_KEYS} keys"));
    }
    for (key, value) in &filter.metadata {
        // Postgres cannot store a zero character, so no document has one.
        if key.is_empty() || key.chars().count() > LONGEST_METADATA_KEY || key.contains('\0') {
            return invalid(format!("filter.metadata: a key is 1 to {LONGEST_METADATA_KEY} characters"));
        }
        let meant = match value {
            Value::String(text) => text.chars().count() <= LONGEST_METADATA_VALUE && !text.contains('\0'),
            Value::Number(_) | Value::Bool(_) => true,
            // Containment of lists and objects would not be equality.
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
        if !meant {
            return invalid(format!(
                "filter.metadata: the value is a text of at most {LONGEST_METADATA_VALUE} characters, a number, true or false"
            ));
        }
    }
    Ok(())
}

fn invalid(what: String) -> Result<(), ServiceError> {
    Err(ServiceError::Invalid(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn checked(change: &serde_json::Value) -> Result<(), String> {
        let mut request = json!({"query": "how large are pages?"});
        request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let request: SearchRequest = serde_json::from_value(request).map_err(|error| error.to_string())?;
        check(&request, &SearchSettings::default()).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case(json!({"query": ""}), "query")]
    #[case(json!({"query": " \n\u{0}\t"}), "query")]
    #[case(json!({"query": "x".repeat(9_000)}), "8192")]
    #[case(json!({"corpus": ""}), "corpus")]
    #[case(json!({"corpus": "a\u{0}b"}), "corpus")]
    #[case(json!({"corpus": "c".repeat(201)}), "200")]
    #[case(json!({"limit": 0}), "limit")]
    #[case(json!({"limit": 101}), "100")]
    #[case(json!({"limit": -1}), "invalid value")]
    #[case(json!({"mode": "semantic"}), "hybrid")]
    #[case(json!({"tenant": "someone else"}), "unknown field")]
    #[case(json!({"filter": {"tenant": "someone else"}}), "unknown field")]
    #[case(json!({"filter": {"metadata": {"a": {"$ne": 1}}}}), "filter.metadata")]
    #[case(json!({"filter": {"metadata": {"a": ["x"]}}}), "filter.metadata")]
    #[case(json!({"filter": {"metadata": {"a": null}}}), "filter.metadata")]
    #[case(json!({"filter": {"metadata": {"a": "\u{0}"}}}), "filter.metadata")]
    #[case(json!({"filter": {"metadata": {"": 1}}}), "key")]
    #[case(json!({"filter": {"documents": ["' OR true --"]}}), "UUID")]
    fn what_cannot_be_meant_is_refused_by_name(#[case] change: serde_json::Value, #[case] named: &str) {
        let error = checked(&change).unwrap_err();
        assert!(error.contains(named), "{error}");
    }

    #[test]
    fn ordinary_requests_and_odd_texts_pass() {
        for change in [
            json!({}),
            json!({"query": "'; DROP TABLE vectors; --", "limit": 100, "mode": "lexical"}),
            json!({"corpus": "Handbücher 2024", "filter": {"metadata": {"a'b": "x\" OR 1=1", "year": 2024, "live": true}}}),
        ] {
            checked(&change).unwrap();
        }
    }
}
