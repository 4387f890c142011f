//! Is it there, and does it answer in time?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold};
use crate::finding::Draft;
use crate::observation::{Failure, FailureKind, Postgres};
use crate::quantity::{Unit, Value, format_number};
use crate::severity::Severity;
use crate::system::SystemKind;

pub static UNREACHABLE: Check = Check {
    id: "postgres.unreachable",
    title: "Postgres does not answer",
    runbook: Runbook {
        means: "Nothing that needs the database works: documents cannot be stored, and questions cannot be answered \
                from them. Every other check of this server is unknown until it answers.",
        confirm: "psql \"host=HOST port=5432 dbname=DATABASE user=USER connect_timeout=5\" -c 'SELECT 1'",
        act: "Read the error: it says whether nobody listens, the login is refused, the connections are used up or the \
              network drops packets. Look at the server's log (journalctl -u postgresql, kubectl logs), then at its \
              disk (a full disk stops Postgres), then start it. Do not delete files from the data directory.",
    },
    source: "one connection, login and SELECT",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Reach(SystemKind::Postgres, unreachable),
};

fn unreachable(failure: &Failure) -> Draft {
    let Failure { kind, message, address } = failure;
    Draft::new(Severity::Critical, format!("Postgres at {address} does not answer: {message}"))
        .saw("error", Value::text(message.clone()), "the connection attempt")
        .saw("asked", Value::text(address.clone()), "the configuration")
        .fix(way_back(*kind, address))
}

fn way_back(kind: FailureKind, address: &str) -> String {
    match kind {
        FailureKind::Refused => format!(
            "Nobody listens at {address}. Start the server (systemctl start postgresql, or bring its pod back); if it \
             runs, compare listen_addresses and port in postgresql.conf with this address."
        ),
        FailureKind::UnknownHost => format!(
            "The host name in {address} does not resolve. Correct it in the configuration, or mend DNS: \
             getent hosts HOST must give an address on this machine."
        ),
        FailureKind::Timeout => format!(
            "{address} gave no answer in time. If pg_isready hangs too, a firewall drops the packets or the machine \
             is overloaded or gone; if it answers, the server is too busy: look at its load and its disk."
        ),
        FailureKind::Denied => format!(
            "The server at {address} is up and refuses our login. Check the password, that the role exists and may \
             log in (\\du), that the database exists (\\l), and that pg_hba.conf allows this role from this address; \
             then SELECT pg_reload_conf()."
        ),
        FailureKind::Exhausted => format!(
            "All connection slots of {address} are in use. Log in as a superuser (slots are reserved for it) and see \
             who has them: SELECT usename, application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3 \
             ORDER BY 4 DESC; stop or restart the client that leaks, and put a pooler or a smaller pool in front. \
             Raising max_connections needs a restart and more memory."
        ),
        FailureKind::Tls => format!(
            "No trusted encryption with {address}. Check sslmode and sslrootcert in our URL, and ssl, ssl_cert_file and \
             the certificate's names and dates on the server: openssl s_client -starttls postgres -connect HOST:PORT"
        ),
        FailureKind::NotReady => format!(
            "The server at {address} is starting, stopping or recovering. Wait and watch its log: recovery after a \
             crash can take minutes. If it stays so, the log names what is missing."
        ),
        FailureKind::Interrupted => format!(
            "The connection to {address} was cut. Look in the server's log for a crash, an out-of-memory kill \
             (dmesg), an administrator's command or a restart at this minute; a pooler or load balancer in between may \
             also have closed it."
        ),
        FailureKind::Missing => format!(
            "The socket or file that {address} names is not there or not readable. Check the path and its permissions; \
             the server creates its socket in unix_socket_directories."
        ),
        FailureKind::Protocol => format!(
            "What answers at {address} does not speak the Postgres protocol as expected. Check host and port: another \
             service may listen there."
        ),
    }
}

