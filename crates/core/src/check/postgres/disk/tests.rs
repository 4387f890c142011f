//! What is full soon is told with what fills it; one load, a quiet night and a short record are not.

use super::*;
use crate::check::postgres::fixtures::{change, finding, found_in, sizes, status, table};
use crate::check::{Status, UnknownKind};
use crate::observation::{Database, Gap, Sizes};

const ID: &str = "postgres.disk_filling";

fn disk(seen: &mut Postgres, free_gib: u64, total_gib: u64) {
    seen.room.disk = Ok(Some(Disk { total: total_gib << 30, free: free_gib << 30, is_told: false, tablespaces: 0 }));
}

fn grown(per_day: f64, days: u32) -> impl ExactSizeIterator<Item = f64> {
    (0..days).map(move |day| 10.0 + per_day * f64::from(day))
}

/// A disk of 200 GiB with so many free, and what the record has; nothing else is on it than what grows there.
fn with(free_gib: u64, mut past: Vec<Sizes>) -> Postgres {
    let fills = past.iter().filter(|one| one.of != SizeOf::Table).map(|one| one.days.as_slice());
    let days = trend::sum(fills);
    past.push(Sizes { of: SizeOf::Disk, name: String::new(), days });
    change(|seen| {
        disk(seen, free_gib, 200);
        seen.room.past = past;
    })
}

/// The same where only the configuration tells the size of the disk.
fn told(free_gib: u64, past: Vec<Sizes>) -> Postgres {
    let mut seen = with(free_gib, past);
    seen.room.past.retain(|one| one.of != SizeOf::Disk);
    if let Ok(Some(disk)) = &mut seen.room.disk {
        disk.is_told = true;
    }
    seen
}

fn docrag(sizes_of_days: impl ExactSizeIterator<Item = f64>) -> Vec<Sizes> {
    vec![sizes(SizeOf::Database, "docrag", sizes_of_days)]
}

