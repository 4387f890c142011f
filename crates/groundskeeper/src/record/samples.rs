//! Numbers over time: one point a minute for 48 hours, one an hour for 400 days. A point keeps lowest, highest, mean
//! and latest, so that a spike between two points is not lost.

use super::{Result, Store, millis};
use groundskeeper_core::report::Figure;
use groundskeeper_core::sample::Sample;
use groundskeeper_core::{SystemId, Unit};
use jiff::Timestamp;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Minute,
    Hour,
}

impl Resolution {
    pub(super) const fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }

    const fn kept_seconds(self) -> i64 {
        match self {
            Self::Minute => 48 * 3600,
            Self::Hour => 400 * 86_400,
        }
    }
}

impl Store {
    /// Adds samples to their minute and their hour.
    pub fn keep_samples(&mut self, samples: &[Sample], now: Timestamp) -> Result<()> {
        self.atomically(|db| {
            for sample in samples {
                let series = series(db, sample)?;
                for resolution in [Resolution::Minute, Resolution::Hour] {
                    let second = now.as_second();
                    let slot = second - second.rem_euclid(resolution.seconds());
                    db.prepare_cached(
                        "INSERT INTO sample (resolution, series, at, lowest, highest, total, number, latest)
                         VALUES (?1, ?2, ?3, ?4, ?4, ?4, 1, ?4)
                         ON CONFLICT (resolution, series, at) DO UPDATE SET
                           lowest = min(lowest, excluded.lowest), highest = max(highest, excluded.highest),
                           total = total + excluded.total, number = number + 1, latest = excluded.latest",
                    )?
                    .execute(params![resolution.seconds(), series, slot, sample.value])?;
                }
            }
            Ok(())
        })
    }

    /// Drops what is past its keeping time: points (of statements after 60 days), runs of the watch after a week, other runs, messages and ended
    /// findings after 400 days. The journal and the audit stay.
    pub fn thin(&mut self, now: Timestamp) -> Result<usize> {
        self.atomically(|db| {
            let mut dropped = 0;
            for resolution in [Resolution::Minute, Resolution::Hour] {
                dropped += db.execute(
                    "DELETE FROM sample WHERE resolution = ?1 AND at < ?2",
                    params![resolution.seconds(), now.as_second() - resolution.kept_seconds()],
                )?;
            }
            dropped += super::statements::thin(db, now)?;
            let (week, year) = (millis(now) - 7 * 86_400_000, millis(now) - Resolution::Hour.kept_seconds() * 1000);
            dropped += db.execute(
                "DELETE FROM run WHERE ended IS NOT NULL AND (started < ?2 OR (task = 'watch' AND started < ?1))",
                params![week, year],
            )?;
            dropped += db.execute(
                "DELETE FROM message WHERE created < ?1 AND (sent IS NOT NULL OR given_up IS NOT NULL)",
                params![year],
            )?;
            dropped += db.execute("DELETE FROM finding WHERE ended < ?1", params![year])?;
            Ok(dropped)
        })
    }

    /// Lowest, mean, highest and last of every series in the span, by system.
    pub fn figures(
        &self,
        resolution: Resolution,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<SystemId, Vec<Figure>>> {
        let mut statement = self.connection.prepare(
            "SELECT system, metric, subject, unit, min(lowest), sum(total) / sum(number), max(highest),
                    (SELECT latest FROM sample l WHERE l.resolution = ?1 AND l.series = series.id AND l.at >= ?2 AND l.at < ?3
                     ORDER BY l.at DESC LIMIT 1)
             FROM sample JOIN series ON series.id = sample.series
             WHERE resolution = ?1 AND at >= ?2 AND at < ?3
             GROUP BY series.id ORDER BY series.id",
        )?;
        let mut rows = statement.query(params![resolution.seconds(), millis(from) / 1000, millis(to) / 1000])?;
        let mut figures: BTreeMap<SystemId, Vec<Figure>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let Ok(system) = row.get::<_, String>(0)?.parse::<SystemId>() else { continue };
            figures.entry(system).or_default().push(Figure {
                metric: row.get(1)?,
                subject: row.get(2)?,
                unit: unit(&row.get::<_, String>(3)?)?,
                min: row.get(4)?,
                mean: row.get(5)?,
                max: row.get(6)?,
                last: row.get(7)?,
            });
        }
        Ok(figures)
    }

    /// By system: how many readings were answered in the span, and how many there were.
    pub fn up_readings(
        &self,
        resolution: Resolution,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<SystemId, (u64, u64)>> {
        let mut statement = self.connection.prepare(
            "SELECT system, sum(total), sum(number) FROM sample JOIN series ON series.id = sample.series
             WHERE resolution = ?1 AND metric = 'up' AND at >= ?2 AND at < ?3 GROUP BY system",
        )?;
        let span = params![resolution.seconds(), millis(from) / 1000, millis(to) / 1000];
        let rows = statement.query_map(span, |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, f64>(1)? as u64, row.get::<_, i64>(2)? as u64))
        })?;
        let mut readings = BTreeMap::new();
        for row in rows {
            let (system, answered, all) = row?;
            if let Ok(system) = system.parse() {
                readings.insert(system, (answered, all));
            }
        }
        Ok(readings)
    }
}

fn unit(text: &str) -> Result<Unit> {
    Ok(serde_json::from_value(serde_json::Value::String(text.to_owned()))?)
}

fn series(db: &Connection, sample: &Sample) -> Result<i64> {
    let unit = serde_json::to_value(sample.unit)?;
    let id = db
        .prepare_cached(
            "INSERT INTO series (system, metric, subject, unit) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (system, metric, subject) DO UPDATE SET unit = excluded.unit RETURNING id",
        )?
        .query_row(
            params![sample.system.to_string(), sample.metric, sample.subject, unit.as_str().unwrap_or_default()],
            |row| row.get(0),
        )?;
    Ok(id)
}
