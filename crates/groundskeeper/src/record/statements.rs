//! The pace of statements, hour by hour: what a check compares the latest hour with.
//!
//! Statements come and go, unlike databases and tables: their series are kept for 60 days, and then nothing is left of them.

use super::{Resolution, Result, Store};
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::Pace;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

const KEPT_SECONDS: i64 = 60 * 86_400;
const METRICS: &str = "('statement_load', 'statement_calls', 'statement_rows')";

/// The hours of each statement by its `queryid`, each with its beginning, the oldest first.
pub type Paces = BTreeMap<i64, Vec<(Timestamp, Pace)>>;

impl Store {
    /// What the statements of a Postgres did in each hour of the span.
    pub fn paces(&self, system: &SystemId, from: Timestamp, to: Timestamp) -> Result<Paces> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT subject, at, metric, total / number FROM series JOIN sample ON sample.series = series.id
             WHERE resolution = ?1 AND system = ?2 AND metric IN {METRICS} AND at >= ?3 AND at < ?4
             ORDER BY subject, at"
        ))?;
        let span = params![Resolution::Hour.seconds(), system.to_string(), from.as_second(), to.as_second()];
        let mut rows = statement.query(span)?;
        let mut paces = Paces::new();
        while let Some(row) = rows.next()? {
            let (Ok(query_id), Ok(at)) = (row.get::<_, String>(0)?.parse(), Timestamp::from_second(row.get(1)?)) else {
                continue;
            };
            let hours = paces.entry(query_id).or_default();
            if hours.last().is_none_or(|(last, _)| *last != at) {
                hours.push((at, Pace::default()));
            }
            let Some((_, hour)) = hours.last_mut() else { continue };
            let value: f64 = row.get(3)?;
            match row.get::<_, String>(2)?.as_str() {
                "statement_load" => hour.load = value,
                "statement_calls" => hour.calls = value,
                _ => hour.rows = value,
            }
        }
        Ok(paces)
    }
}

/// Drops what is past its keeping time, series and all.
pub(super) fn thin(db: &Connection, now: Timestamp) -> Result<usize> {
    let of_statements = format!("SELECT id FROM series WHERE metric IN {METRICS}");
    let points = db.execute(
        &format!("DELETE FROM sample WHERE resolution = ?1 AND at < ?2 AND series IN ({of_statements})"),
        params![Resolution::Hour.seconds(), now.as_second() - KEPT_SECONDS],
    )?;
    let series = db.execute(
        &format!(
            "DELETE FROM series WHERE id IN ({of_statements})
             AND NOT EXISTS (SELECT 1 FROM sample WHERE resolution IN (?1, ?2) AND sample.series = series.id)"
        ),
        params![Resolution::Hour.seconds(), Resolution::Minute.seconds()],
    )?;
    Ok(points + series)
}
