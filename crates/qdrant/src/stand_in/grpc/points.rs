//! The `Points` service.

#![expect(deprecated, reason = "fields of servers up to 1.19, which this one is")]

use qdrant_client::qdrant as wire;
use qdrant_client::qdrant::points_server::Points;
use qdrant_edge::{
    ConditionalInsertOperation, CountRequest, DeletePayloadOp, FacetRequest, FieldIndexOperations, PayloadFieldSchema,
    PayloadOps, PayloadSchemaType, PointInsertOperations, PointOperations, ScrollRequest, SetPayloadOp, UpdateMode,
    UpdateOperation,
};
use serde_json::json;
use tonic::Request;

use super::filter::filter;
use super::from_wire::{self, Selected};
use super::{Grpc, Reply, to_wire, unknown};
use crate::stand_in::error::{Error, Result};

type Updated = Reply<wire::PointsOperationResponse>;

impl Grpc {
    /// Applies an operation. Without `wait`, a refusal is not told: the server would not have looked yet.
    async fn update(
        &self,
        name: String,
        wait: Option<bool>,
        operation: impl FnOnce() -> Result<UpdateOperation> + Send + 'static,
    ) -> Updated {
        let wait = wait.unwrap_or(false);
        let work = move |store: &super::Store| {
            let collection = store.collection(&name)?;
            match collection.update(operation()?) {
                Ok(number) => Ok(Some(number)),
                Err(error) if wait => Err(error),
                Err(_) => Ok(None),
            }
        };
        let status = if wait { wire::UpdateStatus::Completed } else { wire::UpdateStatus::Acknowledged };
        self.run(work, |operation_id, time| wire::PointsOperationResponse {
            result: Some(wire::UpdateResult { operation_id, status: status.into() }),
            time,
            usage: None,
        })
        .await
    }
}

fn upsert(request: wire::UpsertPoints) -> Result<UpdateOperation> {
    let points = request.points.into_iter().map(from_wire::point).collect::<Result<Vec<_>>>()?;
    let points = PointInsertOperations::PointsList(points);
    let mode = match request.update_mode {
        None | Some(0) => None,
        Some(1) => Some(UpdateMode::InsertOnly),
        Some(2) => Some(UpdateMode::UpdateOnly),
        Some(other) => return Err(Error::BadInput(format!("Unknown update mode: {other}"))),
    };
    let operation = match (request.update_filter, mode) {
        (None, None) => PointOperations::UpsertPoints(points),
        (condition, update_mode) => PointOperations::UpsertPointsConditional(ConditionalInsertOperation {
            points_op: points,
            condition: condition.map(filter).transpose()?.unwrap_or_default(),
            update_mode,
        }),
    };
    Ok(UpdateOperation::PointOperation(operation))
}

fn set_payload(request: wire::SetPayloadPoints) -> Result<SetPayloadOp> {
    let (points, filter) = match from_wire::selected(request.points_selector)? {
        Selected::Ids(ids) => (Some(ids), None),
        Selected::Filter(filter) => (None, Some(filter)),
    };
    let key = request.key.as_deref().map(from_wire::path).transpose()?;
    Ok(SetPayloadOp { payload: from_wire::payload(request.payload), points, filter, key })
}

