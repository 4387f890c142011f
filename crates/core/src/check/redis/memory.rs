//! Does the memory suffice, and does the policy for a full memory fit the data?

use super::{evicts, interval};
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind, measured};
use crate::finding::Draft;
use crate::observation::{Redis, RedisMemory};
use crate::quantity::{Unit, Value, format_bytes, format_number};
use crate::severity::Severity;

/// From here on the memory is the story, and `memory_near_limit` tells it.
const NEAR_LIMIT: f64 = 90.0;

fn share_of_limit(memory: &RedisMemory) -> f64 {
    if memory.max == 0 { 0.0 } else { memory.used as f64 / memory.max as f64 * 100.0 }
}

pub static MEMORY_NEAR_LIMIT: Check = Check {
    id: "redis.memory_near_limit",
    title: "Redis is close to its memory limit and may not evict",
    runbook: Runbook {
        means: "At maxmemory this Redis refuses writes (OOM command not allowed): it has no policy that makes room, or \
                nothing that the policy may remove. A cache that evicts may be full all day and is not reported here.",
        confirm: "redis-cli INFO memory | grep -E 'used_memory_human|maxmemory_human|maxmemory_policy'",
        act: "Find what grows: redis-cli --bigkeys, redis-cli --memkeys. Remove what is not needed with UNLINK or give \
              it a time to live. Raise maxmemory if the machine has room. If it is a cache, set an allkeys policy. \
              Never flush: it throws away good data and sends every client to the database at once.",
    },
    source: "INFO memory: used_memory, maxmemory, maxmemory_policy; INFO errorstats: OOM",
    thresholds: &[
        Threshold {
            name: "warning",
            default: NEAR_LIMIT,
            unit: Unit::Percent,
            why: "the last tenth is the time that is left to act (awesome-prometheus-alerts uses 90 %)",
        },
        Threshold {
            name: "critical",
            default: 99.0,
            unit: Unit::Percent,
            why: "writes are refused at 100 %, and client buffers count as well",
        },
    ],
    hold: Hold::minutes(0.0, 2.0),
    judge: Judge::Redis(near_limit),
};

fn near_limit(sight: &Sight<'_, Redis>) -> Judged {
    let memory = sight.seen.memory.as_ref()?;
    // Refused writes are the outage itself, whatever the policy says it could have evicted. The first reading has no
    // earlier count to compare with; the share alone then decides.
    let refused = interval(sight, "refused writes").and_then(|interval| interval.errors_grown("OOM")).unwrap_or(0);
    let share = share_of_limit(memory);
    let expiring = sight.seen.keys.as_ref().ok().map(|keys| keys.expiring);
    let graded = if memory.max > 0 && !evicts(&memory.policy, expiring) { sight.graded(share) } else { None };
    if refused == 0 && graded.is_none() {
        return Ok(Vec::new());
    }
    let severity = graded.map_or(Severity::Critical, |(severity, _)| severity);
    let severity = if refused > 0 { Severity::Critical } else { severity };
    let summary = if refused > 0 {
        format!("Redis refused {refused} writes for want of memory since the last reading")
    } else {
        format!(
            "{} of maxmemory is used ({} of {}) and the policy {} makes no room",
            format_number(share, Unit::Percent),
            format_bytes(memory.used as f64),
            format_bytes(memory.max as f64),
            memory.policy
        )
    };
    let (what, source) = ("memory used of maxmemory", "INFO memory: used_memory / maxmemory");
    let draft = Draft::new(severity, summary);
    let mut draft = match graded {
        Some((_, limit)) => draft.against(what, Value::percent(share), Value::percent(limit), source),
        None => draft.saw(what, Value::percent(share), source),
    }
    .saw("policy", Value::text(memory.policy.clone()), "INFO memory: maxmemory_policy");
    if refused > 0 {
        draft = draft.saw(
            "writes refused since the last reading",
            Value::count(refused as f64),
            "INFO errorstats: errorstat_OOM",
        );
    }
    Ok(vec![draft.fix(
        "redis-cli --bigkeys to see what grows; then UNLINK what is not needed, or CONFIG SET maxmemory to more if the \
         machine has it; if this is a cache: CONFIG SET maxmemory-policy allkeys-lru",
    )])
}

