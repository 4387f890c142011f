//! What remedies propose, what their steps say, and how their results are judged.

use super::*;
use crate::check::catalogue;
use crate::finding::{Draft, Offender, Target};
use crate::quantity::{Value, after};
use crate::severity::Severity;
use crate::system::{SystemId, SystemKind};
use jiff::Timestamp;
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
        let known = remedy.check.is_none_or(|check| catalogue::find(check).is_some());
        assert!(known, "{} answers {:?}, which is no check", remedy.id, remedy.check);
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
    let statements =
        [analyze(), vacuum(), hostile, end_session(), end_blocker(), reindex(BLOATED)].map(|step| step.statement());
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

const BLOATED: Reindexing = Reindexing::Bloated { percent: 200, wasted: 10 << 20 };

fn reindex(because: Reindexing) -> Step {
    let (database, schema, table) = ("docrag".into(), "public".into(), "chunks".into());
    Step::Reindex { system: main_database(), database, schema, table, index: "chunks_word".into(), because }
}

fn end_blocker() -> Step {
    Step::EndBlocker { system: main_database(), pid: 4242, backend_start: at(0), waiting_seconds: 120 }
}

fn index(oid: u32, size: u64, is_valid: bool) -> StepState {
    StepState::Index { oid, size, is_valid, relation: Some(7) }
}

#[test]
fn a_reindex_helped_when_the_name_belongs_to_a_new_valid_and_smaller_index() {
    use Verification::{DidNotHelp, Helped};
    let bloated = reindex(BLOATED);
    assert_eq!(
        bloated.verify(&index(1, 400 << 20, true), &index(2, 100 << 20, true)),
        Helped("400 MiB -> 100 MiB".into())
    );
    for after in [index(1, 100, true), index(2, 100, false), index(2, 395 << 20, true), StepState::Gone] {
        assert!(matches!(bloated.verify(&index(1, 400 << 20, true), &after), DidNotHelp(_)), "{after:?}");
    }
    let invalid = reindex(Reindexing::Invalid);
    assert!(matches!(invalid.verify(&index(1, 8192, false), &index(2, 1 << 20, true)), Helped(_)), "larger is fine");
    assert!(matches!(invalid.verify(&index(1, 8192, false), &index(2, 1 << 20, false)), DidNotHelp(_)));
}

#[test]
fn what_a_reindex_leaves_is_put_back_and_nothing_else_is() {
    let Undo::By(undo) = reindex(BLOATED).undo(&index(1, 1, true)) else { panic!("nothing is put back") };
    assert!(matches!(&*undo, Step::DropLeftovers { table, relation: Some(7), .. } if table == "chunks"), "{undo:?}");
    let left = |names: &[&str]| StepState::Leftovers { names: names.iter().map(|name| (*name).into()).collect() };
    let verify = |after: &StepState| undo.verify(&left(&["a_ccnew", "b_ccold1"]), after);
    assert_eq!(verify(&StepState::Gone), Verification::Helped("2 leftovers dropped".into()));
    assert_eq!(verify(&left(&["a_ccnew"])), Verification::DidNotHelp("a_ccnew still there".into()));
    assert!(matches!(undo.undo(&StepState::Gone), Undo::NotNeeded(_)));
    assert_ne!(undo.subject(), vacuum().subject());
}

#[test]
fn a_reindex_that_an_earlier_version_journalled_is_put_back_by_name() {
    let before: StepState = serde_json::from_str(r#"{"state":"index","oid":1,"size":8192,"is_valid":true}"#).unwrap();
    let Undo::By(undo) = reindex(BLOATED).undo(&before) else { panic!("nothing is put back") };
    assert!(matches!(&*undo, Step::DropLeftovers { relation: None, .. }), "{undo:?}");
    let written = serde_json::to_string(&undo).unwrap();
    assert!(!written.contains("relation"), "an approved plan keeps its hash: {written}");
    assert_eq!(serde_json::from_str::<Step>(&written).unwrap(), *undo);
}

#[test]
fn a_blocker_is_dealt_with_when_nobody_waits_for_it() {
    use Verification::{DidNotHelp, Helped};
    let blocker =
        |holds_up| StepState::Blocker { user: "a".into(), application: "b".into(), query: String::new(), holds_up };
    let verdict = |after: &StepState| end_blocker().verify(&blocker(3), after);
    assert!(matches!(verdict(&StepState::Gone), Helped(_)));
    assert!(matches!(verdict(&blocker(0)), Helped(_)));
    assert!(matches!(verdict(&blocker(1)), DidNotHelp(_)));
    assert!(matches!(end_blocker().undo(&blocker(3)), Undo::Impossible(_)));
}

#[test]
fn a_blocker_is_ended_only_when_the_wait_is_critical() {
    let propose = |severity, limit| {
        let target = Target::Session { pid: 4242, backend_start: at(0) };
        let draft = Draft::new(severity, "5 sessions wait for a lock")
            .offenders(vec![Offender { target, weight: 5.0, note: "psql, idle in transaction, holds up 5".into() }])
            .against("longest wait", Value::seconds(limit + 1.0), Value::seconds(limit), "pg_locks.waitstart");
        let finding = Finding::from_draft("postgres.blocked_sessions", &main_database(), draft);
        (find("postgres.end_blocker").unwrap().propose)(&finding)
    };
    assert_eq!(propose(Severity::Warning, 10.0), []);
    let proposals = propose(Severity::Critical, 120.0);
    assert_eq!(proposals.iter().map(|proposal| &proposal.step).collect::<Vec<_>>(), [&end_blocker()]);
}

#[test]
fn an_invalid_index_is_built_anew_and_what_a_reindex_left_is_dropped_once_for_each_table() {
    let offender = |name: &str| Offender {
        target: Target::Index {
            database: "docrag".into(),
            schema: "public".into(),
            table: "chunks".into(),
            name: name.into(),
        },
        weight: 1.0,
        note: name.into(),
    };
    let names = ["chunks_word", "chunks_pkey_ccnew", "chunks_word_ccold2", "chunks_ccnewer"];
    let draft = Draft::new(Severity::Warning, "4 invalid").offenders(names.map(offender).to_vec());
    let finding = Finding::from_draft("postgres.index_invalid", &main_database(), draft);
    let steps = |remedy: &str| -> Vec<Step> {
        (find(remedy).unwrap().propose)(&finding).into_iter().map(|proposal| proposal.step).collect()
    };
    assert!(matches!(&steps("postgres.drop_reindex_leftovers")[..], [Step::DropLeftovers { .. }]));
    let rebuilt: Vec<String> = steps("postgres.rebuild_invalid_index").iter().map(Step::statement).collect();
    assert_eq!(
        rebuilt,
        ["chunks_word", "chunks_ccnewer"].map(|name| format!("REINDEX INDEX CONCURRENTLY \"public\".\"{name}\""))
    );
}

#[test]
fn upkeep_and_ended_sessions_leave_nothing_to_put_back() {
    assert!(matches!(analyze().undo(&table(0, None, None)), Undo::NotNeeded(_)));
    assert!(matches!(vacuum().undo(&table(0, None, None)), Undo::NotNeeded(_)));
    assert!(matches!(end_session().undo(&session()), Undo::Impossible(_)));
}
