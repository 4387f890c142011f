//! How far each index has followed, and what follows from that.

use super::outbox::OutboxChange;
use super::{Store, StoreError};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

/// The row of an index that all processes share.
pub(crate) const SHARED: &str = "shared";

/// What is read of the outbox for an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Dense,
    Lexical,
}

/// An outbox entry with the chunk as it is now.
#[derive(Debug)]
pub(crate) struct Entry {
    pub seq: i64,
    pub change: OutboxChange,
    pub tenant: String,
    pub corpus: String,
    pub doc_id: Uuid,
    pub chunk_id: Uuid,
    pub vector: Option<StoredVector>,
    pub text: Option<StoredText>,
}

#[derive(Debug)]
pub(crate) struct StoredVector {
    pub chunk_hash: Vec<u8>,
    pub fingerprint: String,
    pub generation: i64,
    /// Little-endian f32.
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct StoredText {
    pub title: Option<String>,
    pub heading: String,
    pub content: String,
}

/// A chunk for filling an index.
#[derive(Debug)]
pub(crate) struct StoredChunk {
    pub id: Uuid,
    pub doc_id: Uuid,
    pub tenant: String,
    pub corpus: String,
    pub vector: Option<StoredVector>,
    pub text: Option<StoredText>,
}

/// What there is to follow, all seen at the same moment.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Some of the entries are gone already: the index has to be made anew.
    pub too_late: bool,
    /// The build that every process has to serve.
    pub wanted_build: i64,
    /// The generation of the model that serves.
    pub serving: Option<i64>,
    /// See [`super::models::Serving::complete_seq`].
    pub complete_seq: Option<i64>,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FollowerRow {
    pub build: i64,
    /// Of the vectors in this build; none when it was filled before the first model, and of words.
    pub generation: Option<i64>,
    pub applied_seq: i64,
}

// One statement each, so that what was pruned and what is left are seen at the same moment. `LIMIT 1` is for the planner:
// about tables that were never analyzed it thinks the worst, and compiles the statement each time, for half a second.
const FOLLOW_DENSE: &str = "
    SELECT p.seq AS pruned, coalesce((SELECT wanted FROM index_builds WHERE index_name = $3), 1) AS wanted,
           m.generation AS serving, m.complete_seq, o.*
    FROM (SELECT seq FROM outbox_pruned LIMIT 1) p
    LEFT JOIN (SELECT generation, complete_seq FROM models WHERE serving LIMIT 1) m ON true LEFT JOIN (
        SELECT o.seq, o.change, o.tenant, o.corpus, o.doc_id, o.chunk_id, v.chunk_hash, v.embedding,
               v.model_fingerprint, v.generation
        FROM outbox o LEFT JOIN vectors v
             ON v.id = o.chunk_id AND o.change = 'vector' AND v.embedding IS NOT NULL AND v.generation = $4
        WHERE o.seq > $1 ORDER BY o.seq LIMIT $2) o ON true
    ORDER BY o.seq";

const FOLLOW_LEXICAL: &str = "
    SELECT p.seq AS pruned, coalesce((SELECT wanted FROM index_builds WHERE index_name = $3), 1) AS wanted,
           $4::bigint AS serving, NULL::bigint AS complete_seq, o.*
    FROM (SELECT seq FROM outbox_pruned LIMIT 1) p LEFT JOIN (
        SELECT o.seq, o.change, o.tenant, o.corpus, o.doc_id, o.chunk_id, d.title, v.heading, v.content
        FROM outbox o LEFT JOIN (vectors v JOIN documents d ON d.id = v.doc_id)
             ON v.id = o.chunk_id AND o.change = 'text'
        WHERE o.seq > $1 ORDER BY o.seq LIMIT $2) o ON true
    ORDER BY o.seq";

impl Store {
    /// The next entries after `applied`. Vectors of other generations are left out, as if there were none.
    pub(crate) async fn follow(
        &self,
        reading: Reading,
        index: &str,
        generation: Option<i64>,
        applied: i64,
        limit: usize,
    ) -> Result<Batch, StoreError> {
        let rows = sqlx::query(match reading {
            Reading::Dense => FOLLOW_DENSE,
            Reading::Lexical => FOLLOW_LEXICAL,
        })
        .bind(applied)
        .bind(limit as i64)
        .bind(index)
        .bind(generation)
        .fetch_all(&self.pool)
        .await?;
        let first = rows.first().ok_or_else(|| StoreError::Refused(sqlx::Error::RowNotFound))?;
        let mut batch = Batch {
            too_late: applied < first.try_get::<i64, _>("pruned")?,
            wanted_build: first.try_get("wanted")?,
            serving: first.try_get("serving")?,
            complete_seq: first.try_get("complete_seq")?,
            entries: Vec::with_capacity(rows.len()),
        };
        for row in &rows {
            if let Some(seq) = row.try_get::<Option<i64>, _>("seq")? {
                batch.entries.push(entry(row, seq, reading)?);
            }
        }
        Ok(batch)
    }

