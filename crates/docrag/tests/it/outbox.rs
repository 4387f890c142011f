//! What is committed reaches every index, in order, whatever happens in between.

use crate::endpoint::DIMENSION;
use crate::scene::{Scene, TENANT, accept, body, caller, eventually, held, ingested, paragraph, settled};
use docrag::index::Scope;
use docrag::service::{ModelState, Service};
use docrag::settings::{IndexKind, Settings};
use docrag::store::documents::DocumentState;
use groundskeeper_qdrant::QdrantServer;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) async fn agrees(scene: &Scene, service: &Service) -> bool {
    let vectors = scene.vectors().await;
    let words: Vec<_> = service.lexical().held();
    held(service).await == vectors && words == vectors.keys().copied().collect::<Vec<_>>()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_the_work_and_both_find_everything() {
    let scene = Scene::start().await;
    let (one, first) = scene.service().await;
    ingested(&one, "early", &body(0..5)).await;
    let (two, second) = scene.service().await;
    scene.endpoint.set_delay(Duration::from_millis(20));
    let mut ids = Vec::new();
    for number in 1..30 {
        ids.push(accept(&one, &format!("{number}"), &body(number * 5..number * 5 + 5)).await.id);
    }
    // Not waiting for the indexes: changes and deletions meet documents that are still on their way.
    for number in 1..10 {
        two.delete(&caller(), ids[number + 10]).await.unwrap();
        let changed = body((number * 5..number * 5 + 5).chain([1_000 + number]));
        accept(&two, &format!("{number}"), &changed).await;
    }
    settled(&one, &ids).await;
    settled(&two, &ids).await;
    eventually("both agree with Postgres", async || agrees(&scene, &one).await && agrees(&scene, &two).await).await;
    eventually("versions are the same", async || one.index_version(TENANT) == two.index_version(TENANT)).await;
    assert!(scene.endpoint.asked().values().all(|times| *times == 1), "two processes never embed the same text");
    first.stop().await;
    second.stop().await;
    assert_eq!(scene.number("SELECT count(*) FROM followers").await, 0);
}

/// Numbers are given out in the order of commits, so a reader that has seen one has seen all before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_outbox_never_sees_a_number_appear_below_one_that_it_has_seen() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    let ended = Arc::new(AtomicBool::new(false));
    let client = scene.postgres.client().await;
    let reader = tokio::spawn({
        let ended = Arc::clone(&ended);
        async move {
            let (mut seen, mut highest) = (BTreeSet::new(), 0);
            while !ended.load(Ordering::Relaxed) {
                for row in client.query("SELECT seq FROM outbox", &[]).await.unwrap() {
                    let seq: i64 = row.get(0);
                    assert!(!seen.insert(seq) || seq > highest, "{seq} was committed after {highest} was seen");
                }
                highest = seen.last().copied().unwrap_or(0);
            }
            seen.len()
        }
    });
    let writers = (0..8).map(|writer| {
        let service = service.clone();
        tokio::spawn(async move {
            for round in 0..40 {
                let id = accept(&service, &format!("{writer} {}", round % 5), &body([writer * 100 + round])).await.id;
                if round % 4 == 3 {
                    service.delete(&caller(), id).await.unwrap();
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    eventually("all is followed", async || agrees(&scene, &service).await).await;
    ended.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 20);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_behind_what_was_pruned_is_made_anew() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    let gone = ingested(&service, "gone", &body(0..5)).await;
    ingested(&service, "stays", &body(5..10)).await;
    // As if this process had slept while others went on: entries came and were pruned.
    let client = scene.postgres.client().await;
    client
        .batch_execute(&format!(
            "BEGIN; DELETE FROM vectors WHERE doc_id = '{}';
             UPDATE outbox_pruned SET seq = nextval(pg_get_serial_sequence('outbox', 'seq'));
             DELETE FROM outbox; COMMIT; NOTIFY docrag_outbox;",
            gone.id
        ))
        .await
        .unwrap();
    eventually("both indexes were filled again", async || agrees(&scene, &service).await).await;
    ingested(&service, "later", &body(10..12)).await;
    assert!(agrees(&scene, &service).await);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followed_entries_are_pruned_after_ten_minutes_and_not_before() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    ingested(&service, "a", &body(0..5)).await;
    background.stop().await;
    let client = scene.postgres.client().await;
    client
        .execute("UPDATE outbox SET created_at = now() - interval '11 minutes' WHERE change = 'text'", &[])
        .await
        .unwrap();
    // Pruning is the first thing that housekeeping does.
    let (service, background) = scene.service().await;
    eventually("old entries are gone", async || {
        scene.number("SELECT count(*) FROM outbox WHERE change = 'text'").await == 0
    })
    .await;
    assert!(scene.number("SELECT count(*) FROM outbox").await > 0);
    ingested(&service, "b", &body(5..7)).await;
    assert!(agrees(&scene, &service).await);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_in_memory_under_writes_and_searches_loses_nothing_and_is_never_seen_half_done() {
    let scene = Scene::start().await;
    let settings = scene.settings();
    rebuild_under_load(&scene, settings, "memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_in_qdrant_under_writes_and_searches_loses_nothing_and_is_never_seen_half_done() {
    let (scene, qdrant) = (Scene::start().await, QdrantServer::start().await.unwrap());
    let settings = with_qdrant(&scene, &qdrant);
    rebuild_under_load(&scene, settings, "qdrant").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_in_pgvector_under_writes_and_searches_loses_nothing_and_is_never_seen_half_done() {
    let scene = Scene::start_with_pgvector().await;
    let settings = with_pgvector(&scene);
    rebuild_under_load(&scene, settings, "pgvector").await;
}

pub(crate) fn with_pgvector(scene: &Scene) -> Settings {
    let mut settings = scene.settings();
    settings.index.kind = IndexKind::Pgvector;
    settings
}

pub(crate) fn with_qdrant(scene: &Scene, qdrant: &QdrantServer) -> Settings {
    let mut settings = scene.settings();
    settings.index.kind = IndexKind::Qdrant;
    settings.index.qdrant.url = qdrant.url();
    settings
}

async fn rebuild_under_load(scene: &Scene, settings: Settings, index: &str) {
    let (service, background) = scene.service_with(settings).await;
    let mut ids = Vec::new();
    for number in 0..40 {
        ids.push(accept(&service, &format!("{number}"), &body(number * 5..number * 5 + 5)).await.id);
    }
    settled(&service, &ids).await;
    let stable: BTreeSet<_> = scene.vectors().await.into_keys().collect();
    let ended = Arc::new(AtomicBool::new(false));
    let searching = tokio::spawn({
        let (service, ended, stable) = (service.clone(), Arc::clone(&ended), stable.clone());
        async move {
            let mut looks = 0;
            while !ended.load(Ordering::Relaxed) {
                // One question, so that it sees one build: what is held is listed page by page.
                let scope = Scope { tenant: TENANT.to_owned(), corpus: "manual".to_owned() };
                let vector = [1.0 / (DIMENSION as f32).sqrt(); DIMENSION];
                let found = service.dense().search(&scope, &None, &vector, 2_000, true).await.unwrap();
                let now: BTreeSet<_> = found.into_iter().map(|hit| hit.id).collect();
                assert!(stable.is_subset(&now), "a chunk was missing for a moment");
                looks += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            looks
        }
    });
    let writing = tokio::spawn({
        let (service, ended) = (service.clone(), Arc::clone(&ended));
        async move {
            let mut number = 1_000;
            while !ended.load(Ordering::Relaxed) {
                let id = accept(&service, &format!("new {}", number % 10), &paragraph(number)).await.id;
                if number % 5 == 0 {
                    service.delete(&caller(), id).await.unwrap();
                }
                number += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    for _ in 0..3 {
        service.reindex(false, Arc::new(|_, _| {})).await.unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    assert!(searching.await.unwrap() > 3);
    eventually("index and Postgres agree", async || agrees(scene, &service).await).await;
    let status = service.status(None).await.unwrap();
    let built = status.indexes.iter().find(|one| one.index == index).unwrap();
    assert_eq!(built.build, 4);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_model_is_noticed_at_start_and_healed_by_embedding_again() {
    let scene = Scene::start().await;
    let settings = scene.settings();
    Box::pin(swap_the_model(&scene, settings)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_model_is_noticed_at_start_and_healed_by_embedding_again_in_qdrant_too() {
    let (scene, qdrant) = (Scene::start().await, QdrantServer::start().await.unwrap());
    let settings = with_qdrant(&scene, &qdrant);
    Box::pin(swap_the_model(&scene, settings)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_model_is_noticed_at_start_and_healed_by_embedding_again_in_pgvector_too() {
    let scene = Scene::start_with_pgvector().await;
    let settings = with_pgvector(&scene);
    Box::pin(swap_the_model(&scene, settings)).await;
}

async fn swap_the_model(scene: &Scene, settings: Settings) {
    let (service, background) = scene.service_with(settings.clone()).await;
    let before = ingested(&service, "a", &body(0..20)).await;
    let chunks = scene.endpoint.count();
    background.stop().await;
    drop(service);

    scene.endpoint.swap_model();
    scene.endpoint.forget();
    let (service, background) = scene.service_with(settings).await;
    assert!(matches!(service.model_state(), ModelState::Differs { .. }), "{:?}", service.model_state());
    let ready = service.ready().await;
    let embedder = ready.iter().find(|one| one.name == "embedder").unwrap();
    assert!(!embedder.ok && !embedder.required && embedder.detail.contains("reindex --re-embed"), "{embedder:?}");
    let waiting = accept(&service, "b", &body(20..23)).await.id;
    eventually("words are found meanwhile", async || service.lexical().count() as usize > chunks).await;
    assert_eq!(service.document(&caller(), waiting).await.unwrap().state, DocumentState::Chunked);
    assert_eq!(scene.endpoint.count(), 0, "nothing is embedded by a model that does not serve");
    let error = service.reindex(false, Arc::new(|_, _| {})).await.unwrap_err().to_string();
    assert!(error.contains("docrag reindex --re-embed"), "{error}");

    service.reindex(true, Arc::new(|_, _| {})).await.unwrap();
    eventually("dense search is on", async || matches!(service.model_state(), ModelState::Serving { .. })).await;
    let documents = settled(&service, &[before.id, waiting]).await;
    assert!(documents.iter().all(|document| document.state == DocumentState::Indexed), "{documents:?}");
    eventually("all vectors are there", async || agrees(scene, &service).await).await;
    assert!(scene.endpoint.count() > chunks);
    assert_eq!(scene.number("SELECT count(DISTINCT generation) FROM vectors").await, 1);
    assert!(scene.endpoint.asked().values().all(|times| *times == 1));
    background.stop().await;
}
