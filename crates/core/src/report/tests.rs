//! Days as a person reads them. Read the snapshots as somebody who was just woken.

use super::*;
use crate::finding::{Draft, Finding, Offender, Target};
use crate::policy::{Policy, Situation};
use crate::quantity::{Value, after};
use crate::remedy::Step;
use crate::system::SystemKind;

/// 21 November 2026 in Berlin, which is an hour ahead of UTC then.
fn at(clock: &str) -> Timestamp {
    format!("2026-11-21T{clock}:00+01:00").parse().unwrap()
}

fn main_database() -> SystemId {
    SystemId::new(SystemKind::Postgres, "main")
}

fn day() -> DayReport {
    DayReport {
        day: "2026-11-21".into(),
        zone: "Europe/Berlin".into(),
        from: at("00:00"),
        to: after(at("00:00"), 86_400.0),
        partial: false,
        autonomy: Autonomy::Observe,
        systems: Vec::new(),
        findings: Vec::new(),
        actions: Vec::new(),
        plan: None,
        runs: Vec::new(),
        notifications_sent: 0,
        notifications_failed: 0,
        not_available: Vec::new(),
    }
}

fn figure(metric: &str, subject: &str, unit: Unit, [min, mean, max, last]: [f64; 4]) -> Figure {
    Figure { metric: metric.into(), subject: subject.into(), unit, min, mean, max, last }
}

fn run(task: &str, runs: u64, failed: u64, last: &str, summary: &str) -> RunLine {
    RunLine { task: task.into(), runs, failed, last: at(last), last_summary: summary.into() }
}

fn quiet_day() -> DayReport {
    let gib = 1024.0 * 1024.0 * 1024.0;
    DayReport {
        systems: vec![
            SystemReport {
                system: main_database(),
                answered: 1_440,
                readings: 1_440,
                figures: vec![
                    figure("connections", "", Unit::Count, [9.0, 12.346, 41.0, 12.0]),
                    figure("cache_hit", "", Unit::Percent, [97.2, 99.31, 99.9, 99.4]),
                    figure("database_size", "docrag", Unit::Bytes, [4.0 * gib, 4.1 * gib, 4.2 * gib, 4.2 * gib]),
                    figure("table_size", "public.chunks", Unit::Bytes, [3.0 * gib, 3.0 * gib, 3.0 * gib, 3.0 * gib]),
                    figure(
                        "table_size",
                        "public.a_table_whose_author_liked_to_be_exact_about_things",
                        Unit::Bytes,
                        [8_192.0, 10_000.0, 16_384.0, 16_384.0],
                    ),
                    figure("commits", "", Unit::PerSecond, [0.5, 41.237, 310.0, 38.2]),
                ],
            },
            SystemReport {
                system: SystemId::new(SystemKind::Redis, "cache"),
                answered: 1_439,
                readings: 1_440,
                figures: vec![figure("clients", "", Unit::Count, [4.0, 4.0, 4.0, 4.0])],
            },
            SystemReport {
                system: SystemId::new(SystemKind::Http, "api"),
                answered: 0,
                readings: 0,
                figures: Vec::new(),
            },
        ],
        runs: vec![
            run("watch", 2_880, 0, "23:59", "3 systems, 38 checks"),
            run("daily-health", 1, 0, "10:00", "3 systems, 38 checks; 0 open, 0 resolved in 24 h"),
        ],
        not_available: ["backup", "wal", "logs", "security", "backup-verification", "capacity-plan", "updates"]
            .map(str::to_owned)
            .to_vec(),
        ..day()
    }
}

fn line(check: &str, severity: Severity, summary: &str, opened: Timestamp, resolved: Option<Timestamp>) -> FindingLine {
    let system = main_database();
    FindingLine {
        fingerprint: Fingerprint::of(check, &system, &Target::System),
        check: check.into(),
        system,
        severity,
        summary: summary.into(),
        opened,
        resolved,
        ignored: false,
    }
}

