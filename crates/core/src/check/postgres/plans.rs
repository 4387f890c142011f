//! Statements that the planner answers in another and worse way than it did.

use super::queries::{Leading, all_shown, finding, leaders};
use super::regressions::{self, FACTOR, GROWTH};
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::observation::{Earlier, NotPlanned, Past, PlanShape, Planned, Plans, Postgres, Statement};
use crate::quantity::{Unit, format_count, format_number, seconds_between};
use crate::severity::Severity;

const PLANS: &str = "EXPLAIN of generic plans against the keeper's record, once a day";
/// Of a plan in a sentence.
const STEPS_TOLD: usize = 3;
/// What EXPLAIN shows of a cost at least.
const LEAST_COST: f64 = 0.01;

pub static PLAN_REGRESSED: Check = Check {
    id: "postgres.plan_regressed",
    title: "A statement has another plan, and is worse off",
    runbook: Runbook {
        means: "The planner answers a statement in another way than before: without an index that is gone or invalid, or in a way \
                that it takes for much dearer by itself, or calls take longer since. Statistics changed, a setting of the planner, \
                a minor version, or the tables grew. Compared are generic plans, which need no values, without parallel workers, of \
                the 50 statements on tables of users that take the most time: for an UPDATE or DELETE of one table the plan of \
                finding its rows. Left out are INSERT, MERGE, UPDATE … FROM, DELETE … USING, what writes in a WITH, and what cannot be \
                planned without its values or under our search_path. Where others than superusers have made functions that \
                planning could run with our rights, nothing is explained until `trusted_owners` names them. Postgres keeps no \
                plans of past calls.",
        confirm: "SELECT query FROM pg_stat_statements WHERE queryid = QUERYID; then EXPLAIN it: from Postgres 16 on with EXPLAIN \
                  (GENERIC_PLAN), before with PREPARE, SET plan_cache_mode = force_generic_plan and EXPLAIN EXECUTE.",
        act: "Where an index that the earlier plan used is gone or invalid, build it again (CREATE INDEX CONCURRENTLY). \
              Otherwise ANALYZE the tables of the plan, compare estimated with actual rows by EXPLAIN (ANALYZE, BUFFERS), and \
              look at what changed that day: settings, extensions, the amount of data. If the new plan is right, nothing is to be \
              done: after a week it is the usual one.",
    },
    source: PLANS,
    thresholds: &[
        Threshold {
            name: "minimum_factor",
            default: 2.0,
            unit: Unit::Ratio,
            why: "times the cost of the plan before, where an index of that plan is gone or invalid: the table did not grow by that \
                  in a day",
        },
        Threshold {
            name: "much",
            default: 10.0,
            unit: Unit::Ratio,
            why: "times that cost, where all indexes are there: tables that grow have other and dearer plans, and rightly so",
        },
        Threshold {
            name: "minimum_cost",
            default: 1_000.0,
            unit: Unit::Count,
            why: "in the planner's unit, a page read in order: 8 MB; below that nobody feels a whole table",
        },
        Threshold {
            name: "slower",
            default: FACTOR,
            unit: Unit::Ratio,
            why: "times the usual mean of its calls, as postgres.query_regressed has it",
        },
        Threshold {
            name: "minimum_growth",
            default: GROWTH,
            unit: Unit::Seconds,
            why: "more for each call, as postgres.query_regressed has it",
        },
        Threshold {
            name: "minimum_hours",
            default: 24.0,
            unit: Unit::Count,
            why: "hours with calls that must be on record before calls count as slower",
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
    let mut worse: Vec<Worse<'_>> = plans.seen.iter().filter_map(|planned| worse(sight, planned)).collect();
    worse.sort_by(|a, b| b.severity().cmp(&a.severity()).then(b.measure().total_cmp(&a.measure())));
    let Some(worst) = worse.first() else {
        return all_compared(plans).and_then(|()| all_shown(leaders(sight.seen)?, None));
    };
    let what = if let Why::Slower(_) = worst.why { "times as long" } else { "times the cost" };
    let leading = worse.iter().map(|one| one.leading(sight)).collect();
    let draft = finding(sight, &PLAN_REGRESSED, leading, |worst| worst.note.clone(), what, Unit::Ratio);
    Ok(draft
        .map(|draft| {
            draft.fix(
                "EXPLAIN it and compare with what it used to do: an index that is gone or invalid is built again with CREATE INDEX \
                 CONCURRENTLY; otherwise ANALYZE its tables. SELECT query FROM pg_stat_statements WHERE queryid = the number \
                 above; has its whole text.",
            )
        })
        .into_iter()
        .collect())
}

/// A statement that is worse off than before.
struct Worse<'a> {
    statement: Statement,
    planned: &'a Planned,
    before: &'a Earlier,
    why: Why<'a>,
}

enum Why<'a> {
    /// The plan before went by this index, which is gone or invalid.
    IndexGone(&'a str),
    Slower(&'a Past),
    /// By the planner's estimate.
    Dearer,
}

/// Beside the cheapest plan that it had in the days that are news: a second change does not make the first one good.
fn worse<'a>(sight: &Sight<'a, Postgres>, planned: &'a Planned) -> Option<Worse<'a>> {
    let is_news = |earlier: &&Earlier| seconds_between(earlier.changed, sight.now) <= sight.limit("news");
    let is_other = |earlier: &&Earlier| !earlier.plan.is_like(&planned.plan);
    let news = planned.earlier.iter().filter(is_news).filter(is_other);
    let before = news.min_by(|a, b| a.plan.cost.total_cmp(&b.plan.cost))?;
    let factor = factor(&planned.plan, &before.plan);
    let costs_at_least = |times: &str| factor >= sight.limit(times) && planned.plan.cost >= sight.limit("minimum_cost");
    let why = if let Some(index) = gone(sight, planned, before).filter(|_| costs_at_least("minimum_factor")) {
        Why::IndexGone(index)
    } else if let Some(past) = slower(sight, planned.query_id) {
        Why::Slower(past)
    } else if costs_at_least("much") {
        Why::Dearer
    } else {
        return None;
    };
    let statement = Statement { query_id: planned.query_id, query: planned.query.clone(), ..Statement::default() };
    Some(Worse { statement, planned, before, why })
}

/// An index of the plan before that is not there any more, or invalid.
fn gone<'a>(sight: &Sight<'_, Postgres>, planned: &Planned, before: &'a Earlier) -> Option<&'a str> {
    let there = sight.seen.structure.indexes.as_ref().ok()?;
    // What is invalid is never cut off.
    let is_cut_off = sight.seen.usage.as_ref().map_or(true, |usage| usage.is_cut_off);
    let is_there = |name: &str| match there.iter().find(|index| index.name == name) {
        Some(index) => index.is_valid,
        // Those of the server's own tables are not among them.
        None => is_cut_off || name.starts_with("pg_"),
    };
    let is_used = |name: &str| planned.plan.indexes().any(|used| used == name);
    before.plan.indexes().find(|name| !is_used(name) && !is_there(name))
}

fn slower<'a>(sight: &Sight<'a, Postgres>, query_id: i64) -> Option<&'a Past> {
    let past = sight.seen.statements.past.iter().find(|past| past.query_id == query_id)?;
    let is_known = f64::from(past.hours) >= sight.limit("minimum_hours");
    (is_known && past.is_slower(sight.limit("slower"), sight.limit("minimum_growth"))).then_some(past)
}

