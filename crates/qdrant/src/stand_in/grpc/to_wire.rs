//! What the engine found, as messages.

use std::collections::HashMap;

use qdrant_client::qdrant::{self as wire, point_id, value, vector_output, vectors_output};
use qdrant_edge::{
    FacetValue, OrderValue, Payload, PointId, Record, ScoredPoint, VectorInternal, VectorStructInternal,
};
use serde_json::Value;

fn value(value: Value) -> wire::Value {
    use value::Kind;

    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(bool) => Kind::BoolValue(bool),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Kind::IntegerValue(integer),
            None => Kind::DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => {
            Kind::ListValue(wire::ListValue { values: values.into_iter().map(self::value).collect() })
        }
        Value::Object(fields) => Kind::StructValue(wire::Struct {
            fields: fields.into_iter().map(|(key, one)| (key, self::value(one))).collect(),
        }),
    };
    wire::Value { kind: Some(kind) }
}

fn payload(payload: Option<Payload>) -> HashMap<String, wire::Value> {
    payload.into_iter().flat_map(|payload| payload.0).map(|(key, one)| (key, value(one))).collect()
}

pub(super) fn point_id(id: PointId) -> wire::PointId {
    let options = match id {
        PointId::NumId(number) => point_id::PointIdOptions::Num(number),
        PointId::Uuid(uuid) => point_id::PointIdOptions::Uuid(uuid.to_string()),
    };
    wire::PointId { point_id_options: Some(options) }
}

fn vector(vector: VectorInternal) -> wire::VectorOutput {
    let vector = match vector {
        VectorInternal::Dense(data) => vector_output::Vector::Dense(wire::DenseVector { data }),
        VectorInternal::Sparse(sparse) => {
            vector_output::Vector::Sparse(wire::SparseVector { values: sparse.values, indices: sparse.indices })
        }
        VectorInternal::MultiDense(multi) => {
            let vectors = multi.into_multi_vectors().into_iter().map(|data| wire::DenseVector { data }).collect();
            vector_output::Vector::MultiDense(wire::MultiDenseVector { vectors })
        }
    };
    wire::VectorOutput { vector: Some(vector), ..Default::default() }
}

fn vectors(vectors: Option<VectorStructInternal>) -> Option<wire::VectorsOutput> {
    use vectors_output::VectorsOptions;

    let options = match vectors? {
        VectorStructInternal::Single(dense) => VectorsOptions::Vector(vector(VectorInternal::Dense(dense))),
        VectorStructInternal::MultiDense(multi) => VectorsOptions::Vector(vector(VectorInternal::MultiDense(multi))),
        VectorStructInternal::Named(named) => {
            let vectors = named.into_iter().map(|(name, one)| (name.clone(), vector(one))).collect();
            VectorsOptions::Vectors(wire::NamedVectorsOutput { vectors })
        }
    };
    Some(wire::VectorsOutput { vectors_options: Some(options) })
}

fn order_value(order: OrderValue) -> wire::OrderValue {
    use wire::order_value::Variant;

    let variant = match order {
        OrderValue::Int(number) => Variant::Int(number),
        OrderValue::Float(number) => Variant::Float(number),
    };
    wire::OrderValue { variant: Some(variant) }
}

pub(super) fn scored(point: ScoredPoint) -> wire::ScoredPoint {
    wire::ScoredPoint {
        id: Some(point_id(point.id)),
        payload: payload(point.payload),
        score: point.score,
        version: point.version,
        vectors: vectors(point.vector),
        shard_key: None,
        order_value: point.order_value.map(order_value),
    }
}

pub(super) fn retrieved(point: Record) -> wire::RetrievedPoint {
    wire::RetrievedPoint {
        id: Some(point_id(point.id)),
        payload: payload(point.payload),
        vectors: vectors(point.vector),
        ..Default::default()
    }
}

pub(super) fn facet_value(found: FacetValue) -> wire::FacetValue {
    use wire::facet_value::Variant;

    let variant = match found {
        FacetValue::Keyword(word) => Variant::StringValue(word),
        FacetValue::Int(number) => Variant::IntegerValue(number),
        FacetValue::Uuid(uuid) => Variant::StringValue(uuid::Uuid::from_u128(uuid).to_string()),
        FacetValue::Bool(bool) => Variant::BoolValue(bool),
    };
    wire::FacetValue { variant: Some(variant) }
}
