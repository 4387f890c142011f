//! A healthy server to start from, and the question that the tests ask of it: what is found, over every check.

use crate::check::{Judgement, Status, Tuning, judge_all};
use crate::finding::Finding;
use crate::observation::{
    Accepted, Access, Activity, Archiver, Checkpoints, Database, Deep, Disk, Distributions, Index, Leaders, Machine,
    Observation, Pace, Past, PlanShape, Planned, Plans, Postgres, Reading, Replication, Room, Security, Sequences,
    Server, Session, SessionState, Setting, Settings, SizeOf, Sizes, Statement, Statements, Storage, Structure,
    Superuser, Table, TableName, Totals, Vacuuming, WalWritten,
};
use crate::quantity::after;
use crate::system::{SystemId, SystemKind};
use crate::trend::Point;
use jiff::Timestamp;

pub(super) fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

pub(super) fn ago(seconds: f64) -> Timestamp {
    after(now(), -seconds)
}

/// A small, busy and well-kept server: nothing may be found here.
pub(crate) fn healthy() -> Postgres {
    Postgres {
        server: Box::new(Server {
            version_num: 150_020,
            version: "15.20 (Debian 15.20-0+deb12u1)".into(),
            started: ago(30.0 * 86_400.0),
            in_recovery: false,
            database: "docrag".into(),
            max_connections: 100,
            reserved_connections: 3,
            autovacuum: true,
            autovacuum_freeze_max_age: 200_000_000,
            checkpoint_timeout: 300.0,
        }),
        access: Access { user: "groundskeeper".into(), superuser: false, monitor: true, signal_backend: false },
        activity: Ok(Box::new(Activity {
            total: 12,
            active: 1,
            idle: 10,
            idle_in_transaction: 0,
            hidden: 0,
            sessions: vec![session(4242)],
            by_application: vec![("docrag-api".into(), 10), ("psql".into(), 1)],
            groups: Vec::new(),
        })),
        databases: Ok(vec![database("docrag"), database("postgres"), database("template1")]),
        tables: Ok(vec![table("chunks"), table("documents")]),
        checkpoints: Ok(Checkpoints { timed: 8_640, requested: 100, stats_reset: Some(ago(30.0 * 86_400.0)) }),
        archiver: Ok(Box::new(Archiver {
            enabled: true,
            archived: 5_000,
            failed: 2,
            last_archived: Some(ago(120.0)),
            last_failed: Some(ago(86_400.0)),
            last_failed_segment: Some("000000010000000000000042".into()),
        })),
        replication: Ok(Replication { standbys: vec![], replay_delay: None, replay_backlog: None, receiving: None }),
        horizon: Ok(Box::default()),
        vacuuming: Ok(Box::new(Vacuuming { max_workers: 3, cost_delay: 0.002, cost_limit: 200, workers: vec![] })),
        footprints: Ok(Box::default()),
        keys: Ok(Box::default()),
        usage: Ok(Box::default()),
        structure: Box::new(Structure {
            indexes: Ok(vec![index("chunks_pkey", &[1]), index("chunks_body", &[2])]),
            ..Structure::default()
        }),
        room: Box::new(room()),
        vectors: Ok(Some(Box::default())),
        machine: Some(Box::new(machine())),
        accepted: Some(Box::new(Accepted::of(&settings(), true, now(), "ann"))),
        settings: Ok(Box::new(settings())),
        security: Box::new(security()),
        statements: Box::new(Statements {
            preloaded: Some(true),
            extension: Some("1.10".into()),
            available: true,
            leaders: Some(Ok(Box::new(leaders()))),
            past: vec![past(7, 0.001_5)],
        }),
        deep: Some(Box::new(Deep {
            sequences: Ok(Sequences { compared: 2, ..Sequences::default() }),
            distributions: Ok(Distributions { seen: 5, ..Distributions::default() }),
            plans: Ok(Some(plans())),
        })),
    }
}

/// A setting as a file gave it.
pub(crate) fn setting(name: &str, value: &str, unit: Option<&str>) -> Setting {
    Setting {
        name: name.into(),
        value: value.into(),
        unit: unit.map(Into::into),
        source: "configuration file".into(),
        context: "sighup".into(),
        boot: None,
        file: Some("/etc/postgresql/15/main/postgresql.conf".into()),
        line: Some(12),
        pending_restart: false,
    }
}

/// 16 GiB, 8 cores, flash.
pub(crate) fn machine() -> Machine {
    let told_by = "the configuration".into();
    Machine { memory: Some(16 << 30), cores: Some(8), storage: Some(Storage::Ssd), told_by }
}

