//! `/telemetry`: the recorded tree. Numbers that the engine does not tell are zero or an estimate.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value, json};

use super::collections::nanoseconds;
use super::metrics::resident_bytes;
use crate::stand_in::VERSION;
use crate::stand_in::engine::collection::{Collection, Info};
use crate::stand_in::engine::optimizer::{Run, segment_config};
use crate::stand_in::engine::store::Store;
use crate::stand_in::traffic::{Endpoint, Tally};

/// From this level on, collections are shown one by one.
const COLLECTIONS: usize = 2;
/// Bytes that one payload is guessed at.
const PAYLOAD_BYTES: usize = 128;

pub(super) fn telemetry(store: &Store, traffic: &BTreeMap<Endpoint, Tally>, level: usize) -> Value {
    let all = store.all();
    let mut collections = json!({ "number_of_collections": all.len() });
    if level >= COLLECTIONS {
        collections["collections"] = all.iter().map(|one| collection(store, one)).collect();
        collections["snapshots"] = all.iter().map(|one| snapshots(one)).collect();
    }
    let resident = resident_bytes();
    json!({
        "id": store.id.to_string(),
        "app": app(store),
        "collections": collections,
        "cluster": { "enabled": false, "config": {
            "grpc_timeout_ms": 60000,
            "p2p": { "connection_pool_size": 2 },
            "consensus": { "max_message_queue_size": 100, "tick_period_ms": 100, "bootstrap_timeout_sec": 15 },
        }},
        "requests": { "rest": { "responses": responses(traffic) }, "grpc": { "responses": {} } },
        "memory": {
            "active_bytes": resident,
            "allocated_bytes": resident,
            "metadata_bytes": 0,
            "resident_bytes": resident,
            "retained_bytes": 0,
        },
        "hardware": { "collection_data": all.iter().map(|one| (one.name().to_owned(), hardware())).collect::<Map<_, _>>() },
    })
}

fn hardware() -> Value {
    json!({
        "cpu": 0,
        "payload_io_read": 0,
        "payload_io_write": 0,
        "payload_index_io_read": 0,
        "payload_index_io_write": 0,
        "vector_io_read": 0,
        "vector_io_write": 0,
    })
}

fn app(store: &Store) -> Value {
    json!({
        "name": "qdrant",
        "version": VERSION,
        "features": {
            "debug": cfg!(debug_assertions),
            "service_debug_feature": false,
            "recovery_mode": false,
            "gpu": false,
            "rocksdb": false,
        },
        "runtime_features": {
            "all": true,
            "payload_index_skip_rocksdb": true,
            "payload_index_skip_mutable_rocksdb": true,
            "payload_storage_skip_rocksdb": true,
            "incremental_hnsw_building": true,
            "migrate_rocksdb_id_tracker": true,
            "migrate_rocksdb_vector_storage": true,
            "migrate_rocksdb_payload_storage": true,
            "migrate_rocksdb_payload_indices": true,
            "appendable_quantization": true,
        },
        "hnsw_global_config": { "healing_threshold": 0.3 },
        "system": {
            "distribution": "stand-in",
            "distribution_version": "0",
            "is_docker": false,
            "cores": std::thread::available_parallelism().map_or(1, usize::from),
            "ram_size": 0,
            "disk_size": 0,
            "cpu_flags": "",
            "cpu_endian": "little",
        },
        "startup": milliseconds(store.started),
    })
}

fn milliseconds(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

fn snapshots(collection: &Collection) -> Value {
    json!({
        "id": collection.name(),
        "running_snapshots": 0,
        "running_snapshot_recovery": 0,
        "total_snapshot_creations": collection.snapshots_made(),
    })
}

fn collection(store: &Store, collection: &Collection) -> Value {
    let info = collection.info();
    let mut config = json!(info.config);
    config["uuid"] = Value::Null;
    json!({
        "id": collection.name(),
        "init_time_ms": 0,
        "config": config,
        "shards": [{
            "id": 0,
            "key": null,
            "local": shard(store, collection, &info),
            "remote": [],
            "replicate_states": { store.peer.to_string(): "Active" },
            "partial_snapshot": {
                "ongoing_create_snapshot_requests": 0,
                "is_recovering": false,
                "recovery_timestamp": 0,
            },
        }],
        "transfers": [],
        "resharding": [],
    })
}

fn shard(store: &Store, collection: &Collection, info: &Info) -> Value {
    let dense = info.config.dense();
    let points = info.shard.points_count;
    let by_name: Map<String, Value> = dense.iter().map(|(name, _)| ((*name).to_owned(), json!(points))).collect();
    let excluded: Map<String, Value> = dense.iter().map(|(name, _)| ((*name).to_owned(), json!(0))).collect();
    let runs = collection.optimizer.runs();
    let log: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "name": run.name,
                "segment_ids": [0],
                "status": if run.ended.is_some() { "done" } else { "optimizing" },
                "start_at": nanoseconds(run.started),
                "end_at": run.ended.map(nanoseconds),
            })
        })
        .collect();
    let took = |run: &Run| Some(run.ended?.duration_since(run.started).as_micros() as f64);
    let took: Vec<f64> = runs.iter().filter_map(took).collect();
    let total: f64 = took.iter().sum();
    let last = runs.iter().find_map(|run| run.ended).unwrap_or(store.started);
    let mut optimizations =
        json!({ "count": took.len(), "total_duration_micros": total as u64, "last_responded": milliseconds(last) });
    if !took.is_empty() {
        optimizations["avg_duration_micros"] = json!(total / took.len() as f64);
        optimizations["min_duration_micros"] = json!(took.iter().copied().fold(f64::INFINITY, f64::min));
        optimizations["max_duration_micros"] = json!(took.iter().copied().fold(0.0, f64::max));
    }
    json!({
        "variant_name": "local shard",
        "status": info.colour,
        "total_optimized_points": 0,
        "vectors_size_bytes": vector_bytes(info, points),
        "payloads_size_bytes": points * PAYLOAD_BYTES,
        "num_points": points,
        "num_vectors": points * dense.len(),
        "num_vectors_by_name": by_name,
        "segments": segments(collection, info),
        "optimizations": { "status": "ok", "optimizations": optimizations, "log": log },
        "async_scorer": false,
        "indexed_only_excluded_vectors": excluded,
    })
}

