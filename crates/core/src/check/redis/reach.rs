//! Is it there, and how quickly does it answer?

#![allow(clippy::unnecessary_wraps, reason = "every judging function has one type, also those that always know")]

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::Draft;
use crate::observation::{Failure, FailureKind, Redis};
use crate::quantity::{Unit, Value, format_seconds};
use crate::severity::Severity;
use crate::system::SystemKind;

pub static UNREACHABLE: Check = Check {
    id: "redis.unreachable",
    title: "Redis cannot be reached",
    runbook: Runbook {
        means: "Nothing that needs this Redis works: caches miss, sessions are lost, rate limits and queues stand still.",
        confirm: "redis-cli -u redis://HOST:PORT PING must answer PONG.",
        act: "Follow the fix of the finding: it depends on how the connection failed. Do not delete the data files: \
              they are what Redis starts from.",
    },
    source: "connect, AUTH, INFO",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Reach(SystemKind::Redis, unreachable),
};

fn unreachable(failure: &Failure) -> Draft {
    let (what, fix) = match failure.kind {
        FailureKind::Refused => (
            "refuses connections",
            "nobody listens there: start Redis (systemctl start redis-server) and read its log for why it stopped; \
             check `bind` and `port` in redis.conf",
        ),
        FailureKind::UnknownHost => ("has a name that does not resolve", "correct the host name, or mend DNS"),
        FailureKind::Timeout => (
            "does not answer in time",
            "check for a firewall that drops packets, then for a Redis that is blocked: `top` for its CPU, \
             `redis-cli SLOWLOG GET 10` for a slow command, the disk for a stalled AOF fsync",
        ),
        FailureKind::Denied => (
            "refuses our login",
            "set the right password (and user) for this system in groundskeeper.toml; the user needs INFO: \
             ACL SETUSER groundskeeper on >PASSWORD +info +ping +config|get",
        ),
        FailureKind::Exhausted => (
            "has no connection left",
            "find who holds them: redis-cli CLIENT LIST; mend the client that leaks, or raise maxclients \
             (and the open files limit of the service)",
        ),
        FailureKind::Tls => (
            "cannot be talked to over TLS",
            "compare the scheme (redis:// or rediss://) with the port, and check the certificate: \
             openssl s_client -connect HOST:PORT",
        ),
        FailureKind::NotReady => ("is not ready", "wait until it has loaded its data; its log shows the progress"),
        FailureKind::Interrupted => (
            "ended the connection",
            "read its log: a crash, the kernel's OOM killer (dmesg | grep -i oom), or a proxy in between",
        ),
        FailureKind::Missing => ("has no socket there", "correct the path of the socket, or start Redis"),
        FailureKind::Protocol => {
            ("gives answers that are not Redis", "another service listens there: correct the host and the port")
        }
    };
    Draft::new(Severity::Critical, format!("Redis at {} {what}: {}", failure.address, failure.message))
        .saw("failure", Value::text(failure.message.clone()), format!("connect to {}", failure.address))
        .fix(fix)
}

pub static SLOW_TO_ANSWER: Check = Check {
    id: "redis.slow_to_answer",
    title: "Redis is slow to answer",
    runbook: Runbook {
        means: "Every request that uses this Redis waits as long. Redis serves one command at a time: one slow command \
                delays all clients.",
        confirm: "redis-cli --latency -i 5; redis-cli SLOWLOG GET 10",
        act: "Find the slow command in the slow log (KEYS, large HGETALL or LRANGE, long scripts) and replace it (SCAN, \
              smaller pages). If there is none, look at swapping, at fork times (latest_fork_usec) and at the network.",
    },
    source: "time to connect, log in and be answered once",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 0.1,
            unit: Unit::Seconds,
            why: "a command takes well under 1 ms (Coroot warns at 5 ms a command), but this time includes connecting \
                  and TLS; 0.1 s is more than both need across one region",
        },
        Threshold {
            name: "critical",
            default: 1.0,
            unit: Unit::Seconds,
            why: "many clients give up after 1 s, and a cache that slow is slower than what it caches",
        },
    ],
    hold: Hold::minutes(2.0, 2.0),
    judge: Judge::Redis(slow_to_answer),
};

fn slow_to_answer(sight: &Sight<'_, Redis>) -> Judged {
    let Some((severity, limit)) = sight.graded(sight.latency) else { return Ok(Vec::new()) };
    let (value, limit) = measured(sight.latency, limit, Unit::Seconds);
    Ok(vec![
        Draft::new(severity, format!("Redis took {} to connect and answer", format_seconds(sight.latency)))
            .against("time to answer", value, limit, "connect, AUTH, INFO")
            .fix("redis-cli SLOWLOG GET 10, and replace the command that it shows"),
    ])
}

pub static LOADING: Check = Check {
    id: "redis.loading",
    title: "Redis is loading its data",
    runbook: Runbook {
        means: "Almost every command is refused with LOADING until the data is in memory: after a start, or while a \
                replica takes in a fresh copy.",
        confirm: "redis-cli INFO persistence | grep loading",
        act: "Wait; loading_eta_seconds says how long. If it starts over and over, the process is being killed while \
              it loads: read its log and dmesg, and check the memory limit and the liveness probe.",
    },
    source: "INFO persistence: loading",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Redis(loading),
};

fn loading(sight: &Sight<'_, Redis>) -> Judged {
    if !sight.seen.persistence.as_ref()?.loading {
        return Ok(Vec::new());
    }
    Ok(vec![
        Draft::new(Severity::Warning, "Redis is loading its data and refuses most commands")
            .saw("loading", Value::count(1), "INFO persistence: loading")
            .saw("uptime", Value::seconds(sight.seen.uptime), "INFO server: uptime_in_seconds")
            .fix("wait until loading is done; redis-cli INFO persistence | grep loading_eta_seconds"),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, healthy, healthy_before, judged, late, one, unreached};
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_one_finding_and_all_else_is_unknown() {
        for kind in [
            FailureKind::Refused,
            FailureKind::UnknownHost,
            FailureKind::Timeout,
            FailureKind::Denied,
            FailureKind::Exhausted,
            FailureKind::Tls,
            FailureKind::NotReady,
            FailureKind::Interrupted,
            FailureKind::Missing,
            FailureKind::Protocol,
        ] {
            let judgements = unreached(kind);
            assert_eq!(failing(&judgements), [("redis.unreachable".to_owned(), Severity::Critical)]);
            assert!(judgements.iter().skip(1).all(|judgement| judgement.status.as_str() == "unknown"));
        }
    }

    #[test]
    fn a_slow_answer_is_graded() {
        assert_eq!(failing(&late(0.099)), []);
        assert_eq!(failing(&late(0.1)), one("redis.slow_to_answer", Severity::Warning));
        assert_eq!(failing(&late(2.0)), one("redis.slow_to_answer", Severity::Critical));
    }

    #[test]
    fn loading_is_one_finding() {
        let mut seen = healthy();
        seen.persistence.as_mut().unwrap().loading = true;
        assert_eq!(failing(&judged(Some(healthy_before()), seen)), one("redis.loading", Severity::Warning));
    }
}
