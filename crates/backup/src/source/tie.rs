//! What a set has to know so that the chunks of its Postgres can be compared with the points of its Qdrant: what the outbox
//! said while they were copied, one after the other.
//!
//! The set is good without: what goes wrong here is told in the receipt.

use crate::vault::{ChunkSource, QdrantSource};
use groundskeeper_core::receipt::{Meanwhile, Outbox, Tie};
use groundskeeper_systems::postgres::tie::{followed, meanwhile};
use tokio::runtime::Handle;

/// How far the points had followed before anything was copied; None without an outbox.
pub(crate) type Since = Option<Result<i64, String>>;

fn outbox(source: &QdrantSource) -> Option<(&ChunkSource, &Outbox)> {
    let chunks = source.chunks.as_ref()?;
    Some((chunks, chunks.statements.outbox.as_ref()?))
}

pub(crate) fn begin(source: &QdrantSource) -> Since {
    let (chunks, outbox) = outbox(source)?;
    Some(Handle::current().block_on(followed(&chunks.endpoint, &chunks.database, outbox)))
}

/// Asked after the points were copied.
pub(crate) async fn end(source: &QdrantSource, since: &Since) -> Option<Tie> {
    let chunks = source.chunks.as_ref()?;
    let meanwhile = match (outbox(source), since) {
        (None, _) | (_, None) => None,
        (Some((chunks, outbox)), Some(Ok(since))) => {
            Some(meanwhile(&chunks.endpoint, &chunks.database, outbox, *since).await)
        }
        (_, Some(Err(why))) => Some(Meanwhile::Lost { why: why.clone() }),
    };
    Some(Tie {
        postgres: chunks.postgres.clone(),
        database: chunks.database.clone(),
        collection: chunks.collection.clone(),
        statements: chunks.statements.clone(),
        meanwhile,
    })
}
