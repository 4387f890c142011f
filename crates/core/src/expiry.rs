//! Which rows of a database are not kept for ever, as its configuration says.

mod contained;
mod partitions;

pub use contained::{Contained, PROVE, Sample, containing};
pub(crate) use partitions::restored_by;
pub use partitions::{DROP, ExpiredPartition, is_range, may_drop, planned_drop};

use crate::finding::{Fingerprint, Target};
use crate::plan::PlanItem;
use crate::policy::{Consent, Policy, Situation, permit};
use crate::quantity::{after, format_count, format_seconds};
use crate::remedy::{self, Step, StepState};
use crate::system::SystemId;
use jiff::Timestamp;

/// The remedy that carries such rules out. No finding asks for it: the rule does.
pub const REMEDY: &str = "postgres.delete_expired_rows";

/// Rows whose `column` is further back than `keep` are deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub database: String,
    pub schema: String,
    pub table: String,
    /// A date, a timestamp or a timestamp with time zone, the first column of an index.
    pub column: String,
    /// Seconds.
    pub keep: f64,
    /// Whether rows are put into the repository of backups before they are deleted.
    pub export: bool,
}

impl Rule {
    /// What the rule asks for at that moment. A whole hour: a plan that is made again within the hour is the same plan.
    pub fn step(&self, system: &SystemId, now: Timestamp) -> Step {
        let before = after(now, -self.keep).as_second();
        let before = before - before.rem_euclid(3600);
        Step::DeleteExpired {
            system: system.clone(),
            database: self.database.clone(),
            schema: self.schema.clone(),
            table: self.table.clone(),
            column: self.column.clone(),
            before: Timestamp::from_second(before).unwrap_or(Timestamp::MIN),
            keep_seconds: self.keep.ceil() as u64,
            export: self.export,
        }
    }
}

/// Whether one of the rules in force asks for that very step, or for more. A plan may be older than its rule.
pub fn is_asked_for(rules: &[(SystemId, Rule)], step: &Step) -> bool {
    let Step::DeleteExpired { system: at, database, schema, table, column, keep_seconds, export, .. } = step else {
        return false;
    };
    rules.iter().any(|(system, rule)| {
        system == at
            && (&rule.database, &rule.schema, &rule.table, &rule.column) == (database, schema, table, column)
            && rule.keep <= *keep_seconds as f64
            && (*export || !rule.export)
    })
}

/// What the rule means for a plan, by what its table holds; none when no row is due.
pub fn planned(
    rule: &Rule,
    step: Step,
    state: &StepState,
    policy: &Policy,
    situation: &Situation,
    now: Timestamp,
) -> Option<PlanItem> {
    let remedy = remedy::find(REMEDY)?;
    let StepState::Expired { rows: due, is_more, oldest, .. } = *state else { return None };
    if due == 0 && !is_more {
        return None;
    }
    let target = step.target();
    let finding = fingerprint(step.system(), &target);
    let rows = format!("{}{}", if is_more { "more than " } else { "" }, format_count(due as f64));
    let age = oldest.map(|oldest| format!(", the oldest from {oldest:.0}")).unwrap_or_default();
    Some(PlanItem {
        remedy: remedy.id.to_owned(),
        class: remedy.class,
        statement: step.statement(),
        why: format!("{rows} rows of {} are older than {}{age}", rule.table, format_seconds(rule.keep)),
        expected: expected(rule.export).to_owned(),
        decision: permit(remedy, &step, &finding, policy, situation, Consent::default(), now),
        step,
        finding,
    })
}

/// What a rule leaves although it does not keep it.
pub fn left(state: &StepState) -> Option<String> {
    let StepState::Expired { referred: referred @ 1.., is_more, .. } = *state else { return None };
    let (count, more) = (format_count(referred as f64), if is_more { "more than " } else { "" });
    Some(format!("{more}{count} rows are expired and stay: rows of other tables refer to them"))
}

fn expected(export: bool) -> &'static str {
    if export {
        "they are in the repository of backups (`groundskeeper backup exports`) and then gone from the table, a batch at a \
         time; its next vacuum makes their room usable again"
    } else {
        "they are gone for good, a batch at a time; its next vacuum makes their room usable again"
    }
}

