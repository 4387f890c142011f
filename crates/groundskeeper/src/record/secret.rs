//! What the record keeps to itself. Its file is its owner's alone, and its copies are in encrypted backups only.

use super::{Error, Result, Store};
use groundskeeper_core::observation::SealKey;
use rusqlite::params;

impl Store {
    /// The key by which secrets in settings are remembered; made once, by the operating system's own randomness.
    pub fn seal_key(&mut self) -> Result<SealKey> {
        let mut fresh = [0; 32];
        getrandom::fill(&mut fresh).map_err(|error| Error::Randomness(error.to_string()))?;
        self.atomically(|db| {
            db.execute("INSERT OR IGNORE INTO secret (name, value) VALUES ('settings', ?1)", params![fresh])?;
            let kept = db.query_row("SELECT value FROM secret WHERE name = 'settings'", [], |row| row.get(0))?;
            Ok(SealKey::new(kept))
        })
    }
}
