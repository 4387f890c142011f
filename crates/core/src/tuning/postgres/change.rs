//! From an advice to the change of one setting: as a finding proposes it, and as a person asks for it.
//!
//! A setting changes how the server works for everybody, so it is no upkeep that nobody notices (routine): it is corrective,
//! for one statement takes it back within seconds. What a restart takes up is disruptive: whoever restarts the server later
//! gets the change. One that was not asked for rests for a day, so that its effect can be seen before the next.

use super::{Advice, Way};
use crate::finding::{Finding, Fingerprint, Offender, Target};
use crate::plan::PlanItem;
use crate::policy::{Consent, Policy, Situation, permit};
use crate::quantity::Value;
use crate::remedy::setting::{Change, Parameter, SettingValue};
use crate::remedy::{self, Proposal, Step};
use crate::system::SystemId;
use jiff::Timestamp;

/// The remedies: by a finding; by a finding or a person, for the next restart; by a person.
pub const ITSELF: &str = "postgres.change_setting";
pub const BY_RESTART: &str = "postgres.write_setting";
pub const BY_HAND: &str = "postgres.change_setting_as_asked";
pub const CHANGES_OF_SETTINGS: [&str; 3] = [ITSELF, BY_RESTART, BY_HAND];

/// The check whose finding they answer.
pub(super) const CHECK: &str = "postgres.settings_unsuited";

/// The evidence of such a finding that keeps us from acting on it by ourselves.
pub(crate) const HIDDEN_FILES: &str = "not looked at, and taken up by a reload";

/// Whether it is one of these remedies.
pub(crate) fn changes_settings(remedy: &str) -> bool {
    CHANGES_OF_SETTINGS.contains(&remedy)
}

impl Advice {
    /// The change, or why we do not make it.
    pub fn step(&self, system: &SystemId) -> Result<Step, String> {
        match &self.way {
            Way::Statement { .. } => {}
            Way::Elsewhere { place, .. } => return Err(format!("{place} keeps it: change it there")),
            Way::Written => {
                return Err(
                    "it is written and waits for a restart: restart the server in a window, or take it back".to_owned()
                );
            }
        }
        step(system, &self.setting, &self.current, &self.advised)
    }

    /// What a person is to expect of it.
    pub fn effect(&self) -> &'static str {
        effect(self.needs_restart)
    }
}

fn step(system: &SystemId, setting: &str, from: &str, to: &str) -> Result<Step, String> {
    Ok(Step::AlterSystem {
        system: system.clone(),
        setting: Parameter::find(setting)?,
        from: from.try_into()?,
        to: Change::Set { value: SettingValue::try_from(to)? },
    })
}

/// The change that the finding asks for of one of its settings; none where that is left to somebody.
pub(super) fn asked_for(finding: &Finding, offender: &Offender) -> Option<(Parameter, Step)> {
    let Target::Setting { name } = &offender.target else { return None };
    let evidence = finding.evidence.iter().find(|evidence| evidence.what == *name)?;
    let (Value::Text { text: from }, Some(Value::Text { text: to })) = (&evidence.value, &evidence.threshold) else {
        return None;
    };
    Some((Parameter::find(name).ok()?, step(&finding.system, name, from, to).ok()?))
}

/// What a person has to know who allows a reload: `files` are the settings that name those which we may not look at.
fn with_hidden(effect: &str, files: &str) -> String {
    if files.is_empty() {
        return effect.to_owned();
    }
    format!(
        "{effect}. A reload also takes up the files of {files}, at which we may not look: see that nobody has changed them"
    )
}

fn effect(needs_restart: bool) -> &'static str {
    if needs_restart {
        "written only; the next restart of the server takes it up, and we do not restart it"
    } else {
        "every session takes it up within moments; nothing is restarted"
    }
}

