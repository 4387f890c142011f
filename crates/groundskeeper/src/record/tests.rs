//! The record under normal use, damage and power loss.

use super::*;
use groundskeeper_core::check::{Judgement, Status};
use groundskeeper_core::finding::{Draft, Finding};
use groundskeeper_core::lifecycle::{Change, Event, Track};
use groundskeeper_core::sample::Sample;
use groundskeeper_core::{Severity, SystemId, SystemKind, Unit};
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn system() -> SystemId {
    SystemId::new(SystemKind::Redis, "cache")
}

fn opened(second: i64) -> Change {
    let finding = Finding::from_draft("redis.unreachable", &system(), Draft::new(Severity::Critical, "gone"));
    let track =
        Track { finding, first_seen: at(second), last_seen: at(second), opened: Some(at(second)), clear_since: None };
    Change { event: Event::Opened, track }
}

#[test]
fn a_second_process_is_refused_and_the_lock_dies_with_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), at(0)).unwrap();
    assert!(matches!(Store::open(folder.path(), at(0)), Err(Error::Locked { .. })));
    drop(store);
    Store::open(folder.path(), at(0)).unwrap();
}

#[test]
fn a_copy_is_whole_while_the_store_is_open_and_goes_with_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    for number in 0..100 {
        store.audit("test", "entry", &format!("number {number}"), at(number)).unwrap();
    }
    let head = store.audit_head().unwrap().unwrap();
    // What a killed keeper left is replaced.
    fs::write(folder.path().join("record.copy.sqlite"), "half a copy").unwrap();
    let copy = Copy::make(folder.path()).unwrap();
    store.audit("test", "entry", "after the copy", at(101)).unwrap();
    let mode = fs::metadata(copy.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::copy(copy.path(), elsewhere.path().join(FILE)).unwrap();
    let restored = Store::open(elsewhere.path(), at(200)).unwrap();
    assert_eq!(restored.verify_audit().unwrap(), (head.hash, None));
    let path = copy.path().to_owned();
    drop(copy);
    assert!(!path.exists());
}

#[test]
fn the_key_of_secrets_is_made_once_and_is_another_in_another_store() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    let key = store.seal_key().unwrap();
    assert_eq!(store.seal_key().unwrap(), key);
    drop(store);
    assert_eq!(Store::open(folder.path(), at(1)).unwrap().seal_key().unwrap(), key, "what was sealed stays comparable");
    assert_ne!(Store::open(other.path(), at(0)).unwrap().seal_key().unwrap(), key);
}

#[test]
fn a_newer_store_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), at(0)).unwrap());
    Connection::open(folder.path().join(FILE)).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(folder.path(), at(0)).unwrap_err();
    assert!(error.to_string().contains("newer groundskeeper (schema 99"), "{error}");
    let version: i64 = Connection::open(folder.path().join(FILE))
        .unwrap()
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(version, 99);
}

#[test]
fn a_damaged_store_is_set_aside_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    store.audit("test", "entry", "before the damage", at(0)).unwrap();
    drop(store);
    let file = folder.path().join(FILE);
    let mut bytes = fs::read(&file).unwrap();
    for byte in bytes.iter_mut().skip(60).take(5000) {
        *byte = 0xA5;
    }
    fs::write(&file, &bytes).unwrap();

    let store = Store::open(folder.path(), at(60)).unwrap();
    let aside = store.set_aside();
    assert_eq!(aside.len(), 1);
    assert_eq!(fs::read(&aside[0]).unwrap().len(), bytes.len(), "the damaged file is kept whole");
    let pauses = store.pauses(at(60)).unwrap();
    assert!(pauses[0].reason.contains("begun anew"), "what lost its memory must not act: {pauses:?}");
}

#[test]
fn the_store_is_private_and_written_through_to_the_disk() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut store = Store::open(&state, at(0)).unwrap();
    store.audit("test", "entry", "so that there is a journal file", at(0)).unwrap();
    let mode = |name: &str| fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!([FILE, "record.sqlite-wal", "record.lock"].map(mode), [0o600; 3]);
    let synchronous: i64 = store.connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 2, "FULL: what is committed survives a power cut");
}

#[test]
fn a_run_is_claimed_once_and_a_dead_run_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    let id = store.claim_run("watch", at(0), "calendar", at(1)).unwrap().unwrap();
    assert_eq!(store.claim_run("watch", at(0), "calendar", at(1)).unwrap(), None);
    store.finish_run(id, true, "fine", at(2)).unwrap();
    store.claim_run("watch", at(30), "calendar", at(31)).unwrap().unwrap();
    assert_eq!(store.interrupt_runs(at(40)).unwrap(), 1);
    let runs = store.runs_between(at(0), at(100)).unwrap();
    assert_eq!(runs.iter().map(|run| run.outcome.as_str()).collect::<Vec<_>>(), ["ok", "interrupted"]);
    assert_eq!(store.last_due("watch").unwrap(), Some(at(30)));
    let begun = [store.begin_run("watch", "calendar", at(30)), store.begin_run("watch", "calendar", at(30))];
    assert_ne!(begun[0].as_ref().unwrap(), begun[1].as_ref().unwrap(), "a moment that was used before stops no rhythm");
}

