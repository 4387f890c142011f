//! The embedding models that were used, and which one serves.

use super::{OUTBOX_LOCK, Store, StoreError, lock_for_transaction};
use crate::embed::ModelIdentity;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelRow {
    pub generation: i64,
    pub fingerprint: String,
    pub dimension: usize,
    pub probes: Vec<Vec<f32>>,
    pub serving: bool,
}

impl Store {
    pub(crate) async fn models(&self) -> Result<Vec<ModelRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT generation, fingerprint, dimension, probes, serving FROM models ORDER BY generation DESC",
        )
        .fetch_all(&self.pool)
        .await?;
        let model = |row: &PgRow| -> Result<ModelRow, StoreError> {
            let dimension = row.try_get::<i32, _>("dimension")?.max(1) as usize;
            let probes = floats(row.try_get("probes")?);
            Ok(ModelRow {
                generation: row.try_get("generation")?,
                fingerprint: row.try_get("fingerprint")?,
                dimension,
                probes: probes.chunks(dimension).map(<[f32]>::to_vec).collect(),
                serving: row.try_get("serving")?,
            })
        };
        rows.iter().map(model).collect()
    }

    /// The generation whose vectors are served.
    pub(crate) async fn serving_generation(&self) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar("SELECT generation FROM models WHERE serving").fetch_optional(&self.pool).await?)
    }

    /// Remembers a model that was not known.
    pub(crate) async fn add_model(
        &self,
        identity: &ModelIdentity,
        fingerprint: &str,
        probes: &[Vec<f32>],
    ) -> Result<i64, StoreError> {
        // The update that changes nothing gives the generation of a row that somebody else has just inserted.
        let generation = sqlx::query_scalar(
            "INSERT INTO models (fingerprint, name, dimension, probes) VALUES ($1, $2, $3, $4)
             ON CONFLICT (fingerprint) DO UPDATE SET name = models.name RETURNING generation",
        )
        .bind(fingerprint)
        .bind(&identity.name)
        .bind(identity.dimension as i32)
        .bind(bytes(&probes.concat()))
        .fetch_one(&self.pool)
        .await?;
        Ok(generation)
    }

    /// Serves this model from now on. Without `replace`, only when none serves yet. Whoever writes embeddings holds the
    /// outbox's lock to its commit, so that none of another model is written afterwards.
    pub(crate) async fn serve_model(&self, generation: i64, replace: bool) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        lock_for_transaction(&mut tx, OUTBOX_LOCK).await?;
        let none: bool =
            sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM models WHERE serving)").fetch_one(&mut *tx).await?;
        if none || replace {
            sqlx::query("UPDATE models SET serving = false WHERE serving AND generation <> $1")
                .bind(generation)
                .execute(&mut *tx)
                .await?;
            let serve = sqlx::query("UPDATE models SET serving = true WHERE generation = $1").bind(generation);
            serve.execute(&mut *tx).await?;
            sqlx::query("SELECT pg_notify('docrag_outbox', '')").execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Sends documents that have chunks without a vector of the serving model back to the embed stage. Returns how many.
    pub(crate) async fn requeue_stale(&self) -> Result<u64, StoreError> {
        let (mut after, mut sent) = (Uuid::nil(), 0);
        loop {
            let page: Vec<Uuid> = sqlx::query_scalar(
                "WITH stale AS (
                     SELECT d.id FROM documents d
                     WHERE d.id > $1 AND d.state IN ('embedded', 'indexed') AND EXISTS (
                         SELECT 1 FROM vectors v WHERE v.doc_id = d.id
                           AND v.generation IS DISTINCT FROM (SELECT generation FROM models WHERE serving))
                     ORDER BY d.id LIMIT 500 FOR UPDATE OF d)
                 UPDATE documents d SET state = 'chunked', attempts = 0, next_attempt_at = now(), waiting_since =
                     CASE WHEN d.state = 'embedded' THEN d.waiting_since ELSE now() END
                 FROM stale WHERE d.id = stale.id RETURNING d.id",
            )
            .bind(after)
            .fetch_all(&self.pool)
            .await?;
            sent += page.len() as u64;
            let Some(last) = page.iter().max() else { return Ok(sent) };
            after = *last;
        }
    }

    /// Chunks without a vector of the serving model, but of documents that were given up.
    pub(crate) async fn count_unembedded(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM vectors v JOIN documents d ON d.id = v.doc_id
             WHERE d.state <> 'failed'
               AND v.generation IS DISTINCT FROM (SELECT generation FROM models WHERE serving)",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count as u64)
    }
}

/// As vectors are stored: little-endian f32.
pub(crate) fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<4>();
    numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_read_as_it_was_written() {
        let vector = [0.0, -1.5, f32::MIN_POSITIVE, 0.1];
        assert_eq!(floats(&bytes(&vector)), vector);
        assert_eq!(bytes(&[1.0]), [0, 0, 0x80, 0x3f]);
    }
}