/// More than half of the disk is free, and two weeks took 1.3 GiB of it.
fn room() -> Room {
    let disk = Disk { total: 500 << 30, free: 300 << 30, is_told: false, tablespaces: 0 };
    let past = vec![
        sizes(SizeOf::Database, "docrag", (0..14).map(|day| f64::from(day) * 0.1 + 1.0)),
        sizes(SizeOf::Table, "public.chunks", (0..14).map(|day| f64::from(day) * 0.1 + 0.1)),
        sizes(SizeOf::Wal, "", (0..14).map(|day| f64::from(day % 3) * 0.1 + 0.8)),
        sizes(SizeOf::Disk, "", (0..14).map(|day| f64::from(day) * 0.1 + 198.7)),
    ];
    // 100 KB in a second.
    let written = WalWritten { bytes: Some(259_200_000_000), seconds: Some(30.0 * 86_400.0) };
    Room { disk: Ok(Some(disk)), wal: Ok(1 << 30), written: Ok(written), past }
}

/// GiB, on each day up to today.
pub(super) fn sizes(of: SizeOf, name: &str, gibibytes: impl ExactSizeIterator<Item = f64>) -> Sizes {
    let count = gibibytes.len();
    let day = |place: usize| ago((count - 1 - place) as f64 * 86_400.0);
    let days =
        gibibytes.enumerate().map(|(place, size)| Point { at: day(place), value: size * 1_073_741_824.0 }).collect();
    Sizes { of, name: name.into(), days }
}

/// What suits that machine.
const SUITED: &[(&str, &str, Option<&str>)] = &[
    ("autovacuum_max_workers", "3", None),
    ("autovacuum_vacuum_cost_limit", "-1", None),
    ("autovacuum_vacuum_scale_factor", "0.2", None),
    ("autovacuum_work_mem", "-1", Some("kB")),
    ("checkpoint_completion_target", "0.9", None),
    ("checkpoint_timeout", "300", Some("s")),
    ("data_checksums", "on", None),
    ("effective_cache_size", "1572864", Some("8kB")),
    ("effective_io_concurrency", "200", None),
    ("fsync", "on", None),
    ("full_page_writes", "on", None),
    ("idle_in_transaction_session_timeout", "3600000", Some("ms")),
    ("listen_addresses", "*", None),
    ("log_autovacuum_min_duration", "600000", Some("ms")),
    ("log_lock_waits", "on", None),
    ("log_min_duration_statement", "1000", Some("ms")),
    ("log_temp_files", "10240", Some("kB")),
    ("maintenance_work_mem", "1048576", Some("kB")),
    ("max_slot_wal_keep_size", "16384", Some("MB")),
    ("max_wal_size", "1024", Some("MB")),
    ("min_wal_size", "80", Some("MB")),
    ("random_page_cost", "1.1", None),
    ("shared_buffers", "524288", Some("8kB")),
    ("ssl", "on", None),
    ("track_io_timing", "on", None),
    ("vacuum_cost_limit", "200", None),
    ("wal_compression", "on", None),
    ("work_mem", "32768", Some("kB")),
];

fn settings() -> Settings {
    let list = SUITED.iter().map(|(name, value, unit)| setting(name, value, *unit)).collect();
    Settings { list, ..Settings::default() }
}

pub(super) fn security() -> Security {
    Security {
        superusers: Ok(vec![Superuser { name: "postgres".into(), is_bootstrap: true }]),
        open_schemas: Ok(Vec::new()),
        rules: Ok(Vec::new()),
        plain_clients: Ok(Vec::new()),
        extensions: Ok(Vec::new()),
        open_routines: Ok(Vec::new()),
    }
}

/// Two statements of a database on which little happens.
fn leaders() -> Leaders {
    Leaders {
        statements: vec![statement(7, 2_000_000, 3_000.0), statement(8, 9_000, 1_800.0)],
        all: Totals { statements: 40, calls: 4_000_000, time: 9_000.0 },
        stats_reset: Some(ago(30.0 * 86_400.0)),
        evictions: Some(0),
        hidden: 0,
    }
}

/// A statement that returned a row a call, and found all in the cache.
pub(super) fn statement(query_id: i64, calls: u64, time: f64) -> Statement {
    Statement {
        query_id,
        query: format!("SELECT body FROM chunks WHERE id = $1 /* {query_id} */"),
        calls,
        rows: calls,
        time,
        deviation: 0.001,
        fastest: 0.000_1,
        slowest: 0.5,
        blocks_hit: calls * 4,
        blocks_read: 0,
        read_time: 0.0,
        temporary_bytes: 0,
        since: None,
    }
}

/// One statement, which goes by an index as ever.
pub(super) fn plans() -> Plans {
    let plan = PlanShape { nodes: vec!["0 Index Scan of chunks by chunks_pkey".into()], cost: 8.4 };
    let query = "SELECT body FROM chunks WHERE id = $1".into();
    Plans { seen: vec![Planned { query_id: 7, query, plan, is_known: true, earlier: Vec::new() }], ..Plans::default() }
}

/// A statement that usually takes 1.5 ms, and takes this many seconds lately.
pub(super) fn past(query_id: i64, mean: f64) -> Past {
    let latest = Pace { load: mean * 2.0, calls: 2.0, rows: 2.0 };
    Past { query_id, latest, hours: 160, usual: 0.001_5, high: 0.003, rows_per_call: 1.0, calls: 2.0 }
}

