//! What remedies propose, what their steps say, and how their results are judged.

use super::*;
use crate::check::catalogue;
use crate::finding::{Draft, Offender};
use crate::quantity::{Value, after};
use crate::severity::Severity;
use crate::system::SystemKind;
use std::collections::BTreeSet;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

fn main_database() -> SystemId {
    SystemId::new(SystemKind::Postgres, "main")
}

fn vacuum() -> Step {
    let (database, schema, table) = ("docrag".into(), "public".into(), "chunks".into());
    Step::Vacuum { system: main_database(), database, schema, table }
}

fn analyze() -> Step {
    let (database, schema, table) = ("docrag".into(), "public".into(), "chunks".into());
    Step::Analyze { system: main_database(), database, schema, table }
}

fn end_session() -> Step {
    Step::EndIdleSession { system: main_database(), pid: 4242, backend_start: at(0), idle_seconds: 600 }
}

fn table(dead_rows: u64, vacuumed: Option<i64>, analyzed: Option<i64>) -> StepState {
    StepState::Table {
        live_rows: 100_000,
        dead_rows,
        modified_since_analyze: 12,
        vacuumed: vacuumed.map(at),
        analyzed: analyzed.map(at),
    }
}

fn session() -> StepState {
    StepState::Session {
        user: "docrag".into(),
        application: "docrag-api".into(),
        idle_seconds: 900.0,
        query: "SELECT ?".into(),
    }
}

#[test]
fn every_remedy_answers_a_check_of_this_build_and_is_bounded() {
    let mut ids = BTreeSet::new();
    for remedy in REMEDIES {
        assert!(ids.insert(remedy.id), "{} is listed twice", remedy.id);
        assert!(catalogue::find(remedy.check).is_some(), "{} answers {}, which is no check", remedy.id, remedy.check);
        assert!(remedy.cooldown > 0.0 && remedy.hourly_cap > 0, "{}", remedy.id);
        assert!(find(remedy.id).is_some_and(|found| found.id == remedy.id));
    }
    assert!(find("postgres.vacuum_full").is_none());
}

/// What each step sends, whatever the names in it.
#[test]
fn statements_quote_every_name() {
    let (database, schema, table) = ("docrag".into(), "Public".into(), "a\"; DROP TABLE users; --".into());
    let hostile = Step::Vacuum { system: main_database(), database, schema, table };
    let statements = [analyze(), vacuum(), hostile, end_session()].map(|step| step.statement());
    insta::assert_snapshot!(statements.join("\n"));
}

#[test]
fn a_subject_names_the_system_and_the_thing() {
    assert_eq!(vacuum().subject(), "postgres.main table docrag.public.chunks");
    assert_eq!(vacuum().subject(), analyze().subject(), "a table is one subject, whatever is done to it");
    let same_pid_later = Step::EndIdleSession {
        system: main_database(),
        pid: 4242,
        backend_start: after(at(0), 0.001),
        idle_seconds: 600,
    };
    assert_ne!(end_session().subject(), same_pid_later.subject(), "pids are used again");
}

fn idle_finding(threshold: Option<f64>) -> Finding {
    let backend = Target::Session { pid: 4242, backend_start: at(0) };
    let mut draft = Draft::new(Severity::Warning, "1 session idle in transaction").offenders(vec![
        Offender { target: backend, weight: 900.0, note: "docrag-api".into() },
        Offender { target: Target::Database { name: "docrag".into() }, weight: 1.0, note: "no session".into() },
    ]);
    if let Some(threshold) = threshold {
        draft = draft.against("idle", Value::seconds(900.0), Value::seconds(threshold), "pg_stat_activity");
    }
    Finding::from_draft("postgres.idle_in_transaction", &main_database(), draft)
}

fn idle_limits(threshold: Option<f64>) -> Vec<u32> {
    let proposals = (find("postgres.end_idle_in_transaction").unwrap().propose)(&idle_finding(threshold));
    let limit = |proposal: &Proposal| match proposal.step {
        Step::EndIdleSession { idle_seconds, .. } => idle_seconds,
        _ => panic!("{proposal:?}"),
    };
    proposals.iter().map(limit).collect()
}

#[test]
fn a_session_is_held_to_the_limit_that_it_was_found_by_and_never_to_less() {
    assert_eq!(idle_limits(Some(600.0)), [600]);
    assert_eq!(idle_limits(Some(600.2)), [601]);
    assert_eq!(idle_limits(Some(0.5)), [1], "never `idle for 0 s or more`, which is every session");
    assert_eq!(idle_limits(None), [0; 0], "without a limit nothing is proposed");
}

#[test]
fn a_vacuum_helped_when_the_server_says_so_and_rows_are_gone() {
    use Verification::{DidNotHelp, Helped};
    let verdict = |before: &StepState, after: &StepState| vacuum().verify(before, after);
    assert!(matches!(verdict(&table(41_000, None, None), &table(0, Some(9), Some(9))), Helped(_)));
    assert!(matches!(verdict(&table(0, Some(1), None), &table(0, Some(9), None)), Helped(_)));
    assert!(matches!(verdict(&table(41_000, Some(1), None), &table(0, Some(1), None)), DidNotHelp(_)));
    assert!(matches!(verdict(&table(41_000, Some(1), None), &table(41_000, Some(9), None)), DidNotHelp(_)));
    assert!(matches!(verdict(&table(41_000, Some(1), None), &StepState::Gone), DidNotHelp(_)));
    assert!(matches!(verdict(&session(), &table(0, Some(9), None)), DidNotHelp(_)));
}

#[test]
fn an_analyze_helped_when_the_statistics_are_newer() {
    use Verification::{DidNotHelp, Helped};
    let verdict = |before: &StepState, after: &StepState| analyze().verify(before, after);
    assert!(matches!(verdict(&table(0, None, None), &table(0, None, Some(9))), Helped(_)));
    assert!(matches!(verdict(&table(0, None, Some(9)), &table(0, Some(9), Some(9))), DidNotHelp(_)));
    assert!(matches!(verdict(&table(0, None, Some(9)), &StepState::Gone), DidNotHelp(_)));
}

#[test]
fn ending_a_session_helped_when_it_is_gone() {
    use Verification::{DidNotHelp, Helped};
    assert!(matches!(end_session().verify(&session(), &StepState::Gone), Helped(_)));
    assert!(matches!(end_session().verify(&session(), &session()), DidNotHelp(_)));
}

#[test]
fn no_step_of_today_leaves_something_to_put_back() {
    assert!(matches!(analyze().undo(&table(0, None, None)), Undo::NotNeeded(_)));
    assert!(matches!(vacuum().undo(&table(0, None, None)), Undo::NotNeeded(_)));
    assert!(matches!(end_session().undo(&session()), Undo::Impossible(_)));
}
