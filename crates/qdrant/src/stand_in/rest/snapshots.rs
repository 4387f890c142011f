//! Snapshots of collections, of their shard, and of everything.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::Rest;
use super::answer::{self, body};
use crate::stand_in::engine::collection::Collection;
use crate::stand_in::engine::snapshot::Of;
use crate::stand_in::engine::store::Store;
use crate::stand_in::error::{Error, Result};

pub(super) async fn create_full(State(rest): State<Rest>) -> Response {
    rest.answer(|store| store.create_snapshot(Of::Everything)).await
}

pub(super) async fn list_full(State(rest): State<Rest>) -> Response {
    rest.answer(|store| store.list_snapshots(Of::Everything)).await
}

pub(super) async fn download_full(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    download_with(&rest, move |store| Ok(std::fs::read(store.snapshot_path(Of::Everything, &name)?)?)).await
}

pub(super) async fn delete_full(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    rest.answer(move |store| store.delete_snapshot(Of::Everything, &name).map(|()| true)).await
}

pub(super) async fn create(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    rest.answer(move |store| store.create_snapshot(Of::Collection(&*store.collection(&name)?))).await
}

pub(super) async fn list(State(rest): State<Rest>, Path(name): Path<String>) -> Response {
    rest.answer(move |store| store.list_snapshots(Of::Collection(&*store.collection(&name)?))).await
}

pub(super) async fn download(State(rest): State<Rest>, Path((name, snapshot)): Path<(String, String)>) -> Response {
    download_with(&rest, move |store| {
        let collection = store.collection(&name)?;
        Ok(std::fs::read(store.snapshot_path(Of::Collection(&collection), &snapshot)?)?)
    })
    .await
}

pub(super) async fn delete(State(rest): State<Rest>, Path((name, snapshot)): Path<(String, String)>) -> Response {
    rest.answer(move |store| {
        let collection = store.collection(&name)?;
        store.delete_snapshot(Of::Collection(&collection), &snapshot)?;
        Ok(true)
    })
    .await
}

/// A download that is refused says so in plain text.
async fn download_with(rest: &Rest, work: impl FnOnce(&Store) -> Result<Vec<u8>> + Send + 'static) -> Response {
    match rest.run(work).await {
        Ok(bytes) => answer::bytes(bytes),
        Err(error @ Error::NotFound(_)) => answer::text(StatusCode::NOT_FOUND, error.to_string()),
        Err(error) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub(super) async fn recover(State(rest): State<Rest>, Path(name): Path<String>, bytes: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Recover {
        location: String,
        checksum: Option<String>,
    }
    rest.answer(move |store| {
        let recover: Recover = body(&bytes)?;
        if recover.checksum.is_some() {
            return Err(Error::Unsupported("`checksum` of a snapshot to recover".to_owned()));
        }
        let Some(path) = recover.location.strip_prefix("file://") else {
            return Err(Error::Unsupported("snapshots from another place than a file".to_owned()));
        };
        store.recover(&name, path.as_ref())?;
        Ok(true)
    })
    .await
}

/// There is one shard, and it is number 0.
fn with_shard<T>(store: &Store, name: &str, shard: u32, work: impl FnOnce(&Collection) -> Result<T>) -> Result<T> {
    let collection = store.collection(name)?;
    if shard != 0 {
        return Err(Error::NotFound(format!("Shard {shard} not found")));
    }
    work(&collection)
}

pub(super) async fn create_of_shard(State(rest): State<Rest>, Path((name, shard)): Path<(String, u32)>) -> Response {
    rest.answer(move |store| with_shard(store, &name, shard, |one| store.create_snapshot(Of::Shard(one)))).await
}

pub(super) async fn list_of_shard(State(rest): State<Rest>, Path((name, shard)): Path<(String, u32)>) -> Response {
    rest.answer(move |store| with_shard(store, &name, shard, |one| store.list_snapshots(Of::Shard(one)))).await
}

pub(super) async fn download_of_shard(
    State(rest): State<Rest>,
    Path((name, shard, snapshot)): Path<(String, u32, String)>,
) -> Response {
    download_with(&rest, move |store| {
        let path = with_shard(store, &name, shard, |one| store.snapshot_path(Of::Shard(one), &snapshot))?;
        Ok(std::fs::read(path)?)
    })
    .await
}

pub(super) async fn delete_of_shard(
    State(rest): State<Rest>,
    Path((name, shard, snapshot)): Path<(String, u32, String)>,
) -> Response {
    rest.answer(move |store| {
        with_shard(store, &name, shard, |one| store.delete_snapshot(Of::Shard(one), &snapshot))?;
        Ok(true)
    })
    .await
}

pub(super) async fn stream_shard(State(rest): State<Rest>, Path((name, shard)): Path<(String, u32)>) -> Response {
    download_with(&rest, move |store| with_shard(store, &name, shard, |one| store.stream_shard(one))).await
}

pub(super) async fn manifest(State(rest): State<Rest>, Path((name, shard)): Path<(String, u32)>) -> Response {
    rest.answer(move |store| with_shard(store, &name, shard, Collection::manifest)).await
}
