//! Who waits for whom.

use super::activity::{all_seen, described, duration, sessions, who};
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Postgres, Session};
use crate::quantity::{Unit, Value};
use crate::severity::Severity;
use std::collections::{BTreeMap, BTreeSet};

const WAITING: &str = "pg_locks.waitstart and pg_blocking_pids(pid)";

pub static BLOCKED_SESSIONS: Check = Check {
    id: "postgres.blocked_sessions",
    title: "Sessions wait for a lock",
    runbook: Runbook {
        means: "Somebody holds a lock that others need. They wait with their connections open, more requests queue up \
                behind them, and after a while the connections run out.",
        confirm: "SELECT pid, pg_blocking_pids(pid) AS waits_for, now() - query_start AS runs, query FROM \
                  pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0;",
        act: "Look at the session at the root of the queue, not at those who wait. If it is a migration (ALTER TABLE, \
              CREATE INDEX without CONCURRENTLY), cancel it: SELECT pg_cancel_backend(PID); and run it again with a \
              lock_timeout. If it is idle in a transaction, end it: SELECT pg_terminate_backend(PID).",
    },
    source: WAITING,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 10.0,
            unit: Unit::Seconds,
            why: "row locks last for milliseconds; ten times the default deadlock_timeout of 1 s is no ordinary wait",
        },
        Threshold {
            name: "critical",
            default: 120.0,
            unit: Unit::Seconds,
            why: "after two minutes clients and load balancers have timed out, and the pool of connections fills",
        },
    ],
    hold: Hold { open_after: 15.0, clear_after: 30.0 },
    judge: Judge::Postgres(blocked_sessions),
};

fn blocked_sessions(sight: &Sight<'_, Postgres>) -> Judged {
    let activity = sight.seen.activity.as_ref()?;
    let by_pid: BTreeMap<i32, &Session> = activity.sessions.iter().map(|session| (session.pid, session)).collect();
    let waits = activity.sessions.iter().filter_map(|session| Some((session, session.lock_wait?)));
    let mut waiting: Vec<_> = waits.filter(|(_, wait)| *wait >= sight.limit("warning")).collect();
    waiting.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let Some((longest, wait)) = waiting.first().copied() else { return all_seen(activity, Vec::new()) };
    let Some((severity, limit)) = sight.graded(wait) else { return Ok(Vec::new()) };
    // Before 14 nobody knows since when: then it is the age of a statement, most of which may have been work.
    let knows_since = sight.seen.server.major() >= 14;
    let (severity, limit) = if knows_since { (severity, limit) } else { (Severity::Warning, sight.limit("warning")) };

    let mut behind: BTreeMap<i32, f64> = BTreeMap::new();
    for (session, _) in &waiting {
        for root in roots(session, &by_pid) {
            *behind.entry(root).or_default() += 1.0;
        }
    }
    let mut roots: Vec<_> = behind.into_iter().collect();
    roots.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let root = roots.first().map(|(pid, _)| *pid);
    let names: Vec<_> = roots.iter().map(|(pid, count)| format!("{} holds up {count}", named(*pid, &by_pid))).collect();
    // Only those whom somebody waits for against its will.
    let harmful = harmful(&waiting, &by_pid);
    let offenders = roots.iter().filter(|(pid, _)| knows_since && harmful.contains(pid)).filter_map(|(pid, count)| {
        let session = by_pid.get(pid)?;
        Some(Offender {
            target: Target::Session { pid: *pid, backend_start: session.backend_start },
            weight: *count,
            note: format!("{}, {}, holds up {}", who(session), doing(session), sessions(*count as usize)),
        })
    });
    let verb = if waiting.len() == 1 { "waits" } else { "wait" };
    let pile = pile(&activity.sessions, longest, &by_pid);
    let (longest_is, what, source) = if knows_since {
        ("the longest for", "longest wait for a lock", WAITING)
    } else {
        ("the oldest in a statement of", "oldest statement that waits for a lock", "pg_stat_activity.query_start")
    };
    let mut draft = Draft::new(
        severity,
        format!(
            "{} {verb} for a lock, {longest_is} {}; at the root: {}",
            sessions(waiting.len()),
            duration(wait),
            root.map_or_else(|| "nobody that we can see".to_owned(), |pid| named(pid, &by_pid))
        ),
    )
    .against(what, Value::seconds(wait), Value::seconds(limit), source)
    .saw("who waits longest", Value::text(described(longest)), "pg_stat_activity")
    .saw("root blockers", Value::text(names.join("; ")), "pg_blocking_pids(pid), followed to its end")
    .offenders(match pile {
        Some((front, count)) if knows_since => vec![in_front(front, count)],
        Some(_) => Vec::new(),
        None => offenders.collect(),
    })
    .fix(match pile {
        Some((front, _)) => let_by(front),
        None => way_out(root, &by_pid),
    });
    if let Some((front, count)) = pile {
        let mode = front.lock_mode.as_deref().unwrap_or_default();
        let text = format!("{}, which waits for {mode}, holds up {}", described(front), sessions(count));
        draft = draft.saw("who waits in front of the others", Value::text(text), "pg_locks.mode of those not granted");
    }
    Ok(vec![draft])
}

