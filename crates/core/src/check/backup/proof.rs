//! Has a set been shown to restore, and did a proof fail?

use super::source;
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::{Draft, Target};
use crate::observation::{Backup, last_proven};
use crate::quantity::{Unit, Value, format_seconds, seconds_between};
use crate::receipt::{Climb, ClimbOutcome, Receipt, Rung};
use crate::severity::Severity;

pub static PROOF_MISSING: Check = Check {
    id: "backup.proof_missing",
    title: "No backup set was lately shown to restore",
    runbook: Runbook {
        means: "Nobody knows whether the backups can be restored. A backup that was never restored is a hope.",
        confirm: "groundskeeper backup list shows how far each set is proven; by hand: restic -r FOLDER --password-file \
                  KEYFILE restore latest --target /tmp/try, pg_verifybackup on it, start Postgres on it",
        act: "groundskeeper backup drill restores the newest set into the scratch place and starts it, or says what it \
              lacks: room under `scratch`, or the programs of that version of Postgres (`programs` in [backup]).",
    },
    source: "receipts in the repository",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 8.0 * 86_400.0,
            unit: Unit::Seconds,
            why: "since a set was last shown to be alive; a drill is due each Sunday, and a day is for catching up",
        },
        Threshold {
            name: "critical",
            default: 30.0 * 86_400.0,
            unit: Unit::Seconds,
            why: "since a set was last shown to be alive; four drills in a row did not come about",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Backup(proof_missing),
};

fn proof_missing(sight: &Sight<'_, Backup>) -> Judged {
    let receipts = sight.seen.receipts.as_ref()?;
    // Without any set there is nothing to prove, and `backup.set_missing` says so.
    let Some(oldest) = receipts.last() else { return Ok(Vec::new()) };
    let proven = last_proven(receipts).and_then(|receipt| Some((receipt.proven_at(Rung::Alive)?, receipt)));
    let (since, about) = proven.unwrap_or((oldest.made, oldest));
    let age = seconds_between(since, sight.now);
    let Some((severity, limit)) = sight.graded(age) else { return Ok(Vec::new()) };
    let (value, limit) = measured(age, limit, Unit::Seconds);
    let old = format_seconds(age);
    let (summary, what) = match proven {
        Some(_) => (format!("A backup set was last shown to restore {old} ago"), "age of the last proof"),
        None => {
            (format!("No backup set has ever been shown to restore; the first is {old} old"), "age of the first set")
        }
    };
    let draft = Draft::new(severity, summary).against(what, value, limit, source(about));
    let draft = match not_tried(receipts) {
        Some((receipt, why)) => draft.saw("why it could not be tried", Value::text(why), source(receipt)),
        None => draft,
    };
    Ok(vec![draft.fix("groundskeeper backup drill; it proves the newest set, or says what it lacks")])
}

/// Why the last drill could not be tried, if that is how it ended.
fn not_tried(receipts: &[Receipt]) -> Option<(&Receipt, &str)> {
    let drills = receipts.iter().flat_map(|receipt| receipt.climbs.iter().map(move |climb| (receipt, climb)));
    let last = drills
        .filter(|(_, climb)| matches!(climb.rung, Rung::Restored | Rung::Alive))
        .max_by_key(|(_, climb)| climb.at);
    match last {
        Some((receipt, Climb { outcome: ClimbOutcome::NotTried { why }, .. })) => Some((receipt, why)),
        _ => None,
    }
}

pub static RUNG_FAILED: Check = Check {
    id: "backup.rung_failed",
    title: "A backup set failed its proof",
    runbook: Runbook {
        means: "The newest set that was tried is not what it should be: a restore from it would fail, or give damaged data.",
        confirm: "restic -r FOLDER --password-file KEYFILE check --read-data; then restore latest --target /tmp/try and \
                  pg_verifybackup /tmp/try/… by hand",
        act: "Keep the repository as it is and look at its disk (dmesg, smartctl -a). An older set may be good: \
              groundskeeper backup list, then groundskeeper backup drill --set ID. If stored data are damaged, begin a new \
              repository in another folder: a new set in the old one would build on the damaged data.",
    },
    source: "receipts in the repository",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Backup(rung_failed),
};

fn rung_failed(sight: &Sight<'_, Backup>) -> Judged {
    let receipts = sight.seen.receipts.as_ref()?;
    // The newest set may be an hour old and not tried yet: what the last one that was tried has shown stands until then.
    let failed = |rung: Rung| {
        let (receipt, climb) = receipts.iter().find_map(|receipt| Some((receipt, receipt.last(rung)?)))?;
        let ClimbOutcome::Failed { why } = &climb.outcome else { return None };
        Some(
            Draft::new(
                Severity::Critical,
                format!("The backup set {} failed rung {} ({rung}): {why}", receipt.set, rung.number()),
            )
            .about(Target::Rung { rung })
            .saw("why", Value::text(why.clone()), source(receipt))
            .saw("tried", Value::Time { at: climb.at }, source(receipt))
            .fix(next_step(rung)),
        )
    };
    Ok(Rung::ALL.into_iter().filter_map(failed).collect())
}

