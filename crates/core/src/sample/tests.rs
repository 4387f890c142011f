//! Names are unique, and a rate is never made up.

use super::*;
use crate::observation::{
    Access, Activity, Archiver, Checkpoints, Clock, Database, Failure, FailureKind, Gap, Keys, LagParts, Leaders,
    Memory, Mount, Persistence, Reading, RedisClients, RedisMemory, RedisReplication, RedisStats, Replication,
    Security, Server, Space, Standby, Statement, Table,
};
use crate::quantity::after;
use crate::receipt::{Climb, ClimbOutcome, Missing, Part, SetId};
use crate::system::SystemKind;
use jiff::Timestamp;
use std::collections::BTreeSet;

fn start() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn read<O>(seconds: f64, seen: O) -> Reading<O> {
    Reading { at: after(start(), seconds), latency: 0.004, took: 0.05, outcome: Ok(seen) }
}

fn activity() -> Activity {
    Activity {
        total: 12,
        active: 1,
        idle: 10,
        idle_in_transaction: 1,
        hidden: 0,
        sessions: Vec::new(),
        by_application: Vec::new(),
        groups: Vec::new(),
    }
}

fn facts() -> Server {
    Server {
        version_num: 150_020,
        version: "15.20".into(),
        started: start(),
        in_recovery: false,
        database: "docrag".into(),
        max_connections: 100,
        reserved_connections: 3,
        autovacuum: true,
        autovacuum_freeze_max_age: 200_000_000,
        checkpoint_timeout: 300.0,
    }
}

fn security() -> Security {
    Security {
        superusers: Ok(vec![]),
        open_schemas: Ok(vec![]),
        rules: Ok(vec![]),
        plain_clients: Ok(vec![]),
        extensions: Ok(vec![]),
        open_routines: Ok(vec![]),
    }
}

fn table(n: u64) -> Table {
    Table {
        schema: "public".into(),
        name: format!("t{n}"),
        rows_estimated: (n > 0).then_some(100.0),
        size: n << 20,
        live_rows: 100,
        whole_scans: 0,
        rows_scanned: 0,
        dead_rows: 5,
        modified_since_analyze: 2,
        vacuum_trigger: 70.0,
        analyze_trigger: 60.0,
        last_vacuum: None,
        last_analyze: None,
        autovacuum: true,
        maintainable: true,
    }
}

/// A server with these databases: (name, blocks hit, blocks read, commits).
fn server(databases: &[(&str, u64, u64, u64)]) -> Postgres {
    let standby = |lag: u64| Standby {
        name: "walreceiver".into(),
        client: "10.0.0.7".into(),
        state: "streaming".into(),
        lag_bytes: Some(lag),
        lag_seconds: None,
        parts: LagParts::default(),
    };
    Postgres {
        server: Box::new(facts()),
        access: Access { user: "groundskeeper".into(), superuser: false, monitor: true, signal_backend: false },
        activity: Ok(Box::new(activity())),
        databases: Ok(databases
            .iter()
            .map(|(name, blocks_hit, blocks_read, commits)| Database {
                name: (*name).to_owned(),
                size: Some(1 << 30),
                xid_age: 60_000_000,
                multixact_age: 1_000_000,
                blocks_hit: *blocks_hit,
                blocks_read: *blocks_read,
                commits: *commits,
                rollbacks: 0,
                deadlocks: 0,
                temporary_bytes: 0,
            })
            .collect()),
        tables: Ok((0..30).map(table).collect()),
        checkpoints: Ok(Checkpoints { timed: 1, requested: 1, stats_reset: None }),
        archiver: Ok(Box::new(Archiver {
            enabled: false,
            archived: 0,
            failed: 0,
            last_archived: None,
            last_failed: None,
            last_failed_segment: None,
        })),
        replication: Ok(Replication {
            standbys: vec![standby(10), standby(5_000), standby(20)],
            replay_delay: None,
            replay_backlog: None,
            receiving: None,
        }),
        horizon: Ok(Box::default()),
        vacuuming: Ok(Box::default()),
        footprints: Ok(Box::default()),
        keys: Ok(Box::default()),
        machine: None,
        accepted: None,
        settings: Ok(Box::default()),
        security: Box::new(security()),
        usage: Ok(Box::default()),
        structure: Box::default(),
        room: Box::default(),
        vectors: Ok(None),
        deep: None,
        statements: Box::default(),
    }
}

