//! Every change that we can make to a Postgres.
//!
//! Only a step that is in the journal is carried out. What must hold is checked in the very statement that acts, as near
//! to the deed as SQL allows: the world may have changed since the finding was written.

mod blocker;
mod ending;
mod expired;
mod export;
mod partition;
mod preflight;
mod pressure;
mod referrers;
mod reindex;
mod sequence;
mod setting;
mod statistics;

use self::expired::Aging;
use self::partition::Family;
use self::preflight::IndexName;
use self::reindex::Leaving;
use self::setting::Alteration;
use self::statistics::ColumnName;
use super::client::{APPLICATION_NAME, Endpoint, Session, reading_settings};
use super::sql;
use crate::deadline::timed_out;
use groundskeeper_core::observation::{Failure, FailureKind};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState};
use jiff::Timestamp;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

pub use self::export::{Column, Kept, Piece, Sink};

/// A server that does not let us in within this time is not there for us.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// To end a session takes moments; whoever waits longer waits for a server that hangs.
const END_WITHIN: Duration = Duration::from_secs(15);
/// To drop an index waits for those who may use it.
const SWEEP_WITHIN: Duration = Duration::from_mins(1);
/// How long a statement that was told to end may take for it.
const CANCELLED_WITHIN: Duration = Duration::from_secs(5);
/// Before 15 the statistics travel through a collector that writes them down twice a second.
const STATISTICS_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
const GOODBYE: Duration = Duration::from_millis(200);
/// Whatever a standby has comes from its primary.
const STANDBY: &str = "the server is a standby; do it on its primary";

#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("postgres at {} could not be reached: {}", .0.address, .0.message)]
    Unreachable(Failure),
    /// The world is not as the step assumed; nothing was changed.
    #[error("{what} was left alone: {reason}")]
    Precondition { what: String, reason: String },
    /// Under its name there is nothing that could be changed, or put back.
    #[error("{what}: its database is gone")]
    Gone { what: String },
    #[error("{what}: permission denied: {message}; {fix}")]
    Denied { what: String, message: String, fix: String },
    /// It was begun and did not finish in time.
    #[error("{what} was not done within {:.0} s; {next}", .within.as_secs_f64())]
    Timeout { what: String, within: Duration, next: &'static str },
    /// We ended it before it was done.
    #[error("{0} was ended before it was done; what it did so far stays and does no harm")]
    Interrupted(String),
    #[error("{what} failed: {message}")]
    Failed { what: String, message: String, retryable: bool },
}

impl ActError {
    /// Whether the same step may work when it is tried again later, without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable(failure) => !matches!(
                failure.kind,
                FailureKind::Denied | FailureKind::Tls | FailureKind::UnknownHost | FailureKind::Missing
            ),
            Self::Timeout { .. } | Self::Interrupted(_) => true,
            Self::Precondition { .. } | Self::Gone { .. } | Self::Denied { .. } => false,
            Self::Failed { retryable, .. } => *retryable,
        }
    }
}

/// Carries out one step. Ok means that the server did what it was told; whether it helped is for [`capture`] and
/// [`Step::verify`] to say. A statement that takes long is ended when `halt` completes.
pub async fn apply(
    endpoint: &Endpoint,
    step: &JournalledStep,
    deadline: Duration,
    halt: impl Future<Output = ()>,
) -> Result<(), ActError> {
    Box::pin(apply_with(endpoint, step, deadline, halt, None)).await
}

