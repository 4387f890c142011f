//! Every change that we can make to a Postgres.
//!
//! Only a step that is in the journal is carried out. What must hold is checked in the very statement that acts, as near
//! to the deed as SQL allows: the world may have changed since the finding was written.

use super::client::{APPLICATION_NAME, Endpoint, Session};
use super::mask::masked;
use super::observe::reading_settings;
use super::sql;
use groundskeeper_core::observation::{Failure, FailureKind};
use groundskeeper_core::quantity::{Unit, format_number};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

/// How long an ended session may take to roll back and go.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// Before 15 the statistics travel through a collector that writes them down twice a second.
const STATISTICS_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
const GOODBYE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("postgres at {} could not be reached: {}", .0.address, .0.message)]
    Unreachable(Failure),
    /// The world is not as the step assumed; nothing was changed.
    #[error("{what} was left alone: {reason}")]
    Precondition { what: String, reason: String },
    #[error("{what}: permission denied: {message}; {fix}")]
    Denied { what: String, message: String, fix: String },
    /// It was begun and did not finish in time.
    #[error("{what} was not done within {:.0} s; {next}", .within.as_secs_f64())]
    Timeout { what: String, within: Duration, next: &'static str },
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
            Self::Timeout { .. } => true,
            Self::Precondition { .. } | Self::Denied { .. } => false,
            Self::Failed { retryable, .. } => *retryable,
        }
    }
}

/// Carries out one step. Ok means that the server did what it was told; whether it helped is for [`capture`] and
/// [`Step::verify`] to say.
pub async fn apply(endpoint: &Endpoint, step: &JournalledStep, deadline: Duration) -> Result<(), ActError> {
    let until = Instant::now() + deadline;
    match step.step() {
        Step::Analyze { database, schema, table, .. } | Step::Vacuum { database, schema, table, .. } => {
            let endpoint = endpoint.with_database(database);
            maintain(&endpoint, step.step(), (schema, table), until).await
        }
        Step::EndIdleSession { pid, backend_start, idle_seconds, .. } => {
            let target = Idle { pid: *pid, backend_start: *backend_start, seconds: f64::from(*idle_seconds) };
            let work = Work::begin(endpoint, step.step(), acting_settings(deadline), until).await?;
            let done = work.end_idle_session(&target).await;
            work.finish().await;
            done
        }
    }
}

