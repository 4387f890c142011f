//! A healthy cache, and what the checks say about it.

pub(super) use crate::check::verdicts::{failing, one, status};
use crate::check::{Judgement, Status, Tuning, judge_all};
use crate::observation::{
    Failure, FailureKind, Keys, Observation, Persistence, Reading, Redis, RedisClients, RedisMemory, RedisReplication,
    RedisStats,
};
use crate::quantity::after;
use crate::system::{SystemId, SystemKind};
use jiff::Timestamp;

pub(super) const NOW: &str = "2026-03-02T09:00:00Z";
const INTERVAL: f64 = 60.0;

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

pub(super) fn healthy() -> Redis {
    Redis {
        version: "7.2.5".into(),
        uptime: 900_000.0,
        run_id: "5c1f".into(),
        memory: Ok(RedisMemory {
            used: 600 << 20,
            resident: 640 << 20,
            max: 1 << 30,
            policy: "allkeys-lru".into(),
            fragmentation: 1.07,
            system: 4 << 30,
        }),
        stats: Ok(RedisStats {
            hits: 9_000_000,
            misses: 500_000,
            evicted: 12,
            expired: 80_000,
            rejected_connections: 3,
            commands: 20_000_000,
            errors: vec![("ERR".into(), 40)],
        }),
        clients: Ok(RedisClients { connected: 42, max: Some(10_000), blocked: 0 }),
        persistence: Ok(Persistence {
            loading: false,
            changes_since_save: 120,
            last_save: Some(after(now(), -600.0)),
            last_save_ok: true,
            aof_enabled: false,
            last_aof_write_ok: true,
            saves_configured: Some(true),
        }),
        replication: Ok(RedisReplication {
            primary: true,
            replicas: 1,
            link_up: None,
            link_down_seconds: None,
            upstream: None,
        }),
        keys: Ok(Keys { total: 50_000, expiring: 40_000 }),
    }
}

/// The same server a minute earlier.
pub(super) fn healthy_before() -> Redis {
    let mut before = healthy();
    before.uptime -= INTERVAL;
    let stats = before.stats.as_mut().unwrap();
    stats.hits -= 9_500;
    stats.misses -= 500;
    stats.commands -= 15_000;
    before
}

fn read(at: Timestamp, latency: f64, outcome: Result<Redis, Failure>) -> Observation {
    Observation::Redis(Reading { at, latency, took: latency, outcome })
}

fn judge(current: &Observation, before: Option<&Observation>) -> Vec<Judgement> {
    judge_all(&SystemId::new(SystemKind::Redis, "cache"), current, before, &Tuning::default(), now())
}

/// What all checks say of `seen`, a minute after `before`.
pub(super) fn judged(before: Option<Redis>, seen: Redis) -> Vec<Judgement> {
    let before = before.map(|earlier| read(after(now(), -INTERVAL), 0.002, Ok(earlier)));
    judge(&read(now(), 0.002, Ok(seen)), before.as_ref())
}

pub(super) fn first(seen: Redis) -> Vec<Judgement> {
    judged(None, seen)
}

/// A healthy server that took `latency` seconds to answer.
pub(super) fn late(latency: f64) -> Vec<Judgement> {
    let before = read(after(now(), -INTERVAL), 0.002, Ok(healthy_before()));
    judge(&read(now(), latency, Ok(healthy())), Some(&before))
}

pub(super) fn unreached(kind: FailureKind) -> Vec<Judgement> {
    let failure = Failure { kind, message: "it failed".into(), address: "127.0.0.1:6379".into() };
    let before = read(after(now(), -INTERVAL), 0.002, Ok(healthy_before()));
    judge(&read(now(), 0.0, Err(failure)), Some(&before))
}

#[test]
fn a_healthy_server_is_ok_in_every_check() {
    for judgement in judged(Some(healthy_before()), healthy()) {
        assert_eq!(judgement.status, Status::Ok, "{}", judgement.check);
    }
    assert_eq!(failing(&first(healthy())), []);
}

#[test]
fn an_empty_new_server_with_default_settings_is_quiet() {
    let mut seen = healthy();
    seen.uptime = 3.0;
    seen.keys = Ok(Keys { total: 0, expiring: 0 });
    seen.stats = Ok(RedisStats {
        hits: 0,
        misses: 0,
        evicted: 0,
        expired: 0,
        rejected_connections: 0,
        commands: 1,
        errors: Vec::new(),
    });
    let memory = seen.memory.as_mut().unwrap();
    memory.used = 900_000;
    memory.resident = 9_000_000;
    memory.fragmentation = 10.0;
    memory.max = 0;
    memory.policy = "noeviction".into();
    assert_eq!(failing(&first(seen)), []);
}
