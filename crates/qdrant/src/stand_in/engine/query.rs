//! `POST …/points/query`, and what gRPC says for it, in one form.

use qdrant_edge::external::ordered_float::OrderedFloat;
use qdrant_edge::{
    DEFAULT_VECTOR_NAME, EdgeShard, Filter, Fusion, NamedQuery, OrderByInterface, PointId, Prefetch, QueryEnum, Sample,
    ScoringQuery, SearchParams, SparseVector, Vector, VectorInternal, VectorStructInternal, WithPayloadInterface,
    WithVector,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::stand_in::error::{Error, Result};

const LIMIT: usize = 10;
/// Reciprocal rank fusion's constant in Qdrant.
const RRF_K: usize = 2;

#[derive(Debug)]
pub(crate) enum Target {
    Point(PointId),
    Vector(VectorInternal),
}

#[derive(Debug)]
pub(crate) enum Query {
    Nearest(Target),
    Fusion(Fusion),
    OrderBy(OrderByInterface),
    Sample,
}

/// A query, or a stage that another one draws from.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct QueryRequest {
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) prefetch: Vec<QueryRequest>,
    #[serde(default, deserialize_with = "query")]
    pub(crate) query: Option<Query>,
    pub(crate) using: Option<String>,
    pub(crate) filter: Option<Filter>,
    pub(crate) params: Option<SearchParams>,
    pub(crate) score_threshold: Option<f32>,
    pub(crate) limit: Option<usize>,
    pub(crate) offset: Option<usize>,
    #[serde(alias = "with_vectors")]
    pub(crate) with_vector: Option<WithVector>,
    pub(crate) with_payload: Option<WithPayloadInterface>,
    pub(crate) lookup_from: Option<Value>,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<QueryRequest>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(Box<QueryRequest>),
        Many(Vec<QueryRequest>),
    }
    Ok(match Option::<OneOrMany>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(OneOrMany::One(one)) => vec![*one],
        Some(OneOrMany::Many(many)) => many,
    })
}

fn query<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Query>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    value.map(|value| Query::parse(&value).map_err(serde::de::Error::custom)).transpose()
}

impl Query {
    pub(crate) fn rrf(k: Option<usize>) -> Self {
        Self::Fusion(Fusion::Rrf { k: k.unwrap_or(RRF_K), weights: None })
    }

    fn parse(value: &Value) -> Result<Self> {
        let Some(object) = value.as_object().filter(|object| !object.contains_key("indices")) else {
            return Ok(Self::Nearest(Target::parse(value)?));
        };
        let format = |error: serde_json::Error| Error::Format(error.to_string());
        match object.iter().next() {
            Some((kind, value)) if object.len() == 1 => match kind.as_str() {
                "nearest" => Ok(Self::Nearest(Target::parse(value)?)),
                "fusion" if value == "rrf" => Ok(Self::rrf(None)),
                "fusion" if value == "dbsf" => Ok(Self::Fusion(Fusion::Dbsf)),
                "order_by" => serde_json::from_value(value.clone()).map(Self::OrderBy).map_err(format),
                "sample" if value == "random" => Ok(Self::Sample),
                other => Err(Error::Unsupported(format!("the query `{other}`"))),
            },
            _ => Err(Error::Unsupported(format!("the query {value}"))),
        }
    }
}

impl Target {
    fn parse(value: &Value) -> Result<Self> {
        let format = |error: serde_json::Error| Error::Format(error.to_string());
        match value {
            Value::Array(rows) if rows.first().is_some_and(Value::is_array) => {
                let rows: Vec<Vec<f32>> = serde_json::from_value(value.clone()).map_err(format)?;
                Ok(Self::Vector(Vector::new_multi(rows)?.0))
            }
            Value::Array(_) => {
                serde_json::from_value(value.clone()).map(VectorInternal::Dense).map(Self::Vector).map_err(format)
            }
            Value::Object(_) => {
                let sparse: SparseVector = serde_json::from_value(value.clone()).map_err(format)?;
                Ok(Self::Vector(VectorInternal::Sparse(sparse)))
            }
            _ => serde_json::from_value(value.clone()).map(Self::Point).map_err(format),
        }
    }
}

impl QueryRequest {
    /// Puts vectors in the place of point ids, and gives the engine's form.
    pub(crate) fn resolve(self, shard: &EdgeShard) -> Result<qdrant_edge::QueryRequest> {
        let stage = self.stage(shard)?;
        Ok(qdrant_edge::QueryRequest {
            prefetches: stage.prefetches,
            query: stage.query,
            filter: stage.filter,
            score_threshold: stage.score_threshold,
            limit: stage.limit,
            offset: stage.offset,
            params: stage.params,
            with_vector: stage.with_vector,
            with_payload: stage.with_payload,
        })
    }

