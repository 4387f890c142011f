//! Setting the statistics target of one column, and analyzing it.
//!
//! `ALTER TABLE … SET STATISTICS` and ANALYZE take a lock that conflicts with vacuum and with migrations only. Neither is
//! waited for: it is tried again later.

use super::super::estimates::of_column;
use super::{ActError, Work};
use groundskeeper_core::remedy::{StepState, puts_back, quoted, statistics_statements};
use std::pin::pin;
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// How long after an attempt that did not get its lock the next one begins.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16)];

const TABLE: &str = "
SELECT pg_has_role(t.relowner, 'USAGE'), pg_is_in_recovery(), current_setting('server_version_num')::int4
  FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE n.nspname = $1 AND t.relname = $2 AND t.relkind = 'r'";

impl Work<'_> {
    pub(super) async fn set_statistics(
        &self,
        at: (&str, &str, &str),
        (seen, target): (Option<u32>, Option<u32>),
        halt: impl Future<Output = ()>,
    ) -> Result<(), ActError> {
        let client = self.client()?;
        self.settled("the work could not be slowed down").await?;
        let rows = self.wait(client.query_typed(TABLE, &[(&at.0, Type::TEXT), (&at.1, Type::TEXT)])).await?;
        let Some(row) = rows.first() else { return Err(self.precondition("the table is gone")) };
        let (is_ours, is_standby): (bool, bool) = (row.get(0), row.get(1));
        if is_standby {
            return Err(self.precondition("the server is a standby"));
        }
        if !is_ours {
            return Err(ActError::Denied {
                what: self.what(),
                message: "we do not own the table".to_owned(),
                fix: self.missing_grant(),
            });
        }
        self.may_set(at, (seen, target)).await?;
        self.notice_when_we_are_gone(client, row.get(2)).await?;
        let mut halt = pin!(halt);
        // The first changes the catalogue, the second reads rows for its sample.
        for (nth, statement) in statistics_statements(at.0, at.1, at.2, target).into_iter().enumerate() {
            let mut pauses = PAUSES.into_iter();
            loop {
                let done = match nth {
                    0 => self.set_as_seen(client, at, (seen, target), &statement).await,
                    _ => self.run(client, &statement, halt.as_mut()).await,
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

    /// Under the lock that setting it takes anyway: a migration that we waited for may have chosen a target itself.
    async fn set_as_seen(
        &self,
        client: &Client,
        at: (&str, &str, &str),
        change: (Option<u32>, Option<u32>),
        statement: &str,
    ) -> Result<(), ActError> {
        let table = format!("{}.{}", quoted(at.0), quoted(at.1));
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '2s'; \
             LOCK TABLE ONLY {table} IN SHARE UPDATE EXCLUSIVE MODE"
        );
        let set = async {
            self.wait(client.batch_execute(&begin)).await?;
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
    async fn may_set(
        &self,
        at: (&str, &str, &str),
        (seen, target): (Option<u32>, Option<u32>),
    ) -> Result<(), ActError> {
        let StepState::Column(figures) = self.column_state(at).await? else {
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

    pub(super) async fn column_state(&self, at: (&str, &str, &str)) -> Result<StepState, ActError> {
        match self.wait(of_column(self.client()?, at)).await? {
            None => Ok(StepState::Gone),
            Some((figures, true)) => Ok(StepState::Column(figures)),
            Some((_, false)) => Err(ActError::Denied {
                what: self.what(),
                message: "the column's statistics are hidden from us".to_owned(),
                fix: self.missing_grant(),
            }),
        }
    }
}
