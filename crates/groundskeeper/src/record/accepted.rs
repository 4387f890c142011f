//! The configurations that somebody accepted, one for each system.

use super::audit::append;
use super::{Entry, Result, Store, millis};
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::Accepted;
use groundskeeper_core::remedy::StepState;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

impl Store {
    pub fn accepted(&self, system: &SystemId) -> Result<Option<Accepted>> {
        accepted(&self.connection, system)
    }

    /// The same configuration with its secrets under the record's key.
    pub fn reseal(&mut self, system: &SystemId, accepted: &Accepted, now: Timestamp) -> Result<()> {
        self.revise(system, accepted, "seal accepted secrets", &system.to_string(), now)
    }

    /// The configuration after a restart, which took up or passed over what we had written for it.
    pub fn restarted(&mut self, system: &SystemId, accepted: &Accepted, now: Timestamp) -> Result<()> {
        let detail = format!("{system}: what waited for a restart does not any more");
        self.revise(system, accepted, "accept configuration", &detail, now)
    }

    fn revise(
        &mut self,
        system: &SystemId,
        accepted: &Accepted,
        what: &str,
        detail: &str,
        now: Timestamp,
    ) -> Result<()> {
        let body = serde_json::to_string(accepted)?;
        self.atomically(|db| {
            db.execute("UPDATE accepted SET body = ?2 WHERE system = ?1", params![system.to_string(), body])?;
            append(db, now, "groundskeeper", what, detail)
        })
    }

    /// In place of what was accepted before.
    pub fn accept(&mut self, system: &SystemId, accepted: &Accepted) -> Result<()> {
        let body = serde_json::to_string(accepted)?;
        self.atomically(|db| {
            db.execute(
                "INSERT OR REPLACE INTO accepted (system, at, who, body) VALUES (?1, ?2, ?3, ?4)",
                params![system.to_string(), millis(accepted.at), accepted.by, body],
            )?;
            let detail = format!("{system}: {} settings", accepted.settings.len());
            append(db, accepted.at, &accepted.by, "accept configuration", &detail)
        })
    }
}

fn accepted(db: &Connection, system: &SystemId) -> Result<Option<Accepted>> {
    let sql = "SELECT body FROM accepted WHERE system = ?1";
    let body: Option<String> = db.query_row(sql, params![system.to_string()], |row| row.get(0)).optional()?;
    Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
}

/// What a change of ours made of a setting is accepted in the transaction that ends the action: a reading right after it finds
/// no drift.
pub(super) fn accept_own(db: &Connection, entry: &Entry, after: &StepState, now: Timestamp) -> Result<()> {
    let system = entry.step.system();
    let Some(mut accepted) = accepted(db, system)? else { return Ok(()) };
    if !accepted.take(entry.id, &entry.step, &entry.before, after, now) {
        return Ok(());
    }
    let body = serde_json::to_string(&accepted)?;
    db.execute("UPDATE accepted SET body = ?2 WHERE system = ?1", params![system.to_string(), body])?;
    let detail = format!("{system}: what action {} made of {}", entry.id, entry.step.target());
    append(db, now, "groundskeeper", "accept configuration", &detail)
}