fn factor(now: &PlanShape, before: &PlanShape) -> f64 {
    now.cost / before.cost.max(LEAST_COST)
}

impl Worse<'_> {
    fn severity(&self) -> Severity {
        if let Why::Dearer = self.why { Severity::Info } else { Severity::Warning }
    }

    fn measure(&self) -> f64 {
        match self.why {
            Why::Slower(past) => past.factor(),
            Why::IndexGone(_) | Why::Dearer => factor(&self.planned.plan, &self.before.plan),
        }
    }

    fn leading(&self, sight: &Sight<'_, Postgres>) -> Leading<'_> {
        let limit = match self.why {
            Why::IndexGone(_) => "minimum_factor",
            Why::Slower(_) => "slower",
            Why::Dearer => "much",
        };
        let (severity, measure, limit) = (self.severity(), self.measure(), sight.limit(limit));
        Leading { statement: &self.statement, severity, measure, limit, note: self.told() }
    }

    /// `the plan since 2026-11-20 has Seq Scan of chunks in place of Index Scan of chunks by chunks_kind, at a cost of 2,100 and not
    /// 8`
    fn told(&self) -> String {
        let (now, before) = (&self.planned.plan, &self.before.plan);
        let steps = |steps: Vec<String>| match steps.len() {
            0 => "the same steps in another order".to_owned(),
            more if more > STEPS_TOLD => format!("{} and {} more", steps[..STEPS_TOLD].join(", "), more - STEPS_TOLD),
            _ => steps.join(", "),
        };
        let text = format!(
            "the plan since {} has {} in place of {}, at a cost of {} and not {} ({} times)",
            self.before.changed.strftime("%Y-%m-%d"),
            steps(now.beyond(before)),
            steps(before.beyond(now)),
            format_count(now.cost.round()),
            format_count(before.cost.round()),
            format_number(factor(now, before), Unit::Ratio)
        );
        match self.why {
            Why::IndexGone(index) => format!("{text}, for {index} is gone or invalid"),
            Why::Slower(past) => format!("{text}, and {}", regressions::told(past)),
            Why::Dearer => text,
        }
    }
}