fn vector_bytes(info: &Info, points: usize) -> usize {
    info.config.dense().iter().map(|(_, params)| params.size.get() as usize * 4 * points).sum()
}

/// Segments with their real configuration. Points are divided evenly among those with a graph, and those without.
fn segments(collection: &Collection, info: &Info) -> Vec<Value> {
    let entries =
        fs::read_dir(collection.segments()).map_or_else(|_| Vec::new(), |entries| entries.flatten().collect());
    let mut configs: Vec<(bool, Value)> = entries
        .iter()
        .filter_map(|entry| segment_config(&entry.path()))
        .map(|config| (config.to_string().contains("\"hnsw\""), config))
        .collect();
    configs.sort_by_key(|(indexed, _)| *indexed);
    let with_graph = configs.iter().filter(|(indexed, _)| *indexed).count();
    let in_graphs = info.shard.indexed_vectors_count.min(info.shard.points_count);
    let without = (info.shard.points_count - in_graphs) / (configs.len() - with_graph).max(1);
    let within = in_graphs / with_graph.max(1);
    let ghosts = (info.shard.indexed_vectors_count - in_graphs) / with_graph.max(1);
    configs
        .into_iter()
        .map(|(indexed, config)| {
            let (points, ghosts) = if indexed { (within, ghosts) } else { (without, 0) };
            segment(info, indexed, points, ghosts, config)
        })
        .collect()
}

fn segment(info: &Info, indexed: bool, points: usize, ghosts: usize, mut config: Value) -> Value {
    let indexed_vectors = if indexed { points + ghosts } else { 0 };
    for vector in config["vector_data"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        vector["quantization_config"] = Value::Null;
    }
    let vector_data: Map<String, Value> = info
        .config
        .dense()
        .iter()
        .map(|(name, _)| {
            let counts = json!({
                "num_vectors": points,
                "num_indexed_vectors": indexed_vectors,
                "num_deleted_vectors": ghosts,
            });
            ((*name).to_owned(), counts)
        })
        .collect();
    let schema: Map<String, Value> = info
        .shard
        .payload_schema
        .iter()
        .map(|(key, index)| (key.to_string(), json!({ "data_type": index.data_type, "points": points })))
        .collect();
    let field_indices: Vec<Value> = info
        .shard
        .payload_schema
        .keys()
        .flat_map(|key| {
            let map = if indexed { "immutable_map" } else { "mutable_map" };
            [map, "mutable_null_index"].map(|kind| {
                json!({
                    "field_name": key.to_string(),
                    "index_type": kind,
                    "points_values_count": points,
                    "points_count": points,
                })
            })
        })
        .collect();
    let searches: Vec<Value> = info.config.dense().iter().map(|(name, _)| json!({ "index_name": name })).collect();
    json!({
        "info": {
            "segment_type": if indexed { "indexed" } else { "plain" },
            "num_vectors": points,
            "num_points": points,
            "num_indexed_vectors": indexed_vectors,
            "num_deleted_vectors": ghosts,
            "vectors_size_bytes": vector_bytes(info, points),
            "payloads_size_bytes": points * PAYLOAD_BYTES,
            "ram_usage_bytes": 0,
            "disk_usage_bytes": 0,
            "is_appendable": !indexed,
            "index_schema": schema,
            "vector_data": vector_data,
        },
        "config": config,
        "vector_index_searches": searches,
        "payload_field_indices": field_indices,
    })
}

fn responses(traffic: &BTreeMap<Endpoint, Tally>) -> Value {
    let mut shown = Map::new();
    for ((method, path, status), tally) in traffic {
        let statuses = shown.entry(format!("{method} {path}")).or_insert_with(|| json!({}));
        statuses[status.to_string()] = json!({
            "count": tally.count,
            "avg_duration_micros": tally.total.as_micros() as f64 / tally.count as f64,
            "min_duration_micros": tally.min.as_micros() as f64,
            "max_duration_micros": tally.max.as_micros() as f64,
            "total_duration_micros": tally.total.as_micros() as u64,
            "last_responded": milliseconds(tally.last),
        });
    }
    shown.into()
}
