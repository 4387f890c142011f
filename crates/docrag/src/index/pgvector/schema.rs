//! Tables of the dense index in Postgres, one per build, and the view that says which of them is served.
//!
//! Statements are made from numbers and our own names only.

use crate::index::FIRST_BUILD;
use crate::settings::PgvectorSettings;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

/// The view that is searched and written to.
pub(super) const SERVED: &str = "dense_served";

/// The number of no build.
const NO_BUILD: i64 = -1;

/// pgvector indexes no longer vectors of this type.
const LONGEST_INDEXED: usize = 2_000;

pub(super) fn table(build: i64) -> String {
    format!("dense_b{build}")
}

/// Makes sure of a build, which is empty when there was none. Replicas that start together wait for each other.
pub(super) async fn make_sure(pool: &PgPool, settings: &PgvectorSettings, dimension: usize) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    lock(&mut transaction).await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS dense_serving \
         (only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one), build bigint NOT NULL)",
    )
    .execute(&mut *transaction)
    .await?;
    if served(&mut transaction).await?.is_none() {
        remove_others(&mut transaction, NO_BUILD).await?;
        create(&mut transaction, FIRST_BUILD, settings, dimension).await?;
        serve(&mut transaction, FIRST_BUILD).await?;
    }
    transaction.commit().await
}

/// The build that is served.
pub(super) async fn served(connection: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("SELECT build FROM dense_serving").fetch_optional(connection).await
}

/// Numbers in each served vector.
pub(super) async fn served_dimension(pool: &PgPool) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar(
        "SELECT atttypmod FROM pg_attribute \
         WHERE attrelid = (SELECT to_regclass('dense_b' || build) FROM dense_serving) AND attname = 'embedding'",
    )
    .fetch_optional(pool)
    .await
}

pub(super) async fn begin(
    pool: &PgPool,
    build: i64,
    settings: &PgvectorSettings,
    dimension: usize,
) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    lock(&mut transaction).await?;
    let served = served(&mut transaction).await?;
    if served == Some(build) {
        return Ok(false);
    }
    remove_others(&mut transaction, served.unwrap_or(NO_BUILD)).await?;
    create(&mut transaction, build, settings, dimension).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Readers see the former build until this is committed, and the new one after.
pub(super) async fn switch(pool: &PgPool, build: i64) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    lock(&mut transaction).await?;
    serve(&mut transaction, build).await?;
    remove_others(&mut transaction, build).await?;
    transaction.commit().await
}

async fn lock(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('docrag dense builds'))").execute(connection).await?;
    Ok(())
}

async fn create(
    connection: &mut PgConnection,
    build: i64,
    settings: &PgvectorSettings,
    dimension: usize,
) -> sqlx::Result<()> {
    let table = table(build);
    let mut statements = vec![
        format!(
            "CREATE TABLE {table} (id uuid PRIMARY KEY, doc_id uuid NOT NULL, tenant text NOT NULL, corpus text NOT NULL, \
             chunk_hash bytea NOT NULL, model_fingerprint text NOT NULL, generation bigint NOT NULL, \
             embedding vector({dimension}) NOT NULL)"
        ),
        format!("CREATE INDEX ON {table} (tenant, corpus)"),
        format!("CREATE INDEX ON {table} (doc_id)"),
    ];
    if dimension <= LONGEST_INDEXED {
        let (m, ef_construction) = (settings.m, settings.ef_construction);
        statements.push(format!(
            "CREATE INDEX ON {table} USING hnsw (embedding vector_cosine_ops) \
             WITH (m = {m}, ef_construction = {ef_construction})"
        ));
    } else {
        tracing::warn!("pgvector cannot index vectors of more than {LONGEST_INDEXED} numbers: every search is a scan");
    }
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn serve(connection: &mut PgConnection, build: i64) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO dense_serving (build) VALUES ($1) ON CONFLICT (only_one) DO UPDATE SET build = excluded.build",
    )
    .bind(build)
    .execute(&mut *connection)
    .await?;
    // Not CREATE OR REPLACE: the next model's vectors may have another length, which a replaced view may not.
    for statement in
        [format!("DROP VIEW IF EXISTS {SERVED}"), format!("CREATE VIEW {SERVED} AS SELECT * FROM {}", table(build))]
    {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn remove_others(connection: &mut PgConnection, served: i64) -> sqlx::Result<()> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT tablename::text FROM pg_tables \
         WHERE schemaname = current_schema() AND tablename ~ '^dense_b[0-9]+$' AND tablename <> $1",
    )
    .bind(table(served))
    .fetch_all(&mut *connection)
    .await?;
    for table in tables {
        sqlx::query(AssertSqlSafe(format!("DROP TABLE {table}"))).execute(&mut *connection).await?;
    }
    Ok(())
}
