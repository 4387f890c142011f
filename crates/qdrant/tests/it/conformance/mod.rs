//! The recorded scenes, replayed in their order.
//!
//! Against the stand-in, and against a real server if its address (REST) is in `GROUNDSKEEPER_TEST_QDRANT_URL`; that
//! server should be fresh and of the recorded version. What happened between the recorded scenes is in [`before`].

mod compare;
pub(crate) mod http;
mod points;

use std::time::Duration;

use compare::How;
use groundskeeper_qdrant::QdrantServer;
use points::Points;
use serde_json::Value;

const RECORDING: &str = include_str!("../../fixtures/qdrant-1.16.3.jsonl");
const URL_VARIABLE: &str = "GROUNDSKEEPER_TEST_QDRANT_URL";
/// How long a collection may take to become green; the engine may have been built without optimization.
const GREEN_WITHIN: Duration = Duration::from_mins(10);
/// How many points went into one upsert.
const BATCH: u64 = 500;

/// Scenes that are not compared, by their number (the line, counted from 0). None for the stand-in.
const SKIPPED: [(usize, Where, &str); 3] = [
    (55, Where::Real, "a server in a container finds the snapshot that the recorded one did not"),
    (75, Where::Real, "grey takes a crash, and this test cannot kill a server it has not started"),
    (76, Where::Real, "belongs to the crash"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    StandIn,
    Real,
}

/// One recorded exchange.
#[derive(Debug)]
struct Scene {
    number: usize,
    name: String,
    method: String,
    path: String,
    body: Value,
    status: u16,
    content_type: Option<String>,
    answer: Value,
}

fn scenes() -> Vec<Scene> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let scene = |(number, line): (usize, &str)| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        Scene {
            number,
            name: text(&line["scene"]).unwrap(),
            method: text(&line["request"]["method"]).unwrap(),
            path: text(&line["request"]["path"]).unwrap(),
            status: line["response"]["status"].as_u64().unwrap() as u16,
            content_type: text(&line["response"]["content_type"]),
            body: line["request"]["body"].take(),
            answer: line["response"]["body"].take(),
        }
    };
    RECORDING.lines().enumerate().map(scene).collect()
}

/// The server under test.
struct Subject {
    server: Option<QdrantServer>,
    authority: String,
    points: Points,
    /// The recorded name of the collection's snapshot, and the one it has here.
    snapshot: Option<(String, String)>,
}

impl Subject {
    fn place(&self) -> Where {
        if self.server.is_some() { Where::StandIn } else { Where::Real }
    }

    async fn send(&self, method: &str, path: &str, body: Option<&str>) -> http::Answer {
        http::send(&self.authority, method, path, body).await
    }