#[test]
fn a_finding_opens_and_resolves_and_a_blip_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    let judgement =
        Judgement { check: "redis.unreachable".into(), system: system(), status: Status::Failing { findings: vec![] } };
    let open = opened(0);
    store.keep_round(&[judgement], std::slice::from_ref(&open), at(0)).unwrap();
    assert_eq!(store.live_tracks().unwrap(), vec![open.track.clone()]);
    let resolved = Change { event: Event::Resolved, track: open.track.clone() };
    store.keep_round(&[], &[resolved], at(90)).unwrap();
    assert!(store.live_tracks().unwrap().is_empty());
    assert_eq!(store.tracks_between(at(0), at(100)).unwrap(), vec![(open.track.clone(), Some(at(90)))]);
    assert!(store.tracks_between(at(91), at(100)).unwrap().is_empty());

    let mut pending = opened(100);
    pending.event = Event::Pending;
    pending.track.opened = None;
    store.keep_round(&[], std::slice::from_ref(&pending), at(100)).unwrap();
    assert_eq!(store.live_tracks().unwrap().len(), 1);
    pending.track.first_seen = at(120);
    store.keep_round(&[], std::slice::from_ref(&pending), at(120)).unwrap();
    assert_eq!(store.live_tracks().unwrap()[0].first_seen, at(120), "its wait began anew");
    pending.event = Event::Forgotten;
    store.keep_round(&[], &[pending], at(130)).unwrap();
    assert!(store.live_tracks().unwrap().is_empty());
    assert_eq!(store.tracks_between(at(0), at(200)).unwrap().len(), 1);
}

#[test]
fn samples_are_one_a_minute_for_two_days_and_hourly_for_longer() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    let sample =
        |value| Sample { system: system(), metric: "keys".into(), subject: String::new(), value, unit: Unit::Count };
    for step in 0..8 {
        store.keep_samples(&[sample(f64::from(step))], at(i64::from(step) * 30)).unwrap();
    }
    let all = store.figures(Resolution::Minute, at(-3600), at(3600)).unwrap();
    let figure = &all[&system()][0];
    assert_eq!((figure.min, figure.max, figure.mean, figure.last), (0.0, 7.0, 3.5, 7.0));
    let points: i64 =
        store.connection.query_row("SELECT count(*) FROM sample WHERE resolution = 60", [], |r| r.get(0)).unwrap();
    assert_eq!(points, 4);

    assert!(store.thin(at(49 * 3600)).unwrap() > 0);
    assert!(store.figures(Resolution::Minute, at(-3600), at(3600)).unwrap().is_empty());
    assert!(!store.figures(Resolution::Hour, at(-3600), at(3600)).unwrap().is_empty());
    store.thin(at(401 * 86_400)).unwrap();
    assert!(store.figures(Resolution::Hour, at(-3600), at(3600)).unwrap().is_empty());
}