pub static SLOW_TO_ANSWER: Check = Check {
    id: "postgres.slow_to_answer",
    title: "Postgres is slow to accept a connection",
    runbook: Runbook {
        means: "A new connection, its login and one trivial question take long. Every client that does not keep its \
                connections pays this on every request, and the cause usually slows everything else too.",
        confirm: "time psql \"host=HOST dbname=DATABASE user=USER\" -c 'SELECT 1'",
        act: "Look at the load and the disk wait of the server's machine, then at the number of active sessions: \
              SELECT state, wait_event_type, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC. Slow name \
              resolution (log_hostname, DNS) and a network far away show up here as well.",
    },
    source: "time for connection, login and one round trip",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 0.5,
            unit: Unit::Seconds,
            why: "a connection on the same network takes about 10 ms with SCRAM; half a second is what a person notices",
        },
        Threshold {
            name: "critical",
            default: 2.0,
            unit: Unit::Seconds,
            why: "clients with a connect timeout of a few seconds begin to fail",
        },
    ],
    hold: Hold::minutes(2.0, 2.0),
    judge: Judge::Postgres(slow_to_answer),
};

fn slow_to_answer(sight: &Sight<'_, Postgres>) -> Judged {
    let Some((severity, limit)) = sight.graded(sight.latency) else { return Ok(Vec::new()) };
    let took = format_number(sight.latency, Unit::Seconds);
    let draft = Draft::new(severity, format!("Postgres took {took} to accept a connection and answer once"))
        .against("connection, login and one answer", Value::seconds(sight.latency), Value::seconds(limit), "the clock")
        .fix(
            "See what the server is busy with: SELECT state, wait_event_type, wait_event, count(*) FROM \
             pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1, 2, 3 ORDER BY 4 DESC; then look at load \
             and disk wait of its machine (uptime, iostat -x 1).",
        );
    Ok(vec![draft])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::postgres::fixtures::{finding, found, healthy, judged, minute_before, reading};
    use crate::check::{Status, UnknownKind};
    use crate::observation::{Observation, Reading};

    fn failed(kind: FailureKind) -> Observation {
        let failure = Failure { kind, message: "it failed".into(), address: "10.0.0.9:5432/docrag".into() };
        Observation::Postgres(Reading { outcome: Err(failure), ..reading(healthy()) })
    }

    #[test]
    fn a_server_that_does_not_answer_is_one_finding_and_the_rest_is_unknown() {
        let judgements = judged(&failed(FailureKind::Refused), None);
        let found: Vec<_> = judgements.iter().filter(|j| matches!(j.status, Status::Failing { .. })).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].check, "postgres.unreachable");
        for judgement in judgements.iter().filter(|j| j.check != "postgres.unreachable") {
            assert!(
                matches!(&judgement.status, Status::Unknown(unknown) if unknown.kind == UnknownKind::NoAnswer),
                "{} is {:?}",
                judgement.check,
                judgement.status
            );
        }
    }

    #[test]
    fn the_next_step_fits_the_kind_of_failure_and_names_the_address() {
        for (kind, word) in [
            (FailureKind::Refused, "listen_addresses"),
            (FailureKind::UnknownHost, "resolve"),
            (FailureKind::Timeout, "firewall"),
            (FailureKind::Denied, "pg_hba.conf"),
            (FailureKind::Exhausted, "connection slots"),
            (FailureKind::Tls, "sslmode"),
            (FailureKind::NotReady, "starting"),
            (FailureKind::Interrupted, "out-of-memory"),
            (FailureKind::Missing, "socket"),
            (FailureKind::Protocol, "protocol"),
        ] {
            let draft = unreachable(failed(kind).failure().unwrap());
            assert!(draft.fix.contains(word), "{kind:?}: {}", draft.fix);
            assert!(draft.fix.contains("10.0.0.9") && draft.severity == Severity::Critical);
        }
    }

    #[test]
    fn a_slow_login_is_a_warning_and_a_very_slow_one_critical() {
        for (latency, severity) in [(0.5, Severity::Warning), (2.0, Severity::Critical)] {
            let slow = Observation::Postgres(Reading { latency, ..reading(healthy()) });
            let finding = finding("postgres.slow_to_answer", found(&slow, Some(&minute_before(healthy()))));
            assert_eq!(finding.severity, severity);
        }
        let quick = Observation::Postgres(Reading { latency: 0.499, ..reading(healthy()) });
        assert_eq!(found(&quick, None), []);
    }
}
