//! What goes to Qdrant and comes from it.

use crate::index::{Allowed, Held, Hit, IndexError, Point, Scope};
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::{
    Condition, Filter, PayloadIncludeSelector, PointId, PointStruct, RetrievedPoint, ScoredPoint, Value,
};
use qdrant_client::{Payload, QdrantError};
use std::fmt::Write as _;
use uuid::Uuid;

pub(super) const TENANT: &str = "tenant";
pub(super) const CORPUS: &str = "corpus";
pub(super) const DOC_ID: &str = "doc_id";
pub(super) const CHUNK_HASH: &str = "chunk_hash";
const MODEL_FINGERPRINT: &str = "model_fingerprint";
const GENERATION: &str = "generation";

/// Documents in one filter: 400 kB on the wire.
const MOST_DOCUMENTS: usize = 10_000;

pub(super) fn point(point: Point) -> PointStruct {
    let mut payload = Payload::new();
    payload.insert(DOC_ID, point.doc_id.to_string());
    payload.insert(TENANT, point.tenant);
    payload.insert(CORPUS, point.corpus);
    payload.insert(CHUNK_HASH, hex(&point.chunk_hash));
    payload.insert(MODEL_FINGERPRINT, point.model_fingerprint);
    payload.insert(GENERATION, point.generation);
    PointStruct::new(point_id(point.id), point.vector, payload)
}

pub(super) fn point_id(id: Uuid) -> PointId {
    id.to_string().into()
}

pub(super) fn filter(scope: &Scope, allowed: &Allowed) -> Result<Filter, IndexError> {
    let mut must =
        vec![Condition::matches(TENANT, scope.tenant.clone()), Condition::matches(CORPUS, scope.corpus.clone())];
    if let Some(documents) = allowed {
        if documents.len() > MOST_DOCUMENTS {
            return Err(IndexError::FilterTooWide { index: "qdrant", limit: MOST_DOCUMENTS });
        }
        must.push(Condition::matches(DOC_ID, documents.iter().map(Uuid::to_string).collect::<Vec<String>>()));
    }
    Ok(Filter::must(must))
}

pub(super) fn of_tenant(tenant: &str) -> Filter {
    Filter::must([Condition::matches(TENANT, tenant.to_owned())])
}

/// Of the payload.
pub(super) fn only(field: &str) -> PayloadIncludeSelector {
    PayloadIncludeSelector { fields: vec![field.to_owned()] }
}

/// Nothing for a point that is not ours.
pub(super) fn hit(found: &ScoredPoint) -> Option<Hit> {
    let doc_id = text(found.payload.get(DOC_ID)?)?.parse().ok()?;
    Some(Hit { id: uuid(found.id.as_ref()?)?, doc_id, score: found.score })
}

/// Without a readable hash the hash is empty, which differs from every true one.
pub(super) fn held(found: &RetrievedPoint) -> Option<Held> {
    let hash = found.payload.get(CHUNK_HASH).and_then(text).and_then(bytes).unwrap_or_default();
    Some(Held { id: uuid(found.id.as_ref()?)?, chunk_hash: hash })
}

fn uuid(id: &PointId) -> Option<Uuid> {
    match id.point_id_options.as_ref()? {
        PointIdOptions::Uuid(id) => id.parse().ok(),
        PointIdOptions::Num(_) => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Codes of gRPC: <https://grpc.io/docs/guides/status-codes/>.
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// Whether Qdrant did not answer, or said no; and what to do about a no.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn failed(error: QdrantError) -> IndexError {
    let (QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. }) = &error else {
        return refused(error.to_string());
    };
    let said = status.message();
    match i32::from(status.code()) {
        // The client's own word for a connection that could not be made is "internal".
        code::INTERNAL if !said.starts_with("Failed to connect") => refused(said.to_owned()),
        code::INTERNAL
        | code::CANCELLED
        | code::UNKNOWN
        | code::DEADLINE_EXCEEDED
        | code::RESOURCE_EXHAUSTED
        | code::UNAVAILABLE => IndexError::Unreachable { index: "qdrant", cause: said.to_owned() },
        code::UNAUTHENTICATED | code::PERMISSION_DENIED => {
            refused(format!("{said}; set QDRANT_API_KEY (index.qdrant.api_key) to a key that may write"))
        }
        code::NOT_FOUND => refused(format!("{said}; `docrag reindex` makes it anew from Postgres")),
        _ => refused(said.to_owned()),
    }
}

pub(super) fn refused(cause: String) -> IndexError {
    IndexError::Refused { index: "qdrant", cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_survive_the_way_there_and_back() {
        let hash: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(&hex(&hash)), Some(hash));
        assert_eq!((bytes("0g"), bytes("abc")), (None, None));
    }

    #[test]
    fn a_filter_of_too_many_documents_is_refused_before_it_is_sent() {
        let scope = Scope { tenant: "t".to_owned(), corpus: "c".to_owned() };
        let documents =
            |count: u128| -> Allowed { Some(std::sync::Arc::new((0..count).map(Uuid::from_u128).collect())) };
        assert_eq!(filter(&scope, &documents(10_000)).unwrap().must.len(), 3);
        assert!(matches!(filter(&scope, &documents(10_001)), Err(IndexError::FilterTooWide { limit: 10_000, .. })));
    }
}
