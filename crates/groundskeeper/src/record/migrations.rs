//! The schema and its steps. A step is never changed once released; a new one is added.

use super::{Error, Result};
use rusqlite::Connection;
use std::path::Path;

const STEPS: &[&str] = &["
CREATE TABLE run (
    id INTEGER PRIMARY KEY, task TEXT NOT NULL, due INTEGER NOT NULL, cause TEXT NOT NULL,
    started INTEGER NOT NULL, ended INTEGER, outcome TEXT NOT NULL, summary TEXT NOT NULL DEFAULT '',
    UNIQUE (task, due)
);
CREATE INDEX run_started ON run (started);

CREATE TABLE finding (
    id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, check_id TEXT NOT NULL, system TEXT NOT NULL,
    body TEXT NOT NULL, first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL,
    opened INTEGER, clear_since INTEGER, ended INTEGER
);
CREATE UNIQUE INDEX finding_live ON finding (fingerprint) WHERE ended IS NULL;
CREATE INDEX finding_ended ON finding (ended);

CREATE TABLE status (
    system TEXT NOT NULL, check_id TEXT NOT NULL, status TEXT NOT NULL, reason TEXT,
    since INTEGER NOT NULL, judged INTEGER NOT NULL,
    PRIMARY KEY (system, check_id)
) WITHOUT ROWID;

CREATE TABLE series (
    id INTEGER PRIMARY KEY, system TEXT NOT NULL, metric TEXT NOT NULL, subject TEXT NOT NULL, unit TEXT NOT NULL,
    UNIQUE (system, metric, subject)
);
CREATE TABLE sample (
    resolution INTEGER NOT NULL, series INTEGER NOT NULL REFERENCES series (id), at INTEGER NOT NULL,
    lowest REAL NOT NULL, highest REAL NOT NULL, total REAL NOT NULL, number INTEGER NOT NULL, latest REAL NOT NULL,
    PRIMARY KEY (resolution, series, at)
) WITHOUT ROWID;

CREATE TABLE plan (hash TEXT PRIMARY KEY, made INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE approval (
    id INTEGER PRIMARY KEY, hash TEXT NOT NULL, who TEXT NOT NULL, given INTEGER NOT NULL,
    expires INTEGER NOT NULL, any_time INTEGER NOT NULL
);
CREATE TABLE journal (
    id INTEGER PRIMARY KEY, plan TEXT NOT NULL, remedy TEXT NOT NULL, class TEXT NOT NULL, subject TEXT NOT NULL,
    step TEXT NOT NULL, finding TEXT NOT NULL, why TEXT NOT NULL, who TEXT NOT NULL, intended INTEGER NOT NULL,
    ended INTEGER, outcome TEXT NOT NULL, detail TEXT NOT NULL DEFAULT '', before TEXT NOT NULL, after TEXT,
    undoes INTEGER REFERENCES journal (id)
);
CREATE INDEX journal_intended ON journal (intended);

CREATE TABLE pause (
    scope TEXT PRIMARY KEY, reason TEXT NOT NULL, who TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER
);
CREATE TABLE ignored (
    fingerprint TEXT PRIMARY KEY, reason TEXT NOT NULL, who TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL
);
CREATE TABLE message (
    id INTEGER PRIMARY KEY, created INTEGER NOT NULL, channel TEXT NOT NULL, body TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due INTEGER NOT NULL, sent INTEGER, given_up INTEGER, error TEXT
);
CREATE TABLE announced (
    channel TEXT NOT NULL, fingerprint TEXT NOT NULL, at INTEGER NOT NULL, line TEXT NOT NULL,
    message INTEGER NOT NULL, lost INTEGER, PRIMARY KEY (channel, fingerprint)
) WITHOUT ROWID;
CREATE INDEX announced_message ON announced (message);

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL,
    previous TEXT NOT NULL, hash TEXT NOT NULL
);
", "
CREATE TABLE accepted (system TEXT PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, body TEXT NOT NULL);
", "
CREATE TABLE index_size (
    system TEXT NOT NULL, database TEXT NOT NULL, schema TEXT NOT NULL, name TEXT NOT NULL,
    size INTEGER NOT NULL, rows REAL NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (system, database, schema, name)
) WITHOUT ROWID;
", "
ALTER TABLE journal ADD COLUMN undo_due INTEGER;
CREATE INDEX journal_undo_due ON journal (undo_due) WHERE undo_due IS NOT NULL;
", "
CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL);
", "
CREATE TABLE plan_run (
    system TEXT NOT NULL, database TEXT NOT NULL, query INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    nodes TEXT NOT NULL, cost REAL NOT NULL, PRIMARY KEY (system, database, query, first)
) WITHOUT ROWID;
"];

/// Brings the file to this version's schema, each step in its own transaction.
pub(super) fn migrate(connection: &mut Connection, file: &Path) -> Result<()> {
    let known = STEPS.len() as i64;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(Error::Newer { file: file.to_owned(), found, known });
    }
    for (index, step) in STEPS.iter().enumerate().skip(found as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
