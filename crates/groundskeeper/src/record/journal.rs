//! The journal: the intent of every change, durable before the change happens.
//!
//! A row goes `running` -> `helped | did_not_help | failed | abandoned`. After a crash, the rows that still run are what
//! the next start must settle.

use super::accepted::accept_own;
use super::audit::append;
use super::{Error, Result, Store, millis, moment};
use groundskeeper_core::finding::Fingerprint;
use groundskeeper_core::policy::{Outcome, PastAction};
use groundskeeper_core::remedy::{RiskClass, Step, StepState};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: i64,
    pub plan: String,
    pub remedy: String,
    pub class: RiskClass,
    pub step: Step,
    pub finding: Fingerprint,
    pub why: String,
    pub who: String,
    pub intended: Timestamp,
    pub ended: Option<Timestamp>,
    pub outcome: Outcome,
    pub detail: String,
    pub before: StepState,
    pub after: Option<StepState>,
    /// The entry that this one puts back.
    pub undoes: Option<i64>,
}

/// What is known before the step: everything but its end.
#[derive(Debug, Clone)]
pub struct Intent<'a> {
    pub plan: &'a str,
    pub remedy: &'a str,
    pub class: RiskClass,
    pub step: &'a Step,
    pub finding: &'a Fingerprint,
    pub why: &'a str,
    pub who: &'a str,
    pub before: &'a StepState,
    pub undoes: Option<i64>,
}

/// What a step that ended leaves to be put back.
#[derive(Debug, Clone)]
pub enum Owed<'a> {
    Nothing,
    /// What there is to be put back could not be read. It is asked again from that moment on.
    Later(Timestamp),
    /// It is begun at once, and again from that moment on where it does not help.
    Now(Box<Intent<'a>>, Timestamp),
}

const COLUMNS: &str =
    "id, plan, remedy, class, step, finding, why, who, intended, ended, outcome, detail, before, after, undoes";

/// A closed enum as the word that serde writes for it.
fn word<T: Serialize>(value: &T) -> Result<String> {
    Ok(serde_json::to_value(value)?.as_str().unwrap_or_default().to_owned())
}

