//! Is there room for the next set?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::Draft;
use crate::observation::Backup;
use crate::quantity::{Unit, Value, format_bytes, format_number};

pub static REPOSITORY_NEARLY_FULL: Check = Check {
    id: "backup.repository_nearly_full",
    title: "The disk of the backup repository is nearly full",
    runbook: Runbook {
        means: "When it is full no set can be made any more. What is stored stays good.",
        confirm: "df -h FOLDER; du -sh FOLDER; restic -r FOLDER --password-file KEYFILE stats --mode raw-data",
        act: "Enlarge the disk, or set `repository` to a folder on a larger one and keep the old folder until the new one \
              holds what you need. groundskeeper backup prune shows which sets the rules of [backup.keep] would remove and \
              what that frees; with --apply it removes them. Their data are deleted a day later, by the next prune.",
    },
    source: "statvfs: f_bavail, f_blocks of the repository's folder",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 15.0,
            unit: Unit::Percent,
            why: "of the disk free; the operations guide warns at 85 % used",
        },
        Threshold {
            name: "critical",
            default: 5.0,
            unit: Unit::Percent,
            why: "of the disk free; the next set after a busy day can take that",
        },
        Threshold {
            name: "minimum_free",
            default: 50.0 * 1_073_741_824.0,
            unit: Unit::Bytes,
            why: "a disk with this much free is not nearly full, whatever the share: a tenth of 10 TB lasts for long",
        },
    ],
    hold: Hold::minutes(1.0, 5.0),
    judge: Judge::Backup(repository_nearly_full),
};

fn repository_nearly_full(sight: &Sight<'_, Backup>) -> Judged {
    let space = sight.seen.space.as_ref()?;
    if space.total == 0 || space.free as f64 >= sight.limit("minimum_free") {
        return Ok(Vec::new());
    }
    let share = space.free as f64 / space.total as f64 * 100.0;
    let Some((severity, limit)) = sight.graded_below(share) else { return Ok(Vec::new()) };
    let (value, limit) = measured(share, limit, Unit::Percent);
    let folder = &sight.seen.repository;
    let draft = Draft::new(
        severity,
        format!(
            "The disk of the backup repository {folder} has {} free of {} ({})",
            format_bytes(space.free as f64),
            format_bytes(space.total as f64),
            format_number(share, Unit::Percent)
        ),
    )
    .against("free share", value, limit, format!("statvfs {folder}"))
    .saw("free", Value::bytes(space.free), format!("statvfs {folder}"));
    let draft = match sight.seen.receipts.as_ref().ok().and_then(|receipts| receipts.first()) {
        Some(newest) => draft.saw("added by the newest set", Value::bytes(newest.added), super::source(newest)),
        None => draft,
    };
    Ok(vec![draft.fix(format!("groundskeeper backup prune shows what can go; else enlarge the disk of '{folder}'"))])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, healthy, judged, one, status};
    use super::*;
    use crate::observation::{Gap, Space};
    use crate::severity::Severity;

    const GIB: u64 = 1 << 30;

    fn sized(total: u64, free: u64) -> Vec<(String, Severity)> {
        failing(&judged(Backup { space: Ok(Space { total, free }), ..healthy() }))
    }

    #[test]
    fn the_disk_is_nearly_full_by_share_and_by_bytes() {
        assert_eq!(sized(100 * GIB, 16 * GIB), []);
        assert_eq!(sized(100 * GIB, 14 * GIB), one("backup.repository_nearly_full", Severity::Warning));
        assert_eq!(sized(100 * GIB, 0), one("backup.repository_nearly_full", Severity::Critical));
        assert_eq!(sized(10_000 * GIB, 100 * GIB), []);
        assert_eq!(sized(0, 0), []);
    }

    #[test]
    fn a_disk_that_does_not_tell_is_not_taken_for_an_empty_one() {
        let judgements = judged(Backup { space: Err(Gap::new("no answer")), ..healthy() });
        assert_eq!(failing(&judgements), []);
        assert_eq!(status(&judgements, "backup.repository_nearly_full"), "unknown");
    }
}