fn next_step(rung: Rung) -> &'static str {
    match rung {
        Rung::Stored => "groundskeeper backup run makes a new set; groundskeeper backup verify tries it",
        Rung::Intact => {
            "look at the repository's disk (dmesg, smartctl -a); set `repository` to a new folder, then groundskeeper \
             backup init and groundskeeper backup run; keep the old folder until a new set is proven"
        }
        Rung::Restored | Rung::Alive => {
            "groundskeeper backup run, then groundskeeper backup drill: if the new set fails too, the database itself may \
             be damaged (pg_amcheck --all on the server), or a [[backup.probe]] wants what is no longer so; if not, only \
             that set was"
        }
        Rung::Consistent => {
            "after a restore of this set have the points made anew from the chunks (Doc-RAG: docrag reindex); groundskeeper \
             backup run, then groundskeeper backup drill, and if the new set fails too, the live index differs from its \
             database as well"
        }
        Rung::Faithful => {
            "do not restore from this set: its tables hold something else than they did when it was made; groundskeeper \
             backup run, then groundskeeper backup drill, and if the new set fails too, look at the disks of both machines"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{climbed, failing, healthy, judged, one, set};
    use super::*;
    use crate::Status;

    const DAY: f64 = 24.0;

    fn with(receipts: Vec<Receipt>) -> Backup {
        Backup { receipts: Ok(receipts), ..healthy() }
    }

    /// A young set, and one that was shown to be alive so many days ago.
    fn proven(days: f64) -> Vec<Receipt> {
        let mut old = set(days * DAY + 1.0);
        old.climbs = Rung::ALL.map(|rung| climbed(rung, days * DAY)).into();
        vec![set(2.0), old]
    }

    fn failed(rung: Rung, hours: f64) -> Climb {
        Climb { outcome: ClimbOutcome::Failed { why: "1 of 40 packs is damaged".into() }, ..climbed(rung, hours) }
    }

    #[test]
    fn the_age_of_the_last_proof_is_graded() {
        assert_eq!(failing(&judged(with(proven(7.9)))), []);
        assert_eq!(failing(&judged(with(proven(8.0)))), one("backup.proof_missing", Severity::Warning));
        assert_eq!(failing(&judged(with(proven(30.0)))), one("backup.proof_missing", Severity::Critical));
    }

    #[test]
    fn without_any_proof_the_time_counts_from_the_first_set() {
        assert_eq!(failing(&judged(with(vec![set(1.0)]))), []);
        let sets = vec![set(1.0), set(9.0 * DAY)];
        assert_eq!(failing(&judged(with(sets))), one("backup.proof_missing", Severity::Warning));
    }

    #[test]
    fn a_proof_that_stops_below_alive_is_none() {
        let mut sets = proven(9.0);
        sets[0].climbs = vec![climbed(Rung::Stored, 2.0), climbed(Rung::Intact, 1.0)];
        assert_eq!(failing(&judged(with(sets))), one("backup.proof_missing", Severity::Warning));
    }

    #[test]
    fn what_kept_the_drill_from_being_tried_is_in_the_evidence() {
        let mut sets = proven(9.0);
        let why = "there are no programs of Postgres 17 on this machine";
        let outcome = ClimbOutcome::NotTried { why: why.into() };
        sets[0].climbs = vec![Climb { outcome, ..climbed(Rung::Restored, 1.0) }];
        let judgements = judged(with(sets));
        let Status::Failing { findings } = &judgements[4].status else { panic!("{judgements:?}") };
        assert!(findings[0].evidence.iter().any(|evidence| evidence.value.to_string() == why), "{findings:?}");
        assert_eq!(failing(&judgements), one("backup.proof_missing", Severity::Warning), "that is no failed rung");
    }

    #[test]
    fn each_failed_rung_is_one_critical_finding() {
        for rung in Rung::ALL {
            let mut seen = healthy();
            seen.receipts.as_mut().unwrap()[0].climbs.push(failed(rung, 0.5));
            assert_eq!(failing(&judged(seen)), one("backup.rung_failed", Severity::Critical), "{rung}");
        }
        let mut seen = healthy();
        seen.receipts.as_mut().unwrap()[0].climbs.extend([failed(Rung::Intact, 0.5), failed(Rung::Alive, 0.4)]);
        let judgements = judged(seen);
        let Status::Failing { findings } = &judgements[5].status else { panic!("{judgements:?}") };
        assert_eq!(findings.len(), 2);
        assert_ne!(findings[0].fingerprint, findings[1].fingerprint);
    }

    #[test]
    fn a_failure_stands_until_the_same_rung_is_climbed_again() {
        let mut sets = proven(2.0);
        sets[1].climbs.push(failed(Rung::Alive, 20.0));
        assert_eq!(failing(&judged(with(sets.clone()))), one("backup.rung_failed", Severity::Critical));
        sets[0].climbs = Rung::ALL.map(|rung| climbed(rung, 1.0)).into();
        assert_eq!(failing(&judged(with(sets))), []);
    }
}