    async fn upsert(&self, collection: &str, ids: std::ops::Range<u64>) {
        let path = format!("/collections/{collection}/points?wait=true");
        let answer = self.send("PUT", &path, Some(&self.points.upsert(ids))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    async fn hold(&self) {
        if let Some(server) = &self.server {
            server.hold_optimizers("docs_v1").await.unwrap();
        }
    }

    async fn release_and_wait(&self) {
        if let Some(server) = &self.server {
            server.release_optimizers("docs_v1").await.unwrap();
        }
        let waited = tokio::time::timeout(GREEN_WITHIN, async {
            while self.send("GET", "/collections/docs_v1", None).await.json()["result"]["status"] != "green" {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(waited.await.is_ok(), "docs_v1 did not become green within {GREEN_WITHIN:?}");
    }

    /// Puts the snapshot's name of this run in the place of the recorded one.
    fn renamed(&self, text: &str) -> String {
        match &self.snapshot {
            Some((recorded, here)) => text.replace(recorded, here),
            None => text.to_owned(),
        }
    }

    fn request(&self, scene: &Scene) -> Option<String> {
        match &scene.body {
            Value::Null => None,
            Value::String(raw) => Some(raw.clone()),
            _ if scene.name == "upsert first" => Some(self.points.upsert(0..BATCH)),
            body => Some(self.renamed(&http::as_recorded(body))),
        }
    }
}

/// What happened before a scene and was not recorded, or what holds the moment that it shows.
async fn before(scene: &Scene, subject: &mut Subject) {
    match (scene.number, scene.name.as_str()) {
        // Yellow with everything stored: the rebuild waits, as the recorded one waited for a processor.
        (16, "while indexing") => {
            subject.hold().await;
            for batch in 1..40 {
                subject.upsert("docs_v1", batch * BATCH..(batch + 1) * BATCH).await;
            }
        }
        (22, "green") | (60, "after mass delete, later") | (79, "woken, later") => subject.release_and_wait().await,
        // The full snapshot made and removed one of the same second, and so of the same name.
        (57, "snapshot delete") => {
            subject.send("DELETE", &subject.renamed(&scene.path), None).await;
        }
        (58, "delete 40 %") | (62, "hnsw change") | (77, "wake: no-op update") => subject.hold().await,
        (65, "grey?") => subject.upsert("docs_v2", 0..3000).await,
        (74, "before crash: hnsw change") => {
            subject.release_and_wait().await;
            subject.hold().await;
        }
        (75, _) => {
            if let Some(server) = &mut subject.server {
                server.kill().await.unwrap();
                server.start_again().await.unwrap();
            }
        }
        _ => {}
    }
}

/// Keys whose values are not reproducible in a scene, beside those that never are.
fn masked(scene: &Scene, place: Where) -> &'static [&'static str] {
    match (scene.number, place) {
        // In the middle of things.
        (16, Where::StandIn) => &["indexed_vectors_count", "points_count", "segments_count"],
        // Named after the second.
        (48 | 49 | 52 | 53, _) => &["name"],
        // Keyed by segment.
        (51, _) => &["result"],
        // Chosen by the number of processors.
        (65, Where::Real) => &["segments_count", "default_segment_number"],
        (16 | 59 | 63 | 78, Where::Real) => &["status", "indexed_vectors_count", "points_count", "segments_count"],
        _ => &[],
    }
}

fn differences(scene: &Scene, answer: &http::Answer, subject: &Subject) -> Vec<String> {
    let mut differences = Vec::new();
    if answer.status != scene.status {
        differences.push(format!("status: recorded {}, got {} with {}", scene.status, answer.status, answer.text()));
        return differences;
    }
    if answer.content_type != scene.content_type {
        let (recorded, got) = (&scene.content_type, &answer.content_type);
        differences.push(format!("content type: recorded {recorded:?}, got {got:?}"));
    }
    let recorded: Value = serde_json::from_str(&subject.renamed(&scene.answer.to_string())).unwrap();
    differences.extend(match (&recorded, scene.path.split('?').next().unwrap_or_default()) {
        (Value::String(text), "/metrics") => compare::metrics(text, &answer.text()),
        (Value::String(size), _) if size.ends_with(" bytes>") => {
            // A tar, whose first entry has a name.
            let is_archive = answer.body.len() > 1024 && answer.body[0] != 0;
            if is_archive { Vec::new() } else { vec![format!("no archive, but {} bytes", answer.body.len())] }
        }
        (Value::String(text), _) if *text == answer.text() => Vec::new(),
        (Value::String(text), _) => vec![format!("recorded {text:?}, got {:?}", answer.text())],
        (json, path) => {
            let in_shape = path == "/telemetry" || path.ends_with("/manifest") || scene.number == 17;
            let how = if in_shape { How::InShape } else { How::Exactly };
            compare::json(json, &answer.json(), how, masked(scene, subject.place()))
        }
    });
    differences
}

async fn replay(mut subject: Subject) {
    let mut report = Vec::new();
    for scene in scenes() {
        before(&scene, &mut subject).await;
        if SKIPPED.iter().any(|(number, place, _)| *number == scene.number && *place == subject.place()) {
            continue;
        }
        let request = subject.request(&scene);
        let answer = subject.send(&scene.method, &subject.renamed(&scene.path), request.as_deref()).await;
        if scene.name == "snapshot create" {
            let name = |answer: &Value| answer["result"]["name"].as_str().unwrap().to_owned();
            subject.snapshot = Some((name(&scene.answer), name(&answer.json())));
        }
        for difference in differences(&scene, &answer, &subject) {
            report.push(format!(
                "scene {} ({}), {} {}\n  {difference}",
                scene.number, scene.name, scene.method, scene.path
            ));
        }
    }
    assert!(report.is_empty(), "{} differences from the recording:\n{}", report.len(), report.join("\n"));
}

fn recorded_points() -> Points {
    let scenes = scenes();
    let named = |name: &str| scenes.iter().find(|scene| scene.name == name).unwrap();
    Points::new(&named("upsert first").body, &named("query exact").body, &named("query exact").answer)
}

#[tokio::test]
async fn the_stand_in_answers_as_recorded() {
    let server = QdrantServer::start().await.unwrap();
    let authority = http::authority(&server.http_url()).to_owned();
    replay(Subject { server: Some(server), authority, points: recorded_points(), snapshot: None }).await;
}

/// Says nothing without an address: the recordings are what a real server said.
#[tokio::test]
async fn a_real_server_answers_as_recorded() {
    let Ok(url) = std::env::var(URL_VARIABLE) else { return };
    let authority = http::authority(&url).to_owned();
    replay(Subject { server: None, authority, points: recorded_points(), snapshot: None }).await;
}
