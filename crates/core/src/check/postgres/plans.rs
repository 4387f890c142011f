//! Statements that the planner answers in another and dearer way than it did.

use super::queries::{Leading, finding};
use super::regressions::{FACTOR, GROWTH};
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::observation::{Earlier, PlanShape, Planned, Plans, Postgres, Statement};
use crate::quantity::{Unit, format_count, format_number, seconds_between};
use crate::severity::Severity;

const PLANS: &str = "EXPLAIN of generic plans against the keeper's record, once a day";
/// Of a plan in a sentence.
const STEPS_TOLD: usize = 3;

pub static PLAN_REGRESSED: Check = Check {
    id: "postgres.plan_regressed",
    title: "A statement has another plan, which costs more",
    runbook: Runbook {
        means: "The planner answers a statement in another way than before, and takes it for dearer by itself, or calls take \
                longer since. An index was dropped or became invalid, statistics changed, a setting of the planner, or the \
                server was upgraded. Compared are generic plans, which need no values, of the 50 statements that take the most \
                time; Postgres keeps no plans of past calls. For an UPDATE or DELETE it is the plan of finding its rows.",
        confirm: "SELECT query FROM pg_stat_statements WHERE queryid = QUERYID; then EXPLAIN it: from Postgres 16 on with EXPLAIN \
                  (GENERIC_PLAN), before with PREPARE, SET plan_cache_mode = force_generic_plan and EXPLAIN EXECUTE.",
        act: "Where an index that the earlier plan used is gone or invalid, build it again (CREATE INDEX CONCURRENTLY). \
              Otherwise ANALYZE the tables of the plan, compare estimated with actual rows by EXPLAIN (ANALYZE, BUFFERS), and \
              look at what changed that day: settings, extensions, the version. If the new plan is right, nothing is to be done: \
              after a week it is the usual one.",
    },
    source: PLANS,
    thresholds: &[
        Threshold {
            name: "minimum_factor",
            default: 2.0,
            unit: Unit::Ratio,
            why: "times the cost of the plan before, as the planner estimates both; tables that grow make all plans dearer, by less",
        },
        Threshold {
            name: "warning",
            default: 10.0,
            unit: Unit::Ratio,
            why: "times that cost: what an index saves on a table of some size",
        },
        Threshold {
            name: "minimum_cost",
            default: 1_000.0,
            unit: Unit::Count,
            why: "in the planner's unit, a page read in order: 8 MB; below that nobody feels a whole table",
        },
        Threshold {
            name: "news",
            default: 604_800.0,
            unit: Unit::Seconds,
            why: "a week: whoever looks once in a week sees it, and afterwards it is the usual plan",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(plan_regressed),
};

fn plan_regressed(sight: &Sight<'_, Postgres>) -> Judged {
    // A standby has the primary's tables, and statements of its own that are not looked at.
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let Some(deep) = &sight.seen.deep else { return Err(Unknown::not_asked("how statements are planned")) };
    let Some(plans) = deep.plans.as_ref()? else {
        return Err(Unknown {
            kind: UnknownKind::NotHere,
            reason: "pg_stat_statements cannot be used here (postgres.statements_missing)".to_owned(),
        });
    };
    let statements: Vec<(Statement, &Planned, &Earlier)> = plans
        .seen
        .iter()
        .filter_map(|planned| Some((planned, planned.before.as_ref()?)))
        .filter(|(planned, before)| is_worse(sight, planned, before))
        .map(|(planned, before)| (of(planned), planned, before))
        .collect();
    let leading = statements
        .iter()
        .map(|(statement, planned, before)| {
            let factor = factor(&planned.plan, &before.plan);
            let (severity, limit) = sight.graded(factor).unwrap_or((Severity::Info, sight.limit("minimum_factor")));
            let severity = if is_slower(sight, planned.query_id) { Severity::Warning } else { severity };
            Leading { statement, severity, measure: factor, limit, note: told(planned, before) }
        })
        .collect();
    let found = finding(sight, &PLAN_REGRESSED, leading, |worst| worst.note.clone(), "times the cost", Unit::Ratio);
    let Some(draft) = found else { return all_compared(plans) };
    Ok(vec![draft.fix(
        "EXPLAIN it and compare with what it used to do: an index that is gone or invalid is built again with CREATE INDEX \
         CONCURRENTLY; otherwise ANALYZE its tables. SELECT query FROM pg_stat_statements WHERE queryid = the number above; has \
         its whole text.",
    )])
}

/// As `postgres.query_regressed` means it, by the latest hours.
fn is_slower(sight: &Sight<'_, Postgres>, query_id: i64) -> bool {
    let past = sight.seen.statements.past.iter().find(|past| past.query_id == query_id);
    past.is_some_and(|past| past.is_slower(FACTOR, GROWTH))
}

fn is_worse(sight: &Sight<'_, Postgres>, planned: &Planned, before: &Earlier) -> bool {
    let is_news = seconds_between(before.changed, sight.now) <= sight.limit("news");
    let is_dearer = factor(&planned.plan, &before.plan) >= sight.limit("minimum_factor")
        && planned.plan.cost >= sight.limit("minimum_cost");
    is_news && (is_dearer || is_slower(sight, planned.query_id))
}

fn factor(now: &PlanShape, before: &PlanShape) -> f64 {
    now.cost / before.cost.max(f64::MIN_POSITIVE)
}

fn of(planned: &Planned) -> Statement {
    Statement { query_id: planned.query_id, query: planned.query.clone(), ..Statement::default() }
}

/// `its plan of 2026-11-20 has Seq Scan of chunks in place of Index Scan of chunks by chunks_kind, at a cost of 2,100 and not 8`
fn told(planned: &Planned, before: &Earlier) -> String {
    let steps = |steps: Vec<String>| match steps.len() {
        0 => "the same steps in another order".to_owned(),
        more if more > STEPS_TOLD => format!("{} and {} more", steps[..STEPS_TOLD].join(", "), more - STEPS_TOLD),
        _ => steps.join(", "),
    };
    format!(
        "its plan of {} has {} in place of {}, at a cost of {} and not {} ({} times)",
        before.changed.strftime("%Y-%m-%d"),
        steps(planned.plan.beyond(&before.plan)),
        steps(before.plan.beyond(&planned.plan)),
        format_count(planned.plan.cost.round()),
        format_count(before.plan.cost.round()),
        format_number(factor(&planned.plan, &before.plan), Unit::Ratio)
    )
}

/// Nothing bad among the statements that could be compared proves nothing about the others.
fn all_compared(plans: &Plans) -> Judged {
    let denied = plans.unexplained.iter().filter(|one| one.is_denied).count();
    match plans.unexplained.iter().find(|one| one.is_denied || plans.seen.is_empty()) {
        // Whether we may read rows is for others to say.
        Some(one) if one.is_denied => Err(Unknown {
            kind: UnknownKind::NotHere,
            reason: format!(
                "{denied} of {} statements could not be explained, the first (queryid {}) for: {}",
                plans.seen.len() + plans.unexplained.len(),
                one.query_id,
                one.reason
            ),
        }),
        Some(one) => Err(Unknown {
            kind: UnknownKind::NotRead,
            reason: format!(
                "no statement could be explained, the first (queryid {}) for: {}",
                one.query_id, one.reason
            ),
        }),
        None if !plans.seen.is_empty() && plans.seen.iter().all(|planned| !planned.is_known) => Err(Unknown {
            kind: UnknownKind::NeedsHistory,
            reason: "plans are compared with those of the days before, and these are the first on the keeper's record"
                .to_owned(),
        }),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{ago, change, finding, found_in, judged, past, plans, reading, status};
    use crate::observation::{Gap, Observation, Unplanned};

    const DAY: f64 = 86_400.0;

    fn shape(nodes: &[&str], cost: f64) -> PlanShape {
        PlanShape { nodes: nodes.iter().map(|node| (*node).to_owned()).collect(), cost }
    }

    fn seen(what: impl FnOnce(&mut Plans)) -> Postgres {
        change(|seen| {
            let mut changed = plans();
            what(&mut changed);
            seen.deep.as_mut().unwrap().plans = Ok(Some(changed));
        })
    }

    /// By an index at a cost of 8, until so many days ago.
    fn changed(cost: f64, days: f64) -> Postgres {
        seen(|plans| {
            let plan = shape(&["0 Index Scan of chunks by chunks_kind"], 8.0);
            plans.seen[0].before = Some(Earlier { plan, last: ago((days + 1.0) * DAY), changed: ago(days * DAY) });
            plans.seen[0].plan = shape(&["0 Seq Scan of chunks"], cost);
        })
    }

    #[test]
    fn another_plan_that_is_dearer_is_told_with_what_it_does_instead() {
        let found = finding("postgres.plan_regressed", found_in(changed(2_100.0, 2.0)));
        assert_eq!(found.severity, Severity::Warning);
        assert!(
            found.summary.contains(
                "its plan of 2026-11-19 has Seq Scan of chunks in place of Index Scan of chunks by chunks_kind, at a cost of 2,100 \
                 and not 8"
            ),
            "{}",
            found.summary
        );
        assert_eq!(found_in(changed(999.0, 2.0)), [], "nobody feels that");
        assert_eq!(found_in(changed(2_100.0, 8.0)), [], "after a week it is the usual plan");
    }

    #[test]
    fn what_costs_little_more_is_told_only_when_calls_take_longer() {
        let twice = |cost: f64| {
            let mut twice = changed(5_000.0, 1.0);
            let plans = twice.deep.as_mut().unwrap().plans.as_mut().unwrap().as_mut().unwrap();
            plans.seen[0].before.as_mut().unwrap().plan.cost = cost;
            twice
        };
        assert_eq!(finding("postgres.plan_regressed", found_in(twice(2_500.0))).severity, Severity::Info);
        assert_eq!(found_in(twice(4_000.0)), []);
        let mut slower = twice(4_000.0);
        slower.statements.past = vec![past(7, 0.009)];
        let found = found_in(slower);
        let found = found.into_iter().find(|found| found.check == "postgres.plan_regressed").unwrap();
        assert_eq!(found.severity, Severity::Warning);
    }

    #[test]
    fn what_was_not_compared_is_no_good_news() {
        let kind = |seen: Postgres| match status("postgres.plan_regressed", seen, None) {
            Status::Unknown(unknown) => (unknown.kind, unknown.reason),
            other => panic!("{other:?}"),
        };
        let unplanned =
            |is_denied| Unplanned { query_id: 9, is_denied, reason: "permission denied for table notes".into() };
        let denied = kind(seen(|plans| plans.unexplained = vec![unplanned(true)]));
        assert_eq!(denied.0, UnknownKind::NotHere);
        assert!(denied.1.contains("1 of 2 statements"), "{}", denied.1);
        assert_eq!(
            found_in(seen(|plans| plans.unexplained = vec![unplanned(false)])),
            [],
            "one without a type for its parameter"
        );
        let none = kind(seen(|plans| *plans = Plans { seen: Vec::new(), unexplained: vec![unplanned(false)] }));
        assert_eq!(none.0, UnknownKind::NotRead);
        assert_eq!(kind(seen(|plans| plans.seen[0].is_known = false)).0, UnknownKind::NeedsHistory);
        let watch = Observation::Postgres(reading(change(|seen| seen.deep = None)));
        assert!(judged(&watch, None).iter().all(|judgement| judgement.check != "postgres.plan_regressed"));
        let without = change(|seen| seen.deep.as_mut().unwrap().plans = Ok(None));
        assert_eq!(kind(without).0, UnknownKind::NotHere);
        let gap = change(|seen| seen.deep.as_mut().unwrap().plans = Err(Gap::new("cut off")));
        assert_eq!(kind(gap), (UnknownKind::NotRead, "cut off".to_owned()));
        let standby = change(|seen| {
            seen.server.in_recovery = true;
            seen.deep = None;
        });
        assert!(!matches!(status("postgres.plan_regressed", standby, None), Status::Unknown(_)));
    }
}