/// Roots of waits that nobody chose. Whoever waits for an advisory lock wanted to, as the others of an elected leader do; a
/// concurrent build that waits for old transactions holds up nobody.
fn harmful(waiting: &[(&Session, f64)], by_pid: &BTreeMap<i32, &Session>) -> BTreeSet<i32> {
    let is_chosen = |session: &Session| ["Lock: advisory", "Lock: virtualxid"].contains(&session.wait.as_str());
    let unwilling = waiting.iter().filter(|(session, _)| !is_chosen(session));
    unwilling.flat_map(|(session, _)| roots(session, by_pid)).collect()
}

/// Locks of a table that readers or writers cannot have beside them.
const STRONG: [&str; 4] = ["AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock"];

/// A statement that does not have its lock yet and still stops others: whoever comes after it queues behind the strong lock
/// that it waits for. Gives the one with the longest queue, and how many are in it; only where whoever waits longest is
/// a part of that.
fn pile<'s>(all: &'s [Session], longest: &Session, by_pid: &BTreeMap<i32, &Session>) -> Option<(&'s Session, usize)> {
    let waits_strongly = |session: &&Session| session.lock_mode.as_deref().is_some_and(|mode| STRONG.contains(&mode));
    let queue = |front: &Session| all.iter().filter(|session| is_behind(session, front.pid, by_pid)).count();
    let concerns = |front: &&Session| front.pid == longest.pid || is_behind(longest, front.pid, by_pid);
    let fronts = all.iter().filter(waits_strongly).filter(concerns).map(|front| (front, queue(front)));
    fronts.filter(|(_, count)| *count > 0).max_by_key(|(_, count)| *count)
}

fn is_behind(session: &Session, front: i32, by_pid: &BTreeMap<i32, &Session>) -> bool {
    let mut seen = BTreeSet::from([session.pid]);
    let mut open = session.blocked_by.clone();
    while let Some(pid) = open.pop() {
        if pid == front && session.pid != front {
            return true;
        }
        if seen.insert(pid) {
            open.extend(by_pid.get(&pid).map_or(&[][..], |blocker| &blocker.blocked_by));
        }
    }
    false
}

/// Who is to be cancelled so that the others go on: not the root, which may be a long report that harms nobody.
fn in_front(front: &Session, count: usize) -> Offender {
    let mode = front.lock_mode.as_deref().unwrap_or_default();
    Offender {
        target: Target::Session { pid: front.pid, backend_start: front.backend_start },
        weight: count as f64,
        note: format!("{}, waits for {mode} itself, holds up {}", who(front), sessions(count)),
    }
}

fn let_by(front: &Session) -> String {
    if front.protected {
        return format!(
            "Session {pid} waits for a lock of a whole table, and everybody after it queues behind. It belongs to a \
             superuser, to replication or to a backup: ask its owner before you touch it. SELECT * FROM pg_stat_activity \
             WHERE pid = {pid};",
            pid = front.pid
        );
    }
    format!(
        "Session {pid} waits for a lock of a whole table, and everybody after it queues behind: SELECT \
         pg_cancel_backend({pid}); lets them go on at once, and rolls back its whole transaction. Run that again with SET \
         lock_timeout = '2s'; and repeat until it gets through.",
        pid = front.pid
    )
}