/// An ordinary session that has just begun a query.
pub(crate) fn session(pid: i32) -> Session {
    Session {
        pid,
        backend_start: ago(7_200.0),
        database: "docrag".into(),
        user: "docrag".into(),
        application: "docrag-api".into(),
        client: "10.0.0.4".into(),
        state: SessionState::Active,
        transaction_age: Some(0.02),
        query_age: Some(0.01),
        state_age: Some(0.01),
        wait: String::new(),
        blocked_by: Vec::new(),
        lock_wait: None,
        lock_mode: None,
        query: "SELECT * FROM chunks WHERE id = ?".into(),
        protected: false,
    }
}

pub(crate) fn database(name: &str) -> Database {
    Database {
        name: name.into(),
        size: Some(1 << 30),
        xid_age: 60_000_000,
        multixact_age: 1_000_000,
        blocks_hit: 99_000_000,
        blocks_read: 1_000_000,
        commits: 5_000_000,
        rollbacks: 100,
        deadlocks: 0,
        temporary_bytes: 0,
    }
}

pub(crate) fn table(name: &str) -> Table {
    Table {
        schema: "public".into(),
        name: name.into(),
        rows_estimated: Some(100_000.0),
        size: 100 << 20,
        live_rows: 100_000,
        whole_scans: 40,
        rows_scanned: 4_000_000,
        dead_rows: 5_000,
        modified_since_analyze: 2_000,
        vacuum_trigger: 20_050.0,
        analyze_trigger: 10_050.0,
        last_vacuum: Some(ago(3_600.0)),
        last_analyze: Some(ago(3_600.0)),
        autovacuum: true,
        maintainable: true,
    }
}

/// A valid B-tree index of `chunks` on the columns with these numbers.
pub(super) fn index(name: &str, columns: &[u32]) -> Index {
    Index {
        table: table_name("chunks"),
        name: name.into(),
        method: "btree".into(),
        size: 10 << 20,
        scans: 1_000,
        is_valid: true,
        is_being_built: false,
        is_unique: false,
        is_needed: false,
        is_partition: false,
        keys: columns.iter().map(|column| format!("{column} 1978 0 0")).collect(),
        included: Vec::new(),
        rule: "f t f".into(),
        expressions: String::new(),
        predicate: String::new(),
    }
}

pub(super) fn table_name(name: &str) -> TableName {
    TableName { schema: "public".into(), name: name.into() }
}

/// The healthy server with one thing changed.
pub(super) fn change(what: impl FnOnce(&mut Postgres)) -> Postgres {
    let mut seen = healthy();
    what(&mut seen);
    // That something changed has a check of its own.
    if let Ok(settings) = &seen.settings {
        seen.accepted = Some(Box::new(Accepted::of(settings, seen.access.sees_all(), now(), "ann")));
    }
    seen
}

/// The healthy server with these sessions instead of its own.
pub(super) fn with_sessions(sessions: Vec<Session>) -> Postgres {
    change(|seen| seen.activity.as_mut().unwrap().sessions = sessions)
}

pub(super) fn reading(seen: Postgres) -> Reading<Postgres> {
    Reading { at: now(), latency: 0.004, took: 0.05, outcome: Ok(seen) }
}

pub(super) fn minute_before(seen: Postgres) -> Observation {
    Observation::Postgres(Reading { at: ago(60.0), ..reading(seen) })
}

pub(super) fn judged(current: &Observation, before: Option<&Observation>) -> Vec<Judgement> {
    judge_all(&SystemId::new(SystemKind::Postgres, "main"), current, before, &Tuning::default(), now())
}

/// The findings of all the checks of Postgres.
pub(super) fn found(current: &Observation, before: Option<&Observation>) -> Vec<Finding> {
    judged(current, before)
        .into_iter()
        .flat_map(|judgement| if let Status::Failing { findings } = judgement.status { findings } else { Vec::new() })
        .collect()
}

/// The same with a healthy reading a minute before.
pub(super) fn found_in(seen: Postgres) -> Vec<Finding> {
    found(&Observation::Postgres(reading(seen)), Some(&minute_before(healthy())))
}

/// The status of one check.
pub(super) fn status(check: &str, seen: Postgres, before: Option<Postgres>) -> Status {
    judged(&Observation::Postgres(reading(seen)), before.map(minute_before).as_ref())
        .into_iter()
        .find(|judgement| judgement.check == check)
        .unwrap_or_else(|| panic!("{check} is not in the catalogue"))
        .status
}

/// The one finding, which must be of that check.
#[track_caller]
pub(super) fn finding(check: &str, findings: Vec<Finding>) -> Finding {
    let ids: Vec<_> = findings.iter().map(|finding| finding.check.as_str()).collect();
    assert_eq!(ids, [check], "{findings:#?}");
    findings.into_iter().next().unwrap()
}

#[test]
fn a_healthy_server_gives_no_finding_and_leaves_no_check_unanswered() {
    let current = Observation::Postgres(reading(healthy()));
    for judgement in judged(&current, Some(&minute_before(healthy()))) {
        assert_eq!(judgement.status, Status::Ok, "{}", judgement.check);
    }
    assert_eq!(found(&current, None), [], "nor at the first reading");
}
