//! The numbers that are kept over time: one a minute for two days, one an hour for 400 days.
//!
//! A sample is a fact, not a judgement. Names are stable; a unit never changes under a name.

mod statements;

use crate::observation::{Backup, Database, Host, Http, Logs, Observation, Postgres, Redis, WalStream, last_proven};
use crate::quantity::{Unit, seconds_between};
use crate::receipt::{Receipt, Rung};
use crate::system::SystemId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Tables kept by size; the rest would drown the record on schemas with thousands of them.
const TABLES_KEPT: usize = 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub system: SystemId,
    /// `up`, `connections`, `database_size` …
    pub metric: String,
    /// The database, table, mount; empty for the system as a whole.
    pub subject: String,
    pub value: f64,
    pub unit: Unit,
}

/// Takes the samples of an observation. Rates and ratios need the reading before it and are left out without one.
pub fn samples(system: &SystemId, current: &Observation, before: Option<&Observation>) -> Vec<Sample> {
    let mut taken = Samples { system, list: Vec::new() };
    taken.add("up", f64::from(u8::from(current.failure().is_none())), Unit::Count);
    if current.failure().is_none() {
        taken.add("latency", current.latency(), Unit::Seconds);
    }
    let elapsed = before.map_or(0.0, |earlier| seconds_between(earlier.at(), current.at()));
    match current {
        Observation::Postgres(reading) => {
            let earlier = before.and_then(Observation::as_postgres).and_then(|r| r.outcome.as_ref().ok());
            if let Ok(seen) = &reading.outcome {
                postgres(&mut taken, seen, earlier, elapsed);
                statements::statements(&mut taken, seen, earlier, elapsed);
            }
        }
        Observation::Redis(reading) => {
            let earlier = before.and_then(Observation::as_redis).and_then(|r| r.outcome.as_ref().ok());
            if let Ok(seen) = &reading.outcome {
                redis(&mut taken, seen, earlier, elapsed);
            }
        }
        Observation::Http(reading) => {
            if let Ok(seen) = &reading.outcome {
                http(&mut taken, seen);
            }
        }
        Observation::Host(reading) => {
            if let Ok(seen) = &reading.outcome {
                host(&mut taken, seen);
            }
        }
        Observation::Logs(reading) => {
            if let Ok(seen) = &reading.outcome {
                logs(&mut taken, seen);
            }
        }
        Observation::Backup(reading) => {
            if let Ok(seen) = &reading.outcome {
                backup(&mut taken, seen, reading.at);
            }
        }
    }
    taken.list
}

struct Samples<'a> {
    system: &'a SystemId,
    list: Vec<Sample>,
}

impl Samples<'_> {
    fn add(&mut self, metric: &str, value: f64, unit: Unit) {
        self.of(metric, "", value, unit);
    }

    fn of(&mut self, metric: &str, subject: &str, value: f64, unit: Unit) {
        if value.is_finite() {
            self.list.push(Sample {
                system: self.system.clone(),
                metric: metric.to_owned(),
                subject: subject.to_owned(),
                value,
                unit,
            });
        }
    }
}

/// The growth of a counter per second; none when it went backwards (a restart) or no time passed.
fn rate(now: u64, before: u64, elapsed: f64) -> Option<f64> {
    (elapsed > 0.0 && now >= before).then(|| (now - before) as f64 / elapsed)
}

/// The growth of a counter over the databases that both readings have; none when one went backwards, for statistics are
/// reset by database.
fn growth(now: &[Database], before: &[Database], field: fn(&Database) -> u64) -> Option<u64> {
    let earlier = |name: &str| before.iter().find(|database| database.name == name);
    let pairs = now.iter().filter_map(|database| Some((field(database), field(earlier(&database.name)?))));
    pairs.map(|(now, before)| now.checked_sub(before)).sum()
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64 * 100.0)
}

fn postgres(to: &mut Samples<'_>, seen: &Postgres, before: Option<&Postgres>, elapsed: f64) {
    if let Ok(activity) = &seen.activity {
        to.add("connections", f64::from(activity.total), Unit::Count);
        to.add("connections_active", f64::from(activity.active), Unit::Count);
        to.add("connections_idle_in_transaction", f64::from(activity.idle_in_transaction), Unit::Count);
        let oldest = activity.sessions.iter().filter_map(|session| session.transaction_age).fold(0.0, f64::max);
        to.add("oldest_transaction", oldest, Unit::Seconds);
    }
    if let Ok(databases) = &seen.databases {
        for database in databases {
            // Templates never change and would only fill the record.
            if let Some(size) = database.size.filter(|_| !database.name.starts_with("template")) {
                to.of("database_size", &database.name, size as f64, Unit::Bytes);
            }
        }
        let oldest = databases.iter().map(|database| database.xid_age).max().unwrap_or(0);
        to.add("transaction_id_age", oldest as f64, Unit::Count);
        if let Some(Ok(earlier)) = before.map(|earlier| &earlier.databases) {
            let grew = |field| growth(databases, earlier, field).filter(|_| elapsed > 0.0);
            if let Some(commits) = grew(|d| d.commits) {
                to.add("commits", commits as f64 / elapsed, Unit::PerSecond);
            }
            if let (Some(hit), Some(read)) = (grew(|d| d.blocks_hit), grew(|d| d.blocks_read))
                && let Some(ratio) = share(hit, hit + read)
            {
                to.add("cache_hit", ratio, Unit::Percent);
            }
        }
    }
    if let Ok(tables) = &seen.tables {
        let mut largest: Vec<_> = tables.iter().collect();
        largest.sort_by_key(|table| std::cmp::Reverse(table.size));
        for table in largest.into_iter().take(TABLES_KEPT) {
            let name = format!("{}.{}", table.schema, table.name);
            to.of("table_size", &name, table.size as f64, Unit::Bytes);
            to.of("table_dead_rows", &name, table.dead_rows as f64, Unit::Count);
            if let Some(rows) = table.rows_estimated {
                to.of("table_rows", &name, rows, Unit::Count);
            }
        }
    }
    if let Ok(Some(disk)) = &seen.room.disk {
        to.add("disk_available", disk.free as f64, Unit::Bytes);
        to.add("disk_total", disk.total as f64, Unit::Bytes);
    }
    if let Ok(size) = seen.room.wal {
        to.add("wal_size", size as f64, Unit::Bytes);
    }
    if let Ok(replication) = &seen.replication {
        // Standbys that set no name are all called `walreceiver`: the worst speaks for them.
        let mut worst: BTreeMap<&str, u64> = BTreeMap::new();
        for standby in &replication.standbys {
            if let Some(bytes) = standby.lag_bytes {
                let lag = worst.entry(&standby.name).or_default();
                *lag = bytes.max(*lag);
            }
        }
        for (name, bytes) in worst {
            to.of("replication_lag", name, bytes as f64, Unit::Bytes);
        }
    }
}

