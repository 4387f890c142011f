//! `kill -9` anywhere during ingest: afterwards nothing is lost, nothing was embedded twice that was committed, and
//! Postgres and the index agree chunk for chunk.
//!
//! `DOCRAG_KILL_CYCLES` says how often the service is killed, `DOCRAG_KILL_SEED` repeats a run.

use crate::endpoint::DIMENSION;
use crate::scene::{Scene, TENANT, body, caller, eventually};
use docrag::chunk::embedded_text;
use docrag::service::Scopes;
use docrag::store::Store;
use docrag::store::keys::NewKey;
use groundskeeper_qdrant::QdrantServer;
use reqwest::Client;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

const CYCLES: usize = 25;
/// Of shared indexes, whose starts are slower; what differs is only who is fed.
const FEWER: usize = 3;
const DOCUMENTS: u64 = 30;
const WORKERS: usize = 3;
const BATCH: usize = 4;
const UP_WITHIN: Duration = Duration::from_secs(30);
const SETTLED_WITHIN: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_index_in_memory_agrees_with_postgres_and_nothing_is_embedded_twice() {
    Killing::start(Scene::start().await, "", cycles()).await.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_qdrant_agrees_with_postgres_and_nothing_is_embedded_twice() {
    let qdrant = QdrantServer::start().await.unwrap();
    let index = format!("kind = \"qdrant\"\n[index.qdrant]\nurl = \"{}\"\n", qdrant.url());
    Killing::start(Scene::start().await, &index, cycles().div_ceil(FEWER)).await.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_pgvector_agrees_with_postgres_and_nothing_is_embedded_twice() {
    let scene = Scene::start_with_pgvector().await;
    Killing::start(scene, "kind = \"pgvector\"\n", cycles().div_ceil(FEWER)).await.run().await;
}

fn cycles() -> usize {
    std::env::var("DOCRAG_KILL_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(CYCLES)
}

/// Numbers that look random and can be had again.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let seed = std::env::var("DOCRAG_KILL_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| getrandom::u64().unwrap() | 1);
        eprintln!("DOCRAG_KILL_SEED={seed}");
        Self(seed)
    }

    /// From 0 up to, not including, `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What a document must be in the end.
#[derive(Debug, Clone)]
struct Wanted {
    id: Option<Uuid>,
    /// `None` when it was deleted.
    text: Option<String>,
    /// Whether the service has said yes.
    accepted: bool,
}

struct Killing {
    cycles: usize,
    chance: Chance,
    client: Client,
    key: String,
    wanted: BTreeMap<u64, Wanted>,
    /// No paragraph ever comes back, so each has to be embedded once.
    paragraphs: usize,
    /// Texts whose embedding was committed, and how often they had been asked for then.
    committed: HashMap<String, usize>,
    folder: TempDir,
    scene: Scene,
}

/// Killed with this value.
struct Running {
    process: Child,
    url: String,
}

impl Running {
    /// SIGKILL: nothing is tidied up.
    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Killing {
    async fn start(scene: Scene, index: &str, cycles: usize) -> Self {
        scene.endpoint.set_delay(Duration::from_millis(10));
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[database]\nurl = \"{}\"\nmin_connections = 1\nmax_connections = 6\nacquire_seconds = 5\n\
             [embedding]\nendpoint = \"{}\"\ndimension = {DIMENSION}\n[ingest]\nworkers = {WORKERS}\nbatch = {BATCH}\n\
             [chunking]\nmax_tokens = 200\noverlap_tokens = 0\n[limits]\nrequests_per_minute = 0\n\
             [index]\nfollow_milliseconds = 100\n{index}",
            scene.postgres.url(),
            scene.endpoint.url()
        );
        fs::write(folder.path().join("docrag.toml"), text).unwrap();
        let store = Store::open(&scene.settings().database).await.unwrap();
        store.migrate().await.unwrap();
        let key = NewKey { tenant: TENANT.to_owned(), name: "test".to_owned(), scopes: Scopes::ALL, expires_at: None };
        let (_, key) = store.create_key(&caller(), &key).await.unwrap();
        Self {
            cycles,
            chance: Chance::new(),
            client: Client::builder().timeout(Duration::from_secs(10)).build().unwrap(),
            key: key.expose_secret().to_owned(),
            wanted: BTreeMap::new(),
            paragraphs: 0,
            committed: HashMap::new(),
            folder,
            scene,
        }
    }

    async fn run(mut self) {
        for cycle in 0..self.cycles {
            let service = self.serve();
            // Now and then before it has begun at all.
            if self.chance.below(6) == 0 {
                tokio::time::sleep(Duration::from_millis(self.chance.below(400))).await;
                drop(service);
            } else {
                self.write_until_killed(self.up(service).await).await;
            }
            self.check_committed(cycle).await;
        }
        self.finish().await;
    }

    async fn write_until_killed(&mut self, mut service: Running) {
        let until = Instant::now() + Duration::from_millis(self.chance.below(500));
        let url = service.url.clone();
        let writing = async {
            loop {
                self.write(&url).await;
            }
        };
        // In the middle of a request as well: whoever was not answered asks again later.
        let _ = tokio::time::timeout_at(until.into(), writing).await;
        service.kill();
    }

    fn serve(&self) -> Running {
        let address = self.folder.path().join("address");
        let _ = fs::remove_file(&address);
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_docrag"))
            .arg("--config")
            .arg(self.folder.path().join("docrag.toml"))
            .args(["serve", "--listen", "127.0.0.1:0", "--port-file"])
            .arg(&address)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Running { process, url: String::new() }
    }

    async fn up(&self, mut running: Running) -> Running {
        let (address, since) = (self.folder.path().join("address"), Instant::now());
        loop {
            if let Ok(text) = fs::read_to_string(&address) {
                running.url = format!("http://{}", text.trim());
                return running;
            }
            let ended = running.process.try_wait().unwrap();
            assert!(ended.is_none() && since.elapsed() < UP_WITHIN, "{ended:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Sends a new document, a changed one or a deletion.
    async fn write(&mut self, url: &str) {
        let which = self.chance.below(DOCUMENTS);
        let known = self.wanted.get(&which).cloned();
        if let (0, Some(Wanted { id: Some(id), text: Some(_), .. })) = (self.chance.below(6), &known) {
            let wanted = Wanted { id: Some(*id), text: None, accepted: false };
            self.wanted.insert(which, wanted);
            self.send_deletion(url, which, *id).await;
            return;
        }
        let text = self.new_text(known.and_then(|wanted| wanted.text).as_deref());
        let id = self.wanted.get(&which).and_then(|wanted| wanted.id);
        self.wanted.insert(which, Wanted { id, text: Some(text), accepted: false });
        self.send_document(url, which).await;
    }

    /// Some paragraphs of the text before stay, new ones come at its beginning.
    fn new_text(&mut self, before: Option<&str>) -> String {
        let count = 1 + self.chance.below(8) as usize;
        let new = body(self.paragraphs..self.paragraphs + count);
        self.paragraphs += count;
        let kept: Vec<String> = before.iter().flat_map(|text| text.split("\n\n").map(str::to_owned)).take(10).collect();
        new + &kept.join("\n\n")
    }

    async fn send_document(&mut self, url: &str, which: u64) {
        let Some(Wanted { text: Some(text), .. }) = self.wanted.get(&which) else { return };
        let sent = json!({"corpus": "manual", "source": format!("{which}"), "title": "A manual", "content": text,
            "media_type": "text/plain"});
        let request = self.client.post(format!("{url}/v1/documents")).bearer_auth(&self.key).json(&sent);
        let Ok(answer) = request.send().await else { return };
        let (status, body) = (answer.status(), answer.json::<Value>().await);
        let Ok(body) = body else { return };
        assert!(status.is_success(), "{status} {body}");
        if let Some(wanted) = self.wanted.get_mut(&which) {
            wanted.id = body["id"].as_str().map(|id| id.parse().unwrap());
            wanted.accepted = true;
        }
    }

    async fn send_deletion(&mut self, url: &str, which: u64, id: Uuid) {
        let request = self.client.delete(format!("{url}/v1/documents/{id}")).bearer_auth(&self.key);
        let Ok(answer) = request.send().await else { return };
        let status = answer.status().as_u16();
        // Not found: the deletion was committed before, and the answer to it was lost.
        assert!(matches!(status, 202 | 204 | 404), "{status}");
        if let Some(wanted) = self.wanted.get_mut(&which) {
            wanted.accepted = true;
        }
    }

    /// What was committed before an earlier kill was not asked for since.
    async fn check_committed(&mut self, cycle: usize) {
        let asked = self.scene.endpoint.asked();
        for (text, times) in &self.committed {
            assert_eq!(asked.get(text), Some(times), "cycle {cycle}: embedded again, though committed: {text}");
        }
        let client = self.scene.postgres.client().await;
        let rows = client.query(
            "SELECT d.title, v.heading, v.content FROM vectors v JOIN documents d ON d.id = v.doc_id
             WHERE v.embedding IS NOT NULL",
            &[],
        );
        for row in rows.await.unwrap() {
            let text = embedded_text(row.get(0), row.get(1), row.get(2));
            let times = asked.get(&text).copied();
            // Committed between the two questions: seen the next time.
            let Some(times) = times else { continue };
            self.committed.entry(text).or_insert(times);
        }
    }

    async fn finish(mut self) {
        let service = self.up(self.serve()).await;
        let open: Vec<u64> =
            self.wanted.iter().filter(|(_, wanted)| !wanted.accepted).map(|(which, _)| *which).collect();
        for which in open {
            match self.wanted[&which].clone() {
                Wanted { text: None, id: Some(id), .. } => self.send_deletion(&service.url, which, id).await,
                _ => self.send_document(&service.url, which).await,
            }
            assert!(self.wanted[&which].accepted, "{}", self.log());
        }
        self.settle().await;
        for (which, wanted) in &self.wanted {
            self.check_document(*which, wanted).await;
        }
        // Documents are marked when the indexes have followed; deletions have nothing to be marked.
        let vectors = self.scene.vectors().await;
        eventually("the index agrees with Postgres, chunk for chunk", async || {
            self.held(&service.url).await == vectors
        })
        .await;
        self.check_committed(self.cycles).await;
        let asked = self.scene.endpoint.asked();
        let again: usize = asked.values().map(|times| times - 1).sum();
        eprintln!(
            "{} kills, {} documents, {} chunks, {} texts embedded, {again} again",
            self.cycles,
            self.wanted.len(),
            vectors.len(),
            asked.len()
        );
        assert!(again <= self.cycles * WORKERS * BATCH, "{again} texts were embedded again");
    }

    async fn settle(&self) {
        let since = Instant::now();
        let open = "SELECT count(*) FROM documents WHERE state IN ('received', 'chunked', 'embedded')";
        while self.scene.number(open).await > 0 {
            assert!(since.elapsed() < SETTLED_WITHIN, "documents do not settle\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(self.scene.number("SELECT count(*) FROM documents WHERE state = 'failed'").await, 0);
    }

    /// Searchable with all of its text, or deleted.
    async fn check_document(&self, which: u64, wanted: &Wanted) {
        let client = self.scene.postgres.client().await;
        let rows = client
            .query(
                "SELECT d.state, coalesce(string_agg(v.content, ' '), '') FROM documents d
                 LEFT JOIN vectors v ON v.doc_id = d.id AND v.embedding IS NOT NULL
                 WHERE d.source = $1 GROUP BY d.state",
                &[&which.to_string()],
            )
            .await
            .unwrap();
        let found: Option<(&str, &str)> = rows.first().map(|row| (row.get(0), row.get(1)));
        match (&wanted.text, found) {
            (None, None | Some(("deleted", ""))) => {}
            (Some(text), Some(("indexed", content))) => {
                for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
                    let beginning: String = paragraph.chars().take(30).collect();
                    assert!(content.contains(&beginning), "document {which} lost {beginning:?}");
                }
            }
            (text, found) => panic!("document {which}: wanted {text:?}, found {found:?}"),
        }
    }

    async fn held(&self, url: &str) -> BTreeMap<Uuid, Vec<u8>> {
        let request = self.client.get(format!("{url}/v1/admin/index")).bearer_auth(&self.key);
        let text = request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap();
        let held = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let hash = line["chunk_hash"].as_str().unwrap();
            let byte = |at: usize| u8::from_str_radix(&hash[at..at + 2], 16).unwrap();
            (line["id"].as_str().unwrap().parse().unwrap(), (0..hash.len()).step_by(2).map(byte).collect())
        });
        held.collect()
    }
}
