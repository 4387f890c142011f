//! Is the configuration still the one that somebody accepted?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Unknown, UnknownKind};
use crate::finding::Draft;
use crate::observation::{Drift, Postgres};
use crate::quantity::Value;
use crate::severity::Severity;

pub static SETTINGS_DRIFTED: Check = Check {
    id: "postgres.settings_drifted",
    title: "Settings are not those that were accepted",
    runbook: Runbook {
        means: "Somebody or something changed how the server runs. If it was meant, it should be known; if it was not, the \
                next trouble may come from it.",
        confirm: "SELECT name, setting, unit, source, sourcefile, sourceline FROM pg_settings WHERE source NOT IN \
                  ('default', 'override', 'client', 'session') ORDER BY name;",
        act: "Find out who changed it and why: the file or ALTER SYSTEM is named. If it is right, `groundskeeper accept \
              postgres.NAME` makes the present configuration the accepted one. If not, take it back where it was changed: \
              ALTER SYSTEM RESET name; or the line in the file; then SELECT pg_reload_conf().",
    },
    source: "pg_settings against the accepted configuration in the record; the first reading of the keeper accepts what it sees",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(settings_drifted),
};

fn settings_drifted(sight: &Sight<'_, Postgres>) -> Judged {
    let settings = sight.seen.settings.as_ref()?;
    let Some(accepted) = &sight.seen.accepted else {
        return Err(Unknown {
            kind: UnknownKind::NeedsHistory,
            reason: "settings are compared with those that were accepted, which the keeper remembers".to_owned(),
        });
    };
    if accepted.sees_all != sight.seen.access.sees_all() {
        return Err(Unknown {
            kind: UnknownKind::NotRead,
            reason:
                "the configuration was accepted when we had other rights, and saw other settings; accept it again: \
                     groundskeeper accept postgres.NAME, with the name of this system"
                    .to_owned(),
        });
    }
    let drift = accepted.drift(settings);
    let Some(first) = drift.first() else { return Ok(Vec::new()) };
    let day = accepted.at.strftime("%Y-%m-%d");
    let summary = if drift.len() == 1 {
        format!("{} {}", first.setting, change(first))
    } else {
        let names: Vec<&str> = drift.iter().take(5).map(|one| one.setting.as_str()).collect();
        let more = if drift.len() > 5 { " …" } else { "" };
        format!("{} settings are not those accepted on {day}: {}{more}", drift.len(), names.join(", "))
    };
    let mut draft = Draft::new(Severity::Warning, summary);
    for one in drift.iter().take(30) {
        draft = draft.saw(one.setting.clone(), Value::text(change(one)), "pg_settings");
    }
    let draft = draft.saw("accepted", Value::text(format!("{day} by {}", accepted.by)), "the record").fix(format!(
        "If this is wanted: groundskeeper accept postgres.NAME, with the name of this system. If not, take it back where it was \
         changed, such as ALTER SYSTEM RESET {}; SELECT pg_reload_conf();",
        first.setting
    ));
    Ok(vec![draft])
}

