//! What was measured of recovery over the last months: how long it takes, and how much a disaster would have taken.
//!
//! How long is in the receipts, and in the record for sets that retention has removed since. How much only the record
//! knows: receipts that are left say how far apart the sets are that were kept, not those that were made.

use super::api::{MeasuredView, Measurement, RecoveryPoints};
use crate::record::{self, Point, Points};
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::WalStream;
use groundskeeper_core::quantity::{after, format_seconds};
use groundskeeper_core::receipt::Receipt;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;

/// So far back it is told.
pub(crate) const DAYS: u32 = 90;
const DAY_SECONDS: f64 = 86_400.0;
/// A stream that lives is never so far behind; one that is has not told its worst since.
const CUT_SECONDS: f64 = 60.0;
/// Two numbers that differ by less are of one drill: receipts are text, and read and written again.
const SAME_SECONDS: f64 = 1e-6;

/// What the record has of a repository.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// Each recovery time that was ever seen.
    recoveries: Vec<Point>,
    /// Of the newest whole set, the worst of each day.
    set_ages: Vec<Point>,
    /// By system, the worst of each day: how far its stream was behind, and its own worst.
    behind: BTreeMap<String, Vec<Point>>,
    worst: BTreeMap<String, Vec<Point>>,
}

impl Recorded {
    /// Of the store in `folder`. Where it cannot be read there is nothing: no surface fails for the sake of a chart.
    pub(crate) async fn read(folder: &Path, repository: &SystemId, now: Timestamp) -> Self {
        let (folder, repository) = (folder.to_owned(), repository.clone());
        let read = tokio::task::spawn_blocking(move || Self::look(&folder, &repository, now)).await;
        match read {
            Ok(Ok(recorded)) => recorded,
            Ok(Err(error)) => {
                tracing::warn!(%error, "what was measured of recovery could not be read from the store");
                Self::default()
            }
            Err(panic) => {
                tracing::error!(%panic, "reading what was measured ended in a bug");
                Self::default()
            }
        }
    }

    fn look(folder: &Path, repository: &SystemId, now: Timestamp) -> record::Result<Self> {
        let Some(points) = Points::open(folder)? else { return Ok(Self::default()) };
        let from = begin(now);
        Ok(Self {
            recoveries: points.values(repository, "recovery_time")?,
            set_ages: points.peaks(repository, "set_age", from)?.into_values().flatten().collect(),
            behind: points.peaks(repository, "wal_behind", from)?,
            worst: points.peaks(repository, "wal_recovery_point", from)?,
        })
    }
}

fn begin(now: Timestamp) -> Timestamp {
    after(now, -f64::from(DAYS) * DAY_SECONDS)
}

pub(crate) fn measured(
    receipts: &[Receipt],
    streams: &[WalStream],
    recorded: &Recorded,
    now: Timestamp,
) -> MeasuredView {
    let streaming = streams.iter().map(|stream| RecoveryPoints {
        system: Some(stream.system.clone()),
        days: of_stream(&stream.system.to_string(), recorded),
    });
    let sets =
        RecoveryPoints { system: None, days: recorded.set_ages.iter().copied().map(Measurement::from).collect() };
    MeasuredView {
        recovery_times: recovery_times(receipts, recorded, begin(now)),
        recovery_points: streaming.chain([sets]).filter(|points| !points.days.is_empty()).collect(),
    }
}

fn recovery_times(receipts: &[Receipt], recorded: &Recorded, from: Timestamp) -> Vec<Measurement> {
    let of_receipts = receipts.iter().flat_map(Receipt::recoveries);
    let mut times: Vec<Measurement> =
        of_receipts.map(|recovery| Measurement { at: recovery.at, seconds: recovery.seconds }).collect();
    for point in &recorded.recoveries {
        if !times.iter().any(|known| (known.seconds - point.value).abs() < SAME_SECONDS) {
            times.push(Measurement::from(*point));
        }
    }
    times.retain(|time| time.at >= from);
    times.sort_by_key(|time| time.at);
    times
}

/// The worst of each day. Where a stream is cut the newest set is what is left, so no more than what came after that is
/// lost.
fn of_stream(system: &str, recorded: &Recorded) -> Vec<Measurement> {
    let of = |series: &BTreeMap<String, Vec<Point>>| series.get(system).cloned().unwrap_or_default();
    let cut = of(&recorded.behind).into_iter().filter(|point| point.value > CUT_SECONDS);
    let mut days: BTreeMap<i64, Point> = BTreeMap::new();
    for point in of(&recorded.worst).into_iter().chain(cut) {
        let worst = days.entry(day(point.at)).or_insert(point);
        if point.value > worst.value {
            *worst = point;
        }
    }
    for set in &recorded.set_ages {
        days.entry(day(set.at)).and_modify(|worst| worst.value = worst.value.min(set.value));
    }
    days.into_values().map(Measurement::from).collect()
}

fn day(at: Timestamp) -> i64 {
    at.as_second().div_euclid(DAY_SECONDS as i64)
}

impl From<Point> for Measurement {
    fn from(point: Point) -> Self {
        Self { at: point.at, seconds: point.value }
    }
}