/// The same; what a step exports before it deletes it goes to `sink`. Without one such a step is refused.
pub async fn apply_with(
    endpoint: &Endpoint,
    step: &JournalledStep,
    deadline: Duration,
    halt: impl Future<Output = ()>,
    sink: Option<&dyn Sink>,
) -> Result<(), ActError> {
    match step.step() {
        Step::Analyze { database, schema, table, .. } | Step::Vacuum { database, schema, table, .. } => {
            let endpoint = endpoint.with_database(database);
            let work = Work::begin(&endpoint, step.step(), acting_settings(deadline), deadline).await?;
            let done = work.maintain((schema, table), halt).await;
            work.finish().await;
            done
        }
        step @ (Step::EndIdleSession { .. } | Step::EndBlocker { .. }) => {
            let deadline = deadline.min(END_WITHIN);
            let work = Work::begin(endpoint, step, acting_settings(deadline), deadline).await?;
            let done = work.end_session().await;
            work.finish().await;
            done
        }
        Step::Reindex { database, schema, table, index, because, .. } => {
            let endpoint = endpoint.with_database(database);
            let work = Work::begin(&endpoint, step.step(), acting_settings(deadline), deadline).await?;
            let done = Box::pin(work.reindex(IndexName { schema, table, index }, *because, halt)).await;
            work.finish().await;
            done
        }
        Step::DeleteExpired { database, schema, table, column, before, keep_seconds, export, .. } => {
            let endpoint = endpoint.with_database(database);
            let work = Work::begin(&endpoint, step.step(), acting_settings(deadline), deadline).await?;
            let (before, keep, export) = (*before, *keep_seconds as f64, *export);
            let of = Aging { schema, table, column, before, keep, export };
            let done = Box::pin(work.delete_expired(of, sink, halt)).await;
            work.finish().await;
            done
        }
        Step::SetStatistics { database, schema, table, column, target, seen, relation, .. } => {
            let endpoint = endpoint.with_database(database);
            let work = Work::begin(&endpoint, step.step(), acting_settings(deadline), deadline).await?;
            let at = ColumnName { schema, table, column, relation: *relation };
            let done = Box::pin(work.set_statistics(at, (*seen, *target), halt)).await;
            work.finish().await;
            done
        }
        Step::AdvanceSequence { database, schema, sequence, advance, .. } => {
            let endpoint = endpoint.with_database(database);
            let deadline = deadline.min(SWEEP_WITHIN);
            let work = Work::begin(&endpoint, step.step(), acting_settings(deadline), deadline).await?;
            let done = Box::pin(work.advance_sequence((schema, sequence), advance, halt)).await;
            work.finish().await;
            done
        }
        Step::DropLeftovers { database, schema, table, relation, .. } => {
            let endpoint = endpoint.with_database(database);
            // To stop may wait for it: it takes moments, or gives up.
            let deadline = deadline.min(SWEEP_WITHIN);
            let work = Work::begin(&endpoint, step.step(), acting_settings(deadline), deadline).await?;
            let done = work.sweep_up(Leaving { schema, table, relation: *relation }).await;
            work.finish().await;
            done
        }
        step @ (Step::DropPartition { database, .. } | Step::AttachPartition { database, .. }) => {
            let endpoint = endpoint.with_database(database);
            let deadline =
                if matches!(step, Step::DropPartition { .. }) { deadline } else { deadline.min(SWEEP_WITHIN) };
            let work = Work::begin(&endpoint, step, acting_settings(deadline), deadline).await?;
            let done = Box::pin(work.part(halt)).await;
            work.finish().await;
            done
        }
        Step::AlterSystem { setting, from, to, .. } => {
            let of = Alteration { setting: *setting, from, to };
            Box::pin(setting::alter(endpoint, step.step(), of, deadline.min(SWEEP_WITHIN))).await
        }
        step @ Step::PruneRepository { .. } => Err(foreign(step)),
    }
}

/// A step that is for no Postgres.
fn foreign(step: &Step) -> ActError {
    ActError::Precondition { what: step.subject(), reason: "it is no Postgres".to_owned() }
}

/// Whether the server still works on the step, as the backend of a keeper that was killed may.
pub async fn is_under_way(endpoint: &Endpoint, step: &Step, deadline: Duration) -> Result<bool, ActError> {
    if matches!(step, Step::AlterSystem { .. }) {
        let work = Work::begin(endpoint, step, reading_settings(deadline), deadline).await?;
        let answer = work.is_held().await;
        work.finish().await;
        return answer;
    }
    let Some((database, schema, table)) = table_of(step) else { return Ok(false) };
    let endpoint = endpoint.with_database(database);
    let work = Work::begin(&endpoint, step, reading_settings(deadline), deadline).await?;
    let answer = match family_of(step) {
        Some(family) => work.is_parting(family).await,
        None => work.is_under_way(schema, table).await,
    };
    work.finish().await;
    answer
}

