//! Sessions that have been at it for too long: idle in a transaction, in one query, in one transaction.
//!
//! The three are kept apart on purpose, so that one session gives one finding: what waits for a lock belongs to
//! `postgres.blocked_sessions`, what sits idle in a transaction to the first check here, a transaction that is long
//! only because of its present query to the second.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Activity, Postgres, Session, SessionState};
use crate::quantity::{Unit, Value, format_number};
use crate::severity::Severity;

const IDLE_SINCE: &str = "now() - state_change FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
const RUNNING_SINCE: &str = "now() - query_start FROM pg_stat_activity WHERE state = 'active'";
const OPEN_SINCE: &str = "now() - xact_start FROM pg_stat_activity";

pub static IDLE_IN_TRANSACTION: Check = Check {
    id: "postgres.idle_in_transaction",
    title: "A session sits idle inside a transaction",
    runbook: Runbook {
        means: "A client began a transaction, then stopped talking. Its locks stay, so others may wait for it; and \
                vacuum cannot remove any row that became dead since, in the whole database, so tables grow.",
        confirm: "SELECT pid, usename, application_name, client_addr, now() - state_change AS idle, query FROM \
                  pg_stat_activity WHERE state LIKE 'idle in transaction%' ORDER BY state_change;",
        act: "Ask the owner of the application to end it. If nobody needs it: SELECT pg_terminate_backend(PID); the \
              transaction is rolled back and the client gets an error. Then find the missing COMMIT in the \
              application, or an answer from a model that is awaited inside a transaction. As a safety net: ALTER \
              ROLE … SET idle_in_transaction_session_timeout = '10min'.",
    },
    source: IDLE_SINCE,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 600.0,
            unit: Unit::Seconds,
            why: "no request takes ten minutes between two statements; below that, batch jobs think",
        },
        Threshold {
            name: "critical",
            default: 3_600.0,
            unit: Unit::Seconds,
            why: "for an hour vacuum has removed nothing that died since: the tables that change grow visibly",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(idle_in_transaction),
};

fn idle_in_transaction(sight: &Sight<'_, Postgres>) -> Judged {
    let activity = sight.seen.activity.as_ref()?;
    let limit = sight.limit("warning");
    let idle = over(activity, limit, |session| session.state_age.filter(|_| is_idle_in_transaction(session)));
    let Some((oldest, age)) = idle.first().copied() else { return all_seen(activity, Vec::new()) };
    let (severity, _) = sight.graded(age).unwrap_or((Severity::Warning, limit));

    let (ours, protected): (Vec<_>, Vec<_>) = idle.iter().copied().partition(|(session, _)| !session.protected);
    // The threshold in the evidence is always the warning limit: the remedy holds every session to it.
    let mut draft = Draft::new(
        severity,
        format!("{} idle in a transaction, the longest for {}", sessions(idle.len()), duration(age)),
    )
    .against("longest idle in transaction", Value::seconds(age), Value::seconds(limit), IDLE_SINCE)
    .saw("its session", Value::text(described(oldest)), "pg_stat_activity")
    .offenders(ours.iter().map(|(session, age)| offender(session, *age, "idle in transaction for")).collect());
    if !protected.is_empty() {
        let names: Vec<_> = protected.iter().map(|(session, _)| who(session)).collect();
        draft = draft.saw(
            "left alone: superuser, replication, backup, copy or migration, named in never_end, or our own",
            Value::text(names.join("; ")),
            "pg_roles and application_name",
        );
    }
    Ok(vec![draft.fix(match ours.first() {
        Some((session, _)) => format!(
            "If nobody needs it any more, end the oldest: SELECT pg_terminate_backend({}); then mend the client, or set \
             idle_in_transaction_session_timeout for its role.",
            session.pid
        ),
        None => ask_the_owner(oldest),
    })])
}

