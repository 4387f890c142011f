//! A service that runs: a real Postgres, the real model, documents of several tenants.

use docrag::service::{Background, Caller, NewDocument, Scopes, Service};
use docrag::settings::Settings;
use docrag::store::documents::DocumentState;
use groundskeeper_testing::PostgresServer;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// The model is really computed, perhaps beside other tests.
const PATIENT: Duration = Duration::from_mins(1);

pub(crate) struct Running {
    pub(crate) service: Service,
    _background: Background,
    // The last to go: the service talks to it until its end.
    pub(crate) postgres: PostgresServer,
}

pub(crate) fn caller(tenant: &str) -> Caller {
    Caller {
        tenant: tenant.to_owned(),
        actor: "cli".to_owned(),
        scopes: Scopes { read: true, write: true, admin: true },
        request_id: "test".to_owned(),
    }
}

impl Running {
    pub(crate) async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let postgres = PostgresServer::start().await.unwrap();
        let mut settings = Settings::default();
        settings.database.url = Some(postgres.url().into());
        settings.database.min_connections = 1;
        settings.database.max_connections = 10;
        settings.embedding.model_dir = crate::embedding::model_folder();
        settings.search.embed_milliseconds = 30_000;
        settings.search.timeout_milliseconds = 60_000;
        change(&mut settings);
        let service = Service::open(settings).await.unwrap();
        let background = service.start();
        Self { service, _background: background, postgres }
    }

    /// Takes in a text, and waits until it can be found.
    pub(crate) async fn ingest(&self, tenant: &str, source: &str, metadata: Value, text: &str) -> Uuid {
        let document = NewDocument {
            corpus: "default".to_owned(),
            source: source.to_owned(),
            title: None,
            media_type: Some("text/plain".to_owned()),
            metadata: metadata.as_object().cloned().unwrap_or_default(),
            body: text.as_bytes().to_vec(),
        };
        let accepted = self.service.accept(&caller(tenant), document).await.unwrap();
        let states = self.service.wait_until_indexed(tenant, &[accepted.id], PATIENT).await.unwrap();
        assert!(states.iter().all(|document| document.state == DocumentState::Indexed), "{states:?}");
        accepted.id
    }

    /// Three documents of tenant `a`.
    pub(crate) async fn ingest_manual(&self) -> [Uuid; 3] {
        let of = |source, year, text| self.ingest("a", source, json!({"year": year, "topic": "d'oh"}), text);
        [of("vacuum.txt", 2023, VACUUM).await, of("pages.txt", 2024, PAGES).await, of("backup.txt", 2024, BACKUP).await]
    }
}

pub(crate) const VACUUM: &str = "Vacuum removes dead row versions and makes their space available again. \
    Autovacuum starts it when a table has changed enough.";
pub(crate) const PAGES: &str = "Every page of a heap is 8192 bytes large. A page begins with a header of 24 bytes. \
    Rows are placed from its end.";
pub(crate) const BACKUP: &str = "pg_dump writes the contents of a database into a file. A base backup copies the whole \
    cluster while it runs.";
