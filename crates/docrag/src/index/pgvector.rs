//! The dense index in Postgres itself, by the extension pgvector: HNSW over cosines.
//!
//! A build is a table; a view is what is searched and written to, so a switch of the view is a switch for everybody. In
//! the same database as the documents, but never in their transactions: it follows the outbox as the other indexes do.

mod schema;

use super::{Allowed, Change, Held, Hit, IndexError, Point, Scope, latest};
use crate::settings::PgvectorSettings;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Rows in one statement: some 100 ms of HNSW insertion.
const POINTS_PER_STATEMENT: usize = 128;

/// Documents in one filter: 800 kB on the wire.
const MOST_DOCUMENTS: usize = 50_000;

/// pgvector takes no larger `hnsw.ef_search`.
const MOST_EF_SEARCH: usize = 1_000;

pub struct PgvectorIndex {
    pool: PgPool,
    settings: PgvectorSettings,
    dimension: usize,
    /// pgvector 0.8 goes on searching when a filter leaves too few hits.
    iterative: bool,
    fits: AtomicBool,
}

impl PgvectorIndex {
    /// Makes the extension and the first build's table; an error that says what to do when the extension is not there.
    pub async fn open(pool: PgPool, settings: &PgvectorSettings, dimension: usize) -> Result<Self, IndexError> {
        if let Err(error) = sqlx::query("CREATE EXTENSION IF NOT EXISTS vector").execute(&pool).await {
            return Err(without_extension(&error));
        }
        let version: String = sqlx::query_scalar("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
            .fetch_one(&pool)
            .await
            .map_err(failed)?;
        schema::make_sure(&pool, settings, dimension).await.map_err(failed)?;
        let index = Self {
            pool,
            settings: settings.clone(),
            dimension,
            iterative: is_iterative(&version),
            fits: AtomicBool::new(false),
        };
        if let Some(error) = index.misfit().await? {
            tracing::error!("{error}");
        }
        Ok(index)
    }

    pub async fn apply(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        self.write(schema::SERVED, changes).await
    }

    pub async fn search(
        &self,
        scope: &Scope,
        allowed: &Allowed,
        vector: &[f32],
        limit: usize,
        exact: bool,
    ) -> Result<Vec<Hit>, IndexError> {
        let documents = match allowed {
            Some(documents) if documents.len() > MOST_DOCUMENTS => {
                return Err(IndexError::FilterTooWide { index: "pgvector", limit: MOST_DOCUMENTS });
            }
            Some(documents) => Some(documents.iter().copied().collect::<Vec<Uuid>>()),
            None => None,
        };
        if limit == 0 || documents.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
        if let Some(error) = self.misfit().await? {
            return Err(error);
        }
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        self.set(&mut transaction, limit, exact).await.map_err(failed)?;
        let mut hits = nearest(&mut transaction, scope, documents, vector, limit).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        // An iterative scan returns them almost in order.
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        Ok(hits)
    }

    pub async fn held(&self, tenant: Option<&str>) -> Result<Vec<Held>, IndexError> {
        let statement = "SELECT id, chunk_hash FROM dense_served WHERE $1::text IS NULL OR tenant = $1 ORDER BY id";
        let rows: Vec<(Uuid, Vec<u8>)> =
            sqlx::query_as(statement).bind(tenant).fetch_all(&self.pool).await.map_err(failed)?;
        Ok(rows.into_iter().map(|(id, chunk_hash)| Held { id, chunk_hash }).collect())
    }

    pub async fn count(&self) -> Result<u64, IndexError> {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM dense_served").fetch_one(&self.pool).await.map_err(failed)?;
        Ok(count as u64)
    }

    pub(super) async fn is_empty(&self) -> Result<bool, IndexError> {
        let empty = sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM dense_served)");
        empty.fetch_one(&self.pool).await.map_err(failed)
    }

    /// The number of the build that the view shows.
    pub(super) async fn served_build(&self) -> Result<Option<i64>, IndexError> {
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        schema::served(&mut connection).await.map_err(failed)
    }

