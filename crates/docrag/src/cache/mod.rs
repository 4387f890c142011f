//! Redis: embeddings, answers, rate limits; and what happens without it.
//!
//! Rules:
//! - No call fails and none takes longer than `cache.timeout_milliseconds`: what Redis does not answer in time is a miss.
//! - A Redis that is away or frozen costs the requests of one moment that time once; then it is left alone until a probe
//!   in the background finds it well (`link`).
//! - Rate limits count in this process while Redis is away (`window`), by the same rule.
//! - Whoever asks counts the hits and misses; the cache does not know what they are worth.

mod link;
mod recent;
mod window;

use crate::search::SearchMode;
use crate::settings::Settings;
use link::Link;
use recent::Recent;
use std::sync::Arc;
use std::time::{Duration, Instant};
use window::Windows;

/// Embeddings asked for or stored in one command: 256 of 384 numbers are 400 KB.
const EMBEDDINGS_PER_COMMAND: usize = 256;
/// A corpus's mode is looked up again after this time.
const MODE_FRESH_FOR: Duration = Duration::from_secs(5);
const MODES_KEPT: usize = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// Requests left in this minute.
    pub remaining: u32,
    /// Until another one will be allowed; zero when this one was.
    pub retry_after: Duration,
}

/// Cheap to clone. No call fails: what Redis does not answer in time is a miss.
#[derive(Clone)]
pub struct Cache {
    inside: Arc<Inside>,
}

struct Inside {
    link: Option<Arc<Link>>,
    prefix: String,
    answer_seconds: u64,
    embedding_seconds: u64,
    windows: Windows,
    started: Instant,
    modes: Recent<(String, String), SearchMode>,
}

impl Cache {
    pub async fn open(settings: &Settings) -> Self {
        let timeout = Duration::from_millis(settings.cache.timeout_milliseconds);
        let link = match &settings.redis.url {
            Some(url) => Some(Link::open(url, timeout).await),
            None => None,
        };
        Self {
            inside: Arc::new(Inside {
                link,
                prefix: settings.cache.prefix.clone(),
                // Redis refuses an expiry of 0.
                answer_seconds: settings.cache.answer_seconds.max(1),
                embedding_seconds: settings.cache.embedding_seconds.max(1),
                windows: Windows::default(),
                started: Instant::now(),
                modes: Recent::new(MODES_KEPT, MODE_FRESH_FOR),
            }),
        }
    }

    /// Whether one is configured.
    pub fn is_there(&self) -> bool {
        self.inside.link.is_some()
    }

    /// In the order of `hashes`.
    pub async fn embeddings(&self, fingerprint: &str, hashes: &[Vec<u8>]) -> Vec<Option<Vec<f32>>> {
        let mut found = Vec::with_capacity(hashes.len());
        for some in hashes.chunks(EMBEDDINGS_PER_COMMAND) {
            let mut command = redis::cmd("MGET");
            for hash in some {
                command.arg(self.embedding_key(fingerprint, hash));
            }
            let values: Option<Vec<Option<Vec<u8>>>> = self.ask(&command).await;
            match values {
                Some(values) if values.len() == some.len() => {
                    found.extend(values.into_iter().map(|value| vector_from(&value?)));
                }
                _ => found.extend(some.iter().map(|_| None)),
            }
        }
        found
    }

    pub async fn put_embeddings(&self, fingerprint: &str, entries: &[(Vec<u8>, Vec<f32>)]) {
        let Some(link) = &self.inside.link else { return };
        for some in entries.chunks(EMBEDDINGS_PER_COMMAND) {
            let mut pipeline = redis::pipe();
            for (hash, vector) in some {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                let key = self.embedding_key(fingerprint, hash);
                pipeline.set_ex(key, bytes, self.inside.embedding_seconds).ignore();
            }
            link.call(|mut connection| async move { pipeline.query_async::<()>(&mut connection).await }).await;
        }
    }

    pub async fn answer(&self, key: &str) -> Option<String> {
        self.ask::<Option<String>>(redis::cmd("GET").arg(self.answer_key(key))).await?
    }

    pub async fn put_answer(&self, key: &str, value: &str) {
        let mut command = redis::cmd("SET");
        command.arg(self.answer_key(key)).arg(value).arg("EX").arg(self.inside.answer_seconds);
        self.ask::<()>(&command).await;
    }

    /// One more request in this bucket: sliding window of a minute. A limit of 0 allows everything.
    pub async fn allow(&self, bucket: &str, per_minute: u32) -> Verdict {
        if per_minute == 0 {
            return Verdict { allowed: true, remaining: u32::MAX, retry_after: Duration::ZERO };
        }
        if let Some(link) = &self.inside.link {
            let key = format!("{}rate:{bucket}", self.inside.prefix);
            if let Some(verdict) = link.call(|connection| window::ask_redis(connection, &key, per_minute)).await {
                return verdict;
            }
        }
        self.inside.windows.allow(bucket, per_minute, self.inside.started.elapsed())
    }

    /// `None` when none is configured; otherwise whether it answers now.
    pub async fn state(&self) -> Option<Result<(), String>> {
        let link = self.inside.link.as_ref()?;
        link.call(|mut connection| async move { redis::cmd("PING").query_async::<()>(&mut connection).await }).await;
        Some(link.trouble().map_or(Ok(()), Err))
    }

    /// How a corpus is searched, when that was looked up in the last seconds. Not in Redis: it would cost as much as
    /// asking Postgres.
    pub(crate) fn mode(&self, tenant: &str, corpus: &str) -> Option<SearchMode> {
        self.inside.modes.get(&(tenant.to_owned(), corpus.to_owned()), Instant::now())
    }

    pub(crate) fn put_mode(&self, tenant: &str, corpus: &str, mode: SearchMode) {
        self.inside.modes.put((tenant.to_owned(), corpus.to_owned()), mode, Instant::now());
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Option<T> {
        let link = self.inside.link.as_ref()?;
        link.call(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    fn embedding_key(&self, fingerprint: &str, hash: &[u8]) -> Vec<u8> {
        let mut key = format!("{}embedding:{fingerprint}:", self.inside.prefix).into_bytes();
        key.extend_from_slice(hash);
        key
    }

    fn answer_key(&self, key: &str) -> String {
        format!("{}answer:{key}", self.inside.prefix)
    }
}

/// A vector as it was stored; nothing when the bytes are not one.
fn vector_from(bytes: &[u8]) -> Option<Vec<f32>> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    if numbers.is_empty() || !rest.is_empty() {
        return None;
    }
    let vector: Vec<f32> = numbers.iter().map(|number| f32::from_le_bytes(*number)).collect();
    vector.iter().all(|number| number.is_finite()).then_some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_vector_are_a_miss() {
        assert_eq!(vector_from(&[0, 0, 128, 63, 0, 0, 0, 192]), Some(vec![1.0, -2.0]));
        for wrong in [&[][..], &[1, 2, 3], &[0, 0, 128, 63, 0], &f32::NAN.to_le_bytes()] {
            assert_eq!(vector_from(wrong), None, "{wrong:?}");
        }
    }
}
