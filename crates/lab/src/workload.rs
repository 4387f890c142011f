//! Users of the demo's document service: a bounded number of readers and one writer, at a modest rate.

use crate::docrag::DocRag;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const READERS: usize = 3;
/// Between two requests of one reader: about a dozen searches a second in all.
const PAUSE: Duration = Duration::from_millis(250);
const QUESTIONS: [&str; 12] = [
    "why does a table need vacuuming",
    "prevent transaction id wraparound",
    "how often should checkpoints happen",
    "what is written to the write ahead log",
    "when is an index not used",
    "how to rebuild an index without locking",
    "restore a database from a base backup",
    "continuous archiving and point in time recovery",
    "which statistics does the planner use",
    "find sessions that wait for a lock",
    "limit the number of connections",
    "monitor disk usage of tables",
];

/// The running users; they stop with the value.
pub struct Workload {
    users: JoinSet<()>,
    answered: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

#[derive(Clone)]
struct User {
    client: reqwest::Client,
    base: String,
    key: String,
    answered: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl User {
    async fn post(&self, path: &str, body: &Value) {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.key);
        let response = request.header("accept", "application/json").json(body).send().await;
        let good = response.is_ok_and(|response| response.status().is_success());
        let counter = if good { &self.answered } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Workload {
    pub fn start(service: &DocRag) -> Self {
        let (answered, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let user = User {
            client: service.client().clone(),
            base: service.url(""),
            key: service.key().to_owned(),
            answered: Arc::clone(&answered),
            failed: Arc::clone(&failed),
        };
        let mut users = JoinSet::new();
        for reader in 0..READERS {
            let user = user.clone();
            users.spawn(async move {
                for step in reader.. {
                    let question = QUESTIONS[step % QUESTIONS.len()];
                    // Every seventh question is new; every tenth wants an answer.
                    let text = if step.is_multiple_of(7) { format!("{question} {step}") } else { question.to_owned() };
                    if step.is_multiple_of(10) {
                        user.post("/v1/ask", &json!({"question": text})).await;
                    } else {
                        user.post("/v1/search", &json!({"query": text, "limit": 5})).await;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        users.spawn(async move {
            for step in 0_u64.. {
                let note = format!("Note {step}. The nightly backup took {} seconds and was restored once.", step % 97);
                let body =
                    json!({"source": format!("notes/{}", step % 20), "media_type": "text/plain", "content": note});
                user.post("/v1/documents", &body).await;
                tokio::time::sleep(PAUSE * 8).await;
            }
        });
        Self { users, answered, failed }
    }

    /// Requests answered and failed so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.answered.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    pub async fn stop(mut self) -> (u64, u64) {
        self.users.shutdown().await;
        self.counts()
    }
}
