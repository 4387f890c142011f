//! The best that was ever seen of each index: the fewest bytes per row.

use super::{Result, Store, millis};
use groundskeeper_core::SystemId;
use jiff::Timestamp;
use rusqlite::params;
use std::collections::BTreeMap;

/// What nobody saw for so long is forgotten, days.
const KEPT_DAYS: i64 = 400;
const DAY_MILLIS: i64 = 86_400_000;

/// Bytes and rows of an index at its best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Baseline {
    pub size: u64,
    pub rows: f64,
}

/// Schema and name.
pub type IndexName = (String, String);

impl Store {
    pub fn baselines(&self, system: &SystemId, database: &str) -> Result<BTreeMap<IndexName, Baseline>> {
        let sql = "SELECT schema, name, size, rows FROM index_size WHERE system = ?1 AND database = ?2";
        let mut statement = self.connection.prepare(sql)?;
        let found = statement.query_map(params![system.to_string(), database], |row| {
            let baseline = Baseline { size: row.get::<_, i64>(2)?.cast_unsigned(), rows: row.get(3)? };
            Ok(((row.get(0)?, row.get(1)?), baseline))
        })?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    /// Keeps what was seen of these indexes where it is better than what was, and that they were seen.
    pub fn keep_baselines(
        &mut self,
        system: &SystemId,
        database: &str,
        seen: &[(IndexName, Baseline)],
        now: Timestamp,
    ) -> Result<()> {
        self.atomically(|db| {
            let mut keep = db.prepare(
                "INSERT INTO index_size (system, database, schema, name, size, rows, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (system, database, schema, name) DO UPDATE SET at = excluded.at,
                   size = CASE WHEN excluded.size / excluded.rows < size / rows THEN excluded.size ELSE size END,
                   rows = CASE WHEN excluded.size / excluded.rows < size / rows THEN excluded.rows ELSE rows END",
            )?;
            for ((schema, name), best) in seen {
                let size = i64::try_from(best.size).unwrap_or(i64::MAX);
                keep.execute(params![system.to_string(), database, schema, name, size, best.rows, millis(now)])?;
            }
            let forgotten = millis(now) - KEPT_DAYS * DAY_MILLIS;
            db.execute("DELETE FROM index_size WHERE at < ?1", params![forgotten])?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::SystemKind;
    use groundskeeper_core::quantity::after;

    #[test]
    fn the_best_is_kept_and_what_is_gone_for_long_is_forgotten() {
        let (folder, now) = (tempfile::tempdir().unwrap(), Timestamp::from_second(1_795_000_000).unwrap());
        let mut store = Store::open(folder.path(), now).unwrap();
        let system = SystemId::new(SystemKind::Postgres, "main");
        let name = |index: &str| ("public".to_owned(), index.to_owned());
        let see = |store: &mut Store, index: &str, size, rows, days: f64| {
            let seen = [(name(index), Baseline { size, rows })];
            store.keep_baselines(&system, "docrag", &seen, after(now, days * 86_400.0)).unwrap();
        };
        see(&mut store, "a", 100, 10.0, 0.0);
        see(&mut store, "a", 300, 20.0, 1.0);
        see(&mut store, "b", 100, 10.0, 1.0);
        assert_eq!(store.baselines(&system, "docrag").unwrap()[&name("a")], Baseline { size: 100, rows: 10.0 });
        see(&mut store, "a", 500, 100.0, 2.0);
        assert_eq!(store.baselines(&system, "docrag").unwrap()[&name("a")], Baseline { size: 500, rows: 100.0 });
        assert!(store.baselines(&system, "other").unwrap().is_empty());
        see(&mut store, "a", 900, 100.0, 402.0);
        let left = store.baselines(&system, "docrag").unwrap();
        assert_eq!(left.keys().collect::<Vec<_>>(), [&name("a")], "b was last seen 401 days ago");
    }
}