/// Database, schema and name of the table that a step works on.
fn table_of(step: &Step) -> Option<(&str, &str, &str)> {
    match step {
        Step::Analyze { database, schema, table, .. }
        | Step::Vacuum { database, schema, table, .. }
        | Step::Reindex { database, schema, table, .. }
        | Step::DropLeftovers { database, schema, table, .. }
        | Step::SetStatistics { database, schema, table, .. }
        | Step::DeleteExpired { database, schema, table, .. }
        | Step::DropPartition { database, schema, table, .. }
        | Step::AttachPartition { database, schema, table, .. } => Some((database, schema, table)),
        Step::AdvanceSequence { database, advance, .. } => {
            advance.columns.first().map(|filled| (database.as_str(), filled.schema.as_str(), filled.table.as_str()))
        }
        Step::EndIdleSession { .. }
        | Step::EndBlocker { .. }
        | Step::AlterSystem { .. }
        | Step::PruneRepository { .. } => None,
    }
}

/// The partition that a step works on, with its table.
fn family_of(step: &Step) -> Option<Family<'_>> {
    match step {
        Step::DropPartition { schema, table, partition_schema, partition, .. }
        | Step::AttachPartition { schema, table, partition_schema, partition, .. } => {
            Some(Family { schema, table, partition_schema, partition })
        }
        _ => None,
    }
}

/// The state of the step's target at this moment: `Gone` when it is not there.
pub async fn capture(endpoint: &Endpoint, step: &Step, deadline: Duration) -> Result<StepState, ActError> {
    if matches!(step, Step::PruneRepository { .. }) {
        return Err(foreign(step));
    }
    let endpoint = table_of(step).map_or_else(|| endpoint.clone(), |(database, ..)| endpoint.with_database(database));
    let work = Work::begin(&endpoint, step, reading_settings(deadline), deadline).await?;
    let state = match step {
        Step::Analyze { schema, table, .. } | Step::Vacuum { schema, table, .. } => work.table(schema, table).await,
        Step::Reindex { schema, table, index, .. } => work.index_state(IndexName { schema, table, index }).await,
        Step::DropLeftovers { schema, table, relation, .. } => {
            work.leftovers_state(Leaving { schema, table, relation: *relation }).await
        }
        Step::SetStatistics { schema, table, column, relation, .. } => {
            work.column_state(ColumnName { schema, table, column, relation: *relation }).await
        }
        Step::AdvanceSequence { schema, sequence, .. } => work.sequence_state(schema, sequence).await,
        Step::DeleteExpired { schema, table, column, before, keep_seconds, export, .. } => {
            let (before, keep, export) = (*before, *keep_seconds as f64, *export);
            work.expired_state(Aging { schema, table, column, before, keep, export }).await
        }
        Step::EndIdleSession { pid, backend_start, .. } => work.session_state(*pid, *backend_start).await,
        Step::EndBlocker { pid, backend_start, .. } => work.blocker_state(*pid, *backend_start).await,
        Step::DropPartition { schema, table, partition_schema, partition, .. }
        | Step::AttachPartition { schema, table, partition_schema, partition, .. } => {
            work.partition_state(Family { schema, table, partition_schema, partition }).await
        }
        Step::AlterSystem { setting, .. } => work.setting_state(*setting).await,
        Step::PruneRepository { .. } => Err(foreign(step)),
    };
    work.finish().await;
    state
}

/// Steps yield: they wait for no lock, and they read the disk slowly enough for users not to notice.
fn acting_settings(deadline: Duration) -> Vec<(&'static str, String)> {
    vec![
        ("default_transaction_read_only", "off".to_owned()),
        ("statement_timeout", deadline.as_millis().max(1).to_string()),
        ("lock_timeout", "200".to_owned()),
        ("vacuum_cost_delay", "2".to_owned()),
    ]
}