    /// Chunks by id, after this one; `None` begins. Pages and not one long transaction, which would keep Postgres from
    /// cleaning up; what changes between two pages is in the outbox after the number that was read before the first.
    pub(crate) async fn chunks_after(
        &self,
        after: Option<Uuid>,
        vectors: bool,
        texts: bool,
        generation: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredChunk>, StoreError> {
        let rows = sqlx::query(
            "SELECT v.id, v.doc_id, v.tenant, v.corpus, v.chunk_hash, v.model_fingerprint, v.generation,
                    CASE WHEN $3 AND v.generation = $5 THEN v.embedding END AS embedding,
                    CASE WHEN $4 THEN v.heading END AS heading, CASE WHEN $4 THEN v.content END AS content, d.title
             FROM vectors v JOIN documents d ON d.id = v.doc_id
             WHERE v.id > $1 ORDER BY v.id LIMIT $2",
        )
        .bind(after.unwrap_or(Uuid::nil()))
        .bind(limit as i64)
        .bind(vectors)
        .bind(texts)
        .bind(generation)
        .fetch_all(&self.pool)
        .await?;
        let chunk = |row: &PgRow| {
            Ok(StoredChunk {
                id: row.try_get("id")?,
                doc_id: row.try_get("doc_id")?,
                tenant: row.try_get("tenant")?,
                corpus: row.try_get("corpus")?,
                vector: vector(row)?,
                text: text(row)?,
            })
        };
        rows.iter().map(chunk).collect()
    }

    pub(crate) async fn count_chunks(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM vectors").fetch_one(&self.pool).await?;
        Ok(count as u64)
    }

    /// Begins to follow from where the outbox is now, and keeps it from being pruned from there. What came before must
    /// be read from `vectors` *after* this.
    pub(crate) async fn register(&self, index: &str, replica: &str, build: i64) -> Result<i64, StoreError> {
        let seq = sqlx::query_scalar(
            "INSERT INTO followers (index_name, replica, build, applied_seq)
             SELECT $1, $2, $3, greatest(coalesce((SELECT max(seq) FROM outbox), 0), (SELECT seq FROM outbox_pruned))
             ON CONFLICT (index_name, replica)
             DO UPDATE SET build = excluded.build, applied_seq = excluded.applied_seq, seen_at = now()
             RETURNING applied_seq",
        );
        Ok(seq.bind(index).bind(replica).bind(build).fetch_one(&self.pool).await?)
    }

    pub(crate) async fn follower(&self, index: &str, replica: &str) -> Result<Option<FollowerRow>, StoreError> {
        let row: Option<(i64, Option<i64>, i64)> = sqlx::query_as(
            "SELECT build, generation, applied_seq FROM followers WHERE index_name = $1 AND replica = $2",
        )
        .bind(index)
        .bind(replica)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(build, generation, applied_seq)| FollowerRow { build, generation, applied_seq }))
    }

    /// Notes how far an index is; also says that its process lives.
    pub(crate) async fn followed(&self, index: &str, replica: &str, row: FollowerRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO followers (index_name, replica, build, applied_seq, generation) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (index_name, replica)
             DO UPDATE SET build = excluded.build, applied_seq = excluded.applied_seq,
                 generation = excluded.generation, seen_at = now()",
        )
        .bind(index)
        .bind(replica)
        .bind(row.build)
        .bind(row.applied_seq)
        .bind(row.generation)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// A shared index is in use, however long nothing has changed in it: what it has not followed has to be kept.
    pub(crate) async fn uses_shared(&self, index: &str) -> Result<(), StoreError> {
        let seen = sqlx::query("UPDATE followers SET seen_at = now() WHERE index_name = $1 AND replica = $2");
        seen.bind(index).bind(SHARED).execute(&self.pool).await?;
        Ok(())
    }

