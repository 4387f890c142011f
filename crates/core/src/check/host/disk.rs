//! Is there room on the disks, and can they be written to?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind, measured};
use crate::finding::{Draft, Target};
use crate::observation::{Host, Mount};
use crate::quantity::{Unit, Value, format_bytes, format_count, format_number};
use crate::severity::Severity;

/// One draft for each bad mount. A mount that did not answer may be bad as well: then "ok" would be a guess.
fn each_mount(sight: &Sight<'_, Host>, judge: impl Fn(&Mount) -> Option<Draft>) -> Judged {
    let drafts: Vec<Draft> = sight
        .seen
        .mounts
        .iter()
        .filter_map(|mount| Some(judge(mount)?.about(Target::Path { path: mount.path.clone() })))
        .collect();
    match sight.seen.unreadable.first() {
        Some(reason) if drafts.is_empty() => {
            Err(Unknown { kind: UnknownKind::NotRead, reason: format!("a mount could not be read: {reason}") })
        }
        _ => Ok(drafts),
    }
}

pub static DISK_NEARLY_FULL: Check = Check {
    id: "host.disk_nearly_full",
    title: "A disk is nearly full",
    runbook: Runbook {
        means: "When it is full, databases stop or crash, logs end in the middle, and deployments fail.",
        confirm: "df -h MOUNT; du -xh --max-depth=2 MOUNT | sort -rh | head -20",
        act: "Free what is surely not needed: old logs and packages, unused images (docker system df), temporary files. \
              Look for deleted files that are still open: lsof +L1. Then enlarge the volume. Never delete in the data \
              folder of a database; pg_wal is not a log.",
    },
    source: "statvfs: f_bavail, f_blocks",
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
            why: "of the disk free; one large query, dump or image can take that",
        },
        Threshold {
            name: "minimum_free",
            default: 50.0 * 1_073_741_824.0,
            unit: Unit::Bytes,
            why: "a disk with this much free is not nearly full, whatever the share: a tenth of 10 TB lasts for long",
        },
    ],
    hold: Hold::minutes(1.0, 5.0),
    judge: Judge::Host(disk_nearly_full),
};

fn disk_nearly_full(sight: &Sight<'_, Host>) -> Judged {
    each_mount(sight, |mount| {
        // What cannot be written to cannot fill up.
        if mount.total == 0 || mount.read_only || mount.available as f64 >= sight.limit("minimum_free") {
            return None;
        }
        let share = mount.available as f64 / mount.total as f64 * 100.0;
        let (severity, limit) = sight.graded_below(share)?;
        let (value, limit) = measured(share, limit, Unit::Percent);
        let path = &mount.path;
        Some(
            Draft::new(
                severity,
                format!(
                    "{path} has {} free of {} ({})",
                    format_bytes(mount.available as f64),
                    format_bytes(mount.total as f64),
                    format_number(share, Unit::Percent)
                ),
            )
            .against("free share", value, limit, format!("statvfs {path}"))
            .saw("free", Value::bytes(mount.available), format!("statvfs {path}"))
            .fix(format!(
                "du -xh --max-depth=2 '{path}' | sort -rh | head -20; free what is not needed, then enlarge it"
            )),
        )
    })
}

pub static INODES_NEARLY_FULL: Check = Check {
    id: "host.inodes_nearly_full",
    title: "A disk has nearly no room for more files",
    runbook: Runbook {
        means: "No file can be made although df shows free space: programs report “No space left on device”.",
        confirm: "df -i MOUNT; du --inodes -x --max-depth=3 MOUNT | sort -rn | head",
        act: "Find the folder with very many small files (sessions, mail, cache, build output) and clear what made them. \
              More inodes need a new filesystem (mkfs.ext4 -N) or XFS, which makes them as needed.",
    },
    source: "statvfs: f_favail, f_files",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 10.0,
            unit: Unit::Percent,
            why: "of the inodes free (awesome-prometheus-alerts uses 10 %)",
        },
        Threshold { name: "critical", default: 3.0, unit: Unit::Percent, why: "of the inodes free; files fail soon" },
    ],
    hold: Hold::minutes(1.0, 5.0),
    judge: Judge::Host(inodes_nearly_full),
};

fn inodes_nearly_full(sight: &Sight<'_, Host>) -> Judged {
    each_mount(sight, |mount| {
        if mount.inodes == 0 || mount.read_only {
            return None;
        }
        let share = mount.inodes_free as f64 / mount.inodes as f64 * 100.0;
        let (severity, limit) = sight.graded_below(share)?;
        let (value, limit) = measured(share, limit, Unit::Percent);
        let path = &mount.path;
        Some(
            Draft::new(
                severity,
                format!(
                    "{path} has room for {} more files ({} of its inodes)",
                    format_count(mount.inodes_free as f64),
                    format_number(share, Unit::Percent)
                ),
            )
            .against("free inodes", value, limit, format!("statvfs {path}"))
            .fix(format!(
                "du --inodes -x --max-depth=3 '{path}' | sort -rn | head, then clear the folder that it shows"
            )),
        )
    })
}

