//! The `Collections` service.

#![expect(deprecated, reason = "fields of servers up to 1.19, which this one is")]

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use qdrant_client::qdrant as wire;
use qdrant_client::qdrant::collections_server::Collections;
use qdrant_edge::{Distance, Modifier, PayloadSchemaType};
use tonic::Request;
use wire::vectors_config::Config;

use super::{Grpc, Reply, unknown};
use crate::stand_in::engine::collection::Info;
use crate::stand_in::engine::optimizer::Colour;
use crate::stand_in::engine::settings::{
    Auto, CollectionConfig, CreateCollection, HnswDiff, OptimizersDiff, ParamsDiff, SparseVectorParams, Threads,
    UpdateCollection, VectorParams, VectorsConfig, WalDiff,
};
use crate::stand_in::engine::store::AliasAction;
use crate::stand_in::error::{Error, Result};

fn vector_params(params: &wire::VectorParams) -> Result<VectorParams> {
    if params.hnsw_config.is_some() || params.quantization_config.is_some() || params.multivector_config.is_some() {
        let what = "`hnsw_config`, `quantization_config` and `multivector_config` of one vector";
        return Err(Error::Unsupported(what.to_owned()));
    }
    if params.datatype.is_some_and(|datatype| datatype > 1) {
        return Err(Error::Unsupported("vectors that are not of f32".to_owned()));
    }
    let distance = match params.distance() {
        wire::Distance::Cosine => Distance::Cosine,
        wire::Distance::Euclid => Distance::Euclid,
        wire::Distance::Dot => Distance::Dot,
        wire::Distance::Manhattan => Distance::Manhattan,
        wire::Distance::UnknownDistance => return Err(Error::BadInput("distance is missing".to_owned())),
    };
    let size = NonZeroU64::new(params.size);
    let size = size.ok_or_else(|| Error::BadInput("Vector size must be greater than 0".to_owned()))?;
    Ok(VectorParams { size, distance, on_disk: params.on_disk, datatype: None, multivector_config: None })
}

fn vectors_config(config: Option<wire::VectorsConfig>) -> Result<VectorsConfig> {
    match config.and_then(|config| config.config) {
        None => Ok(VectorsConfig::default()),
        Some(Config::Params(params)) => Ok(VectorsConfig::Single(vector_params(&params)?)),
        Some(Config::ParamsMap(named)) => {
            let named = named.map.iter().map(|(name, params)| Ok((name.clone(), vector_params(params)?)));
            Ok(VectorsConfig::Multi(named.collect::<Result<_>>()?))
        }
    }
}

fn sparse_config(config: &wire::SparseVectorConfig) -> BTreeMap<String, SparseVectorParams> {
    let modifier = |params: &wire::SparseVectorParams| (params.modifier == Some(1)).then_some(Modifier::Idf);
    config.map.iter().map(|(name, params)| (name.clone(), SparseVectorParams { modifier: modifier(params) })).collect()
}

fn hnsw(diff: wire::HnswConfigDiff) -> HnswDiff {
    let size = |value: Option<u64>| value.map(|value| value as usize);
    HnswDiff {
        m: size(diff.m),
        ef_construct: size(diff.ef_construct),
        full_scan_threshold: size(diff.full_scan_threshold),
        max_indexing_threads: size(diff.max_indexing_threads),
        on_disk: diff.on_disk,
        payload_m: size(diff.payload_m),
    }
}

fn optimizers(diff: &wire::OptimizersConfigDiff) -> OptimizersDiff {
    use wire::max_optimization_threads::Variant;

    let threads = match diff.max_optimization_threads.as_ref().and_then(|threads| threads.variant) {
        Some(Variant::Value(count)) => Some(Threads::Count(count)),
        Some(Variant::Setting(_)) => Some(Threads::Auto(Auto::Auto)),
        None => diff.deprecated_max_optimization_threads.map(Threads::Count),
    };
    OptimizersDiff {
        deleted_threshold: diff.deleted_threshold,
        vacuum_min_vector_number: diff.vacuum_min_vector_number,
        default_segment_number: diff.default_segment_number,
        max_segment_size: diff.max_segment_size,
        memmap_threshold: diff.memmap_threshold,
        indexing_threshold: diff.indexing_threshold,
        flush_interval_sec: diff.flush_interval_sec,
        max_optimization_threads: threads,
    }
}

fn refuse(unsupported: &[(bool, &str)]) -> Result<()> {
    match unsupported.iter().find(|(present, _)| *present) {
        Some((_, what)) => Err(Error::Unsupported(format!("`{what}`"))),
        None => Ok(()),
    }
}