/// Follows `blocked_by` to those who wait for nobody. A ring (a deadlock that the server is about to break) has no such
/// end; then its members are named.
fn roots(session: &Session, by_pid: &BTreeMap<i32, &Session>) -> BTreeSet<i32> {
    let mut seen = BTreeSet::from([session.pid]);
    let mut open = session.blocked_by.clone();
    let mut found = BTreeSet::new();
    while let Some(pid) = open.pop() {
        if !seen.insert(pid) {
            continue;
        }
        match by_pid.get(&pid).filter(|blocker| !blocker.blocked_by.is_empty()) {
            Some(blocker) => open.extend(&blocker.blocked_by),
            None => {
                found.insert(pid);
            }
        }
    }
    if found.is_empty() {
        found.extend(&session.blocked_by);
    }
    found
}

fn named(pid: i32, by_pid: &BTreeMap<i32, &Session>) -> String {
    match by_pid.get(&pid) {
        Some(session) => format!("{}, {}", who(session), doing(session)),
        None if pid == 0 => "a prepared transaction".to_owned(),
        None => format!("pid {pid}"),
    }
}

fn doing(session: &Session) -> String {
    use crate::observation::SessionState::{Active, Idle, IdleInTransaction, IdleInTransactionAborted, Other};
    let state = match session.state {
        Active => "active",
        Idle => "idle",
        IdleInTransaction => "idle in transaction",
        IdleInTransactionAborted => "idle in a failed transaction",
        Other => "in another state",
    };
    session.transaction_age.map_or_else(|| state.to_owned(), |age| format!("{state}, open for {}", duration(age)))
}