pub static LONG_QUERY: Check = Check {
    id: "postgres.long_query",
    title: "A query runs for a long time",
    runbook: Runbook {
        means: "One statement has been working for minutes. It holds its snapshot and its locks, keeps a core and the \
                disk busy, and the user who asked has long gone.",
        confirm: "SELECT pid, usename, application_name, now() - query_start AS runs, wait_event_type, query FROM \
                  pg_stat_activity WHERE state = 'active' ORDER BY query_start;",
        act: "Find out what it is: a report, a migration and a dump may run long. Otherwise cancel it with SELECT \
              pg_cancel_backend(PID), which ends the statement and keeps the session. Then read its plan with EXPLAIN: \
              a missing index or stale statistics are the usual causes. Set statement_timeout for application roles.",
    },
    source: RUNNING_SINCE,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 300.0,
            unit: Unit::Seconds,
            why: "users give up after seconds; five minutes leave room for reports and nightly jobs (pgHero: one minute)",
        },
        Threshold {
            name: "critical",
            default: 3_600.0,
            unit: Unit::Seconds,
            why: "for an hour vacuum could not remove what died since this snapshot",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(long_query),
};

fn long_query(sight: &Sight<'_, Postgres>) -> Judged {
    let activity = sight.seen.activity.as_ref()?;
    let long = over(activity, sight.limit("warning"), |session| {
        session.query_age.filter(|_| is_working(session) && !is_ours(session))
    });
    let Some((oldest, age)) = long.first().copied() else { return all_seen(activity, Vec::new()) };
    let Some((severity, limit)) = sight.graded(age) else { return Ok(Vec::new()) };
    let verb = if long.len() == 1 { "runs one query" } else { "run long queries" };
    let draft = Draft::new(severity, format!("{} {verb}, the longest for {}", sessions(long.len()), duration(age)))
        .against("longest query", Value::seconds(age), Value::seconds(limit), RUNNING_SINCE)
        .saw("its session", Value::text(described(oldest)), "pg_stat_activity")
        .offenders(long.iter().map(|(session, age)| offender(session, *age, "runs for")).collect())
        .fix(match first_unprotected(&long) {
            Some(session) => format!(
                "If it is not a report, a migration or a dump that may take long: SELECT pg_cancel_backend({}); then \
                 EXPLAIN the statement.",
                session.pid
            ),
            None => ask_the_owner(oldest),
        });
    Ok(vec![draft])
}

pub static LONG_TRANSACTION: Check = Check {
    id: "postgres.long_transaction",
    title: "A transaction stays open for a long time",
    runbook: Runbook {
        means: "A client works in one transaction for very long, statement after statement. Its locks stay until the \
                end, and vacuum cannot remove rows that died since it began.",
        confirm: "SELECT pid, usename, application_name, state, now() - xact_start AS open, query FROM pg_stat_activity \
                  WHERE xact_start IS NOT NULL ORDER BY xact_start;",
        act: "Find the job behind it and let it commit in batches. If it must end now: SELECT \
              pg_terminate_backend(PID); all its work is rolled back, which may take as long as it has run.",
    },
    source: OPEN_SINCE,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 1_800.0,
            unit: Unit::Seconds,
            why: "half an hour of dead rows that vacuum must leave in place; jobs should commit in batches before that",
        },
        Threshold {
            name: "critical",
            default: 4.0 * 3_600.0,
            unit: Unit::Seconds,
            why: "four hours of churn: tables that change often are visibly bloated",
        },
        Threshold {
            name: "idle_from",
            default: 600.0,
            unit: Unit::Seconds,
            why: "idle for longer than this belongs to postgres.idle_in_transaction; keep it equal to its warning",
        },
        Threshold {
            name: "query_from",
            default: 300.0,
            unit: Unit::Seconds,
            why: "one query for longer than this belongs to postgres.long_query; keep it equal to its warning",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(long_transaction),
};

