//! From an advice to the change of one setting, as a person asks for it.
//!
//! A setting changes how the server works for everybody, and a reload takes up whatever else was written meanwhile: nothing of it is
//! done by itself. One statement takes it back within seconds, so it waits for no window (corrective). What a restart takes up is
//! disruptive: whoever restarts the server later gets the change.

use super::{Advice, Way};
use crate::finding::{Fingerprint, Target};
use crate::plan::PlanItem;
use crate::policy::{Consent, Policy, Situation, permit};
use crate::remedy::setting::{Change, Parameter, SettingValue};
use crate::remedy::{self, Step};
use crate::system::SystemId;
use jiff::Timestamp;

/// The remedies: of what every session takes up, and of what the next restart does.
pub const CHANGE: &str = "postgres.change_setting";
pub const WRITE: &str = "postgres.write_setting";

/// The check that gives the advice.
const CHECK: &str = "postgres.settings_unsuited";

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
        Ok(Step::AlterSystem {
            system: system.clone(),
            setting: Parameter::find(&self.setting)?,
            from: self.current.as_str().try_into()?,
            to: Change::Set { value: SettingValue::try_from(self.advised.as_str())? },
        })
    }

    /// What a person is to expect of it, and has to know who allows it.
    pub fn effect(&self, hidden_files: &[String]) -> String {
        let effect = if self.needs_restart {
            "written only; the next restart of the server takes it up, and we do not restart it"
        } else {
            "every session takes it up within moments; nothing is restarted"
        };
        let risk = Parameter::find(&self.setting).map_or("not known", Parameter::risk);
        let unseen = if hidden_files.is_empty() {
            String::new()
        } else {
            format!(
                " (the files of {} are hidden from us: see that nobody is at work on them)",
                hidden_files.join(", ")
            )
        };
        format!(
            "{effect}. What may get worse: {risk}. The reload also takes up what else was written to the server's files{unseen}"
        )
    }
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
    let id = if advice.needs_restart { WRITE } else { CHANGE };
    let remedy = remedy::find(id).ok_or_else(|| format!("this version has no remedy {id}"))?;
    // An alert of the very thing does not hold back its cure.
    let finding = Fingerprint::of(CHECK, system, &Target::System);
    Ok(PlanItem {
        remedy: remedy.id.to_owned(),
        class: remedy.class,
        statement: step.statement(),
        why: advice.reason.clone(),
        expected: advice.effect(hidden_files),
        decision: permit(remedy, &step, &finding, policy, situation, Consent::default(), now),
        step,
        finding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Owner;
    use crate::policy::{Autonomy, Decision};
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

    #[test]
    fn a_person_gets_a_plan_of_one_step_or_the_reason_why_not() {
        let (policy, situation) = (Policy::default(), Situation::default());
        let plan = |advice: &Advice| planned(advice, &[], &main_database(), &policy, &situation, now());
        let item = plan(&advice("work_mem", "4MB", "8MB")).unwrap();
        assert_eq!((item.remedy.as_str(), item.class), (CHANGE, crate::remedy::RiskClass::Corrective));
        assert!(matches!(item.decision, Decision::NeedsApproval { .. }), "{item:?}");
        let item = plan(&advice("shared_buffers", "128MB", "4GB")).unwrap();
        assert_eq!((item.remedy.as_str(), item.class), (WRITE, crate::remedy::RiskClass::Disruptive));
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
    fn who_allows_it_is_told_what_may_get_worse_and_what_else_a_reload_takes_up() {
        let (policy, situation) = (Policy::default(), Situation::default());
        let asked = |setting: &str, hidden: &[String]| {
            let advice = advice(setting, "128MB", "4GB");
            planned(&advice, hidden, &main_database(), &policy, &situation, now()).unwrap().expected
        };
        let told = asked("shared_buffers", &["hba_file".to_owned()]);
        assert!(told.contains("the server does not start"), "{told}");
        assert!(told.contains("the files of hba_file are hidden from us"), "{told}");
        let told = asked("work_mem", &[]);
        assert!(
            told.contains("several sessions may take it") && told.contains("written to the server's files"),
            "{told}"
        );
        assert!(!told.contains("hidden"), "{told}");
    }

    #[test]
    fn nothing_is_proposed_by_itself_at_any_autonomy() {
        for id in [CHANGE, WRITE] {
            let remedy = remedy::find(id).unwrap();
            assert!(remedy.check.is_none(), "{id}");
        }
    }
}
