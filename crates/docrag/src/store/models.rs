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

/// The model whose vectors are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Serving {
    pub generation: i64,
    pub dimension: usize,
    /// An index that has followed the outbox so far holds a vector of this model for every chunk that was there when it
    /// began to serve; `None` while they are being made.
    pub complete_seq: Option<i64>,
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

    pub(crate) async fn serving_model(&self) -> Result<Option<Serving>, StoreError> {
        let row: Option<(i64, i32, Option<i64>)> =
            sqlx::query_as("SELECT generation, dimension, complete_seq FROM models WHERE serving")
                .fetch_optional(&self.pool)
                .await?;
        Ok(row.map(|(generation, dimension, complete_seq)| Serving {
            generation,
            dimension: dimension.max(1) as usize,
            complete_seq,
        }))
    }

    /// The generation whose vectors are served.
    pub(crate) async fn serving_generation(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.serving_model().await?.map(|serving| serving.generation))
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
    /// outbox's lock to its commit, so that none of another model is written afterwards. The first model ever has nothing
    /// to make again; any other is complete when [`Store::note_complete`] says so.
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
            sqlx::query(
                "UPDATE models SET serving = true, serving_since = now(), complete_seq = CASE WHEN $2 OR NOT EXISTS (
                     SELECT 1 FROM vectors v JOIN documents d ON d.id = v.doc_id
                     WHERE d.state <> 'failed' AND v.generation IS DISTINCT FROM $1) THEN 0 END
                 WHERE generation = $1 AND NOT serving",
            )
            .bind(generation)
            .bind(none)
            .execute(&mut *tx)
            .await?;
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

    /// Notes that the serving model has made everything again that was there at the switch, when it has. What came later
    /// does not count, or a busy service would never be done. Returns whether it was noted now.
    pub(crate) async fn note_complete(&self) -> Result<bool, StoreError> {
        let noted = sqlx::query(
            "UPDATE models m SET complete_seq =
                 greatest(coalesce((SELECT max(seq) FROM outbox), 0), (SELECT seq FROM outbox_pruned))
             WHERE m.serving AND m.complete_seq IS NULL AND NOT EXISTS (
                 SELECT 1 FROM vectors v JOIN documents d ON d.id = v.doc_id
                 WHERE d.state <> 'failed' AND v.created_at <= m.serving_since
                   AND v.generation IS DISTINCT FROM m.generation)",
        );
        let noted = noted.execute(&self.pool).await?.rows_affected() > 0;
        if noted {
            self.notify_followers().await?;
        }
        Ok(noted)
    }

    /// Chunks that were there when the serving model began to serve and have no vector of it, but of documents that were
    /// given up.
    pub(crate) async fn count_unembedded(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM vectors v JOIN documents d ON d.id = v.doc_id
             WHERE d.state <> 'failed'
               AND v.created_at <= coalesce((SELECT serving_since FROM models WHERE serving), 'infinity')
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
