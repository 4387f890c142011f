//! The configuration: `docrag.toml` and a few environment variables, validated once, here.
//!
//! Every value has a default; an unknown key is an error. Secrets come from the environment or from files and never show
//! in a log or a `Debug`.

use crate::embed::LOCAL_MOST_TOKENS;
use secrecy::SecretString;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod error;

pub use error::SettingsError;

/// As written in `docrag.toml`. Names are `section.key`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the service listens.
    pub listen: SocketAddr,
    /// Log lines as `json` or `text`.
    pub log: LogFormat,
    pub database: DatabaseSettings,
    pub redis: RedisSettings,
    pub index: IndexSettings,
    pub embedding: EmbeddingSettings,
    pub chunking: ChunkingSettings,
    pub parsing: ParsingSettings,
    pub ingest: IngestSettings,
    pub search: SearchSettings,
    pub answer: AnswerSettings,
    pub cache: CacheSettings,
    pub limits: LimitSettings,
    pub sessions: SessionSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Text,
}

/// The pool as the operations guide sizes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `DATABASE_URL` when it is not written here.
    pub url: Option<SecretString>,
    pub min_connections: u32,
    pub max_connections: u32,
    pub acquire_seconds: u64,
    pub idle_seconds: u64,
    pub lifetime_seconds: u64,
    pub test_before_acquire: bool,
    /// Every statement's limit.
    pub statement_seconds: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisSettings {
    /// `REDIS_URL` when it is not written here. Without one there is no cache, and rate limits count per process.
    pub url: Option<SecretString>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IndexSettings {
    pub kind: IndexKind,
    pub qdrant: QdrantSettings,
    pub pgvector: PgvectorSettings,
    /// How often the outbox is looked at when nobody said that there is something.
    pub follow_milliseconds: u64,
    /// Outbox entries that are applied at once.
    pub batch: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexKind {
    /// In this process; for up to about 200,000 chunks.
    Memory,
    Qdrant,
    Pgvector,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QdrantSettings {
    /// The gRPC address.
    pub url: String,
    /// `QDRANT_API_KEY` when it is not written here.
    pub api_key: Option<SecretString>,
    /// The alias that is searched; collections are named after it with the number of their build.
    pub collection: String,
    pub timeout_seconds: u64,
    /// `hnsw_ef` of searches.
    pub ef: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PgvectorSettings {
    /// `hnsw.ef_search`; pgvector's own default of 40 loses recall.
    pub ef_search: u32,
    pub m: u32,
    pub ef_construction: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingSettings {
    /// The folder with `model.onnx` and `tokenizer.json`; `docrag model install` fills it.
    pub model_dir: PathBuf,
    /// Threads of the local model; 0 takes one per core.
    pub threads: usize,
    /// An OpenAI-compatible base URL (`https://…/v1`); with one, the local model is not used.
    pub endpoint: Option<String>,
    /// `EMBEDDING_API_KEY` when it is not written here.
    pub api_key: Option<SecretString>,
    /// Name of the remote model.
    pub model: String,
    /// Of the remote model.
    pub dimension: usize,
    pub timeout_seconds: u64,
    /// Texts in one remote request.
    pub batch: usize,
    /// Price of the remote model, per million tokens, in the currency of your bill.
    pub price_per_million_tokens: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChunkingSettings {
    pub max_tokens: usize,
    pub overlap_tokens: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParsingSettings {
    pub max_text_bytes: usize,
    pub seconds: u64,
    pub memory_bytes: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestSettings {
    /// Documents worked on at the same time.
    pub workers: usize,
    /// Chunks embedded and stored at once: what a `kill -9` costs at most per worker.
    pub batch: usize,
    /// Tries before a document is given up as failed.
    pub attempts: i32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchSettings {
    /// Constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009).
    pub rrf_k: f64,
    /// How deep each list is read before fusing.
    pub depth: usize,
    /// A query's embedding takes at most so long; then the answer is lexical, and says so.
    pub embed_milliseconds: u64,
    /// The whole search.
    pub timeout_milliseconds: u64,
    pub max_limit: usize,
    pub max_query_bytes: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerSettings {
    /// An OpenAI-compatible base URL (`https://…/v1`); without one, answers are passages.
    pub endpoint: Option<String>,
    /// `ANSWER_API_KEY` when it is not written here.
    pub api_key: Option<SecretString>,
    pub model: String,
    pub max_tokens: u32,
    /// Passages given to the model.
    pub passages: usize,
    /// The best passage's cosine below which nothing relevant was found.
    pub min_cosine: f32,
    /// Until the first token.
    pub first_token_seconds: u64,
    /// The whole answer.
    pub timeout_seconds: u64,
    pub retries: usize,
    /// Failures in a row that open the circuit breaker, and how long it stays open.
    pub breaker_failures: u32,
    pub breaker_seconds: u64,
    /// Per million tokens, in the currency of your bill.
    pub price_per_million_prompt_tokens: f64,
    pub price_per_million_completion_tokens: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    pub answer_seconds: u64,
    pub embedding_seconds: u64,
    /// Every call to Redis; what takes longer counts as a miss.
    pub timeout_milliseconds: u64,
    /// Before every key, so that several services can share a Redis.
    pub prefix: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Of one document.
    pub body_bytes: usize,
    /// Of every other request.
    pub request_bytes: usize,
    /// Per key and minute (sliding window). 0 is no limit.
    pub requests_per_minute: u32,
    /// Failed authentications per client address and minute.
    pub failed_logins_per_minute: u32,
    pub request_seconds: u64,
    /// Running requests are given so long at shutdown.
    pub drain_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionSettings {
    pub hours: u64,
    /// Cookies only over https; switch it off only for a test on localhost.
    pub secure_cookie: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            log: LogFormat::Json,
            database: DatabaseSettings::default(),
            redis: RedisSettings::default(),
            index: IndexSettings::default(),
            embedding: EmbeddingSettings::default(),
            chunking: ChunkingSettings::default(),
            parsing: ParsingSettings::default(),
            ingest: IngestSettings::default(),
            search: SearchSettings::default(),
            answer: AnswerSettings::default(),
            cache: CacheSettings::default(),
            limits: LimitSettings::default(),
            sessions: SessionSettings::default(),
        }
    }
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self {
            url: None,
            min_connections: 5,
            max_connections: 50,
            acquire_seconds: 8,
            idle_seconds: 600,
            lifetime_seconds: 1_800,
            test_before_acquire: true,
            statement_seconds: 30,
        }
    }
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            kind: IndexKind::Memory,
            qdrant: QdrantSettings::default(),
            pgvector: PgvectorSettings::default(),
            follow_milliseconds: 500,
            batch: 512,
        }
    }
}

impl Default for QdrantSettings {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:6334".to_owned(),
            api_key: None,
            collection: "docrag".to_owned(),
            timeout_seconds: 10,
            ef: 128,
        }
    }
}

impl Default for PgvectorSettings {
    fn default() -> Self {
        Self { ef_search: 100, m: 16, ef_construction: 64 }
    }
}

impl Default for EmbeddingSettings {
    fn default() -> Self {
        Self {
            model_dir: crate::model::default_folder(),
            threads: 0,
            endpoint: None,
            api_key: None,
            model: "text-embedding-3-small".to_owned(),
            dimension: 1_536,
            timeout_seconds: 30,
            batch: 64,
            price_per_million_tokens: 0.0,
        }
    }
}

impl Default for ChunkingSettings {
    /// all-MiniLM-L6-v2 was trained on 256 tokens and sees no more.
    fn default() -> Self {
        Self { max_tokens: 256, overlap_tokens: 32 }
    }
}

impl Default for ParsingSettings {
    fn default() -> Self {
        Self { max_text_bytes: 32 << 20, seconds: 60, memory_bytes: 1 << 30 }
    }
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self { workers: 3, batch: 16, attempts: 5 }
    }
}

impl Default for SearchSettings {
    fn default() -> Self {
        Self {
            rrf_k: 60.0,
            depth: 100,
            embed_milliseconds: 2_000,
            timeout_milliseconds: 10_000,
            max_limit: 100,
            max_query_bytes: 8_192,
        }
    }
}

impl Default for AnswerSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            api_key: None,
            model: "gpt-4o-mini".to_owned(),
            max_tokens: 800,
            passages: 6,
            min_cosine: 0.3,
            first_token_seconds: 15,
            timeout_seconds: 60,
            retries: 2,
            breaker_failures: 5,
            breaker_seconds: 30,
            price_per_million_prompt_tokens: 0.0,
            price_per_million_completion_tokens: 0.0,
        }
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            answer_seconds: 3_600,
            embedding_seconds: 7 * 86_400,
            timeout_milliseconds: 250,
            prefix: "docrag:".to_owned(),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            request_bytes: 256 << 10,
            requests_per_minute: 600,
            failed_logins_per_minute: 20,
            request_seconds: 120,
            drain_seconds: 30,
        }
    }
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self { hours: 24, secure_cookie: true }
    }
}

