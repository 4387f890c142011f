//! What a client sent, in the engine's forms.

use std::collections::HashMap;

use qdrant_client::qdrant::{
    self as wire, point_id, points_selector, value, with_payload_selector, with_vectors_selector,
};
use qdrant_edge::{
    JsonPath, Payload, PointId, PointStructPersisted, SearchParams, SparseVector, Vector, VectorInternal,
    VectorPersisted, VectorStructPersisted, WithPayloadInterface, WithVector,
};
use serde_json::{Map, Value, json};

use super::filter::filter;
use crate::stand_in::engine::query::{Query, QueryRequest, Target};
use crate::stand_in::error::{Error, Result};

pub(super) fn json(value: wire::Value) -> Value {
    use value::Kind;

    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::DoubleValue(number)) => json!(number),
        Some(Kind::IntegerValue(number)) => json!(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::BoolValue(bool)) => Value::Bool(bool),
        Some(Kind::StructValue(fields)) => Value::Object(object(fields.fields)),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(json).collect()),
    }
}

fn object(fields: HashMap<String, wire::Value>) -> Map<String, Value> {
    fields.into_iter().map(|(key, value)| (key, json(value))).collect()
}

pub(super) fn payload(fields: HashMap<String, wire::Value>) -> Payload {
    Payload(object(fields))
}

pub(super) fn point_id(id: Option<wire::PointId>) -> Result<PointId> {
    match id.and_then(|id| id.point_id_options) {
        Some(point_id::PointIdOptions::Num(number)) => Ok(PointId::NumId(number)),
        Some(point_id::PointIdOptions::Uuid(text)) => match uuid::Uuid::parse_str(&text) {
            Ok(uuid) => Ok(PointId::Uuid(uuid)),
            Err(_) => Err(Error::BadInput(format!("Unable to parse UUID: {text}"))),
        },
        None => Err(Error::BadInput("No ID options provided".to_owned())),
    }
}

pub(super) fn point_ids(ids: Vec<wire::PointId>) -> Result<Vec<PointId>> {
    ids.into_iter().map(|id| point_id(Some(id))).collect()
}

pub(super) fn path(text: &str) -> Result<JsonPath> {
    JsonPath::try_from(text).map_err(|()| Error::BadInput(format!("Malformed payload key: {text}")))
}

/// Which points an update means.
pub(super) enum Selected {
    Ids(Vec<PointId>),
    Filter(qdrant_edge::Filter),
}

pub(super) fn selected(selector: Option<wire::PointsSelector>) -> Result<Selected> {
    use points_selector::PointsSelectorOneOf;

    match selector.and_then(|selector| selector.points_selector_one_of) {
        Some(PointsSelectorOneOf::Points(list)) => Ok(Selected::Ids(point_ids(list.ids)?)),
        Some(PointsSelectorOneOf::Filter(wanted)) => Ok(Selected::Filter(filter(wanted)?)),
        None => Err(Error::BadInput("PointsSelector is missing".to_owned())),
    }
}

pub(super) fn with_payload(selector: Option<wire::WithPayloadSelector>) -> Result<WithPayloadInterface> {
    use with_payload_selector::SelectorOptions;

    let selector = match selector.and_then(|selector| selector.selector_options) {
        None => return Ok(WithPayloadInterface::Bool(false)),
        Some(SelectorOptions::Enable(enable)) => return Ok(WithPayloadInterface::Bool(enable)),
        Some(SelectorOptions::Include(include)) => json!({ "include": include.fields }),
        Some(SelectorOptions::Exclude(exclude)) => json!({ "exclude": exclude.fields }),
    };
    serde_json::from_value(selector).map_err(|error| Error::BadInput(error.to_string()))
}

pub(super) fn with_vector(selector: Option<wire::WithVectorsSelector>) -> WithVector {
    use with_vectors_selector::SelectorOptions;

    match selector.and_then(|selector| selector.selector_options) {
        None => WithVector::Bool(false),
        Some(SelectorOptions::Enable(enable)) => WithVector::Bool(enable),
        Some(SelectorOptions::Include(names)) => WithVector::Selector(names.names.into_iter().collect()),
    }
}

pub(super) fn point(point: wire::PointStruct) -> Result<PointStructPersisted> {
    use wire::vectors::VectorsOptions;

    let vector = match point.vectors.and_then(|vectors| vectors.vectors_options) {
        None => return Err(Error::BadInput("Expected some vectors".to_owned())),
        Some(VectorsOptions::Vector(one)) => match vector(one)? {
            VectorInternal::Dense(dense) => VectorStructPersisted::Single(dense),
            VectorInternal::MultiDense(multi) => VectorStructPersisted::MultiDense(multi.into_multi_vectors()),
            VectorInternal::Sparse(_) => return Err(Error::BadInput("Sparse vector must be named".to_owned())),
        },
        Some(VectorsOptions::Vectors(named)) => {
            let named = named.vectors.into_iter().map(|(name, one)| Ok((name, VectorPersisted::from(vector(one)?))));
            VectorStructPersisted::Named(named.collect::<Result<_>>()?)
        }
    };
    Ok(PointStructPersisted { id: point_id(point.id)?, vector, payload: Some(payload(point.payload)) })
}

