use super::*;
use crate::check::Status;
use crate::check::postgres::fixtures::{change, finding, found, found_in, healthy, reading, statement, status};
use crate::observation::{Gap, Observation};

const ALL: [&Check; 4] = [&QUERY_SLOW, &QUERY_HEAVY, &QUERY_SPILLS, &QUERY_MISSES_CACHE];

/// The healthy server a minute later, after its first statement did this and all others nothing.
fn later(what: impl FnOnce(&mut Statement)) -> Postgres {
    with_leaders(|leaders| {
        let before = leaders.statements[0].time;
        what(&mut leaders.statements[0]);
        leaders.all.time += leaders.statements[0].time - before;
        leaders.all.calls += 1;
    })
}

fn with_leaders(what: impl FnOnce(&mut Leaders)) -> Postgres {
    change(|seen| what(seen.statements.leaders.as_mut().unwrap().as_mut().unwrap()))
}

fn calls(statement: &mut Statement, calls: u64, mean: f64) {
    statement.calls += calls;
    statement.rows += calls;
    statement.time += calls as f64 * mean;
}

#[test]
fn a_slow_statement_is_judged_by_its_latest_mean_and_by_its_habit() {
    assert_eq!(found_in(later(|one| calls(one, 10, 0.019))), []);
    let slow = finding("postgres.query_slow", found_in(later(|one| calls(one, 10, 0.021))));
    assert_eq!(slow.severity, Severity::Info);
    assert!(slow.summary.contains("a call takes 21 ms on average in the last 1 min"), "{}", slow.summary);
    assert!(slow.offenders[0].note.starts_with("queryid 7, 10 calls of 21 ms: SELECT body"), "{:?}", slow.offenders);
    let waited_for = finding("postgres.query_slow", found_in(later(|one| calls(one, 3, 1.0))));
    assert_eq!(waited_for.severity, Severity::Warning);
}

#[test]
fn what_hardly_ever_runs_is_not_slow() {
    let rare = |calls: u64, time: f64| {
        let mut leaders = self::leaders(&healthy()).unwrap().clone();
        leaders.statements = vec![statement(9, calls, time)];
        change(|seen| seen.statements.leaders = Some(Ok(Box::new(leaders))))
    };
    let judged = |now: u64| status("postgres.query_slow", rare(now, 90.0), Some(rare(90, 80.0)));
    assert_eq!(judged(99), Status::Ok);
    assert!(matches!(judged(100), Status::Failing { .. }));
}

#[test]
fn a_heavy_statement_has_most_of_the_time_and_not_little_of_it() {
    // 12 of 60 seconds, a fifth of a core, in calls that are quick.
    let heavy = finding("postgres.query_heavy", found_in(later(|one| calls(one, 6_000, 0.002))));
    assert!(heavy.summary.contains("100 % of all execution time of the last 1 min"), "{}", heavy.summary);
    assert_eq!(heavy.severity, Severity::Info);
    assert_eq!(found_in(later(|one| calls(one, 5_900, 0.002))), []);
    let busy = finding("postgres.query_heavy", found_in(later(|one| calls(one, 30_000, 0.002))));
    assert_eq!(busy.severity, Severity::Warning);
    let one_of_many = with_leaders(|leaders| {
        calls(&mut leaders.statements[0], 30_000, 0.002);
        leaders.all.time += 121.0;
    });
    assert_eq!(found_in(one_of_many), []);
}

#[test]
fn without_an_earlier_reading_the_heavy_are_judged_by_their_totals() {
    let seen = with_leaders(|leaders| {
        leaders.statements[0].time = 700_000.0;
        leaders.all.time = 1_000_000.0;
    });
    let heavy = finding("postgres.query_heavy", found(&Observation::Postgres(reading(seen)), None));
    assert!(heavy.summary.contains("70 %") && heavy.summary.contains("last 30 d is"), "{}", heavy.summary);
    let old = with_leaders(|leaders| leaders.stats_reset = None);
    assert!(matches!(status("postgres.query_heavy", old, None), Status::Unknown(_)));
}

#[test]
fn temporary_files_are_graded_by_their_rate() {
    let spilled = |bytes: u64| {
        later(|one| {
            calls(one, 6, 0.001);
            one.temporary_bytes += bytes;
        })
    };
    assert_eq!(found_in(spilled((60 << 20) - 1)), []);
    let some = finding("postgres.query_spills", found_in(spilled(60 << 20)));
    assert_eq!(some.severity, Severity::Info);
    assert!(
        some.summary.contains("60 MiB of temporary files in the last 1 min come from one statement, 10 MiB a call")
    );
    assert_eq!(finding("postgres.query_spills", found_in(spilled(1_500 << 20))).severity, Severity::Warning);
}

#[test]
fn a_statement_that_reads_much_from_outside_is_named() {
    let read = |hit: u64, read: u64| {
        later(|one| {
            calls(one, 6, 0.001);
            one.blocks_hit += hit;
            one.blocks_read += read;
            one.read_time += 1.5;
        })
    };
    assert_eq!(found_in(read(90_000, 10_000)), []);
    assert_eq!(found_in(read(0, 9_999)), []);
    let missing = finding("postgres.query_misses_cache", found_in(read(89_999, 10_001)));
    assert_eq!(missing.severity, Severity::Info);
    assert!(missing.offenders[0].note.contains("1.5 s spent reading"), "{:?}", missing.offenders);
}

#[test]
fn the_worst_is_in_the_sentence_and_the_others_are_counted() {
    let seen = with_leaders(|leaders| {
        calls(&mut leaders.statements[0], 10, 0.05);
        calls(&mut leaders.statements[1], 10, 0.08);
        leaders.all.time += 1.3;
    });
    let slow = finding("postgres.query_slow", found_in(seen));
    assert!(slow.summary.contains("80 ms") && slow.summary.ends_with("(and 1 other)"), "{}", slow.summary);
    assert_eq!(slow.offenders.len(), 2);
}

#[test]
fn a_reset_a_gap_a_first_reading_and_hidden_statements_are_unknown() {
    let reset = with_leaders(|leaders| {
        leaders.stats_reset = None;
        leaders.statements[0].calls += 10_000_000;
    });
    let refused = change(|seen| seen.statements.leaders = Some(Err(Gap::permission("no; grant pg_monitor"))));
    let hidden = with_leaders(|leaders| leaders.hidden = 5);
    for check in ALL {
        for seen in [&reset, &refused, &hidden] {
            let status = status(check.id, seen.clone(), Some(healthy()));
            assert!(matches!(status, Status::Unknown(_)), "{}: {status:?}", check.id);
        }
        if check.id != QUERY_HEAVY.id {
            let Status::Unknown(unknown) = status(check.id, healthy(), None) else { panic!("{}", check.id) };
            assert_eq!(unknown.kind, UnknownKind::NeedsHistory);
        }
    }
}

#[test]
fn where_the_extension_is_missing_one_check_says_so() {
    let seen = change(|seen| {
        seen.statements.extension = None;
        seen.statements.leaders = None;
    });
    for check in ALL {
        let Status::Unknown(unknown) = status(check.id, seen.clone(), Some(healthy())) else { panic!("{}", check.id) };
        assert!(!unknown.kind.is_trouble(), "{unknown:?}");
    }
    finding("postgres.statements_missing", found_in(seen));
}