/// `2.1 s in the last drill, 1.9 s to 2.4 s over the last 12`; none before the first drill.
pub(crate) fn took(times: &[Measurement]) -> Option<String> {
    let last = format_seconds(times.last()?.seconds);
    if times.len() == 1 {
        return Some(format!("{last} in the only drill of the last {DAYS} days"));
    }
    let seconds = || times.iter().map(|time| time.seconds);
    let shortest = format_seconds(seconds().fold(f64::INFINITY, f64::min));
    let longest = format_seconds(seconds().fold(0.0, f64::max));
    Some(format!("{last} in the last drill, {shortest} to {longest} over the last {}", times.len()))
}

/// `2.4 s on the worst of 30 measured days`; none where nothing was measured.
pub(crate) fn worst(days: &[Measurement]) -> Option<String> {
    let worst = days.iter().map(|day| day.seconds).reduce(f64::max)?;
    let of = match days.len() {
        1 => "the only measured day".to_owned(),
        several => format!("the worst of {several} measured days"),
    };
    Some(format!("{} on {of}", format_seconds(worst)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::{Climb, ClimbOutcome, Rung, SetId};

    fn at(days: f64) -> Timestamp {
        after("2026-11-22T12:00:00Z".parse().unwrap(), -days * DAY_SECONDS)
    }

    fn point(days: f64, value: f64) -> Point {
        Point { at: at(days), value }
    }

    fn drilled(days: f64, seconds: f64) -> Receipt {
        let climb = |rung, took| Climb {
            rung,
            at: at(days),
            took,
            outcome: ClimbOutcome::Proven { shown: String::new(), not_covered: Vec::new() },
        };
        let climbs = vec![climb(Rung::Restored, seconds - 0.5), climb(Rung::Alive, 0.5)];
        let (made, parts, missing) = (at(days), Vec::new(), Vec::new());
        Receipt { set: SetId::new(made, 7), made, took: 5.0, parts, missing, added: 0, climbs }
    }

    fn stream(name: &str) -> WalStream {
        WalStream {
            system: name.parse().unwrap(),
            since: at(80.0),
            system_identifier: None,
            timeline: None,
            durable: None,
            written: None,
            safe_until: None,
            worst_seconds: None,
            retained: None,
            retained_limit: 0,
            gave_up: None,
            trouble: None,
            gaps: Vec::new(),
        }
    }

    fn seconds(measured: &[Measurement]) -> Vec<f64> {
        measured.iter().map(|one| one.seconds).collect()
    }

    #[test]
    fn drills_of_removed_sets_are_remembered_and_none_is_told_twice() {
        let receipts = [drilled(1.0, 2.1), drilled(8.0, 2.4), drilled(100.0, 9.0)];
        let recoveries = vec![point(99.0, 9.0), point(60.0, 1.9), point(7.9, 2.4 + 1e-12), point(0.9, 2.1)];
        let recorded = Recorded { recoveries, ..Recorded::default() };
        let told = measured(&receipts, &[], &recorded, at(0.0));
        assert_eq!(seconds(&told.recovery_times), [1.9, 2.4, 2.1], "the oldest first, none older than 90 days");
        assert_eq!(took(&told.recovery_times).unwrap(), "2.1 s in the last drill, 1.9 s to 2.4 s over the last 3");
        assert_eq!(took(&told.recovery_times[2..]).unwrap(), "2.1 s in the only drill of the last 90 days");
        assert_eq!((took(&[]), told.recovery_points), (None, Vec::new()));
    }

    #[test]
    fn what_would_be_lost_is_told_of_each_stream_and_of_the_sets() {
        let named = |points| BTreeMap::from([("postgres.main".to_owned(), points)]);
        let recorded = Recorded {
            recoveries: Vec::new(),
            set_ages: vec![point(3.0, 90_000.0), point(2.0, 86_400.0), point(1.0, 86_400.0), point(0.0, 4_000.0)],
            // Nine seconds are a late answer of a quiet server; the rest of the days the stream was cut.
            behind: named(vec![point(3.0, 9.0), point(2.0, 7_200.0), point(1.0, 93_600.0), point(0.0, 30.0)]),
            worst: named(vec![point(3.0, 2.4), point(2.0, 2.2), point(0.0, 1.5)]),
        };
        let told = measured(&[], &[stream("postgres.main"), stream("postgres.other")], &recorded, at(0.0));
        let [main, sets] = told.recovery_points.as_slice() else { panic!("{told:?}") };
        assert_eq!(main.system.as_ref().map(ToString::to_string).as_deref(), Some("postgres.main"));
        assert_eq!(seconds(&main.days), [2.4, 7_200.0, 86_400.0, 1.5], "a set of that day bounds what is lost");
        assert_eq!(worst(&main.days).unwrap(), "1 d on the worst of 4 measured days");
        assert_eq!(
            (&sets.system, worst(&sets.days[3..]).unwrap().as_str()),
            (&None, "1 h 6 min on the only measured day")
        );
        assert_eq!(worst(&[]), None);
        // Where nothing streams any more, what once did is no measure of today.
        assert_eq!(measured(&[], &[], &recorded, at(0.0)).recovery_points.len(), 1);
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_or_is_none_has_nothing_to_tell() {
        let folder = tempfile::tempdir().unwrap();
        let repository = "backup.main".parse().unwrap();
        for content in [None, Some("no store")] {
            if let Some(content) = content {
                std::fs::write(folder.path().join("record.sqlite"), content).unwrap();
            }
            let recorded = Recorded::read(folder.path(), &repository, at(0.0)).await;
            assert_eq!(measured(&[], &[], &recorded, at(0.0)), MeasuredView::default());
        }
    }
}