/// By what the record knows the rule's work on a table.
fn fingerprint(system: &SystemId, table: &Target) -> Fingerprint {
    Fingerprint::of(REMEDY, system, table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Autonomy, Decision, Guard};
    use crate::system::SystemKind;

    fn now() -> Timestamp {
        "2026-11-22T02:34:56Z".parse().unwrap()
    }

    fn rule() -> Rule {
        let (database, schema, table) = ("docrag".into(), "public".into(), "user_sessions".into());
        Rule { database, schema, table, column: "expires_at".into(), keep: 30.0 * 86_400.0, export: false }
    }

    fn main_database() -> SystemId {
        SystemId::new(SystemKind::Postgres, "main")
    }

    #[test]
    fn rows_are_due_from_a_whole_hour_on() {
        let Step::DeleteExpired { before, .. } = rule().step(&main_database(), now()) else { panic!() };
        assert_eq!(before, "2026-10-23T02:00:00Z".parse().unwrap());
        let a_little_later = after(now(), 60.0);
        assert_eq!(rule().step(&main_database(), a_little_later), rule().step(&main_database(), now()));
    }

    #[test]
    fn a_step_is_asked_for_by_a_rule_that_keeps_no_longer() {
        let step = rule().step(&main_database(), now());
        let asked = |rule: Rule| is_asked_for(&[(main_database(), rule)], &step);
        assert!(asked(rule()) && asked(Rule { keep: 60.0, ..rule() }));
        assert!(!asked(Rule { keep: 365.0 * 86_400.0, ..rule() }), "somebody has thought better of it");
        assert!(!asked(Rule { column: "made_at".into(), ..rule() }));
        assert!(!is_asked_for(&[], &step));
    }

    #[test]
    fn a_rule_that_exports_asks_for_no_step_without_and_another_bears_one_with() {
        let exporting = Rule { export: true, ..rule() };
        let asked = |rule: &Rule, step: &Step| is_asked_for(&[(main_database(), rule.clone())], step);
        let (with, without) = (exporting.step(&main_database(), now()), rule().step(&main_database(), now()));
        assert!(!asked(&exporting, &without), "approved before the rule began to export");
        assert!(asked(&exporting, &with) && asked(&rule(), &with));
        assert!(with.statement().ends_with("each row once it is in the repository of backups"));
        let old: Step = serde_json::from_str(&serde_json::to_string(&without).unwrap()).unwrap();
        assert_eq!(old, without, "a journal from before knows no exports");
        assert!(!serde_json::to_string(&without).unwrap().contains("export"));
    }

    #[test]
    fn a_rule_without_rows_plans_nothing_and_with_rows_it_asks_the_guards() {
        let plan = |state: &StepState, autonomy, window: &str| {
            let policy = Policy { autonomy, windows: vec![window.parse().unwrap()], ..Policy::default() };
            let step = rule().step(&main_database(), now());
            planned(&rule(), step, state, &policy, &Situation::default(), now())
        };
        let due = |rows| StepState::Expired {
            rows,
            is_more: false,
            oldest: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            referred: 0,
        };
        assert_eq!(plan(&due(0), Autonomy::Assist, "Sun 02:00-05:00"), None);
        assert_eq!(plan(&StepState::Gone, Autonomy::Assist, "Sun 02:00-05:00"), None);
        let item = plan(&due(1_200), Autonomy::Assist, "Sun 02:00-05:00").unwrap();
        assert_eq!(item.why, "1,200 rows of user_sessions are older than 30 d, the oldest from 2026-01-01T00:00:00Z");
        assert_eq!(item.decision, Decision::Do);
        let outside = plan(&due(1_200), Autonomy::Assist, "Sat 02:00-05:00").unwrap();
        assert!(matches!(outside.decision, Decision::Skip { guard: Guard::Window, .. }), "{outside:?}");
        let watching = plan(&due(1_200), Autonomy::Observe, "Sun 02:00-05:00").unwrap();
        assert!(matches!(watching.decision, Decision::NeedsApproval { .. }), "{watching:?}");
    }

    #[test]
    fn rows_that_others_refer_to_are_told_and_no_reason_to_act() {
        let state = |rows, is_more, referred| StepState::Expired { rows, is_more, oldest: None, referred };
        let policy = Policy { autonomy: Autonomy::Assist, ..Policy::default() };
        let planned = |state: &StepState| {
            let step = rule().step(&main_database(), now());
            planned(&rule(), step, state, &policy, &Situation::default(), now()).is_some()
        };
        assert!(!planned(&state(0, false, 1_200)));
        assert!(planned(&state(0, true, 200_001)), "nobody has looked at the others");
        assert_eq!(left(&state(9, false, 0)), None);
        let told = "1,200 rows are expired and stay: rows of other tables refer to them";
        assert_eq!(left(&state(0, false, 1_200)).as_deref(), Some(told));
        let step = rule().step(&main_database(), now());
        let verdict = step.verify(&state(40, false, 3), &state(0, false, 3));
        let helped = "40 rows deleted, none of that age is left; 3 stay, because others refer to them";
        assert_eq!(verdict, crate::remedy::Verification::Helped(helped.into()));
    }
}
