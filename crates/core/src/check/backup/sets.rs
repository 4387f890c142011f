//! Is there a set that is young, and is everything in it?

use super::{named, source};
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::{Draft, Target};
use crate::observation::{Backup, LastRun};
use crate::quantity::{Unit, Value, format_seconds, seconds_between};
use crate::receipt::Receipt;
use crate::severity::Severity;

pub static SET_MISSING: Check = Check {
    id: "backup.set_missing",
    title: "There is no young backup set",
    runbook: Runbook {
        means: "What was written since the last whole set is lost if the database is lost now.",
        confirm: "restic -r FOLDER --password-file KEYFILE snapshots shows when the last one was made; groundskeeper \
                  calendar shows when the task backup ran and how it ended",
        act: "groundskeeper backup run makes a set now, or says why it cannot. If the task did not run: is the keeper up, \
              and is the task switched off or paused (groundskeeper calendar)? If it failed, its reason is in the finding.",
    },
    source: "receipts in the repository; the last run of the task backup",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 26.0 * 3_600.0,
            unit: Unit::Seconds,
            why: "since the newest set with everything in it; one is made each day, and two hours are for making it",
        },
        Threshold {
            name: "critical",
            default: 50.0 * 3_600.0,
            unit: Unit::Seconds,
            why: "since the newest set with everything in it; two in a row were missed, so it does not mend itself",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Backup(set_missing),
};

/// Seconds that two clocks may differ.
const SKEW: f64 = 300.0;

fn set_missing(sight: &Sight<'_, Backup>) -> Judged {
    let receipts = sight.seen.receipts.as_ref()?;
    // A clock that was ahead once must not make a set look young for years.
    let is_future = |receipt: &&Receipt| seconds_between(sight.now, receipt.made) > SKEW;
    if let Some(future) = receipts.iter().find(|receipt| receipt.is_whole()).filter(is_future) {
        let (summary, what) = ("The newest backup set claims to be made in the future", "it claims to be made at");
        let draft = Draft::new(Severity::Warning, summary).saw(what, Value::Time { at: future.made }, source(future));
        let fix = "look at the clock of this machine (timedatectl), then groundskeeper backup run";
        return Ok(vec![with_failure(draft, failed_since(sight.seen, None)).fix(fix)]);
    }
    let whole = receipts.iter().find(|receipt| receipt.is_whole());
    // Where none was ever whole, the time counts from the first attempt.
    let Some(reference) = whole.or(receipts.last()) else {
        let draft = Draft::new(Severity::Warning, "No backup set has been made yet").saw(
            "sets",
            Value::count(0),
            format!("receipts in {}", sight.seen.repository),
        );
        return Ok(vec![with_failure(draft, failed_since(sight.seen, None)).fix("groundskeeper backup run")]);
    };
    let age = seconds_between(reference.made, sight.now);
    let failure = failed_since(sight.seen, receipts.first());
    let (severity, limit) = match (sight.graded(age), failure) {
        (Some((severity, limit)), _) => (severity, Some(limit)),
        // A run that failed will not have made a set when the time is over: it is said at once.
        (None, Some(_)) => (Severity::Warning, None),
        (None, None) => return Ok(Vec::new()),
    };
    let old = format_seconds(age);
    let summary = match (whole, limit) {
        (Some(_), Some(_)) => format!("The newest whole backup set was made {old} ago"),
        (None, Some(_)) => format!("No backup set is whole, and the first one was made {old} ago"),
        (_, None) => format!("The last run of the backup made no set; the newest was made {old} ago"),
    };
    let draft = Draft::new(severity, summary);
    let draft = match limit {
        Some(limit) => {
            let (value, limit) = measured(age, limit, Unit::Seconds);
            draft.against("age of the newest whole set", value, limit, source(reference))
        }
        None => draft.saw("age of the newest set", Value::seconds(age), source(reference)),
    };
    let draft = match receipts.first().filter(|newest| !newest.is_whole()) {
        Some(newest) => draft.saw("missing in the newest set", Value::text(named(&newest.missing)), source(newest)),
        None => draft,
    };
    Ok(vec![with_failure(draft, failure).fix("groundskeeper backup run; it makes a set, or says why it cannot")])
}

/// The last run, when it made no set and none was made after it.
fn failed_since<'a>(seen: &'a Backup, newest: Option<&Receipt>) -> Option<(&'a LastRun, &'a str)> {
    let run = seen.last_run.as_ref()?;
    let is_newest = newest.is_none_or(|newest| newest.made < run.at);
    Some((run, run.failed.as_deref()?)).filter(|_| is_newest)
}

fn with_failure(draft: Draft, failure: Option<(&LastRun, &str)>) -> Draft {
    match failure {
        Some((run, why)) => draft
            .saw("why the last run made none", Value::text(why), "the last run of the task backup")
            .saw("when", Value::Time { at: run.at }, "the last run of the task backup"),
        None => draft,
    }
}