fn create(request: wire::CreateCollection) -> Result<CreateCollection> {
    refuse(&[
        (request.quantization_config.is_some(), "quantization_config"),
        (request.sharding_method.is_some(), "sharding_method"),
        (request.strict_mode_config.is_some(), "strict_mode_config"),
        (!request.metadata.is_empty(), "metadata"),
        (request.payload.is_some(), "payload"),
        (request.id_tracker.is_some(), "id_tracker"),
    ])?;
    let wal = |wal: wire::WalConfigDiff| WalDiff {
        wal_capacity_mb: wal.wal_capacity_mb,
        wal_segments_ahead: wal.wal_segments_ahead,
    };
    let on_disk_payload = request.on_disk_payload;
    Ok(CreateCollection {
        vectors: vectors_config(request.vectors_config)?,
        sparse_vectors: request.sparse_vectors_config.as_ref().map(sparse_config),
        shard_number: request.shard_number,
        replication_factor: request.replication_factor,
        write_consistency_factor: request.write_consistency_factor,
        on_disk_payload,
        hnsw_config: request.hnsw_config.map(hnsw),
        optimizers_config: request.optimizers_config.as_ref().map(optimizers),
        wal_config: request.wal_config.map(wal),
        ..CreateCollection::default()
    })
}

fn update(request: &wire::UpdateCollection) -> Result<UpdateCollection> {
    refuse(&[
        (request.vectors_config.is_some(), "vectors_config"),
        (request.quantization_config.is_some(), "quantization_config"),
        (request.sparse_vectors_config.is_some(), "sparse_vectors_config"),
        (request.strict_mode_config.is_some(), "strict_mode_config"),
        (!request.metadata.is_empty(), "metadata"),
    ])?;
    Ok(UpdateCollection {
        hnsw_config: request.hnsw_config.map(hnsw),
        optimizers_config: request.optimizers_config.as_ref().map(optimizers),
        params: request.params.map(|params| ParamsDiff {
            replication_factor: params.replication_factor,
            write_consistency_factor: params.write_consistency_factor,
        }),
        ..UpdateCollection::default()
    })
}

fn vector_params_shown(params: &VectorParams) -> wire::VectorParams {
    let distance = match params.distance {
        Distance::Cosine => wire::Distance::Cosine,
        Distance::Euclid => wire::Distance::Euclid,
        Distance::Dot => wire::Distance::Dot,
        Distance::Manhattan => wire::Distance::Manhattan,
    };
    wire::VectorParams {
        size: params.size.get(),
        distance: distance.into(),
        on_disk: params.on_disk,
        ..wire::VectorParams::default()
    }
}

fn config_shown(config: &CollectionConfig) -> wire::CollectionConfig {
    let vectors = match &config.params.vectors {
        VectorsConfig::Single(params) => Config::Params(vector_params_shown(params)),
        VectorsConfig::Multi(named) => {
            let map = named.iter().map(|(name, params)| (name.clone(), vector_params_shown(params))).collect();
            Config::ParamsMap(wire::VectorParamsMap { map })
        }
    };
    let sparse = config.params.sparse_vectors.as_ref().map(|named| {
        let shown = |params: &SparseVectorParams| wire::SparseVectorParams {
            modifier: params.modifier.map(|modifier| i32::from(modifier == Modifier::Idf)),
            ..wire::SparseVectorParams::default()
        };
        wire::SparseVectorConfig { map: named.iter().map(|(name, params)| (name.clone(), shown(params))).collect() }
    });
    let params = wire::CollectionParams {
        shard_number: config.params.shard_number,
        on_disk_payload: config.params.on_disk_payload,
        vectors_config: Some(wire::VectorsConfig { config: Some(vectors) }),
        replication_factor: Some(config.params.replication_factor),
        write_consistency_factor: Some(config.params.write_consistency_factor),
        sparse_vectors_config: sparse,
        ..wire::CollectionParams::default()
    };
    wire::CollectionConfig {
        params: Some(params),
        hnsw_config: Some(hnsw_shown(config)),
        optimizer_config: Some(optimizers_shown(config)),
        wal_config: Some(wire::WalConfigDiff {
            wal_capacity_mb: Some(config.wal_config.wal_capacity_mb),
            wal_segments_ahead: Some(config.wal_config.wal_segments_ahead),
            wal_retain_closed: Some(config.wal_config.wal_retain_closed),
        }),
        ..wire::CollectionConfig::default()
    }
}

