//! What is left after `kill -9`, and of a server that does not answer.

use std::time::Duration;

use groundskeeper_qdrant::QdrantServer;
use qdrant_client::Qdrant;
use qdrant_client::qdrant::{
    CollectionStatus, CountPointsBuilder, CreateAliasBuilder, CreateCollectionBuilder, DeletePointsBuilder, Distance,
    OptimizersConfigDiff, PointsIdsList, UpsertPointsBuilder, VectorParamsBuilder,
};
use tokio::time::timeout;

use crate::conformance::http::{authority, send};
use crate::grpc::{client, filled, points};

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut server = QdrantServer::start().await.unwrap();
    let before = client(&server);
    filled(&before, "docs", 50).await;
    before.create_alias(CreateAliasBuilder::new("docs", "current")).await.unwrap();
    before.upsert_points(UpsertPointsBuilder::new("docs", points(50..60)).wait(true)).await.unwrap();
    let ids = PointsIdsList { ids: vec![0.into()] };
    before.delete_points(DeletePointsBuilder::new("docs").points(ids).wait(true)).await.unwrap();
    server.kill().await.unwrap();
    assert!(before.health_check().await.is_err());
    for _ in 0..2 {
        server.start_again().await.unwrap();
        let after = client(&server);
        let count = after.count(CountPointsBuilder::new("current").exact(true)).await.unwrap();
        assert_eq!(count.result.unwrap().count, 59);
        server.stop().await.unwrap();
    }
}

/// The engine has deletes and moved points only in memory while it rebuilds.
#[tokio::test]
async fn a_kill_during_a_rebuild_loses_nothing_and_doubles_nothing() {
    let mut server = QdrantServer::start().await.unwrap();
    let before = client(&server);
    let small = OptimizersConfigDiff { indexing_threshold: Some(20), ..OptimizersConfigDiff::default() };
    let vectors = VectorParamsBuilder::new(4, Distance::Cosine);
    let create = CreateCollectionBuilder::new("docs").vectors_config(vectors).optimizers_config(small);
    before.create_collection(create).await.unwrap();
    server.hold_optimizers("docs").await.unwrap();
    before.upsert_points(UpsertPointsBuilder::new("docs", points(0..6000)).wait(true)).await.unwrap();
    assert_eq!(colour(&before).await, CollectionStatus::Yellow);
    server.release_optimizers("docs").await.unwrap();
    before.upsert_points(UpsertPointsBuilder::new("docs", points(100..200)).wait(true)).await.unwrap();
    let ids = PointsIdsList { ids: vec![0.into()] };
    before.delete_points(DeletePointsBuilder::new("docs").points(ids).wait(true)).await.unwrap();
    server.kill().await.unwrap();
    server.start_again().await.unwrap();
    let after = client(&server);
    let count = after.count(CountPointsBuilder::new("docs").exact(true)).await.unwrap();
    assert_eq!(count.result.unwrap().count, 5999);
}

async fn colour(client: &Qdrant) -> CollectionStatus {
    client.collection_info("docs").await.unwrap().result.unwrap().status()
}

#[tokio::test]
async fn a_collection_comes_back_from_its_snapshot_with_its_alias() {
    let server = QdrantServer::start().await.unwrap();
    let client = client(&server);
    filled(&client, "docs", 40).await;
    client.create_alias(CreateAliasBuilder::new("docs", "current")).await.unwrap();
    let snapshot = client.create_snapshot("docs").await.unwrap().snapshot_description.unwrap();
    let ids = PointsIdsList { ids: vec![0.into(), 1.into()] };
    client.delete_points(DeletePointsBuilder::new("docs").points(ids).wait(true)).await.unwrap();
    let path = server.storage().join("snapshots/docs").join(snapshot.name);
    let body = format!(r#"{{"location": "file://{}"}}"#, path.display());
    let server_at = authority(&server.http_url()).to_owned();
    let recovered = send(&server_at, "PUT", "/collections/docs/snapshots/recover", Some(&body)).await;
    assert_eq!((recovered.status, &recovered.json()["result"]), (200, &true.into()), "{}", recovered.text());
    let count = client.count(CountPointsBuilder::new("current").exact(true)).await.unwrap();
    assert_eq!(count.result.unwrap().count, 40);
}

#[tokio::test]
async fn a_frozen_server_answers_when_it_is_thawed() {
    let server = QdrantServer::start().await.unwrap();
    let client = client(&server);
    server.freeze().unwrap();
    assert!(timeout(Duration::from_millis(300), client.health_check()).await.is_err());
    server.thaw().unwrap();
    client.health_check().await.unwrap();
}
