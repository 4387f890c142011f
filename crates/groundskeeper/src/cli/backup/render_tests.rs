use super::*;
use crate::app::api::{Measurement, RecoveryPoints};
use groundskeeper_core::receipt::{Missing, Part, SetId};

fn utc(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

fn set(made: &str, random: u32) -> Receipt {
    let made = utc(made);
    let part = |name: &str, bytes| Part { name: name.into(), entries: 1_234, bytes, ..Part::default() };
    let parts = vec![part("postgres.main", 2 << 30), part(KEEPER, 1 << 20)];
    Receipt { set: SetId::new(made, random), made, took: 12.5, parts, missing: vec![], added: 35 << 20, climbs: vec![] }
}

fn climb(rung: Rung, outcome: ClimbOutcome) -> Climb {
    Climb { rung, at: utc("2026-11-22T21:00:00Z"), took: 20.0, outcome }
}

fn proven(rung: Rung) -> Climb {
    climb(rung, ClimbOutcome::Proven { shown: "all 1,234 files".into(), not_covered: Vec::new() })
}

/// The newest lacks a system, the second is damaged, the third is proven to the top.
fn sets() -> Vec<Receipt> {
    let mut sets = vec![set("2026-11-23T00:00:00Z", 1), set("2026-11-22T00:00:00Z", 2), set("2026-11-21T00:00:00Z", 3)];
    sets[0].missing = vec![Missing { system: "postgres.reports".parse().unwrap(), why: "no answer".into() }];
    let failed = ClimbOutcome::Failed { why: "1 of 40 packs is damaged".into() };
    sets[1].climbs = vec![proven(Rung::Stored), climb(Rung::Intact, failed)];
    sets[2].climbs = Rung::ALL.map(proven).into();
    sets
}

#[test]
fn the_list_says_first_what_is_wrong() {
    let view = BackupListView { now: utc("2026-11-23T08:03:00Z"), repository: "/backups".into(), sets: sets() };
    assert_eq!(
        list(&view, &berlin(), Paint::none()),
        "\
! 20261123T000000Z-00000001: postgres.reports is missing: no answer
! 20261122T000000Z-00000002: rung 2 (intact) failed: 1 of 40 packs is damaged

SET                        MADE (Europe/Berlin)  AGE        SYSTEMS                                  SIZE   ADDED   PROVEN
20261123T000000Z-00000001  2026-11-23 01:00      8 h 3 min  postgres.main, without postgres.reports  2 GiB  35 MiB  not yet
20261122T000000Z-00000002  2026-11-22 01:00      1 d 8 h    postgres.main                            2 GiB  35 MiB  1 stored; 2 intact failed
20261121T000000Z-00000003  2026-11-21 01:00      2 d 8 h    postgres.main                            2 GiB  35 MiB  6 consistent

3 sets in /backups, 105 MiB added in all
"
    );
    let empty = BackupListView { sets: Vec::new(), ..view };
    assert!(list(&empty, &berlin(), Paint::none()).contains("`groundskeeper backup run` makes one"));
}

#[test]
fn a_try_is_told_rung_by_rung_with_the_measured_time() {
    let sets = sets();
    let view = BackupTryView { receipt: sets[2].clone(), tried: vec![proven(Rung::Restored), proven(Rung::Alive)] };
    assert_eq!(
        tried(&view, &berlin(), Paint::none()),
        "\
20261121T000000Z-00000003 made 2026-11-21 01:00: postgres.main
  ✓ 3 restored    2026-11-22 22:00, 20 s  all 1,234 files
  ✓ 4 alive       2026-11-22 22:00, 20 s  all 1,234 files
This set is proven up to rung 6 (consistent). From the start of the restore to the first answer: 40 s.
"
    );
    let view = BackupTryView { receipt: sets[1].clone(), tried: vec![sets[1].climbs[1].clone()] };
    let said = tried(&view, &berlin(), Paint::none());
    assert!(said.contains("✗ 2 intact      2026-11-22 22:00, 20 s  failed: 1 of 40 packs is damaged"), "{said}");
    assert!(said.ends_with("This set is proven up to rung 1 (stored).\n"), "{said}");
}

#[test]
fn a_restore_is_announced_with_what_speaks_against_it() {
    let plan = RestorePlan {
        replaces: Vec::new(),
        set: sets()[1].set.clone(),
        made: utc("2026-11-22T00:00:00Z"),
        age_seconds: 115_200.0,
        systems: vec![("postgres.main".into(), 2 << 30)],
        only: None,
        target: None,
        wal: 0,
        into: "/srv/restored".into(),
        free: Some(50 << 30),
        warnings: vec!["it was not shown to restore; no set was".into()],
    };
    assert_eq!(
        restore_plan(&plan, &berlin(), Paint::none()),
        "\
! it was not shown to restore; no set was
This will be restored; nothing that exists is overwritten.
  set      20261122T000000Z-00000002, made 2026-11-22 01:00 Europe/Berlin (1 d 8 h ago)
  systems  postgres.main (2 GiB)
  into     /srv/restored (50 GiB free, 2 GiB needed)

"
    );
}

#[test]
fn the_newest_set_is_shown_with_every_rung() {
    let mut newest = sets().remove(0);
    newest.missing.clear();
    newest.climbs = vec![proven(Rung::Stored), climb(Rung::Restored, ClimbOutcome::NotTried { why: "no room".into() })];
    let view = BackupView {
        repository: "/backups".into(),
        read: None,
        failure: None,
        sets: vec![newest],
        last_proof: None,
        space: None,
        wal: Vec::new(),
        retention: None,
        measured: MeasuredView::default(),
    };
    let mut out = String::new();
    glance(&mut out, &view, utc("2026-11-23T08:00:00Z"), &berlin(), Paint::none());
    assert_eq!(
        out,
        "\
Repository: /backups
Newest set: 20261123T000000Z-00000001 made 2026-11-23 01:00 (8 h ago)
  postgres.main; 2 GiB at the source, 35 MiB added in 12.5 s
  ✓ 1 stored      2026-11-22 22:00, 20 s  all 1,234 files
  – 2 intact      not tried yet
  ? 3 restored    2026-11-22 22:00, 20 s  could not be tried: no room
  – 4 alive       not tried yet
  – 5 faithful    not tried yet
Shown to restore: never yet
"
    );
}

#[test]
fn the_measured_times_are_told_beside_the_last_proof() {
    let at = |at: &str, seconds| Measurement { at: utc(at), seconds };
    let view = MeasuredView {
        recovery_times: vec![at("2026-11-15T21:00:00Z", 1.9), at("2026-11-22T21:00:00Z", 2.1)],
        recovery_points: vec![
            RecoveryPoints {
                system: Some("postgres.main".parse().unwrap()),
                days: vec![at("2026-11-21T07:00:00Z", 2.4), at("2026-11-22T09:00:00Z", 2.2)],
            },
            RecoveryPoints { system: None, days: vec![at("2026-11-22T00:00:00Z", 86_520.0)] },
        ],
    };
    let mut out = String::new();
    measured(&mut out, &view, Paint::none());
    assert_eq!(
        out,
        "\
Recovery took 2.1 s in the last drill, 1.9 s to 2.1 s over the last 2
At risk in postgres.main: the last 2.4 s on the worst of 2 measured days
At risk in what is only in sets: the last 1 d on the only measured day
"
    );
    out.clear();
    measured(&mut out, &MeasuredView::default(), Paint::none());
    assert_eq!(out, "");
}