fn hnsw_shown(config: &CollectionConfig) -> wire::HnswConfigDiff {
    wire::HnswConfigDiff {
        m: Some(config.hnsw_config.m as u64),
        ef_construct: Some(config.hnsw_config.ef_construct as u64),
        full_scan_threshold: Some(config.hnsw_config.full_scan_threshold as u64),
        max_indexing_threads: Some(config.hnsw_config.max_indexing_threads as u64),
        on_disk: config.hnsw_config.on_disk,
        payload_m: config.hnsw_config.payload_m.map(|m| m as u64),
        ..wire::HnswConfigDiff::default()
    }
}

fn optimizers_shown(config: &CollectionConfig) -> wire::OptimizersConfigDiff {
    let optimizers = &config.optimizer_config;
    wire::OptimizersConfigDiff {
        deleted_threshold: Some(optimizers.deleted_threshold),
        vacuum_min_vector_number: Some(optimizers.vacuum_min_vector_number),
        default_segment_number: Some(optimizers.default_segment_number),
        max_segment_size: optimizers.max_segment_size,
        memmap_threshold: optimizers.memmap_threshold,
        indexing_threshold: Some(optimizers.indexing_threshold),
        flush_interval_sec: Some(optimizers.flush_interval_sec),
        deprecated_max_optimization_threads: optimizers.max_optimization_threads,
        ..wire::OptimizersConfigDiff::default()
    }
}

fn info_shown(info: &Info) -> wire::CollectionInfo {
    let status = match info.colour {
        Colour::Green => wire::CollectionStatus::Green,
        Colour::Yellow => wire::CollectionStatus::Yellow,
        Colour::Grey => wire::CollectionStatus::Grey,
    };
    let schema = info.shard.payload_schema.iter().map(|(key, index)| {
        let data_type = match index.data_type {
            PayloadSchemaType::Keyword => wire::PayloadSchemaType::Keyword,
            PayloadSchemaType::Integer => wire::PayloadSchemaType::Integer,
            PayloadSchemaType::Float => wire::PayloadSchemaType::Float,
            PayloadSchemaType::Geo => wire::PayloadSchemaType::Geo,
            PayloadSchemaType::Text => wire::PayloadSchemaType::Text,
            PayloadSchemaType::Bool => wire::PayloadSchemaType::Bool,
            PayloadSchemaType::Datetime => wire::PayloadSchemaType::Datetime,
            PayloadSchemaType::Uuid => wire::PayloadSchemaType::Uuid,
        };
        let schema =
            wire::PayloadSchemaInfo { data_type: data_type.into(), params: None, points: Some(index.points as u64) };
        (key.to_string(), schema)
    });
    wire::CollectionInfo {
        status: status.into(),
        optimizer_status: Some(wire::OptimizerStatus { ok: true, error: String::new() }),
        segments_count: info.shard.segments_count as u64,
        config: Some(config_shown(&info.config)),
        payload_schema: schema.collect(),
        points_count: Some(info.shard.points_count as u64),
        indexed_vectors_count: Some(info.shard.indexed_vectors_count as u64),
        ..wire::CollectionInfo::default()
    }
}

fn alias_action(action: wire::AliasOperations) -> Result<AliasAction> {
    use wire::alias_operations::Action;

    match action.action {
        Some(Action::CreateAlias(create)) => {
            Ok(AliasAction::CreateAlias { collection_name: create.collection_name, alias_name: create.alias_name })
        }
        Some(Action::DeleteAlias(delete)) => Ok(AliasAction::DeleteAlias { alias_name: delete.alias_name }),
        Some(Action::RenameAlias(rename)) => Ok(AliasAction::RenameAlias {
            old_alias_name: rename.old_alias_name,
            new_alias_name: rename.new_alias_name,
        }),
        None => Err(Error::BadInput("Malformed AliasOperation type".to_owned())),
    }
}

fn aliases_shown(aliases: Vec<(String, String)>, time: f64) -> wire::ListAliasesResponse {
    let shown = |(alias_name, collection_name)| wire::AliasDescription { alias_name, collection_name };
    wire::ListAliasesResponse { aliases: aliases.into_iter().map(shown).collect(), time }
}

#[tonic::async_trait]
impl Collections for Grpc {
    async fn get(&self, request: Request<wire::GetCollectionInfoRequest>) -> Reply<wire::GetCollectionInfoResponse> {
        let name = request.into_inner().collection_name;
        let shown = |info: Info, time| wire::GetCollectionInfoResponse { result: Some(info_shown(&info)), time };
        self.run(move |store| Ok(store.collection(&name)?.info()), shown).await
    }

