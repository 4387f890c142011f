//! A collection's configuration: as created, as changed, as shown, and as the engine wants it.
//!
//! Field order is the recorded server's. Names of types are part of its error messages (`VectorsConfig`).

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;

use qdrant_edge::{
    Distance, EdgeConfig, EdgeOptimizersConfig, EdgeSparseVectorParams, EdgeVectorParams, HnswIndexConfig, Modifier,
    MultiVectorConfig, VectorStorageDatatype,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stand_in::error::{Error, Result};

/// Below this many KiB of vectors, scanning them all beats the graph. Qdrant's default.
const FULL_SCAN_THRESHOLD: usize = 10_000;
/// KiB of vectors in a segment from which on it gets a graph. Qdrant's default.
const INDEXING_THRESHOLD: u64 = 10_000;
/// How many segments the recorded server aimed at when not told; elsewhere it depends on the processors.
const SEGMENTS: u64 = 2;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VectorParams {
    pub(crate) size: NonZeroU64,
    pub(crate) distance: Distance,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on_disk: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) datatype: Option<VectorStorageDatatype>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) multivector_config: Option<MultiVectorConfig>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum VectorsConfig {
    Single(VectorParams),
    Multi(BTreeMap<String, VectorParams>),
}

impl Default for VectorsConfig {
    fn default() -> Self {
        Self::Multi(BTreeMap::new())
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct SparseVectorParams {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) modifier: Option<Modifier>,
}

/// `"auto"` or a number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Threads {
    Count(u64),
    Auto(Auto),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Auto {
    Auto,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct HnswDiff {
    pub(crate) m: Option<usize>,
    pub(crate) ef_construct: Option<usize>,
    pub(crate) full_scan_threshold: Option<usize>,
    pub(crate) max_indexing_threads: Option<usize>,
    pub(crate) on_disk: Option<bool>,
    pub(crate) payload_m: Option<usize>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct OptimizersDiff {
    pub(crate) deleted_threshold: Option<f64>,
    pub(crate) vacuum_min_vector_number: Option<u64>,
    pub(crate) default_segment_number: Option<u64>,
    pub(crate) max_segment_size: Option<u64>,
    pub(crate) memmap_threshold: Option<u64>,
    pub(crate) indexing_threshold: Option<u64>,
    pub(crate) flush_interval_sec: Option<u64>,
    pub(crate) max_optimization_threads: Option<Threads>,
}

/// The body of `PUT /collections/{name}`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct CreateCollection {
    #[serde(default)]
    pub(crate) vectors: VectorsConfig,
    pub(crate) sparse_vectors: Option<BTreeMap<String, SparseVectorParams>>,
    pub(crate) shard_number: Option<u32>,
    pub(crate) replication_factor: Option<u32>,
    pub(crate) write_consistency_factor: Option<u32>,
    pub(crate) on_disk_payload: Option<bool>,
    pub(crate) hnsw_config: Option<HnswDiff>,
    pub(crate) optimizers_config: Option<OptimizersDiff>,
    pub(crate) wal_config: Option<WalDiff>,
    pub(crate) quantization_config: Option<Value>,
    pub(crate) sharding_method: Option<Value>,
    pub(crate) strict_mode_config: Option<Value>,
    pub(crate) init_from: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct WalDiff {
    pub(crate) wal_capacity_mb: Option<u64>,
    pub(crate) wal_segments_ahead: Option<u64>,
}

/// The body of `PATCH /collections/{name}`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct UpdateCollection {
    pub(crate) hnsw_config: Option<HnswDiff>,
    pub(crate) optimizers_config: Option<OptimizersDiff>,
    pub(crate) params: Option<ParamsDiff>,
    pub(crate) vectors: Option<Value>,
    pub(crate) sparse_vectors: Option<Value>,
    pub(crate) quantization_config: Option<Value>,
    pub(crate) strict_mode_config: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ParamsDiff {
    pub(crate) replication_factor: Option<u32>,
    pub(crate) write_consistency_factor: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Params {
    pub(crate) vectors: VectorsConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sparse_vectors: Option<BTreeMap<String, SparseVectorParams>>,
    pub(crate) shard_number: u32,
    pub(crate) replication_factor: u32,
    pub(crate) write_consistency_factor: u32,
    pub(crate) on_disk_payload: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Optimizers {
    pub(crate) deleted_threshold: f64,
    pub(crate) vacuum_min_vector_number: u64,
    pub(crate) default_segment_number: u64,
    pub(crate) max_segment_size: Option<u64>,
    pub(crate) memmap_threshold: Option<u64>,
    pub(crate) indexing_threshold: u64,
    pub(crate) flush_interval_sec: u64,
    pub(crate) max_optimization_threads: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of Qdrant's API")]
pub(crate) struct Wal {
    pub(crate) wal_capacity_mb: u64,
    pub(crate) wal_segments_ahead: u64,
    pub(crate) wal_retain_closed: u64,
}

/// What `GET /collections/{name}` shows, and what is kept on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CollectionConfig {
    pub(crate) params: Params,
    pub(crate) hnsw_config: HnswIndexConfig,
    pub(crate) optimizer_config: Optimizers,
    pub(crate) wal_config: Wal,
    pub(crate) quantization_config: Option<Value>,
}

impl CollectionConfig {
    pub(crate) fn new(create: CreateCollection) -> Result<Self> {
        let unsupported = [
            (create.quantization_config.is_some(), "`quantization_config`"),
            (create.sharding_method.is_some(), "`sharding_method`"),
            (create.strict_mode_config.is_some(), "`strict_mode_config`"),
            (create.init_from.is_some(), "`init_from`"),
            (create.shard_number.is_some_and(|number| number != 1), "more than one shard"),
        ];
        refuse(&unsupported)?;
        let wal = create.wal_config.unwrap_or_default();
        let mut config = Self {
            params: Params {
                vectors: create.vectors,
                sparse_vectors: create.sparse_vectors,
                shard_number: 1,
                replication_factor: create.replication_factor.unwrap_or(1),
                write_consistency_factor: create.write_consistency_factor.unwrap_or(1),
                on_disk_payload: create.on_disk_payload.unwrap_or(true),
            },
            hnsw_config: HnswIndexConfig {
                m: 16,
                ef_construct: 100,
                full_scan_threshold: FULL_SCAN_THRESHOLD,
                max_indexing_threads: 0,
                on_disk: Some(false),
                payload_m: None,
                inline_storage: None,
            },
            optimizer_config: Optimizers {
                deleted_threshold: 0.2,
                vacuum_min_vector_number: 1000,
                default_segment_number: SEGMENTS,
                max_segment_size: None,
                memmap_threshold: None,
                indexing_threshold: INDEXING_THRESHOLD,
                flush_interval_sec: 5,
                max_optimization_threads: None,
            },
            wal_config: Wal {
                wal_capacity_mb: wal.wal_capacity_mb.unwrap_or(32),
                wal_segments_ahead: wal.wal_segments_ahead.unwrap_or(0),
                wal_retain_closed: 1,
            },
            quantization_config: None,
        };
        config.change(create.hnsw_config, create.optimizers_config);
        Ok(config)
    }

    pub(crate) fn update(&mut self, update: UpdateCollection) -> Result<()> {
        let unsupported = [
            (update.vectors.is_some(), "a change of `vectors`"),
            (update.sparse_vectors.is_some(), "a change of `sparse_vectors`"),
            (update.quantization_config.is_some(), "`quantization_config`"),
            (update.strict_mode_config.is_some(), "`strict_mode_config`"),
        ];
        refuse(&unsupported)?;
        self.change(update.hnsw_config, update.optimizers_config);
        if let Some(params) = update.params {
            set(&mut self.params.replication_factor, params.replication_factor);
            set(&mut self.params.write_consistency_factor, params.write_consistency_factor);
        }
        Ok(())
    }

    fn change(&mut self, hnsw: Option<HnswDiff>, optimizers: Option<OptimizersDiff>) {
        let (hnsw, diff) = (hnsw.unwrap_or_default(), optimizers.unwrap_or_default());
        set(&mut self.hnsw_config.m, hnsw.m);
        set(&mut self.hnsw_config.ef_construct, hnsw.ef_construct);
        set(&mut self.hnsw_config.full_scan_threshold, hnsw.full_scan_threshold);
        set(&mut self.hnsw_config.max_indexing_threads, hnsw.max_indexing_threads);
        self.hnsw_config.on_disk = hnsw.on_disk.or(self.hnsw_config.on_disk);
        self.hnsw_config.payload_m = hnsw.payload_m.or(self.hnsw_config.payload_m);
        let optimizers = &mut self.optimizer_config;
        set(&mut optimizers.deleted_threshold, diff.deleted_threshold);
        set(&mut optimizers.vacuum_min_vector_number, diff.vacuum_min_vector_number);
        set(&mut optimizers.default_segment_number, diff.default_segment_number);
        set(&mut optimizers.indexing_threshold, diff.indexing_threshold);
        set(&mut optimizers.flush_interval_sec, diff.flush_interval_sec);
        optimizers.max_segment_size = diff.max_segment_size.or(optimizers.max_segment_size);
        optimizers.memmap_threshold = diff.memmap_threshold.or(optimizers.memmap_threshold);
        match diff.max_optimization_threads {
            Some(Threads::Count(count)) => optimizers.max_optimization_threads = Some(count),
            Some(Threads::Auto(Auto::Auto)) => optimizers.max_optimization_threads = None,
            None => {}
        }
    }

    /// The dense vectors by name; the one without a name is `""`.
    pub(crate) fn dense(&self) -> Vec<(&str, &VectorParams)> {
        match &self.params.vectors {
            VectorsConfig::Single(params) => vec![("", params)],
            VectorsConfig::Multi(named) => named.iter().map(|(name, params)| (name.as_str(), params)).collect(),
        }
    }

    pub(crate) fn engine(&self) -> EdgeConfig {
        let vectors = self.dense().into_iter().map(|(name, params)| (name.to_owned(), engine_vector(params))).collect();
        let sparse = self.params.sparse_vectors.iter().flatten().map(|(name, params)| {
            let params = EdgeSparseVectorParams {
                full_scan_threshold: None,
                on_disk: None,
                modifier: params.modifier,
                datatype: None,
            };
            (name.clone(), params)
        });
        EdgeConfig {
            on_disk_payload: self.params.on_disk_payload,
            vectors,
            sparse_vectors: sparse.collect::<HashMap<_, _>>(),
            hnsw_config: self.hnsw_config,
            quantization_config: None,
            optimizers: self.engine_optimizers(),
            wal_options: None,
        }
    }

    pub(crate) fn engine_optimizers(&self) -> EdgeOptimizersConfig {
        let optimizers = &self.optimizer_config;
        EdgeOptimizersConfig {
            deleted_threshold: Some(optimizers.deleted_threshold),
            vacuum_min_vector_number: Some(optimizers.vacuum_min_vector_number as usize),
            default_segment_number: Some(optimizers.default_segment_number as usize),
            max_segment_size: optimizers.max_segment_size.map(|size| size as usize),
            indexing_threshold: Some(optimizers.indexing_threshold as usize),
            prevent_unoptimized: None,
        }
    }
}

fn engine_vector(params: &VectorParams) -> EdgeVectorParams {
    EdgeVectorParams {
        size: params.size.get() as usize,
        distance: params.distance,
        on_disk: params.on_disk,
        multivector_config: params.multivector_config,
        datatype: params.datatype,
        quantization_config: None,
        hnsw_config: None,
    }
}

fn set<T>(value: &mut T, change: Option<T>) {
    if let Some(change) = change {
        *value = change;
    }
}

fn refuse(unsupported: &[(bool, &str)]) -> Result<()> {
    match unsupported.iter().find(|(present, _)| *present) {
        Some((_, what)) => Err(Error::Unsupported((*what).to_owned())),
        None => Ok(()),
    }
}
