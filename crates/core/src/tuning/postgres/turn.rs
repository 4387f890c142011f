//! Which setting is changed next, by what became of earlier changes.
//!
//! All settings of a server are one subject, of which one is proposed at a time: without turns, one that is refused again and
//! again would keep all others waiting, and one that a person has undone would come back.

use super::change::{CHECK, asked_for};
use crate::finding::{Finding, Offender};
use crate::policy::{Outcome, PastAction};
use crate::quantity::seconds_between;
use crate::remedy::setting::Parameter;
use jiff::Timestamp;
use std::borrow::Cow;

/// How long a setting is passed over after a try in vain, seconds: each of a few others has its day meanwhile.
const PASSED_OVER: f64 = 3.0 * 86_400.0;

/// The finding with those of its settings whose turn it is: never one that a person has undone and not asked for since; first
/// those that were not tried in vain lately, and where there are none, the one that has waited longest.
pub(crate) fn in_turn<'f>(finding: &'f Finding, history: &[PastAction], now: Timestamp) -> Cow<'f, Finding> {
    if finding.check != CHECK || history.is_empty() {
        return Cow::Borrowed(finding);
    }
    let mut due: Vec<(Option<Timestamp>, Offender)> = Vec::new();
    for offender in &finding.offenders {
        let Some((setting, step)) = asked_for(finding, offender) else { continue };
        let past = Past::of(history, &step.subject(), setting);
        if !past.is_undone(history) {
            due.push((past.tried_in_vain(now), offender.clone()));
        }
    }
    if due.iter().any(|(tried, _)| tried.is_none()) {
        due.retain(|(tried, _)| tried.is_none());
    }
    due.sort_by_key(|(tried, _)| *tried);
    let offenders = due.into_iter().map(|(_, offender)| offender).collect();
    Cow::Owned(Finding { offenders, ..finding.clone() })
}

/// The changes of one setting that are over, without those that put one back; oldest first.
struct Past<'h>(Vec<&'h PastAction>);

impl<'h> Past<'h> {
    fn of(history: &'h [PastAction], subject: &str, setting: Parameter) -> Self {
        let is_own = |action: &&PastAction| action.subject == subject && action.setting == Some(setting);
        let is_over = |action: &&PastAction| action.undoes.is_none() && action.outcome != Outcome::Running;
        let mut own: Vec<&PastAction> = history.iter().filter(is_own).filter(is_over).collect();
        own.sort_by_key(|action| (action.at, action.id));
        Self(own)
    }

    /// Whether the last change that helped was put back. Nobody but a person does that: by itself only what did not help is.
    fn is_undone(&self, history: &[PastAction]) -> bool {
        let Some(last) = self.0.iter().rfind(|action| action.outcome == Outcome::Helped) else { return false };
        let puts_back = |action: &PastAction| {
            action.undoes == Some(last.id) && matches!(action.outcome, Outcome::Helped | Outcome::Running)
        };
        history.iter().any(puts_back)
    }

