//! `/collections/{name}/points…`, `/index`, `/facet`.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use qdrant_edge::{
    CountRequest, CreateIndex, FacetRequest, FacetValue, FieldIndexOperations, Filter, JsonPath, Payload,
    PayloadFieldSchema, PayloadOps, PointId, PointInsertOperations, PointOperations, Record, ScoredPoint,
    ScrollRequest, SetPayloadOp, UpdateOperation, VectorStructInternal, WithPayloadInterface, WithVector,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Rest;
use super::answer::{body, loose_body};
use crate::stand_in::engine::query::{QueryRequest, vector_json};
use crate::stand_in::error::{Error, Result};

#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    #[serde(default)]
    wait: bool,
}

impl Rest {
    /// Applies an operation. Without `wait`, a refusal is not told: the server would not have looked yet.
    async fn update(
        &self,
        name: String,
        wait: &Wait,
        operation: impl FnOnce() -> Result<UpdateOperation> + Send + 'static,
    ) -> Response {
        let wait = wait.wait;
        self.answer(move |store| {
            let operation = operation()?;
            let number = match store.collection(&name)?.update(operation) {
                Ok(number) => number,
                Err(error) if wait => return Err(error),
                Err(_) => return Ok(json!({ "operation_id": null, "status": "acknowledged" })),
            };
            Ok(json!({ "operation_id": number, "status": if wait { "completed" } else { "acknowledged" } }))
        })
        .await
    }
}

fn refuse_keys(value: &Value, keys: &[&str]) -> Result<()> {
    match keys.iter().find(|key| value.get(**key).is_some_and(|value| !value.is_null())) {
        Some(key) => Err(Error::Unsupported(format!("`{key}`"))),
        None => Ok(()),
    }
}

pub(super) async fn upsert(
    State(rest): State<Rest>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    bytes: Bytes,
) -> Response {
    let operation = move || {
        let value: Value = body(&bytes)?;
        refuse_keys(&value, &["shard_key", "update_filter", "update_mode"])?;
        let points: PointInsertOperations =
            serde_json::from_value(value).map_err(|error| Error::Format(error.to_string()))?;
        Ok(UpdateOperation::PointOperation(PointOperations::UpsertPoints(points)))
    };
    rest.update(name, &wait, operation).await
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Selector {
    Points { points: Vec<PointId> },
    Filter { filter: Filter },
}

pub(super) async fn delete(
    State(rest): State<Rest>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    bytes: Bytes,
) -> Response {
    let operation = move || {
        Ok(UpdateOperation::PointOperation(match loose_body(&bytes)? {
            Selector::Points { points } => PointOperations::DeletePoints { ids: points },
            Selector::Filter { filter } => PointOperations::DeletePointsByFilter(filter),
        }))
    };
    rest.update(name, &wait, operation).await
}

#[derive(Debug, Deserialize)]
struct SetPayload {
    payload: Payload,
    points: Option<Vec<PointId>>,
    filter: Option<Filter>,
    key: Option<JsonPath>,
}

fn payload_operation(bytes: &[u8]) -> Result<SetPayloadOp> {
    let set: SetPayload = loose_body(bytes)?;
    if set.points.is_none() && set.filter.is_none() {
        return Err(Error::Format("either list of point ids or filter must be provided".to_owned()));
    }
    Ok(SetPayloadOp { payload: set.payload, points: set.points, filter: set.filter, key: set.key })
}

pub(super) async fn set_payload(
    State(rest): State<Rest>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    bytes: Bytes,
) -> Response {
    let operation = move || Ok(UpdateOperation::PayloadOperation(PayloadOps::SetPayload(payload_operation(&bytes)?)));
    rest.update(name, &wait, operation).await
}

pub(super) async fn overwrite_payload(
    State(rest): State<Rest>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    bytes: Bytes,
) -> Response {
    let operation =
        move || Ok(UpdateOperation::PayloadOperation(PayloadOps::OverwritePayload(payload_operation(&bytes)?)));
    rest.update(name, &wait, operation).await
}

pub(super) async fn create_index(
    State(rest): State<Rest>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    bytes: Bytes,
) -> Response {
    #[derive(Deserialize)]
    struct Index {
        field_name: JsonPath,
        field_schema: PayloadFieldSchema,
    }
    let operation = move || {
        let index: Index = loose_body(&bytes)?;
        let create = CreateIndex { field_name: index.field_name, field_schema: Some(index.field_schema) };
        Ok(UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(create)))
    };
    rest.update(name, &wait, operation).await
}

pub(super) async fn delete_index(
    State(rest): State<Rest>,
    Path((name, field)): Path<(String, String)>,
    Query(wait): Query<Wait>,
) -> Response {
    let operation = move || {
        let malformed = |()| Error::BadInput(format!("Malformed payload key: {field}"));
        let path = JsonPath::try_from(field.as_str()).map_err(malformed)?;
        Ok(UpdateOperation::FieldIndexOperation(FieldIndexOperations::DeleteIndex(path)))
    };
    rest.update(name, &wait, operation).await
}