fn long_transaction(sight: &Sight<'_, Postgres>) -> Judged {
    let activity = sight.seen.activity.as_ref()?;
    let warning = sight.limit("warning");
    let long = over(activity, warning, |session| {
        let age = session.transaction_age?;
        let idle = is_idle_in_transaction(session) && session.state_age.unwrap_or(0.0) >= sight.limit("idle_from");
        let query = session.query_age.filter(|_| session.state == SessionState::Active).unwrap_or(0.0);
        // Without its present query the transaction would not be long: that query is the cause.
        let one_query = query >= sight.limit("query_from") && age - query < warning;
        (!idle && !one_query && !is_waiting_for_lock(session) && !is_ours(session)).then_some(age)
    });
    let Some((oldest, age)) = long.first().copied() else { return all_seen(activity, Vec::new()) };
    let Some((severity, limit)) = sight.graded(age) else { return Ok(Vec::new()) };
    let verb = if long.len() == 1 { "keeps a transaction" } else { "keep transactions" };
    let draft =
        Draft::new(severity, format!("{} {verb} open, the longest for {}", sessions(long.len()), duration(age)))
            .against("longest transaction", Value::seconds(age), Value::seconds(limit), OPEN_SINCE)
            .saw("its session", Value::text(described(oldest)), "pg_stat_activity")
            .offenders(long.iter().map(|(session, age)| offender(session, *age, "in one transaction for")).collect())
            .fix(match first_unprotected(&long) {
                Some(Session { pid, .. }) => format!(
                    "Let the job behind session {pid} commit in batches; if it must end now: SELECT \
                     pg_terminate_backend({pid})."
                ),
                None => ask_the_owner(oldest),
            });
    Ok(vec![draft])
}

/// The sessions whose age is `limit` or more, oldest first.
fn over(activity: &Activity, limit: f64, age: impl Fn(&Session) -> Option<f64>) -> Vec<(&Session, f64)> {
    let aged = activity.sessions.iter().filter_map(|session| Some((session, age(session)?)));
    let mut found: Vec<_> = aged.filter(|(_, age)| *age >= limit).collect();
    found.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    found
}

/// Nothing bad among the sessions that we may see proves nothing about those that are hidden from us.
pub(super) fn all_seen(activity: &Activity, drafts: Vec<Draft>) -> Judged {
    if activity.hidden == 0 || !drafts.is_empty() {
        return Ok(drafts);
    }
    Err(Unknown {
        kind: UnknownKind::NotRead,
        reason: format!(
            "{} of {} sessions are hidden from us; grant pg_monitor to see them",
            activity.hidden, activity.total
        ),
    })
}

/// The oldest session that a person may end without asking others first.
fn first_unprotected<'a>(found: &[(&'a Session, f64)]) -> Option<&'a Session> {
    found.iter().map(|(session, _)| *session).find(|session| !session.protected)
}

fn ask_the_owner(session: &Session) -> String {
    format!(
        "It belongs to a superuser, to replication, to a backup or to a tool that is protected by its name: ask the \
         owner of session {} before anything is ended.",
        session.pid
    )
}

/// A vacuum of ours may take long, and is no trouble.
fn is_ours(session: &Session) -> bool {
    session.application.to_ascii_lowercase().starts_with("groundskeeper")
}

fn is_idle_in_transaction(session: &Session) -> bool {
    matches!(session.state, SessionState::IdleInTransaction | SessionState::IdleInTransactionAborted)
}

pub(super) fn is_waiting_for_lock(session: &Session) -> bool {
    session.lock_wait.is_some() || !session.blocked_by.is_empty() || session.wait.starts_with("Lock")
}

fn is_working(session: &Session) -> bool {
    session.state == SessionState::Active && !is_waiting_for_lock(session)
}

pub(super) fn sessions(count: usize) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

pub(super) fn duration(seconds: f64) -> String {
    format_number(seconds, Unit::Seconds)
}

/// `pid 4242 docrag@docrag (docrag-api, 10.0.0.4)`
pub(super) fn who(session: &Session) -> String {
    let client = if session.client.is_empty() { "local socket" } else { &session.client };
    let application = if session.application.is_empty() { "no application name" } else { &session.application };
    format!("pid {} {}@{} ({application}, {client})", session.pid, session.user, session.database)
}

pub(super) fn described(session: &Session) -> String {
    if session.query.is_empty() { who(session) } else { format!("{}: {}", who(session), session.query) }
}

fn offender(session: &Session, age: f64, doing: &str) -> Offender {
    Offender {
        target: Target::Session { pid: session.pid, backend_start: session.backend_start },
        weight: age,
        note: format!("{}, {doing} {}", who(session), duration(age)),
    }
}

#[cfg(test)]
mod tests;