pub static SYSTEM_MISSING: Check = Check {
    id: "backup.system_missing",
    title: "A system is missing in the newest backup set",
    runbook: Runbook {
        means: "That system cannot be restored from this set; the others can.",
        confirm: "restic -r FOLDER --password-file KEYFILE ls latest: the system's folder is not there",
        act: "Mend what the finding names (the server is down, the role may not replicate, pg_hba.conf has no line for \
              replication: groundskeeper grants --for backup prints what is needed), then groundskeeper backup run.",
    },
    source: "the newest set's receipt",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Backup(system_missing),
};

fn system_missing(sight: &Sight<'_, Backup>) -> Judged {
    let Some(newest) = sight.seen.receipts.as_ref()?.first() else { return Ok(Vec::new()) };
    let draft = |missing: &crate::receipt::Missing| {
        Draft::new(
            Severity::Warning,
            format!("{} is missing in the newest backup set: {}", missing.system, missing.why),
        )
        .about(Target::Source { system: missing.system.clone() })
        .saw("why", Value::text(missing.why.clone()), source(newest))
        .fix("mend that, then groundskeeper backup run; groundskeeper grants --for backup prints what the role needs")
    };
    Ok(newest.missing.iter().map(draft).collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{HOUR, ago, failing, healthy, judged, missing, one, set};
    use super::*;
    use crate::Status;

    fn with(receipts: Vec<Receipt>) -> Backup {
        Backup { receipts: Ok(receipts), last_run: None, ..healthy() }
    }

    /// Young sets of which the newest whole one is so many hours old.
    fn whole_for(hours: f64) -> Vec<Receipt> {
        let mut receipts = healthy().receipts.unwrap();
        receipts.retain(|receipt| receipt.made <= ago(hours * HOUR));
        receipts.insert(0, set(hours));
        receipts
    }

    #[test]
    fn the_age_of_the_newest_whole_set_is_graded() {
        assert_eq!(failing(&judged(with(whole_for(25.9)))), []);
        assert_eq!(failing(&judged(with(whole_for(26.0)))), one("backup.set_missing", Severity::Warning));
        assert_eq!(failing(&judged(with(whole_for(50.0)))), one("backup.set_missing", Severity::Critical));
    }

    #[test]
    fn a_set_from_the_future_is_told_and_not_young() {
        let future = |hours| with(vec![set(hours), set(30.0)]);
        assert_eq!(failing(&judged(future(-24.0))), one("backup.set_missing", Severity::Warning));
        assert_eq!(failing(&judged(future(-0.05))), []);
    }

    #[test]
    fn before_the_first_set_there_is_exactly_this_warning() {
        assert_eq!(failing(&judged(with(Vec::new()))), one("backup.set_missing", Severity::Warning));
    }

    #[test]
    fn a_set_that_lacks_a_system_is_told_at_once_and_does_not_count_as_a_young_one() {
        let mut receipts = whole_for(20.0);
        receipts.insert(0, Receipt { missing: vec![missing("postgres.reports")], ..set(1.0) });
        assert_eq!(failing(&judged(with(receipts))), one("backup.system_missing", Severity::Warning));
        let mut receipts = whole_for(27.0);
        receipts.insert(0, Receipt { missing: vec![missing("postgres.reports")], ..set(1.0) });
        let judgements = judged(with(receipts));
        assert_eq!(failing(&judgements).len(), 2);
        let Status::Failing { findings } = &judgements[2].status else { panic!("{judgements:?}") };
        let said = findings[0].evidence.iter().map(|evidence| evidence.value.to_string()).collect::<Vec<_>>().join(" ");
        assert!(said.contains("postgres.reports (no answer)"), "the set without it is named: {said}");
    }

    #[test]
    fn sets_that_were_never_whole_count_from_the_first() {
        let lacking = |hours| Receipt { missing: vec![missing("postgres.main")], ..set(hours) };
        assert_eq!(failing(&judged(with(vec![lacking(1.0)]))), one("backup.system_missing", Severity::Warning));
        let long = failing(&judged(with(vec![lacking(1.0), lacking(51.0)])));
        assert_eq!(long[0], ("backup.set_missing".to_owned(), Severity::Critical));
    }

    #[test]
    fn two_missing_systems_are_two_findings() {
        let both = vec![missing("postgres.main"), missing("postgres.reports")];
        let mut receipts = whole_for(20.0);
        receipts.insert(0, Receipt { missing: both, ..set(1.0) });
        let judgements = judged(with(receipts));
        let Status::Failing { findings } = &judgements[3].status else { panic!("{judgements:?}") };
        assert_eq!(findings.len(), 2);
        assert_ne!(findings[0].fingerprint, findings[1].fingerprint);
    }

    #[test]
    fn a_run_that_made_no_set_is_told_before_the_time_is_over_and_forgotten_with_the_next_set() {
        let failed = |hours: f64| Some(LastRun { at: ago(hours * HOUR), failed: Some("permission denied".into()) });
        let seen = Backup { last_run: failed(1.0), ..healthy() };
        assert_eq!(failing(&judged(seen)), one("backup.set_missing", Severity::Warning));
        let seen = Backup { last_run: failed(30.0), ..healthy() };
        assert_eq!(failing(&judged(seen)), []);
        let seen = Backup { receipts: Ok(Vec::new()), last_run: failed(1.0), ..healthy() };
        assert_eq!(failing(&judged(seen)), one("backup.set_missing", Severity::Warning));
    }
}