/// A session that works on one step until its deadline.
struct Work<'a> {
    endpoint: &'a Endpoint,
    step: &'a Step,
    session: Session,
    until: Instant,
    deadline: Duration,
}

impl<'a> Work<'a> {
    async fn begin(
        endpoint: &'a Endpoint,
        step: &'a Step,
        settings: Vec<(&'static str, String)>,
        deadline: Duration,
    ) -> Result<Self, ActError> {
        let until = Instant::now() + deadline;
        let patience = deadline.min(CONNECT_WITHIN);
        let session = match timeout(patience, Box::pin(endpoint.enter(APPLICATION_NAME, &settings))).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => {
                let what = format!("{} ({})", step.subject(), endpoint.address());
                // Another step is for the whole server, and may be carried out from another database.
                return Err(match table_of(step) {
                    Some(_) => ActError::Gone { what },
                    None => ActError::Precondition { what, reason: "the database to connect to is gone".to_owned() },
                });
            }
            Ok(Err(error)) => return Err(ActError::Unreachable(endpoint.failure(&error))),
            Err(_) => return Err(ActError::Unreachable(timed_out(patience, endpoint.address()))),
        };
        Ok(Self { endpoint, step, session, until, deadline })
    }

    async fn finish(self) {
        let left = self.until.saturating_duration_since(Instant::now());
        self.session.close(left.min(GOODBYE)).await;
    }

    async fn end_session(&self) -> Result<(), ActError> {
        match self.step {
            Step::EndIdleSession { pid, backend_start, idle_seconds, .. } => {
                let seconds = f64::from(*idle_seconds);
                self.end_idle_session(&ending::Idle { pid: *pid, backend_start: *backend_start, seconds }).await
            }
            Step::EndBlocker { pid, backend_start, waiting_seconds, .. } => {
                let seconds = f64::from(*waiting_seconds);
                self.end_blocker(&blocker::Blocker { pid: *pid, backend_start: *backend_start, seconds }).await
            }
            other => Err(foreign(other)),
        }
    }

    fn client(&self) -> Result<&Client, ActError> {
        self.session.client().ok_or_else(|| self.failed("the session is closed".to_owned(), true))
    }

    fn what(&self) -> String {
        format!("{} ({})", self.step.subject(), self.endpoint.address())
    }

    fn failed(&self, message: String, retryable: bool) -> ActError {
        ActError::Failed { what: self.what(), message, retryable }
    }

    fn precondition(&self, reason: impl Into<String>) -> ActError {
        ActError::Precondition { what: self.what(), reason: reason.into() }
    }

    /// What was begun is a failure from then on, so that whatever is left of it is put back.
    fn begun(&self, error: ActError) -> ActError {
        match error {
            ActError::Precondition { reason, .. } => self.failed(reason, false),
            other => other,
        }
    }

    /// The same, with what was done until then.
    fn after(&self, error: ActError, done: &str) -> ActError {
        match self.begun(error) {
            ActError::Failed { message, retryable, .. } => self.failed(format!("{message}; {done}"), retryable),
            other => other,
        }
    }

    fn error(&self, error: &Error) -> ActError {
        let failure = self.endpoint.failure(error);
        let Some(code) = error.code() else { return ActError::Unreachable(failure) };
        match code {
            &SqlState::INSUFFICIENT_PRIVILEGE if failure.message.contains("row-level security") => {
                let fix = format!("{} must own the table or have BYPASSRLS", self.endpoint.role());
                ActError::Denied { what: self.what(), message: failure.message, fix }
            }
            &SqlState::INSUFFICIENT_PRIVILEGE => {
                ActError::Denied { what: self.what(), message: failure.message, fix: self.missing_grant() }
            }
            &SqlState::QUERY_CANCELED => self.timeout(),
            &SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME => self.precondition("the table is gone"),
            &SqlState::LOCK_NOT_AVAILABLE => {
                self.failed("a lock or an older transaction did not go away in time".to_owned(), true)
            }
            // From 18 on a key that restricts has a code of its own.
            &SqlState::T_R_DEADLOCK_DETECTED | &SqlState::FOREIGN_KEY_VIOLATION | &SqlState::RESTRICT_VIOLATION => {
                self.failed(failure.message, true)
            }
            _ => {
                let passing =
                    [FailureKind::Interrupted, FailureKind::NotReady, FailureKind::Timeout, FailureKind::Exhausted];
                self.failed(failure.message, passing.contains(&failure.kind))
            }
        }
    }