#[test]
fn a_series_is_told_by_its_daily_peaks_and_its_values_while_the_store_is_open() {
    const HOUR: i64 = 3_600;
    let folder = tempfile::tempdir().unwrap();
    assert!(Points::open(folder.path()).unwrap().is_none());
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    let sample = |subject: &str, value| Sample {
        system: system(),
        metric: "lag".into(),
        subject: subject.into(),
        value,
        unit: Unit::Seconds,
    };
    // The epoch of these tests is at 08:00 of a day.
    for (hour, value) in [(0, 3.0), (1, 7.0), (2, 6.0), (15, 1.0), (16, 2.0), (40, 1.0)] {
        store.keep_samples(&[sample("a", value), sample("b", 5.0)], at(hour * HOUR)).unwrap();
    }
    let points = Points::open(folder.path()).unwrap().unwrap();
    let told = |points: &[Point]| -> Vec<(i64, f64)> {
        points.iter().map(|point| ((point.at.as_second() - at(0).as_second()) / HOUR, point.value)).collect()
    };
    let peaks = points.peaks(&system(), "lag", at(HOUR)).unwrap();
    assert_eq!(peaks.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(told(&peaks["a"]), [(1, 7.0), (16, 2.0), (40, 1.0)]);
    assert!(points.peaks(&system(), "other", at(0)).unwrap().is_empty());
    let other = SystemId::new(SystemKind::Redis, "other");
    assert!(points.peaks(&other, "lag", at(0)).unwrap().is_empty());
    let mut values = told(&points.values(&system(), "lag").unwrap());
    values.sort_by(|one, other| one.partial_cmp(other).unwrap());
    assert_eq!(values, [(0, 3.0), (0, 5.0), (1, 7.0), (2, 6.0), (15, 1.0), (16, 2.0)]);
    // The keeper writes on.
    store.keep_samples(&[sample("a", 9.0)], at(41 * HOUR)).unwrap();
    assert_eq!(told(&points.peaks(&system(), "lag", at(40 * HOUR)).unwrap()["a"]), [(41, 9.0)]);
}

#[test]
fn the_audit_notices_a_changed_and_a_missing_entry() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    for number in 0..5 {
        store.audit("me", "note", &format!("entry {number}"), at(number)).unwrap();
    }
    let (head, broken) = store.verify_audit().unwrap();
    assert_eq!(broken, None);
    assert_eq!(head, store.audit_entries(1).unwrap()[0].hash);

    store.connection.execute("UPDATE audit SET detail = 'harmless' WHERE seq = 3", []).unwrap();
    assert_eq!(store.verify_audit().unwrap().1, Some(Broken { seq: 3, why: "its content was changed".into() }));
    store.connection.execute("DELETE FROM audit WHERE seq = 3", []).unwrap();
    assert_eq!(store.verify_audit().unwrap().1.unwrap().why, "entry 3 is missing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A power cut leaves any prefix of what was being written to the WAL. Cut at a random point, everything that was
    /// committed before the last checkpointed state must be a prefix of history, the audit chain must hold, and the
    /// store must open and take new entries.
    #[test]
    fn a_cut_wal_never_stops_the_next_start(cut in 0.0f64..1.0, garbage in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let copy = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), at(0)).unwrap();
        for number in 0..20 {
            store.audit("me", "note", &format!("entry {number}"), at(number)).unwrap();
        }
        // The files as the disk has them while the process is alive: nothing is checkpointed by closing.
        let wal_name = format!("{FILE}-wal");
        fs::copy(folder.path().join(FILE), copy.path().join(FILE)).unwrap();
        let mut wal = fs::read(folder.path().join(&wal_name)).unwrap();
        let keep = (wal.len() as f64 * cut) as usize;
        wal.truncate(keep);
        if garbage {
            wal.extend(std::iter::repeat_n(0xEE, 700));
        }
        fs::write(copy.path().join(&wal_name), &wal).unwrap();

        let mut after = Store::open(copy.path(), at(100)).unwrap();
        prop_assert!(after.set_aside().is_empty(), "a torn WAL is no damage");
        let entries = after.audit_entries(100).unwrap();
        prop_assert!(entries.len() <= 20);
        prop_assert_eq!(after.verify_audit().unwrap().1, None);
        for (index, entry) in entries.iter().rev().enumerate() {
            prop_assert_eq!(&entry.detail, &format!("entry {index}"));
        }
        after.audit("me", "note", "after", at(101)).unwrap();
        prop_assert_eq!(after.verify_audit().unwrap().1, None);
    }
}

#[test]
fn an_uncut_wal_has_everything_that_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    for number in 0..20 {
        store.audit("me", "note", &format!("entry {number}"), at(number)).unwrap();
    }
    for name in [FILE.to_owned(), format!("{FILE}-wal")] {
        fs::copy(folder.path().join(&name), copy.path().join(&name)).unwrap();
    }
    assert_eq!(Store::open(copy.path(), at(100)).unwrap().audit_entries(100).unwrap().len(), 20);
}

#[test]
fn the_pace_of_statements_is_kept_by_the_hour_and_leaves_nothing_behind() {
    const HOUR: i64 = 3_600;
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), at(0)).unwrap();
    let main = SystemId::new(SystemKind::Postgres, "main");
    let sample = |metric: &str, subject: &str, value| Sample {
        system: main.clone(),
        metric: metric.into(),
        subject: subject.into(),
        value,
        unit: Unit::PerSecond,
    };
    for (second, calls) in [(10, 4.0), (40, 6.0), (HOUR, 1.0)] {
        let all = [
            sample("statement_load", "-7", calls / 100.0),
            sample("statement_calls", "-7", calls),
            sample("statement_rows", "-7", calls * 2.0),
            sample("table_size", "-7", 9.0),
        ];
        store.keep_samples(&all, at(second)).unwrap();
    }
    let paces = store.paces(&main, at(-HOUR), at(2 * HOUR)).unwrap();
    let hours: Vec<_> = paces[&-7].iter().map(|(at, hour)| (at.as_second() % HOUR, hour.calls, hour.rows)).collect();
    assert_eq!(hours, [(0, 5.0, 10.0), (0, 1.0, 2.0)]);
    assert!((paces[&-7][0].1.mean() - 0.01).abs() < 1e-9);
    assert_eq!(store.paces(&main, at(HOUR), at(2 * HOUR)).unwrap()[&-7].len(), 1);
    assert!(store.paces(&system(), at(-HOUR), at(2 * HOUR)).unwrap().is_empty());

    let series = |store: &Store| -> i64 {
        store.connection.query_row("SELECT count(*) FROM series", [], |row| row.get(0)).unwrap()
    };
    store.thin(at(59 * 86_400)).unwrap();
    assert_eq!(series(&store), 4);
    store.thin(at(61 * 86_400)).unwrap();
    assert_eq!((series(&store), store.paces(&main, at(-HOUR), at(2 * HOUR)).unwrap().len()), (1, 0));
}