fn unword<T: DeserializeOwned>(text: &str) -> Result<T> {
    Ok(serde_json::from_value(serde_json::Value::String(text.to_owned()))?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Result<Entry>> {
    let texts: [String; 4] = [row.get("class")?, row.get("step")?, row.get("outcome")?, row.get("before")?];
    let after: Option<String> = row.get("after")?;
    let parsed = (|| -> Result<Entry> {
        Ok(Entry {
            id: row.get("id")?,
            plan: row.get("plan")?,
            remedy: row.get("remedy")?,
            class: unword(&texts[0])?,
            step: serde_json::from_str(&texts[1])?,
            finding: Fingerprint(row.get("finding")?),
            why: row.get("why")?,
            who: row.get("who")?,
            intended: moment(row.get("intended")?),
            ended: row.get::<_, Option<i64>>("ended")?.map(moment),
            outcome: unword(&texts[2])?,
            detail: row.get("detail")?,
            before: serde_json::from_str(&texts[3])?,
            after: after.as_deref().map(serde_json::from_str).transpose()?,
            undoes: row.get("undoes")?,
        })
    })();
    Ok(parsed)
}

fn entry(db: &Connection, id: i64) -> Result<Entry> {
    let sql = format!("SELECT {COLUMNS} FROM journal WHERE id = ?1");
    db.query_row(&sql, params![id], read)
        .optional()?
        .ok_or_else(|| Error::Lookup(format!("there is no action {id}; `groundskeeper actions` lists them")))?
}

/// A setting that was changed since is not put back to what it was before that.
fn forgive(db: &Connection, later: &Entry) -> Result<()> {
    if later.undoes.is_some() {
        return Ok(());
    }
    let sql = format!("SELECT {COLUMNS} FROM journal WHERE undo_due IS NOT NULL AND id < ?1 AND subject = ?2");
    let mut statement = db.prepare(&sql)?;
    let owing =
        statement.query_map(params![later.id, later.step.subject()], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    for earlier in owing {
        let earlier = earlier?;
        if earlier.step.setting() == later.step.setting() {
            db.execute("UPDATE journal SET undo_due = NULL WHERE id = ?1", params![earlier.id])?;
        }
    }
    Ok(())
}

/// Nothing is under way on the entry's subject.
const FREE: &str =
    "NOT EXISTS (SELECT 1 FROM journal other WHERE other.ended IS NULL AND other.subject = journal.subject)";

fn write(db: &Connection, intent: &Intent<'_>, now: Timestamp) -> Result<i64> {
    db.execute(
        "INSERT INTO journal (plan, remedy, class, subject, step, finding, why, who, intended, outcome, before, undoes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            intent.plan,
            intent.remedy,
            word(&intent.class)?,
            intent.step.subject(),
            serde_json::to_string(intent.step)?,
            intent.finding.0,
            intent.why,
            intent.who,
            millis(now),
            word(&Outcome::Running)?,
            serde_json::to_string(intent.before)?,
            intent.undoes,
        ],
    )?;
    let id = db.last_insert_rowid();
    append(db, now, intent.who, "intent", &format!("{id}: {}", intent.step.statement()))?;
    Ok(id)
}

impl Store {
    /// Writes the intent and its audit entry. Only afterwards may the step happen.
    pub fn intend(&mut self, intent: &Intent<'_>, now: Timestamp) -> Result<i64> {
        self.atomically(|db| write(db, intent, now))
    }

    /// Ends an entry, and nothing is owed for it. An entry ends once: the second call changes nothing and says so.
    pub fn settle(
        &mut self,
        id: i64,
        outcome: Outcome,
        detail: &str,
        after: Option<&StepState>,
        now: Timestamp,
    ) -> Result<bool> {
        Ok(self.settle_owing(id, (outcome, detail), after, &Owed::Nothing, now)?.0)
    }

    /// Ends an entry and notes in the same moment what is to be put back: whoever is killed afterwards owes it still. Gives
    /// whether it was this call that ended it, and the entry of the undo, if one is begun.
    pub fn settle_owing(
        &mut self,
        id: i64,
        (outcome, detail): (Outcome, &str),
        after: Option<&StepState>,
        owed: &Owed<'_>,
        now: Timestamp,
    ) -> Result<(bool, Option<i64>)> {
        self.atomically(|db| {
            let due = match owed {
                Owed::Nothing => None,
                Owed::Later(due) | Owed::Now(_, due) => Some(millis(*due)),
            };
            let changed = db.execute(
                "UPDATE journal SET ended = ?2, outcome = ?3, detail = ?4, after = ?5, undo_due = ?6
                  WHERE id = ?1 AND ended IS NULL",
                params![id, millis(now), word(&outcome)?, detail, after.map(serde_json::to_string).transpose()?, due],
            )?;
            if changed == 0 {
                return Ok((false, None));
            }
            append(db, now, "groundskeeper", "outcome", &format!("{id}: {}: {detail}", word(&outcome)?))?;
            if outcome == Outcome::Helped {
                if let Some(state @ StepState::Setting { .. }) = after {
                    let ended = entry(db, id)?;
                    accept_own(db, &ended, state, now)?;
                    forgive(db, &ended)?;
                }
                let done = "UPDATE journal SET undo_due = NULL WHERE id = (SELECT undoes FROM journal WHERE id = ?1)";
                db.execute(done, params![id])?;
            }
            match owed {
                Owed::Now(undo, _) => Ok((true, Some(write(db, undo, now)?))),
                _ => Ok((true, None)),
            }
        })
    }

    /// Notes what is still owed for an entry that ended. None, and nothing is begun, while anything is under way on its subject,
    /// or when nothing is owed any more.
    pub fn owe(&mut self, id: i64, owed: &Owed<'_>, now: Timestamp) -> Result<Option<i64>> {
        self.atomically(|db| {
            let due = match owed {
                Owed::Nothing => None,
                Owed::Later(due) | Owed::Now(_, due) => Some(millis(*due)),
            };
            let noted = format!("UPDATE journal SET undo_due = ?2 WHERE id = ?1 AND undo_due IS NOT NULL AND {FREE}");
            match (db.execute(&noted, params![id, due])?, owed) {
                (1, Owed::Now(undo, _)) => Ok(Some(write(db, undo, now)?)),
                _ => Ok(None),
            }
        })
    }

    /// Entries that something is owed for by now, begun since then.
    pub fn owing(&self, now: Timestamp, since: Timestamp) -> Result<Vec<Entry>> {
        let condition = format!("WHERE undo_due <= ?1 AND intended >= ?2 AND {FREE} ORDER BY id");
        self.entries_where(&condition, params![millis(now), millis(since)])
    }

    pub fn entry(&self, id: i64) -> Result<Entry> {
        entry(&self.connection, id)
    }

    /// Newest first.
    pub fn entries(&self, limit: u32) -> Result<Vec<Entry>> {
        self.entries_where("ORDER BY id DESC LIMIT ?1", params![limit])
    }

    pub fn entries_between(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Entry>> {
        self.entries_where("WHERE intended >= ?1 AND intended < ?2 ORDER BY id", params![millis(from), millis(to)])
    }

    /// Entries without an end: after a start, what a dead process left.
    pub fn unsettled(&self) -> Result<Vec<Entry>> {
        self.entries_where("WHERE ended IS NULL ORDER BY id", [])
    }

    /// What put an entry back, or is about to. An undo that did not help counts for nothing.
    pub fn undone_by(&self, id: i64) -> Result<Option<i64>> {
        Ok(self
            .connection
            .query_row(
                "SELECT id FROM journal WHERE undoes = ?1 AND outcome IN ('helped', 'running')",
                params![id],
                |row| row.get(0),
            )
            .optional()?)
    }

    fn entries_where(&self, condition: &str, values: impl rusqlite::Params) -> Result<Vec<Entry>> {
        let sql = format!("SELECT {COLUMNS} FROM journal {condition}");
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map(values, read)?;
        rows.map(|row| row?).collect()
    }

    /// What the guards need to know of the recent past. They measure from the end of an action: a vacuum may take hours.
    pub fn history_since(&self, from: Timestamp) -> Result<Vec<PastAction>> {
        let entries = self.entries_where("WHERE coalesce(ended, ?1) >= ?1", params![millis(from)])?;
        Ok(entries
            .into_iter()
            .map(|entry| PastAction {
                subject: entry.step.subject(),
                remedy: entry.remedy,
                class: entry.class,
                at: entry.ended.unwrap_or(entry.intended),
                outcome: entry.outcome,
            })
            .collect())
    }
}
