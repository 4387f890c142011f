//! How large databases, tables and the WAL of a Postgres were, and what was taken on its disk, day by day; what they grew by
//! since a moment.

use super::{Resolution, Result, Store, moment};
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::{SizeOf, Sizes};
use groundskeeper_core::trend::Point;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

const DAY_SECONDS: i64 = 86_400;
const METRICS: &str = "('database_size', 'table_size', 'wal_size')";
/// The disk as a whole, less what is free there.
const DISK: &str = "disk_taken";

/// Something that takes room, as it was last seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Grown {
    pub of: SizeOf,
    pub name: String,
    /// Bytes.
    pub size: f64,
    /// Bytes more than at the moment asked for; none where it was not known then.
    pub by: Option<f64>,
}

impl Store {
    /// The least of each of the last days, a day of 24 hours that end with the present hour.
    pub fn sizes(&self, system: &SystemId, days: u32, now: Timestamp) -> Result<Vec<Sizes>> {
        let hour = Resolution::Hour.seconds();
        let end = now.as_second() - now.as_second().rem_euclid(hour) + hour;
        let begin = end - i64::from(days) * DAY_SECONDS;
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT metric, subject, (at - ?3) / {DAY_SECONDS} AS day, min(lowest)
             FROM series JOIN sample ON sample.series = series.id
             WHERE resolution = ?1 AND system = ?2 AND metric IN {METRICS} AND at >= ?3 AND at < ?4
             GROUP BY metric, subject, day
             UNION ALL
             SELECT '{DISK}', '', (free.at - ?3) / {DAY_SECONDS} AS day, min(whole.latest - free.highest)
             FROM series of_free JOIN sample free ON free.series = of_free.id
             JOIN series of_whole ON of_whole.system = of_free.system AND of_whole.metric = 'disk_total'
                                     AND of_whole.subject = of_free.subject
             JOIN sample whole ON whole.resolution = free.resolution AND whole.series = of_whole.id AND whole.at = free.at
             WHERE free.resolution = ?1 AND of_free.system = ?2 AND of_free.metric = 'disk_available'
                   AND of_free.subject = '' AND free.at >= ?3 AND free.at < ?4
             GROUP BY day
             ORDER BY metric, subject, day"
        ))?;
        let mut rows = statement.query(params![hour, system.to_string(), begin, end])?;
        let mut all: Vec<Sizes> = Vec::new();
        while let Some(row) = rows.next()? {
            let (of, name, day): (SizeOf, String, i64) = (of(&row.get::<_, String>(0)?), row.get(1)?, row.get(2)?);
            let Ok(at) = Timestamp::from_second(begin + (day + 1) * DAY_SECONDS) else { continue };
            if all.last().is_none_or(|last| last.of != of || last.name != name) {
                all.push(Sizes { of, name, days: Vec::new() });
            }
            if let Some(sizes) = all.last_mut() {
                sizes.days.push(Point { at, value: row.get(3)? });
            }
        }
        Ok(all)
    }

    /// What each takes by the latest hour of the record, and how much more than at `since`, the largest first. What was not
    /// seen any more in the last two hours of the record is gone; what was not seen in the day before `since` was not known
    /// then: only the largest tables are, and one can come back after months.
    pub fn grown(&self, system: &SystemId, since: Timestamp) -> Result<Vec<Grown>> {
        let hour = Resolution::Hour.seconds();
        let mut statement = self.connection.prepare(&format!(
            "WITH ends AS (
               SELECT id, metric, subject,
                      (SELECT max(at) FROM sample WHERE resolution = ?1 AND series = series.id) AS last,
                      (SELECT max(at) FROM sample WHERE resolution = ?1 AND series = series.id
                              AND at <= ?3 AND at > ?3 - {DAY_SECONDS}) AS first
               FROM series WHERE system = ?2 AND metric IN {METRICS})
             SELECT metric, subject, latest.latest, earlier.latest
             FROM ends JOIN sample latest ON latest.resolution = ?1 AND latest.series = ends.id AND latest.at = ends.last
             LEFT JOIN sample earlier ON earlier.resolution = ?1 AND earlier.series = ends.id AND earlier.at = ends.first
             WHERE last >= (SELECT max(last) FROM ends) - 2 * ?1
             ORDER BY latest.latest DESC, subject"
        ))?;
        let found = statement.query_map(params![hour, system.to_string(), since.as_second()], |row| {
            let (size, before): (f64, Option<f64>) = (row.get(2)?, row.get(3)?);
            let by = before.map(|before| size - before);
            Ok(Grown { of: of(&row.get::<_, String>(0)?), name: row.get(1)?, size, by })
        })?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    /// When the last run of the task began that came to its end.
    pub fn last_ended_run(&self, task: &str) -> Result<Option<Timestamp>> {
        let sql =
            "SELECT started FROM run WHERE task = ?1 AND outcome IN ('ok', 'failed') ORDER BY started DESC LIMIT 1";
        let started: Option<i64> = self.connection.query_row(sql, params![task], |row| row.get(0)).optional()?;
        Ok(started.map(moment))
    }
}

