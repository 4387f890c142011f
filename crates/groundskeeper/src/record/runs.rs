//! Runs of tasks. A run is claimed by inserting it: `(task, due)` is unique, so it fires once, whoever asks. A run that
//! has no moment of its own (of a rhythm) is due when it begins.

use super::{Result, Store, millis, moment};
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub id: i64,
    pub task: String,
    pub cause: String,
    pub due: Timestamp,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub outcome: String,
    pub summary: String,
}

const COLUMNS: &str = "id, task, cause, due, started, ended, outcome, summary";

fn read(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        id: row.get(0)?,
        task: row.get(1)?,
        cause: row.get(2)?,
        due: moment(row.get(3)?),
        started: moment(row.get(4)?),
        ended: row.get::<_, Option<i64>>(5)?.map(moment),
        outcome: row.get(6)?,
        summary: row.get(7)?,
    })
}

impl Store {
    /// Claims the run of `task` that was due at `due`; none when somebody already has.
    pub fn claim_run(&mut self, task: &str, due: Timestamp, cause: &str, now: Timestamp) -> Result<Option<i64>> {
        self.atomically(|db| {
            let inserted = db.execute(
                "INSERT OR IGNORE INTO run (task, due, cause, started, outcome) VALUES (?1, ?2, ?3, ?4, 'running')",
                params![task, millis(due), cause, millis(now)],
            )?;
            Ok((inserted == 1).then(|| db.last_insert_rowid()))
        })
    }

    /// Begins a run that is due now. Where this very millisecond is taken (the clock was set back), it is due at the next.
    pub fn begin_run(&mut self, task: &str, cause: &str, now: Timestamp) -> Result<i64> {
        self.atomically(|db| {
            let mut due = millis(now);
            loop {
                let inserted = db.execute(
                    "INSERT OR IGNORE INTO run (task, due, cause, started, outcome) VALUES (?1, ?2, ?3, ?4, 'running')",
                    params![task, due, cause, millis(now)],
                )?;
                if inserted == 1 {
                    return Ok(db.last_insert_rowid());
                }
                due += 1;
            }
        })
    }

    pub fn finish_run(&mut self, id: i64, ok: bool, summary: &str, now: Timestamp) -> Result<()> {
        let outcome = if ok { "ok" } else { "failed" };
        self.atomically(|db| {
            db.execute(
                "UPDATE run SET ended = ?2, outcome = ?3, summary = ?4 WHERE id = ?1",
                params![id, millis(now), outcome, summary],
            )?;
            Ok(())
        })
    }

    /// Runs that a dead process left behind are marked as such; the calendar's catch-up decides what runs again.
    pub fn interrupt_runs(&mut self, now: Timestamp) -> Result<usize> {
        self.atomically(|db| {
            Ok(db.execute(
                "UPDATE run SET ended = ?1, outcome = 'interrupted', summary = 'groundskeeper ended in the middle' WHERE ended IS NULL",
                params![millis(now)],
            )?)
        })
    }

    pub fn last_run(&self, task: &str) -> Result<Option<Run>> {
        let sql = format!("SELECT {COLUMNS} FROM run WHERE task = ?1 ORDER BY started DESC, id DESC LIMIT 1");
        Ok(self.connection.query_row(&sql, params![task], read).optional()?)
    }

    /// The latest moment for which a run of the task was claimed.
    pub fn last_due(&self, task: &str) -> Result<Option<Timestamp>> {
        let due: Option<i64> =
            self.connection.query_row("SELECT max(due) FROM run WHERE task = ?1", params![task], |row| row.get(0))?;
        Ok(due.map(moment))
    }

    /// Newest first, without the watch, which runs all the time.
    pub fn recent_runs(&self, limit: u32) -> Result<Vec<Run>> {
        let sql = format!("SELECT {COLUMNS} FROM run WHERE task <> 'watch' ORDER BY started DESC, id DESC LIMIT ?1");
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map(params![limit], read)?;
        rows.map(|row| Ok(row?)).collect()
    }

    pub fn runs_between(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Run>> {
        let sql = format!("SELECT {COLUMNS} FROM run WHERE started >= ?1 AND started < ?2 ORDER BY started");
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map(params![millis(from), millis(to)], read)?;
        rows.map(|row| Ok(row?)).collect()
    }
}
