//! Moving a sequence on that is behind the columns that it fills.
//!
//! While it is compared and set nobody may insert: the lock of the tables is taken for a moment, or not at all, and tried again
//! later. Whoever queues behind us waits for 200 ms at most. No lock that we may take stops `nextval` itself: a program that only
//! draws numbers meanwhile moves the sequence on by itself, and so do we, by drawing as well.

use super::super::sequences::{BY_THE_INDEX, Filling, carefully, fillings};
use super::{ActError, Work};
use groundskeeper_core::observation::NotCompared;
use groundskeeper_core::remedy::{Advance, StepState};
use std::pin::pin;
use std::time::Duration;
use tokio_postgres::Client;

/// How long after an attempt that did not get its locks the next one begins.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16)];
/// No row is left out without a word, nothing is compiled while others wait, and a keeper that stands still in the middle does
/// not keep its locks.
const CAREFULLY: &str = "SET row_security = off; SET jit = off; SET max_parallel_workers_per_gather = 0; \
                         SET idle_in_transaction_session_timeout = '2s'";
/// To compare takes a look into an index of each table. With the locks held nobody waits for more.
const WITHIN: &str = "SET LOCAL statement_timeout = '1s'";

pub(super) fn missing_grant(role: &str) -> String {
    format!(
        "{role} needs SELECT and UPDATE on the sequence, SELECT on the table, and the right to lock it: MAINTAIN (17 on), or \
         UPDATE, DELETE or TRUNCATE, or be a member of its owner; `groundskeeper grants --for maintain` has the lines"
    )
}

impl Work<'_> {
    pub(super) async fn advance_sequence(
        &self,
        at: (&str, &str),
        advance: &Advance,
        halt: impl Future<Output = ()>,
    ) -> Result<(), ActError> {
        let client = self.client()?;
        self.settled("the lock could not be held to its time").await?;
        self.not_on_a_standby().await?;
        self.wait(client.batch_execute(CAREFULLY)).await?;
        let mut halt = pin!(halt);
        let mut pauses = PAUSES.into_iter();
        loop {
            let trouble = match self.locked(client, at, advance).await {
                Ok(()) => return Ok(()),
                Err(trouble) => trouble,
            };
            if client.is_closed() {
                return Err(trouble);
            }
            self.wait(client.batch_execute("ROLLBACK")).await?;
            let is_passing = matches!(trouble, ActError::Failed { retryable: true, .. });
            let Some(pause) = pauses.next().filter(|_| is_passing) else { return Err(trouble) };
            tokio::select! {
                biased;
                () = halt.as_mut() => return Err(trouble),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One attempt, in a transaction that is left open where it fails.
    async fn locked(&self, client: &Client, at: (&str, &str), advance: &Advance) -> Result<(), ActError> {
        let filling = self.filling(client, at).await?.ok_or_else(|| self.precondition("the sequence is gone"))?;
        if filling.columns != advance.columns {
            return Err(self.precondition("it fills other columns than it did when this was planned"));
        }
        self.may_look(&filling)?;
        let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED; {BY_THE_INDEX}; {WITHIN}; {}", advance.lock());
        self.wait(client.batch_execute(&begin)).await?;
        let position = self.wait(filling.position(client)).await?;
        let behind = position.and_then(|position| filling.behind(position));
        let Some(mut behind) = behind else { return Err(self.precondition("it is not behind (any more)")) };
        if behind.asks_for_density() {
            behind.is_dense = self.wait(filling.is_dense(client, &behind)).await?;
        }
        if let Some(why) = behind.left_alone() {
            return Err(self.precondition(why.told()));
        }
        if behind.advance.increment != advance.increment {
            return Err(self.precondition("it goes in other steps than it did when this was planned"));
        }
        let set = self.wait(client.query_typed(&advance.catch_up(at.0, at.1), &[])).await?;
        if set.is_empty() {
            return Err(
                self.precondition("it is not behind (any more), or its columns hold more than when this was planned")
            );
        }
        self.wait(client.batch_execute("COMMIT")).await
    }

    pub(super) async fn sequence_state(&self, schema: &str, sequence: &str) -> Result<StepState, ActError> {
        let client = self.client()?;
        let Some(filling) = self.filling(client, (schema, sequence)).await? else { return Ok(StepState::Gone) };
        self.may_look(&filling)?;
        let Some(at) = self.wait(carefully(client, filling.position(client))).await? else {
            return Ok(StepState::Gone);
        };
        let taken = at.taken.or(at.first);
        Ok(StepState::Sequence { last: at.last, is_called: at.is_called, next: at.next, taken })
    }

    async fn filling(&self, client: &Client, at: (&str, &str)) -> Result<Option<Filling>, ActError> {
        let (found, _) = self.wait(fillings(client, Some(at))).await?;
        Ok(found.into_iter().next())
    }

    fn may_look(&self, filling: &Filling) -> Result<(), ActError> {
        match filling.obstacle() {
            None => Ok(()),
            Some(NotCompared::HiddenSequence | NotCompared::HiddenTable(_)) => Err(ActError::Denied {
                what: self.what(),
                message: "its position or its table's rows are hidden from us".to_owned(),
                fix: self.missing_grant(),
            }),
            Some(_) => Err(self.precondition("its columns have no index to look by (any more)")),
        }
    }
}
