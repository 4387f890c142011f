//! Is the repository there, and does our key open it?

#![allow(clippy::unnecessary_wraps, reason = "every judging function has one type, also those that always know")]

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight};
use crate::finding::Draft;
use crate::observation::{Backup, Failure, FailureKind};
use crate::quantity::Value;
use crate::severity::Severity;
use crate::system::SystemKind;

pub static UNREACHABLE: Check = Check {
    id: "backup.unreachable",
    title: "The backup repository cannot be reached",
    runbook: Runbook {
        means: "No backup can be made, and none can be restored, until the repository is back.",
        confirm: "ls FOLDER must show config, data, index, keys and snapshots; restic -r FOLDER --password-file KEYFILE \
                  snapshots",
        act: "Follow the fix of the finding. If the folder is a mount, look at the mount first: an empty mount point looks \
              like a repository that was never made, and making a new one there would hide the old one.",
    },
    source: "the repository's folder",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Reach(SystemKind::Backup, unreachable),
};

fn unreachable(failure: &Failure) -> Draft {
    let (what, fix) = match failure.kind {
        FailureKind::Missing => (
            "is not there",
            "if it was never made: groundskeeper backup init; if it was: mount its disk, or correct `repository` in \
             [backup]",
        ),
        FailureKind::Denied => (
            "may not be read",
            "give the folder and all below it to groundskeeper's user: chown -R groundskeeper: FOLDER",
        ),
        FailureKind::Timeout => (
            "does not answer in time",
            "the filesystem hangs or is very slow: look at its mount (df FOLDER; dmesg | tail), and at dead network \
             filesystems",
        ),
        FailureKind::Protocol => (
            "cannot be understood",
            "keep the folder as it is; look at its disk (dmesg | tail, smartctl -a) and try restic -r FOLDER check; then \
             begin a new repository in another folder, so that there is a backup of today",
        ),
        _ => ("cannot be read", "look at its disk: df FOLDER; dmesg | tail"),
    };
    // An object store: what it answered has the next step in it.
    let (what, fix) = match failure.kind {
        _ if !failure.address.contains("://") => (what, fix),
        FailureKind::Missing => (
            "is not there",
            "if it was never made: groundskeeper backup init; if it was: correct `repository` in [backup], or see in \
             the store who removed it",
        ),
        _ => ("cannot be reached", "do what the message says; groundskeeper doctor tries it at once"),
    };
    Draft::new(Severity::Critical, format!("The backup repository {} {what}: {}", failure.address, failure.message))
        .saw("failure", Value::text(failure.message.clone()), format!("reading {}", failure.address))
        .fix(fix)
}

pub static KEY_UNREADABLE: Check = Check {
    id: "backup.key_unreadable",
    title: "The backup key does not open the repository",
    runbook: Runbook {
        means: "Nothing in the repository can be read or added. If no other copy of the key exists, every backup is lost: \
                there is no way around the encryption.",
        confirm: "restic -r FOLDER --password-file KEYFILE key list",
        act: "Restore the key from where you keep it besides this machine. If it was replaced, any key that was added and \
              not removed still opens the repository: put it into `key_file`, then groundskeeper backup key list.",
    },
    source: "the key of [backup], and the repository's folder keys",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Backup(key_unreadable),
};

fn key_unreadable(sight: &Sight<'_, Backup>) -> Judged {
    let Err(gap) = &sight.seen.key else { return Ok(Vec::new()) };
    Ok(vec![
        Draft::new(
            Severity::Critical,
            format!("The key of the backup repository {} is of no use: {}", sight.seen.repository, gap.reason),
        )
        .saw("error", Value::text(gap.reason.clone()), format!("opening {}", sight.seen.repository))
        .fix("put the right key into `key_file` (or `key`, `key_command`) of [backup]; groundskeeper doctor tries it"),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, healthy, judged, one, status, unreached};
    use super::*;
    use crate::observation::Gap;

    #[test]
    fn a_repository_that_is_not_there_is_one_finding_and_all_else_is_unknown() {
        for kind in [FailureKind::Missing, FailureKind::Denied, FailureKind::Timeout, FailureKind::Protocol] {
            let judgements = unreached(kind);
            assert_eq!(failing(&judgements), one("backup.unreachable", Severity::Critical));
            assert!(judgements.iter().skip(1).all(|judgement| judgement.status.as_str() == "unknown"));
        }
    }

    #[test]
    fn an_object_store_has_no_folder_to_look_at() {
        for kind in [FailureKind::Missing, FailureKind::Timeout, FailureKind::Interrupted] {
            let failure = Failure { kind, message: "it failed".into(), address: "s3://backups/x".into() };
            let draft = format!("{:?}", unreachable(&failure));
            assert!(!draft.contains("FOLDER") && !draft.contains("mount"), "{draft}");
        }
    }

    #[test]
    fn a_key_that_opens_nothing_is_one_finding_and_what_it_hides_is_unknown() {
        let mut seen = healthy();
        seen.key = Err(Gap::new("the key cannot be read: /etc/backup.key: there is no such file"));
        assert_eq!(failing(&judged(seen.clone())), one("backup.key_unreadable", Severity::Critical));
        seen.receipts = Err(Gap::new("the key cannot be read"));
        let judgements = judged(seen);
        assert_eq!(failing(&judgements), one("backup.key_unreadable", Severity::Critical));
        for check in ["backup.set_missing", "backup.system_missing", "backup.proof_missing", "backup.rung_failed"] {
            assert_eq!(status(&judgements, check), "unknown");
        }
        assert_eq!(status(&judgements, "backup.repository_nearly_full"), "ok");
    }
}
