//! The chunks of a database, and what an index still had to follow: one side of what ties Postgres and Qdrant.

use super::client::{APPLICATION_NAME, Endpoint, Session};
use super::contents::{client, told};
use futures_util::TryStreamExt;
use groundskeeper_core::receipt::{Meanwhile, Outbox, PointId, Statements};
use std::pin::pin;
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

/// Changes that a set remembers. Where more happens while it is made, copies that agree are not to be had.
const MOST_CHANGES: usize = 20_000;
/// Ids that are compared at most; they take 32 bytes each, on both sides.
pub const MOST_IDS: usize = 5_000_000;
/// For one question about the outbox.
const SHORT: Duration = Duration::from_secs(30);

/// What a database says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    /// In order, each once.
    pub ids: Vec<PointId>,
    pub under_way: Option<UnderWay>,
}

/// What the points had not followed yet, or may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// The number up to which they had.
    pub followed: i64,
    pub changes: Vec<(i64, PointId)>,
}

/// The number up to which the points have followed now.
pub async fn followed(endpoint: &Endpoint, database: &str, outbox: &Outbox) -> Result<i64, String> {
    let session = session(endpoint, database).await?;
    let number = number(client(&session)?, &outbox.followed).await;
    session.close(SHORT).await;
    number?.ok_or_else(nobody_follows)
}

fn nobody_follows() -> String {
    "the statement `followed` gives no number: no index has followed the outbox yet".to_owned()
}

/// What has happened since `since`, for a set whose points were copied just now.
pub async fn meanwhile(endpoint: &Endpoint, database: &str, outbox: &Outbox, since: i64) -> Meanwhile {
    match seen(endpoint, database, outbox, since).await {
        Ok(seen) => seen,
        Err(why) => Meanwhile::Lost { why },
    }
}

async fn seen(endpoint: &Endpoint, database: &str, outbox: &Outbox, since: i64) -> Result<Meanwhile, String> {
    let session = session(endpoint, database).await?;
    let seen = async {
        let client = client(&session)?;
        let rows = changes(client, &outbox.changes, since, MOST_CHANGES).await?;
        // After the changes: what is removed in between is missed, and this says so.
        let pruned = match &outbox.pruned {
            Some(sql) => number(client, sql).await?,
            None => None,
        };
        let changes = rows.into_iter().map(|(seq, id)| (seq, id.to_string())).collect();
        Ok(Meanwhile::Seen { pruned, changes })
    };
    let seen = seen.await;
    session.close(SHORT).await;
    seen
}

/// Reads chunks and outbox of a restored database at one moment of it. Nothing may be open in the session.
pub async fn chunks(client: &Client, statements: &Statements, within: Duration) -> Result<Chunks, String> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog; \
         SET LOCAL statement_timeout = {}",
        within.as_millis().clamp(1, 86_400_000)
    );
    client.batch_execute(&begin).await.map_err(|error| told(&error))?;
    let read = read(client, statements).await;
    // An answer is there, or an error that says more than this one would.
    let _ = client.batch_execute("ROLLBACK").await;
    read
}

async fn read(client: &Client, statements: &Statements) -> Result<Chunks, String> {
    let sql = format!("SELECT (held.id)::pg_catalog.text FROM ({}) AS held (id)", statements.chunks);
    let mut ids = Vec::new();
    let mut rows = pin!(rows(client, &sql, &[]).await.map_err(|error| refused("ids", &error))?);
    while let Some(row) = rows.try_next().await.map_err(|error| refused("ids", &error))? {
        if ids.len() == MOST_IDS {
            return Err(format!("there are more than {MOST_IDS} chunks, and no more are compared"));
        }
        ids.push(id(row.get(0))?);
    }
    ids.sort_unstable();
    ids.dedup();
    let under_way = match &statements.outbox {
        Some(outbox) => Some(under_way(client, outbox).await?),
        None => None,
    };
    Ok(Chunks { ids, under_way })
}

async fn under_way(client: &Client, outbox: &Outbox) -> Result<UnderWay, String> {
    let followed = number(client, &outbox.followed).await?.ok_or_else(nobody_follows)?;
    Ok(UnderWay { followed, changes: changes(client, &outbox.changes, followed, MOST_IDS).await? })
}

async fn changes(client: &Client, sql: &str, since: i64, most: usize) -> Result<Vec<(i64, PointId)>, String> {
    let sql = format!("SELECT (held.seq)::pg_catalog.int8, (held.id)::pg_catalog.text FROM ({sql}) AS held (seq, id)");
    let mut found = Vec::new();
    let mut rows = pin!(rows(client, &sql, &[&since]).await.map_err(|error| refused("changes", &error))?);
    while let Some(row) = rows.try_next().await.map_err(|error| refused("changes", &error))? {
        if found.len() == most {
            return Err(format!("more than {most} chunks changed while the set was made"));
        }
        found.push((row.get(0), id(row.get(1))?));
    }
    Ok(found)
}

async fn number(client: &Client, sql: &str) -> Result<Option<i64>, String> {
    let sql = format!("SELECT (held.number)::pg_catalog.int8 FROM ({sql}) AS held (number)");
    let row = client.query_opt(&sql, &[]).await.map_err(|error| refused("followed` or `pruned", &error))?;
    Ok(row.and_then(|row| row.get(0)))
}

/// As they come, and not all at once in memory.
async fn rows(client: &Client, sql: &str, given: &[&(dyn ToSql + Sync)]) -> Result<tokio_postgres::RowStream, Error> {
    client.query_raw(sql, given.iter().copied()).await
}

fn id(text: Option<&str>) -> Result<PointId, String> {
    text.ok_or("a statement gave NULL for the id of a chunk")?.parse()
}

fn refused(statement: &str, error: &Error) -> String {
    format!("the statement `{statement}`: {}", told(error))
}

async fn session(endpoint: &Endpoint, database: &str) -> Result<Session, String> {
    let settings =
        [("search_path", "pg_catalog"), ("default_transaction_read_only", "on"), ("statement_timeout", "30s")];
    let settings = settings.map(|(name, value)| (name, value.to_owned()));
    let opened = endpoint.with_database(database).connect(APPLICATION_NAME, &settings, SHORT).await;
    opened.map_err(|failure| format!("{}: {}", failure.address, failure.message))
}