fn field_schema(request: &wire::CreateFieldIndexCollection) -> Result<PayloadFieldSchema> {
    use wire::payload_index_params::IndexParams;

    let params = match request.field_index_params.as_ref().and_then(|params| params.index_params.as_ref()) {
        None => None,
        Some(IndexParams::KeywordIndexParams(params)) => {
            Some(json!({ "type": "keyword", "is_tenant": params.is_tenant, "on_disk": params.on_disk }))
        }
        Some(IndexParams::IntegerIndexParams(params)) => Some(json!({
            "type": "integer",
            "lookup": params.lookup,
            "range": params.range,
            "is_principal": params.is_principal,
            "on_disk": params.on_disk,
        })),
        Some(_) => return Err(Error::Unsupported("parameters of this kind of payload index".to_owned())),
    };
    if let Some(params) = params {
        return serde_json::from_value(params).map_err(|error| Error::BadInput(error.to_string()));
    }
    let kind = match request.field_type.map(wire::FieldType::try_from) {
        Some(Ok(wire::FieldType::Keyword)) => PayloadSchemaType::Keyword,
        Some(Ok(wire::FieldType::Integer)) => PayloadSchemaType::Integer,
        Some(Ok(wire::FieldType::Float)) => PayloadSchemaType::Float,
        Some(Ok(wire::FieldType::Geo)) => PayloadSchemaType::Geo,
        Some(Ok(wire::FieldType::Text)) => PayloadSchemaType::Text,
        Some(Ok(wire::FieldType::Bool)) => PayloadSchemaType::Bool,
        Some(Ok(wire::FieldType::Datetime)) => PayloadSchemaType::Datetime,
        Some(Ok(wire::FieldType::Uuid)) => PayloadSchemaType::Uuid,
        Some(Err(_)) | None => return Err(Error::BadInput("field type is missing or malformed".to_owned())),
    };
    Ok(PayloadFieldSchema::FieldType(kind))
}

#[tonic::async_trait]
impl Points for Grpc {
    async fn upsert(&self, request: Request<wire::UpsertPoints>) -> Updated {
        let request = request.into_inner();
        let (name, wait) = (request.collection_name.clone(), request.wait);
        self.update(name, wait, move || upsert(request)).await
    }

    async fn delete(&self, request: Request<wire::DeletePoints>) -> Updated {
        let request = request.into_inner();
        let operation = move || {
            Ok(UpdateOperation::PointOperation(match from_wire::selected(request.points)? {
                Selected::Ids(ids) => PointOperations::DeletePoints { ids },
                Selected::Filter(filter) => PointOperations::DeletePointsByFilter(filter),
            }))
        };
        self.update(request.collection_name, request.wait, operation).await
    }

    async fn get(&self, request: Request<wire::GetPoints>) -> Reply<wire::GetResponse> {
        let request = request.into_inner();
        self.run(
            move |store| {
                let ids = from_wire::point_ids(request.ids)?;
                let payload = from_wire::with_payload(request.with_payload)?;
                store.collection(&request.collection_name)?.retrieve(
                    &ids,
                    payload,
                    from_wire::with_vector(request.with_vectors),
                )
            },
            |points, time| wire::GetResponse {
                result: points.into_iter().map(to_wire::retrieved).collect(),
                time,
                usage: None,
            },
        )
        .await
    }

    async fn set_payload(&self, request: Request<wire::SetPayloadPoints>) -> Updated {
        let request = request.into_inner();
        let (name, wait) = (request.collection_name.clone(), request.wait);
        let operation = move || Ok(UpdateOperation::PayloadOperation(PayloadOps::SetPayload(set_payload(request)?)));
        self.update(name, wait, operation).await
    }

    async fn overwrite_payload(&self, request: Request<wire::SetPayloadPoints>) -> Updated {
        let request = request.into_inner();
        let (name, wait) = (request.collection_name.clone(), request.wait);
        let operation =
            move || Ok(UpdateOperation::PayloadOperation(PayloadOps::OverwritePayload(set_payload(request)?)));
        self.update(name, wait, operation).await
    }

    async fn delete_payload(&self, request: Request<wire::DeletePayloadPoints>) -> Updated {
        let request = request.into_inner();
        let operation = move || {
            let (points, filter) = match from_wire::selected(request.points_selector)? {
                Selected::Ids(ids) => (Some(ids), None),
                Selected::Filter(filter) => (None, Some(filter)),
            };
            let keys = request.keys.iter().map(|key| from_wire::path(key)).collect::<Result<_>>()?;
            let operation = PayloadOps::DeletePayload(DeletePayloadOp { keys, points, filter });
            Ok(UpdateOperation::PayloadOperation(operation))
        };
        self.update(request.collection_name, request.wait, operation).await
    }

