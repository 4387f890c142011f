//! Does it keep what it is given: snapshots, the append-only file, the link to its primary?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::Draft;
use crate::observation::{Persistence, Redis};
use crate::quantity::{Unit, Value, format_count, format_seconds, seconds_between};
use crate::severity::Severity;

pub static SAVE_FAILING: Check = Check {
    id: "redis.save_failing",
    title: "Redis cannot save its data",
    runbook: Runbook {
        means: "A restart loses everything since the last good save. By default Redis also refuses writes (MISCONF) \
                while a snapshot or the append-only file fails.",
        confirm: "redis-cli INFO persistence | grep -E 'rdb_last|aof_last|rdb_changes'",
        act: "Read the log of Redis for the reason: a full disk (df -h), a folder that it may not write (CONFIG GET \
              dir), or no memory for the fork (sysctl vm.overcommit_memory must be 1). Then BGSAVE and look again.",
    },
    source: "INFO persistence: rdb_last_bgsave_status, aof_last_write_status, rdb_last_save_time; CONFIG GET save",
    thresholds: &[Threshold {
        name: "warning",
        default: 86_400.0,
        unit: Unit::Seconds,
        why: "since the last save with changes pending; the slowest of the default save rules fires after one hour, so a \
              day means that saving does not happen",
    }],
    hold: Hold::NONE,
    judge: Judge::Redis(save_failing),
};

/// Whether writes get MISCONF (unless `stop-writes-on-bgsave-error` was switched off).
pub(super) fn refuses_writes(persistence: &Persistence) -> bool {
    (!persistence.last_save_ok && persistence.saves_configured != Some(false))
        || (persistence.aof_enabled && !persistence.last_aof_write_ok)
}

fn save_failing(sight: &Sight<'_, Redis>) -> Judged {
    let persistence = sight.seen.persistence.as_ref()?;
    let pending = Value::count(persistence.changes_since_save as f64);
    if persistence.aof_enabled && !persistence.last_aof_write_ok {
        return Ok(vec![
            Draft::new(Severity::Critical, "Redis cannot write its append-only file and refuses writes")
                .saw("last append", Value::text("err"), "INFO persistence: aof_last_write_status")
                .fix("df -h on the folder of CONFIG GET dir; free space or mend its permissions; writing then resumes"),
        ]);
    }
    if !persistence.last_save_ok {
        // A failed BGSAVE by hand on a server that never saves by itself stops no writes.
        let (severity, what) = if refuses_writes(persistence) {
            (Severity::Critical, "The last snapshot of Redis failed; by default it now refuses writes")
        } else {
            (Severity::Warning, "The last snapshot of Redis failed")
        };
        return Ok(vec![
            Draft::new(severity, what)
                .saw("last snapshot", Value::text("err"), "INFO persistence: rdb_last_bgsave_status")
                .saw("changes since the last save", pending, "INFO persistence: rdb_changes_since_last_save")
                .fix("df -h and ls -ld on the folder of CONFIG GET dir; mend it, then BGSAVE"),
        ]);
    }
    let Some(last_save) = persistence.last_save else { return Ok(Vec::new()) };
    let age = seconds_between(last_save, sight.now);
    let due = persistence.saves_configured == Some(true) && persistence.changes_since_save > 0;
    let Some((severity, limit)) = sight.graded(age).filter(|_| due) else { return Ok(Vec::new()) };
    let (value, limit) = measured(age, limit, Unit::Seconds);
    Ok(vec![
        Draft::new(
            severity,
            format!(
                "Redis last saved {} ago and {} changes are pending",
                format_seconds(age),
                format_count(persistence.changes_since_save as f64)
            ),
        )
        .against("age of the last save", value, limit, "INFO persistence: rdb_last_save_time")
        .saw("changes since the last save", pending, "INFO persistence: rdb_changes_since_last_save")
        .fix("redis-cli BGSAVE; then compare CONFIG GET save with how much loss is acceptable"),
    ])
}

pub static REPLICA_LINK_DOWN: Check = Check {
    id: "redis.replica_link_down",
    title: "A replica has lost its primary",
    runbook: Runbook {
        means: "This replica serves old data, or refuses to (MASTERDOWN), and cannot take over without loss.",
        confirm: "redis-cli INFO replication | grep -E 'role|master_host|master_link'",
        act: "See whether the primary is up and reachable from here; check masterauth (and masteruser); read the log of \
              the replica. If full copies start over and over, raise client-output-buffer-limit for replicas on the \
              primary.",
    },
    source: "INFO replication: master_link_status, master_link_down_since_seconds",
    thresholds: &[],
    hold: Hold { open_after: 30.0, clear_after: 30.0 },
    judge: Judge::Redis(replica_link_down),
};