fn vacuum(table: &str) -> Step {
    let (database, schema) = ("docrag".into(), "public".into());
    Step::Vacuum { system: main_database(), database, schema, table: table.into() }
}

fn end_session() -> Step {
    Step::EndIdleSession { system: main_database(), pid: 4242, backend_start: at("01:10"), idle_seconds: 600 }
}

fn action(clock: &str, step: &Step, class: RiskClass, outcome: Outcome, detail: &str) -> ActionLine {
    let remedy = if class == RiskClass::Routine { "postgres.vacuum_table" } else { "postgres.end_idle_in_transaction" };
    ActionLine {
        at: at(clock),
        remedy: remedy.into(),
        class,
        statement: step.statement(),
        outcome,
        detail: detail.into(),
        by: "daemon".into(),
    }
}

/// Seven tables and a session, at autonomy `observe`.
fn wanted() -> Plan {
    let tables = (1..=7).map(|n| Offender {
        target: Target::Table { database: "docrag".into(), schema: "public".into(), name: format!("t{n}") },
        weight: 100.0 - f64::from(n),
        note: format!("public.t{n}: 41,000 dead rows, its trigger is 20,050"),
    });
    let session = Offender {
        target: Target::Session { pid: 4242, backend_start: at("01:10") },
        weight: 900.0,
        note: "docrag-api (user docrag, 10.0.0.4) idle in transaction for 15 min; last query: SELECT ?".into(),
    };
    let dead = Draft::new(Severity::Warning, "7 tables").offenders(tables.collect());
    let idle = Draft::new(Severity::Warning, "1 session")
        .against("idle", Value::seconds(900.0), Value::seconds(600.0), "pg_stat_activity")
        .offenders(vec![session]);
    let findings = [("postgres.dead_rows_past_trigger", dead), ("postgres.idle_in_transaction", idle)]
        .map(|(check, draft)| Finding::from_draft(check, &main_database(), draft));
    crate::plan::plan(&findings, &Policy::default(), &Situation::default(), at("17:05"))
}

fn busy_day() -> DayReport {
    use Outcome::{Abandoned, DidNotHelp, Failed, Helped, Running};
    let long = "3 sessions sit idle in a transaction, the oldest for 1 h 2 min: it holds back the clean-up of every \
                table and blocks 4 other sessions that want to write";
    let mut ignored = line("host.clock_unsynchronised", Severity::Info, "no time service", at("00:00"), None);
    ignored.system = SystemId::new(SystemKind::Host, "self");
    ignored.ignored = true;
    DayReport {
        partial: true,
        to: at("17:05"),
        autonomy: Autonomy::Assist,
        findings: vec![
            line("postgres.idle_in_transaction", Severity::Critical, long, at("16:03"), None),
            line(
                "postgres.dead_rows_past_trigger",
                Severity::Warning,
                "7 tables are past their vacuum trigger",
                after(at("09:12"), -2.0 * 86_400.0),
                None,
            ),
            ignored,
            line("postgres.unreachable", Severity::Critical, "nobody listens", at("02:10"), Some(at("02:13"))),
        ],
        actions: vec![
            action("02:20", &vacuum("chunks"), RiskClass::Routine, Helped, "dead rows 41000 -> 0"),
            action(
                "02:21",
                &vacuum("documents"),
                RiskClass::Routine,
                DidNotHelp,
                "vacuumed, but 23000 dead rows remain: an old transaction, a slot or a standby needs them",
            ),
            action("02:22", &end_session(), RiskClass::Corrective, Failed, "permission denied to terminate process"),
            action("02:23", &vacuum("users"), RiskClass::Routine, Abandoned, ""),
            action("17:04", &vacuum("sessions"), RiskClass::Routine, Running, ""),
        ],
        plan: Some(wanted()),
        runs: vec![
            run("watch", 2_040, 3, "17:04", "5 systems, 61 checks"),
            run(
                "database-maintenance",
                1,
                1,
                "02:15",
                "the store could not be written: database or disk is full; nothing was done, and the next run tries again",
            ),
            run("performance-review", 1, 0, "06:00", ""),
        ],
        notifications_sent: 4,
        notifications_failed: 1,
        ..quiet_day()
    }
}