fn cache(hits: u64, misses: u64, evicted: u64, commands: u64) -> Redis {
    Redis {
        version: "7.2.5".into(),
        run_id: "a".into(),
        uptime: 900_000.0,
        memory: Ok(RedisMemory {
            used: 600,
            resident: 640,
            max: 0,
            policy: "noeviction".into(),
            fragmentation: 1.07,
            system: 4 << 30,
        }),
        stats: Ok(RedisStats { hits, misses, evicted, expired: 0, rejected_connections: 0, commands, errors: vec![] }),
        clients: Ok(RedisClients { connected: 4, max: None, blocked: 0 }),
        persistence: Ok(Persistence {
            loading: false,
            changes_since_save: 0,
            last_save: None,
            last_save_ok: true,
            aof_enabled: false,
            last_aof_write_ok: true,
            saves_configured: None,
        }),
        replication: Ok(RedisReplication {
            primary: true,
            replicas: 0,
            link_up: None,
            link_down_seconds: None,
            upstream: None,
        }),
        keys: Ok(Keys { total: 10, expiring: 1 }),
    }
}

fn machine() -> Host {
    let mount = |path: &str| Mount {
        path: path.into(),
        filesystem: "ext4".into(),
        total: 10,
        available: 5,
        inodes: 0,
        inodes_free: 0,
        read_only: false,
    };
    Host {
        name: "app-1".into(),
        cores: 4,
        load: [0.5, f64::NAN, 0.5],
        memory: Memory { total: 10, available: 5, swap_total: 0, swap_used: 0 },
        mounts: vec![mount("/"), mount("/data")],
        unreadable: Vec::new(),
        clock: Ok(Clock { synchronised: true, max_error: None }),
        uptime: 1.0,
    }
}

fn postgres_at(seconds: f64, databases: &[(&str, u64, u64, u64)]) -> Observation {
    Observation::Postgres(read(seconds, server(databases)))
}

fn taken(current: &Observation, before: Option<&Observation>) -> Vec<Sample> {
    samples(&SystemId::new(SystemKind::Postgres, "main"), current, before)
}

fn value(samples: &[Sample], metric: &str) -> Option<f64> {
    samples.iter().find(|sample| sample.metric == metric).map(|sample| sample.value)
}

const NORMAL: &[(&str, u64, u64, u64)] = &[("docrag", 9_000, 1_000, 500), ("template1", 10, 10, 1)];
const MINUTE_LATER: &[(&str, u64, u64, u64)] = &[("docrag", 9_900, 1_100, 560), ("template1", 10, 10, 1)];

#[test]
fn names_are_unique_and_values_are_numbers() {
    let all = [
        postgres_at(60.0, MINUTE_LATER),
        Observation::Redis(read(60.0, cache(1, 1, 1, 1))),
        Observation::Host(read(60.0, machine())),
    ];
    let before = postgres_at(0.0, NORMAL);
    for current in &all {
        let samples = taken(current, Some(&before));
        let names: BTreeSet<_> = samples.iter().map(|sample| (&sample.metric, &sample.subject)).collect();
        assert_eq!(names.len(), samples.len(), "{samples:#?}");
        assert!(samples.iter().all(|sample| sample.value.is_finite()));
        assert_eq!(value(&samples, "up"), Some(1.0));
        assert_eq!(value(&samples, "latency"), Some(0.004));
    }
}

#[test]
fn standbys_of_one_name_are_one_sample_with_the_worst_lag() {
    let samples = taken(&postgres_at(0.0, NORMAL), None);
    assert_eq!(value(&samples, "replication_lag"), Some(5_000.0));
}

#[test]
fn the_largest_tables_are_kept_and_templates_are_not() {
    let samples = taken(&postgres_at(0.0, NORMAL), None);
    let of = |metric: &str| -> Vec<&str> {
        samples.iter().filter(|sample| sample.metric == metric).map(|sample| sample.subject.as_str()).collect()
    };
    assert_eq!(of("table_size").len(), 20);
    assert!(of("table_size").contains(&"public.t29") && !of("table_size").contains(&"public.t9"));
    assert_eq!(of("database_size"), ["docrag"]);
}