fn change(one: &Drift) -> String {
    let or_default = |value: &Option<String>| value.clone().unwrap_or_else(|| "its default".to_owned());
    format!("is {} and was accepted as {}: set by {}", or_default(&one.now), or_default(&one.accepted), one.owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{finding, found_in, healthy, setting, status};
    use crate::observation::AcceptedSetting;
    use crate::remedy::setting::{Change, Parameter};
    use crate::remedy::{Step, StepState};
    use crate::system::{SystemId, SystemKind};

    fn changed(what: impl FnOnce(&mut Postgres)) -> Postgres {
        let mut seen = healthy();
        what(&mut seen);
        seen
    }

    fn settings(what: impl FnOnce(&mut Vec<crate::observation::Setting>)) -> Postgres {
        changed(|seen| what(&mut seen.settings.as_mut().unwrap().list))
    }

    #[test]
    fn a_changed_a_new_and_a_vanished_setting_are_told_with_both_values() {
        let seen = settings(|list| {
            let one = list.iter_mut().find(|one| one.name == "work_mem").unwrap();
            one.value = "65536".into();
            one.file = Some("/pg/postgresql.auto.conf".into());
        });
        let found = finding("postgres.settings_drifted", found_in(seen));
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(found.summary, "work_mem is 64MB and was accepted as 32MB: set by ALTER SYSTEM");

        let seen = settings(|list| {
            list.retain(|one| one.name != "log_temp_files");
            list.push(setting("geqo", "off", None));
        });
        let found = finding("postgres.settings_drifted", found_in(seen));
        assert_eq!(found.summary, "2 settings are not those accepted on 2026-11-21: geqo, log_temp_files");
        let told: Vec<String> = found.evidence.iter().map(|one| one.value.to_string()).collect();
        assert!(told[0].starts_with("is off and was accepted as its default"), "{told:?}");
        assert!(told[1].starts_with("is its default and was accepted as 10MB"), "{told:?}");
    }

    #[test]
    fn what_the_server_or_our_session_works_out_is_no_drift() {
        for source in ["override", "client", "user", "dynamic default"] {
            let seen = settings(|list| {
                let mut own = setting("geqo", "off", None);
                own.source = source.into();
                list.push(own);
            });
            assert_eq!(found_in(seen), [], "{source}");
        }
        let seen = settings(|list| {
            let mut written = setting("geqo", "on", None);
            written.boot = Some("on".into());
            list.push(written);
        });
        assert_eq!(found_in(seen), [], "a default that was written down");
    }

    #[test]
    fn what_a_failover_rewrites_is_no_drift_even_where_an_older_record_has_it() {
        for name in ["primary_conninfo", "primary_slot_name", "recovery_target_timeline", "synchronous_standby_names"] {
            let come = settings(|list| list.push(setting(name, "b", None)));
            assert_eq!(found_in(come), [], "{name}");
            let gone = changed(|seen| {
                let accepted = AcceptedSetting { value: "a".into(), owner: "ALTER SYSTEM".into() };
                seen.accepted.as_mut().unwrap().settings.insert(name.to_owned(), accepted);
            });
            assert_eq!(found_in(gone), [], "{name}");
        }
    }

    fn change(value: &str) -> Step {
        let system = SystemId::new(SystemKind::Postgres, "main");
        let to = Change::Set { value: value.try_into().unwrap() };
        Step::AlterSystem { system, setting: Parameter::WorkMem, from: "32MB".try_into().unwrap(), to }
    }

    fn state(value: &str, pending_restart: bool) -> StepState {
        let (value, owner) = (value.to_owned(), "ALTER SYSTEM".to_owned());
        StepState::Setting { value, unit: Some("kB".into()), owner, line: None, pending_restart }
    }

    /// The server has `work_mem` so, read so many seconds after our action was over.
    fn told(value: &str, late: f64) -> Vec<String> {
        let mut seen = settings(|list| {
            let one = list.iter_mut().find(|one| one.name == "work_mem").unwrap();
            (one.value, one.file) = (value.into(), Some("/pg/postgresql.auto.conf".into()));
        });
        let accepted = seen.accepted.as_mut().unwrap();
        let now = accepted.at;
        assert!(accepted.take(7, &change("64MB"), &state("32MB", false), &state("64MB", false), now));
        accepted.at_reading(crate::quantity::after(now, late));
        found_in(seen).into_iter().map(|finding| finding.summary).collect()
    }

    #[test]
    fn what_we_changed_ourselves_is_accepted_and_what_comes_after_it_is_not() {
        assert_eq!(told("65536", 30.0), [""; 0]);
        assert_eq!(told("32768", -1.0), [""; 0], "a reading that was under way saw the old value");
        assert_eq!(told("32768", 30.0), ["work_mem is 32MB and was accepted as 64MB: set by ALTER SYSTEM"]);
        assert_eq!(told("8192", -1.0).len(), 1);
    }

    #[test]
    fn what_waits_for_a_restart_may_have_either_value() {
        let waiting = |value: &str| {
            let mut seen = settings(|list| {
                list.iter_mut().find(|one| one.name == "work_mem").unwrap().value = value.into();
            });
            let accepted = seen.accepted.as_mut().unwrap();
            let now = accepted.at;
            accepted.take(7, &change("64MB"), &state("32MB", false), &state("32MB", true), now);
            accepted.at_reading(crate::quantity::after(now, 86_400.0));
            found_in(seen).len()
        };
        assert_eq!((waiting("32768"), waiting("65536"), waiting("8192")), (0, 0, 1));
    }

    /// Our change of `work_mem` waits for a restart; then the server has the value, read so many seconds later.
    fn waited(value: &str, is_pending: bool, late: f64) -> (Postgres, bool) {
        let mut seen = settings(|list| {
            let one = list.iter_mut().find(|one| one.name == "work_mem").unwrap();
            (one.value, one.pending_restart) = (value.into(), is_pending);
        });
        let accepted = seen.accepted.as_mut().unwrap();
        let now = accepted.at;
        accepted.take(7, &change("64MB"), &state("32MB", false), &state("32MB", true), now);
        let is_over = accepted.at_restart(seen.settings.as_ref().unwrap(), crate::quantity::after(now, late));
        (seen, is_over)
    }

    #[test]
    fn a_restart_takes_our_change_up_and_then_it_is_accepted_and_over() {
        let (seen, is_over) = waited("65536", false, 30.0);
        let accepted = seen.accepted.as_ref().unwrap();
        assert!(is_over && accepted.changed.is_empty());
        assert_eq!(accepted.settings["work_mem"].value, "64MB");
        assert_eq!(found_in(seen.clone()), []);
        // From now on the old value is drift.
        let mut back = seen;
        back.settings.as_mut().unwrap().list.iter_mut().find(|one| one.name == "work_mem").unwrap().value =
            "32768".into();
        assert_eq!(finding("postgres.settings_drifted", found_in(back)).severity, Severity::Warning);
    }

    #[test]
    fn a_change_that_somebody_took_back_before_the_restart_is_over_and_nothing_of_it_is_accepted() {
        let (seen, is_over) = waited("32768", false, 30.0);
        let accepted = seen.accepted.as_ref().unwrap();
        assert!(is_over && accepted.changed.is_empty());
        assert_eq!(accepted.settings["work_mem"].value, "32MB");
        for (value, is_pending, late) in [("32768", true, 30.0), ("65536", true, 30.0), ("32768", false, -1.0)] {
            let (seen, is_over) = waited(value, is_pending, late);
            assert!(!is_over && seen.accepted.unwrap().changed.contains_key("work_mem"), "{value} {is_pending} {late}");
        }
    }

    #[test]
    fn what_waits_is_said_to_be_ours_only_while_the_line_is() {
        let (mut seen, _) = waited("32768", true, 30.0);
        let by = |seen: &Postgres| {
            let settings = seen.settings.as_ref().unwrap();
            seen.accepted.as_ref().unwrap().waits_by(settings.get("work_mem").unwrap(), settings)
        };
        assert_eq!(by(&seen), None, "the line is hidden from us");
        for (line, action) in [("65536", Some(7)), ("64MB", Some(7)), ("48MB", None)] {
            seen.settings.as_mut().unwrap().written.insert("work_mem".into(), line.into());
            assert_eq!(by(&seen), action, "{line}");
        }
    }

    #[test]
    fn while_an_action_is_under_way_its_own_value_is_no_drift() {
        let seen = settings(|list| {
            list.iter_mut().find(|one| one.name == "work_mem").unwrap().value = "65536".into();
        });
        assert_eq!(found_in(seen.clone()).len(), 1);
        let mut expected = seen;
        expected.accepted.as_mut().unwrap().expect(7, &change("64MB"));
        assert_eq!(found_in(expected), []);
    }

    #[test]
    fn without_a_record_it_is_unknown_and_no_trouble_and_with_other_rights_it_is() {
        let Status::Unknown(unknown) = status("postgres.settings_drifted", changed(|seen| seen.accepted = None), None)
        else {
            panic!()
        };
        assert!(!unknown.kind.is_trouble());
        let seen = changed(|seen| seen.accepted.as_mut().unwrap().sees_all = false);
        let Status::Unknown(unknown) = status("postgres.settings_drifted", seen, None) else { panic!() };
        assert!(unknown.kind.is_trouble());
    }
}
