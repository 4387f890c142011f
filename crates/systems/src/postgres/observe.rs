//! One reading of a Postgres: one connection, two round trips, never an error.
//!
//! The first question tells who and what we talk to; all the others are then sent at once and answered one after the
//! other. Each part that fails becomes a gap with its reason, so a reading always says what it could see.

use super::client::{APPLICATION_NAME, Endpoint, reading_settings};
use super::mask::masked;
use super::triggers::{Triggers, is_switched_off};
use super::{bloat, disk, groups, horizon, keys, security, settings, sql, statements, structure, vacuuming, vectors};
use groundskeeper_core::observation::{
    Access, Activity, Archiver, Checkpoints, Database, Failure, FailureKind, Gap, LagParts, Part, Postgres, Reading,
    Replication, Server, Standby, Statements, Table,
};
use groundskeeper_core::observation::{Session as Observed, SessionState};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSqlOwned, ToSql, Type};
use tokio_postgres::{Client, Row};

pub(super) const QUERY_SHOWN: usize = 200;

/// Reads the server within `deadline`, whatever it does. `now` is when the reading counts as taken.
pub async fn observe(endpoint: &Endpoint, now: Timestamp, deadline: Duration) -> Reading<Postgres> {
    let started = Instant::now();
    let until = started + deadline;
    let mut latency = None;
    // Boxed: the questions that are on their way at the same time make it too large for callers' stacks.
    let outcome = Box::pin(look(endpoint, started, until, &mut latency)).await;
    let took = started.elapsed().as_secs_f64();
    Reading { at: now, latency: latency.unwrap_or(took), took, outcome }
}

async fn look(
    endpoint: &Endpoint,
    started: Instant,
    until: Instant,
    latency: &mut Option<f64>,
) -> Result<Postgres, Failure> {
    let settings = reading_settings(until - started);
    let session = endpoint.connect(APPLICATION_NAME, &settings, until - started).await?;
    let Some(client) = session.client() else { return Err(cut_off(endpoint)) };
    let asking = Asking { client, until, protected: endpoint.protected(), disk: endpoint.disk() };

    let facts = match timeout_at(until, client.query_typed_one(sql::FACTS, &[])).await {
        Ok(answer) => answer.map_err(|error| endpoint.failure(&error))?,
        Err(_) => return Err(crate::deadline::timed_out(until - started, endpoint.address())),
    };
    *latency = Some(started.elapsed().as_secs_f64());
    let facts = Facts::read(&facts).map_err(|reason| Failure {
        kind: FailureKind::Protocol,
        message: format!("the server's answer makes no sense: {reason}"),
        address: endpoint.address().to_owned(),
    })?;

    let seen = Box::pin(asking.everything(facts)).await;
    let is_cut_off = client.is_closed();
    session.close(until.saturating_duration_since(Instant::now())).await;
    if is_cut_off { Err(cut_off(endpoint)) } else { Ok(seen) }
}

fn cut_off(endpoint: &Endpoint) -> Failure {
    Failure {
        kind: FailureKind::Interrupted,
        message: "the server closed the connection in the middle of the reading".to_owned(),
        address: endpoint.address().to_owned(),
    }
}

/// The answer to the first question.
struct Facts {
    server: Server,
    access: Access,
    preloaded: Option<bool>,
    statements_version: Option<String>,
    statements_schema: Option<String>,
    /// Whether pgvector is created.
    has_vectors: bool,
    /// How many there are, those of the server's own tables among them.
    indexes: u64,
}

impl Facts {
    fn read(row: &Row) -> Result<Self, String> {
        let libraries: Option<String> = get(row, "preloaded")?;
        Ok(Self {
            server: Server {
                version_num: count(row, "version_num")? as u32,
                version: get(row, "version")?,
                started: get(row, "started")?,
                in_recovery: get(row, "in_recovery")?,
                database: get(row, "database")?,
                max_connections: count(row, "max_connections")? as u32,
                reserved_connections: count(row, "reserved_connections")? as u32,
                autovacuum: get(row, "autovacuum")?,
                autovacuum_freeze_max_age: count(row, "freeze_max_age")?,
                checkpoint_timeout: get::<Option<f64>>(row, "checkpoint_timeout")?.unwrap_or(0.0),
            },
            access: Access {
                user: get(row, "role")?,
                superuser: get(row, "superuser")?,
                monitor: get(row, "monitor")?,
                signal_backend: get(row, "signal_backend")?,
            },
            preloaded: libraries.map(|libraries| is_preloaded(&libraries)),
            statements_version: get(row, "statements_version")?,
            statements_schema: get(row, "statements_schema")?,
            has_vectors: get(row, "vectors")?,
            indexes: count(row, "indexes")?,
        })
    }
}

