//! Made-up days for the page: a fine one, a bad one and a first one. The example `page` serves them, too.

use groundskeeper::app::CallError;
use groundskeeper::app::api::{
    ActionResult, ActionView, BackupView, CalendarEntry, CalendarState, FindingState, FindingView, IgnoreView,
    LastProof, MeasuredView, Measurement, PauseView, RecoveryPoints, RetentionView, RunView, StatusView, SystemState,
    SystemView,
};
use groundskeeper::web::Source;
use groundskeeper_core::finding::{Draft, Finding, Offender, Target};
use groundskeeper_core::observation::Space;
use groundskeeper_core::policy::{Autonomy, Outcome};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Missing, Part, Receipt, Rung, SetId};
use groundskeeper_core::remedy::RiskClass;
use groundskeeper_core::report::DayReport;
use groundskeeper_core::sample::Sample;
use groundskeeper_core::{Severity, SystemId, SystemKind, Unit, Value};
use jiff::{SignedDuration, Timestamp};

/// One day, served as if it were the present.
#[derive(Debug, Clone)]
pub(crate) struct Fixture {
    pub(crate) status: Option<StatusView>,
    pub(crate) samples: Vec<Sample>,
}

impl Source for Fixture {
    async fn status(&self) -> Result<StatusView, CallError> {
        self.status.clone().ok_or_else(|| CallError::unanswered("the store failed: disk I/O error"))
    }

    async fn report(&self, day: Option<String>) -> Result<DayReport, CallError> {
        let day = day.unwrap_or_else(|| "2026-11-21".to_owned());
        if day.parse::<jiff::civil::Date>().is_err() {
            return Err(CallError::usage(format!("`{day}` is no day; write it as 2026-11-21")));
        }
        Ok(DayReport {
            partial: day == "2026-11-21",
            day,
            zone: "Europe/Berlin".into(),
            from: ago(8_000),
            to: now(),
            autonomy: Autonomy::Observe,
            systems: Vec::new(),
            findings: Vec::new(),
            actions: Vec::new(),
            plan: None,
            runs: Vec::new(),
            notifications_sent: 0,
            notifications_failed: 0,
            not_available: vec!["wal".into()],
        })
    }

    async fn latest_samples(&self) -> Vec<Sample> {
        self.samples.clone()
    }
}

