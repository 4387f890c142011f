//! Letting those go on who wait for a session: its statement is cancelled first, and it is ended only if that does not help.

use super::super::mask::masked;
use super::super::sql;
use super::{ActError, POLL, Work};
use groundskeeper_core::remedy::StepState;
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};

/// How long a statement that was cancelled may take to end, and an ended session to go.
const LETS_GO_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Blocker {
    pub(super) pid: i32,
    pub(super) backend_start: Timestamp,
    /// How long somebody must have waited for it.
    pub(super) seconds: f64,
}

impl Work<'_> {
    pub(super) async fn end_blocker(&self, target: &Blocker) -> Result<(), ActError> {
        let client = self.client()?;
        let row = self.wait(client.query_typed_one("SELECT current_setting('server_version_num')::int4", &[])).await?;
        if row.get::<_, i32>(0) < 140_000 {
            return Err(self.precondition("before 14 the server does not tell since when somebody waits"));
        }
        // What waits between two statements of its transaction has no statement to cancel.
        let cancel = sql::end_blocker(
            "CASE WHEN state = 'active' THEN pg_cancel_backend(pid) ELSE pg_terminate_backend(pid) END",
        );
        if !self.signal(&cancel, target).await? {
            let reason = self.why_not_blocking(target).await?;
            return Err(self.precondition(reason));
        }
        if self.until_let_go(target).await? {
            return Ok(());
        }
        // Its transaction still holds the lock: it failed with the statement, or the client goes on with it.
        if self.signal(&sql::end_blocker("pg_terminate_backend(pid)"), target).await?
            && !self.until_let_go(target).await?
        {
            return Err(self.timeout());
        }
        Ok(())
    }

    /// Whether somebody was signalled, all conditions being met in that very moment.
    async fn signal(&self, statement: &str, target: &Blocker) -> Result<bool, ActError> {
        let names = self.endpoint.protected();
        let values: [(&(dyn ToSql + Sync), Type); 4] = [
            (&target.pid, Type::INT4),
            (&target.backend_start, Type::TIMESTAMPTZ),
            (&target.seconds, Type::FLOAT8),
            (&names, Type::TEXT_ARRAY),
        ];
        Ok(!self.wait(self.client()?.query_typed(statement, &values)).await?.is_empty())
    }

    async fn until_let_go(&self, target: &Blocker) -> Result<bool, ActError> {
        let give_up = (Instant::now() + LETS_GO_WITHIN).min(self.until);
        loop {
            match self.blocker_state(target.pid, target.backend_start).await? {
                StepState::Blocker { holds_up, .. } if holds_up > 0 => {}
                _ => return Ok(true),
            }
            if Instant::now() >= give_up {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn why_not_blocking(&self, target: &Blocker) -> Result<String, ActError> {
        let question = format!(
            "SELECT {}, a.state IS NULL FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
              WHERE a.pid = $1 AND a.backend_start IS NOT DISTINCT FROM $2",
            sql::protected(3)
        );
        let names = self.endpoint.protected();
        let values: [(&(dyn ToSql + Sync), Type); 3] =
            [(&target.pid, Type::INT4), (&target.backend_start, Type::TIMESTAMPTZ), (&names, Type::TEXT_ARRAY)];
        let rows = self.wait(self.client()?.query_typed(&question, &values)).await?;
        Ok(match rows.first() {
            None => "the session has ended by itself, or is hidden from us".to_owned(),
            Some(row) if row.get::<_, bool>(1) => {
                format!("its state is hidden from us; grant pg_monitor to {}", self.endpoint.role())
            }
            Some(row) if row.get::<_, bool>(0) => super::ending::PROTECTED.to_owned(),
            Some(_) => format!("nobody has waited for it for {:.0} s", target.seconds),
        })
    }

    pub(super) async fn blocker_state(&self, pid: i32, backend_start: Timestamp) -> Result<StepState, ActError> {
        const STATE: &str = "
SELECT coalesce(a.usename::text, ''), coalesce(a.application_name, ''), left(coalesce(a.query, ''), 4000),
       (SELECT count(*)::int4 FROM pg_stat_activity w
         WHERE w.wait_event_type = 'Lock' AND w.wait_event NOT IN ('advisory', 'virtualxid')
           AND a.pid = ANY (pg_blocking_pids(w.pid)))
  FROM pg_stat_activity a WHERE a.pid = $1 AND a.backend_start = $2";
        let values: [(&(dyn ToSql + Sync), Type); 2] = [(&pid, Type::INT4), (&backend_start, Type::TIMESTAMPTZ)];
        let rows = self.wait(self.client()?.query_typed(STATE, &values)).await?;
        let Some(row) = rows.first() else { return Ok(StepState::Gone) };
        Ok(StepState::Blocker {
            user: row.get(0),
            application: row.get(1),
            query: masked(row.get(2), 200),
            holds_up: row.get::<_, i32>(3).cast_unsigned(),
        })
    }
}
