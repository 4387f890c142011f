//! Search under load: 16 clients, 50,000 chunks, no query twice in a round.
//!
//! Embedding 50,000 chunks would take an hour, so the vectors are mixtures of real ones: two chunks of the manual and
//! a little noise, of length 1. Their texts are the halves of the same two chunks. Queries are headings of the manual.

use super::manual::{self, Piece};
use crate::bar::{Bar, Wanted};
use crate::bench::median;
use crate::docrag::{DocRag, Place};
use crate::stack::Stack;
use anyhow::{Context, Result, ensure};
use docrag::embed::Embedder;
use docrag::eval::random::SplitMix;
use docrag::index::memory::MemoryIndex;
use docrag::index::{Change, Point, Scope};
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

const CHUNKS: usize = 50_000;
const EMBEDDED: usize = 800;
pub(super) const CLIENTS: usize = 16;
const QUERIES: usize = 480;
const ROUNDS: usize = 3;
const DIMENSION: usize = 384;
const FINGERPRINT: &str = "bench";

/// What is searched, and for what.
struct Material {
    points: Vec<Point>,
    texts: Vec<String>,
    queries: Arc<Vec<String>>,
}

pub(super) async fn measure() -> Result<Vec<Bar>> {
    let embedder = manual::embedder().await?;
    let material = material(&embedder).await?;
    let mut bars = end_to_end(&embedder, &material).await?;
    let vectors = embed_queries(&embedder, &material.queries).await?;
    bars.extend(super::pgvector::compare(&material.points, &vectors).await?);
    Ok(bars)
}

async fn material(embedder: &Embedder) -> Result<Material> {
    let pieces = manual::pieces(&manual::pages(1)?, embedder.counter()).await?;
    let step = (pieces.len() / EMBEDDED).max(1);
    let chosen: Vec<&Piece> = pieces.iter().step_by(step).take(EMBEDDED).collect();
    println!("the manual gives {} chunks; {} of them are embedded …", pieces.len(), chosen.len());
    let vectors = embedder.passages(chosen.iter().map(|piece| piece.text.clone()).collect()).await?;
    let mut random = SplitMix::new(7);
    let (mut points, mut texts) = (Vec::with_capacity(CHUNKS), Vec::with_capacity(CHUNKS));
    for _ in 0..CHUNKS {
        let (a, b) = (random.below(chosen.len()), random.below(chosen.len()));
        let share = 0.5 + 0.5 * random.unit();
        let mut vector: Vec<f32> = vectors[a]
            .iter()
            .zip(&vectors[b])
            .map(|(a, b)| share * a + (1.0 - share) * b + 0.01 * (random.unit() - 0.5))
            .collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        for x in &mut vector {
            *x /= length;
        }
        points.push(Point {
            id: Uuid::from_u64_pair(random.number(), random.number()),
            doc_id: Uuid::from_u64_pair(1, (points.len() / 50) as u64),
            tenant: "demo".to_owned(),
            corpus: "default".to_owned(),
            chunk_hash: vec![0; 32],
            model_fingerprint: FINGERPRINT.to_owned(),
            generation: 1,
            vector,
        });
        texts.push(format!("{}\n{}", first_half(&chosen[a].chunk.content), first_half(&chosen[b].chunk.content)));
    }
    let headings: BTreeSet<String> = pieces
        .iter()
        .flat_map(|piece| [piece.title.as_str(), piece.chunk.heading.rsplit(" > ").next().unwrap_or_default()])
        .filter(|heading| (3..=12).contains(&heading.split_whitespace().count()))
        .map(str::to_owned)
        .collect();
    let headings: Vec<String> = headings.into_iter().collect();
    ensure!(headings.len() >= QUERIES, "the manual has only {} headings to ask for", headings.len());
    let step = headings.len() / QUERIES;
    let queries = Arc::new(headings.into_iter().step_by(step).take(QUERIES).collect());
    Ok(Material { points, texts, queries })
}

fn first_half(text: &str) -> &str {
    let middle = text.len() / 2;
    let end = (middle..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[..end]
}

async fn embed_queries(embedder: &Embedder, queries: &[String]) -> Result<Vec<Vec<f32>>> {
    let mut vectors = Vec::with_capacity(queries.len());
    for query in queries {
        vectors.push(embedder.query(query, Duration::from_secs(30)).await?);
    }
    Ok(vectors)
}

/// `POST /v1/search` (hybrid, as by default) beside embedding the same queries and nothing else, in turn.
async fn end_to_end(embedder: &Embedder, material: &Material) -> Result<Vec<Bar>> {
    let stack = Stack::start().await?;
    let (database, log) = (stack.app_url(), stack.log_folder().join("docrag.log"));
    let place = Place { folder: stack.folder(), database: &database, redis: None, log: &log, more: "" };
    // The first start makes the tables; what it knows of its model goes with the vectors that are put in beside it.
    DocRag::start(&place).await?.stop().await?;
    fill(&stack, material).await?;
    let service = Arc::new(DocRag::start(&place).await?);
    let found = search(&service, &material.queries[0]).await?;
    ensure!(found["degraded"].is_null(), "the service answers degraded: {}", found["degraded"]);
    ensure!(found["passages"].as_array().is_some_and(|all| all.len() == 10), "the service found too little: {found}");

    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let model = embedder.clone();
        let embeddings = under_load(&material.queries, move |query: String| {
            let model = model.clone();
            async move { Ok(model.query(&query, Duration::from_secs(30)).await.map(drop)?) }
        })
        .await?;
        let asked = Arc::clone(&service);
        let whole = under_load(&material.queries, move |query: String| {
            let service = Arc::clone(&asked);
            async move { search(&service, &query).await.map(drop) }
        })
        .await?;
        let (embedding, search) = (p95(&embeddings), p95(&whole));
        if round > 0 {
            println!("round {round}: p95 of embedding {embedding:.1} ms, of search {search:.1} ms");
            ratios.push(search / embedding);
        }
    }
    println!("{CLIENTS} clients, {CHUNKS} chunks, {QUERIES} queries a round, hybrid, first round not counted\n");
    if let Some(service) = Arc::into_inner(service) {
        service.stop().await?;
    }
    Ok(vec![Bar::new("docrag.search_p95_ratio", median(&ratios), "x", Wanted::AtMost, 3.0)])
}