/// Entries may be quoted, and may be paths.
fn is_preloaded(libraries: &str) -> bool {
    libraries.split(',').any(|entry| {
        let entry = entry.trim().trim_matches('"');
        entry.rsplit('/').next().is_some_and(|name| name.trim_end_matches(".so") == "pg_stat_statements")
    })
}

/// A client with the moment after which nobody waits for it any more.
pub(super) struct Asking<'a> {
    client: &'a Client,
    until: Instant,
    protected: &'a [String],
    /// Bytes of the server's disk, as configured.
    disk: Option<u64>,
}

impl Asking<'_> {
    /// All questions are on their way before the first answer is awaited.
    async fn everything(&self, facts: Facts) -> Postgres {
        let Facts { server, access, preloaded, statements_version, statements_schema, has_vectors, indexes } = facts;
        let version = server.version_num;
        let schema = statements_schema.filter(|_| preloaded != Some(false));
        let (
            activity,
            databases,
            tables,
            checkpoints,
            archiver,
            replication,
            horizon,
            vacuuming,
            (structure, usage),
            room,
            vectors,
            settings,
            (security, available),
            leaders,
            keys,
            footprints,
        ) = tokio::join!(
            self.activity(version),
            self.databases(),
            self.tables(version),
            self.one(sql::checkpoints(version), read_checkpoints),
            self.one(sql::ARCHIVER, read_archiver),
            self.replication(),
            Box::pin(horizon::read(self, version)),
            Box::pin(vacuuming::read(self, version, access.monitor)),
            Box::pin(structure::read(self, version, indexes)),
            Box::pin(disk::read(self, self.disk, version)),
            Box::pin(vectors::read(self, version, has_vectors)),
            Box::pin(settings::read(self, version)),
            Box::pin(security::read(self, version, &access.user)),
            Box::pin(statements::read(self, schema.as_deref(), statements_version.as_deref())),
            Box::pin(keys::read(self)),
            // The dearest of all comes last: where it is cut off, the others have been answered.
            Box::pin(bloat::read(self)),
        );
        let statements = Statements {
            preloaded,
            // A library that is there can be created, also when the list of extensions could not be read.
            available: available.unwrap_or(statements_version.is_some() || preloaded == Some(true)),
            extension: statements_version,
            leaders,
            past: Vec::new(),
        };
        Postgres {
            server: Box::new(server),
            access,
            activity,
            databases,
            tables,
            checkpoints,
            archiver,
            replication,
            horizon,
            vacuuming,
            footprints,
            keys,
            usage,
            structure,
            room,
            vectors,
            machine: None,
            accepted: None,
            settings,
            security,
            statements: Box::new(statements),
            deep: None,
        }
    }

    /// After which nobody waits any more.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    async fn rows(&self, sql: &str) -> Part<Vec<Row>> {
        self.rows_with(sql, &[]).await
    }

    /// No rows where it fails for a reason that is an answer, too.
    pub(super) async fn rows_unless(&self, sql: &str, answers: fn(&tokio_postgres::Error) -> bool) -> Part<Vec<Row>> {
        match timeout_at(self.until, self.client.query_typed(sql, &[])).await {
            Ok(Err(error)) if answers(&error) => Ok(Vec::new()),
            told => rows(told),
        }
    }

    async fn rows_with(&self, sql: &str, values: &[(&(dyn ToSql + Sync), Type)]) -> Part<Vec<Row>> {
        rows(timeout_at(self.until, self.client.query_typed(sql, values)).await)
    }

    pub(super) async fn many<T>(&self, sql: &str, read: impl Fn(&Row) -> Result<T, String>) -> Part<Vec<T>> {
        self.rows(sql).await?.iter().map(read).collect::<Result<_, _>>().map_err(Gap::new)
    }

    pub(super) async fn many_with<T>(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
        read: impl Fn(&Row) -> Result<T, String>,
    ) -> Part<Vec<T>> {
        self.rows_with(sql, values).await?.iter().map(read).collect::<Result<_, _>>().map_err(Gap::new)
    }

    pub(super) async fn one<T>(&self, sql: &str, read: impl Fn(&Row) -> Result<T, String>) -> Part<T> {
        let rows = self.rows(sql).await?;
        let row = rows.first().ok_or_else(|| Gap::new("the server gave an empty answer"))?;
        read(row).map_err(Gap::new)
    }

    async fn activity(&self, version: u32) -> Part<Box<Activity>> {
        let sessions = sql::sessions(version);
        let protected: [(&(dyn ToSql + Sync), Type); 1] = [(&self.protected, Type::TEXT_ARRAY)];
        let (totals, sessions, by_application, groups) = tokio::join!(
            self.one(sql::ACTIVITY, read_totals),
            self.rows_with(&sessions, &protected),
            self.many(sql::BY_APPLICATION, |row| Ok((get(row, "name")?, count(row, "count")? as u32))),
            groups::read(self),
        );
        let sessions = sessions?.iter().map(read_session).collect::<Result<_, _>>().map_err(Gap::new)?;
        Ok(Box::new(Activity { sessions, by_application: by_application?, groups: groups?, ..totals? }))
    }

    async fn databases(&self) -> Part<Vec<Database>> {
        self.many(sql::DATABASES, |row| {
            Ok(Database {
                name: get(row, "name")?,
                size: get::<Option<i64>>(row, "size")?.map(unsigned),
                xid_age: count(row, "xid_age")?,
                multixact_age: count(row, "multixact_age")?,
                blocks_hit: count(row, "blocks_hit")?,
                blocks_read: count(row, "blocks_read")?,
                commits: count(row, "commits")?,
                rollbacks: count(row, "rollbacks")?,
                deadlocks: count(row, "deadlocks")?,
                temporary_bytes: count(row, "temporary_bytes")?,
            })
        })
        .await
    }

    async fn tables(&self, version: u32) -> Part<Vec<Table>> {
        let tables = sql::tables(version);
        let (triggers, rows) = tokio::join!(self.one(sql::TRIGGERS, read_triggers), self.rows(&tables));
        let triggers = triggers?;
        rows?.iter().map(|row| read_table(row, &triggers)).collect::<Result<_, _>>().map_err(Gap::new)
    }

    async fn replication(&self) -> Part<Replication> {
        let (standbys, replay) = tokio::join!(self.many(sql::STANDBYS, read_standby), self.rows(sql::REPLAY));
        // A row without a state is one that we may not look into.
        let Some(standbys) = standbys?.into_iter().collect::<Option<Vec<_>>>() else {
            return Err(Gap::permission("the standbys' positions are hidden from us; grant pg_monitor"));
        };
        let mut replication = Replication { standbys, replay_delay: None, replay_backlog: None, receiving: None };
        if let Some(row) = replay?.first() {
            read_replay(row, &mut replication).map_err(Gap::new)?;
        }
        Ok(replication)
    }
}

