//! Statements that take longer than they used to.

use super::queries::{Leading, all_shown, finding, leaders};
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::observation::{Past, Postgres, Statement};
use crate::quantity::{Unit, format_number, format_seconds};
use crate::severity::Severity;

/// Times the usual mean; less is within what load and cache do.
pub(super) const FACTOR: f64 = 2.0;
/// Seconds more for each call.
pub(super) const GROWTH: f64 = 0.005;

pub static QUERY_REGRESSED: Check = Check {
    id: "postgres.query_regressed",
    title: "A statement takes longer than it used to",
    runbook: Runbook {
        means: "A statement that runs often takes twice as long as in the week before, or more, and longer than in its own \
                slow hours, and it does not return more rows. Its plan changed (postgres.plan_regressed, once a day), its table \
                grew or bloated, or it waits for somebody. Judged is the mean of the calls.",
        confirm: "SELECT calls, mean_exec_time, max_exec_time, query FROM pg_stat_statements WHERE queryid = QUERYID; has the \
                  mean since the last reset, which hides a change; with auto_explain (auto_explain.log_min_duration) the \
                  server's log has the plans.",
        act: "EXPLAIN (ANALYZE, BUFFERS) it. Estimates that are far off: ANALYZE the table. An index that is not used any \
              more: see whether it is invalid or was dropped. Many dead rows: postgres.dead_rows_past_trigger and \
              postgres.xmin_held_back. Many more calls: look at the load first. What stays slower is the new normal \
              after some days.",
    },
    source: "the keeper's record of pg_stat_statements: the latest hour or two against the days before",
    thresholds: &[
        Threshold {
            name: "minimum_factor",
            default: FACTOR,
            unit: Unit::Ratio,
            why: "times the median of the hours between 8 days and 1 day ago; less is within what load and cache do",
        },
        Threshold {
            name: "warning",
            default: 5.0,
            unit: Unit::Ratio,
            why: "times that median: plans that change for the worse usually cost more than this",
        },
        Threshold {
            name: "minimum_growth",
            default: GROWTH,
            unit: Unit::Seconds,
            why: "more for each call; a tenth of a millisecond that became two tenths is not felt",
        },
        Threshold {
            name: "minimum_hours",
            default: 24.0,
            unit: Unit::Count,
            why: "hours with calls that must be on record: a day, so that the busy hours are among them",
        },
    ],
    hold: Hold::minutes(30.0, 60.0),
    judge: Judge::Postgres(query_regressed),
};

fn query_regressed(sight: &Sight<'_, Postgres>) -> Judged {
    let (leaders, past) = (leaders(sight.seen)?, &sight.seen.statements.past);
    let known: Vec<(&Past, &Statement)> = past
        .iter()
        .filter(|past| f64::from(past.hours) >= sight.limit("minimum_hours"))
        .filter_map(|past| Some((past, leaders.statements.iter().find(|one| one.query_id == past.query_id)?)))
        .collect();
    if known.is_empty() {
        return Err(Unknown {
            kind: UnknownKind::NeedsHistory,
            reason: "no statement has been on the keeper's record for a day yet".to_owned(),
        });
    }
    let slower = known
        .into_iter()
        .filter(|(past, _)| past.is_slower(sight.limit("minimum_factor"), sight.limit("minimum_growth")))
        .map(|(past, statement)| {
            let graded = sight.graded(past.factor());
            let (severity, limit) = graded.unwrap_or((Severity::Info, sight.limit("minimum_factor")));
            Leading { statement, severity, measure: past.factor(), limit, note: told(past) }
        })
        .collect();
    let draft = finding(sight, &QUERY_REGRESSED, slower, |worst| worst.note.clone(), "times as long", Unit::Ratio);
    all_shown(leaders, draft.map(|draft| draft.fix(
        "EXPLAIN (ANALYZE, BUFFERS) it, and compare estimated with actual rows; ANALYZE its tables if they are far apart. \
         SELECT query FROM pg_stat_statements WHERE queryid = the number above; has its whole text.",
    )))
}

/// `a call takes 40 ms instead of 10 ms (4 times as long), at the same number of calls`.
pub fn told(past: &Past) -> String {
    let load = match past.calls_factor() {
        times if times >= 1.5 => format!("at {} times as many calls", format_number(times, Unit::Ratio)),
        times if times <= 0.67 => "at fewer calls".to_owned(),
        _ => "at about as many calls".to_owned(),
    };
    format!(
        "a call takes {} instead of {} ({} times as long), {load}",
        format_seconds(past.latest.mean()),
        format_seconds(past.usual),
        format_number(past.factor(), Unit::Ratio)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, healthy, past, status};

    fn with_past(mean: f64, what: impl FnOnce(&mut Past)) -> Postgres {
        change(|seen| {
            let mut past = past(7, mean);
            what(&mut past);
            seen.statements.past = vec![past];
        })
    }

    /// The fixture's statement usually takes 1.5 ms, and 3 ms in slow hours.
    #[test]
    fn a_jump_of_the_mean_is_found_and_graded() {
        assert_eq!(found_in(with_past(0.006, |_| ())), [], "it grew by less than 5 ms");
        let slower = finding("postgres.query_regressed", found_in(with_past(0.0074, |_| ())));
        assert_eq!(slower.severity, Severity::Info);
        assert!(
            slower
                .summary
                .contains("a call takes 7.4 ms instead of 1.5 ms (4.93 times as long), at about as many calls"),
            "{}",
            slower.summary
        );
        let much = with_past(0.009, |past| past.latest.calls *= 3.0);
        assert_eq!(found_in(much), [], "more calls of the same load are quicker calls");
        let busy = with_past(0.009, |past| {
            past.latest.calls *= 3.0;
            past.latest.load *= 3.0;
            past.latest.rows *= 3.0;
        });
        let busy = finding("postgres.query_regressed", found_in(busy));
        assert_eq!(busy.severity, Severity::Warning);
        assert!(busy.summary.contains("at 3 times as many calls"), "{}", busy.summary);
    }

    #[test]
    fn more_rows_or_a_slow_hour_of_its_own_are_no_regression() {
        assert_eq!(found_in(with_past(0.009, |past| past.latest.rows *= 2.0)), []);
        assert_eq!(found_in(with_past(0.009, |past| past.high = 0.010)), []);
    }

    #[test]
    fn without_a_day_of_record_nobody_knows() {
        for seen in [with_past(0.009, |past| past.hours = 23), change(|seen| seen.statements.past = Vec::new())] {
            let Status::Unknown(unknown) = status("postgres.query_regressed", seen, Some(healthy())) else { panic!() };
            assert_eq!(unknown.kind, UnknownKind::NeedsHistory);
        }
        let gone = change(|seen| seen.statements.leaders.as_mut().unwrap().as_mut().unwrap().statements.clear());
        assert!(matches!(status("postgres.query_regressed", gone, None), Status::Unknown(_)));
    }
}
