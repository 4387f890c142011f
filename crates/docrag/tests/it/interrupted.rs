//! Indexes that are not what they should be, and models that have not made everything yet.

use crate::endpoint::DIMENSION;
use crate::outbox::{agrees, with_pgvector, with_qdrant};
use crate::scene::{Scene, body, caller, eventually, ingested};
use docrag::index::pgvector::PgvectorIndex;
use docrag::index::{Change, Point};
use docrag::search::{SearchMode, SearchRequest, SearchResponse};
use docrag::service::{ModelState, Service};
use docrag::settings::{PgvectorSettings, Settings};
use groundskeeper_qdrant::QdrantServer;
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// So long is looked at what must not happen.
const A_WHILE: Duration = Duration::from_millis(1_500);

const APPLIED: &str = "SELECT applied_seq FROM followers WHERE replica = 'shared'";

/// A service has taken in twenty chunks and has ended.
async fn ended(scene: &Scene, settings: &Settings) {
    let (service, background) = scene.service_with(settings.clone()).await;
    ingested(&service, "a", &body(0..20)).await;
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_vectors_have_another_length_neither_feeds_nor_rebuilds_a_shared_index() {
    let scene = Scene::start_with_pgvector().await;
    let settings = with_pgvector(&scene);
    ended(&scene, &settings).await;
    let client = scene.postgres.client().await;
    client.batch_execute("UPDATE followers SET applied_seq = 0 WHERE replica = 'shared'").await.unwrap();
    let mut other = settings.clone();
    other.embedding.dimension = DIMENSION / 2;
    let (service, background) = scene.service_with(other).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(scene.number(APPLIED).await, 0, "what it cannot apply waits for others");
    let error = service.reindex(false, Arc::new(|_, _| {})).await.unwrap_err().to_string();
    assert!(error.contains("32 numbers") && error.contains("--re-embed"), "{error}");
    background.stop().await;
    drop(service);

    let (service, background) = scene.service_with(settings).await;
    eventually("the index is fed", async || scene.number(APPLIED).await > 0).await;
    eventually("index and Postgres agree", async || agrees(&scene, &service).await).await;
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qdrant_that_was_replaced_by_an_empty_one_is_filled_again() {
    let (scene, first, second) = tokio::join!(Scene::start(), QdrantServer::start(), QdrantServer::start());
    let (first, second) = (first.unwrap(), second.unwrap());
    ended(&scene, &with_qdrant(&scene, &first)).await;
    let (service, background) = scene.service_with(with_qdrant(&scene, &second)).await;
    eventually("the new one is filled", async || agrees(&scene, &service).await).await;
    ingested(&service, "b", &body(20..23)).await;
    assert!(agrees(&scene, &service).await);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_index_that_was_emptied_is_filled_again() {
    let scene = Scene::start_with_pgvector().await;
    let (service, background) = scene.service_with(with_pgvector(&scene)).await;
    ingested(&service, "a", &body(0..20)).await;
    scene.postgres.client().await.batch_execute("DELETE FROM dense_served").await.unwrap();
    eventually("it is filled", async || agrees(&scene, &service).await).await;
    background.stop().await;
}

/// `kill -9` after the switch of builds and before the switch of models.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_ended_between_its_switches_is_put_right_by_whoever_feeds_next() {
    let scene = Scene::start_with_pgvector().await;
    let settings = with_pgvector(&scene);
    ended(&scene, &settings).await;
    let pool = PgPoolOptions::new().max_connections(2).connect(&scene.postgres.url()).await.unwrap();
    let index = PgvectorIndex::open(pool.clone(), &PgvectorSettings::default(), DIMENSION).await.unwrap();
    let point = Point {
        id: Uuid::from_u128(1),
        doc_id: Uuid::from_u128(2),
        tenant: "acme".to_owned(),
        corpus: "manual".to_owned(),
        chunk_hash: vec![0; 32],
        model_fingerprint: "another:0".to_owned(),
        generation: 2,
        vector: vec![1.0 / (DIMENSION as f32).sqrt(); DIMENSION],
    };
    index.begin_build(9).await.unwrap();
    index.fill_build(9, vec![Change::Upsert(point)]).await.unwrap();
    index.switch_build(9).await.unwrap();
    pool.close().await;
    let (service, background) = scene.service_with(settings.clone()).await;
    eventually("the serving model's vectors are back", async || agrees(&scene, &service).await).await;
    background.stop().await;
    drop(service);

    // The same with a build whose number is right and whose vectors are not.
    let client = scene.postgres.client().await;
    client
        .batch_execute(
            "UPDATE followers SET generation = generation + 1 WHERE replica = 'shared';
             DELETE FROM dense_served WHERE id IN (SELECT id FROM dense_served LIMIT 5)",
        )
        .await
        .unwrap();
    let (service, background) = scene.service_with(settings).await;
    eventually("the serving model's vectors are back", async || agrees(&scene, &service).await).await;
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refill_waits_for_a_rebuild_of_another_process() {
    let scene = Scene::start_with_pgvector().await;
    let settings = with_pgvector(&scene);
    ended(&scene, &settings).await;
    let client = scene.postgres.client().await;
    // REBUILD_LOCK.
    let lock = "DELETE FROM dense_served; SELECT pg_advisory_lock((x'646f6372'::bigint << 32) | 4)";
    client.batch_execute(lock).await.unwrap();
    let (service, background) = scene.service_with(settings).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(service.dense().count().await.unwrap(), 0);
    drop(client);
    eventually("it is filled", async || agrees(&scene, &service).await).await;
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_wait_for_a_shared_index_in_which_nothing_has_changed_for_long() {
    let (scene, qdrant) = tokio::join!(Scene::start(), QdrantServer::start());
    let mut qdrant = qdrant.unwrap();
    let mut settings = with_qdrant(&scene, &qdrant);
    settings.index.qdrant.timeout_seconds = 2;
    let (service, background) = scene.service_with(settings).await;
    let document = ingested(&service, "a", &body(0..5)).await;
    ingested(&service, "b", &body(5..8)).await;
    qdrant.stop().await.unwrap();
    let client = scene.postgres.client().await;
    let idle = "UPDATE followers SET seen_at = now() - interval '2 hours' WHERE replica = 'shared'";
    client.batch_execute(idle).await.unwrap();
    service.delete(&caller(), document.id).await.unwrap();
    eventually("the index is known to be in use", async || {
        let seen = "SELECT count(*) FROM followers WHERE replica = 'shared' AND seen_at > now() - interval '1 hour'";
        scene.number(seen).await == 1
    })
    .await;
    tokio::time::sleep(A_WHILE).await;
    let tombstones = "SELECT count(*) FROM documents WHERE state = 'deleted'";
    assert_eq!(scene.number(tombstones).await, 1);
    qdrant.start_again().await.unwrap();
    eventually("the index has followed", async || {
        scene.number(tombstones).await == 0 && agrees(&scene, &service).await
    })
    .await;
    background.stop().await;
}

async fn search(service: &Service) -> SearchResponse {
    let request = json!({"query": "paragraph number 7 says", "corpus": "manual"});
    let request: SearchRequest = serde_json::from_value(request).unwrap();
    service.search(&caller(), request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_everything_is_embedded_again_words_are_searched_and_it_says_so_also_when_the_command_was_killed() {
    let scene = Scene::start().await;
    let settings = scene.settings();
    Box::pin(embed_again(&scene, settings, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_everything_is_embedded_again_words_are_searched_and_it_says_so_with_a_shared_index_too() {
    let scene = Scene::start_with_pgvector().await;
    let settings = with_pgvector(&scene);
    Box::pin(embed_again(&scene, settings, false)).await;
}

async fn embed_again(scene: &Scene, mut settings: Settings, killed: bool) {
    settings.ingest.batch = 4;
    // Nothing is missing for the first model ever.
    let (service, background) = scene.service_with(settings.clone()).await;
    ingested(&service, "a", &body(0..20)).await;
    let found = search(&service).await;
    assert_eq!((found.mode, found.degraded), (SearchMode::Hybrid, None));
    background.stop().await;
    drop(service);

    scene.endpoint.swap_model();
    let (service, background) = scene.service_with(settings).await;
    scene.endpoint.set_delay(Duration::from_millis(500));
    let command = tokio::spawn({
        let service = service.clone();
        async move { service.reindex(true, Arc::new(|_, _| {})).await }
    });
    eventually("the other model makes vectors", async || {
        matches!(service.model_state(), ModelState::Unavailable { reason } if reason.contains("embedded again"))
    })
    .await;
    let found = search(&service).await;
    assert_eq!(found.mode, SearchMode::Lexical);
    assert!(found.degraded.as_ref().is_some_and(|why| why.contains("embedded again")), "{found:?}");
    assert!(!found.passages.is_empty());
    if killed {
        command.abort();
    } else {
        command.await.unwrap().unwrap();
    }
    eventually("dense search is on", async || matches!(service.model_state(), ModelState::Serving { .. })).await;
    assert!(agrees(scene, &service).await, "not before everything is there");
    assert_eq!(scene.number("SELECT count(*) FROM vectors WHERE generation = 1").await, 0);
    scene.endpoint.set_delay(Duration::ZERO);
    let found = search(&service).await;
    assert_eq!((found.mode, found.degraded), (SearchMode::Hybrid, None));
    background.stop().await;
}
