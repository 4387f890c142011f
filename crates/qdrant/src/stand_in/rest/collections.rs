//! `/collections`, `/aliases`.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Rest;
use super::answer::body;
use crate::stand_in::engine::collection::{Collection, Info};
use crate::stand_in::engine::store::AliasAction;

pub(super) async fn list(State(rest): State<Rest>) -> Response {
    rest.answer(|store| {
        let names: Vec<Value> = store.all().iter().map(|collection| json!({ "name": collection.name() })).collect();
        Ok(json!({ "collections": names }))
    })
    .await
}

pub(super) async fn create(State(rest): State<Rest>, Path(name): Path<String>, bytes: Bytes) -> Response {
    rest.answer(move |store| {
        store.create(&name, body(&bytes)?)?;
        Ok(true)
    })
    .await
}

pub(super) async fn update(State(rest): State<Rest>, Path(name): Path<String>, bytes: Bytes) -> Response {
    rest.answer(move |store| {
        let update = body(&bytes)?;
        store.collection(&name)?.configure(update)?;
        Ok(true)
    })
    .await
}

pub(super) async fn drop_collection(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    rest.answer(move |store| store.drop_collection(&name)).await
}

pub(super) async fn exists(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    rest.answer(move |store| Ok(json!({ "exists": store.exists(&name) }))).await
}

pub(super) async fn info(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    rest.answer(move |store| Ok(info_json(store.collection(&name)?.info()))).await
}

fn info_json(info: Info) -> Value {
    let schema: serde_json::Map<String, Value> =
        info.shard.payload_schema.into_iter().map(|(key, index)| (key.to_string(), json!(index))).collect();
    json!({
        "status": info.colour,
        "optimizer_status": "ok",
        "indexed_vectors_count": info.shard.indexed_vectors_count,
        "points_count": info.shard.points_count,
        "segments_count": info.shard.segments_count,
        "config": info.config,
        "payload_schema": schema,
    })
}

pub(super) async fn cluster(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    rest.answer(move |store| {
        let points = store.collection(&name)?.info().shard.points_count;
        Ok(json!({
            "peer_id": store.peer,
            "shard_count": 1,
            "local_shards": [{ "shard_id": 0, "points_count": points, "state": "Active" }],
            "remote_shards": [],
            "shard_transfers": [],
        }))
    })
    .await
}

pub(super) async fn optimizations(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    rest.answer(move |store| Ok(json!({ "ongoing": ongoing(&*store.collection(&name)?) }))).await
}

/// The rebuild that runs, or the one that waits for its turn: the real server shows both alike.
fn ongoing(collection: &Collection) -> Vec<Value> {
    let running = collection.optimizer.runs().into_iter().find(|run| run.ended.is_none()).map(|run| run.started);
    let waiting = collection.optimizer.waiting_since().filter(|_| collection.has_work());
    let Some(started) = running.or(waiting) else { return Vec::new() };
    let done = |name: &str| stage(name, started, Some(started));
    let children = [done("copy_data"), done("populate_vector_storages"), stage("wait_cpu_permit", started, None)];
    vec![json!({ "name": "Segment Optimizing", "started_at": nanoseconds(started), "children": children })]
}

fn stage(name: &str, started: Timestamp, finished: Option<Timestamp>) -> Value {
    let mut stage = json!({ "name": name, "started_at": nanoseconds(started) });
    if let Some(finished) = finished {
        stage["finished_at"] = json!(nanoseconds(finished));
        stage["duration_sec"] = json!(finished.duration_since(started).as_secs_f64());
    }
    stage
}

pub(super) fn nanoseconds(time: Timestamp) -> String {
    format!("{time:.9}")
}

pub(super) async fn all_aliases(State(rest): State<Rest>) -> Response {
    rest.answer(|store| Ok(aliases_json(store.aliases(None)))).await
}

pub(super) async fn aliases(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    rest.answer(move |store| Ok(aliases_json(store.aliases(Some(store.collection(&name)?.name()))))).await
}

fn aliases_json(aliases: Vec<(String, String)>) -> Value {
    let shown = |(alias, collection)| json!({ "alias_name": alias, "collection_name": collection });
    json!({ "aliases": aliases.into_iter().map(shown).collect::<Vec<Value>>() })
}

pub(super) async fn change_aliases(State(rest): State<Rest>, bytes: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Change {
        actions: Vec<AliasAction>,
    }
    rest.answer(move |store| {
        let change: Change = body(&bytes)?;
        store.change_aliases(change.actions)?;
        Ok(true)
    })
    .await
}
