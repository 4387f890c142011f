//! A service on a real Postgres, with the endpoint of the tests as its model.

use crate::endpoint::{DIMENSION, FakeEndpoint};
use docrag::service::{Accepted, Background, Caller, NewDocument, Scopes, Service};
use docrag::settings::Settings;
use docrag::store::documents::{DocumentRecord, DocumentState};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

pub(crate) const WITHIN: Duration = Duration::from_secs(30);
pub(crate) const TENANT: &str = "acme";

pub(crate) fn caller() -> Caller {
    caller_of(TENANT)
}

pub(crate) fn caller_of(tenant: &str) -> Caller {
    Caller { tenant: tenant.to_owned(), actor: "cli".to_owned(), scopes: Scopes::ALL, request_id: "test".to_owned() }
}

pub(crate) fn document(source: &str, body: &str) -> NewDocument {
    NewDocument {
        corpus: "manual".to_owned(),
        source: source.to_owned(),
        title: Some("A manual".to_owned()),
        media_type: Some("text/plain".to_owned()),
        metadata: serde_json::Map::new(),
        body: body.as_bytes().to_vec(),
    }
}

/// A paragraph that fills a chunk for itself (more than half of 200 tokens), and no other paragraph has the same words.
pub(crate) fn paragraph(number: usize) -> String {
    let words: Vec<String> = (0..55).map(|word| format!("w{number:05}x{word:02}")).collect();
    format!("Paragraph number {number} says {}.", words.join(" "))
}

pub(crate) fn body(paragraphs: impl IntoIterator<Item = usize>) -> String {
    paragraphs.into_iter().map(|number| paragraph(number) + "\n\n").collect()
}

/// Whatever runs for a test.
pub(crate) struct Scene {
    pub postgres: PostgresServer,
    pub endpoint: FakeEndpoint,
}

impl Scene {
    pub(crate) async fn start() -> Self {
        Self::start_with(PostgresOptions::default()).await
    }

    /// On a Postgres that has the extension.
    pub(crate) async fn start_with_pgvector() -> Self {
        Self::start_with(PostgresOptions::default().with_pgvector().unwrap()).await
    }

    async fn start_with(options: PostgresOptions) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (postgres, endpoint) = tokio::join!(PostgresServer::start_with(options), FakeEndpoint::start());
        Self { postgres: postgres.unwrap(), endpoint }
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.database.url = Some(self.postgres.url().into());
        // As few as are allowed: whoever waited for a second connection while holding one would be found out.
        settings.database.min_connections = 1;
        settings.database.max_connections = 4;
        settings.database.acquire_seconds = 5;
        settings.embedding.endpoint = Some(self.endpoint.url());
        settings.embedding.dimension = DIMENSION;
        settings.embedding.timeout_seconds = 5;
        settings.chunking.max_tokens = 200;
        settings.chunking.overlap_tokens = 0;
        settings.index.follow_milliseconds = 100;
        settings
    }

    pub(crate) async fn service(&self) -> (Service, Background) {
        self.service_with(self.settings()).await
    }

    pub(crate) async fn service_with(&self, settings: Settings) -> (Service, Background) {
        let service = Service::open(settings).await.unwrap();
        let background = service.start();
        (service, background)
    }

    /// Id and hash of every chunk in Postgres that has a vector of the serving model.
    pub(crate) async fn vectors(&self) -> BTreeMap<Uuid, Vec<u8>> {
        let client = self.postgres.client().await;
        let rows = client.query(
            "SELECT id::text, chunk_hash FROM vectors
             WHERE embedding IS NOT NULL AND generation = (SELECT generation FROM models WHERE serving)",
            &[],
        );
        rows.await.unwrap().iter().map(|row| (row.get::<_, &str>(0).parse().unwrap(), row.get(1))).collect()
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.postgres.client().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

pub(crate) async fn accept(service: &Service, source: &str, body: &str) -> Accepted {
    service.accept(&caller(), document(source, body)).await.unwrap()
}

/// Accepts it, and waits until it has settled.
pub(crate) async fn ingest(service: &Service, source: &str, body: &str) -> DocumentRecord {
    let accepted = accept(service, source, body).await;
    settled(service, &[accepted.id]).await.pop().unwrap()
}

pub(crate) async fn settled(service: &Service, ids: &[Uuid]) -> Vec<DocumentRecord> {
    service.wait_until_indexed(TENANT, ids, WITHIN).await.unwrap()
}

pub(crate) async fn ingested(service: &Service, source: &str, body: &str) -> DocumentRecord {
    let document = ingest(service, source, body).await;
    assert_eq!(document.state, DocumentState::Indexed, "{document:?}");
    document
}

/// What the dense index of this process holds.
pub(crate) async fn held(service: &Service) -> BTreeMap<Uuid, Vec<u8>> {
    let held = service.dense().held(None).await.unwrap();
    held.into_iter().map(|held| (held.id, held.chunk_hash)).collect()
}

/// Looks again and again until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    tokio::time::timeout(WITHIN, looking).await.unwrap_or_else(|_| panic!("not within {WITHIN:?}: {what}"));
}
