//! The text of `INFO`, understood. Pure: text in, observation out.
//!
//! Fields come and go with versions, and managed services leave sections out. A section without its most important
//! field is a gap; other fields that are missing have the value that raises no alarm, which their checks know.

use groundskeeper_core::observation::{
    Gap, Keys, Part, Persistence, Redis, RedisClients, RedisMemory, RedisReplication, RedisStats,
};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Redis keeps at most 128 kinds of error itself.
const MOST_ERRORS: usize = 256;

struct Info<'a> {
    fields: BTreeMap<&'a str, &'a str>,
    keyspace: bool,
}

/// None when this is no answer of a Redis at all.
pub(super) fn parse(text: &str) -> Option<Redis> {
    let mut info = Info { fields: BTreeMap::new(), keyspace: false };
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('#') {
            info.keyspace |= section.trim().eq_ignore_ascii_case("keyspace");
        } else if let Some((name, value)) = line.split_once(':') {
            info.fields.insert(name, value);
        }
    }
    Some(Redis {
        version: info.version()?,
        uptime: info.number::<u64>("uptime_in_seconds").unwrap_or(0) as f64,
        run_id: info.text("run_id").unwrap_or_default().to_owned(),
        memory: info.memory(),
        stats: info.stats(),
        clients: info.clients(),
        persistence: info.persistence(),
        replication: info.replication(),
        keys: info.keys(),
    })
}

impl<'a> Info<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.fields.get(name).copied()
    }

    fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("1")
    }

    /// The field that makes a section what it is.
    fn needed(&self, name: &str, section: &str) -> Part<u64> {
        self.number(name).ok_or_else(|| Gap::new(format!("INFO has no {name} (section {section})")))
    }

    /// Valkey says that it is Redis 7.2.4, for old clients, and adds its own version.
    fn version(&self) -> Option<String> {
        match self.text("valkey_version") {
            Some(version) => Some(format!("{version} (Valkey)")),
            None => self.text("redis_version").map(str::to_owned),
        }
    }

    fn memory(&self) -> Part<RedisMemory> {
        let used = self.needed("used_memory", "memory")?;
        let resident = self.number("used_memory_rss").unwrap_or(0);
        let computed = if used > 0 { resident as f64 / used as f64 } else { 0.0 };
        Ok(RedisMemory {
            used,
            resident,
            max: self.number("maxmemory").unwrap_or(0),
            policy: self.text("maxmemory_policy").unwrap_or("unknown").to_owned(),
            fragmentation: self
                .number("mem_fragmentation_ratio")
                .filter(|ratio: &f64| ratio.is_finite())
                .unwrap_or(computed),
            system: self.number("total_system_memory").unwrap_or(0),
        })
    }

    fn stats(&self) -> Part<RedisStats> {
        let counter = |name| self.needed(name, "stats");
        Ok(RedisStats {
            hits: counter("keyspace_hits")?,
            misses: counter("keyspace_misses")?,
            evicted: counter("evicted_keys")?,
            expired: counter("expired_keys")?,
            rejected_connections: counter("rejected_connections")?,
            commands: counter("total_commands_processed")?,
            errors: self
                .fields
                .iter()
                .filter_map(|(name, value)| {
                    let count = value.strip_prefix("count=")?.parse().ok()?;
                    Some((name.strip_prefix("errorstat_")?.to_owned(), count))
                })
                .take(MOST_ERRORS)
                .collect(),
        })
    }

    fn clients(&self) -> Part<RedisClients> {
        Ok(RedisClients {
            connected: self.needed("connected_clients", "clients")?,
            max: self.number("maxclients"),
            blocked: self.number("blocked_clients").unwrap_or(0),
        })
    }

    fn persistence(&self) -> Part<Persistence> {
        // A field that says nothing must not say "failed": only the word that Redis uses for a failure does.
        let ok = |name| self.text(name) != Some("err");
        Ok(Persistence {
            loading: self.needed("loading", "persistence")? != 0,
            changes_since_save: self.number("rdb_changes_since_last_save").unwrap_or(0),
            last_save: self.number("rdb_last_save_time").and_then(|seconds| Timestamp::from_second(seconds).ok()),
            last_save_ok: ok("rdb_last_bgsave_status"),
            aof_enabled: self.flag("aof_enabled"),
            last_aof_write_ok: ok("aof_last_write_status"),
            saves_configured: None,
        })
    }

    fn replication(&self) -> Part<RedisReplication> {
        let role = self.text("role").ok_or_else(|| Gap::new("INFO has no role (section replication)"))?;
        let host = self.text("master_host");
        Ok(RedisReplication {
            primary: role == "master",
            replicas: self.number("connected_slaves").unwrap_or(0),
            link_up: self.text("master_link_status").map(|status| status == "up"),
            // -1 while it has never been up.
            link_down_seconds: self.number("master_link_down_since_seconds"),
            upstream: host.map(|host| format!("{host}:{}", self.text("master_port").unwrap_or("6379"))),
        })
    }

    /// `db0:keys=12,expires=3,avg_ttl=0`; an empty server has the heading and no line.
    fn keys(&self) -> Part<Keys> {
        if !self.keyspace {
            return Err(Gap::new("INFO has no section keyspace"));
        }
        let mut keys = Keys { total: 0, expiring: 0 };
        for (_, value) in self.fields.iter().filter(|(name, _)| is_database(name)) {
            for (name, count) in value.split(',').filter_map(|part| part.split_once('=')) {
                let count = count.parse::<u64>().unwrap_or(0);
                match name {
                    "keys" => keys.total = keys.total.saturating_add(count),
                    "expires" => keys.expiring = keys.expiring.saturating_add(count),
                    _ => {}
                }
            }
        }
        Ok(keys)
    }
}

fn is_database(name: &str) -> bool {
    name.strip_prefix("db").is_some_and(|number| number.parse::<u32>().is_ok())
}

#[cfg(test)]
#[path = "info_tests.rs"]
mod tests;
