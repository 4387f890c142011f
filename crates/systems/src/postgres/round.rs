//! Servers that are read at the same time, so that a primary's reading can have its standbys' counts beside its own.

use groundskeeper_core::observation::{Postgres, Reading};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How much longer than its own a primary's reading may take for the sake of others.
const LATE_AFTER: Duration = Duration::from_secs(2);

/// One round of readings. Clones are the same round.
#[derive(Debug, Clone)]
pub struct Round {
    servers: usize,
    done: watch::Sender<Done>,
}

/// The readings that have ended.
#[derive(Debug, Default)]
struct Done {
    count: usize,
    standbys: Vec<(String, Arc<Postgres>)>,
}

impl Round {
    /// Of so many servers; [`Self::completed`] must be called for each of them, also for those that did not answer.
    pub fn of(servers: usize) -> Self {
        Self { servers, done: watch::Sender::default() }
    }

    /// Gives the reading back. A primary waits a little for all the others, and has its standbys counted in, also one that
    /// does not stream at the moment; everybody else is given back at once.
    pub async fn completed(&self, name: &str, mut reading: Reading<Postgres>) -> Reading<Postgres> {
        let standby = reading.outcome.as_ref().ok().filter(|seen| seen.server.in_recovery).cloned();
        self.done.send_modify(|done| {
            done.count += 1;
            done.standbys.extend(standby.map(|seen| (name.to_owned(), Arc::new(seen))));
        });
        let Ok(seen) = &mut reading.outcome else { return reading };
        if !seen.server.in_recovery {
            let mut others = self.done.subscribe();
            // Whoever hangs delays nobody for long; a standby that is late is one that was not read in this round.
            let _ = timeout(LATE_AFTER, others.wait_for(|done| done.count >= self.servers)).await;
            for (name, standby) in &self.done.borrow().standbys {
                seen.count_in(name, standby);
            }
        }
        reading
    }
}
