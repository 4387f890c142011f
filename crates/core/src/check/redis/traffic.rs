//! Does it serve well what it is asked: hits, evictions, refusals.

use super::interval;
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind, measured};
use crate::finding::Draft;
use crate::observation::Redis;
use crate::quantity::{Unit, Value, format_number, format_seconds};
use crate::severity::Severity;

pub static HIT_RATE_LOW: Check = Check {
    id: "redis.hit_rate_low",
    title: "Few lookups find their key",
    runbook: Runbook {
        means: "The cache saves little work: most questions go on to the database or the model.",
        confirm: "redis-cli INFO stats | grep keyspace, twice a minute apart: hits / (hits + misses) of the difference",
        act: "Do not flush: an empty cache hits nothing, and every client falls on the database at once. Look for what \
              changed: a deployment with new key names, times to live that are too short, evictions, or a warm-up after \
              a restart, which passes by itself.",
    },
    source: "INFO stats: keyspace_hits, keyspace_misses, between two readings",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 80.0,
            unit: Unit::Percent,
            why: "the operations guide's target for a cache in front of a database",
        },
        Threshold {
            name: "critical",
            default: 50.0,
            unit: Unit::Percent,
            why: "below one half the cache costs more round trips than it saves",
        },
        Threshold {
            name: "minimum_lookups",
            default: 1_000.0,
            unit: Unit::Count,
            why: "in one interval; of fewer lookups the rate is chance",
        },
    ],
    hold: Hold::minutes(10.0, 10.0),
    judge: Judge::Redis(hit_rate_low),
};

fn hit_rate_low(sight: &Sight<'_, Redis>) -> Judged {
    let interval = interval(sight, "the hit rate")?;
    let hits = interval.grown(|stats| stats.hits)? as f64;
    let misses = interval.grown(|stats| stats.misses)? as f64;
    let lookups = hits + misses;
    if lookups < sight.limit("minimum_lookups").max(1.0) {
        return Ok(Vec::new());
    }
    let rate = hits / lookups * 100.0;
    let Some((severity, limit)) = sight.graded_below(rate) else { return Ok(Vec::new()) };
    let (value, limit) = measured(rate, limit, Unit::Percent);
    Ok(vec![
        Draft::new(
            severity,
            format!(
                "{} of {} lookups found their key",
                format_number(rate, Unit::Percent),
                format_number(lookups, Unit::Count)
            ),
        )
        .against("hit rate since the last reading", value, limit, "INFO stats: keyspace_hits, keyspace_misses")
        .saw("lookups since the last reading", Value::count(lookups), "INFO stats: keyspace_hits, keyspace_misses")
        .fix(
            "do not flush, that makes it worse; compare key names and times to live with the last deployment, and look \
             at evictions: redis-cli INFO stats | grep -E 'evicted|expired'",
        ),
    ])
}

pub static EVICTIONS_HIGH: Check = Check {
    id: "redis.evictions_high",
    title: "Redis evicts keys faster than a cache should",
    runbook: Runbook {
        means: "The memory is too small for what is in use: keys are thrown out before they are asked for again.",
        confirm: "redis-cli INFO stats | grep evicted_keys, twice a minute apart",
        act: "Raise maxmemory if the machine has room; make values smaller; shorten times to live so that old keys go \
              first; move another user of this Redis elsewhere. Do not flush.",
    },
    source: "INFO stats: evicted_keys between two readings; INFO keyspace: keys",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 10.0,
            unit: Unit::PerSecond,
            why: "600 a minute; slower evictions are how a full cache makes room for the day's new keys",
        },
        Threshold {
            name: "turnover",
            default: 3_600.0,
            unit: Unit::Seconds,
            why: "evictions hurt when they would replace all keys within this time: a cache whose keys live for less \
                  than an hour holds too little, while a large one may evict thousands a second and still hit",
        },
    ],
    hold: Hold::minutes(5.0, 5.0),
    judge: Judge::Redis(evictions_high),
};

fn evictions_high(sight: &Sight<'_, Redis>) -> Judged {
    let interval = interval(sight, "the rate of evictions")?;
    let evicted = interval.grown(|stats| stats.evicted)? as f64;
    let rate = evicted / interval.seconds;
    let Some((severity, limit)) = sight.graded(rate) else { return Ok(Vec::new()) };
    // Where the number of keys is not known, the rate alone decides.
    let turnover = sight.seen.keys.as_ref().map_or(0.0, |keys| keys.total as f64 / rate);
    if turnover > sight.limit("turnover") {
        return Ok(Vec::new());
    }
    let (value, limit) = measured(rate, limit, Unit::PerSecond);
    let mut draft = Draft::new(severity, format!("Redis evicts {} keys a second", format_number(rate, Unit::Count)))
        .against("evictions", value, limit, "INFO stats: evicted_keys");
    if turnover > 0.0 {
        draft.summary = format!("{}: all keys would be replaced within {}", draft.summary, format_seconds(turnover));
        draft = draft.against(
            "time in which all keys are replaced",
            Value::seconds(turnover),
            Value::seconds(sight.limit("turnover")),
            "INFO keyspace: keys / evictions",
        );
    }
    if let Ok(memory) = &sight.seen.memory {
        draft = draft.saw("maxmemory", Value::bytes(memory.max), "INFO memory: maxmemory");
    }
    Ok(vec![draft.fix("raise maxmemory (CONFIG SET maxmemory …, then CONFIG REWRITE), or store less; do not flush")])
}

