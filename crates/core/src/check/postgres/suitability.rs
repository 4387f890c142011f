//! Do the settings suit the machine and the work?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Unknown, UnknownKind};
use crate::finding::{Draft, Offender, Target};
use crate::observation::Postgres;
use crate::quantity::Value;
use crate::severity::Severity;
use crate::tuning::postgres::{Advice, Way, Weight, advise};

pub static SETTINGS_UNSUITED: Check = Check {
    id: "postgres.settings_unsuited",
    title: "Settings do not suit the machine or the work",
    runbook: Runbook {
        means: "The server was left at settings for a small machine, or was given more than there is. The first makes it \
                slower than it could be, the second lets the kernel end it when many sessions are busy at once.",
        confirm: "SELECT name, setting, unit, source FROM pg_settings WHERE name IN ('shared_buffers', 'work_mem', \
                  'maintenance_work_mem', 'effective_cache_size', 'random_page_cost', 'max_wal_size');",
        act: "`groundskeeper tune postgres` prints each setting with the advised value, the reason and its source, and the \
              statements to copy. `groundskeeper tune postgres NAME --plan SETTING` plans the change of one, to be approved, \
              applied, verified and undone by us. Change one at a time, those without a restart first, and watch for a \
              day. `groundskeeper undo ENTRY` takes back what we changed; what you changed, ALTER SYSTEM SET with the old \
              value, or RESET where there was none, and then SELECT pg_reload_conf().",
    },
    source: "pg_settings, the machine as configured or read, and the counters of pg_stat_database and the checkpoints",
    thresholds: &[],
    // Sessions come and go, and the advice goes by them.
    hold: Hold::minutes(60.0, 60.0),
    judge: Judge::Postgres(settings_unsuited),
};

const FIX: &str = "`groundskeeper tune postgres NAME` prints the statements with their reasons, and what needs a restart; \
                   with `--plan SETTING` it plans the change of one.";

/// What has a check of its own that finds the same cause: one cause gives one finding.
const FOUND_ELSEWHERE: [&str; 3] = ["max_wal_size", "autovacuum_vacuum_scale_factor", "autovacuum_vacuum_cost_limit"];

fn settings_unsuited(sight: &Sight<'_, Postgres>) -> Judged {
    let advised = advise(sight.seen).map_err(|gap| Unknown::from(&gap))?;
    let weighty: Vec<&Advice> = advised
        .advice
        .iter()
        .filter(|one| one.weight == Weight::Matters && !FOUND_ELSEWHERE.contains(&one.setting.as_str()))
        .collect();
    if weighty.is_empty() {
        return if advised.machine.is_none_or(|machine| machine.memory.is_none()) {
            // Nobody is to be woken for that: `tune` says what to configure.
            Err(Unknown {
                kind: UnknownKind::NotHere,
                reason: "the memory of its machine is not known; put machine = { memory = \"8 GiB\" } into its table of the \
                         configuration"
                    .to_owned(),
            })
        } else {
            Ok(Vec::new())
        };
    }
    let names: Vec<&str> = weighty.iter().map(|one| one.setting.as_str()).collect();
    let verb = if names.len() == 1 { "does" } else { "do" };
    let mut draft = Draft::new(Severity::Info, format!("{} {verb} not suit this server", names.join(", ")));
    let mut reasons = Vec::new();
    for one in &weighty {
        let (now, advised) = (Value::text(one.current.clone()), Value::text(one.advised.clone()));
        draft = match one.way {
            Way::Statement { .. } => draft.against(one.setting.clone(), now, advised, one.source.clone()),
            Way::Elsewhere { .. } | Way::Written => draft.saw(one.setting.clone(), now, one.source.clone()),
        };
        let note = format!("{}: {} is advised: {}", one.setting, one.advised, one.reason);
        reasons.push(Offender { target: Target::Setting { name: one.setting.clone() }, weight: 1.0, note });
    }
    Ok(vec![draft.offenders(reasons).fix(FIX)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, setting, status};
    use crate::observation::Gap;

    #[test]
    fn a_server_that_was_left_at_the_defaults_is_told_once() {
        let seen = change(|seen| {
            let settings = seen.settings.as_mut().unwrap();
            settings.list.retain(|one| one.name != "shared_buffers" && one.name != "random_page_cost");
            settings.list.push(setting("shared_buffers", "16384", Some("8kB")));
            settings.list.push(setting("random_page_cost", "4", None));
        });
        let found = finding("postgres.settings_unsuited", found_in(seen));
        assert_eq!(found.summary, "shared_buffers, random_page_cost do not suit this server");
        assert_eq!((found.severity, found.evidence.len()), (Severity::Info, 2));
    }

    #[test]
    fn what_a_counter_that_never_comes_down_advises_is_no_finding() {
        let seen = change(|seen| {
            let settings = seen.settings.as_mut().unwrap();
            settings.list.iter_mut().find(|one| one.name == "work_mem").unwrap().value = "4096".into();
            seen.databases.as_mut().unwrap()[0].temporary_bytes = 20 << 30;
        });
        assert!(advise(&seen).unwrap().advice.iter().any(|one| one.setting == "work_mem"));
        assert_eq!(status("postgres.settings_unsuited", seen, None), Status::Ok);
    }

    #[test]
    fn an_unknown_machine_is_no_trouble_and_hidden_settings_are() {
        let strange = change(|seen| seen.machine = None);
        let Status::Unknown(unknown) = status("postgres.settings_unsuited", strange, None) else { panic!() };
        assert!(!unknown.kind.is_trouble());
        let hidden = change(|seen| seen.settings = Err(Gap::permission("no")));
        let Status::Unknown(unknown) = status("postgres.settings_unsuited", hidden, None) else { panic!() };
        assert!(unknown.kind.is_trouble());
    }
}
