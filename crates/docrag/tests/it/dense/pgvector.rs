//! The dense index in a real Postgres with pgvector.

use super::body;
use docrag::index::DenseIndex;
use docrag::index::pgvector::PgvectorIndex;
use docrag::settings::PgvectorSettings;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

async fn server() -> PostgresServer {
    PostgresServer::start_with(PostgresOptions::default().with_pgvector().unwrap()).await.unwrap()
}

async fn pool(server: &PostgresServer) -> PgPool {
    PgPoolOptions::new().max_connections(4).connect(&server.url()).await.unwrap()
}

async fn open(pool: &PgPool, dimension: usize) -> DenseIndex {
    let settings = PgvectorSettings::default();
    DenseIndex::Pgvector(PgvectorIndex::open(pool.clone(), &settings, dimension).await.unwrap())
}

#[tokio::test]
async fn pgvector_keeps_what_the_seam_promises() {
    let server = server().await;
    let pool = pool(&server).await;
    body::hold(open(&pool, body::DIMENSION).await).await;
    // Whoever opens it next goes on with the build that is served.
    let again = open(&pool, body::DIMENSION).await;
    assert_eq!(again.count().await.unwrap(), 60);
    let tables: Vec<String> = sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert!(tables.len() == 2 && tables.contains(&"dense_b3".to_owned()), "former builds are gone: {tables:?}");
}

#[tokio::test]
async fn pgvector_finds_what_an_exact_search_finds_and_uses_its_index() {
    let server = server().await;
    let pool = pool(&server).await;
    let index = open(&pool, body::DIMENSION).await;
    body::find_nearly_everything(index, body::DIMENSION, 2_000).await;
    sqlx::query("ANALYZE").execute(&pool).await.unwrap();
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT id FROM dense_served WHERE tenant = 'a' AND corpus = 'manual' \
         ORDER BY embedding <=> (SELECT embedding FROM dense_served LIMIT 1) LIMIT 10",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(plan.iter().any(|line| line.contains("dense_b0_embedding_idx")), "{plan:#?}");
}

#[tokio::test]
async fn vectors_of_another_model_are_refused_until_they_are_rebuilt() {
    let server = server().await;
    let pool = pool(&server).await;
    open(&pool, 16).await;
    let index = open(&pool, body::DIMENSION).await;
    let (scope, vector) = (body::scope("a"), [0.1; body::DIMENSION]);
    let search = || index.search(&scope, &None, &vector, 5, false);
    let error = search().await.unwrap_err().to_string();
    assert!(error.contains("16 numbers") && error.contains("docrag reindex --re-embed"), "{error}");
    index.apply(vec![body::upsert(body::point(1, "a", 0))]).await.unwrap_err();
    index.begin_build(2).await.unwrap();
    index.fill_build(2, vec![body::upsert(body::point(1, "a", 0))]).await.unwrap();
    index.switch_build(2).await.unwrap();
    assert_eq!(search().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_went_away_is_unreachable_and_is_used_again_when_it_is_back() {
    let mut server = server().await;
    let pool = pool(&server).await;
    let index = open(&pool, body::DIMENSION).await;
    index.apply(vec![body::upsert(body::point(1, "a", 0))]).await.unwrap();
    server.stop().await.unwrap();
    let error = index.count().await.unwrap_err();
    assert!(matches!(error, docrag::index::IndexError::Unreachable { .. }), "{error:?}");
    server.start_again().await.unwrap();
    assert_eq!(index.count().await.unwrap(), 1);
}

#[tokio::test]
async fn without_the_extension_the_error_says_what_to_do() {
    // Debian's Postgres comes without pgvector.
    let server = PostgresServer::start().await.unwrap();
    let pool = pool(&server).await;
    let opened = PgvectorIndex::open(pool, &PgvectorSettings::default(), 8).await;
    let error = opened.err().expect("an index without its extension").to_string();
    assert!(error.contains("install pgvector") && error.contains("index.kind"), "{error}");
}