fn sparse(sparse: wire::SparseVector) -> Result<VectorInternal> {
    let sparse =
        SparseVector::new(sparse.indices, sparse.values).map_err(|error| Error::BadInput(error.to_string()))?;
    Ok(VectorInternal::Sparse(sparse))
}

fn multi(multi: wire::MultiDenseVector) -> Result<VectorInternal> {
    let rows: Vec<Vec<f32>> = multi.vectors.into_iter().map(|row| row.data).collect();
    Ok(Vector::new_multi(rows)?.0)
}

fn vector(vector: wire::Vector) -> Result<VectorInternal> {
    use wire::vector::Vector as Kind;

    match vector.vector {
        Some(Kind::Dense(dense)) => Ok(VectorInternal::Dense(dense.data)),
        Some(Kind::Sparse(given)) => sparse(given),
        Some(Kind::MultiDense(given)) => multi(given),
        Some(_) => Err(Error::Unsupported("inference".to_owned())),
        None => {
            // How clients before 1.11 sent them.
            #[expect(deprecated, reason = "older clients use these fields")]
            let (data, indices) = (vector.data, vector.indices);
            match indices {
                Some(indices) => sparse(wire::SparseVector { values: data, indices: indices.data }),
                None => Ok(VectorInternal::Dense(data)),
            }
        }
    }
}

fn target(input: wire::VectorInput) -> Result<Target> {
    use wire::vector_input::Variant;

    Ok(match input.variant {
        Some(Variant::Id(id)) => Target::Point(point_id(Some(id))?),
        Some(Variant::Dense(dense)) => Target::Vector(VectorInternal::Dense(dense.data)),
        Some(Variant::Sparse(given)) => Target::Vector(sparse(given)?),
        Some(Variant::MultiDense(given)) => Target::Vector(multi(given)?),
        Some(_) => return Err(Error::Unsupported("inference".to_owned())),
        None => return Err(Error::BadInput("VectorInput variant is missing".to_owned())),
    })
}

fn query_kind(query: wire::Query) -> Result<Query> {
    use wire::query::Variant;

    match query.variant {
        Some(Variant::Nearest(input)) => Ok(Query::Nearest(target(input)?)),
        Some(Variant::Fusion(0)) => Ok(Query::rrf(None)),
        Some(Variant::Fusion(1)) => Ok(Query::Fusion(qdrant_edge::Fusion::Dbsf)),
        Some(Variant::Rrf(rrf)) if rrf.weights.is_empty() => Ok(Query::rrf(rrf.k.map(|k| k as usize))),
        Some(Variant::Sample(_)) => Ok(Query::Sample),
        Some(Variant::OrderBy(order)) if order.start_from.is_none() => Ok(Query::OrderBy(order_by(&order)?)),
        _ => Err(Error::Unsupported("this kind of query".to_owned())),
    }
}

pub(super) fn order_by(order: &wire::OrderBy) -> Result<qdrant_edge::OrderByInterface> {
    let direction = if order.direction == Some(1) { "desc" } else { "asc" };
    let order = json!({ "key": order.key, "direction": direction });
    serde_json::from_value(order).map_err(|error| Error::BadInput(error.to_string()))
}

fn search_params(params: &wire::SearchParams) -> Result<SearchParams> {
    if params.quantization.is_some() || params.acorn.is_some() || params.idf.is_some() {
        return Err(Error::Unsupported("`quantization`, `acorn` and `idf` search params".to_owned()));
    }
    Ok(SearchParams {
        hnsw_ef: params.hnsw_ef.map(|ef| ef as usize),
        exact: params.exact.unwrap_or(false),
        quantization: None,
        indexed_only: params.indexed_only.unwrap_or(false),
        acorn: None,
    })
}

pub(super) fn query(request: wire::QueryPoints) -> Result<QueryRequest> {
    let stage = wire::PrefetchQuery {
        prefetch: request.prefetch,
        query: request.query,
        using: request.using,
        filter: request.filter,
        params: request.params,
        score_threshold: request.score_threshold,
        limit: request.limit,
        lookup_from: request.lookup_from,
    };
    Ok(QueryRequest {
        offset: request.offset.map(|offset| offset as usize),
        with_vector: Some(with_vector(request.with_vectors)),
        with_payload: Some(with_payload(request.with_payload)?),
        ..self::stage(stage)?
    })
}

fn stage(stage: wire::PrefetchQuery) -> Result<QueryRequest> {
    if stage.lookup_from.is_some() {
        return Err(Error::Unsupported("`lookup_from`".to_owned()));
    }
    Ok(QueryRequest {
        prefetch: stage.prefetch.into_iter().map(self::stage).collect::<Result<_>>()?,
        query: stage.query.map(query_kind).transpose()?,
        using: stage.using,
        filter: stage.filter.map(filter).transpose()?,
        params: stage.params.as_ref().map(search_params).transpose()?,
        score_threshold: stage.score_threshold,
        limit: stage.limit.map(|limit| limit as usize),
        ..QueryRequest::default()
    })
}