    async fn list(&self, _: Request<wire::ListCollectionsRequest>) -> Reply<wire::ListCollectionsResponse> {
        let names = |store: &super::Store| Ok(store.all().iter().map(|one| one.name().to_owned()).collect::<Vec<_>>());
        self.run(names, |names, time| wire::ListCollectionsResponse {
            collections: names.into_iter().map(|name| wire::CollectionDescription { name }).collect(),
            time,
        })
        .await
    }

    async fn create(&self, request: Request<wire::CreateCollection>) -> Reply<wire::CollectionOperationResponse> {
        let request = request.into_inner();
        let name = request.collection_name.clone();
        let work = move |store: &super::Store| store.create(&name, create(request)?);
        self.run(work, |(), time| wire::CollectionOperationResponse { result: true, time }).await
    }

    async fn update(&self, request: Request<wire::UpdateCollection>) -> Reply<wire::CollectionOperationResponse> {
        let request = request.into_inner();
        let work = move |store: &super::Store| {
            let collection = store.collection(&request.collection_name)?;
            collection.configure(update(&request)?)
        };
        self.run(work, |(), time| wire::CollectionOperationResponse { result: true, time }).await
    }

    async fn delete(&self, request: Request<wire::DeleteCollection>) -> Reply<wire::CollectionOperationResponse> {
        let name = request.into_inner().collection_name;
        let work = move |store: &super::Store| store.drop_collection(&name);
        self.run(work, |result, time| wire::CollectionOperationResponse { result, time }).await
    }

    async fn update_aliases(&self, request: Request<wire::ChangeAliases>) -> Reply<wire::CollectionOperationResponse> {
        let actions = request.into_inner().actions;
        let work = move |store: &super::Store| {
            store.change_aliases(actions.into_iter().map(alias_action).collect::<Result<_>>()?)
        };
        self.run(work, |(), time| wire::CollectionOperationResponse { result: true, time }).await
    }

    async fn list_collection_aliases(
        &self,
        request: Request<wire::ListCollectionAliasesRequest>,
    ) -> Reply<wire::ListAliasesResponse> {
        let name = request.into_inner().collection_name;
        self.run(move |store| Ok(store.aliases(Some(store.collection(&name)?.name()))), aliases_shown).await
    }

    async fn list_aliases(&self, _: Request<wire::ListAliasesRequest>) -> Reply<wire::ListAliasesResponse> {
        self.run(|store| Ok(store.aliases(None)), aliases_shown).await
    }

    async fn collection_cluster_info(
        &self,
        request: Request<wire::CollectionClusterInfoRequest>,
    ) -> Reply<wire::CollectionClusterInfoResponse> {
        let name = request.into_inner().collection_name;
        let work = move |store: &super::Store| Ok((store.peer, store.collection(&name)?.info().shard.points_count));
        self.run(work, |(peer_id, points), time| wire::CollectionClusterInfoResponse {
            peer_id,
            shard_count: 1,
            local_shards: vec![wire::LocalShardInfo {
                shard_id: 0,
                points_count: points as u64,
                state: wire::ReplicaState::Active.into(),
                shard_key: None,
            }],
            time,
            ..wire::CollectionClusterInfoResponse::default()
        })
        .await
    }

    async fn collection_exists(
        &self,
        request: Request<wire::CollectionExistsRequest>,
    ) -> Reply<wire::CollectionExistsResponse> {
        let name = request.into_inner().collection_name;
        self.run(
            move |store| Ok(store.exists(&name)),
            |exists, time| wire::CollectionExistsResponse { result: Some(wire::CollectionExists { exists }), time },
        )
        .await
    }

    async fn update_collection_cluster_setup(
        &self,
        _: Request<wire::UpdateCollectionClusterSetupRequest>,
    ) -> Reply<wire::UpdateCollectionClusterSetupResponse> {
        unknown("UpdateCollectionClusterSetup")
    }

    async fn create_shard_key(&self, _: Request<wire::CreateShardKeyRequest>) -> Reply<wire::CreateShardKeyResponse> {
        unknown("CreateShardKey")
    }

    async fn delete_shard_key(&self, _: Request<wire::DeleteShardKeyRequest>) -> Reply<wire::DeleteShardKeyResponse> {
        unknown("DeleteShardKey")
    }

    async fn list_shard_keys(&self, _: Request<wire::ListShardKeysRequest>) -> Reply<wire::ListShardKeysResponse> {
        unknown("ListShardKeys")
    }
}
