//! INFO of several versions, and lines that no version sends.

use super::*;

const REDIS_7: &str = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:3600\r\n\r\n\
# Clients\r\nconnected_clients:42\r\nmaxclients:10000\r\nblocked_clients:1\r\n\r\n\
# Memory\r\nused_memory:1048576\r\nused_memory_rss:9437184\r\ntotal_system_memory:25270145024\r\nmaxmemory:2097152\r\n\
maxmemory_policy:allkeys-lru\r\nmem_fragmentation_ratio:9.00\r\n\r\n\
# Persistence\r\nloading:0\r\nasync_loading:0\r\nrdb_changes_since_last_save:7\r\nrdb_last_save_time:1772442000\r\n\
rdb_last_bgsave_status:ok\r\naof_enabled:1\r\naof_last_write_status:err\r\n\r\n\
# Stats\r\ntotal_commands_processed:100\r\nrejected_connections:2\r\nexpired_keys:3\r\nevicted_keys:4\r\n\
keyspace_hits:50\r\nkeyspace_misses:10\r\n\r\n\
# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:down\r\n\
master_link_down_since_seconds:95\r\nconnected_slaves:0\r\n\r\n\
# Errorstats\r\nerrorstat_OOM:count=17\r\nerrorstat_WRONGTYPE:count=1\r\n\r\n\
# Keyspace\r\ndb0:keys=12,expires=3,avg_ttl=0\r\ndb11:keys=2,expires=2,avg_ttl=900,subexpiry=0\r\n";

#[test]
fn every_part_is_read() {
    let seen = parse(REDIS_7).unwrap();
    assert_eq!((seen.version.as_str(), seen.uptime), ("7.0.15", 3600.0));
    let memory = seen.memory.unwrap();
    assert_eq!((memory.used, memory.resident, memory.max), (1_048_576, 9_437_184, 2_097_152));
    assert_eq!((memory.policy.as_str(), memory.fragmentation), ("allkeys-lru", 9.0));
    let stats = seen.stats.unwrap();
    assert_eq!((stats.hits, stats.misses, stats.evicted, stats.rejected_connections), (50, 10, 4, 2));
    assert_eq!(stats.errors, [("OOM".to_owned(), 17), ("WRONGTYPE".to_owned(), 1)]);
    assert_eq!(seen.clients.unwrap(), RedisClients { connected: 42, max: Some(10_000), blocked: 1 });
    let persistence = seen.persistence.unwrap();
    assert!(!persistence.loading && persistence.last_save_ok && persistence.aof_enabled);
    assert!(!persistence.last_aof_write_ok);
    assert_eq!(persistence.last_save.unwrap().as_second(), 1_772_442_000);
    let replication = seen.replication.unwrap();
    assert!(!replication.primary);
    assert_eq!((replication.link_up, replication.link_down_seconds), (Some(false), Some(95)));
    assert_eq!(replication.upstream.as_deref(), Some("10.0.0.1:6379"));
    assert_eq!(seen.keys.unwrap(), Keys { total: 14, expiring: 5 });
}

#[test]
fn valkey_is_known_by_its_own_version() {
    let seen = parse("redis_version:7.2.4\nserver_name:valkey\nvalkey_version:8.0.1\n").unwrap();
    assert_eq!(seen.version, "8.0.1 (Valkey)");
}

#[test]
fn a_section_that_is_left_out_is_a_gap_and_not_a_zero() {
    let seen = parse("redis_version:6.0.16\r\nuptime_in_seconds:5\r\n").unwrap();
    assert!(seen.memory.unwrap_err().reason.contains("used_memory"));
    assert!(seen.stats.is_err() && seen.clients.is_err() && seen.persistence.is_err());
    assert!(seen.replication.is_err() && seen.keys.is_err());
    assert_eq!(parse("redis_version:7.0.0\n# Keyspace\n").unwrap().keys, Ok(Keys { total: 0, expiring: 0 }));
}

#[test]
fn odd_values_raise_no_alarm_of_their_own() {
    let seen = parse(
        "redis_version:x\nused_memory:0\nmem_fragmentation_ratio:nan\nloading:0\nrdb_last_save_time:-99999999999999\n\
         role:slave\nmaster_link_down_since_seconds:-1\ndb0:keys=,expires=x\ndbx:keys=9\n# keyspace\n:\n::\n=\n",
    )
    .unwrap();
    assert!(seen.memory.unwrap().fragmentation.abs() < f64::EPSILON);
    let persistence = seen.persistence.unwrap();
    assert_eq!((persistence.last_save, persistence.last_save_ok), (None, true));
    assert_eq!(seen.replication.unwrap().link_down_seconds, None);
    assert_eq!(seen.keys.unwrap(), Keys { total: 0, expiring: 0 });
}

#[test]
fn what_is_no_redis_is_refused() {
    assert!(parse("").is_none());
    assert!(parse("<html><body>it works: yes</body></html>").is_none());
}

/// A small generator is enough: every prefix of a real answer, and every answer with one byte changed.
#[test]
fn no_text_makes_it_panic() {
    for end in 0..REDIS_7.len() {
        let _ = parse(&REDIS_7[..end]);
        for byte in [b'\n', b':', b'9'] {
            let mut changed = REDIS_7.as_bytes().to_vec();
            changed[end] = byte;
            let _ = parse(&String::from_utf8_lossy(&changed));
        }
    }
    let huge = REDIS_7.replace("keys=12", "keys=18446744073709551615");
    assert_eq!(parse(&huge).unwrap().keys.unwrap().total, u64::MAX);
}