    fn stage(self, shard: &EdgeShard) -> Result<Stage> {
        if self.lookup_from.is_some() {
            return Err(Error::Unsupported("`lookup_from`".to_owned()));
        }
        let mut prefetches = Vec::new();
        for prefetch in self.prefetch {
            let stage = prefetch.stage(shard)?;
            prefetches.push(Prefetch {
                prefetches: stage.prefetches,
                query: stage.query,
                limit: stage.limit,
                params: stage.params,
                filter: stage.filter,
                score_threshold: stage.score_threshold,
            });
        }
        let mut filter = self.filter;
        let query = match self.query {
            None => None,
            Some(Query::Fusion(fusion)) => Some(ScoringQuery::Fusion(fusion)),
            Some(Query::OrderBy(order)) => Some(ScoringQuery::OrderBy(order.into())),
            Some(Query::Sample) => Some(ScoringQuery::Sample(Sample::Random)),
            Some(Query::Nearest(Target::Vector(vector))) => Some(nearest(vector, self.using)),
            Some(Query::Nearest(Target::Point(id))) => {
                let vector = vector_of(shard, id, self.using.as_deref().unwrap_or(DEFAULT_VECTOR_NAME))?;
                filter = Some(all_but(id, filter)?);
                Some(nearest(vector, self.using))
            }
        };
        if matches!(query, Some(ScoringQuery::Fusion(_))) && prefetches.is_empty() {
            return Err(Error::BadInput("cannot apply Fusion without prefetches".to_owned()));
        }
        Ok(Stage {
            prefetches,
            query,
            filter,
            score_threshold: self.score_threshold.map(OrderedFloat),
            limit: self.limit.unwrap_or(LIMIT),
            offset: self.offset.unwrap_or(0),
            params: self.params,
            with_vector: self.with_vector.unwrap_or(WithVector::Bool(false)),
            with_payload: self.with_payload.unwrap_or(WithPayloadInterface::Bool(false)),
        })
    }
}

struct Stage {
    prefetches: Vec<Prefetch>,
    query: Option<ScoringQuery>,
    filter: Option<Filter>,
    score_threshold: Option<OrderedFloat<f32>>,
    limit: usize,
    offset: usize,
    params: Option<SearchParams>,
    with_vector: WithVector,
    with_payload: WithPayloadInterface,
}

fn nearest(query: VectorInternal, using: Option<String>) -> ScoringQuery {
    ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery { query, using }))
}

fn vector_of(shard: &EdgeShard, id: PointId, name: &str) -> Result<VectorInternal> {
    let points = shard.retrieve(&[id], Some(WithPayloadInterface::Bool(false)), Some(WithVector::Bool(true)))?;
    let missing = || Error::NoSuchPoint(format!("No point with id {id} found"));
    match points.into_iter().next().and_then(|point| point.vector).ok_or_else(missing)? {
        VectorStructInternal::Single(dense) if name == DEFAULT_VECTOR_NAME => Ok(VectorInternal::Dense(dense)),
        VectorStructInternal::MultiDense(multi) if name == DEFAULT_VECTOR_NAME => Ok(VectorInternal::MultiDense(multi)),
        VectorStructInternal::Named(mut named) => named.remove(name).ok_or_else(missing),
        _ => Err(Error::BadInput(format!("Not existing vector name error: {name}"))),
    }
}

/// A point is not its own neighbour.
fn all_but(id: PointId, filter: Option<Filter>) -> Result<Filter> {
    let mut filter = filter.unwrap_or_default();
    let condition = serde_json::from_value(json!({ "has_id": [id] })).map_err(Error::internal)?;
    filter.must_not.get_or_insert_default().push(condition);
    Ok(filter)
}

/// A vector as REST shows it.
pub(crate) fn vector_json(vector: VectorStructInternal) -> Value {
    match vector {
        VectorStructInternal::Single(dense) => json!(dense),
        VectorStructInternal::MultiDense(multi) => json!(multi.into_multi_vectors()),
        VectorStructInternal::Named(named) => named
            .into_iter()
            .map(|(name, vector)| (name.clone(), one_vector_json(vector)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

fn one_vector_json(vector: VectorInternal) -> Value {
    match vector {
        VectorInternal::Dense(dense) => json!(dense),
        VectorInternal::Sparse(sparse) => json!({ "indices": sparse.indices, "values": sparse.values }),
        VectorInternal::MultiDense(multi) => json!(multi.into_multi_vectors()),
    }
}