/// What the finding of unsuited settings asks for: one setting, those first that take no restart.
pub fn proposals(finding: &Finding, needs_restart: bool) -> Vec<Proposal> {
    let hidden = finding.evidence.iter().find(|evidence| evidence.what == HIDDEN_FILES);
    let hidden = hidden.map_or_else(String::new, |evidence| evidence.value.to_string());
    let changes = finding.offenders.iter().filter_map(|offender| {
        let (setting, step) = asked_for(finding, offender)?;
        let of_restart = setting.needs_restart();
        let expected = with_hidden(effect(of_restart), &hidden);
        Some((of_restart, Proposal { step, why: offender.note.clone(), expected }))
    });
    let mut changes: Vec<(bool, Proposal)> = changes.collect();
    changes.sort_by_key(|(of_restart, _)| *of_restart);
    changes.truncate(1);
    // What is done by itself is done with open eyes only; a person asks for it with `tune postgres --plan`.
    changes.retain(|(of_restart, _)| *of_restart == needs_restart && (needs_restart || hidden.is_empty()));
    changes.into_iter().map(|(_, proposal)| proposal).collect()
}

/// The plan's item for a change that a person asks for. `hidden_files` are those of the advice.
pub fn planned(
    advice: &Advice,
    hidden_files: &[String],
    system: &SystemId,
    policy: &Policy,
    situation: &Situation,
    now: Timestamp,
) -> Result<PlanItem, String> {
    let step = advice.step(system)?;
    let id = if advice.needs_restart { BY_RESTART } else { BY_HAND };
    let remedy = remedy::find(id).ok_or_else(|| format!("this version has no remedy {id}"))?;
    // An alert of the very thing does not hold back its cure.
    let finding = Fingerprint::of(CHECK, system, &Target::System);
    Ok(PlanItem {
        remedy: remedy.id.to_owned(),
        class: remedy.class,
        statement: step.statement(),
        why: advice.reason.clone(),
        expected: with_hidden(advice.effect(), &hidden_files.join(", ")),
        decision: permit(remedy, &step, &finding, policy, situation, Consent::default(), now),
        step,
        finding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Draft, Evidence};
    use crate::observation::Owner;
    use crate::policy::{Autonomy, Decision};
    use crate::severity::Severity;
    use crate::system::SystemKind;
    use crate::tuning::postgres::Weight;

    fn main_database() -> SystemId {
        SystemId::new(SystemKind::Postgres, "main")
    }

    fn now() -> Timestamp {
        "2026-11-22T02:30:00Z".parse().unwrap()
    }

    fn advice(setting: &str, current: &str, advised: &str) -> Advice {
        Advice {
            setting: setting.into(),
            current: current.into(),
            advised: advised.into(),
            reason: "a reason".into(),
            source: "a manual".into(),
            weight: Weight::Matters,
            needs_restart: setting == "shared_buffers",
            owner: Owner::Nobody,
            way: Way::Statement { sql: String::new() },
        }
    }

    fn unsuited(settings: &[(&str, &str, Option<&str>)]) -> Finding {
        let mut draft = Draft::new(Severity::Info, "they do not suit");
        let mut offenders = Vec::new();
        for (name, from, to) in settings {
            draft = match to {
                Some(to) => draft.against(*name, Value::text(*from), Value::text(*to), "a manual"),
                None => draft.saw(*name, Value::text(*from), "a manual"),
            };
            let target = Target::Setting { name: (*name).to_owned() };
            offenders.push(Offender { target, weight: 1.0, note: format!("{name}: a reason") });
        }
        Finding::from_draft("postgres.settings_unsuited", &main_database(), draft.offenders(offenders))
    }

    fn statements(finding: &Finding, remedy: &str) -> Vec<String> {
        let proposed = (remedy::find(remedy).unwrap().propose)(finding);
        proposed.iter().map(|proposal| proposal.step.statement()).collect()
    }

    #[test]
    fn one_setting_at_a_time_and_those_without_a_restart_first() {
        let all = [
            ("shared_buffers", "128MB", Some("4GB")),
            ("random_page_cost", "4", Some("1.1")),
            ("work_mem", "4MB", Some("8MB")),
        ];
        let finding = unsuited(&all);
        let reload = "ALTER SYSTEM SET random_page_cost = '1.1'; SELECT pg_reload_conf()";
        assert_eq!(statements(&finding, ITSELF), [reload]);
        assert_eq!(statements(&finding, BY_RESTART), [""; 0], "not before the others are done");
        let finding = unsuited(&all[..1]);
        assert_eq!(statements(&finding, ITSELF), [""; 0]);
        let written = "ALTER SYSTEM SET shared_buffers = '4GB'; SELECT pg_reload_conf()";
        assert_eq!(statements(&finding, BY_RESTART), [written]);
    }

    #[test]
    fn what_is_kept_elsewhere_or_left_to_people_is_not_proposed() {
        let others = [
            ("random_page_cost", "4", None),
            ("max_slot_wal_keep_size", "-1", Some("16GB")),
            ("shared_preload_libraries", "", Some("evil")),
            ("work_mem", "4MB", Some("8MB'; DROP TABLE users; --")),
        ];
        assert_eq!(statements(&unsuited(&others), ITSELF), [""; 0]);
        assert_eq!(statements(&unsuited(&others), BY_RESTART), [""; 0]);
    }

    #[test]
    fn a_person_gets_a_plan_of_one_step_or_the_reason_why_not() {
        let (policy, situation) = (Policy::default(), Situation::default());
        let plan = |advice: &Advice| planned(advice, &[], &main_database(), &policy, &situation, now());
        let item = plan(&advice("work_mem", "4MB", "8MB")).unwrap();
        assert_eq!((item.remedy.as_str(), item.class), (BY_HAND, crate::remedy::RiskClass::Corrective));
        assert!(matches!(item.decision, Decision::NeedsApproval { .. }), "{item:?}");
        let item = plan(&advice("shared_buffers", "128MB", "4GB")).unwrap();
        assert_eq!((item.remedy.as_str(), item.class), (BY_RESTART, crate::remedy::RiskClass::Disruptive));
        let free = Policy { autonomy: Autonomy::Auto, ..Policy::default() };
        let buffers = advice("shared_buffers", "128MB", "4GB");
        let item = planned(&buffers, &[], &main_database(), &free, &situation, now()).unwrap();
        assert!(matches!(item.decision, Decision::NeedsApproval { .. }), "no autonomy is enough: {item:?}");

        let left = plan(&advice("log_min_duration_statement", "-1", "1s")).unwrap_err();
        assert!(left.contains("values of statements"), "{left}");
        let mut kept = advice("work_mem", "4MB", "8MB");
        kept.way = Way::Elsewhere { place: "/etc/x.conf, line 3".into(), line: String::new() };
        assert_eq!(plan(&kept).unwrap_err(), "/etc/x.conf, line 3 keeps it: change it there");
        kept.way = Way::Written;
        assert!(plan(&kept).unwrap_err().starts_with("it is written and waits for a restart: "));
    }

    #[test]
    fn what_a_reload_takes_up_unseen_is_for_a_person_who_is_told_so() {
        let all = [("random_page_cost", "4", Some("1.1")), ("shared_buffers", "128MB", Some("4GB"))];
        let hide = |finding: &mut Finding| {
            let (what, value) = (HIDDEN_FILES.to_owned(), Value::text("hba_file"));
            finding.evidence.push(Evidence { what, value, threshold: None, source: "pg_settings".to_owned() });
        };
        let mut finding = unsuited(&all);
        hide(&mut finding);
        assert_eq!(statements(&finding, ITSELF), [""; 0]);
        let mut restart = unsuited(&all[1..]);
        hide(&mut restart);
        let proposed = (remedy::find(BY_RESTART).unwrap().propose)(&restart);
        assert!(proposed[0].expected.contains("the files of hba_file, at which we may not look"), "{proposed:?}");

        let (policy, situation) = (Policy::default(), Situation::default());
        let asked = |hidden: &[String]| {
            let advice = advice("work_mem", "4MB", "8MB");
            planned(&advice, hidden, &main_database(), &policy, &situation, now()).unwrap().expected
        };
        assert!(asked(&["hba_file".to_owned()]).contains("the files of hba_file, at which we may not look"));
        assert!(!asked(&[]).contains("look"));
    }
}