pub static NO_MEMORY_LIMIT: Check = Check {
    id: "redis.no_memory_limit",
    title: "Redis has no memory limit and uses much of the machine",
    runbook: Runbook {
        means: "Without maxmemory Redis grows until the kernel kills it, or something else on the machine.",
        confirm: "redis-cli CONFIG GET maxmemory; redis-cli INFO memory | grep -E 'used_memory_human|total_system'",
        act: "Set maxmemory to about 75 % of what this Redis may have (forks for snapshots need the rest) and choose a \
              policy: allkeys-lru for a cache, noeviction for sessions and queues. In a container the limit of the \
              container counts, not the machine's memory.",
    },
    source: "INFO memory: maxmemory, used_memory, total_system_memory",
    thresholds: &[Threshold {
        name: "warning",
        default: 50.0,
        unit: Unit::Percent,
        why: "a snapshot forks, and in the worst case the copy needs as much again: above half of the machine that no \
              longer fits (Redis administration guide)",
    }],
    hold: Hold::minutes(5.0, 5.0),
    judge: Judge::Redis(no_limit),
};

fn no_limit(sight: &Sight<'_, Redis>) -> Judged {
    let memory = sight.seen.memory.as_ref()?;
    if memory.max > 0 {
        return Ok(Vec::new());
    }
    if memory.system == 0 {
        return Err(Unknown {
            kind: UnknownKind::NotRead,
            reason: "the server does not say how much memory its machine has (total_system_memory)".into(),
        });
    }
    let share = memory.used as f64 / memory.system as f64 * 100.0;
    let Some((severity, limit)) = sight.graded(share) else { return Ok(Vec::new()) };
    let (value, limit) = measured(share, limit, Unit::Percent);
    Ok(vec![
        Draft::new(
            severity,
            format!(
                "Redis has no maxmemory and uses {} of the machine's {}",
                format_number(share, Unit::Percent),
                format_bytes(memory.system as f64)
            ),
        )
        .against("memory used of the machine's", value, limit, "INFO memory: used_memory / total_system_memory")
        .fix("CONFIG SET maxmemory to about 75 % of what it may have, then CONFIG REWRITE"),
    ])
}

pub static POLICY_UNSUITED: Check = Check {
    id: "redis.policy_unsuited",
    title: "The policy for a full memory does not fit the keys",
    runbook: Runbook {
        means: "What will happen when the memory is full is probably not what is wanted: a volatile policy without keys \
                that expire refuses writes instead of evicting; noeviction with only expiring keys looks like a cache \
                that will refuse writes instead of making room.",
        confirm: "redis-cli CONFIG GET maxmemory-policy; redis-cli INFO keyspace (keys against expires)",
        act: "For a cache set allkeys-lru or allkeys-lfu. For sessions and queues keep noeviction, and disable this \
              check for that Redis.",
    },
    source: "INFO memory: maxmemory, maxmemory_policy; INFO keyspace: keys, expires",
    thresholds: &[
        Threshold {
            name: "minimum_keys",
            default: 1_000.0,
            unit: Unit::Count,
            why: "fewer keys say nothing about what this Redis is for",
        },
        Threshold {
            name: "expiring_share",
            default: 99.0,
            unit: Unit::Percent,
            why: "when practically every key expires it is most likely a cache",
        },
    ],
    hold: Hold::minutes(10.0, 10.0),
    judge: Judge::Redis(policy_unsuited),
};

fn policy_unsuited(sight: &Sight<'_, Redis>) -> Judged {
    let memory = sight.seen.memory.as_ref()?;
    let keys = sight.seen.keys.as_ref()?;
    // Without a limit no policy ever acts; close to it, memory_near_limit names the policy.
    let quiet = memory.max == 0 || share_of_limit(memory) >= NEAR_LIMIT;
    if quiet || (keys.total as f64) < sight.limit("minimum_keys").max(1.0) {
        return Ok(Vec::new());
    }
    let share = keys.expiring as f64 / keys.total as f64 * 100.0;
    let (severity, summary, fix) = if memory.policy.starts_with("volatile-") && keys.expiring == 0 {
        (
            Severity::Warning,
            format!("The policy is {} but no key expires: a full memory will refuse writes", memory.policy),
            "give the keys a time to live, or CONFIG SET maxmemory-policy allkeys-lru if all of them may be evicted",
        )
    } else if memory.policy == "noeviction" && share >= sight.limit("expiring_share") {
        (
            Severity::Info,
            "Every key expires, as in a cache, but the policy is noeviction: a full memory will refuse writes"
                .to_owned(),
            "if this is a cache: CONFIG SET maxmemory-policy allkeys-lru; if it holds sessions, disable this check",
        )
    } else {
        return Ok(Vec::new());
    };
    Ok(vec![
        Draft::new(severity, summary)
            .saw("policy", Value::text(memory.policy.clone()), "INFO memory: maxmemory_policy")
            .saw("keys that expire", Value::percent(share), "INFO keyspace: expires / keys")
            .fix(fix),
    ])
}

