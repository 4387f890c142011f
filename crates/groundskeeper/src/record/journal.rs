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
use groundskeeper_core::tuning::postgres::CHANGES_OF_SETTINGS;
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

impl Store {
    /// Writes the intent and its audit entry. Only afterwards may the step happen.
    pub fn intend(&mut self, intent: &Intent<'_>, now: Timestamp) -> Result<i64> {
        self.atomically(|db| {
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
        })
    }

    /// Ends an entry. An entry ends once: the second call changes nothing and says so.
    pub fn settle(
        &mut self,
        id: i64,
        outcome: Outcome,
        detail: &str,
        after: Option<&StepState>,
        now: Timestamp,
    ) -> Result<bool> {
        self.atomically(|db| {
            let changed = db.execute(
                "UPDATE journal SET ended = ?2, outcome = ?3, detail = ?4, after = ?5 WHERE id = ?1 AND ended IS NULL",
                params![id, millis(now), word(&outcome)?, detail, after.map(serde_json::to_string).transpose()?],
            )?;
            if changed == 1 {
                append(db, now, "groundskeeper", "outcome", &format!("{id}: {}: {detail}", word(&outcome)?))?;
                if let (Outcome::Helped, Some(state @ StepState::Setting { .. })) = (outcome, after) {
                    accept_own(db, &entry(db, id)?, state, now)?;
                }
            }
            Ok(changed == 1)
        })
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

    /// Whether an entry was put back already, or is being. A try that came to nothing may be made again.
    pub fn undone_by(&self, id: i64) -> Result<Option<i64>> {
        let sql = "SELECT id FROM journal WHERE undoes = ?1 AND outcome IN (?2, ?3)";
        let counts = params![id, word(&Outcome::Helped)?, word(&Outcome::Running)?];
        Ok(self.connection.query_row(sql, counts, |row| row.get(0)).optional()?)
    }

    fn entries_where(&self, condition: &str, values: impl rusqlite::Params) -> Result<Vec<Entry>> {
        let sql = format!("SELECT {COLUMNS} FROM journal {condition}");
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map(values, read)?;
        rows.map(|row| row?).collect()
    }

    /// What the guards need to know of the recent past. They measure from the end of an action: a vacuum may take hours.
    /// With every change of settings: what a person undid is not done again, however long ago that was.
    pub fn history_since(&self, from: Timestamp) -> Result<Vec<PastAction>> {
        let [by_itself, by_restart, by_hand] = CHANGES_OF_SETTINGS;
        let entries = self.entries_where(
            "WHERE coalesce(ended, ?1) >= ?1 OR remedy IN (?2, ?3, ?4)",
            params![millis(from), by_itself, by_restart, by_hand],
        )?;
        Ok(entries
            .into_iter()
            .map(|entry| PastAction {
                id: entry.id,
                subject: entry.step.subject(),
                setting: entry.step.setting(),
                remedy: entry.remedy,
                class: entry.class,
                at: entry.ended.unwrap_or(entry.intended),
                outcome: entry.outcome,
                undoes: entry.undoes,
            })
            .collect())
    }
}