impl Settings {
    /// Reads `file` (or takes the defaults), then the environment, then checks what was read.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let mut settings = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|cause| SettingsError::Unreadable { path: path.to_owned(), cause })?;
                toml::from_str(&text).map_err(|error| SettingsError::wrong(path, &text, &error))?
            }
            None => Self::default(),
        };
        settings.take_environment(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        settings.check()?;
        Ok(settings)
    }

    /// Secrets that the file does not have, and the address.
    fn take_environment(&mut self, read: impl Fn(&str) -> Option<String>) {
        let secret = |slot: &mut Option<SecretString>, name: &str| {
            if slot.is_none() {
                *slot = read(name).map(SecretString::from);
            }
        };
        secret(&mut self.database.url, "DATABASE_URL");
        secret(&mut self.redis.url, "REDIS_URL");
        secret(&mut self.index.qdrant.api_key, "QDRANT_API_KEY");
        secret(&mut self.embedding.api_key, "EMBEDDING_API_KEY");
        secret(&mut self.answer.api_key, "ANSWER_API_KEY");
        if let Some(folder) = read("DOCRAG_MODEL_DIR") {
            self.embedding.model_dir = PathBuf::from(folder);
        }
    }

    fn check(&self) -> Result<(), SettingsError> {
        let wrong = |key, what: &str| Err(SettingsError::Value { key, what: what.to_owned() });
        let pool = &self.database;
        if pool.max_connections == 0 || pool.min_connections > pool.max_connections {
            return wrong("database.max_connections", "must be at least 1 and not less than database.min_connections");
        }
        if self.chunking.max_tokens < 32 || self.chunking.overlap_tokens * 2 > self.chunking.max_tokens {
            return wrong("chunking", "max_tokens is at least 32, overlap_tokens at most half of it");
        }
        if self.embedding.endpoint.is_none() && self.chunking.max_tokens > LOCAL_MOST_TOKENS {
            let most = format!("the local model sees {LOCAL_MOST_TOKENS} tokens and no more");
            return wrong("chunking.max_tokens", &format!("{most}; set that or less, or an embedding.endpoint"));
        }
        if self.ingest.workers == 0 || self.ingest.batch == 0 || self.index.batch == 0 || self.embedding.batch == 0 {
            return wrong("ingest", "workers and batches are at least 1");
        }
        if self.search.depth == 0 || self.search.max_limit == 0 || self.search.rrf_k <= 0.0 {
            return wrong("search", "depth, max_limit and rrf_k are positive");
        }
        Ok(())
    }
}