async fn search(service: &DocRag, query: &str) -> Result<serde_json::Value> {
    let request = service.client().post(service.url("/v1/search")).bearer_auth(service.key());
    let response = request.json(&json!({"query": query, "limit": 10})).send().await?;
    ensure!(response.status().is_success(), "search was answered with {}", response.status());
    Ok(response.json().await?)
}

/// Asks every query once, from 16 clients at a time, each a task of its own; milliseconds of each query.
pub(super) async fn under_load<Q, F, R>(queries: &Arc<Vec<Q>>, ask: F) -> Result<Vec<f64>>
where
    Q: Clone + Send + Sync + 'static,
    F: Fn(Q) -> R + Clone + Send + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (queries, next, ask) = (Arc::clone(queries), Arc::clone(&next), ask.clone());
        clients.spawn(async move {
            let mut times = Vec::new();
            while let Some(query) = queries.get(next.fetch_add(1, Ordering::Relaxed)) {
                let started = Instant::now();
                // Whoever computes without waiting would otherwise keep the other clients from even starting their clocks.
                tokio::task::yield_now().await;
                ask(query.clone()).await?;
                times.push(started.elapsed().as_secs_f64() * 1e3);
            }
            Ok::<_, anyhow::Error>(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = clients.join_next().await {
        all.extend(times??);
    }
    Ok(all)
}

pub(super) fn p95(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Puts the points in as if they had been ingested.
async fn fill(stack: &Stack, material: &Material) -> Result<()> {
    let client = stack.postgres.client_at(&stack.app_url()).await;
    client
        .batch_execute(
            "INSERT INTO corpora (tenant, name) VALUES ('demo', 'default') ON CONFLICT DO NOTHING;
             INSERT INTO documents (id, tenant, corpus, source, title, media_type, content_hash, byte_size, state, chunk_count)
               SELECT ('00000000-0000-0001-0000-' || lpad(to_hex(n), 12, '0'))::uuid, 'demo', 'default', 'page ' || n,
                      'Page ' || n, 'text/plain', sha256(n::text::bytea), 1, 'indexed', 50
               FROM generate_series(0, 999) n",
        )
        .await?;
    let insert = client
        .prepare(
            "INSERT INTO vectors (id, doc_id, tenant, corpus, position, content, chunk_hash, token_count, embedding,
                                  model_fingerprint, generation, embedded_at)
             SELECT id::uuid, doc_id::uuid, 'demo', 'default', n, content, sha256(convert_to(content, 'UTF8')), 200, embedding,
                    m.fingerprint, m.generation, now()
             FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY
                    AS rows (id, doc_id, content, embedding, n),
                  (SELECT fingerprint, generation FROM models WHERE serving) m",
        )
        .await?;
    for (points, texts) in material.points.chunks(1_000).zip(material.texts.chunks(1_000)) {
        let ids: Vec<String> = points.iter().map(|point| point.id.to_string()).collect();
        let documents: Vec<String> = points.iter().map(|point| point.doc_id.to_string()).collect();
        let embeddings: Vec<Vec<u8>> =
            points.iter().map(|point| point.vector.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let rows = client.execute(&insert, &[&ids, &documents, &texts, &embeddings]).await?;
        ensure!(rows == points.len() as u64, "only {rows} of {} vectors were stored", points.len());
    }
    client.batch_execute("VACUUM ANALYZE").await.context("vacuum after filling")
}

/// Our in-process index with these points.
pub(super) fn memory_index(points: &[Point]) -> Result<MemoryIndex> {
    let index = MemoryIndex::new(DIMENSION);
    index.apply(points.iter().cloned().map(Change::Upsert).collect())?;
    Ok(index)
}

pub(super) fn scope() -> Scope {
    Scope { tenant: "demo".to_owned(), corpus: "default".to_owned() }
}

/// Share of the exact ten that the approximate ten have, over all queries.
pub(super) fn recall(exact: &[Vec<Uuid>], approximate: &[Vec<Uuid>]) -> f64 {
    let shares = exact.iter().zip(approximate).map(|(exact, approximate)| {
        let wanted: HashSet<&Uuid> = exact.iter().collect();
        approximate.iter().filter(|id| wanted.contains(id)).count() as f64 / exact.len().max(1) as f64
    });
    shares.sum::<f64>() / exact.len().max(1) as f64
}
