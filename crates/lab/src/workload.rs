//! Users of the demo's service: a bounded number of readers and one writer, at a modest rate.

use crate::service::Service;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const READERS: u64 = 3;
/// Between two requests of one user: about 60 requests a second in all.
const PAUSE: Duration = Duration::from_millis(50);
const WORDS: [&str; 12] = [
    "vacuum",
    "index",
    "checkpoint",
    "replica",
    "planner",
    "snapshot",
    "lock",
    "wal",
    "statistics",
    "toast",
    "cursor",
    "trigger",
];

/// The running users; they stop with the value.
pub struct Workload {
    users: JoinSet<()>,
    answered: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Workload {
    pub fn start(service: &Service, documents: i64) -> Self {
        let (answered, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap_or_default();
        let mut users = JoinSet::new();
        for reader in 0..READERS {
            let (client, search) = (client.clone(), service.url("/search"));
            let (answered, failed) = (Arc::clone(&answered), Arc::clone(&failed));
            users.spawn(async move {
                for step in reader.. {
                    // Every seventh question is new, so that the cache has misses.
                    let word = WORDS[step as usize % WORDS.len()];
                    let word = if step.is_multiple_of(7) { format!("{word}{step}") } else { word.to_owned() };
                    count(client.get(format!("{search}?q={word}")).send().await, &answered, &failed);
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        let (writer, document) = (client, service.url("/documents/"));
        let counts = (Arc::clone(&answered), Arc::clone(&failed));
        users.spawn(async move {
            for step in 0.. {
                let id = step % documents + 1;
                count(writer.post(format!("{document}{id}")).send().await, &counts.0, &counts.1);
                tokio::time::sleep(PAUSE * 4).await;
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

fn count(response: Result<reqwest::Response, reqwest::Error>, answered: &AtomicU64, failed: &AtomicU64) {
    let good = response.is_ok_and(|response| response.status().is_success());
    let counter = if good { answered } else { failed };
    counter.fetch_add(1, Ordering::Relaxed);
}