fn rows(told: Result<Result<Vec<Row>, tokio_postgres::Error>, Elapsed>) -> Part<Vec<Row>> {
    match told {
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(error)) => Err(gap(&error)),
        Err(_) => Err(Gap::new("no answer within the deadline of the reading")),
    }
}

pub(super) fn gap(error: &tokio_postgres::Error) -> Gap {
    let Some(said) = error.as_db_error() else { return Gap::new(error.to_string()) };
    match said.code() {
        &SqlState::INSUFFICIENT_PRIVILEGE => Gap::permission(format!("{}; grant pg_monitor", said.message())),
        &SqlState::QUERY_CANCELED => Gap::new("the server took too long over this question"),
        code => Gap::new(format!("{} (SQLSTATE {})", said.message(), code.code())),
    }
}

pub(super) fn get<T: FromSqlOwned>(row: &Row, column: &str) -> Result<T, String> {
    row.try_get(column).map_err(|error| format!("column {column}: {error}"))
}

/// A counter; what should never be negative is not, even if the server says so.
pub(super) fn count(row: &Row, column: &str) -> Result<u64, String> {
    get::<i64>(row, column).map(unsigned)
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Seconds since something. A clock that was set back must not make it negative.
pub(super) fn age(row: &Row, column: &str) -> Result<Option<f64>, String> {
    Ok(get::<Option<f64>>(row, column)?.map(|age| age.max(0.0)))
}

fn read_totals(row: &Row) -> Result<Activity, String> {
    Ok(Activity {
        total: count(row, "total")? as u32,
        active: count(row, "active")? as u32,
        idle: count(row, "idle")? as u32,
        idle_in_transaction: count(row, "idle_in_transaction")? as u32,
        hidden: count(row, "hidden")? as u32,
        sessions: Vec::new(),
        by_application: Vec::new(),
        groups: Vec::new(),
    })
}

fn read_session(row: &Row) -> Result<Observed, String> {
    let state: String = get(row, "state")?;
    Ok(Observed {
        pid: get(row, "pid")?,
        backend_start: get(row, "backend_start")?,
        database: get(row, "database")?,
        user: get(row, "role")?,
        application: get(row, "application")?,
        client: get(row, "client")?,
        state: match state.as_str() {
            "active" => SessionState::Active,
            "idle" => SessionState::Idle,
            "idle in transaction" => SessionState::IdleInTransaction,
            "idle in transaction (aborted)" => SessionState::IdleInTransactionAborted,
            _ => SessionState::Other,
        },
        transaction_age: age(row, "transaction_age")?,
        query_age: age(row, "query_age")?,
        state_age: age(row, "state_age")?,
        wait: get(row, "wait")?,
        blocked_by: get(row, "blocked_by")?,
        lock_wait: age(row, "lock_wait")?,
        lock_mode: get(row, "lock_mode")?,
        query: masked(&get::<String>(row, "query")?, QUERY_SHOWN),
        protected: get(row, "protected")?,
    })
}

pub(super) fn read_triggers(row: &Row) -> Result<Triggers, String> {
    Ok(Triggers {
        vacuum_base: get(row, "vacuum_base")?,
        vacuum_scale: get(row, "vacuum_scale")?,
        vacuum_most: get(row, "vacuum_most")?,
        analyze_base: get(row, "analyze_base")?,
        analyze_scale: get(row, "analyze_scale")?,
    })
}

fn read_table(row: &Row, triggers: &Triggers) -> Result<Table, String> {
    let options: Vec<String> = get(row, "options")?;
    let rows_estimated: Option<f64> = get(row, "rows_estimated")?;
    let rows = rows_estimated.unwrap_or(0.0);
    let triggers = triggers.of_table(&options);
    Ok(Table {
        schema: get(row, "schema")?,
        name: get(row, "name")?,
        rows_estimated,
        size: count(row, "size")?,
        live_rows: count(row, "live_rows")?,
        whole_scans: count(row, "whole_scans")?,
        rows_scanned: count(row, "rows_scanned")?,
        dead_rows: count(row, "dead_rows")?,
        modified_since_analyze: count(row, "modified")?,
        vacuum_trigger: triggers.vacuum_at(rows),
        analyze_trigger: triggers.analyze_at(rows),
        last_vacuum: get(row, "last_vacuum")?,
        last_analyze: get(row, "last_analyze")?,
        autovacuum: !is_switched_off(&options),
        maintainable: get(row, "maintainable")?,
    })
}

fn read_checkpoints(row: &Row) -> Result<Checkpoints, String> {
    Ok(Checkpoints {
        timed: count(row, "timed")?,
        requested: count(row, "requested")?,
        stats_reset: get(row, "stats_reset")?,
    })
}

fn read_archiver(row: &Row) -> Result<Box<Archiver>, String> {
    Ok(Box::new(Archiver {
        enabled: get(row, "enabled")?,
        archived: count(row, "archived")?,
        failed: count(row, "failed")?,
        last_archived: get(row, "last_archived")?,
        last_failed: get(row, "last_failed")?,
        last_failed_segment: get(row, "last_failed_segment")?,
    }))
}

/// None for a row whose content is hidden from us.
fn read_standby(row: &Row) -> Result<Option<Standby>, String> {
    let Some(state) = get::<Option<String>>(row, "state")? else { return Ok(None) };
    let bytes = |column: &str| Ok::<_, String>(get::<Option<i64>>(row, column)?.map(unsigned));
    Ok(Some(Standby {
        name: get(row, "name")?,
        client: get(row, "client")?,
        state,
        lag_bytes: bytes("lag_bytes")?,
        lag_seconds: age(row, "lag_seconds")?,
        parts: LagParts {
            unsent: bytes("unsent")?,
            unflushed: bytes("unflushed")?,
            unreplayed: bytes("unreplayed")?,
            flush_seconds: age(row, "flush_seconds")?,
        },
    }))
}

fn read_replay(row: &Row, replication: &mut Replication) -> Result<(), String> {
    let receiving: bool = get(row, "receiving")?;
    let source: Option<String> = get(row, "source")?;
    // Hidden from us, the setting cannot tell whether a receiver ought to run.
    let should_receive = source.is_some_and(|source| !source.is_empty());
    replication.replay_delay = age(row, "delay")?;
    replication.replay_backlog = get::<Option<i64>>(row, "backlog")?.map(unsigned);
    replication.receiving = (receiving || should_receive).then_some(receiving);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_found_among_others_however_it_is_written() {
        for yes in ["pg_stat_statements", "auto_explain, pg_stat_statements", "\"$libdir/pg_stat_statements\", x"] {
            assert!(is_preloaded(yes), "{yes}");
        }
        for no in ["", "pg_stat_statements_info", "auto_explain"] {
            assert!(!is_preloaded(no), "{no}");
        }
    }
}
