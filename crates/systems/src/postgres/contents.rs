//! What the tables of a cluster hold at one exact position of its WAL, so that a restored copy can be compared with it.
//!
//! A snapshot alone has no position that a recovery could stop at. Two ways give one. When nobody has a transaction with
//! writes open, and the WAL does not grow while the snapshots are opened, they show what a recovery to that position has
//! (`before`, then the look at who writes, then the snapshots, then `after`: a commit that is in the WAL and not yet
//! visible has its writer among those who write). Where writing never stops, the tables are locked `IN SHARE MODE` while
//! the snapshots are opened: who commits gives its locks back only after everybody sees what it wrote.
//!
//! At the end a message of a few bytes is written to the WAL (`pg_logical_emit_message`), because recovery can only stop
//! before something.

use super::client::{APPLICATION_NAME, Endpoint, Session};
use groundskeeper_core::receipt::{Contents, DatabaseContents, Hashed, Lsn, Moment, TableContents};
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// Bytes of a table, TOAST included, that are read at most; of a larger one a sample. That every byte came back is shown by
/// the rungs below: this one is about rows, and the live server pays for it each night.
const WHOLE: f64 = 32.0 * 1024.0 * 1024.0;
/// Tables that are looked at in all. Each is a line of the receipt.
const MOST_TABLES: usize = 5_000;
/// Databases, each with a session of its own.
const MOST_DATABASES: usize = 8;
const QUIET_TRIES: u32 = 20;
const LOCKED_TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// Milliseconds that all locks of a database may take together: writers wait behind us for that long.
const LOCKING: u32 = 250;
/// For one question that reads no table.
const SHORT: Duration = Duration::from_secs(30);

/// With these a value has the same text in every copy.
const SETTINGS: [(&str, &str); 11] = [
    ("search_path", "pg_catalog"),
    ("row_security", "off"),
    ("datestyle", "ISO,YMD"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("jit", "off"),
    ("lock_timeout", "2s"),
    ("statement_timeout", "30s"),
    // The snapshots of other databases wait while one is read.
    ("idle_in_transaction_session_timeout", "0"),
];

/// In a transaction of its own, whose commit brings it to the disk. Gives where it ends.
const MESSAGE: &str = "
SELECT (pg_logical_emit_message(true, 'groundskeeper', 'what the tables hold up to here is known') - '0/0')::int8";

const WRITERS: &str = "SELECT
  (SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL) + (SELECT count(*) FROM pg_prepared_xacts)";

const DATABASES: &str = "
SELECT datname::text, datallowconn AND has_database_privilege(oid, 'CONNECT') FROM pg_database
WHERE datname <> 'template0' AND datconnlimit <> -2 ORDER BY datname";

/// Smallest first: when the time is over, most of them were looked at.
const TABLES: &str = "
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
       coalesce(pg_catalog.pg_table_size(c.oid), 0)::float8,
       pg_catalog.has_table_privilege(c.oid, 'SELECT'),
       c.relkind = 'r'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated
  AND n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY 2, 1";

/// Snapshots of every database at one position, open.
#[derive(Debug)]
pub struct Held {
    pub at: Lsn,
    /// The WAL to here has something that a recovery can stop before.
    pub end: Lsn,
    moment: Moment,
    finished_below: u64,
    databases: Vec<Opened>,
    not_covered: Vec<String>,
}

#[derive(Debug)]
struct Opened {
    name: String,
    session: Session,
}

/// Opens the snapshots. The error says why there is no position, in words for a person.
pub async fn hold(endpoint: &Endpoint) -> Result<Held, String> {
    let control = session(endpoint).await?;
    let held = hold_by(endpoint, &control).await;
    control.close(SHORT).await;
    held
}

async fn session(endpoint: &Endpoint) -> Result<Session, String> {
    let settings: Vec<(&str, String)> = SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let opened = endpoint.connect(APPLICATION_NAME, &settings, SHORT).await;
    let session = opened.map_err(|failure| format!("{}: {}", failure.address, failure.message))?;
    if !session.is_settled() {
        return Err(format!("{}: it does not take the settings of a session; is it a pooler?", endpoint.address()));
    }
    Ok(session)
}

pub(super) fn client(session: &Session) -> Result<&Client, String> {
    session.client().ok_or_else(|| "the session is closed".to_owned())
}

pub(super) fn told(error: &Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |answer| answer.message().to_owned())
}

