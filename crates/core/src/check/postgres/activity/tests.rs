use crate::check::postgres::fixtures::{change, finding, found_in, session, status, with_sessions};
use crate::check::{Status, UnknownKind};
use crate::finding::Target;
use crate::observation::{Gap, Session, SessionState};
use crate::remedy::{self, Step};
use crate::severity::Severity;

fn idle(pid: i32, age: f64) -> Session {
    Session {
        state: SessionState::IdleInTransaction,
        state_age: Some(age),
        query_age: Some(age + 1.0),
        transaction_age: Some(age + 2.0),
        wait: "Client: ClientRead".into(),
        ..session(pid)
    }
}

fn running(pid: i32, age: f64) -> Session {
    Session { query_age: Some(age), transaction_age: Some(age), state_age: Some(age), ..session(pid) }
}

/// Busy with short statements, but all in one transaction.
fn chatty(pid: i32, age: f64) -> Session {
    Session { transaction_age: Some(age), ..session(pid) }
}

#[test]
fn an_idle_transaction_is_found_once_whatever_its_age() {
    for (age, severity) in [(600.0, Severity::Warning), (3_600.0, Severity::Critical), (90_000.0, Severity::Critical)] {
        let finding = finding("postgres.idle_in_transaction", found_in(with_sessions(vec![idle(7, age)])));
        assert_eq!(finding.severity, severity);
    }
    assert_eq!(found_in(with_sessions(vec![idle(7, 599.0)])), []);
}

#[test]
fn an_aborted_transaction_counts_as_idle_too() {
    let aborted = Session { state: SessionState::IdleInTransactionAborted, ..idle(7, 700.0) };
    finding("postgres.idle_in_transaction", found_in(with_sessions(vec![aborted])));
}

#[test]
fn many_idle_transactions_are_one_finding_with_the_oldest_first() {
    let seen = with_sessions(vec![idle(1, 700.0), idle(2, 4_000.0), idle(3, 10.0)]);
    let finding = finding("postgres.idle_in_transaction", found_in(seen));
    let pids: Vec<_> = finding
        .offenders
        .iter()
        .map(|offender| if let Target::Session { pid, .. } = offender.target { pid } else { 0 })
        .collect();
    assert_eq!(pids, [2, 1]);
    assert!(finding.fix.contains("pg_terminate_backend(2)"));
}

#[test]
fn the_remedy_holds_each_session_to_the_warning_limit() {
    let seen = with_sessions(vec![idle(1, 700.0), idle(2, 4_000.0)]);
    let finding = finding("postgres.idle_in_transaction", found_in(seen));
    let proposals = (remedy::find("postgres.end_idle_in_transaction").unwrap().propose)(&finding);
    assert_eq!(proposals.len(), 2);
    for proposal in proposals {
        assert!(matches!(proposal.step, Step::EndIdleSession { idle_seconds: 600, .. }), "{:?}", proposal.step);
    }
}

#[test]
fn a_protected_session_is_reported_but_never_offered_to_the_remedy() {
    let dump = Session { protected: true, application: "pg_dump".into(), ..idle(9, 5_000.0) };
    let finding = finding("postgres.idle_in_transaction", found_in(with_sessions(vec![dump])));
    assert_eq!(finding.offenders, []);
    assert!(finding.evidence.iter().any(|evidence| evidence.value.to_string().contains("pg_dump")));
}

#[test]
fn nobody_is_told_to_end_a_protected_session() {
    let dump = |session: Session| Session { protected: true, application: "pg_dump".into(), ..session };
    for (check, protected, other) in [
        ("postgres.idle_in_transaction", dump(idle(9, 5_000.0)), idle(7, 700.0)),
        ("postgres.long_query", dump(running(9, 5_000.0)), running(7, 700.0)),
        ("postgres.long_transaction", dump(chatty(9, 5_000.0)), chatty(7, 2_000.0)),
    ] {
        let alone = finding(check, found_in(with_sessions(vec![protected.clone()])));
        assert!(alone.fix.contains("ask the owner of session 9"), "{}", alone.fix);
        assert!(!alone.fix.contains("_backend("), "{}", alone.fix);
        let both = finding(check, found_in(with_sessions(vec![protected, other])));
        assert!(both.fix.contains("_backend(7)") && !both.fix.contains("_backend(9)"), "{}", both.fix);
    }
}

