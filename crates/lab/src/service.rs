//! A small HTTP service that really queries Postgres and Redis, so that there is something to look after.
//!
//! `/search?q=WORD` answers from the cache or the database, `/documents/N` updates a document, `/health` asks both
//! stores. It writes an access log, which is the demo's log folder.

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// Answers are cached for so long, in seconds.
const CACHED_SECONDS: u64 = 3;

struct Inside {
    database: Client,
    redis: redis::Client,
    cache: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    log: Mutex<std::fs::File>,
}

/// The running service; it ends with the value.
pub struct Service {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Service {
    pub async fn start(database: &str, cache: &str, log: &FilePath) -> Result<Self> {
        let (client, connection) =
            tokio_postgres::connect(database, NoTls).await.context("the service cannot reach its database")?;
        tokio::spawn(connection);
        let redis = redis::Client::open(cache)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let inside =
            Arc::new(Inside { database: client, redis, cache: tokio::sync::Mutex::default(), log: Mutex::new(log) });
        let router = Router::new()
            .route("/search", get(search))
            .route("/documents/{id}", post(update))
            .route("/health", get(health))
            .with_state(inside);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("lab: the demo's service ended: {error}");
            }
        });
        Ok(Self { address, server })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Inside {
    async fn cached(&self, key: &str) -> Option<String> {
        let mut cache = self.connection().await?;
        match cache.get(key).await {
            Ok(answer) => answer,
            Err(_) => self.hang_up().await,
        }
    }

    async fn keep(&self, key: &str, answer: &str) {
        let Some(mut cache) = self.connection().await else { return };
        if cache.set_ex::<_, _, ()>(key, answer, CACHED_SECONDS).await.is_err() {
            self.hang_up::<()>().await;
        }
    }

    /// The shared connection, opened again when the last one broke.
    async fn connection(&self) -> Option<MultiplexedConnection> {
        let mut cache = self.cache.lock().await;
        if cache.is_none() {
            *cache = self.redis.get_multiplexed_async_connection().await.ok();
        }
        cache.clone()
    }

    async fn hang_up<T>(&self) -> Option<T> {
        *self.cache.lock().await = None;
        None
    }

    fn note(&self, line: &str) {
        if let Ok(mut log) = self.log.lock() {
            // The demo's log is for looking at; a full disk shall not end the demo.
            let _ = writeln!(log, "{line}");
        }
    }
}

type Answer = (StatusCode, String);

fn trouble(error: impl std::fmt::Display) -> Answer {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

async fn search(State(inside): State<Arc<Inside>>, Query(query): Query<HashMap<String, String>>) -> Answer {
    let word = query.get("q").cloned().unwrap_or_default();
    let key = format!("answer:{word}");
    // A cache that is gone makes the service slower, not broken.
    if let Some(answer) = inside.cached(&key).await {
        inside.note(&format!("GET /search q={word} 200 cached"));
        return (StatusCode::OK, answer);
    }
    let found = inside
        .database
        .query("SELECT title FROM documents WHERE body LIKE '%' || $1 || '%' ORDER BY id LIMIT 5", &[&word])
        .await;
    match found {
        Ok(rows) => {
            let titles: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            let answer = titles.join("\n");
            inside.keep(&key, &answer).await;
            inside.note(&format!("GET /search q={word} 200 {} documents", titles.len()));
            (StatusCode::OK, answer)
        }
        Err(error) => {
            inside.note(&format!("GET /search q={word} 503 {error}"));
            trouble(error)
        }
    }
}

async fn update(State(inside): State<Arc<Inside>>, Path(id): Path<i64>) -> Answer {
    let changed = inside
        .database
        .execute(
            "UPDATE documents SET body = md5(random()::text) || ' ' || body, updated = now() WHERE id = $1",
            &[&id],
        )
        .await;
    match changed {
        Ok(rows) => {
            inside.note(&format!("POST /documents/{id} 200"));
            (StatusCode::OK, rows.to_string())
        }
        Err(error) => trouble(error),
    }
}

async fn health(State(inside): State<Arc<Inside>>) -> Answer {
    if let Err(error) = inside.database.simple_query("SELECT 1").await {
        return trouble(format!("postgres: {error}"));
    }
    (StatusCode::OK, "ok".to_owned())
}