    pub async fn begin_build(&self, build: i64) -> Result<(), IndexError> {
        let begun = schema::begin(&self.pool, build, &self.settings, self.dimension).await.map_err(failed)?;
        if begun { Ok(()) } else { Err(refused(format!("build {build} is already served"))) }
    }

    pub async fn fill_build(&self, build: i64, changes: Vec<Change>) -> Result<(), IndexError> {
        self.write(&schema::table(build), changes).await
    }

    pub async fn switch_build(&self, build: i64) -> Result<(), IndexError> {
        schema::switch(&self.pool, build).await.map_err(failed)
    }

    /// What is wrong when the served vectors are not as long as the model's. Asked again until they are: another process
    /// may rebuild the index.
    async fn misfit(&self) -> Result<Option<IndexError>, IndexError> {
        if self.fits.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let got = schema::served_dimension(&self.pool).await.map_err(failed)?;
        if got == Some(self.dimension as i32) {
            self.fits.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        let got = got.map_or("no vectors".to_owned(), |got| format!("vectors of {got} numbers"));
        Ok(Some(refused(format!(
            "the served table has {got}, the embedding model makes {}; put the former model back, or run \
             `docrag reindex --re-embed`",
            self.dimension
        ))))
    }

    async fn set(&self, connection: &mut PgConnection, limit: usize, exact: bool) -> sqlx::Result<()> {
        let ef_search = limit.max(self.settings.ef_search as usize).min(MOST_EF_SEARCH);
        // A plan for any limit might be a scan of everything.
        let mut settings =
            vec![("hnsw.ef_search", ef_search.to_string()), ("plan_cache_mode", "force_custom_plan".to_owned())];
        if self.iterative {
            settings.push(("hnsw.iterative_scan", "relaxed_order".to_owned()));
        }
        if exact {
            settings.push(("enable_indexscan", "off".to_owned()));
        }
        let (names, values): (Vec<&str>, Vec<String>) = settings.into_iter().unzip();
        sqlx::query(
            "SELECT set_config(name, value, true) FROM unnest($1::text[], $2::text[]) AS setting (name, value)",
        )
        .bind(names)
        .bind(values)
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn write(&self, table: &str, changes: Vec<Change>) -> Result<(), IndexError> {
        let (points, deleted) = latest(changes);
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        for points in points.chunks(POINTS_PER_STATEMENT) {
            if let Some(point) = points.iter().find(|point| point.vector.len() != self.dimension) {
                let (id, got, expected) = (point.id, point.vector.len(), self.dimension);
                return Err(refused(format!("the vector of chunk {id} has {got} numbers, not {expected}")));
            }
            upsert(&mut transaction, table, points, self.dimension).await.map_err(failed)?;
        }
        if !deleted.is_empty() {
            sqlx::query(AssertSqlSafe(format!("DELETE FROM {table} WHERE id = ANY($1)")))
                .bind(deleted)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }
}

async fn nearest(
    connection: &mut PgConnection,
    scope: &Scope,
    documents: Option<Vec<Uuid>>,
    vector: &[f32],
    limit: usize,
) -> sqlx::Result<Vec<Hit>> {
    // Two statements and not `$4 IS NULL OR …`, which no plan is good for.
    let statement = if documents.is_some() {
        "SELECT id, doc_id, 1 - (embedding <=> $1::real[]::vector) FROM dense_served \
         WHERE tenant = $2 AND corpus = $3 AND doc_id = ANY($5) \
         ORDER BY embedding <=> $1::real[]::vector LIMIT $4"
    } else {
        "SELECT id, doc_id, 1 - (embedding <=> $1::real[]::vector) FROM dense_served \
         WHERE tenant = $2 AND corpus = $3 ORDER BY embedding <=> $1::real[]::vector LIMIT $4"
    };
    let mut query = sqlx::query_as(statement).bind(vector).bind(&scope.tenant).bind(&scope.corpus).bind(limit as i64);
    if let Some(documents) = documents {
        query = query.bind(documents);
    }
    let rows: Vec<(Uuid, Uuid, f64)> = query.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(id, doc_id, score)| Hit { id, doc_id, score: score as f32 }).collect())
}

/// All vectors travel as one array, cut by Postgres: binary, and not a text per number.
async fn upsert(connection: &mut PgConnection, table: &str, points: &[Point], dimension: usize) -> sqlx::Result<()> {
    let statement = format!(
        "INSERT INTO {table} (id, doc_id, tenant, corpus, chunk_hash, model_fingerprint, generation, embedding) \
         SELECT id, doc_id, tenant, corpus, chunk_hash, model_fingerprint, generation, \
                ($8::real[])[(n - 1) * $9 + 1 : n * $9]::vector \
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::bigint[]) \
              WITH ORDINALITY \
              AS point (id, doc_id, tenant, corpus, chunk_hash, model_fingerprint, generation, n) \
         ON CONFLICT (id) DO UPDATE SET doc_id = excluded.doc_id, tenant = excluded.tenant, corpus = excluded.corpus, \
             chunk_hash = excluded.chunk_hash, model_fingerprint = excluded.model_fingerprint, \
             generation = excluded.generation, embedding = excluded.embedding"
    );
    sqlx::query(AssertSqlSafe(statement))
        .bind(points.iter().map(|point| point.id).collect::<Vec<Uuid>>())
        .bind(points.iter().map(|point| point.doc_id).collect::<Vec<Uuid>>())
        .bind(points.iter().map(|point| point.tenant.as_str()).collect::<Vec<&str>>())
        .bind(points.iter().map(|point| point.corpus.as_str()).collect::<Vec<&str>>())
        .bind(points.iter().map(|point| point.chunk_hash.as_slice()).collect::<Vec<&[u8]>>())
        .bind(points.iter().map(|point| point.model_fingerprint.as_str()).collect::<Vec<&str>>())
        .bind(points.iter().map(|point| point.generation).collect::<Vec<i64>>())
        .bind(points.iter().flat_map(|point| &point.vector).copied().collect::<Vec<f32>>())
        .bind(dimension as i64)
        .execute(connection)
        .await?;
    Ok(())
}

/// `0.8.6` is, `0.7.4` is not.
fn is_iterative(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (0, 8)
}

fn without_extension(error: &sqlx::Error) -> IndexError {
    let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    let next = match code.as_deref() {
        Some("42501") => "have a superuser run `CREATE EXTENSION vector` in this database",
        Some("0A000" | "58P01") => {
            "install pgvector on the server (Debian and Ubuntu: postgresql-<version>-pgvector from apt.postgresql.org)"
        }
        _ => return failed_by(error),
    };
    refused(format!(
        "the extension vector cannot be had ({error}); {next}, or set index.kind to \"memory\" or \"qdrant\""
    ))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: sqlx::Error) -> IndexError {
    failed_by(&error)
}

/// Classes and codes of <https://www.postgresql.org/docs/current/errcodes-appendix.html>: 08 lost connections, 53 no
/// resources, 57 shutdowns and time limits.
fn failed_by(error: &sqlx::Error) -> IndexError {
    let code = error.as_database_error().map(|error| error.code().unwrap_or_default().into_owned());
    match code {
        Some(code) if !["08", "53", "57"].iter().any(|class| code.starts_with(class)) => refused(error.to_string()),
        _ => IndexError::Unreachable { index: "pgvector", cause: error.to_string() },
    }
}

fn refused(cause: String) -> IndexError {
    IndexError::Refused { index: "pgvector", cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgvector_searches_on_from_0_8() {
        assert!(["0.8", "0.8.6", "0.10.0", "1.0.0"].map(is_iterative).iter().all(|is| *is));
        assert!(["0.7.4", "0.5", ""].map(is_iterative).iter().all(|is| !is));
    }
}