#[test]
fn rates_need_a_reading_before() {
    let (first, second) = (postgres_at(0.0, NORMAL), postgres_at(60.0, MINUTE_LATER));
    let samples = taken(&second, Some(&first));
    assert_eq!(value(&samples, "commits"), Some(1.0));
    assert_eq!(value(&samples, "cache_hit"), Some(90.0));

    let down = Observation::Postgres(Reading {
        at: start(),
        latency: 0.0,
        took: 5.0,
        outcome: Err(Failure { kind: FailureKind::Timeout, message: "no answer".into(), address: "db:5432".into() }),
    });
    let other_kind = Observation::Redis(read(0.0, cache(1, 1, 1, 1)));
    let from_the_future = postgres_at(120.0, NORMAL);
    for before in [None, Some(&down), Some(&other_kind), Some(&from_the_future), Some(&second)] {
        let samples = taken(&second, before);
        assert_eq!(value(&samples, "commits"), None, "{before:?}");
        assert_eq!(value(&samples, "connections"), Some(12.0));
    }
}

#[test]
fn after_a_reset_of_the_counters_there_is_no_rate() {
    let first = postgres_at(0.0, NORMAL);
    // Reset, and since then more reads than hits: taken by itself, the reads would look like a hit rate of 0 %.
    let reset = postgres_at(60.0, &[("docrag", 50, 2_000, 3), ("template1", 10, 10, 1)]);
    let samples = taken(&reset, Some(&first));
    assert_eq!((value(&samples, "commits"), value(&samples, "cache_hit")), (None, None));

    // `pg_stat_reset()` resets one database; the growth of the others must not hide it.
    let two = |docrag, other| postgres_at(60.0, &[("docrag", 9_000, 1_000, docrag), ("other", 9_000, 1_000, other)]);
    let before = postgres_at(0.0, &[("docrag", 9_000, 1_000, 500), ("other", 9_000, 1_000, 500)]);
    assert_eq!(value(&taken(&two(10, 5_000), Some(&before)), "commits"), None);
    assert_eq!(value(&taken(&two(500, 800), Some(&before)), "commits"), Some(5.0));
}

#[test]
fn a_database_that_came_or_went_is_no_reset() {
    let before = postgres_at(0.0, &[("docrag", 9_000, 1_000, 500), ("dropped", 100, 100, 100)]);
    let after = postgres_at(60.0, &[("docrag", 9_900, 1_100, 560), ("new", 77, 3, 40)]);
    let samples = taken(&after, Some(&before));
    assert_eq!((value(&samples, "commits"), value(&samples, "cache_hit")), (Some(1.0), Some(90.0)));
}

#[test]
fn the_rates_of_a_cache_stop_at_a_restart_too() {
    let at = |seconds, seen| Observation::Redis(read(seconds, seen));
    let before = at(0.0, cache(900, 100, 10, 5_000));
    let samples = taken(&at(60.0, cache(980, 120, 70, 5_600)), Some(&before));
    assert_eq!(
        ["hit_rate", "evictions", "commands"].map(|metric| value(&samples, metric)),
        [Some(80.0), Some(1.0), Some(10.0)]
    );
    let restarted = taken(&at(60.0, cache(5, 200, 0, 300)), Some(&before));
    assert_eq!(["hit_rate", "evictions", "commands"].map(|metric| value(&restarted, metric)), [None; 3]);
    let busier = Redis { run_id: "b".into(), ..cache(2_000, 300, 90, 9_000) };
    let restarted = taken(&at(60.0, busier), Some(&before));
    assert_eq!(["hit_rate", "evictions", "commands"].map(|metric| value(&restarted, metric)), [None; 3]);
    assert_eq!(value(&taken(&before, None), "hit_rate"), None);
    let idle = taken(&at(60.0, cache(900, 100, 10, 5_000)), Some(&before));
    assert_eq!(value(&idle, "hit_rate"), None, "no question was asked");
}

