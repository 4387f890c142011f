//! Qdrant in sets: the stand-in on Qdrant's own engine, or the server whose REST address is in
//! `GROUNDSKEEPER_TEST_QDRANT_URL`; that one keeps nothing of the tests.

mod faults;

use crate::scene::{BUDGET, KEY, now};
use groundskeeper_backup::vault::{KeySource, QdrantSource};
use groundskeeper_backup::{Place, Settings, Vault};
use groundskeeper_core::receipt::{ClimbOutcome, Rung, Vectors};
use groundskeeper_qdrant::QdrantServer;
use groundskeeper_systems::qdrant::Endpoint;
use groundskeeper_testing::scratch::Scratch;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

const URL_VARIABLE: &str = "GROUNDSKEEPER_TEST_QDRANT_URL";
const POINTS: u64 = 300;

/// A server with a collection of the test's own, and a repository.
struct Scene {
    server: Option<QdrantServer>,
    url: String,
    client: Client,
    collection: String,
    folder: Scratch,
    vault: Vault,
}

impl Scene {
    async fn new(test: &str) -> Self {
        let (server, url) = if let Ok(url) = std::env::var(URL_VARIABLE) {
            (None, url.trim_end_matches('/').to_owned())
        } else {
            let server = QdrantServer::start().await.unwrap();
            let url = server.http_url();
            (Some(server), url)
        };
        let folder = Scratch::new("qdrant-backup").unwrap();
        let vault = Vault::new(settings(&[&url], folder.path()));
        assert!(vault.init().await.unwrap());
        // Whoever asked first was enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        let collection = format!("backup test {test} {}", std::process::id());
        let scene = Self { server, url, client, collection, folder, vault };
        scene.fill().await;
        scene
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let path = path.replace("NAME", &self.collection);
        let mut url: reqwest::Url = self.url.parse().unwrap();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        url.path_segments_mut().unwrap().extend(path.trim_start_matches('/').split('/'));
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        let answer = self.client.request(method, url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json::<Value>().await.unwrap()["result"].take()
    }

    async fn fill(&self) {
        let vectors = json!({ "vectors": { "size": 4, "distance": "Cosine" } });
        self.ask(Method::PUT, "/collections/NAME", vectors).await;
        let point = |id| json!({ "id": id, "vector": [id, 1, 2, 3], "payload": { "n": id } });
        let points: Vec<Value> = (1..=POINTS).map(point).collect();
        self.ask(Method::PUT, "/collections/NAME/points?wait=true", json!({ "points": points })).await;
        let alias = json!({ "create_alias": { "collection_name": self.collection, "alias_name": self.alias() } });
        self.ask(Method::POST, "/collections/aliases", json!({ "actions": [alias] })).await;
    }

    fn alias(&self) -> String {
        format!("{} alias", self.collection)
    }

    async fn snapshots(&self) -> usize {
        self.ask(Method::GET, "/collections/NAME/snapshots", Value::Null).await.as_array().unwrap().len()
    }

    /// By way of a proxy.
    fn by(&self, address: SocketAddr) -> Vault {
        Vault::new(settings(&[&format!("http://{address}")], self.folder.path()))
    }

    fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    async fn clean(&self) {
        if self.server.is_none() {
            self.ask(Method::DELETE, "/collections/NAME", Value::Null).await;
        }
    }
}

fn settings(urls: &[&str], folder: &Path) -> Settings {
    let nodes = urls.iter().map(|url| Endpoint::new(url, None, None).unwrap()).collect();
    Settings {
        place: Place::of_folder(folder.join("repository")),
        key: KeySource::Given(KEY.into()),
        postgres: Vec::new(),
        redis: Vec::new(),
        files: Vec::new(),
        qdrant: vec![QdrantSource { name: "qdrant.main".into(), nodes, chunks: None }],
        scratch: folder.join("scratch"),
        leave_free: 0,
        programs: Vec::new(),
        run_as: "postgres".to_owned(),
        wal: None,
        probes: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qdrant_is_copied_proven_and_brought_back() {
    let scene = Scene::new("whole").await;
    let made = scene.vault.make(Vec::new(), now()).await.unwrap();
    assert!(made.is_whole() && made.gaps().is_empty(), "{made:?}");
    let known: &Vectors = made.parts[0].qdrant.as_ref().unwrap();
    assert_eq!((known.nodes.len(), known.not_covered.len()), (1, 0));
    let ours = known.collections.iter().find(|collection| collection.name == scene.collection).unwrap();
    assert!(ours.points == POINTS && ours.snapshots.len() == 1 && ours.snapshots[0].compared, "{ours:?}");
    assert!(known.aliases >= 1 && !known.version.is_empty(), "{known:?}");
    assert_eq!(scene.snapshots().await, 0, "nothing is left on the server");

    scene.vault.verify(None, now()).await.unwrap();
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Restored), "{:?}", drilled.climbs);
    let ClimbOutcome::Proven { shown, .. } = &drilled.last(Rung::Restored).unwrap().outcome else { panic!() };
    assert!(shown.contains("SHA-256"), "{shown}");

    let into = scene.folder.path().join("restored");
    let restored = scene.vault.restore(None, Some("qdrant.main"), &into).await.unwrap();
    let next = restored.parts[0].next.join(" ");
    assert!(next.contains("snapshots/upload") && next.contains("aliases.json"), "{next}");
    let folder = into.join("qdrant.main");
    let aliases: Value = serde_json::from_slice(&std::fs::read(folder.join("aliases.json")).unwrap()).unwrap();
    let aliases = aliases["aliases"].as_array().unwrap().clone();
    assert!(aliases.iter().any(|alias| alias["alias_name"] == scene.alias().as_str()), "{aliases:?}");
    let info = folder.join("collections").join(&scene.collection).join("collection.json");
    let info: Value = serde_json::from_slice(&std::fs::read(info).unwrap()).unwrap();
    assert_eq!(info["points_count"], POINTS);
    // A server that lies elsewhere cannot read the file; to upload it the stand-in has not learnt.
    if scene.server.is_some() {
        let snapshot = folder.join(&ours.snapshots[0].path);
        scene.ask(Method::POST, "/collections/NAME/points/delete?wait=true", json!({ "points": [1, 2, 3] })).await;
        let location = json!({ "location": format!("file://{}", snapshot.display()) });
        scene.ask(Method::PUT, "/collections/NAME/snapshots/recover?wait=true", location).await;
        let count = scene.ask(Method::POST, "/collections/NAME/points/count", json!({ "exact": true })).await;
        assert_eq!(count["count"], POINTS);
    }
    scene.clean().await;
}