/// The state of the step's target at this moment: `Gone` when it is not there.
pub async fn capture(endpoint: &Endpoint, step: &Step, deadline: Duration) -> Result<StepState, ActError> {
    let until = Instant::now() + deadline;
    let endpoint = match step {
        Step::Analyze { database, .. } | Step::Vacuum { database, .. } => endpoint.with_database(database),
        Step::EndIdleSession { .. } => endpoint.clone(),
    };
    let work = Work::begin(&endpoint, step, reading_settings(deadline), until).await?;
    let state = match step {
        Step::Analyze { schema, table, .. } | Step::Vacuum { schema, table, .. } => work.table(schema, table).await,
        Step::EndIdleSession { pid, backend_start, .. } => work.session_state(*pid, *backend_start).await,
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

async fn maintain(endpoint: &Endpoint, step: &Step, table: (&str, &str), until: Instant) -> Result<(), ActError> {
    let deadline = until.saturating_duration_since(Instant::now());
    let work = Work::begin(endpoint, step, acting_settings(deadline), until).await?;
    let done = work.maintain(table).await;
    work.finish().await;
    done
}

struct Idle {
    pid: i32,
    backend_start: Timestamp,
    seconds: f64,
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
        until: Instant,
    ) -> Result<Self, ActError> {
        let deadline = until.saturating_duration_since(Instant::now());
        let session = endpoint.connect(APPLICATION_NAME, &settings, deadline).await.map_err(ActError::Unreachable)?;
        Ok(Self { endpoint, step, session, until, deadline })
    }

    async fn finish(self) {
        let left = self.until.saturating_duration_since(Instant::now());
        self.session.close(left.min(GOODBYE)).await;
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

    fn error(&self, error: &Error) -> ActError {
        let failure = self.endpoint.failure(error);
        let Some(code) = error.code() else { return ActError::Unreachable(failure) };
        match code {
            &SqlState::INSUFFICIENT_PRIVILEGE => {
                ActError::Denied { what: self.what(), message: failure.message, fix: self.missing_grant() }
            }
            &SqlState::QUERY_CANCELED => self.timeout(),
            &SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME => self.precondition("the table is gone"),
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
            Step::EndIdleSession { .. } => format!("grant pg_signal_backend to {role}"),
            Step::Analyze { .. } | Step::Vacuum { .. } => {
                format!("grant MAINTAIN on the table (17 on) to {role}, or make it a member of the owner")
            }
        }
    }

    fn timeout(&self) -> ActError {
        let next = match self.step {
            Step::EndIdleSession { .. } => "its rollback may still be running",
            Step::Analyze { .. } | Step::Vacuum { .. } => "what it did so far stays; give it more time in a quiet hour",
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

    async fn maintain(&self, (schema, table): (&str, &str)) -> Result<(), ActError> {
        let client = self.client()?;
        if !self.session.is_settled() {
            return Err(self.precondition(
                "the pooler in between takes no settings, so the work could not be slowed down; connect to the server itself",
            ));
        }
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
        self.wait(client.batch_execute(&self.step.statement())).await?;
        if version < 150_000 {
            self.until_counted((schema, table), began).await?;
        }
        Ok(())
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

    async fn end_idle_session(&self, target: &Idle) -> Result<(), ActError> {
        let client = self.client()?;
        // One statement: who is chosen and who is ended cannot differ.
        let end = format!(
            "WITH target AS MATERIALIZED (
  SELECT a.pid FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
   WHERE a.pid = $1 AND a.backend_start = $2 AND a.pid <> pg_backend_pid() AND a.state LIKE 'idle in transaction%'
     AND a.state_change <= clock_timestamp() - make_interval(secs => $3) AND NOT {})
SELECT pg_terminate_backend(pid) FROM target",
            sql::PROTECTED
        );
        let arguments = [
            (&target.pid as &(dyn tokio_postgres::types::ToSql + Sync), Type::INT4),
            (&target.backend_start, Type::TIMESTAMPTZ),
            (&target.seconds, Type::FLOAT8),
        ];
        let ended = self.wait(client.query_typed(&end, &arguments)).await?;
        if ended.is_empty() {
            let reason = self.why_not(target).await?;
            return Err(self.precondition(reason));
        }
        self.until_gone(target).await
    }

    async fn until_gone(&self, target: &Idle) -> Result<(), ActError> {
        let client = self.client()?;
        let give_up = (Instant::now() + GONE_WITHIN).min(self.until);
        loop {
            let there = self
                .wait(client.query_typed(
                    "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2",
                    &[(&target.pid, Type::INT4), (&target.backend_start, Type::TIMESTAMPTZ)],
                ))
                .await?;
            if there.is_empty() {
                return Ok(());
            }
            if Instant::now() >= give_up {
                return Err(self.timeout());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Which of the conditions does not hold any more.
    async fn why_not(&self, target: &Idle) -> Result<String, ActError> {
        let question = format!(
            "SELECT a.backend_start IS NOT DISTINCT FROM $2, a.state, {},
                    extract(epoch FROM clock_timestamp() - a.state_change)::float8
               FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid WHERE a.pid = $1",
            sql::PROTECTED
        );
        let arguments = [
            (&target.pid as &(dyn tokio_postgres::types::ToSql + Sync), Type::INT4),
            (&target.backend_start, Type::TIMESTAMPTZ),
        ];
        let rows = self.wait(self.client()?.query_typed(&question, &arguments)).await?;
        let Some(row) = rows.first() else { return Ok("the session has ended by itself".to_owned()) };
        let (same, state): (bool, Option<String>) = (row.get(0), row.get(1));
        let Some(state) = state else {
            return Ok(format!("its state is hidden from us; grant pg_monitor to {}", self.endpoint.role()));
        };
        let idle: f64 = row.get::<_, Option<f64>>(3).unwrap_or(0.0);
        Ok(if !same {
            "its pid belongs to another session by now".to_owned()
        } else if row.get::<_, bool>(2) {
            "it belongs to a superuser, to replication, to a backup or to us".to_owned()
        } else if !state.starts_with("idle in transaction") {
            format!("it is {state} now")
        } else {
            format!(
                "it has been idle for {} only, {} are asked for",
                format_number(idle, Unit::Seconds),
                format_number(target.seconds, Unit::Seconds)
            )
        })
    }

    async fn session_state(&self, pid: i32, backend_start: Timestamp) -> Result<StepState, ActError> {
        const STATE: &str = "
SELECT coalesce(usename::text, ''), coalesce(application_name, ''), left(coalesce(query, ''), 4000),
       CASE WHEN state LIKE 'idle in transaction%'
            THEN extract(epoch FROM clock_timestamp() - state_change)::float8 ELSE 0 END
  FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2";
        let arguments =
            [(&pid as &(dyn tokio_postgres::types::ToSql + Sync), Type::INT4), (&backend_start, Type::TIMESTAMPTZ)];
        let rows = self.wait(self.client()?.query_typed(STATE, &arguments)).await?;
        let Some(row) = rows.first() else { return Ok(StepState::Gone) };
        Ok(StepState::Session {
            user: row.get(0),
            application: row.get(1),
            query: masked(row.get(2), 200),
            idle_seconds: row.get::<_, f64>(3).max(0.0),
        })
    }
}