    fn missing_grant(&self) -> String {
        let role = self.endpoint.role();
        match self.step {
            Step::EndIdleSession { .. } | Step::EndBlocker { .. } => format!("grant pg_signal_backend to {role}"),
            Step::Reindex { .. } | Step::DropLeftovers { .. } | Step::SetStatistics { .. } => {
                format!("make {role} a member of the table's owner")
            }
            Step::DropPartition { .. } | Step::AttachPartition { .. } => {
                format!("make {role} a member of the owner of the table and of its partitions")
            }
            Step::DeleteExpired { .. } => {
                format!("grant SELECT, DELETE and, to lock rows, UPDATE of one column of the table to {role}")
            }
            Step::AdvanceSequence { .. } => sequence::missing_grant(role),
            Step::Analyze { .. } | Step::Vacuum { .. } => {
                format!("grant MAINTAIN on the table (17 on) to {role}, or make it a member of the owner")
            }
            Step::AlterSystem { setting, .. } => setting::grants(role, *setting),
            Step::PruneRepository { .. } => String::new(),
        }
    }

    fn timeout(&self) -> ActError {
        let next = match self.step {
            Step::EndIdleSession { .. } | Step::EndBlocker { .. } => "its rollback may still be running",
            Step::Reindex { .. } => "the old index is as it was; give it more time in a quiet hour",
            Step::DeleteExpired { .. } => "what it deleted so far stays deleted; the next run goes on",
            Step::DropLeftovers { .. } => "what it dropped so far stays dropped",
            Step::AdvanceSequence { .. } => "it may be done again",
            Step::SetStatistics { .. } => "the old target is put back",
            Step::DropPartition { .. } => "what was detached and not dropped is attached again",
            Step::AttachPartition { .. } => "the table is whole, and no partition",
            Step::Analyze { .. } | Step::Vacuum { .. } => "what it did so far stays; give it more time in a quiet hour",
            Step::AlterSystem { .. } => "what it wrote is put back",
            Step::PruneRepository { .. } => "",
        };
        ActError::Timeout { what: self.what(), within: self.deadline, next }
    }