    /// When the last try came to nothing; none where it helped, is long ago, or there was none.
    fn tried_in_vain(&self, now: Timestamp) -> Option<Timestamp> {
        let last = self.0.last().filter(|last| last.outcome != Outcome::Helped)?;
        (seconds_between(last.at, now) < PASSED_OVER).then_some(last.at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BY_HAND, ITSELF};
    use super::*;
    use crate::finding::{Draft, Fingerprint, Target};
    use crate::plan::plan;
    use crate::policy::{Autonomy, Decision, Guard, Policy, Situation};
    use crate::quantity::{Value, after};
    use crate::remedy::RiskClass;
    use crate::severity::Severity;
    use crate::system::{SystemId, SystemKind};

    const HOUR: f64 = 3600.0;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn main_database() -> SystemId {
        SystemId::new(SystemKind::Postgres, "main")
    }

    /// Three settings that do not suit.
    fn finding() -> Finding {
        let mut draft = Draft::new(Severity::Info, "they do not suit");
        let mut offenders = Vec::new();
        for (name, from, to) in
            [("random_page_cost", "4", "1.1"), ("work_mem", "4MB", "8MB"), ("shared_buffers", "128MB", "4GB")]
        {
            draft = draft.against(name, Value::text(from), Value::text(to), "a manual");
            let target = Target::Setting { name: name.to_owned() };
            offenders.push(Offender { target, weight: 1.0, note: name.to_owned() });
        }
        Finding::from_draft(CHECK, &main_database(), draft.offenders(offenders))
    }

    fn ran(id: i64, remedy: &str, setting: Parameter, hours_ago: f64, outcome: Outcome) -> PastAction {
        PastAction {
            id,
            remedy: remedy.to_owned(),
            class: RiskClass::Corrective,
            subject: "postgres.main settings".to_owned(),
            at: after(now(), -hours_ago * HOUR),
            outcome,
            undoes: None,
            setting: Some(setting),
        }
    }

    fn undid(id: i64, undone: i64, setting: Parameter, hours_ago: f64, outcome: Outcome) -> PastAction {
        PastAction { undoes: Some(undone), ..ran(id, ITSELF, setting, hours_ago, outcome) }
    }

    /// The setting that is planned at `auto`, and the guard that holds it back.
    fn planned(history: Vec<PastAction>) -> Vec<(String, Option<Guard>)> {
        let policy = Policy { autonomy: Autonomy::Auto, ..Policy::default() };
        let situation = Situation { history, systems: 5, ..Situation::default() };
        let items = plan(&[finding()], &policy, &situation, now()).items;
        let told = items.iter().map(|item| {
            let guard = if let Decision::Skip { guard, .. } = item.decision { Some(guard) } else { None };
            (item.step.setting().unwrap().to_string(), guard)
        });
        told.collect()
    }

    fn one(setting: &str, guard: Option<Guard>) -> Vec<(String, Option<Guard>)> {
        vec![(setting.to_owned(), guard)]
    }

    use Outcome::{Abandoned, DidNotHelp, Failed, Helped, Running};
    use Parameter::{RandomPageCost, WorkMem};

    #[test]
    fn a_refused_change_rests_for_six_hours_and_then_another_one_has_its_turn() {
        assert_eq!(planned(Vec::new()), one("random_page_cost", None));
        let refused = |hours_ago: f64| planned(vec![ran(1, ITSELF, RandomPageCost, hours_ago, Abandoned)]);
        assert_eq!(refused(5.9), one("work_mem", Some(Guard::Cooldown)));
        assert_eq!(refused(6.0), one("work_mem", None));
        let both = |first: f64, second: f64| {
            let history =
                vec![ran(1, ITSELF, RandomPageCost, first, Abandoned), ran(2, ITSELF, WorkMem, second, Abandoned)];
            planned(history)
        };
        // Then what takes a restart, which a person has to allow, and which must not be in the way of the others for good.
        assert_eq!(both(20.0, 10.0), one("shared_buffers", None));
        assert_eq!(both(72.0, 10.0), one("random_page_cost", None));
    }

    #[test]
    fn a_person_may_ask_again_at_once() {
        let remedy = crate::remedy::find(BY_HAND).unwrap();
        let (_, step) = asked_for(&finding(), &finding().offenders[0]).unwrap();
        let history = vec![ran(1, BY_HAND, RandomPageCost, 0.01, Abandoned), ran(2, ITSELF, WorkMem, 0.01, Helped)];
        let situation = Situation { history, systems: 5, ..Situation::default() };
        let about = Fingerprint::of(CHECK, &main_database(), &Target::System);
        let consent = crate::policy::Consent { approved: true, any_time: true };
        let decision = crate::policy::permit(remedy, &step, &about, &Policy::default(), &situation, consent, now());
        assert_eq!(decision, Decision::Do);
    }

    #[test]
    fn what_a_person_undid_is_not_done_again_until_somebody_asks_for_it() {
        let year = 365.0 * 24.0;
        let mut history =
            vec![ran(1, ITSELF, RandomPageCost, year, Helped), undid(2, 1, RandomPageCost, year - 1.0, Helped)];
        assert_eq!(planned(history.clone()), one("work_mem", None));
        // It was asked for, and in vain.
        history.push(ran(3, BY_HAND, RandomPageCost, 900.0, Failed));
        assert_eq!(planned(history.clone()), one("work_mem", None));
        history.push(ran(4, BY_HAND, RandomPageCost, 800.0, Helped));
        assert_eq!(planned(history), one("random_page_cost", None));

        let failed =
            vec![ran(1, ITSELF, RandomPageCost, year, Helped), undid(2, 1, RandomPageCost, year - 1.0, Failed)];
        assert_eq!(planned(failed), one("random_page_cost", None), "it is still changed");
        // What did not help was put back by ourselves.
        let in_vain = vec![ran(1, ITSELF, RandomPageCost, 50.0, DidNotHelp), undid(2, 1, RandomPageCost, 49.9, Helped)];
        assert_eq!(planned(in_vain), one("work_mem", None), "only its turn is over");
    }

    #[test]
    fn it_rests_for_a_day_after_any_change_of_settings_on_the_server() {
        for remedy in super::super::CHANGES_OF_SETTINGS {
            let told = |hours_ago: f64| planned(vec![ran(1, remedy, Parameter::TrackIoTiming, hours_ago, Helped)]);
            assert_eq!(told(23.9), one("random_page_cost", Some(Guard::Cooldown)), "{remedy}");
            assert_eq!(told(24.0), one("random_page_cost", None), "{remedy}");
        }
        assert_eq!(
            planned(vec![undid(2, 1, Parameter::TrackIoTiming, 1.0, Running)]),
            one("random_page_cost", Some(Guard::Busy))
        );
    }

    #[test]
    fn three_failures_in_three_days_call_a_person_and_what_put_them_back_does_not_count() {
        let failures = |number: i64| {
            (0..number).flat_map(|n| {
                let ago = 25.0 + 22.0 * n as f64;
                let other = Parameter::TrackIoTiming;
                [ran(2 * n, ITSELF, other, ago, Failed), undid(2 * n + 1, 2 * n, other, ago - 0.01, Helped)]
            })
        };
        assert_eq!(planned(failures(2).collect()), one("random_page_cost", None));
        assert_eq!(planned(failures(3).collect()), one("random_page_cost", Some(Guard::Ineffective)));
        // In a row within an hour, with an undo after each.
        let quick: Vec<PastAction> =
            failures(3).map(|action| PastAction { at: after(now(), -60.0 + action.id as f64), ..action }).collect();
        assert_eq!(planned(quick), one("random_page_cost", Some(Guard::Breaker)));
    }
}
