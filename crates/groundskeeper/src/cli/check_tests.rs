use super::*;
use groundskeeper_core::check::Judgement;
use groundskeeper_core::{Draft, SystemId, SystemKind, Value};
use jiff::Timestamp;

fn id(kind: SystemKind, name: &str) -> SystemId {
    SystemId::new(kind, name)
}

fn judged(system: &SystemId, check: &str, status: Status) -> Judgement {
    Judgement { check: check.to_owned(), system: system.clone(), status }
}

fn unknown(kind: UnknownKind, reason: &str) -> Status {
    Status::Unknown(Unknown { kind, reason: reason.to_owned() })
}

fn failing(system: &SystemId, check: &str, severity: Severity) -> Status {
    let draft = Draft::new(severity, "1 session idle in a transaction, for 12 min 5 s")
        .against("longest idle in transaction", Value::seconds(725.0), Value::seconds(600.0), "pg_stat_activity")
        .fix("SELECT pg_terminate_backend(4242);");
    Status::Failing { findings: vec![Finding::from_draft(check, system, draft)] }
}

fn checked(system: &SystemId, judgements: Vec<Judgement>) -> CheckedSystem {
    CheckedSystem {
        system: system.clone(),
        address: "127.0.0.1:5432/app".to_owned(),
        took: 0.042,
        version: Some("Postgres 16.4".to_owned()),
        judgements,
        facts: Vec::new(),
    }
}

fn view(systems: Vec<CheckedSystem>) -> CheckView {
    CheckView { at: Timestamp::UNIX_EPOCH, took: 0.12, systems }
}

fn one(statuses: Vec<Status>) -> CheckView {
    let main = id(SystemKind::Postgres, "main");
    let judgements = statuses.into_iter().map(|status| judged(&main, "postgres.a", status)).collect();
    view(vec![checked(&main, judgements)])
}

#[test]
fn a_check_reads_calmly() {
    let (main, cache) = (id(SystemKind::Postgres, "main"), id(SystemKind::Redis, "cache"));
    let seen = view(vec![
        checked(
            &main,
            vec![
                judged(&main, "postgres.reach", Status::Ok),
                judged(&main, "postgres.idle", failing(&main, "postgres.idle", Severity::Warning)),
                judged(&main, "postgres.slow", unknown(UnknownKind::NotRead, "pg_stat_statements is not installed")),
                judged(&main, "postgres.slower", unknown(UnknownKind::NotRead, "pg_stat_statements is not installed")),
                judged(&main, "postgres.rate", unknown(UnknownKind::NeedsHistory, "first")),
            ],
        ),
        checked(&cache, vec![judged(&cache, "redis.reach", Status::Ok)]),
    ]);
    insta::assert_snapshot!(render(&seen, Paint::none(), false), @r#"
    ●  postgres.main  warning  127.0.0.1:5432/app  Postgres 16.4  42 ms
    ●  redis.cache    ok       127.0.0.1:5432/app  Postgres 16.4  42 ms

    warning   postgres.main: 1 session idle in a transaction, for 12 min 5 s
              longest idle in transaction: 12 min 5 s (threshold 10 min)  ← pg_stat_activity
              fix: SELECT pg_terminate_backend(4242);
              groundskeeper explain postgres.idle

    ? postgres.main: pg_stat_statements is not installed (postgres.slow, postgres.slower)
    1 check compares two readings: it needs the daemon (`groundskeeper run`)

    2 systems, 6 checks: 2 ok, 1 failing, 3 unknown in 120 ms
    "#);
}

#[test]
fn the_exit_code_says_what_was_found() {
    let main = id(SystemKind::Postgres, "main");
    let of = |statuses, fail_on| exit_code(&one(statuses), fail_on);
    let warning = || failing(&main, "postgres.a", Severity::Warning);
    let not_read = || unknown(UnknownKind::NotRead, "no");
    assert_eq!(of(vec![Status::Ok], Severity::Warning), FINE);
    assert_eq!(of(vec![Status::Ok, unknown(UnknownKind::NeedsHistory, "")], Severity::Warning), FINE);
    assert_eq!(of(vec![warning(), not_read()], Severity::Warning), FINDINGS);
    assert_eq!(of(vec![warning()], Severity::Critical), FINE);
    assert_eq!(of(vec![warning(), not_read()], Severity::Critical), UNKNOWN);
    assert_eq!(of(vec![not_read()], Severity::Warning), UNKNOWN);
    assert_eq!(of(vec![], Severity::Warning), UNKNOWN, "nothing judged is not fine");
}