pub(crate) fn now() -> Timestamp {
    "2026-11-21T02:12:05Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn id(name: &str) -> SystemId {
    name.parse().unwrap()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

fn system(name: &str, address: &str, ok: u32, facts: &[(&str, &str)]) -> SystemView {
    SystemView {
        system: id(name),
        address: address.into(),
        state: SystemState::Ok,
        read: Some(ago(12)),
        took: Some(0.043),
        ok,
        failing: 0,
        unknown: Vec::new(),
        facts: pairs(facts),
    }
}

fn run(task: &str, seconds_ago: i64, outcome: &str, summary: &str) -> RunView {
    RunView {
        id: seconds_ago,
        task: task.into(),
        trigger: "calendar".into(),
        due: ago(seconds_ago),
        started: ago(seconds_ago),
        ended: (outcome != "running").then(|| ago(seconds_ago - 4)),
        outcome: outcome.into(),
        summary: summary.into(),
    }
}

fn entry(task: &str, schedule: &str, what: &str, in_seconds: Option<i64>, state: CalendarState) -> CalendarEntry {
    CalendarEntry {
        task: task.into(),
        what: what.into(),
        schedule: schedule.into(),
        zone: "Europe/Berlin".into(),
        state,
        next: in_seconds.map(|seconds| ago(-seconds)),
        last: None,
    }
}

fn calendar() -> Vec<CalendarEntry> {
    use CalendarState::{Disabled, NotAvailable, Scheduled};
    let mut entries = vec![
        entry(
            "watch",
            "every 30 s",
            "the cheap checks of every system; opens and resolves findings",
            Some(18),
            Scheduled,
        ),
        entry("wal", "always", "streams WAL into the repository", None, NotAvailable),
        entry("backup", "0 1 * * *", "one backup set", Some(78_475), Scheduled),
        entry("daily-health", "0 9 * * *", "the full sweep and the day's report", Some(20_875), Scheduled),
        entry("logs", "0 12 * * *", "rotation, compression, retention and error patterns of logs", None, NotAvailable),
        entry(
            "database-maintenance",
            "15 2 * * SUN",
            "deletes what rules do not keep, vacuums and analyzes, builds indexes anew, mends sequences; in the window",
            Some(83_000),
            Scheduled,
        ),
        entry(
            "performance-review",
            "0 6 * * SUN",
            "slow statements, cache hit rates, latency and growth",
            None,
            Disabled,
        ),
    ];
    entries[0].last = Some(run("watch", 12, "ok", "5 systems, 61 checks"));
    entries[3].last = Some(run("daily-health", 65_525, "ok", "5 systems read, report of 2026-11-20 written"));
    entries
}

pub(crate) fn healthy() -> StatusView {
    StatusView {
        now: now(),
        version: "0.1.0".into(),
        zone: "Europe/Berlin".into(),
        autonomy: Autonomy::Assist,
        pauses: Vec::new(),
        notices: Vec::new(),
        systems: vec![
            system(
                "postgres.main",
                "10.0.0.5:5432/docrag",
                24,
                &[("connections", "12 of 100"), ("size", "1.8 GiB"), ("cache hit rate", "99.3 %")],
            ),
            system(
                "redis.cache",
                "10.0.0.7:6379",
                13,
                &[("memory", "212 MiB of 1 GiB"), ("hit rate", "91.4 %"), ("clients", "31")],
            ),
            system(
                "http.api",
                "https://api.example.com/health",
                5,
                &[("status", "200"), ("response", "38 ms"), ("certificate", "61 days")],
            ),
            system("host.local", "prod-1", 8, &[("load", "0.42"), ("memory free", "9.1 GiB"), ("/", "61 % used")]),
            system("logs.api", "/var/log/docrag", 3, &[("size", "318 MiB"), ("files", "14")]),
        ],
        findings: Vec::new(),
        runs: vec![
            run("daily-health", 65_525, "ok", "5 systems read, report of 2026-11-20 written"),
            run("database-maintenance", 521_000, "ok", "2 tables analyzed"),
        ],
        calendar: calendar(),
        actions: vec![action(521_100, Some(Outcome::Helped))],
        backup: Some(backups()),
        watched: Some(ago(12)),
    }
}

fn set(hours_ago: i64, climbs: Vec<Climb>) -> Receipt {
    let made = ago(hours_ago * 3_600);
    let part = |name: &str, bytes| Part { name: name.into(), entries: 1_234, bytes, ..Part::default() };
    Receipt {
        set: SetId::new(made, 0x3fa2_b1c9),
        made,
        took: 12.0,
        parts: vec![part("postgres.main", 2 << 30), part("groundskeeper", 1 << 20)],
        missing: Vec::new(),
        added: 35 << 20,
        climbs,
    }
}

fn climb(rung: Rung, outcome: ClimbOutcome) -> Climb {
    Climb { rung, at: ago(15_000), took: 20.0, outcome }
}

fn proven(rung: Rung) -> Climb {
    climb(rung, ClimbOutcome::Proven { shown: "all 1,234 files".into(), not_covered: Vec::new() })
}

/// A set of this night, and one of the night before that was proven to the top.
fn backups() -> BackupView {
    let sets = vec![set(1, vec![proven(Rung::Stored)]), set(25, Rung::ALL.map(proven).into())];
    BackupView {
        repository: "/var/backups/groundskeeper".into(),
        read: Some(ago(12)),
        failure: None,
        last_proof: Some(LastProof { set: sets[1].set.clone(), at: ago(15_000), recovery_seconds: Some(40.0) }),
        retention: Some(RetentionView {
            rules: "7 daily".into(),
            applies: false,
            going: vec![(sets[1].set.clone(), "no rule keeps it: newer sets fill every one".into())],
        }),
        sets,
        space: Some(Space { total: 200 << 30, free: 120 << 30 }),
        wal: Vec::new(),
        measured: measured(),
    }
}

/// A drill a week, the last one with the recovery time of the last proof, and thirty days of watching.
fn measured() -> MeasuredView {
    let took = [36.5, 38.2, 37.1, 44.9, 39.4, 38.0, 41.3, 38.8, 37.7, 39.9, 43.2, 40.0];
    let drill = |(weeks, seconds): (usize, f64)| Measurement { at: ago(15_000 + weeks as i64 * 604_800), seconds };
    let mut recovery_times: Vec<Measurement> = took.into_iter().rev().enumerate().map(drill).collect();
    recovery_times.reverse();
    let day = |days: i64, seconds| Measurement { at: ago(20_000 + days * 86_400), seconds };
    // Three days without a keeper, and one in which the stream was cut for three hours.
    let streamed = (0..30).rev().filter(|days| !(11..14).contains(days));
    let of_stream = |days: i64| day(days, if days == 5 { 10_900.0 } else { 2.0 + (days * 7 % 5) as f64 / 10.0 });
    let of_sets = |days: i64| day(days, if days == 20 { 172_900.0 } else { 86_400.0 + (days * 37 % 60) as f64 });
    MeasuredView {
        recovery_times,
        recovery_points: vec![
            RecoveryPoints { system: Some(id("postgres.main")), days: streamed.clone().map(of_stream).collect() },
            RecoveryPoints { system: None, days: streamed.map(of_sets).collect() },
        ],
    }
}

fn action(seconds_ago: i64, outcome: Option<Outcome>) -> ActionView {
    let skipped = ActionResult::Skipped { reason: "outside the maintenance window Sun 02:00-05:00".into() };
    let ended = |outcome| ActionResult::Ended { outcome, detail: "dead rows went from 41,204 to 0".into() };
    ActionView {
        entry: outcome.map(|_| 4),
        at: ago(seconds_ago),
        ended: Some(ago(seconds_ago - 3)),
        remedy: "postgres.vacuum".into(),
        class: RiskClass::Routine,
        subject: "postgres.main table docrag.public.chunks".into(),
        statement: "VACUUM (ANALYZE) public.chunks".into(),
        why: "41,204 dead rows, and autovacuum has not come for 9 days".into(),
        by: "daemon".into(),
        result: outcome.map_or(skipped, ended),
    }
}

fn finding(name: &str, check: &str, draft: Draft, state: FindingState, seconds_ago: i64) -> FindingView {
    FindingView {
        finding: Finding::from_draft(check, &id(name), draft),
        state,
        first_seen: ago(seconds_ago + 60),
        last_seen: ago(12),
        opened: (state != FindingState::Pending).then(|| ago(seconds_ago)),
        resolved: None,
        ignored: None,
    }
}

fn unreachable() -> FindingView {
    let draft =
        Draft::new(Severity::Critical, "Redis at 10.0.0.7:6379 refuses connections: Connection refused (os error 111)")
            .saw("failure", Value::text("Connection refused (os error 111)"), "connect to 10.0.0.7:6379")
            .fix(
                "nobody listens there: start Redis (systemctl start redis-server) and read its log for why it stopped; \
             check `bind` and `port` in redis.conf",
            );
    finding("redis.cache", "redis.unreachable", draft, FindingState::Open, 192)
}

fn stale_tables() -> FindingView {
    let table = |name: &str, rows: f64| Offender {
        target: Target::Table { database: "docrag".into(), schema: "public".into(), name: name.into() },
        weight: rows,
        note: format!("{rows} dead rows, last vacuumed 9 days ago"),
    };
    let names = ["chunks", "documents", "audit_logs"];
    let draft = Draft::new(Severity::Warning, "3 tables in docrag have not been vacuumed; the worst is public.chunks")
        .about(Target::Database { name: "docrag".into() })
        .against(
            "dead rows of public.chunks",
            Value::count(41_204.0),
            Value::count(20_050.0),
            "SELECT n_dead_tup FROM pg_stat_user_tables",
        )
        .saw("last autovacuum", Value::Time { at: ago(780_000) }, "pg_stat_user_tables.last_autovacuum")
        .offenders(names.iter().zip([41_204.0, 3_120.0, 2_200.0]).map(|(name, rows)| table(name, rows)).collect())
        .fix("VACUUM (ANALYZE) public.chunks;");
    finding("postgres.main", "postgres.tables_not_vacuumed", draft, FindingState::Open, 9_000)
}

/// Everything at once.
pub(crate) fn sick() -> StatusView {
    let mut status = healthy();
    status.autonomy = Autonomy::Observe;
    let states =
        [SystemState::Warning, SystemState::Critical, SystemState::Unknown, SystemState::Info, SystemState::Waiting];
    for (view, state) in status.systems.iter_mut().zip(states) {
        view.state = state;
    }
    status.systems[0].failing = 1;
    status.systems[0].unknown = pairs(&[
        (
            "postgres.statements_slow",
            "the extension pg_stat_statements is not installed; CREATE EXTENSION pg_stat_statements",
        ),
        ("postgres.deadlocks_rising", "deadlocks are measured between two readings, and this was the first"),
    ]);
    status.systems[1].ok = 0;
    status.systems[1].failing = 1;
    status.systems[1].facts.clear();
    status.systems[1].unknown = pairs(&[("redis.memory_near_limit", "redis.cache did not answer")]);
    status.systems[4].read = None;
    status.systems[4].took = None;
    status.systems[4].facts.clear();
    let info = Draft::new(Severity::Info, "Clock is 0.4 s ahead of its time servers").saw(
        "offset",
        Value::seconds(0.4),
        "adjtimex",
    );
    let slow =
        Draft::new(Severity::Warning, "GET /health took 2.1 s").saw("response", Value::seconds(2.1), "GET /health");
    let size = Draft::new(Severity::Warning, "/var/log/docrag grows by 1.2 GiB a day").against(
        "growth",
        Value::bytes(1_288_490_188),
        Value::bytes(1 << 30),
        "sizes of 14 files",
    );
    let mut ignored = finding("logs.api", "logs.folder_grows", size, FindingState::Open, 400_000);
    ignored.ignored = Some(IgnoreView {
        fingerprint: ignored.finding.fingerprint.clone(),
        reason: "rotation comes with the next release <b>soon</b>".into(),
        until: ago(-260_000),
        by: "ada".into(),
    });
    status.findings = vec![
        unreachable(),
        stale_tables(),
        finding("host.local", "host.clock_off", info, FindingState::Clearing, 700),
        finding("http.api", "http.answer_slow", slow, FindingState::Pending, 0),
        ignored,
    ];
    status.pauses = vec![PauseView {
        task: None,
        reason: "index migration until noon".into(),
        by: "ada".into(),
        since: ago(4_000),
        until: Some(ago(-9_000)),
    }];
    status.notices = vec!["webhook.team: 3 messages were not delivered; hooks.example.com answered 503".into()];
    status.runs.insert(0, run("daily-health", 3, "running", ""));
    status.runs.push(run("performance-review", 600_000, "failed", "postgres.main did not answer"));
    status.actions = vec![action(300, None), action(9_100, Some(Outcome::DidNotHelp))];
    let backup = status.backup.as_mut().unwrap();
    backup.last_proof = None;
    backup.measured = MeasuredView::default();
    backup.sets.truncate(1);
    backup.sets[0].missing = vec![Missing { system: "postgres.reports".into(), why: "no <b>answer</b>".into() }];
    backup.sets[0].climbs.extend([
        climb(Rung::Intact, ClimbOutcome::Failed { why: "1 of 40 packs is damaged".into() }),
        climb(Rung::Restored, ClimbOutcome::NotTried { why: "no room".into() }),
    ]);
    status
}

/// Before the first watch, with nothing configured yet.
pub(crate) fn empty() -> StatusView {
    StatusView {
        systems: Vec::new(),
        runs: Vec::new(),
        calendar: Vec::new(),
        actions: Vec::new(),
        backup: None,
        watched: None,
        autonomy: Autonomy::Observe,
        ..healthy()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let sample = |kind, name: &str, metric: &str, subject: &str, value, unit| Sample {
        system: SystemId::new(kind, name),
        metric: metric.into(),
        subject: subject.into(),
        value,
        unit,
    };
    vec![
        sample(SystemKind::Postgres, "main", "up", "", 1.0, Unit::Count),
        sample(SystemKind::Redis, "cache", "up", "", 0.0, Unit::Count),
        sample(SystemKind::Postgres, "main", "database_size", "docrag", 1.9e9, Unit::Bytes),
        sample(SystemKind::Postgres, "main", "database_size", "od\"d\\na\nme", 8e6, Unit::Bytes),
        sample(SystemKind::Postgres, "main", "cache_hit_rate", "", 99.3, Unit::Percent),
        sample(SystemKind::Http, "api", "response_time", "", 0.038, Unit::Seconds),
        sample(SystemKind::Backup, "main", "set_age", "", 3_600.0, Unit::Seconds),
        sample(SystemKind::Backup, "main", "recovery_time", "", 40.0, Unit::Seconds),
        sample(SystemKind::Backup, "main", "repository_free", "", 1.2e11, Unit::Bytes),
    ]
}