fn replica_link_down(sight: &Sight<'_, Redis>) -> Judged {
    let replication = sight.seen.replication.as_ref()?;
    // While the first copy is being loaded the link counts as down; `loading` is the finding then.
    let loading = sight.seen.persistence.as_ref().is_ok_and(|persistence| persistence.loading);
    if replication.primary || replication.link_up != Some(false) || loading {
        return Ok(Vec::new());
    }
    let upstream = replication.upstream.as_deref().unwrap_or("its primary");
    let mut draft = Draft::new(Severity::Critical, format!("This replica is not connected to {upstream}")).saw(
        "link",
        Value::text("down"),
        "INFO replication: master_link_status",
    );
    if let Some(seconds) = replication.link_down_seconds {
        draft.summary = format!("{} since {}", draft.summary, format_seconds(seconds as f64));
        draft =
            draft.saw("down for", Value::seconds(seconds as f64), "INFO replication: master_link_down_since_seconds");
    }
    Ok(vec![draft.fix(format!("redis-cli -u redis://{upstream} PING from this machine; then the log of this replica"))])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{NOW, failing, first, healthy, healthy_before, judged, one};
    use super::*;
    use crate::observation::{Gap, RedisReplication};
    use crate::quantity::after;
    use jiff::Timestamp;

    fn with_persistence(change: impl FnOnce(&mut Persistence)) -> Redis {
        let mut seen = healthy();
        change(seen.persistence.as_mut().unwrap());
        seen
    }

    fn found(seen: Redis) -> Vec<(String, Severity)> {
        failing(&judged(Some(healthy_before()), seen))
    }

    #[test]
    fn a_failed_snapshot_is_critical_where_snapshots_are_wanted() {
        assert_eq!(found(with_persistence(|p| p.last_save_ok = false)), one("redis.save_failing", Severity::Critical));
        let unwanted = with_persistence(|p| (p.last_save_ok, p.saves_configured) = (false, Some(false)));
        assert_eq!(found(unwanted), one("redis.save_failing", Severity::Warning));
        let unknown = with_persistence(|p| (p.last_save_ok, p.saves_configured) = (false, None));
        assert_eq!(found(unknown), one("redis.save_failing", Severity::Critical));
    }

    #[test]
    fn a_failed_append_counts_only_while_the_file_is_in_use() {
        let failed = with_persistence(|p| (p.aof_enabled, p.last_aof_write_ok) = (true, false));
        assert_eq!(found(failed), one("redis.save_failing", Severity::Critical));
        assert_eq!(found(with_persistence(|p| (p.aof_enabled, p.last_aof_write_ok) = (false, false))), []);
    }

    #[test]
    fn an_old_save_counts_only_with_changes_and_save_rules() {
        let old = |change: fn(&mut Persistence)| {
            with_persistence(|p| {
                p.last_save = Some(after(NOW.parse().unwrap(), -90_000.0));
                p.changes_since_save = 12;
                change(p);
            })
        };
        assert_eq!(found(old(|_| ())), one("redis.save_failing", Severity::Warning));
        assert_eq!(failing(&first(old(|_| ()))), one("redis.save_failing", Severity::Warning));
        assert_eq!(found(old(|p| p.changes_since_save = 0)), []);
        assert_eq!(found(old(|p| p.saves_configured = Some(false))), []);
        assert_eq!(found(old(|p| p.saves_configured = None)), []);
        assert_eq!(found(old(|p| p.last_save = None)), []);
        assert_eq!(found(old(|p| p.last_save = Some(Timestamp::MAX))), []);
    }

    #[test]
    fn a_replica_without_its_primary_is_one_finding() {
        let mut seen = healthy();
        seen.replication = Ok(RedisReplication {
            primary: false,
            replicas: 0,
            link_up: Some(false),
            link_down_seconds: Some(95),
            upstream: Some("10.0.0.1:6379".into()),
        });
        assert_eq!(found(seen.clone()), one("redis.replica_link_down", Severity::Critical));
        let mut copying = seen.clone();
        copying.persistence.as_mut().unwrap().loading = true;
        assert_eq!(found(copying), one("redis.loading", Severity::Warning));
        let mut unread = seen.clone();
        unread.persistence = Err(Gap::permission("no"));
        assert_eq!(found(unread), one("redis.replica_link_down", Severity::Critical));
        seen.replication.as_mut().unwrap().link_up = Some(true);
        assert_eq!(found(seen), []);
    }
}
