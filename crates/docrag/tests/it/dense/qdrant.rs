//! The dense index in Qdrant: the one at `GROUNDSKEEPER_TEST_QDRANT_URL`, or the stand-in.

use super::body;
use docrag::index::qdrant::QdrantIndex;
use docrag::index::{DenseIndex, IndexError};
use docrag::settings::QdrantSettings;
use groundskeeper_qdrant::QdrantServer;
use qdrant_client::Qdrant;

const URL_VARIABLE: &str = "GROUNDSKEEPER_TEST_QDRANT_URL";

/// A server, and settings for a collection of this test's own.
struct Target {
    _server: Option<QdrantServer>,
    settings: QdrantSettings,
}

impl Target {
    async fn new() -> Self {
        let (server, url) = if let Ok(url) = std::env::var(URL_VARIABLE) {
            (None, url)
        } else {
            let server = QdrantServer::start().await.unwrap();
            let url = server.url();
            (Some(server), url)
        };
        let collection = format!("docrag-test-{}", uuid::Uuid::now_v7());
        Self { _server: server, settings: QdrantSettings { url, collection, ..QdrantSettings::default() } }
    }

    async fn open(&self, dimension: usize) -> DenseIndex {
        DenseIndex::Qdrant(QdrantIndex::open(&self.settings, dimension).await.unwrap())
    }

    fn client(&self) -> Qdrant {
        Qdrant::from_url(&self.settings.url).skip_compatibility_check().build().unwrap()
    }

    async fn collections(&self) -> Vec<String> {
        let found = self.client().list_collections().await.unwrap().collections;
        let ours = |name: &String| name.starts_with(&self.settings.collection);
        found.into_iter().map(|collection| collection.name).filter(ours).collect()
    }

    /// A server that is not ours keeps nothing of the test.
    async fn clean(&self) {
        for collection in self.collections().await {
            self.client().delete_collection(collection).await.unwrap();
        }
    }
}

#[tokio::test]
async fn qdrant_keeps_what_the_seam_promises() {
    let target = Target::new().await;
    body::hold(target.open(body::DIMENSION).await).await;
    let again = target.open(body::DIMENSION).await;
    assert_eq!(again.count().await.unwrap(), 60);
    assert_eq!(target.collections().await, [format!("{}_b3", target.settings.collection)]);
    target.clean().await;
}

#[tokio::test]
async fn qdrant_finds_what_an_exact_search_finds() {
    let target = Target::new().await;
    body::find_nearly_everything(target.open(body::DIMENSION).await, body::DIMENSION, 2_000).await;
    target.clean().await;
}

#[tokio::test]
async fn vectors_of_another_model_are_refused_until_they_are_rebuilt() {
    let target = Target::new().await;
    target.open(16).await;
    let index = target.open(body::DIMENSION).await;
    let (scope, vector) = (body::scope("a"), [0.1; body::DIMENSION]);
    let search = || index.search(&scope, &None, &vector, 5, false);
    let error = search().await.unwrap_err().to_string();
    assert!(error.contains("16 numbers") && error.contains("docrag reindex --re-embed"), "{error}");
    index.apply(vec![body::upsert(body::point(1, "a", 0))]).await.unwrap_err();
    index.begin_build(2).await.unwrap();
    index.fill_build(2, vec![body::upsert(body::point(1, "a", 0))]).await.unwrap();
    index.switch_build(2).await.unwrap();
    assert_eq!(search().await.unwrap().len(), 1);
    target.clean().await;
}

#[tokio::test]
async fn a_collection_that_somebody_removed_is_an_error_with_the_next_step() {
    let target = Target::new().await;
    let index = target.open(body::DIMENSION).await;
    target.clean().await;
    let error = index.apply(vec![body::upsert(body::point(1, "a", 0))]).await.unwrap_err();
    assert!(matches!(&error, IndexError::Refused { cause, .. } if cause.contains("docrag reindex")), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_away_is_unreachable_at_the_start_and_later_and_is_used_again_when_it_is_back() {
    let mut server = QdrantServer::start().await.unwrap();
    let settings = QdrantSettings { url: server.url(), timeout_seconds: 2, ..QdrantSettings::default() };
    server.stop().await.unwrap();
    // The service starts without it.
    let index = DenseIndex::Qdrant(QdrantIndex::open(&settings, body::DIMENSION).await.unwrap());
    let change = || vec![body::upsert(body::point(1, "a", 0))];
    let error = index.apply(change()).await.unwrap_err();
    assert!(matches!(error, IndexError::Unreachable { .. }), "{error:?}");
    server.start_again().await.unwrap();
    index.apply(change()).await.unwrap();

    server.kill().await.unwrap();
    let error = index.count().await.unwrap_err();
    assert!(matches!(error, IndexError::Unreachable { .. }), "{error:?}");
    server.start_again().await.unwrap();
    assert_eq!(index.count().await.unwrap(), 1);

    server.freeze().unwrap();
    let error = index.count().await.unwrap_err();
    assert!(matches!(error, IndexError::Unreachable { .. }), "{error:?}");
    server.thaw().unwrap();
    assert_eq!(index.count().await.unwrap(), 1);
}