#[test]
fn what_was_not_read_is_left_out_and_never_zero() {
    let mut seen = server(NORMAL);
    seen.activity = Err(Gap::new("hidden"));
    seen.databases = Err(Gap::permission("hidden"));
    seen.tables = Err(Gap::new("hidden"));
    seen.replication = Err(Gap::new("hidden"));
    let names: Vec<String> =
        taken(&Observation::Postgres(read(0.0, seen)), None).into_iter().map(|s| s.metric).collect();
    assert_eq!(names, ["up", "latency"]);
}

/// Two sets of an hour and of a day ago: the younger lacks a system, the older was drilled half a day ago.
fn backups() -> Backup {
    let set = |hours: f64, climbs, missing| {
        let made = after(start(), hours * -3_600.0);
        let part = |name: &str, bytes| Part { name: name.into(), entries: 1, bytes, ..Part::default() };
        let parts = vec![part("postgres.main", 900), part("groundskeeper", 100)];
        Receipt { set: SetId::new(made, 7), made, took: 5.0, parts, missing, added: 30, climbs }
    };
    let proven = ClimbOutcome::Proven { shown: String::new(), not_covered: Vec::new() };
    let climb = |rung| Climb { rung, at: after(start(), -43_200.0), took: 20.0, outcome: proven.clone() };
    let missing = Missing { system: "postgres.reports".parse().unwrap(), why: "gone".into() };
    Backup {
        repository: "/var/backups".into(),
        receipts: Ok(vec![set(1.0, Vec::new(), vec![missing]), set(24.0, Rung::ALL.map(climb).into(), Vec::new())]),
        space: Ok(Space { total: 100, free: 40 }),
        key: Ok(()),
        last_run: None,
        wal: Vec::new(),
    }
}

#[test]
fn backups_tell_their_ages_sizes_and_the_measured_recovery() {
    let samples = taken(&Observation::Backup(read(0.0, backups())), None);
    for (metric, expected) in [
        ("set_age", 86_400.0),
        ("proven_set_age", 86_400.0),
        ("proof_age", 43_200.0),
        ("set_size", 1_000.0),
        ("set_added", 30.0),
        ("set_took", 5.0),
        ("recovery_time", 40.0),
        ("repository_free", 40.0),
        ("repository_total", 100.0),
    ] {
        assert_eq!(value(&samples, metric), Some(expected), "{metric}");
    }
    let silent = Backup { receipts: Err(Gap::new("no key")), space: Err(Gap::new("no answer")), ..backups() };
    assert_eq!(taken(&Observation::Backup(read(0.0, silent)), None).len(), 2, "up and latency alone");
}

#[test]
fn the_pace_of_the_ten_heaviest_statements_is_kept() {
    let statement = |query_id: i64, calls: u64| Statement {
        query_id,
        query: String::new(),
        calls,
        rows: calls * 3,
        time: calls as f64 * 0.01 * query_id as f64,
        deviation: 0.0,
        fastest: 0.0,
        slowest: 0.0,
        blocks_hit: 0,
        blocks_read: 0,
        read_time: 0.0,
        temporary_bytes: 0,
        since: None,
    };
    let at = |seconds: f64, calls: u64| {
        let mut seen = server(NORMAL);
        let statements = (1..=12).map(|id| statement(id, calls)).chain([statement(99, 99)]).collect();
        seen.statements.leaders = Some(Ok(Box::new(Leaders { statements, ..Leaders::default() })));
        Observation::Postgres(read(seconds, seen))
    };
    let samples = taken(&at(60.0, 720), Some(&at(0.0, 120)));
    let of = |metric: &str, id: &str| {
        samples.iter().find(|sample| sample.metric == metric && sample.subject == id).map(|sample| sample.value)
    };
    assert_eq!(samples.iter().filter(|sample| sample.metric.starts_with("statement_")).count(), 30);
    assert_eq!((of("statement_calls", "12"), of("statement_rows", "12")), (Some(10.0), Some(30.0)));
    assert!((of("statement_load", "12").unwrap() - 1.2).abs() < 1e-9);
    assert_eq!((of("statement_calls", "2"), of("statement_calls", "99")), (None, None), "it is not among the heaviest");
    assert!(taken(&at(60.0, 100), Some(&at(0.0, 120))).iter().all(|sample| sample.metric != "statement_calls"));
}