#[test]
fn our_own_long_vacuum_is_no_finding() {
    let ours = |session: Session| Session { protected: true, application: "groundskeeper".into(), ..session };
    assert_eq!(found_in(with_sessions(vec![ours(running(9, 5_000.0)), ours(chatty(8, 5_000.0))])), []);
}

#[test]
fn a_long_query_is_found_once_although_its_transaction_is_long_as_well() {
    for (age, severity) in [(300.0, Severity::Warning), (3_600.0, Severity::Critical), (20_000.0, Severity::Critical)] {
        let finding = finding("postgres.long_query", found_in(with_sessions(vec![running(7, age)])));
        assert_eq!(finding.severity, severity);
        assert!(finding.summary.starts_with("1 session runs one query"), "{}", finding.summary);
    }
    assert_eq!(found_in(with_sessions(vec![running(7, 299.0)])), []);
}

#[test]
fn the_last_query_of_an_idle_session_is_not_a_long_query() {
    let idle = Session {
        state: SessionState::Idle,
        query_age: Some(9_000.0),
        transaction_age: None,
        state_age: Some(9_000.0),
        ..session(7)
    };
    assert_eq!(found_in(with_sessions(vec![idle])), []);
}

#[test]
fn a_session_that_waits_for_a_lock_is_neither_a_long_query_nor_a_long_transaction() {
    let waiting = Session {
        wait: "Lock: transactionid".into(),
        blocked_by: vec![8],
        lock_wait: Some(5.0),
        ..running(7, 9_000.0)
    };
    assert_eq!(found_in(with_sessions(vec![waiting])), []);
}

#[test]
fn a_transaction_of_many_statements_is_a_long_transaction() {
    for (age, severity) in [(1_800.0, Severity::Warning), (14_400.0, Severity::Critical)] {
        let finding = finding("postgres.long_transaction", found_in(with_sessions(vec![chatty(7, age)])));
        assert_eq!(finding.severity, severity);
    }
    let between_statements = Session { transaction_age: Some(2_000.0), ..idle(7, 0.5) };
    finding("postgres.long_transaction", found_in(with_sessions(vec![between_statements])));
    assert_eq!(found_in(with_sessions(vec![chatty(7, 1_799.0)])), []);
}

#[test]
fn hidden_sessions_make_the_answer_unknown_unless_something_was_found() {
    let hide = |sessions: Vec<Session>| {
        change(|seen| {
            let activity = seen.activity.as_mut().unwrap();
            activity.hidden = 4;
            activity.sessions = sessions;
        })
    };
    for check in ["postgres.idle_in_transaction", "postgres.long_query", "postgres.long_transaction"] {
        let Status::Unknown(unknown) = status(check, hide(Vec::new()), None) else { panic!("{check}") };
        assert_eq!(unknown.kind, UnknownKind::NotRead);
        assert!(unknown.reason.contains("pg_monitor"));
    }
    let seen = hide(vec![idle(7, 700.0)]);
    assert!(matches!(status("postgres.idle_in_transaction", seen, None), Status::Failing { .. }));
}

#[test]
fn activity_that_could_not_be_read_is_unknown_with_the_reason() {
    let seen = change(|seen| seen.activity = Err(Gap::new("statement timeout")));
    let Status::Unknown(unknown) = status("postgres.long_query", seen, None) else { panic!() };
    assert_eq!(unknown.reason, "statement timeout");
}

#[test]
fn ages_that_are_missing_negative_or_absurd_do_no_harm() {
    for age in [None, Some(-5.0), Some(f64::NAN)] {
        let odd = Session { state_age: age, query_age: age, transaction_age: age, ..idle(7, 1.0) };
        assert_eq!(found_in(with_sessions(vec![odd])), []);
    }
}
