//! Ending a session that sits idle in a transaction.

use super::super::mask::masked;
use super::super::sql;
use super::{ActError, POLL, Work};
use groundskeeper_core::quantity::{Unit, format_number};
use groundskeeper_core::remedy::StepState;
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};

/// How long an ended session may take to roll back and go.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Why a session is not ours to end.
pub(super) const PROTECTED: &str = "it belongs to the server itself (autovacuum), to a superuser, to replication, to a \
                                    backup, a copy or a migration, to a name in `never_end`, or to us";

pub(super) struct Idle {
    pub(super) pid: i32,
    pub(super) backend_start: Timestamp,
    pub(super) seconds: f64,
}

impl Work<'_> {
    pub(super) async fn end_idle_session(&self, target: &Idle) -> Result<(), ActError> {
        let client = self.client()?;
        // One statement: who is chosen and who is ended cannot differ.
        let end = format!(
            "WITH target AS MATERIALIZED (
  SELECT a.pid FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
   WHERE a.pid = $1 AND a.backend_start = $2 AND a.pid <> pg_backend_pid() AND a.state LIKE 'idle in transaction%'
     AND a.state_change <= clock_timestamp() - make_interval(secs => $3) AND NOT {})
SELECT pg_terminate_backend(pid) FROM target",
            sql::protected(4)
        );
        let names = self.endpoint.protected();
        let arguments: [(&(dyn ToSql + Sync), Type); 4] = [
            (&target.pid, Type::INT4),
            (&target.backend_start, Type::TIMESTAMPTZ),
            (&target.seconds, Type::FLOAT8),
            (&names, Type::TEXT_ARRAY),
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
            sql::protected(3)
        );
        let names = self.endpoint.protected();
        let arguments: [(&(dyn ToSql + Sync), Type); 3] =
            [(&target.pid, Type::INT4), (&target.backend_start, Type::TIMESTAMPTZ), (&names, Type::TEXT_ARRAY)];
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
            PROTECTED.to_owned()
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

    pub(super) async fn session_state(&self, pid: i32, backend_start: Timestamp) -> Result<StepState, ActError> {
        const STATE: &str = "
SELECT coalesce(usename::text, ''), coalesce(application_name, ''), left(coalesce(query, ''), 4000),
       CASE WHEN state LIKE 'idle in transaction%'
            THEN extract(epoch FROM clock_timestamp() - state_change)::float8 ELSE 0 END
  FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2";
        let arguments: [(&(dyn ToSql + Sync), Type); 2] = [(&pid, Type::INT4), (&backend_start, Type::TIMESTAMPTZ)];
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