fn record_json(record: Record) -> Value {
    with_parts(json!({ "id": record.id }), record.payload, record.vector, record.order_value)
}

fn scored_json(point: ScoredPoint) -> Value {
    let shown = json!({ "id": point.id, "version": point.version, "score": point.score });
    with_parts(shown, point.payload, point.vector, point.order_value)
}

/// A part that was not asked for is absent, not null.
fn with_parts(
    mut shown: Value,
    payload: Option<Payload>,
    vector: Option<VectorStructInternal>,
    order: Option<impl Serialize>,
) -> Value {
    if let Some(payload) = payload {
        shown["payload"] = json!(payload);
    }
    if let Some(vector) = vector {
        shown["vector"] = vector_json(vector);
    }
    if let Some(order) = order {
        shown["order_value"] = json!(order);
    }
    shown
}

pub(super) async fn retrieve(State(rest): State<Rest>, Path(name): Path<String>, bytes: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Wanted {
        ids: Vec<PointId>,
        with_payload: Option<WithPayloadInterface>,
        #[serde(alias = "with_vectors")]
        with_vector: Option<WithVector>,
    }
    rest.answer(move |store| {
        let wanted: Wanted = loose_body(&bytes)?;
        let (payload, vector) = (wanted.with_payload.unwrap_or(true.into()), wanted.with_vector.unwrap_or_default());
        let points = store.collection(&name)?.retrieve(&wanted.ids, payload, vector)?;
        Ok(points.into_iter().map(record_json).collect::<Vec<Value>>())
    })
    .await
}

pub(super) async fn one(State(rest): State<Rest>, Path((name, id)): Path<(String, String)>) -> Response {
    rest.answer(move |store| {
        let wanted: PointId = match id.parse() {
            Ok(number) => PointId::NumId(number),
            Err(_) => serde_json::from_value(json!(id)).map_err(|error| Error::BadInput(error.to_string()))?,
        };
        let points = store.collection(&name)?.retrieve(&[wanted], true.into(), WithVector::Bool(true))?;
        let missing = || Error::NotFound(format!("Point with id {wanted} does not exists!"));
        points.into_iter().next().map(record_json).ok_or_else(missing)
    })
    .await
}

pub(super) async fn scroll(State(rest): State<Rest>, Path(name): Path<String>, bytes: Bytes) -> Response {
    rest.answer(move |store| {
        let request: ScrollRequest = loose_body(&bytes)?;
        let (points, next) = store.collection(&name)?.scroll(request)?;
        let points: Vec<Value> = points.into_iter().map(record_json).collect();
        Ok(json!({ "points": points, "next_page_offset": next }))
    })
    .await
}

pub(super) async fn count(State(rest): State<Rest>, Path(name): Path<String>, bytes: Bytes) -> Response {
    rest.answer(move |store| {
        let request: CountRequest = loose_body(&bytes)?;
        Ok(json!({ "count": store.collection(&name)?.count(request)? }))
    })
    .await
}

pub(super) async fn query(State(rest): State<Rest>, Path(name): Path<String>, bytes: Bytes) -> Response {
    rest.answer(move |store| {
        let request: QueryRequest = loose_body(&bytes)?;
        let points = store.collection(&name)?.query(request)?;
        Ok(json!({ "points": points.into_iter().map(scored_json).collect::<Vec<Value>>() }))
    })
    .await
}

pub(super) async fn query_batch(State(rest): State<Rest>, Path(name): Path<String>, bytes: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Batch {
        searches: Vec<QueryRequest>,
    }
    rest.answer(move |store| {
        let batch: Batch = loose_body(&bytes)?;
        let collection = store.collection(&name)?;
        let answers = batch.searches.into_iter().map(|request| {
            let points = collection.query(request)?;
            Ok(json!({ "points": points.into_iter().map(scored_json).collect::<Vec<Value>>() }))
        });
        answers.collect::<Result<Vec<Value>>>()
    })
    .await
}

pub(super) async fn facet(State(rest): State<Rest>, Path(name): Path<String>, bytes: Bytes) -> Response {
    rest.answer(move |store| {
        let request: FacetRequest = loose_body(&bytes)?;
        let hits = store.collection(&name)?.facet(request)?.hits.into_iter().map(|hit| {
            let value = match hit.value {
                FacetValue::Keyword(word) => json!(word),
                FacetValue::Int(number) => json!(number),
                FacetValue::Uuid(uuid) => json!(uuid::Uuid::from_u128(uuid).to_string()),
                FacetValue::Bool(bool) => json!(bool),
            };
            json!({ "value": value, "count": hit.count })
        });
        Ok(json!({ "hits": hits.collect::<Vec<Value>>() }))
    })
    .await
}