pub static REJECTED_CONNECTIONS: Check = Check {
    id: "redis.rejected_connections",
    title: "Redis turned clients away",
    runbook: Runbook {
        means: "maxclients was reached: new clients get an error instead of a connection.",
        confirm: "redis-cli INFO stats | grep rejected_connections; redis-cli CLIENT LIST | wc -l",
        act: "Group CLIENT LIST by name and address to find who holds the connections; mend the client that opens one \
              per request. Then raise maxclients, together with the open files limit of the service.",
    },
    source: "INFO stats: rejected_connections between two readings",
    thresholds: &[],
    hold: Hold::minutes(0.0, 5.0),
    judge: Judge::Redis(rejected_connections),
};

fn rejected_connections(sight: &Sight<'_, Redis>) -> Judged {
    let rejected = interval(sight, "the number of rejected connections")?.grown(|stats| stats.rejected_connections)?;
    if rejected == 0 {
        return Ok(Vec::new());
    }
    let mut draft = Draft::new(
        Severity::Critical,
        format!("Redis turned away {rejected} connections since the last reading"),
    )
    .saw("rejected since the last reading", Value::count(rejected as f64), "INFO stats: rejected_connections");
    if let Ok(clients) = &sight.seen.clients {
        draft = draft.saw("connected now", Value::count(clients.connected as f64), "INFO clients: connected_clients");
        if let Some(max) = clients.max {
            draft = draft.saw("allowed", Value::count(max as f64), "INFO clients: maxclients");
        }
    }
    Ok(vec![draft.fix("redis-cli CLIENT LIST to find who holds them; then CONFIG SET maxclients to more")])
}

pub static COMMAND_ERRORS: Check = Check {
    id: "redis.command_errors",
    title: "Redis refuses commands",
    runbook: Runbook {
        means: "Clients get errors instead of answers because of the state of the server, not because of a wrong command.",
        confirm: "redis-cli INFO errorstats",
        act: "READONLY: a client writes to a replica; point it to the primary. MISCONF: the disk did not take a \
              snapshot. NOREPLICAS: too few replicas are connected for min-replicas-to-write. CLUSTERDOWN: slots have no \
              owner, see CLUSTER INFO. BUSY: a script runs too long, SCRIPT KILL ends it if it did not write.",
    },
    source: "INFO errorstats (6.2 and later) between two readings",
    thresholds: &[Threshold {
        name: "warning",
        default: 1.0,
        unit: Unit::Count,
        why: "since the last reading; a healthy server gives none of these, and the hold lets a failover pass",
    }],
    hold: Hold::minutes(1.0, 5.0),
    judge: Judge::Redis(command_errors),
};

/// Errors that speak of the server's state. OOM is the memory check's; LOADING and MASTERDOWN are those of their own
/// checks; WRONGTYPE and the like are the program's affair.
const STATE_ERRORS: [&str; 5] = ["READONLY", "MISCONF", "NOREPLICAS", "CLUSTERDOWN", "BUSY"];

fn command_errors(sight: &Sight<'_, Redis>) -> Judged {
    if !counts_errors(&sight.seen.version) {
        return Err(Unknown {
            kind: UnknownKind::NotRead,
            reason: format!("Redis {} does not count errors by kind; 6.2 and later do", sight.seen.version),
        });
    }
    let interval = interval(sight, "the number of errors")?;
    let save_fails = sight.seen.persistence.as_ref().is_ok_and(super::durability::refuses_writes);
    let mut grown = Vec::new();
    for code in STATE_ERRORS {
        let count = interval.errors_grown(code)?;
        // A save that fails explains its MISCONF errors: save_failing is the finding.
        if count > 0 && !(code == "MISCONF" && save_fails) {
            grown.push((code, count));
        }
    }
    let total = grown.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count)) as f64;
    let Some((severity, limit)) = sight.graded(total) else { return Ok(Vec::new()) };
    let (value, limit) = measured(total, limit, Unit::Count);
    let list: Vec<String> = grown.iter().map(|(code, count)| format!("{count} {code}")).collect();
    let mut draft = Draft::new(severity, format!("Redis refused commands since the last reading: {}", list.join(", ")))
        .against("refused commands", value, limit, "INFO errorstats");
    for (code, count) in grown {
        draft = draft.saw(code, Value::count(count as f64), format!("INFO errorstats: errorstat_{code}"));
    }
    Ok(vec![draft.fix("redis-cli INFO errorstats, then the runbook's line for the error that grows")])
}