async fn hold_by(endpoint: &Endpoint, control: &Session) -> Result<Held, String> {
    let control = client(control)?;
    let failed = |error: Error| told(&error);
    let sql = "SELECT pg_is_in_recovery(), pg_has_role('pg_read_all_stats', 'USAGE')";
    let row = control.query_one(sql, &[]).await.map_err(failed)?;
    if row.get(0) {
        return Err("the server is a standby, and a position can only be held where writing is done".to_owned());
    }
    let sees_writers: bool = row.get(1);
    let (databases, not_covered) = enter(endpoint, control).await?;
    let quiet = if sees_writers { quiet(control, &databases).await.map_err(failed)? } else { None };
    let ((at, finished_below), moment) = match quiet {
        Some(held) => (held, Moment::Quiet),
        None => (locked(endpoint, control, &databases).await?, Moment::Locked),
    };
    let end = lsn(control, MESSAGE).await.map_err(failed)?;
    Ok(Held { at, end, moment, finished_below, databases, not_covered })
}

/// Where the WAL ends.
async fn position(control: &Client) -> Result<Lsn, Error> {
    lsn(control, "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8").await
}

async fn lsn(control: &Client, sql: &str) -> Result<Lsn, Error> {
    Ok(Lsn(control.query_one(sql, &[]).await?.try_get::<_, i64>(0)?.unsigned_abs()))
}

/// A session in every database that we may enter.
async fn enter(endpoint: &Endpoint, control: &Client) -> Result<(Vec<Opened>, Vec<String>), String> {
    let (mut opened, mut not_covered) = (Vec::new(), Vec::new());
    for row in control.query(DATABASES, &[]).await.map_err(|error| told(&error))? {
        let (name, allowed): (String, bool) = (row.get(0), row.get(1));
        if !allowed {
            not_covered.push(format!("database {name}: the role may not enter it"));
        } else if opened.len() == MOST_DATABASES {
            not_covered.push(format!("database {name}: only {MOST_DATABASES} databases are looked at"));
        } else {
            match session(&endpoint.with_database(&name)).await {
                Ok(session) => opened.push(Opened { name, session }),
                Err(why) => not_covered.push(format!("database {name}: {why}")),
            }
        }
    }
    if opened.is_empty() {
        return Err(format!("no database could be entered: {}", not_covered.join("; ")));
    }
    Ok((opened, not_covered))
}

/// Opens a snapshot in each session. Gives the number below which every transaction is over in all of them.
async fn snapshots(databases: &[Opened]) -> Result<u64, Error> {
    const OPEN: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8";
    let mut lowest = u64::MAX;
    for database in databases {
        if let Some(client) = database.session.client() {
            lowest = lowest.min(client.query_one(OPEN, &[]).await?.try_get::<_, i64>(0)?.unsigned_abs());
        }
    }
    Ok(lowest)
}

async fn each(databases: &[Opened], sql: &str) -> Result<(), Error> {
    for database in databases {
        if let Some(client) = database.session.client() {
            client.batch_execute(sql).await?;
        }
    }
    Ok(())
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

async fn quiet(control: &Client, databases: &[Opened]) -> Result<Option<(Lsn, u64)>, Error> {
    for attempt in 0..QUIET_TRIES {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        each(databases, BEGIN).await?;
        let before = position(control).await?;
        if control.query_one(WRITERS, &[]).await?.get::<_, i64>(0) == 0 {
            let finished_below = snapshots(databases).await?;
            if position(control).await? == before {
                return Ok(Some((before, finished_below)));
            }
        }
        each(databases, "ROLLBACK").await?;
    }
    Ok(None)
}

async fn locked(endpoint: &Endpoint, control: &Client, databases: &[Opened]) -> Result<(Lsn, u64), String> {
    let mut lockers = Vec::new();
    for database in databases {
        let session = session(&endpoint.with_database(&database.name)).await?;
        let tables = listed(client(&session)?).await.map_err(|error| told(&error))?;
        lockers.push((session, tables));
    }
    let mut last = String::new();
    for _ in 0..LOCKED_TRIES {
        match lock_all(&lockers).await {
            Ok(()) => {
                let opened = async {
                    each(databases, BEGIN).await?;
                    let finished_below = snapshots(databases).await?;
                    Ok((position(control).await?, finished_below))
                };
                let held = opened.await.map_err(|error: Error| told(&error));
                unlock(&lockers).await;
                return held;
            }
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                unlock(&lockers).await;
                return Err(format!(
                    "there is always somebody who writes, and the role may not lock the tables for an instant ({}); \
                     from Postgres 17 on GRANT pg_maintain lets it, before only the rights to write do",
                    told(&error)
                ));
            }
            Err(error) => last = told(&error),
        }
        unlock(&lockers).await;
        tokio::time::sleep(PAUSE * 10).await;
    }
    Err(format!("there is always somebody who writes, and the tables could not be locked for an instant: {last}"))
}

