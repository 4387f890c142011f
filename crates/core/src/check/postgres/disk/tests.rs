//! What is full soon is told with what fills it; one load, a quiet night and a short record are not.

use super::*;
use crate::check::postgres::fixtures::{change, finding, found_in, sizes, status, table};
use crate::check::{Status, UnknownKind};
use crate::observation::{Gap, Sizes};

const ID: &str = "postgres.disk_filling";

fn disk(seen: &mut Postgres, free_gib: u64, total_gib: u64) {
    seen.room.disk = Ok(Some(Disk { total: total_gib << 30, free: free_gib << 30, is_told: false }));
}

fn grown(per_day: f64, days: u32) -> impl ExactSizeIterator<Item = f64> {
    (0..days).map(move |day| 10.0 + per_day * f64::from(day))
}

/// A disk of 200 GiB with so many free, and what the record has.
fn with(free_gib: u64, past: Vec<Sizes>) -> Postgres {
    change(|seen| {
        disk(seen, free_gib, 200);
        seen.room.past = past;
    })
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