#[test]
fn an_empty_day_does_not_claim_that_all_was_well() {
    insta::assert_snapshot!(day().to_text());
}

#[test]
fn a_quiet_day() {
    insta::assert_snapshot!(quiet_day().to_text());
}

#[test]
fn a_busy_day() {
    insta::assert_snapshot!(busy_day().to_text());
}

#[test]
fn a_day_on_which_no_system_answered_is_not_a_good_one() {
    let mut report = quiet_day();
    for system in &mut report.systems {
        (system.answered, system.figures) = (0, Vec::new());
    }
    let text = report.to_text();
    assert!(text.contains("Nothing is known") && !text.contains("Nothing was wrong"), "{text}");
}

#[test]
fn lines_stay_within_a_hundred_columns_except_to_keep_a_name_or_a_statement_whole() {
    let mut report = busy_day();
    report.actions.push(action("03:00", &vacuum(&"x".repeat(63)), RiskClass::Routine, Outcome::Helped, "done"));
    let whole = ["VACUUM"];
    for line in report.to_text().lines() {
        assert!(line.chars().count() <= 100 || whole.iter().any(|word| line.contains(word)), "{line}");
        assert_eq!(line, line.trim_end());
    }
}

/// Copied from the report and pasted into psql, no line may be half a remark.
#[test]
fn a_remark_stays_a_remark_and_a_quoted_name_is_not_one() {
    let mut report = day();
    let odd = "VACUUM (ANALYZE, SKIP_LOCKED) \"public\".\"a -- b\"";
    let remark = "SELECT pg_terminate_backend(1) -- ".to_owned() + &"only while it is still the same ".repeat(9);
    for statement in [odd.to_owned(), remark] {
        let action = action("02:00", &vacuum("x"), RiskClass::Routine, Outcome::Helped, "");
        report.actions.push(ActionLine { statement, ..action });
    }
    let text = report.to_text();
    assert!(text.contains(odd), "{text}");
    let only_while = text.lines().filter(|line| line.contains("the same")).collect::<Vec<_>>();
    assert!(only_while.len() > 2 && only_while.iter().all(|line| line.trim_start().starts_with("-- ")), "{text}");
}

#[test]
fn what_resolved_after_the_day_was_open_at_its_end() {
    let opened = at("23:00");
    let late = line("postgres.unreachable", Severity::Critical, "nobody listens", opened, Some(after(opened, 7_200.0)));
    let text = DayReport { findings: vec![late], ..quiet_day() }.to_text();
    assert!(text.contains("1 open at the end.") && text.contains("for 1 h, "), "{text}");
    assert!(!text.contains("Resolved"), "{text}");
}

#[test]
fn times_are_of_the_zone_or_say_that_they_are_not() {
    let findings = vec![line("postgres.unreachable", Severity::Critical, "down", at("02:10"), None)];
    let berlin = DayReport { findings, ..quiet_day() };
    assert!(berlin.to_text().contains("\n  02:10  critical"));
    let nowhere = DayReport { zone: "Middle/Earth".into(), from: at("00:00"), ..berlin };
    let text = nowhere.to_text();
    assert!(text.contains("times in UTC") && text.contains("\n  01:10  critical"), "{text}");
}

#[test]
fn a_long_list_of_what_is_over_is_cut() {
    let resolved = |n| {
        let opened = after(at("00:00"), f64::from(n) * 60.0);
        line("postgres.unreachable", Severity::Critical, "down", opened, Some(after(opened, 30.0)))
    };
    let text = DayReport { findings: (0..50).map(resolved).collect(), ..quiet_day() }.to_text();
    assert!(text.contains("50 resolved") && text.contains("and 30 more"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("critical")).count(), 20);
}
