//! Documents come in, change and go, and no text is embedded twice.

use crate::endpoint::POISON;
use crate::scene::{Scene, accept, body, caller, caller_of, document, eventually, held, ingested, paragraph, settled};
use docrag::service::{Outcome, Service, ServiceError};
use docrag::store::documents::{DocumentList, DocumentState};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_document_is_left_alone_and_a_changed_one_replaces_only_changed_chunks() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    let first = ingested(&service, "a", &body(0..12)).await;
    assert_eq!(first.version, 1);
    let all = scene.endpoint.count();
    assert!(all > 3, "{all} chunks");
    assert_eq!(first.chunk_count as usize, all);

    let again = accept(&service, "a", &body(0..12)).await;
    assert_eq!((again.version, again.outcome), (1, Outcome::Unchanged));
    let before = scene.vectors().await;
    let changed = format!("{}{}", body(0..11), paragraph(99));
    let second = ingested(&service, "a", &changed).await;
    assert_eq!(second.version, 2);
    let after = scene.vectors().await;
    let new = after.keys().filter(|id| !before.contains_key(*id)).count();
    assert_eq!(scene.endpoint.count(), all + new, "only what is new is embedded");
    assert!(new >= 1 && new < all, "{new} of {all}");
    assert!(before.keys().any(|id| !after.contains_key(id)), "what is gone is gone");
    assert_eq!(held(&service).await, after);
    assert!(scene.endpoint.asked().values().all(|times| *times == 1));
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_another_document_of_the_tenant_has_is_not_embedded_again_but_another_tenants_is() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    ingested(&service, "a", &body(0..6)).await;
    let all = scene.endpoint.count();
    ingested(&service, "b", &body(0..6)).await;
    assert_eq!(scene.endpoint.count(), all);
    assert_eq!(held(&service).await.len(), 2 * all);

    let theirs = service.accept(&caller_of("other"), document("a", &body(0..6))).await.unwrap();
    service.wait_until_indexed("other", &[theirs.id], crate::scene::WITHIN).await.unwrap();
    assert_eq!(scene.endpoint.count(), 2 * all);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_metadata_embeds_nothing_and_still_makes_another_index_version() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    ingested(&service, "a", &body(0..3)).await;
    ingested(&service, "b", &body(3..5)).await;
    let (count, version, theirs) = (scene.endpoint.count(), service.index_version("acme"), service.index_version("x"));
    assert_eq!(version, service.index_version("acme"));
    let mut same = document("a", &body(0..3));
    same.metadata.insert("team".to_owned(), "blue".into());
    assert_eq!(service.accept(&caller(), same).await.unwrap().outcome, Outcome::Unchanged);
    eventually("another version", async || service.index_version("acme") != version).await;
    assert_eq!(service.index_version("x"), theirs);
    assert_eq!(scene.endpoint.count(), count);
    let found = service.store().matching_documents("acme", "manual", &serde_json::json!({"team": "blue"}), 10).await;
    assert_eq!(found.unwrap().len(), 1);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_document_is_a_tombstone_until_all_have_followed_and_comes_back_when_it_is_sent_again() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    let document = ingested(&service, "a", &body(0..5)).await;
    let chunks = document.chunk_count as usize;
    // Another process that is alive and has not followed yet.
    let client = scene.postgres.client().await;
    client.execute("INSERT INTO followers (index_name, replica) VALUES ('memory', 'slow')", &[]).await.unwrap();

    service.delete(&caller(), document.id).await.unwrap();
    assert!(matches!(service.document(&caller(), document.id).await, Err(ServiceError::NotFound(_))));
    assert!(matches!(service.delete(&caller(), document.id).await, Err(ServiceError::NotFound(_))));
    eventually("the index has followed", async || held(&service).await.is_empty() && service.lexical().count() == 0)
        .await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(scene.number("SELECT count(*) FROM documents WHERE state = 'deleted'").await, 1);

    let back = ingested(&service, "a", &body(0..5)).await;
    assert_eq!((back.id, back.version, back.chunk_count as usize), (document.id, 3, chunks));
    assert_eq!(held(&service).await.len(), chunks);
    service.delete(&caller(), document.id).await.unwrap();
    client.execute("DELETE FROM followers WHERE replica = 'slow'", &[]).await.unwrap();
    let sql = "SELECT (SELECT count(*) FROM documents) + (SELECT count(*) FROM document_bodies)";
    eventually("the tombstone is removed", async || scene.number(sql).await == 0).await;
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_document_fails_alone_with_its_error_and_succeeds_once_it_is_mended() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    let bad = accept(&service, "bad", &format!("{}{POISON}", body(100..105))).await;
    let nothing = accept(&service, "nothing", " \n\n ").await;
    let mut good = Vec::new();
    for number in 0..10 {
        good.push(accept(&service, &format!("good {number}"), &body(number * 5..number * 5 + 5)).await.id);
    }
    for document in settled(&service, &good).await {
        assert_eq!(document.state, DocumentState::Indexed, "{document:?}");
    }
    let failed = settled(&service, &[bad.id]).await.pop().unwrap();
    assert_eq!(failed.state, DocumentState::Failed);
    assert!(failed.error.as_deref().is_some_and(|error| error.contains("400")), "{failed:?}");
    let empty = settled(&service, &[nothing.id]).await.pop().unwrap();
    assert_eq!(empty.state, DocumentState::Failed);
    assert!(empty.error.is_some());
    let status = service.status(Some("acme")).await.unwrap();
    assert_eq!(status.failures.len(), 2);
    let list = DocumentList { state: Some(DocumentState::Failed), limit: 1, ..DocumentList::default() };
    let page = service.documents(&caller(), list.clone()).await.unwrap();
    let next = service.documents(&caller(), DocumentList { cursor: page.next.clone(), ..list }).await.unwrap();
    assert_ne!(page.items[0].id, next.items[0].id);
    assert_eq!(next.next, None);

    assert_eq!(ingested(&service, "bad", &body(100..105)).await.version, 2);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_endpoint_is_away_no_document_fails_and_afterwards_all_get_on() {
    let scene = Scene::start().await;
    let mut settings = scene.settings();
    settings.ingest.attempts = 1;
    let (service, background) = scene.service_with(settings).await;
    scene.endpoint.set_away(true);
    let id = accept(&service, "a", &body(0..5)).await.id;
    eventually("its chunks are found by their words", async || service.lexical().count() > 0).await;
    eventually("the trouble is noted", async || service.document(&caller(), id).await.unwrap().error.is_some()).await;
    let waiting = service.document(&caller(), id).await.unwrap();
    assert_eq!((waiting.state, waiting.attempts), (DocumentState::Chunked, 0), "{waiting:?}");
    scene.endpoint.set_away(false);
    eventually("it is indexed", async || {
        service.document(&caller(), id).await.unwrap().state == DocumentState::Indexed
    })
    .await;
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_away_for_a_while_costs_no_document_and_nothing_is_embedded_twice_that_was_committed() {
    let mut scene = Scene::start().await;
    let mut settings = scene.settings();
    settings.database.acquire_seconds = 1;
    let (service, background) = scene.service_with(settings).await;
    scene.endpoint.set_delay(Duration::from_millis(30));
    let mut ids = Vec::new();
    for number in 0..40 {
        ids.push(accept(&service, &format!("{number}"), &body(number * 10..number * 10 + 10)).await.id);
    }
    eventually("some are embedded", async || scene.endpoint.count() > 20).await;
    scene.postgres.stop_immediate().await.unwrap();
    let error = service.accept(&caller(), document("x", "text")).await.unwrap_err();
    assert_eq!((error.status(), error.slug()), (503, "database-unavailable"), "{error}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.postgres.start_again().await.unwrap();
    for document in settled(&service, &ids).await {
        assert_eq!(document.state, DocumentState::Indexed, "{document:?}");
    }
    assert_eq!(held(&service).await, scene.vectors().await);
    let asked = scene.endpoint.asked();
    let twice = asked.values().filter(|times| **times > 1).count();
    let in_flight = service.settings().ingest.workers * service.settings().ingest.batch;
    assert!(twice <= in_flight, "{twice} texts were asked for again");
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_names_and_bodies_are_refused_with_what_is_wrong() {
    let scene = Scene::start().await;
    let mut settings = scene.settings();
    settings.limits.body_bytes = 1_000;
    let service = docrag::service::Service::open(settings).await.unwrap();
    let mut nul = document("a\0b", "text");
    let error = service.accept(&caller(), nul.clone()).await.unwrap_err();
    assert_eq!((error.status(), error.slug()), (422, "invalid"), "{error}");
    nul.source = "a".to_owned();
    nul.body = vec![b'x'; 1_001];
    assert_eq!(service.accept(&caller(), nul).await.unwrap_err().status(), 413);
    let mut rubbish = document("a", "text");
    rubbish.body = (0..=255).collect();
    assert_eq!(service.accept(&caller(), rubbish).await.unwrap_err().status(), 422);
    let mut reader = caller();
    reader.scopes.write = false;
    assert_eq!(service.accept(&reader, document("a", "text")).await.unwrap_err().status(), 403);
    assert_eq!(scene.number("SELECT count(*) FROM documents").await, 0);
    let sources = ["'; DROP TABLE documents; --", "ünï/çødé 🦀", "%s%n\\"];
    for source in sources {
        service.accept(&caller(), document(source, "some text")).await.unwrap();
    }
    let list = DocumentList { limit: 100, ..DocumentList::default() };
    let page = service.documents(&caller(), list).await.unwrap();
    assert!(page.items.iter().all(|document| sources.contains(&document.source.as_str())));
    assert_eq!(page.items.len(), 3);
}

/// Deleted while it is read, its row removed, and another file sent under the same name: the id is the same and the
/// version is 1 again. What was read of the first one is not the second one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_was_read_of_a_content_before_is_never_stored_as_the_text_of_another_with_the_same_version() {
    let scene = Scene::start().await;
    let service = Service::open(scene.settings()).await.unwrap();
    let id = accept(&service, "a", &body(0..3)).await.id;
    let mut client = scene.postgres.client().await;
    let replace = client.transaction().await.unwrap();
    let new = body(10..13);
    replace.execute("UPDATE documents SET content_hash = 'another', starts = 0", &[]).await.unwrap();
    replace.execute("UPDATE document_bodies SET body = $1", &[&new.as_bytes()]).await.unwrap();
    // A worker reads what is still there, and waits with its chunks for the row.
    let background = service.start();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE%'";
    eventually("the first content is read", async || scene.number(waiting).await > 0).await;
    replace.commit().await.unwrap();
    let document = settled(&service, &[id]).await.pop().unwrap();
    assert_eq!((document.state, document.version), (DocumentState::Indexed, 1), "{document:?}");
    let old = "SELECT count(*) FROM vectors WHERE content LIKE '%number 0 says%'";
    assert_eq!(scene.number(old).await, 0, "chunks of what is gone");
    let now = "SELECT count(*) FROM vectors WHERE content LIKE '%number 10 says%'";
    assert_eq!(scene.number(now).await, 1);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_another_process_holds_neither_hold_up_the_others_nor_keep_postgres_busy() {
    let scene = Scene::start().await;
    let service = Service::open(scene.settings()).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(accept(&service, &format!("{number}"), &paragraph(number)).await.id);
    }
    // As another process would: more than are asked for at once, and the first of them.
    let client = scene.postgres.client().await;
    client
        .execute(
            "SELECT pg_advisory_lock(('x' || left(replace(id::text, '-', ''), 16))::bit(64)::bigint) FROM (
                 SELECT id FROM documents ORDER BY next_attempt_at, id LIMIT 15) AS ahead",
            &[],
        )
        .await
        .unwrap();
    let background = service.start();
    let indexed = "SELECT count(*) FROM documents WHERE state = 'indexed'";
    eventually("the others are indexed", async || scene.number(indexed).await == 5).await;
    let transactions = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    // Each process tells its figures about once a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = scene.number(transactions).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let asked = scene.number(transactions).await - before;
    assert!(asked < 800, "{asked} transactions in 4 s with nothing to do");
    assert_eq!(scene.number(indexed).await, 5);
    client.execute("SELECT pg_advisory_unlock_all()", &[]).await.unwrap();
    assert!(settled(&service, &ids).await.iter().all(|document| document.state == DocumentState::Indexed));
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_ends_the_service_again_and_again_is_given_up_and_can_be_sent_again() {
    let scene = Scene::start().await;
    let service = Service::open(scene.settings()).await.unwrap();
    let (four, five) = (accept(&service, "four", &body(0..3)).await.id, accept(&service, "five", &body(3..6)).await.id);
    let client = scene.postgres.client().await;
    // What is left when the service goes down while it reads.
    let starts = "UPDATE documents SET starts = CASE source WHEN 'four' THEN 4 ELSE 5 END";
    client.execute(starts, &[]).await.unwrap();
    let background = service.start();
    let [good, bad] = settled(&service, &[four, five]).await.try_into().unwrap();
    let (good, bad) = if good.id == four { (good, bad) } else { (bad, good) };
    assert_eq!(good.state, DocumentState::Indexed, "{good:?}");
    assert_eq!(scene.number("SELECT starts::bigint FROM documents WHERE source = 'four'").await, 0);
    let error = bad.error.unwrap_or_default();
    assert!(
        bad.state == DocumentState::Failed && error.contains("ended 5 times") && error.contains("memory"),
        "{error}"
    );
    ingested(&service, "five", &body(3..6)).await;
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_comes_again_and_again_in_one_document_is_embedded_once() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    // Every other paragraph is the same one, over several batches of 16.
    let text = body((0..60).map(|number| if number % 2 == 0 { 0 } else { number }));
    let document = ingested(&service, "a", &text).await;
    assert!(document.chunk_count > 32, "{document:?}");
    let twice: Vec<_> = scene.endpoint.asked().into_iter().filter(|(_, times)| *times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(held(&service).await.len(), document.chunk_count as usize);
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_many_long_characters_is_kept_and_stays_one_document() {
    let scene = Scene::start().await;
    let service = Service::open(scene.settings()).await.unwrap();
    // Three bytes each, and nothing in them that could be compressed.
    let source: String = (0x4e00..0x4e00 + 950).filter_map(char::from_u32).collect();
    let first = accept(&service, &source, "text").await;
    let again = accept(&service, &source, "another text").await;
    assert_eq!((again.id, again.version, again.outcome), (first.id, 2, Outcome::Updated));
    assert_eq!(service.document(&caller(), first.id).await.unwrap().source, source);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_asks_for_patience_gets_it_and_fails_no_document() {
    let scene = Scene::start().await;
    let mut settings = scene.settings();
    settings.ingest.attempts = 1;
    let (service, background) = scene.service_with(settings).await;
    scene.endpoint.set_busy(true);
    let id = accept(&service, "a", &body(0..5)).await.id;
    eventually("the trouble is noted", async || service.document(&caller(), id).await.unwrap().error.is_some()).await;
    let waiting = service.document(&caller(), id).await.unwrap();
    assert_eq!((waiting.state, waiting.attempts), (DocumentState::Chunked, 0), "{waiting:?}");
    assert!(waiting.error.as_deref().is_some_and(|error| error.contains("429")), "{waiting:?}");
    scene.endpoint.set_busy(false);
    eventually("it is indexed", async || {
        service.document(&caller(), id).await.unwrap().state == DocumentState::Indexed
    })
    .await;
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_waits_from_when_it_came_or_was_sent_back_until_it_is_searchable() {
    let scene = Scene::start().await;
    let (service, background) = scene.service().await;
    ingested(&service, "a", &body(0..3)).await;
    background.stop().await;
    let waiting = async |service: &Service| service.status(Some("acme")).await.unwrap().oldest_waiting_seconds;
    let client = scene.postgres.client().await;
    let long_ago =
        "UPDATE documents SET updated_at = now() - interval '30 days', waiting_since = now() - interval '30 days'";
    client.execute(long_ago, &[]).await.unwrap();
    assert!(waiting(&service).await.abs() < 1e-9, "it is searchable");
    client.execute("UPDATE documents SET state = 'embedded'", &[]).await.unwrap();
    assert!(waiting(&service).await > 86_400.0, "an index has not followed");
    accept(&service, "a", &body(5..6)).await;
    assert!(waiting(&service).await > 86_400.0, "another content does not make it wait less");

    // Sent back to be embedded again, when the service starts.
    client.batch_execute("UPDATE documents SET state = 'indexed'; UPDATE vectors SET generation = NULL").await.unwrap();
    let service = Service::open(scene.settings()).await.unwrap();
    assert_eq!(scene.number("SELECT count(*) FROM documents WHERE state = 'chunked'").await, 1);
    let seconds = waiting(&service).await;
    assert!(seconds > 0.0 && seconds < 3_600.0, "{seconds}");
}