pub static FRAGMENTATION_HIGH: Check = Check {
    id: "redis.fragmentation_high",
    title: "Redis holds much more memory than its data, or is swapped out",
    runbook: Runbook {
        means: "Far above 1 the process holds memory that its data does not need. Below 1 a part of the data is in \
                swap, and every access to it waits for the disk.",
        confirm: "redis-cli INFO memory | grep -E 'used_memory_human|used_memory_rss_human|mem_fragmentation_ratio'",
        act: "Too high: CONFIG SET activedefrag yes (jemalloc builds), or restart a replica and fail over in a \
              maintenance window. Too low: give the machine memory or move what else runs there; lower maxmemory.",
    },
    source: "INFO memory: mem_fragmentation_ratio, used_memory, used_memory_rss",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 1.5,
            unit: Unit::Ratio,
            why: "a third of the process is then waste (Redis documentation on memory; Datadog and Coroot use 1.5)",
        },
        Threshold {
            name: "swapped_below",
            default: 0.9,
            unit: Unit::Ratio,
            why: "resident memory below the data means swap; a tenth of slack for pages that were never touched",
        },
        Threshold {
            name: "minimum_used",
            default: 50e6,
            unit: Unit::Bytes,
            why: "the ratio of a small server is its code and buffers, not fragmentation",
        },
    ],
    hold: Hold::minutes(30.0, 10.0),
    judge: Judge::Redis(fragmentation_high),
};