pub static MOUNT_READ_ONLY: Check = Check {
    id: "host.mount_read_only",
    title: "A disk became read-only",
    runbook: Runbook {
        means: "The kernel saw an error on the disk or the filesystem and stopped all writing to it. Databases on it are \
                down or about to be. A disk that was mounted read-only on purpose is reported only if the configuration \
                names it.",
        confirm: "grep ' MOUNT ' /proc/self/mountinfo; dmesg -T | grep -iE 'remount|I/O error|EXT4-fs|XFS|BTRFS' | tail",
        act: "Save what can be saved: check that the last backup is proven. Do not just remount it writable: find the \
              cause in dmesg first (a broken disk, a lost volume), stop what uses it, run fsck, and replace the disk if \
              it shows I/O errors (smartctl -a).",
    },
    source: "/proc/self/mountinfo: the mount's own options against those of the filesystem",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Host(mount_read_only),
};

fn mount_read_only(sight: &Sight<'_, Host>) -> Judged {
    each_mount(sight, |mount| {
        mount.read_only.then(|| {
            let path = &mount.path;
            Draft::new(Severity::Critical, format!("{path} ({}) is read-only", mount.filesystem))
                .saw("options", Value::text("ro"), format!("/proc/self/mountinfo: {path}"))
                .fix("dmesg -T | grep -iE 'remount|I/O error' | tail; then stop what uses it, fsck, and mount it again")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, healthy, judged, one, status};
    use super::*;

    const GIB: u64 = 1 << 30;

    fn found(change: impl FnOnce(&mut Mount)) -> Vec<(String, Severity)> {
        let mut seen = healthy();
        change(&mut seen.mounts[0]);
        failing(&judged(seen))
    }

    fn sized(total: u64, available: u64) -> Vec<(String, Severity)> {
        found(|mount| (mount.total, mount.available) = (total, available))
    }

    #[test]
    fn a_disk_is_nearly_full_by_share_and_by_bytes() {
        assert_eq!(sized(100 * GIB, 16 * GIB), []);
        assert_eq!(sized(100 * GIB, 14 * GIB), one("host.disk_nearly_full", Severity::Warning));
        assert_eq!(sized(100 * GIB, 4 * GIB), one("host.disk_nearly_full", Severity::Critical));
        assert_eq!(sized(100 * GIB, 0), one("host.disk_nearly_full", Severity::Critical));
    }

    #[test]
    fn a_tenth_of_a_large_disk_is_much_and_of_a_tiny_one_little() {
        assert_eq!(sized(10_000 * GIB, 1_000 * GIB), []);
        assert_eq!(sized(10_000 * GIB, 49 * GIB), one("host.disk_nearly_full", Severity::Critical));
        assert_eq!(sized(32 << 20, 1 << 20), one("host.disk_nearly_full", Severity::Critical));
        assert_eq!(sized(0, 0), []);
    }

    #[test]
    fn two_full_disks_are_two_findings_with_two_subjects() {
        let mut seen = healthy();
        for mount in &mut seen.mounts {
            mount.available = mount.total / 100;
        }
        let judgements = judged(seen);
        assert_eq!(failing(&judgements).len(), 2);
        let fingerprints: std::collections::BTreeSet<_> = judgements
            .iter()
            .filter_map(|judgement| match &judgement.status {
                crate::Status::Failing { findings } => Some(findings),
                _ => None,
            })
            .flatten()
            .map(|finding| finding.fingerprint.clone())
            .collect();
        assert_eq!(fingerprints.len(), 2);
    }

    #[test]
    fn inodes_are_graded_where_the_filesystem_counts_them() {
        assert_eq!(
            found(|mount| mount.inodes_free = mount.inodes / 20),
            one("host.inodes_nearly_full", Severity::Warning)
        );
        assert_eq!(found(|mount| mount.inodes_free = 0), one("host.inodes_nearly_full", Severity::Critical));
        assert_eq!(found(|mount| (mount.inodes, mount.inodes_free) = (0, 0)), []);
    }

    #[test]
    fn a_disk_that_became_read_only_is_one_finding_even_when_it_is_full() {
        let broken = |mount: &mut Mount| {
            mount.read_only = true;
            mount.available = 0;
            mount.inodes_free = 0;
        };
        assert_eq!(found(broken), one("host.mount_read_only", Severity::Critical));
    }

    #[test]
    fn a_mount_that_does_not_answer_is_not_taken_for_a_good_one() {
        let mut seen = healthy();
        seen.unreadable = vec!["/mnt/nfs: no answer within 2 s".into()];
        let judgements = judged(seen.clone());
        assert_eq!(failing(&judgements), []);
        for check in ["host.disk_nearly_full", "host.inodes_nearly_full", "host.mount_read_only"] {
            assert_eq!(status(&judgements, check), "unknown");
        }
        seen.mounts[0].available = 0;
        assert_eq!(failing(&judged(seen)), one("host.disk_nearly_full", Severity::Critical));
    }
}
