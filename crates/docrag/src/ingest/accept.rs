//! What a document must be to be accepted.

use crate::document::{MediaType, ParseError};
use crate::service::{Accepted, Caller, NewDocument, Outcome, ServiceError};
use crate::store::accept::Incoming;
use crate::store::{Store, StoreError};
use sha2::{Digest, Sha256};
use uuid::{Uuid, uuid};

/// Namespace of document ids.
const DOCUMENTS: Uuid = uuid!("5b0d4f9c-3c5e-5a43-9d0b-6b3b7a0d4c11");
const NAME_CHARACTERS: usize = 200;
const SOURCE_CHARACTERS: usize = 1_000;
const METADATA_BYTES: usize = 16 << 10;
/// How often to begin again when others write the same document at the same time.
const TRIES: usize = 5;

/// A name that people give: not empty, not long, one line.
pub(crate) fn check_name(what: &str, name: &str, longest: usize) -> Result<(), ServiceError> {
    let length = name.chars().count();
    if length == 0 || length > longest {
        return Err(ServiceError::Invalid(format!("{what} has {length} characters; it takes 1 to {longest}")));
    }
    if name.chars().any(char::is_control) {
        return Err(ServiceError::Invalid(format!("{what} has control characters; leave them out")));
    }
    Ok(())
}

/// The same tenant, corpus and source always make the same document. Names have no NUL, so the parts cannot run together.
pub(crate) fn document_id(tenant: &str, corpus: &str, source: &str) -> Uuid {
    Uuid::new_v5(&DOCUMENTS, format!("{tenant}\0{corpus}\0{source}").as_bytes())
}

/// Checks a document and stores it.
pub(crate) async fn accept(
    store: &Store,
    caller: &Caller,
    document: NewDocument,
    body_bytes: usize,
) -> Result<Accepted, ServiceError> {
    let tenant = caller.tenant.as_str();
    check_name("tenant", tenant, NAME_CHARACTERS)?;
    check_name("corpus", &document.corpus, NAME_CHARACTERS)?;
    check_name("source", &document.source, SOURCE_CHARACTERS)?;
    // A title that says nothing is none.
    let title = document.title.as_deref().map(str::trim).filter(|title| !title.is_empty());
    if let Some(title) = title {
        check_name("title", title, SOURCE_CHARACTERS)?;
    }
    if document.body.len() > body_bytes {
        return Err(ServiceError::TooLarge { limit: body_bytes });
    }
    let metadata = check_metadata(document.metadata)?;
    let media = MediaType::detect(document.media_type.as_deref(), &document.source, &document.body)
        .map_err(|error| ServiceError::Invalid(error.to_string()))?;
    if document.body.is_empty() {
        return Err(ServiceError::Invalid(ParseError::Empty.to_string()));
    }
    let (title, body) = (title.map(str::to_owned), document.body);
    let hashed = tokio::task::spawn_blocking(move || {
        let hash = content_hash(title.as_deref(), media, &body);
        (hash, title, body)
    });
    let (hash, title, body) = hashed.await.map_err(|panic| ServiceError::Internal(panic.to_string()))?;
    let id = document_id(tenant, &document.corpus, &document.source);
    let incoming = Incoming {
        id,
        tenant,
        corpus: &document.corpus,
        source: &document.source,
        title: title.as_deref(),
        media_type: media.as_str(),
        metadata: &metadata,
        content_hash: &hash,
        body: &body,
    };
    let (version, outcome) = store_it(store, caller, &incoming).await?;
    Ok(Accepted { id, version, outcome })
}

async fn store_it(store: &Store, caller: &Caller, incoming: &Incoming<'_>) -> Result<(i64, Outcome), StoreError> {
    for _ in 1..TRIES {
        match store.accept(caller, incoming).await {
            Err(StoreError::Changed) => {}
            result => return result,
        }
    }
    store.accept(caller, incoming).await
}

fn check_metadata(metadata: serde_json::Map<String, serde_json::Value>) -> Result<serde_json::Value, ServiceError> {
    let metadata = serde_json::Value::Object(metadata);
    let text = metadata.to_string();
    if text.len() > METADATA_BYTES {
        let size = text.len();
        return Err(ServiceError::Invalid(format!("metadata has {size} bytes as JSON; it takes {METADATA_BYTES}")));
    }
    match unkeepable(&metadata) {
        Some(what) => Err(ServiceError::Invalid(format!("metadata has {what}; leave it out"))),
        None => Ok(metadata),
    }
}

/// What JSON can say and Postgres cannot keep, or not give back: NUL, and numbers at the edge of what a double holds, which
/// come back with all their digits and are read as infinite.
fn unkeepable(value: &serde_json::Value) -> Option<&'static str> {
    use serde_json::Value;
    const LARGEST: f64 = 1e300;
    let nul = |text: &str| text.contains('\0').then_some("a NUL character");
    match value {
        Value::String(text) => nul(text),
        Value::Number(number) => {
            number.as_f64().is_none_or(|number| number.abs() > LARGEST).then_some("a number beyond 1e300")
        }
        Value::Array(values) => values.iter().find_map(unkeepable),
        Value::Object(map) => map.iter().find_map(|(key, value)| nul(key).or_else(|| unkeepable(value))),
        Value::Null | Value::Bool(_) => None,
    }
}

/// Of everything that the chunks are made from. Lengths go before the parts, so that they cannot run together.
fn content_hash(title: Option<&str>, media: MediaType, body: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update([u8::from(title.is_some())]);
    for part in [title.unwrap_or_default().as_bytes(), media.as_str().as_bytes(), body] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_different_tenants_corpora_and_sources_have_different_ids() {
        let id = document_id("a", "b", "c");
        assert_eq!(id, document_id("a", "b", "c"));
        for other in [("ab", "", "c"), ("a", "bc", ""), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x")] {
            assert_ne!(id, document_id(other.0, other.1, other.2), "{other:?}");
        }
    }

    #[test]
    fn a_content_is_another_one_when_its_title_its_format_or_its_body_changes() {
        let hash = content_hash(None, MediaType::Text, b"body");
        assert_eq!(hash, content_hash(None, MediaType::Text, b"body"));
        assert_ne!(hash, content_hash(Some(""), MediaType::Text, b"body"));
        assert_ne!(hash, content_hash(None, MediaType::Markdown, b"body"));
        assert_ne!(hash, content_hash(None, MediaType::Text, b"body "));
    }

    #[test]
    fn names_are_one_line_of_some_characters() {
        check_name("source", &"ü".repeat(1_000), 1_000).unwrap();
        for wrong in [String::new(), "a\0b".to_owned(), "a\nb".to_owned(), "x".repeat(1_001)] {
            let error = check_name("source", &wrong, 1_000).unwrap_err().to_string();
            assert!(error.contains("source"), "{error}");
        }
    }

    #[test]
    fn metadata_that_postgres_cannot_keep_is_refused() {
        let map = |value: serde_json::Value| value.as_object().unwrap().clone();
        assert!(check_metadata(map(serde_json::json!({"a": [{"b": "x\0y"}]}))).is_err());
        assert!(check_metadata(map(serde_json::json!({"a": "x".repeat(METADATA_BYTES)}))).is_err());
        assert!(check_metadata(map(serde_json::json!({"a": {"b": -1.797e308}}))).is_err());
        assert!(check_metadata(map(serde_json::json!({"a": 1e300, "b": u64::MAX}))).is_ok());
        assert!(check_metadata(map(serde_json::json!({"a": [1, null, "x"]}))).is_ok());
    }
}