async fn lock_all(lockers: &[(Session, Vec<Listed>)]) -> Result<(), Error> {
    for (session, tables) in lockers {
        let Some(client) = session.client() else { continue };
        client.batch_execute(&format!("BEGIN; SET LOCAL statement_timeout = {LOCKING}")).await?;
        let names: Vec<&str> =
            tables.iter().filter(|table| table.readable && table.lockable).map(|table| table.name.as_str()).collect();
        if !names.is_empty() {
            client.batch_execute(&format!("LOCK TABLE ONLY {} IN SHARE MODE", names.join(", ONLY "))).await?;
        }
    }
    Ok(())
}

async fn unlock(lockers: &[(Session, Vec<Listed>)]) {
    for (session, _) in lockers {
        if let Some(client) = session.client() {
            // A session that broke has no locks either.
            let _ = client.batch_execute("ROLLBACK").await;
        }
    }
}

struct Listed {
    name: String,
    bytes: f64,
    readable: bool,
    /// A materialized view is not.
    lockable: bool,
}

async fn listed(client: &Client) -> Result<Vec<Listed>, Error> {
    let rows = client.query(TABLES, &[]).await?;
    rows.iter()
        .map(|row| {
            let (name, bytes) = (row.try_get(0)?, row.try_get(1)?);
            Ok(Listed { name, bytes, readable: row.try_get(2)?, lockable: row.try_get(3)? })
        })
        .collect()
}

impl Held {
    /// Reads the tables, and lets the snapshots go. What is not read within `budget`, while which nothing that was deleted
    /// can be vacuumed, is not covered.
    pub async fn read(self, budget: Duration) -> Contents {
        let until = Instant::now() + budget;
        let mut contents = Contents {
            at: self.at,
            moment: self.moment,
            finished_below: Some(self.finished_below),
            databases: Vec::new(),
            not_covered: self.not_covered,
        };
        for Opened { name, session } in self.databases {
            if let Some(client) = session.client() {
                let room = MOST_TABLES.saturating_sub(contents.tables().count());
                let reading = Reading { client, database: &name, moment: self.moment, room, until };
                let tables = reading.read(&mut contents.not_covered).await;
                contents.databases.push(DatabaseContents { name, tables });
            }
            session.close(SHORT).await;
        }
        contents
    }
}

/// The tables of one database.
struct Reading<'a> {
    client: &'a Client,
    database: &'a str,
    moment: Moment,
    /// So many tables more.
    room: usize,
    until: Instant,
}

impl Reading<'_> {
    async fn read(&self, not_covered: &mut Vec<String>) -> Vec<TableContents> {
        let Self { client, database, moment, room, until } = *self;
        let listed = match listed(client).await {
            Ok(listed) => listed,
            Err(error) => {
                not_covered.push(format!("database {database}: {}", told(&error)));
                return Vec::new();
            }
        };
        let mut missed: Vec<(String, Vec<String>)> = Vec::new();
        let mut miss = |why: String, table: &str| match missed.iter_mut().find(|(known, _)| *known == why) {
            Some((_, tables)) => tables.push(table.to_owned()),
            None => missed.push((why, vec![table.to_owned()])),
        };
        let mut tables = Vec::new();
        for Listed { name, bytes, readable, lockable } in listed {
            let left = until.saturating_duration_since(Instant::now());
            if !readable {
                miss("the role may not read".to_owned(), &name);
            } else if moment == Moment::Locked && !lockable {
                miss("nobody can lock".to_owned(), &name);
            } else if tables.len() >= room {
                miss(format!("more than {MOST_TABLES} tables, so not"), &name);
            } else if left < Duration::from_millis(1) {
                miss("no time was left for".to_owned(), &name);
            } else {
                let sample = (bytes > WHOLE).then(|| (WHOLE / bytes * 10_000.0).ceil() / 100.0);
                match first_fingerprint(client, &name, sample, left).await {
                    Ok((rows, fingerprint, hashed)) => {
                        tables.push(TableContents { name, rows, fingerprint, hashed, sample });
                    }
                    Err(Unread::Late) => miss("no time was left for".to_owned(), &name),
                    Err(Unread::NotHashed) => miss("no hash function is there for".to_owned(), &name),
                    Err(Unread::Refused(why) | Unread::Lost(why)) => miss(format!("{why}:"), &name),
                }
            }
        }
        not_covered
            .extend(missed.into_iter().map(|(why, tables)| format!("database {database}: {why} {}", few(&tables))));
        tables
    }
}