impl SearchSettings {
    pub fn embed_deadline(&self) -> Duration {
        Duration::from_millis(self.embed_milliseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn the_defaults_are_valid_and_the_pool_is_the_guides() {
        let settings = Settings::default();
        settings.check().unwrap();
        let pool = &settings.database;
        assert_eq!((pool.min_connections, pool.max_connections), (5, 50));
        assert_eq!((pool.acquire_seconds, pool.idle_seconds, pool.lifetime_seconds), (8, 600, 1_800));
        assert!(pool.test_before_acquire);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = toml::from_str::<Settings>("[database]\nmax_conections = 3").unwrap_err().to_string();
        assert!(error.contains("max_conections") && error.contains("max_connections"), "{error}");
    }

    #[test]
    fn secrets_come_from_the_environment_when_the_file_has_none() {
        let mut settings: Settings = toml::from_str("[redis]\nurl = \"redis://of-the-file\"").unwrap();
        settings.take_environment(|name| Some(format!("value of {name}")));
        assert_eq!(settings.database.url.as_ref().unwrap().expose_secret(), "value of DATABASE_URL");
        assert_eq!(settings.redis.url.as_ref().unwrap().expose_secret(), "redis://of-the-file");
        assert!(!format!("{settings:?}").contains("of-the-file"));
    }

    #[test]
    fn impossible_values_are_refused() {
        let mut settings = Settings::default();
        settings.database.min_connections = 60;
        assert!(settings.check().unwrap_err().to_string().contains("database.max_connections"));

        let mut settings = Settings::default();
        settings.chunking.max_tokens = LOCAL_MOST_TOKENS + 1;
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains("chunking.max_tokens") && error.contains("embedding.endpoint"), "{error}");
        settings.embedding.endpoint = Some("https://models/v1".to_owned());
        settings.check().unwrap();
    }
}
