//! The audit: who did what, hash-chained, so that a changed entry, or one missing in the middle, shows. That the newest
//! entries were cut off shows only against a head that was kept elsewhere.
//!
//! Each entry's hash is the SHA-256 of the previous hash and of the entry's own fields; the head is in every backup
//! set. Entries are written in the transaction of the change that they tell of: neither exists without the other.

use super::{Result, Store, millis, moment};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

/// The first entry that does not fit, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub seq: i64,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    pub seq: i64,
    pub at: Timestamp,
    pub who: String,
    pub what: String,
    pub detail: String,
    pub hash: String,
}

/// What the chain begins with.
const ORIGIN: &str = "groundskeeper";

fn digest(previous: &str, seq: i64, at: i64, who: &str, what: &str, detail: &str) -> String {
    let mut hasher = Sha256::new();
    // Length-prefixed, so that no two different entries can be written alike.
    for part in [previous, &seq.to_string(), &at.to_string(), who, what, detail] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// Adds an entry; to be called inside the transaction of the change.
pub(super) fn append(db: &Connection, at: Timestamp, who: &str, what: &str, detail: &str) -> Result<()> {
    let (last, previous) = db
        .query_row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })
        .optional()?
        .unwrap_or((0, ORIGIN.to_owned()));
    let (seq, at) = (last + 1, millis(at));
    let hash = digest(&previous, seq, at, who, what, detail);
    db.execute(
        "INSERT INTO audit (seq, at, who, what, detail, previous, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![seq, at, who, what, detail, previous, hash],
    )?;
    Ok(())
}

impl Store {
    pub fn audit(&mut self, who: &str, what: &str, detail: &str, now: Timestamp) -> Result<()> {
        self.atomically(|db| append(db, now, who, what, detail))
    }

    /// Newest first.
    pub fn audit_entries(&self, limit: u32) -> Result<Vec<AuditRow>> {
        let mut statement =
            self.connection.prepare("SELECT seq, at, who, what, detail, hash FROM audit ORDER BY seq DESC LIMIT ?1")?;
        let rows = statement.query_map(params![limit], |row| {
            Ok(AuditRow {
                seq: row.get(0)?,
                at: moment(row.get(1)?),
                who: row.get(2)?,
                what: row.get(3)?,
                detail: row.get(4)?,
                hash: row.get(5)?,
            })
        })?;
        rows.map(|row| Ok(row?)).collect()
    }

    /// The newest entry; its hash stands for all before it. None before the first.
    pub fn audit_head(&self) -> Result<Option<AuditRow>> {
        Ok(self.audit_entries(1)?.pop())
    }

    /// Recomputes the whole chain. Gives the head, and the first entry that does not fit.
    pub fn verify_audit(&self) -> Result<(String, Option<Broken>)> {
        let mut statement =
            self.connection.prepare("SELECT seq, at, who, what, detail, previous, hash FROM audit ORDER BY seq")?;
        let mut rows = statement.query([])?;
        let mut head = ORIGIN.to_owned();
        let mut expected = 1;
        while let Some(row) = rows.next()? {
            let seq: i64 = row.get(0)?;
            let texts: [String; 5] = [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
            let [who, what, detail, previous, hash] = texts;
            let why = if seq != expected {
                Some(format!("entry {expected} is missing"))
            } else if previous != head {
                Some("it does not follow the entry before it".to_owned())
            } else if hash != digest(&previous, seq, row.get(1)?, &who, &what, &detail) {
                Some("its content was changed".to_owned())
            } else {
                None
            };
            if let Some(why) = why {
                return Ok((head, Some(Broken { seq, why })));
            }
            head = hash;
            expected = seq + 1;
        }
        Ok((head, None))
    }
}