fn redis(to: &mut Samples<'_>, seen: &Redis, before: Option<&Redis>, elapsed: f64) {
    if let Ok(memory) = &seen.memory {
        to.add("memory_used", memory.used as f64, Unit::Bytes);
        if memory.max > 0 {
            to.add("memory_max", memory.max as f64, Unit::Bytes);
        }
        to.add("fragmentation", memory.fragmentation, Unit::Ratio);
    }
    if let Ok(clients) = &seen.clients {
        to.add("clients", clients.connected as f64, Unit::Count);
    }
    if let Ok(keys) = &seen.keys {
        to.add("keys", keys.total as f64, Unit::Count);
    }
    // Another run of the server counts from zero again, and may already have passed the old figures.
    let before = before.filter(|earlier| earlier.run_id == seen.run_id);
    if let (Ok(stats), Some(Ok(earlier))) = (&seen.stats, before.map(|earlier| &earlier.stats)) {
        for (metric, now, then) in
            [("evictions", stats.evicted, earlier.evicted), ("commands", stats.commands, earlier.commands)]
        {
            if let Some(per_second) = rate(now, then, elapsed) {
                to.add(metric, per_second, Unit::PerSecond);
            }
        }
        if stats.hits >= earlier.hits && stats.misses >= earlier.misses {
            let hits = stats.hits - earlier.hits;
            if let Some(ratio) = share(hits, hits + stats.misses - earlier.misses) {
                to.add("hit_rate", ratio, Unit::Percent);
            }
        }
    }
}

fn http(to: &mut Samples<'_>, seen: &Http) {
    to.add("response_time", seen.total, Unit::Seconds);
    to.add("status", f64::from(seen.status), Unit::Count);
}

fn host(to: &mut Samples<'_>, seen: &Host) {
    to.add("load_1m", seen.load[0], Unit::Count);
    to.add("load_5m", seen.load[1], Unit::Count);
    to.add("memory_available", seen.memory.available as f64, Unit::Bytes);
    to.add("memory_total", seen.memory.total as f64, Unit::Bytes);
    for mount in &seen.mounts {
        to.of("disk_available", &mount.path, mount.available as f64, Unit::Bytes);
        to.of("disk_total", &mount.path, mount.total as f64, Unit::Bytes);
    }
}

fn logs(to: &mut Samples<'_>, seen: &Logs) {
    to.add("size", seen.bytes as f64, Unit::Bytes);
    to.add("files", seen.files as f64, Unit::Count);
}

fn backup(to: &mut Samples<'_>, seen: &Backup, now: Timestamp) {
    if let Ok(space) = &seen.space {
        to.add("repository_free", space.free as f64, Unit::Bytes);
        to.add("repository_total", space.total as f64, Unit::Bytes);
    }
    wal(to, &seen.wal, now);
    let Ok(receipts) = &seen.receipts else { return };
    let age = |at| seconds_between(at, now).max(0.0);
    if let Some(newest) = receipts.iter().find(|receipt| receipt.is_whole()) {
        to.add("set_age", age(newest.made), Unit::Seconds);
        to.add("set_size", newest.bytes() as f64, Unit::Bytes);
        to.add("set_added", newest.added as f64, Unit::Bytes);
        to.add("set_took", newest.took, Unit::Seconds);
    }
    if let Some(made) = receipts.iter().filter(|r| r.proven() >= Some(Rung::Alive)).map(|receipt| receipt.made).max() {
        to.add("proven_set_age", age(made), Unit::Seconds);
    }
    let proven = last_proven(receipts);
    if let Some(at) = proven.and_then(|receipt| receipt.proven_at(Rung::Alive)) {
        to.add("proof_age", age(at), Unit::Seconds);
    }
    if let Some(seconds) = proven.and_then(Receipt::recovery_time) {
        to.add("recovery_time", seconds, Unit::Seconds);
    }
}

fn wal(to: &mut Samples<'_>, streams: &[WalStream], now: Timestamp) {
    for stream in streams {
        let subject = stream.system.to_string();
        let behind = seconds_between(stream.safe_until.unwrap_or(stream.since), now).max(0.0);
        to.of("wal_behind", &subject, behind, Unit::Seconds);
        if let Some(worst) = stream.worst_seconds {
            to.of("wal_recovery_point", &subject, worst, Unit::Seconds);
        }
        if let Some(retained) = stream.retained {
            to.of("wal_retained", &subject, retained as f64, Unit::Bytes);
        }
    }
}

#[cfg(test)]
mod tests;