    /// Whether an index that has followed the outbox so far has to hold any vector of this generation.
    pub(crate) async fn has_followed_vectors(&self, generation: i64, applied: i64) -> Result<bool, StoreError> {
        let has = sqlx::query_scalar(
            "SELECT EXISTS (
                 SELECT 1 FROM vectors v WHERE v.generation = $1 AND v.embedding IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.seq > $2 AND o.chunk_id = v.id))",
        );
        Ok(has.bind(generation).bind(applied).fetch_one(&self.pool).await?)
    }

    pub(crate) async fn unregister(&self, replica: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM followers WHERE replica = $1").bind(replica).execute(&self.pool).await?;
        Ok(())
    }

    /// Forgets processes that were not heard of for an hour. A shared index keeps its row: it still is what it was.
    pub(crate) async fn forget_followers(&self) -> Result<u64, StoreError> {
        let old = sqlx::query("DELETE FROM followers WHERE replica <> $1 AND seen_at < now() - interval '1 hour'");
        Ok(old.bind(SHARED).execute(&self.pool).await?.rows_affected())
    }

    /// Documents that all indexes of a process have followed are searchable. Returns how many became so.
    pub(crate) async fn mark_indexed(&self, applied: i64) -> Result<u64, StoreError> {
        // Locked rows are being changed by a worker or marked by another process: next time.
        let done = sqlx::query(
            "UPDATE documents SET state = 'indexed', indexed_at = now() WHERE id IN (
                 SELECT id FROM documents WHERE state = 'embedded' AND outbox_seq <= $1
                 LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        );
        Ok(done.bind(applied).execute(&self.pool).await?.rows_affected())
    }

    /// Removes tombstones that every live follower has passed.
    pub(crate) async fn remove_tombstones(&self) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM documents WHERE id IN (
                 SELECT id FROM documents WHERE state = 'deleted' AND outbox_seq <= (
                     SELECT min(applied_seq) FROM followers WHERE seen_at > now() - interval '1 hour')
                 LIMIT 1000 FOR UPDATE SKIP LOCKED)",
        );
        Ok(done.execute(&self.pool).await?.rows_affected())
    }

    /// Asks all processes to rebuild what they hold of this index, and says by which number they do.
    pub(crate) async fn want_build(&self, index: &str) -> Result<i64, StoreError> {
        let wanted = sqlx::query_scalar(
            "INSERT INTO index_builds (index_name, wanted) VALUES ($1, 2)
             ON CONFLICT (index_name) DO UPDATE SET wanted = index_builds.wanted + 1 RETURNING wanted",
        );
        Ok(wanted.bind(index).fetch_one(&self.pool).await?)
    }

    /// How many processes were heard of within a minute and do not serve this build yet.
    pub(crate) async fn behind_build(&self, index: &str, build: i64) -> Result<i64, StoreError> {
        let behind = sqlx::query_scalar(
            "SELECT count(*) FROM followers
             WHERE index_name = $1 AND build < $2 AND seen_at > now() - interval '1 minute'",
        );
        Ok(behind.bind(index).bind(build).fetch_one(&self.pool).await?)
    }
}

fn entry(row: &PgRow, seq: i64, reading: Reading) -> Result<Entry, StoreError> {
    Ok(Entry {
        seq,
        change: OutboxChange::from_text(row.try_get("change")?),
        tenant: row.try_get("tenant")?,
        corpus: row.try_get("corpus")?,
        doc_id: row.try_get("doc_id")?,
        chunk_id: row.try_get("chunk_id")?,
        vector: if reading == Reading::Dense { vector(row)? } else { None },
        text: if reading == Reading::Lexical { text(row)? } else { None },
    })
}

fn vector(row: &PgRow) -> Result<Option<StoredVector>, StoreError> {
    let Some(bytes) = row.try_get("embedding")? else { return Ok(None) };
    Ok(Some(StoredVector {
        bytes,
        chunk_hash: row.try_get("chunk_hash")?,
        fingerprint: row.try_get("model_fingerprint")?,
        generation: row.try_get("generation")?,
    }))
}

fn text(row: &PgRow) -> Result<Option<StoredText>, StoreError> {
    let (Some(heading), Some(content)) = (row.try_get("heading")?, row.try_get("content")?) else { return Ok(None) };
    Ok(Some(StoredText { title: row.try_get("title")?, heading, content }))
}