/// The first of many names.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Why a table was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    Late,
    /// Some column has a type without a hash function, or the server is too old to hash records.
    NotHashed,
    Refused(String),
    /// The connection was lost, or ended by the server.
    Lost(String),
}

/// The fast way where it can be had.
async fn first_fingerprint(
    client: &Client,
    table: &str,
    sample: Option<f64>,
    within: Duration,
) -> Result<(u64, String, Hashed), Unread> {
    let (hashed, read) = match fingerprint(client, table, Hashed::Record, sample, within).await {
        Err(Unread::NotHashed) => (Hashed::Text, fingerprint(client, table, Hashed::Text, sample, within).await),
        read => (Hashed::Record, read),
    };
    read.map(|(rows, fingerprint)| (rows, fingerprint, hashed))
}

/// Rows and fingerprint of a table, by the snapshot of the transaction that is open, if one is. The session must have
/// been [`prepare`]d.
pub async fn fingerprint(
    client: &Client,
    table: &str,
    hashed: Hashed,
    sample: Option<f64>,
    within: Duration,
) -> Result<(u64, String), Unread> {
    let refused = |error: Error| match error.code() {
        Some(&SqlState::QUERY_CANCELED) => Unread::Late,
        Some(&SqlState::UNDEFINED_FUNCTION) if hashed == Hashed::Record => Unread::NotHashed,
        None | Some(&SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN) => Unread::Lost(told(&error)),
        _ => Unread::Refused(told(&error)),
    };
    let sample = sample.map_or_else(String::new, |part| format!(" TABLESAMPLE SYSTEM ({part}) REPEATABLE (1)"));
    let hash = match hashed {
        Hashed::Record => "pg_catalog.hash_record_extended(held.*, 0)",
        Hashed::Text => "pg_catalog.hashtextextended((held.*)::text COLLATE \"C\", 0)",
    };
    let sql = format!(
        "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum({hash}), 0)::text FROM ONLY {table} AS held{sample}"
    );
    // An error ends a transaction, and with it the snapshot that the tables after this one need.
    let keep = |sql: &'static str| async move { client.batch_execute(sql).await.map_err(refused) };
    keep("SAVEPOINT before").await?;
    let limit = format!("SET LOCAL statement_timeout = {}", within.as_millis().clamp(1, 86_400_000));
    let read = async {
        client.batch_execute(&limit).await?;
        client.query_one(&sql, &[]).await
    };
    match read.await {
        Ok(row) => {
            keep("RELEASE SAVEPOINT before").await?;
            let rows: i64 = row.get(0);
            Ok((rows.unsigned_abs(), row.get(1)))
        }
        Err(error) => {
            keep("ROLLBACK TO SAVEPOINT before").await?;
            Err(refused(error))
        }
    }
}

/// Opens a transaction in a session of another copy of the cluster, so that [`fingerprint`] gives there what it gave here.
pub async fn prepare(client: &Client) -> Result<(), String> {
    settle(client).await.map_err(|error| told(&error))?;
    client.batch_execute(BEGIN).await.map_err(|error| told(&error))
}

/// Has a session write values as every other one does that fingerprints tables.
pub(super) async fn settle(client: &Client) -> Result<(), Error> {
    let text = tokio_postgres::types::Type::TEXT;
    for (name, value) in SETTINGS {
        let values = [(&name as _, text.clone()), (&value as _, text.clone())];
        client.query_typed_one("SELECT set_config($1, $2, false)", &values).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_first_are_shown() {
        let names: Vec<String> = (1..=7).map(|number| format!("t{number}")).collect();
        assert_eq!(few(&names), "t1, t2, t3, t4, t5 and 2 more");
        assert_eq!(few(&names[..1]), "t1");
    }
}
