//! The configurations that somebody accepted, one for each system.

use super::audit::append;
use super::{Result, Store, millis};
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::Accepted;
use rusqlite::{OptionalExtension, params};

impl Store {
    pub fn accepted(&self, system: &SystemId) -> Result<Option<Accepted>> {
        let sql = "SELECT body FROM accepted WHERE system = ?1";
        let body: Option<String> =
            self.connection.query_row(sql, params![system.to_string()], |row| row.get(0)).optional()?;
        Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
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