fn way_out(root: Option<i32>, by_pid: &BTreeMap<i32, &Session>) -> String {
    match root {
        Some(0) => {
            "A prepared transaction holds the lock. Find it: SELECT gid, prepared, owner FROM pg_prepared_xacts \
                    ORDER BY prepared; then COMMIT PREPARED or ROLLBACK PREPARED 'GID'."
                .to_owned()
        }
        Some(pid) if by_pid.get(&pid).is_some_and(|session| session.protected) => format!(
            "Session {pid} belongs to a superuser, to replication or to a backup: ask its owner before you touch it. \
             SELECT * FROM pg_stat_activity WHERE pid = {pid};"
        ),
        Some(pid) => format!(
            "Look at session {pid}: SELECT * FROM pg_stat_activity WHERE pid = {pid}; then SELECT pg_cancel_backend({pid}) \
             if it runs a statement, or SELECT pg_terminate_backend({pid}) if it sits idle in a transaction."
        ),
        None => {
            "SELECT pid, pg_blocking_pids(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'; and look at the \
                 pids that it names."
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::postgres::fixtures::{finding, found_in, session, with_sessions};
    use crate::finding::Target;
    use crate::observation::{Session, SessionState};
    use crate::severity::Severity;

    fn waiting(pid: i32, wait: f64, blocked_by: &[i32]) -> Session {
        Session {
            wait: "Lock: transactionid".into(),
            blocked_by: blocked_by.to_vec(),
            lock_wait: Some(wait),
            query_age: Some(wait + 400.0),
            transaction_age: Some(wait + 400.0),
            ..session(pid)
        }
    }

    fn holder(pid: i32) -> Session {
        Session {
            state: SessionState::IdleInTransaction,
            state_age: Some(200.0),
            transaction_age: Some(210.0),
            ..session(pid)
        }
    }

    #[test]
    fn a_wait_is_graded_by_its_length_and_is_the_only_finding() {
        for (wait, severity) in [(10.0, Severity::Warning), (120.0, Severity::Critical)] {
            let seen = with_sessions(vec![holder(1), waiting(2, wait, &[1])]);
            let finding = finding("postgres.blocked_sessions", found_in(seen));
            assert_eq!(finding.severity, severity);
            assert!(finding.fix.contains("pg_terminate_backend(1)"), "{}", finding.fix);
        }
        assert_eq!(found_in(with_sessions(vec![holder(1), waiting(2, 9.9, &[1])])), []);
    }

    #[test]
    fn the_root_of_a_chain_is_named_and_not_the_middle() {
        let chain = vec![holder(1), waiting(2, 60.0, &[1]), waiting(3, 50.0, &[2]), waiting(4, 40.0, &[3, 2])];
        let finding = finding("postgres.blocked_sessions", found_in(with_sessions(chain)));
        assert_eq!(finding.offenders.len(), 1, "{finding:#?}");
        assert!(matches!(finding.offenders[0].target, Target::Session { pid: 1, .. }));
        assert!(finding.summary.starts_with("3 sessions wait"), "{}", finding.summary);
        assert!(finding.offenders[0].note.contains("holds up 3 sessions"), "{}", finding.offenders[0].note);
    }

    #[test]
    fn who_waits_for_a_whole_table_in_front_of_others_is_named_and_can_be_let_by() {
        let migration = |mode: &str| Session { lock_mode: Some(mode.into()), ..waiting(2, 60.0, &[1]) };
        let queue = |mode: &str| vec![holder(1), migration(mode), waiting(3, 50.0, &[2]), waiting(4, 40.0, &[3])];
        let found = finding("postgres.blocked_sessions", found_in(with_sessions(queue("AccessExclusiveLock"))));
        assert!(found.fix.contains("pg_cancel_backend(2)"), "{}", found.fix);
        let front = found.evidence.iter().find(|one| one.what.contains("in front")).unwrap();
        assert!(front.value.to_string().ends_with("holds up 2 sessions"), "{}", front.value);
        let weak = finding("postgres.blocked_sessions", found_in(with_sessions(queue("RowExclusiveLock"))));
        assert!(weak.fix.contains("pg_terminate_backend(1)"), "{}", weak.fix);
        let mut elsewhere = queue("AccessExclusiveLock");
        elsewhere.extend([holder(8), waiting(9, 90.0, &[8])]);
        let elsewhere = finding("postgres.blocked_sessions", found_in(with_sessions(elsewhere)));
        assert!(!elsewhere.fix.contains("pg_cancel_backend(2)"), "who waits longest is elsewhere: {}", elsewhere.fix);
        let alone = vec![holder(1), migration("AccessExclusiveLock")];
        let alone = finding("postgres.blocked_sessions", found_in(with_sessions(alone)));
        assert!(alone.fix.contains("pg_terminate_backend(1)"), "nobody is behind it: {}", alone.fix);
    }

    #[test]
    fn before_14_the_age_of_a_statement_is_no_critical_wait_and_nobody_is_proposed() {
        let migration = Session { lock_mode: Some("AccessExclusiveLock".into()), ..waiting(2, 900.0, &[1]) };
        for sessions in [vec![holder(1), waiting(2, 900.0, &[1])], vec![holder(1), migration, waiting(3, 50.0, &[2])]] {
            let mut seen = with_sessions(sessions);
            seen.server.version_num = 130_023;
            let found = found_in(seen).into_iter().find(|one| one.check == "postgres.blocked_sessions").unwrap();
            assert_eq!((found.severity, found.offenders.len()), (Severity::Warning, 0), "{found:#?}");
            assert!(found.summary.contains("the oldest in a statement of 15 min"), "{}", found.summary);
            assert!(!found.evidence.iter().any(|one| one.source.contains("waitstart")), "{found:#?}");
        }
    }

    #[test]
    fn a_ring_ends_the_search() {
        let ring = vec![waiting(1, 20.0, &[2]), waiting(2, 20.0, &[1])];
        let finding = finding("postgres.blocked_sessions", found_in(with_sessions(ring)));
        assert_eq!(finding.offenders.len(), 2);
    }

    #[test]
    fn a_blocker_that_is_not_in_sight_and_a_prepared_transaction_are_still_named() {
        let prepared = finding("postgres.blocked_sessions", found_in(with_sessions(vec![waiting(2, 20.0, &[0])])));
        assert!(prepared.fix.contains("pg_prepared_xacts"));
        let autovacuum = finding("postgres.blocked_sessions", found_in(with_sessions(vec![waiting(2, 20.0, &[77])])));
        assert!(autovacuum.summary.contains("pid 77"), "{}", autovacuum.summary);
        assert_eq!(autovacuum.offenders, []);
    }

    #[test]
    fn nobody_is_told_to_end_a_protected_session() {
        let backup = Session { protected: true, ..holder(1) };
        let seen = with_sessions(vec![backup, waiting(2, 20.0, &[1])]);
        let finding = finding("postgres.blocked_sessions", found_in(seen));
        assert!(!finding.fix.contains("terminate"), "{}", finding.fix);
    }
}