/// Nothing bad among the statements that could be compared proves nothing about the others.
fn all_compared(plans: &Plans) -> Result<(), Unknown> {
    if let Some(reason) = plans.kept_from.clone() {
        return Err(Unknown { kind: UnknownKind::NotHere, reason });
    }
    let unexplained = |kind: NotPlanned| {
        let mut all = plans.unexplained.iter().filter(|one| one.kind == kind);
        let first = all.next()?;
        let (count, of) = (1 + all.count(), plans.seen.len() + plans.unexplained.len());
        Some(format!(
            "{count} of {of} statements could not be explained, the first (queryid {}) for: {}",
            first.query_id, first.reason
        ))
    };
    if let Some(reason) = unexplained(NotPlanned::Late) {
        return Err(Unknown { kind: UnknownKind::NotRead, reason });
    }
    // Whether we may read rows is for others to say.
    if let Some(reason) = unexplained(NotPlanned::Denied) {
        return Err(Unknown { kind: UnknownKind::NotHere, reason });
    }
    if plans.seen.is_empty() {
        return unexplained(NotPlanned::Refused)
            .map_or(Ok(()), |reason| Err(Unknown { kind: UnknownKind::NotHere, reason }));
    }
    if plans.seen.iter().all(|planned| !planned.is_known) {
        return Err(Unknown {
            kind: UnknownKind::NeedsHistory,
            reason: "plans are compared with those of the days before, and these are the first on the keeper's record"
                .to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{
        ago, change, finding, found_in, index, judged, past, plans, reading, status,
    };
    use crate::finding::Finding;
    use crate::observation::{Gap, Observation, Unplanned};

    const ID: &str = "postgres.plan_regressed";
    const DAY: f64 = 86_400.0;

    fn shape(node: &str, cost: f64) -> PlanShape {
        PlanShape { nodes: vec![format!("0 {node}")], cost }
    }

    /// What was until so many days ago.
    fn earlier(node: &str, cost: f64, days: f64) -> Earlier {
        Earlier { plan: shape(node, cost), changed: ago(days * DAY) }
    }

    fn seen(what: impl FnOnce(&mut Plans)) -> Postgres {
        change(|seen| {
            let mut changed = plans();
            what(&mut changed);
            seen.deep.as_mut().unwrap().plans = Ok(Some(changed));
        })
    }

    /// A whole table at that cost, and what was before.
    fn whole(cost: f64, before: Vec<Earlier>) -> Postgres {
        seen(|plans| {
            plans.seen[0].plan = shape("Seq Scan of chunks", cost);
            plans.seen[0].earlier = before;
        })
    }

    fn by_kind(cost: f64, days: f64) -> Vec<Earlier> {
        vec![earlier("Index Scan of chunks by chunks_kind", cost, days)]
    }

    /// The same where that index is there.
    fn with_index(mut seen: Postgres) -> Postgres {
        seen.structure.indexes.as_mut().unwrap().push(index("chunks_kind", &[3]));
        seen
    }

    fn of_plans(seen: Postgres) -> Option<Finding> {
        found_in(seen).into_iter().find(|found| found.check == ID)
    }

    #[test]
    fn a_lost_index_is_told_with_what_the_plan_does_instead() {
        let found = finding(ID, found_in(whole(2_100.0, by_kind(8.0, 2.0))));
        assert_eq!(found.severity, Severity::Warning);
        assert!(
            found.summary.contains(
                "the plan since 2026-11-19 has Seq Scan of chunks in place of Index Scan of chunks by chunks_kind, at a cost of 2,100 \
                 and not 8"
            ) && found.summary.contains("for chunks_kind is gone or invalid"),
            "{}",
            found.summary
        );
        assert_eq!(of_plans(whole(999.0, by_kind(8.0, 2.0))), None, "nobody feels that");
        assert_eq!(of_plans(whole(2_100.0, by_kind(8.0, 8.0))), None, "after a week it is the usual plan");
        assert!(of_plans(whole(2_100.0, by_kind(1_000.0, 1.0))).is_some());
    }

    #[test]
    fn where_the_tables_may_have_grown_only_much_is_told_and_nobody_is_woken() {
        let found = of_plans(with_index(whole(80_000.0, by_kind(8_000.0, 1.0)))).unwrap();
        assert_eq!(found.severity, Severity::Info);
        assert!(!found.summary.contains("gone"), "{}", found.summary);
        assert_eq!(of_plans(with_index(whole(70_000.0, by_kind(8_000.0, 1.0)))), None);
        let mut invalid = with_index(whole(70_000.0, by_kind(8_000.0, 1.0)));
        invalid.structure.indexes.as_mut().unwrap().last_mut().unwrap().is_valid = false;
        assert_eq!(of_plans(invalid).unwrap().severity, Severity::Warning);
    }

    #[test]
    fn calls_that_take_longer_since_are_told_before_what_only_seems_dearer() {
        let mut slower = with_index(whole(9_000.0, by_kind(8_000.0, 1.0)));
        slower.statements.past = vec![past(7, 0.009)];
        let other = slower.deep.as_mut().unwrap().plans.as_mut().unwrap().as_mut().unwrap();
        let dearer = Planned {
            query_id: 8,
            plan: shape("Seq Scan of documents", 1e6),
            earlier: vec![earlier("Index Scan of documents by chunks_kind", 8.0, 1.0)],
            ..other.seen[0].clone()
        };
        other.seen.push(dearer);
        let found = of_plans(slower.clone()).unwrap();
        assert_eq!((found.severity, found.offenders.len()), (Severity::Warning, 2));
        assert!(found.summary.contains("and a call takes 9 ms instead of 1.5 ms"), "{}", found.summary);
        slower.statements.past[0].hours = 23;
        let found = of_plans(slower).unwrap();
        assert_eq!((found.severity, found.offenders.len()), (Severity::Info, 1), "one day says too little of calls");
    }

    #[test]
    fn a_second_change_does_not_make_the_first_one_good() {
        let mut before = by_kind(8.0, 4.0);
        before.push(earlier("Bitmap Heap Scan of chunks", 5_000.0, 1.0));
        assert!(of_plans(whole(4_900.0, before.clone())).unwrap().summary.contains("and not 8"));
        before.push(earlier("Seq Scan of chunks", 0.0, 0.5));
        assert!(of_plans(whole(4_900.0, before)).unwrap().summary.contains("and not 8"), "of the same kind");
    }

    #[test]
    fn a_plan_that_cost_nothing_gives_a_number_that_can_be_kept() {
        let found = of_plans(whole(2_100.0, by_kind(0.0, 1.0))).unwrap();
        let kept: Finding = serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
        assert_eq!(kept, found);
    }

    #[test]
    fn what_was_not_compared_is_no_good_news() {
        let kind = |seen: Postgres| match status(ID, seen, None) {
            Status::Unknown(unknown) => (unknown.kind, unknown.reason),
            other => panic!("{other:?}"),
        };
        let unplanned = |kind| Unplanned { query_id: 9, kind, reason: "permission denied for table notes".into() };
        let with = |what| seen(move |plans: &mut Plans| plans.unexplained = vec![unplanned(what)]);
        let denied = kind(with(NotPlanned::Denied));
        assert_eq!(denied.0, UnknownKind::NotHere);
        assert!(denied.1.contains("1 of 2 statements"), "{}", denied.1);
        assert_eq!(kind(with(NotPlanned::Late)).0, UnknownKind::NotRead);
        assert_eq!(of_plans(with(NotPlanned::Refused)), None, "one without a type for its parameter");
        let refused = vec![unplanned(NotPlanned::Refused)];
        let none = kind(seen(|plans| *plans = Plans { unexplained: refused, ..Plans::default() }));
        assert_eq!(none.0, UnknownKind::NotHere);
        let kept = Plans { kept_from: Some("to plan could run f()".into()), ..Plans::default() };
        assert_eq!(kind(seen(|plans| *plans = kept)), (UnknownKind::NotHere, "to plan could run f()".to_owned()));
        assert_eq!(kind(seen(|plans| plans.seen[0].is_known = false)).0, UnknownKind::NeedsHistory);
        let hidden = change(|seen| seen.statements.leaders.as_mut().unwrap().as_mut().unwrap().hidden = 3);
        assert_eq!(kind(hidden).0, UnknownKind::NotRead);
        let watch = Observation::Postgres(reading(change(|seen| seen.deep = None)));
        assert!(judged(&watch, None).iter().all(|judgement| judgement.check != ID));
        let without = change(|seen| seen.deep.as_mut().unwrap().plans = Ok(None));
        assert_eq!(kind(without).0, UnknownKind::NotHere);
        let gap = change(|seen| seen.deep.as_mut().unwrap().plans = Err(Gap::new("cut off")));
        assert_eq!(kind(gap), (UnknownKind::NotRead, "cut off".to_owned()));
        let standby = change(|seen| {
            seen.server.in_recovery = true;
            seen.deep = None;
        });
        assert!(!matches!(status(ID, standby, None), Status::Unknown(_)));
    }
}