fn fragmentation_high(sight: &Sight<'_, Redis>) -> Judged {
    let memory = sight.seen.memory.as_ref()?;
    if memory.used == 0 || (memory.used as f64) < sight.limit("minimum_used") {
        return Ok(Vec::new());
    }
    let resident = memory.resident as f64 / memory.used as f64;
    // A resident set of zero is a platform that does not tell, not a process that is swapped out whole.
    if memory.resident > 0 && resident < sight.limit("swapped_below") {
        let (value, limit) = measured(resident, sight.limit("swapped_below"), Unit::Ratio);
        let swapped = memory.used.saturating_sub(memory.resident);
        return Ok(vec![
            Draft::new(
                Severity::Warning,
                format!("About {} of the data of Redis is in swap", format_bytes(swapped as f64)),
            )
            .against("resident memory / data", value, limit, "INFO memory: used_memory_rss / used_memory")
            .fix("free memory on the machine (free -m; ps aux --sort=-rss | head), or lower maxmemory"),
        ]);
    }
    let Some((severity, limit)) = sight.graded(memory.fragmentation) else { return Ok(Vec::new()) };
    let (value, limit) = measured(memory.fragmentation, limit, Unit::Ratio);
    Ok(vec![
        Draft::new(
            severity,
            format!(
                "Redis holds {} for {} of data (fragmentation {})",
                format_bytes(memory.resident as f64),
                format_bytes(memory.used as f64),
                format_number(memory.fragmentation, Unit::Ratio)
            ),
        )
        .against("fragmentation", value, limit, "INFO memory: mem_fragmentation_ratio")
        .fix(
            "CONFIG SET activedefrag yes; if the build has no active defragmentation, restart in a maintenance window",
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, first, healthy, healthy_before, judged, one, status};
    use super::*;
    use crate::observation::Keys;

    fn with_memory(change: impl FnOnce(&mut RedisMemory)) -> Redis {
        let mut seen = healthy();
        change(seen.memory.as_mut().unwrap());
        seen
    }

    fn found(seen: Redis) -> Vec<(String, Severity)> {
        failing(&judged(Some(healthy_before()), seen))
    }

    #[test]
    fn a_full_memory_without_eviction_is_critical() {
        let seen = with_memory(|memory| {
            memory.used = memory.max;
            memory.resident = memory.max;
            memory.policy = "noeviction".into();
        });
        assert_eq!(found(seen.clone()), one("redis.memory_near_limit", Severity::Critical));
        assert_eq!(failing(&first(seen)), one("redis.memory_near_limit", Severity::Critical));
    }

    #[test]
    fn a_nearly_full_memory_without_eviction_is_a_warning() {
        let seen = with_memory(|memory| {
            memory.used = memory.max / 100 * 91;
            memory.resident = memory.used;
            memory.policy = "noeviction".into();
        });
        assert_eq!(found(seen), one("redis.memory_near_limit", Severity::Warning));
    }

    #[test]
    fn a_full_cache_that_evicts_is_as_it_should_be() {
        let full = |policy: &str| {
            with_memory(|memory| {
                memory.used = memory.max;
                memory.resident = memory.max;
                memory.policy = policy.into();
            })
        };
        assert_eq!(found(full("allkeys-lru")), []);
        assert_eq!(found(full("volatile-ttl")), []);
        let mut nothing_to_evict = full("volatile-ttl");
        nothing_to_evict.keys = Ok(Keys { total: 5_000, expiring: 0 });
        assert_eq!(found(nothing_to_evict), one("redis.memory_near_limit", Severity::Critical));
    }

    #[test]
    fn refused_writes_are_one_critical_finding_whatever_the_share() {
        let mut seen = with_memory(|memory| memory.policy = "noeviction".into());
        seen.stats.as_mut().unwrap().errors.push(("OOM".into(), 4_000));
        assert_eq!(found(seen.clone()), one("redis.memory_near_limit", Severity::Critical));
        assert_eq!(failing(&judged(Some(seen.clone()), Redis { uptime: seen.uptime + 60.0, ..seen })), []);
    }

    #[test]
    fn no_limit_matters_only_on_a_machine_that_it_fills() {
        let unlimited = |used_share: f64| {
            with_memory(|memory| {
                memory.max = 0;
                memory.used = (memory.system as f64 * used_share) as u64;
                memory.resident = memory.used;
                memory.policy = "noeviction".into();
            })
        };
        assert_eq!(found(unlimited(0.2)), []);
        assert_eq!(found(unlimited(0.6)), one("redis.no_memory_limit", Severity::Warning));
        let mut silent = unlimited(0.6);
        silent.memory.as_mut().unwrap().system = 0;
        assert_eq!(status(&judged(None, silent), "redis.no_memory_limit"), "unknown");
    }

    #[test]
    fn a_policy_that_does_not_fit_the_keys_is_named() {
        let keys = |policy: &str, total, expiring| {
            let mut seen = with_memory(|memory| memory.policy = policy.into());
            seen.keys = Ok(Keys { total, expiring });
            seen
        };
        assert_eq!(found(keys("volatile-lru", 5_000, 0)), one("redis.policy_unsuited", Severity::Warning));
        assert_eq!(found(keys("noeviction", 5_000, 5_000)), one("redis.policy_unsuited", Severity::Info));
        assert_eq!(found(keys("noeviction", 5_000, 2_000)), []);
        assert_eq!(found(keys("volatile-lru", 999, 0)), []);
        assert_eq!(found(keys("volatile-lru", 0, 0)), []);
        let mut full = keys("noeviction", 5_000, 5_000);
        let memory = full.memory.as_mut().unwrap();
        (memory.used, memory.resident) = (memory.max, memory.max);
        assert_eq!(found(full), one("redis.memory_near_limit", Severity::Critical));
    }

    #[test]
    fn fragmentation_counts_from_fifty_megabytes_on() {
        let held = |used: u64, ratio: f64| {
            with_memory(|memory| {
                memory.used = used;
                memory.resident = (used as f64 * ratio) as u64;
                memory.fragmentation = ratio;
            })
        };
        assert_eq!(found(held(400_000_000, 1.6)), one("redis.fragmentation_high", Severity::Warning));
        assert_eq!(found(held(400_000_000, 0.5)), one("redis.fragmentation_high", Severity::Warning));
        assert_eq!(found(held(400_000_000, 1.4)), []);
        assert_eq!(found(held(400_000_000, 0.95)), []);
        assert_eq!(found(held(40_000_000, 8.0)), []);
        assert_eq!(found(held(0, f64::NAN)), []);
    }
}
