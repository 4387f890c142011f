//! Rung 6 on a real Postgres with Doc-RAG's own tables, and on the stand-in for Qdrant: chunks and points of a set.

use crate::scene::{self, BUDGET, Scene, now};
use groundskeeper_backup::Vault;
use groundskeeper_backup::vault::{ChunkSource, QdrantSource};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Meanwhile, Receipt, Rung, Statements};
use groundskeeper_qdrant::{QdrantServer, install_program};
use groundskeeper_systems::qdrant::Endpoint;
use groundskeeper_testing::scratch::Scratch;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

const TABLES: &str = include_str!("../../../docrag/migrations/0001_documents.sql");
const CHUNKS: u32 = 40;

/// Both servers with the same chunks, and a repository.
struct Tied {
    scene: Scene,
    qdrant: QdrantServer,
    programs: Scratch,
    client: Client,
}

/// The id of the chunk with this number.
fn id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

impl Tied {
    async fn new() -> Self {
        let mut scene = Scene::new().await;
        let qdrant = QdrantServer::start().await.unwrap();
        let programs = Scratch::new("qdrant-program").unwrap();
        std::fs::set_permissions(programs.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        install_program(programs.path()).unwrap();
        let mut settings = scene::settings(&scene.server.url(), scene.folder.path());
        let postgres = &settings.postgres[0];
        let chunks = ChunkSource {
            postgres: postgres.system.to_string(),
            endpoint: postgres.endpoint.clone(),
            database: "postgres".into(),
            collection: "docrag".into(),
            statements: Statements::of_docrag(),
        };
        let nodes = vec![Endpoint::new(&qdrant.http_url(), None, None).unwrap()];
        settings.qdrant = vec![QdrantSource { name: "qdrant.main".into(), nodes, chunks: Some(chunks) }];
        settings.programs.push(programs.path().to_owned());
        scene.vault = Vault::new(settings);
        // Whoever asked first was enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        let tied = Self { scene, qdrant, programs, client };
        tied.fill().await;
        tied
    }

    async fn sql(&self, sql: &str) {
        self.scene.server.client().await.batch_execute(sql).await.unwrap();
    }

    async fn ask(&self, method: Method, path: &str, body: Value) {
        let url = format!("{}{path}", self.qdrant.http_url());
        let answer = self.client.request(method, url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
    }

    async fn points(&self, numbers: impl Iterator<Item = u32>) {
        let point = |number| json!({ "id": id(number), "vector": [number + 1, 1, 2, 3] });
        let points: Vec<Value> = numbers.map(point).collect();
        self.ask(Method::PUT, "/collections/docrag_b1/points?wait=true", json!({ "points": points })).await;
    }

    async fn forget(&self, number: u32) {
        let path = "/collections/docrag_b1/points/delete?wait=true";
        self.ask(Method::POST, path, json!({ "points": [id(number)] })).await;
    }

    /// A chunk with its entry in the outbox.
    fn chunk(number: u32) -> String {
        let id = id(number);
        format!(
            "INSERT INTO vectors (id, doc_id, tenant, corpus, position, content, chunk_hash, token_count, embedding, \
             generation) VALUES ('{id}', '{doc}', 't', 'c', {number}, 'text', 'x', 1, 'x', 1); \
             INSERT INTO outbox (tenant, corpus, doc_id, chunk_id, change) VALUES ('t', 'c', '{doc}', '{id}', 'vector');",
            doc = self::id(0)
        )
    }

    async fn fill(&self) {
        let document = format!(
            "INSERT INTO corpora (tenant, name) VALUES ('t', 'c'); \
             INSERT INTO documents (id, tenant, corpus, source, media_type, content_hash, byte_size, state) \
             VALUES ('{}', 't', 'c', 'a', 'text/plain', 'x', 1, 'indexed');",
            id(0)
        );
        let chunks: String = (1..=CHUNKS).map(Self::chunk).collect();
        let followed = "INSERT INTO followers (index_name, replica, generation, applied_seq) \
                        SELECT 'qdrant', 'shared', 1, max(seq) FROM outbox";
        // The scene has a table of that name.
        self.sql(&format!("DROP TABLE documents; {TABLES}; {document} {chunks} {followed}")).await;
        let vectors = json!({ "vectors": { "size": 4, "distance": "Cosine" } });
        self.ask(Method::PUT, "/collections/docrag_b1", vectors).await;
        let alias = json!({ "create_alias": { "collection_name": "docrag_b1", "alias_name": "docrag" } });
        self.ask(Method::POST, "/collections/aliases", json!({ "actions": [alias] })).await;
        self.points(1..=CHUNKS).await;
    }

    async fn drilled(&self) -> Receipt {
        self.scene.vault.drill(None, BUDGET, now()).await.unwrap()
    }
}

fn consistent(receipt: &Receipt) -> &Climb {
    let last = receipt.climbs.last().unwrap();
    assert_eq!(last.rung, Rung::Consistent, "{:?}", receipt.climbs);
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_points_are_proven_and_what_was_under_way_may_differ() {
    let tied = Tied::new().await;
    // One that the index has not followed yet, and one that it has forgotten already: its entry is still to come.
    let deleted = format!(
        "DELETE FROM vectors WHERE id = '{gone}'; \
         INSERT INTO outbox (tenant, corpus, doc_id, chunk_id, change) VALUES ('t', 'c', '{}', '{gone}', 'delete')",
        id(0),
        gone = id(1)
    );
    tied.sql(&format!("{} {deleted}", Tied::chunk(CHUNKS + 1))).await;
    let made = tied.scene.make().await;
    let tie = made.parts[1].qdrant.as_ref().unwrap().tie.as_ref().unwrap();
    let Some(Meanwhile::Seen { pruned: Some(0), changes }) = &tie.meanwhile else { panic!("{tie:?}") };
    assert_eq!(changes.len(), 2, "{changes:?}");
    let receipt = tied.drilled().await;
    assert_eq!(receipt.proven(), Some(Rung::Consistent), "{:?}", receipt.climbs);
    let ClimbOutcome::Proven { shown, .. } = &consistent(&receipt).outcome else { panic!("{:?}", receipt.climbs) };
    let whole = "40 chunks of postgres.main and 40 points of qdrant.main agree, but for 2 that changed";
    assert!(shown.starts_with(whole), "{shown}");
    let alive = receipt.last(Rung::Alive).unwrap();
    let ClimbOutcome::Proven { shown, .. } = &alive.outcome else { panic!("{alive:?}") };
    assert!(shown.contains("took in the snapshot and counted 40 points"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_without_its_point_and_a_point_without_its_chunk_fail_it() {
    let tied = Tied::new().await;
    tied.forget(7).await;
    tied.points([9_999].into_iter()).await;
    tied.scene.make().await;
    let receipt = tied.drilled().await;
    let ClimbOutcome::Failed { why } = &consistent(&receipt).outcome else { panic!("{:?}", receipt.climbs) };
    for part in [format!("chunks without a point: 1 ({})", id(7)), format!("points without a chunk: 1 ({})", id(9_999))]
    {
        assert!(why.contains(&part), "{part} is not in: {why}");
    }
    assert_eq!(receipt.failed().map(|(rung, _)| rung).collect::<Vec<_>>(), [Rung::Consistent]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_says_why_and_holds_no_set_back() {
    let tied = Tied::new().await;
    // An index that nobody feeds.
    tied.sql("DELETE FROM followers").await;
    let made = tied.scene.make().await;
    assert!(made.is_whole(), "{made:?}");
    let receipt = tied.drilled().await;
    let ClimbOutcome::NotTried { why } = &consistent(&receipt).outcome else { panic!("{:?}", receipt.climbs) };
    assert!(why.contains("no index has followed the outbox yet"), "{why}");
    assert!(!consistent(&receipt).leaves_open() && receipt.failed().next().is_none());

    // A server that has no Qdrant to boot.
    std::fs::remove_file(tied.programs.path().join("qdrant")).unwrap();
    let receipt = tied.drilled().await;
    let ClimbOutcome::NotTried { why } = &consistent(&receipt).outcome else { panic!("{:?}", receipt.climbs) };
    assert!(!why.is_empty());
    let Some(Climb { outcome: ClimbOutcome::Proven { not_covered, .. }, .. }) = receipt.last(Rung::Alive) else {
        panic!("{:?}", receipt.climbs)
    };
    assert!(not_covered.iter().any(|left| left.contains("no program `qdrant`")), "{not_covered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qdrant_that_does_not_start_is_no_fault_of_the_set() {
    let tied = Tied::new().await;
    let script = "#!/bin/sh\necho 'the storage is of another world'; exit 7\n";
    std::fs::write(tied.programs.path().join("qdrant"), script).unwrap();
    tied.scene.make().await;
    let receipt = tied.drilled().await;
    let alive = receipt.climbs.iter().find(|climb| climb.rung == Rung::Alive).unwrap();
    let ClimbOutcome::NotTried { why } = &alive.outcome else { panic!("{alive:?}") };
    assert!(why.contains("another world") && why.contains("qdrant.main"), "{why}");
}