fn of(metric: &str) -> SizeOf {
    match metric {
        "database_size" => SizeOf::Database,
        "table_size" => SizeOf::Table,
        DISK => SizeOf::Disk,
        _ => SizeOf::Wal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::quantity::after;
    use groundskeeper_core::sample::Sample;
    use groundskeeper_core::{SystemKind, Unit};

    const DAY: f64 = 86_400.0;

    fn store() -> (tempfile::TempDir, Store, SystemId, Timestamp) {
        let (folder, now) = (tempfile::tempdir().unwrap(), Timestamp::from_second(1_795_000_000).unwrap());
        let store = Store::open(folder.path(), now).unwrap();
        (folder, store, SystemId::new(SystemKind::Postgres, "main"), now)
    }

    fn keep(store: &mut Store, metric: &str, subject: &str, value: f64, at: Timestamp) {
        let system = SystemId::new(SystemKind::Postgres, "main");
        let sample = Sample { system, metric: metric.into(), subject: subject.into(), value, unit: Unit::Bytes };
        store.keep_samples(&[sample], at).unwrap();
    }

    #[test]
    fn the_least_of_each_day_is_told_for_as_many_days_as_are_asked_for() {
        let (_folder, mut store, system, now) = store();
        for hours in 0..24 * 20 {
            let at = after(now, f64::from(hours - 24 * 20 + 1) * 3_600.0);
            let day = f64::from(hours / 24);
            // A load that is gone again by the evening.
            let loaded = if hours % 24 == 12 { 500.0 } else { 0.0 };
            keep(&mut store, "database_size", "docrag", 100.0 + day + loaded, at);
        }
        keep(&mut store, "wal_size", "", 7.0, now);
        keep(&mut store, "table_rows", "public.chunks", 7.0, now);
        // The disk was made larger in the meantime, and somebody else's files are on it for an hour.
        for (hours_ago, total, free) in
            [(49.0, 900.0, 300.0), (48.0, 900.0, 300.0), (1.0, 1_900.0, 1_200.0), (0.0, 1_900.0, 1_250.0)]
        {
            let at = after(now, -hours_ago * 3_600.0);
            keep(&mut store, "disk_total", "", total, at);
            keep(&mut store, "disk_available", "", free, at);
        }
        let sizes = store.sizes(&system, 14, now).unwrap();
        let names: Vec<_> = sizes.iter().map(|one| (one.of, one.name.as_str(), one.days.len())).collect();
        assert_eq!(names, [(SizeOf::Database, "docrag", 14), (SizeOf::Disk, "", 2), (SizeOf::Wal, "", 1)]);
        let values: Vec<f64> = sizes[0].days.iter().map(|day| day.value).collect();
        let taken: Vec<f64> = sizes[1].days.iter().map(|day| day.value).collect();
        assert_eq!(taken, [600.0, 650.0]);
        assert_eq!(values, (6..20).map(|day| 100.0 + f64::from(day)).collect::<Vec<_>>());
        let ends: Vec<_> = sizes.iter().map(|one| one.days.last().unwrap().at).collect();
        assert!(
            ends[0] == ends[1] && ends[1] == ends[2] && ends[0] > now && ends[0] <= after(now, 3_600.0),
            "days are comparable"
        );
        assert!(store.sizes(&SystemId::new(SystemKind::Postgres, "other"), 14, now).unwrap().is_empty());
    }

    #[test]
    fn growth_is_told_of_what_is_still_there() {
        let (_folder, mut store, system, now) = store();
        for (metric, subject, days_ago, value) in [
            ("database_size", "docrag", 7.0, 100.0),
            ("database_size", "docrag", 3.0, 500.0),
            ("database_size", "docrag", 0.0, 150.0),
            ("table_size", "public.new", 0.0, 30.0),
            ("table_size", "public.back", 90.0, 5.0),
            ("table_size", "public.back", 0.0, 20.0),
            ("table_size", "public.gone", 7.0, 90.0),
        ] {
            keep(&mut store, metric, subject, value, after(now, -days_ago * DAY));
        }
        let told = |of, name: &str, size, by| Grown { of, name: name.into(), size, by };
        let week_ago = after(now, -6.5 * DAY);
        assert_eq!(
            store.grown(&system, week_ago).unwrap(),
            [
                told(SizeOf::Database, "docrag", 150.0, Some(50.0)),
                told(SizeOf::Table, "public.new", 30.0, None),
                told(SizeOf::Table, "public.back", 20.0, None),
            ],
            "what was not among the largest for months did not grow since last week"
        );
        assert_eq!(store.grown(&system, after(now, -9.0 * DAY)).unwrap()[0].by, None, "nobody looked then");
    }

    #[test]
    fn a_run_that_goes_on_is_not_the_last_one() {
        let (_folder, mut store, _, now) = store();
        assert_eq!(store.last_ended_run("database-maintenance").unwrap(), None);
        let week_ago = after(now, -7.0 * DAY);
        let id = store.begin_run("database-maintenance", "calendar", week_ago).unwrap();
        store.finish_run(id, false, "", week_ago).unwrap();
        store.begin_run("database-maintenance", "calendar", now).unwrap();
        assert_eq!(store.last_ended_run("database-maintenance").unwrap(), Some(week_ago));
    }
}
