//! Setting the statistics target of one column, and analyzing it.
//!
//! `ALTER TABLE … SET STATISTICS` and ANALYZE take a lock that conflicts with vacuum and with migrations only. Neither is
//! waited for: it is tried again later. Between the two the table may get another name, so that it is known by its number:
//! the target is put back on that very table.

use super::super::estimates::of_column;
use super::{ActError, STANDBY, Work};
use groundskeeper_core::remedy::{StepState, puts_back, quoted, statistics_statements};
use std::pin::pin;
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// How long after an attempt that did not get its lock the next one begins.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16)];

const TABLE: &str = "
SELECT pg_has_role(t.relowner, 'USAGE'), pg_is_in_recovery(), current_setting('server_version_num')::int4, t.oid,
       n.nspname::text, t.relname::text
  FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE t.relkind = 'r' AND CASE WHEN $3::oid IS NULL THEN n.nspname = $1 AND t.relname = $2 ELSE t.oid = $3 END";

/// Where a column is. The number of its table, where it is known, goes before the name.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnName<'n> {
    pub(super) schema: &'n str,
    pub(super) table: &'n str,
    pub(super) column: &'n str,
    pub(super) relation: Option<u32>,
}

impl Work<'_> {
    pub(super) async fn set_statistics(
        &self,
        at: ColumnName<'_>,
        change: (Option<u32>, Option<u32>),
        halt: impl Future<Output = ()>,
    ) -> Result<(), ActError> {
        let client = self.client()?;
        self.settled("the work could not be slowed down").await?;
        let values: [(&(dyn ToSql + Sync), Type); 3] =
            [(&at.schema, Type::TEXT), (&at.table, Type::TEXT), (&at.relation, Type::OID)];
        let rows = self.wait(client.query_typed(TABLE, &values)).await?;
        let Some(row) = rows.first() else { return Err(self.precondition("the table is gone")) };
        let (is_ours, is_standby): (bool, bool) = (row.get(0), row.get(1));
        if is_standby {
            return Err(self.precondition(STANDBY));
        }
        if !is_ours {
            return Err(ActError::Denied {
                what: self.what(),
                message: "we do not own the table".to_owned(),
                fix: self.missing_grant(),
            });
        }
        let (schema, table): (String, String) = (row.get(4), row.get(5));
        let at = ColumnName { schema: &schema, table: &table, column: at.column, relation: Some(row.get(3)) };
        self.may_set(at, change).await?;
        self.notice_when_we_are_gone(client, row.get(2)).await?;
        self.set_and_analyze(client, at, change, halt).await
    }

    /// The first statement changes the catalogue, the second reads rows for its sample: whatever keeps that one from being
    /// carried out, something is begun by then.
    async fn set_and_analyze(
        &self,
        client: &Client,
        at: ColumnName<'_>,
        change: (Option<u32>, Option<u32>),
        halt: impl Future<Output = ()>,
    ) -> Result<(), ActError> {
        let mut halt = pin!(halt);
        let statements = statistics_statements(at.schema, at.table, at.column, change.1);
        for (nth, statement) in statements.into_iter().enumerate() {
            let mut pauses = PAUSES.into_iter();
            loop {
                let done = if nth == 0 {
                    self.set_as_seen(client, at, change, &statement).await
                } else {
                    let done = self.run(client, &statement, halt.as_mut()).await;
                    done.map_err(|error| self.after(error, "its target was set, and it was not analyzed"))
                };
                let trouble = match done {
                    Ok(()) => break,
                    Err(trouble) => trouble,
                };
                let is_passing = matches!(trouble, ActError::Failed { retryable: true, .. }) && !client.is_closed();
                let Some(pause) = pauses.next().filter(|_| is_passing) else { return Err(trouble) };
                tokio::select! {
                    biased;
                    () = halt.as_mut() => return Err(trouble),
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
        Ok(())
    }

    /// Under the lock that setting it takes anyway: a migration that we waited for may have chosen a target itself, or given the
    /// name to another table.
    async fn set_as_seen(
        &self,
        client: &Client,
        at: ColumnName<'_>,
        change: (Option<u32>, Option<u32>),
        statement: &str,
    ) -> Result<(), ActError> {
        let table = format!("{}.{}", quoted(at.schema), quoted(at.table));
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '2s'; \
             LOCK TABLE ONLY {table} IN SHARE UPDATE EXCLUSIVE MODE"
        );
        let set = async {
            self.wait(client.batch_execute(&begin)).await?;
            let named = self.name_of(client, at.relation).await?;
            if named.is_none_or(|(schema, table)| (schema.as_str(), table.as_str()) != (at.schema, at.table)) {
                return Err(self.precondition("the table got another name meanwhile"));
            }
            self.may_set(at, change).await?;
            self.wait(client.batch_execute(&format!("{statement}; COMMIT"))).await
        };
        let done = set.await;
        if done.is_err() && !client.is_closed() {
            self.wait(client.batch_execute("ROLLBACK")).await?;
        }
        done
    }

    /// Only from the target that was seen, and down only where it is put back.
    async fn may_set(&self, at: ColumnName<'_>, (seen, target): (Option<u32>, Option<u32>)) -> Result<(), ActError> {
        let StepState::Column { figures, .. } = self.column_state(at).await? else {
            return Err(self.precondition("the column is gone"));
        };
        if figures.target == target {
            return Err(self.precondition("it has that target already"));
        }
        if figures.target != seen {
            return Err(self.precondition("somebody gave it another target since this was planned"));
        }
        if !puts_back(seen, target) && target.is_none_or(|target| target <= figures.in_force) {
            return Err(self.precondition("the server's default is as large by now"));
        }
        Ok(())
    }

    pub(super) async fn column_state(&self, at: ColumnName<'_>) -> Result<StepState, ActError> {
        let client = self.client()?;
        let (schema, table) = match at.relation {
            None => (at.schema.to_owned(), at.table.to_owned()),
            known @ Some(_) => match self.name_of(client, known).await? {
                Some(named) => named,
                None => return Ok(StepState::Gone),
            },
        };
        match self.wait(of_column(client, (&schema, &table, at.column))).await? {
            Some((_, oid, _)) if at.relation.is_some_and(|known| known != oid) => Ok(StepState::Gone),
            Some((figures, oid, true)) => Ok(StepState::Column { figures, relation: Some(oid) }),
            Some((_, _, false)) => Err(ActError::Denied {
                what: self.what(),
                message: "the column's statistics are hidden from us".to_owned(),
                fix: self.missing_grant(),
            }),
            None => Ok(StepState::Gone),
        }
    }

    /// Schema and name of the table with that number, as they are now.
    async fn name_of(&self, client: &Client, relation: Option<u32>) -> Result<Option<(String, String)>, ActError> {
        const NAME: &str = "SELECT n.nspname::text, t.relname::text
  FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace WHERE t.oid = $1 AND t.relkind = 'r'";
        let values: [(&(dyn ToSql + Sync), Type); 1] = [(&relation, Type::OID)];
        let rows = self.wait(client.query_typed(NAME, &values)).await?;
        Ok(rows.first().map(|row| (row.get(0), row.get(1))))
    }
}