fn unknown(seen: Postgres) -> Unknown {
    match status(ID, seen, None) {
        Status::Unknown(unknown) => unknown,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_day_on_which_it_is_full_is_told_with_what_grew_most() {
    // 60 GiB are more than the share is asked about, and two weeks at 5 GiB a day take 70.
    let mut past = docrag(grown(5.0, 14));
    past.push(sizes(SizeOf::Table, "public.chunks", grown(1.0, 14)));
    past.push(sizes(SizeOf::Table, "public.documents", grown(4.0, 14)));
    let found = finding(ID, found_in(with(60, past.clone())));
    assert_eq!(found.severity, Severity::Warning);
    assert_eq!(
        found.summary,
        "the disk of the data directory has 60 GiB free of 200 GiB, and each day takes 5 GiB more: full in 12 d, on \
         2026-12-03; first public.documents with its indexes: 100 MiB, 4 GiB more a day"
    );
    assert_eq!(found.offenders.len(), 2, "pg_wal did not grow: {:#?}", found.offenders);
    assert!(
        found.fix.contains("public.documents") && found.fix.contains("'\"public\".\"documents\"'"),
        "{}",
        found.fix
    );
    assert_eq!(found_in(with(75, past)), [], "in 15 days");
    assert_eq!(finding(ID, found_in(with(60, docrag(grown(31.0, 14))))).severity, Severity::Critical);
}

#[test]
fn the_share_that_is_free_is_told_whatever_the_pace() {
    for (free, severity) in [(19, Severity::Warning), (9, Severity::Critical)] {
        let found = finding(ID, found_in(with(free, Vec::new())));
        assert_eq!(found.severity, severity);
        assert!(found.summary.starts_with(&format!("the disk of the data directory has {free} GiB free of 200 GiB (")));
        // Nothing is known to grow: the largest first.
        assert!(found.offenders[0].note.starts_with("database postgres: 1 GiB"), "{:#?}", found.offenders);
    }
    assert_eq!(unknown(with(20, Vec::new())).kind, UnknownKind::NeedsHistory, "10 % are enough");
    let large = change(|seen| disk(seen, 60, 2_000));
    assert_eq!(found_in(large), [], "3 % of 2 TB is room for long, at that pace");
}

#[test]
fn one_load_one_vacuum_and_a_young_record_make_no_date() {
    let load = |at: u32| (0..14).map(move |day| if day < at { 10.0 } else { 70.0 });
    for at in 1..14 {
        assert_eq!(found_in(with(60, docrag(load(at)))), [], "a load on day {at}");
    }
    let vacuumed = (0..14_u32).map(|day| f64::from(day % 7) * 5.0 + 10.0);
    assert_eq!(found_in(with(60, docrag(vacuumed))), []);
    assert_eq!(unknown(with(60, docrag(grown(31.0, 5)))).kind, UnknownKind::NeedsHistory, "of four days");
    assert_eq!(found_in(with(60, docrag(grown(31.0, 6)))).len(), 1);
    let mut long_past = docrag(grown(31.0, 14));
    for point in &mut long_past[0].days {
        point.at = crate::quantity::after(point.at, -3.0 * DAY);
    }
    assert_eq!(unknown(with(60, long_past)).kind, UnknownKind::NeedsHistory, "the keeper was off since");
}

#[test]
fn what_runs_away_since_days_has_a_date_whatever_is_free() {
    // 8 quiet days; much more is free than the shares are asked about.
    let run = |days: u32| (0..8 + days).map(|day| 10.0 + 60.0 * f64::from(day.saturating_sub(7))).collect::<Vec<_>>();
    for days in 4..=6 {
        for seen in [with(200, docrag(run(days).into_iter())), told(200, docrag(run(days).into_iter()))] {
            let found = finding(ID, found_in(seen));
            assert!(found.summary.contains(": full in ") && !found.summary.contains('%'), "{days}: {}", found.summary);
        }
    }
    let mut wal = docrag(grown(0.1, 14));
    wal.push(sizes(SizeOf::Wal, "", run(6).into_iter()));
    assert!(finding(ID, found_in(told(200, wal))).offenders[0].note.starts_with("pg_wal"));
}

#[test]
fn more_history_than_is_asked_of_the_record_counts_as_all_of_it() {
    use crate::check::{Tuning, judge_all};
    use crate::observation::{Observation, Reading};
    use crate::system::{SystemId, SystemKind};
    let now = crate::check::postgres::fixtures::now();
    let outcome = Ok(with(60, docrag(grown(5.0, 14))));
    let reading = Observation::Postgres(Reading { at: now, latency: 0.1, took: 0.1, outcome });
    let tuning = Tuning::default().with_threshold(ID, "history", 30.0 * DAY);
    let judged = judge_all(&SystemId::new(SystemKind::Postgres, "main"), &reading, None, &tuning, now);
    let status = judged.into_iter().find(|judgement| judgement.check == ID).unwrap().status;
    assert!(matches!(status, Status::Failing { .. }), "{status:?}");
}

#[test]
fn the_date_is_that_of_the_disk_where_it_is_seen() {
    let series = |databases: f64, disk: f64| {
        vec![sizes(SizeOf::Database, "docrag", grown(databases, 14)), sizes(SizeOf::Disk, "", grown(disk, 14))]
    };
    let seen = |past: Vec<Sizes>| {
        change(|seen| {
            disk(seen, 60, 200);
            seen.room.past = past;
        })
    };
    assert_eq!(found_in(seen(series(31.0, 0.0))), [], "the tablespace that grows is on another disk");
    let found = finding(ID, found_in(seen(series(0.1, 5.0))));
    assert!(found.summary.contains("each day takes 5 GiB more: full in 12 d"), "{}", found.summary);
    assert!(found.summary.ends_with("; most of that is neither a database nor pg_wal"), "{}", found.summary);
    assert!(found.fix.contains("du -xh"), "{}", found.fix);
    let young = seen(vec![sizes(SizeOf::Database, "docrag", grown(5.0, 14))]);
    assert_eq!(unknown(young).kind, UnknownKind::NeedsHistory, "the record has nothing of the disk");

    // Nobody sees where the files are: all of them count, and that is said.
    let mut reckoned = told(60, docrag(grown(5.0, 14)));
    assert!(!finding(ID, found_in(reckoned.clone())).summary.contains("tablespace"));
    reckoned.room.disk.as_mut().unwrap().as_mut().unwrap().tablespaces = 2;
    let found = finding(ID, found_in(reckoned));
    assert!(found.summary.contains("200 GiB (2 tablespaces count as on it), and each day"), "{}", found.summary);
}

#[test]
fn a_table_that_grew_by_next_to_nothing_hides_no_large_one() {
    let named = |per_day: f64| {
        let past = vec![sizes(SizeOf::Table, "public.documents", (0..14).map(|day| per_day * f64::from(day)))];
        let mut seen = with(9, past);
        let largest = seen.tables.as_mut().unwrap().iter_mut().find(|table| table.name == "chunks").unwrap();
        largest.size = 150 << 30;
        let other = Database { size: Some(1 << 20), ..crate::check::postgres::fixtures::database("postgres") };
        seen.databases = Ok(vec![other]);
        let found = finding(ID, found_in(seen));
        (found.offenders.len(), found.offenders[0].note.clone())
    };
    let (number, first) = named(1e-9);
    assert!(number > 3 && first.starts_with("public.chunks with its indexes: 150 GiB"), "{first}");
    let (number, first) = named(0.2);
    assert!(number == 1 && first.starts_with("public.documents"), "{first}");
}

#[test]
fn wal_that_a_slot_keeps_is_named_and_its_files_are_left_alone() {
    let slot =
        Slot { name: "replica".into(), is_logical: false, is_active: false, retained: Some(900 << 20), is_lost: false };
    let mut past = docrag(grown(0.1, 14));
    past.push(sizes(SizeOf::Wal, "", grown(6.0, 14)));
    let mut seen = with(60, past);
    seen.horizon.as_mut().unwrap().slots = vec![slot];
    let found = finding(ID, found_in(seen.clone()));
    assert!(found.summary.contains("each day takes 6.1 GiB more"), "{}", found.summary);
    assert!(found.offenders[0].note.starts_with("pg_wal, of which the slot replica keeps 900 MiB: 1 GiB, 6 GiB more"));
    assert!(found.fix.contains("pg_drop_replication_slot('replica'); Delete no file in pg_wal"), "{}", found.fix);
    seen.horizon.as_mut().unwrap().slots.clear();
    let found = finding(ID, found_in(seen));
    assert!(found.fix.contains("pg_stat_archiver"), "{}", found.fix);
}

#[test]
fn the_growth_of_other_databases_counts_and_they_are_named() {
    let mut past = docrag(grown(0.1, 14));
    past.push(sizes(SizeOf::Database, "postgres", grown(8.0, 14)));
    let found = finding(ID, found_in(with(60, past)));
    assert!(
        found.offenders[0].note.starts_with("database postgres: 1 GiB, 8 GiB more a day"),
        "{:#?}",
        found.offenders
    );
    assert_eq!(found.offenders[0].target, Target::Database { name: "postgres".into() });
}

#[test]
fn a_disk_that_nobody_can_see_is_no_trouble_and_one_that_is_hidden_is() {
    let strange = unknown(change(|seen| seen.room.disk = Ok(None)));
    assert!(strange.kind == UnknownKind::NotHere && strange.reason.contains("disk = \"100 GiB\""), "{strange:?}");
    assert!(unknown(change(|seen| seen.room.disk = Err(Gap::permission("grant pg_monitor")))).kind.is_trouble());
    // Nothing but the disk is known.
    let bare = change(|seen| {
        disk(seen, 1, 200);
        seen.room.past.clear();
        seen.room.wal = Err(Gap::new("no"));
        seen.databases = Ok(Vec::new());
        seen.tables = Ok(Vec::new());
    });
    let found = finding(ID, found_in(bare));
    assert!(found.offenders.is_empty() && found.fix.starts_with("Enlarge the volume; look"), "{found:#?}");
}

#[test]
fn no_more_than_ten_are_named() {
    let seen = change(|seen| {
        disk(seen, 9, 200);
        seen.room.past.clear();
        seen.tables = Ok((0..30).map(|n| table(&format!("t{n}"))).collect());
    });
    assert_eq!(finding(ID, found_in(seen)).offenders.len(), 10);
}