    async fn clear_payload(&self, request: Request<wire::ClearPayloadPoints>) -> Updated {
        let request = request.into_inner();
        let operation = move || {
            Ok(UpdateOperation::PayloadOperation(match from_wire::selected(request.points)? {
                Selected::Ids(points) => PayloadOps::ClearPayload { points },
                Selected::Filter(filter) => PayloadOps::ClearPayloadByFilter(filter),
            }))
        };
        self.update(request.collection_name, request.wait, operation).await
    }

    async fn create_field_index(&self, request: Request<wire::CreateFieldIndexCollection>) -> Updated {
        let request = request.into_inner();
        let (name, wait) = (request.collection_name.clone(), request.wait);
        let operation = move || {
            let create = qdrant_edge::CreateIndex {
                field_name: from_wire::path(&request.field_name)?,
                field_schema: Some(field_schema(&request)?),
            };
            Ok(UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(create)))
        };
        self.update(name, wait, operation).await
    }

    async fn delete_field_index(&self, request: Request<wire::DeleteFieldIndexCollection>) -> Updated {
        let request = request.into_inner();
        let operation = move || {
            let path = from_wire::path(&request.field_name)?;
            Ok(UpdateOperation::FieldIndexOperation(FieldIndexOperations::DeleteIndex(path)))
        };
        self.update(request.collection_name, request.wait, operation).await
    }

    async fn scroll(&self, request: Request<wire::ScrollPoints>) -> Reply<wire::ScrollResponse> {
        let request = request.into_inner();
        self.run(
            move |store| {
                let scroll = ScrollRequest {
                    offset: request.offset.map(|id| from_wire::point_id(Some(id))).transpose()?,
                    limit: request.limit.map(|limit| limit as usize),
                    filter: request.filter.map(filter).transpose()?,
                    with_payload: Some(match request.with_payload {
                        None => true.into(),
                        selector => from_wire::with_payload(selector)?,
                    }),
                    with_vector: from_wire::with_vector(request.with_vectors),
                    order_by: request.order_by.as_ref().map(from_wire::order_by).transpose()?,
                };
                store.collection(&request.collection_name)?.scroll(scroll)
            },
            |(points, next), time| wire::ScrollResponse {
                next_page_offset: next.map(to_wire::point_id),
                result: points.into_iter().map(to_wire::retrieved).collect(),
                time,
                usage: None,
            },
        )
        .await
    }

    async fn count(&self, request: Request<wire::CountPoints>) -> Reply<wire::CountResponse> {
        let request = request.into_inner();
        self.run(
            move |store| {
                let filter = request.filter.map(filter).transpose()?;
                let count = CountRequest { filter, exact: request.exact.unwrap_or(true) };
                store.collection(&request.collection_name)?.count(count)
            },
            |count, time| wire::CountResponse {
                result: Some(wire::CountResult { count: count as u64 }),
                time,
                usage: None,
            },
        )
        .await
    }

    async fn query(&self, request: Request<wire::QueryPoints>) -> Reply<wire::QueryResponse> {
        let request = request.into_inner();
        self.run(
            move |store| {
                let collection = store.collection(&request.collection_name)?;
                collection.query(from_wire::query(request)?)
            },
            |points, time| wire::QueryResponse {
                result: points.into_iter().map(to_wire::scored).collect(),
                time,
                usage: None,
            },
        )
        .await
    }

    async fn query_batch(&self, request: Request<wire::QueryBatchPoints>) -> Reply<wire::QueryBatchResponse> {
        let request = request.into_inner();
        self.run(
            move |store| {
                let collection = store.collection(&request.collection_name)?;
                let queries = request.query_points.into_iter();
                queries.map(|query| collection.query(from_wire::query(query)?)).collect::<Result<Vec<_>>>()
            },
            |results, time| {
                let result = results
                    .into_iter()
                    .map(|points| wire::BatchResult { result: points.into_iter().map(to_wire::scored).collect() });
                wire::QueryBatchResponse { result: result.collect(), time, usage: None }
            },
        )
        .await
    }

    async fn facet(&self, request: Request<wire::FacetCounts>) -> Reply<wire::FacetResponse> {
        let request = request.into_inner();
        self.run(
            move |store| {
                let facet = FacetRequest {
                    key: from_wire::path(&request.key)?,
                    limit: request.limit.map_or(FacetRequest::DEFAULT_LIMIT, |limit| limit as usize),
                    filter: request.filter.map(filter).transpose()?,
                    exact: request.exact.unwrap_or(FacetRequest::default_exact()),
                };
                store.collection(&request.collection_name)?.facet(facet)
            },
            |found, time| {
                let hit = |hit: qdrant_edge::FacetValueHit| wire::FacetHit {
                    value: Some(to_wire::facet_value(hit.value)),
                    count: hit.count as u64,
                };
                wire::FacetResponse { hits: found.hits.into_iter().map(hit).collect(), time, usage: None }
            },
        )
        .await
    }

    async fn update_vectors(&self, _: Request<wire::UpdatePointVectors>) -> Updated {
        unknown("UpdateVectors")
    }

    async fn delete_vectors(&self, _: Request<wire::DeletePointVectors>) -> Updated {
        unknown("DeleteVectors")
    }

    async fn create_vector_name(&self, _: Request<wire::CreateVectorNameRequest>) -> Updated {
        unknown("CreateVectorName")
    }

    async fn delete_vector_name(&self, _: Request<wire::DeleteVectorNameRequest>) -> Updated {
        unknown("DeleteVectorName")
    }

    async fn search(&self, _: Request<wire::SearchPoints>) -> Reply<wire::SearchResponse> {
        unknown("Search")
    }

    async fn search_batch(&self, _: Request<wire::SearchBatchPoints>) -> Reply<wire::SearchBatchResponse> {
        unknown("SearchBatch")
    }

    async fn search_groups(&self, _: Request<wire::SearchPointGroups>) -> Reply<wire::SearchGroupsResponse> {
        unknown("SearchGroups")
    }

    async fn recommend(&self, _: Request<wire::RecommendPoints>) -> Reply<wire::RecommendResponse> {
        unknown("Recommend")
    }

    async fn recommend_batch(&self, _: Request<wire::RecommendBatchPoints>) -> Reply<wire::RecommendBatchResponse> {
        unknown("RecommendBatch")
    }

    async fn recommend_groups(&self, _: Request<wire::RecommendPointGroups>) -> Reply<wire::RecommendGroupsResponse> {
        unknown("RecommendGroups")
    }

    async fn discover(&self, _: Request<wire::DiscoverPoints>) -> Reply<wire::DiscoverResponse> {
        unknown("Discover")
    }

    async fn discover_batch(&self, _: Request<wire::DiscoverBatchPoints>) -> Reply<wire::DiscoverBatchResponse> {
        unknown("DiscoverBatch")
    }

    async fn update_batch(&self, _: Request<wire::UpdateBatchPoints>) -> Reply<wire::UpdateBatchResponse> {
        unknown("UpdateBatch")
    }

    async fn query_groups(&self, _: Request<wire::QueryPointGroups>) -> Reply<wire::QueryGroupsResponse> {
        unknown("QueryGroups")
    }

    async fn search_matrix_pairs(
        &self,
        _: Request<wire::SearchMatrixPoints>,
    ) -> Reply<wire::SearchMatrixPairsResponse> {
        unknown("SearchMatrixPairs")
    }

    async fn search_matrix_offsets(
        &self,
        _: Request<wire::SearchMatrixPoints>,
    ) -> Reply<wire::SearchMatrixOffsetsResponse> {
        unknown("SearchMatrixOffsets")
    }
}
