//! Searching with a real Postgres and the real model.

use crate::running::{PAGES, Running, caller};
use docrag::search::{SearchFilter, SearchMode, SearchRequest, SearchResponse};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

fn request(query: &str) -> SearchRequest {
    serde_json::from_value(json!({"query": query})).unwrap()
}

fn filtered(query: &str, key: &str, value: Value) -> SearchRequest {
    let metadata = BTreeMap::from([(key.to_owned(), value)]);
    SearchRequest { filter: SearchFilter { metadata, documents: Vec::new() }, ..request(query) }
}

fn sources(found: &SearchResponse) -> Vec<&str> {
    found.passages.iter().map(|passage| passage.source.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passage_is_found_by_meaning_by_words_and_by_both() {
    let house = Running::start(|_| {}).await;
    house.ingest_manual().await;
    let search =
        async |mode, query| house.service.search(&caller("a"), SearchRequest { mode, ..request(query) }).await.unwrap();
    // No word in common with the passage.
    let found = search(Some(SearchMode::Dense), "saving a copy in case of disaster").await;
    assert_eq!(sources(&found)[0], "backup.txt");
    let best = &found.passages[0];
    assert!(
        best.cosine.is_some_and(|cosine| (f64::from(cosine) - best.score).abs() < 1e-9) && best.bm25.is_none(),
        "{best:?}"
    );

    let found = search(Some(SearchMode::Lexical), "pg_dump").await;
    assert_eq!((sources(&found), found.mode), (vec!["backup.txt"], SearchMode::Lexical));

    let found = search(None, "How large is a page of the heap?").await;
    assert_eq!((sources(&found)[0], found.mode, &found.degraded), ("pages.txt", SearchMode::Hybrid, &None));
    let best = &found.passages[0];
    assert_eq!((best.content.as_str(), best.position), (PAGES, 0));
    assert_eq!(best.metadata, json!({"year": 2024, "topic": "d'oh"}));
    assert!(best.cosine.is_some() && best.bm25.is_some() && (best.score - 2.0 / 61.0).abs() < 1e-9, "{best:?}");
    let stages: Vec<&str> = found.timings.keys().map(String::as_str).collect();
    assert_eq!(stages, ["dense", "embed", "fetch", "fuse", "lexical"]);
    assert!(house.service.metrics().render().contains("docrag_search_stage_seconds_count{stage=\"fetch\"} 3"));

    let again = search(None, "How large is a page of the heap?").await;
    let order = |found: &SearchResponse| found.passages.iter().map(|passage| passage.chunk_id).collect::<Vec<_>>();
    assert_eq!((order(&again), &again.index_version), (order(&found), &found.index_version));

    house.ingest("b", "pages.txt", json!({}), PAGES).await;
    house.service.store().set_search_mode(&caller("b"), "default", SearchMode::Lexical, "by hand").await.unwrap();
    let found = house.service.search(&caller("b"), request("pages")).await.unwrap();
    assert_eq!(found.mode, SearchMode::Lexical, "the corpus's own mode");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_finds_another_tenants_passages() {
    let house = Running::start(|_| {}).await;
    house.ingest_manual().await;
    let secret =
        house.ingest("b", "secret.txt", json!({"secret": true}), "The launch code is 4711 at the heap page.").await;
    for mode in [SearchMode::Hybrid, SearchMode::Dense, SearchMode::Lexical] {
        let found = house
            .service
            .search(&caller("a"), SearchRequest { mode: Some(mode), limit: 100, ..request("launch code 4711") })
            .await
            .unwrap();
        assert!(found.passages.iter().all(|passage| passage.doc_id != secret), "{mode:?}");
        let named = SearchFilter { documents: vec![secret], metadata: BTreeMap::new() };
        let asked = SearchRequest { mode: Some(mode), filter: named, ..request("launch code 4711") };
        assert!(house.service.search(&caller("a"), asked.clone()).await.unwrap().passages.is_empty(), "{mode:?}");
        assert_eq!(house.service.search(&caller("b"), asked).await.unwrap().passages.len(), 1, "its own tenant");
        let marked = SearchRequest { mode: Some(mode), ..filtered("launch code", "secret", json!(true)) };
        assert!(house.service.search(&caller("a"), marked).await.unwrap().passages.is_empty(), "{mode:?}");
    }
    let elsewhere = SearchRequest { corpus: "elsewhere".to_owned(), ..request("page") };
    let error = house.service.search(&caller("a"), elsewhere).await.unwrap_err();
    assert_eq!((error.status(), error.to_string().contains("elsewhere")), (404, true));
    let nothing_yet = house.service.search(&caller("new"), request("page")).await.unwrap();
    assert!(nothing_yet.passages.is_empty());

    let mut blind = caller("a");
    blind.scopes.read = false;
    assert_eq!(house.service.search(&blind, request("page")).await.unwrap_err().status(), 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_are_exact_and_injections_are_only_text() {
    let house = Running::start(|_| {}).await;
    let [vacuum, pages, _] = house.ingest_manual().await;
    let search = |request| async { house.service.search(&caller("a"), request).await.unwrap() };
    let mut found = sources(&search(filtered("database", "year", json!(2024))).await)
        .iter()
        .map(|s| (*s).to_owned())
        .collect::<Vec<_>>();
    found.sort();
    assert_eq!(found, ["backup.txt", "pages.txt"]);
    assert_eq!(search(filtered("database", "topic", json!("d'oh"))).await.passages.len(), 3);
    let mut both = filtered("database", "year", json!(2024));
    both.filter.documents = vec![vacuum, pages, Uuid::nil()];
    assert_eq!(sources(&search(both).await), ["pages.txt"]);

    let injections = ["' OR '1'='1", "'; DROP TABLE vectors; --", "\" } , \"$or\": [", "{\"year\": 2024}", "%", "2024"];
    for text in injections {
        assert!(search(filtered("database", "year", json!(text))).await.passages.is_empty(), "{text}");
        assert!(search(filtered("database", text, json!(2024))).await.passages.is_empty(), "{text}");
        // As a query it may find something, by its words.
        search(request(text)).await;
        search(SearchRequest { mode: Some(SearchMode::Lexical), ..request(text) }).await;
    }
    for query in [
        "+page -heap AND OR NOT (",
        "content:page^9",
        "\"unbalanced",
        "page~2 [a TO b]",
        "\u{0}page\u{0}",
        "🧹 \u{202e}",
    ] {
        search(request(query)).await;
    }
    assert_eq!(
        search(SearchRequest { mode: Some(SearchMode::Lexical), ..request("+page -heap") }).await.passages.len(),
        1
    );
    assert_eq!(search(request("page")).await.passages.len(), 3, "everything is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_embedding_in_time_keywords_answer_and_the_response_says_so() {
    let house = Running::start(|settings| settings.search.embed_milliseconds = 0).await;
    house.ingest_manual().await;
    for mode in [SearchMode::Hybrid, SearchMode::Dense] {
        let asked = SearchRequest { mode: Some(mode), ..request("How large is a page?") };
        let found = house.service.search(&caller("a"), asked).await.unwrap();
        assert_eq!((found.mode, sources(&found)), (SearchMode::Lexical, vec!["pages.txt"]));
        let degraded = found.degraded.unwrap();
        assert!(degraded.contains("deadline") && degraded.contains("keywords only"), "{degraded}");
    }
    let asked = SearchRequest { mode: Some(SearchMode::Lexical), ..request("page") };
    assert_eq!(house.service.search(&caller("a"), asked).await.unwrap().degraded, None, "nothing was missing");
    let text = house.service.metrics().render();
    assert!(text.contains("docrag_search_degraded_total{reason=\"deadline\"} 2"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_is_not_found_from_that_moment_and_postgres_away_is_said() {
    let mut house = Running::start(|settings| {
        settings.index.follow_milliseconds = 60_000;
        settings.database.acquire_seconds = 2;
    })
    .await;
    let [_, pages, _] = house.ingest_manual().await;
    let before = house.service.search(&caller("a"), request("page")).await.unwrap();
    assert!(sources(&before).contains(&"pages.txt"));
    house.service.delete(&caller("a"), pages).await.unwrap();
    let after = house.service.search(&caller("a"), request("page")).await.unwrap();
    assert!(!sources(&after).contains(&"pages.txt") && after.passages.len() == 2);

    house.postgres.stop_immediate().await.unwrap();
    let error = house.service.search(&caller("a"), request("page")).await.unwrap_err();
    assert_eq!((error.status(), error.slug()), (503, "database-unavailable"), "{error}");
    house.postgres.start_again().await.unwrap();
    let again = house.service.search(&caller("a"), request("page")).await.unwrap();
    assert_eq!(again.passages.len(), 2);
}