    /// The answer, or the error that it means for this step.
    async fn wait<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, ActError> {
        match timeout_at(self.until, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.error(&error)),
            Err(_) => Err(self.timeout()),
        }
    }

    async fn not_on_a_standby(&self) -> Result<(), ActError> {
        let asked = self.client()?.query_typed_one("SELECT pg_is_in_recovery()", &[]);
        if self.wait(asked).await?.get(0) { Err(self.precondition(STANDBY)) } else { Ok(()) }
    }

    async fn maintain(&self, (schema, table): (&str, &str), halt: impl Future<Output = ()>) -> Result<(), ActError> {
        let client = self.client()?;
        self.settled("the work could not be slowed down").await?;
        self.not_on_a_standby().await?;
        let row = self
            .wait(client.query_typed_one("SELECT current_setting('server_version_num')::int4, clock_timestamp()", &[]))
            .await?;
        let (version, began): (i32, Timestamp) = (row.get(0), row.get(1));
        // The server only warns about a table that we may not maintain, and calls it a success.
        let may = format!(
            "SELECT {} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'm', 'p')",
            sql::maintainable(version.cast_unsigned())
        );
        let rows = self.wait(client.query_typed(&may, &[(&schema, Type::TEXT), (&table, Type::TEXT)])).await?;
        match rows.first().map(|row| row.get::<_, bool>(0)) {
            None => return Err(self.precondition("the table is gone")),
            Some(false) => {
                return Err(ActError::Denied {
                    what: self.what(),
                    message: "we neither own it nor may MAINTAIN it".to_owned(),
                    fix: self.missing_grant(),
                });
            }
            Some(true) => {}
        }
        self.notice_when_we_are_gone(client, version).await?;
        self.run(client, &self.step.statement(), halt).await?;
        if version < 150_000 {
            self.until_counted((schema, table), began).await?;
        }
        Ok(())
    }

    /// A failure and no precondition: it will not pass by itself, and must not be tried every half minute.
    /// Some poolers take our settings and drop them.
    async fn settled(&self, otherwise: &str) -> Result<(), ActError> {
        if self.session.is_settled() {
            let asked = self.client()?.query_typed_one("SELECT current_setting('lock_timeout') = '200ms'", &[]);
            if self.wait(asked).await?.get(0) {
                return Ok(());
            }
        }
        let why = format!("the pooler in between takes no settings, so {otherwise}; connect to the server itself");
        Err(self.failed(why, false))
    }

    /// From 14 on a server can be told to notice in the middle of a statement that we are gone. Where its system cannot do
    /// that, and before, the statement goes on to its end.
    async fn notice_when_we_are_gone(&self, client: &Client, version: i32) -> Result<(), ActError> {
        if version >= 140_000 {
            // And we rest between statements for longer than others may.
            self.wait(client.batch_execute("SET idle_session_timeout = 0")).await?;
            let notice = client.batch_execute("SET client_connection_check_interval = '10s'");
            if let Err(error) = self.wait(notice).await {
                tracing::debug!(%error, "the server cannot watch the connection during a statement");
            }
        }
        Ok(())
    }

    /// Sends a statement, and ends it when `halt` completes.
    async fn run(&self, client: &Client, statement: &str, halt: impl Future<Output = ()>) -> Result<(), ActError> {
        let mut work = pin!(self.wait(client.batch_execute(statement)));
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = halt => {}
        }
        let ended = timeout(CANCELLED_WITHIN, async {
            if let Err(error) = self.endpoint.cancel(client).await {
                tracing::warn!(error = %error, "the server could not be asked to end a statement");
            }
            work.await
        });
        match ended.await {
            Ok(Ok(())) => Ok(()),
            _ => Err(ActError::Interrupted(self.what())),
        }
    }

    async fn is_under_way(&self, schema: &str, table: &str) -> Result<bool, ActError> {
        let statement = self.step.statement();
        let values: [(&(dyn ToSql + Sync), Type); 3] =
            [(&schema, Type::TEXT), (&table, Type::TEXT), (&statement, Type::TEXT)];
        let rows = self.wait(self.client()?.query_typed(sql::UNDER_WAY, &values)).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// Waits until the statistics show that the table was worked on; a table that was skipped never shows it.
    async fn until_counted(&self, (schema, table): (&str, &str), began: Timestamp) -> Result<(), ActError> {
        let give_up = (Instant::now() + STATISTICS_WITHIN).min(self.until);
        while Instant::now() < give_up {
            if let StepState::Table { vacuumed, analyzed, .. } = self.table(schema, table).await? {
                let last = if matches!(self.step, Step::Vacuum { .. }) { vacuumed } else { analyzed };
                if last.is_some_and(|at| at >= began) {
                    break;
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn table(&self, schema: &str, table: &str) -> Result<StepState, ActError> {
        const STATE: &str = "
SELECT pg_stat_get_live_tuples(c.oid), pg_stat_get_dead_tuples(c.oid), pg_stat_get_mod_since_analyze(c.oid),
       greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)),
       greatest(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'm', 'p')";
        let client = self.client()?;
        let rows = self.wait(client.query_typed(STATE, &[(&schema, Type::TEXT), (&table, Type::TEXT)])).await?;
        let Some(row) = rows.first() else { return Ok(StepState::Gone) };
        let count = |index: usize| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
        Ok(StepState::Table {
            live_rows: count(0),
            dead_rows: count(1),
            modified_since_analyze: count(2),
            vacuumed: row.get(3),
            analyzed: row.get(4),
        })
    }
}