/// 6.2 and later; a version that cannot be read is taken for a new one.
fn counts_errors(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 2),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, first, healthy, healthy_before, judged, one, status};
    use super::*;
    use crate::observation::{Gap, Keys, RedisStats};

    fn with_stats(change: impl FnOnce(&mut RedisStats)) -> Redis {
        let mut seen = healthy();
        change(seen.stats.as_mut().unwrap());
        seen
    }

    fn found(seen: Redis) -> Vec<(String, Severity)> {
        failing(&judged(Some(healthy_before()), seen))
    }

    #[test]
    fn a_low_hit_rate_is_graded_and_needs_lookups() {
        assert_eq!(found(with_stats(|stats| stats.misses += 5_000)), one("redis.hit_rate_low", Severity::Warning));
        assert_eq!(found(with_stats(|stats| stats.misses += 500_000)), one("redis.hit_rate_low", Severity::Critical));
        let before = healthy_before().stats.unwrap();
        let few = with_stats(|stats| (stats.hits, stats.misses) = (before.hits, before.misses + 999));
        assert_eq!(found(few), []);
        let none = with_stats(|stats| (stats.hits, stats.misses) = (before.hits, before.misses));
        assert_eq!(found(none), []);
    }

    #[test]
    fn evictions_count_when_they_turn_the_cache_over() {
        let evicting = |keys: u64| {
            let mut seen = with_stats(|stats| stats.evicted += 60 * 40);
            seen.keys = Ok(Keys { total: keys, expiring: keys / 2 });
            seen
        };
        assert_eq!(found(evicting(10_000)), one("redis.evictions_high", Severity::Warning));
        assert_eq!(found(evicting(0)), one("redis.evictions_high", Severity::Warning));
        assert_eq!(found(evicting(10_000_000)), []);
        assert_eq!(found(with_stats(|stats| stats.evicted += 60 * 9)), []);
        let mut unknown_keys = evicting(1);
        unknown_keys.keys = Err(Gap::permission("no"));
        assert_eq!(found(unknown_keys), one("redis.evictions_high", Severity::Warning));
    }

    #[test]
    fn a_full_cache_that_evicts_fast_is_exactly_one_finding() {
        let mut seen = with_stats(|stats| stats.evicted += 60 * 400);
        let memory = seen.memory.as_mut().unwrap();
        (memory.used, memory.resident) = (memory.max, memory.max);
        assert_eq!(found(seen), one("redis.evictions_high", Severity::Warning));
    }

    #[test]
    fn one_rejected_connection_is_enough() {
        let seen = with_stats(|stats| stats.rejected_connections += 1);
        assert_eq!(found(seen), one("redis.rejected_connections", Severity::Critical));
    }

    #[test]
    fn errors_of_the_server_s_state_are_named() {
        let erring = |code: &str| with_stats(|stats| stats.errors.push((code.into(), 12)));
        assert_eq!(found(erring("READONLY")), one("redis.command_errors", Severity::Warning));
        assert_eq!(found(erring("WRONGTYPE")), []);
        assert_eq!(found(erring("LOADING")), []);
        let mut misconf = erring("MISCONF");
        assert_eq!(found(misconf.clone()), one("redis.command_errors", Severity::Warning));
        misconf.persistence.as_mut().unwrap().last_save_ok = false;
        assert_eq!(found(misconf), one("redis.save_failing", Severity::Critical));
        let mut old = erring("READONLY");
        old.version = "6.0.16".into();
        assert_eq!(status(&judged(Some(healthy_before()), old), "redis.command_errors"), "unknown");
    }

    #[test]
    fn rates_are_unknown_on_the_first_reading_and_after_a_restart() {
        let rates =
            ["redis.hit_rate_low", "redis.evictions_high", "redis.rejected_connections", "redis.command_errors"];
        let mut restarted = healthy();
        restarted.uptime = 7.0;
        // More than before although it restarted: the subtraction would look plausible and be wrong.
        let busy = Redis { uptime: 7.0, ..with_stats(|stats| stats.evicted += 1_000_000) };
        let long_ago = Redis { run_id: "another".into(), ..healthy() };
        let reset = with_stats(|stats| *stats = RedisStats { errors: vec![], ..zero() });
        for (judgements, checks) in [
            (first(healthy()), &rates[..]),
            (judged(Some(healthy_before()), restarted), &rates[..]),
            (judged(Some(healthy_before()), busy), &rates[..]),
            (judged(Some(healthy_before()), long_ago), &rates[..]),
            (judged(Some(healthy_before()), reset), &rates[..3]),
        ] {
            assert_eq!(failing(&judgements), []);
            for check in checks {
                assert_eq!(status(&judgements, check), "unknown", "{check}");
            }
        }
    }

    fn zero() -> RedisStats {
        RedisStats {
            hits: 0,
            misses: 0,
            evicted: 0,
            expired: 0,
            rejected_connections: 0,
            commands: 0,
            errors: Vec::new(),
        }
    }
}
