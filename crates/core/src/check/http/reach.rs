//! Is anybody there?

use crate::check::{Check, Hold, Judge, Runbook};
use crate::finding::Draft;
use crate::observation::{Failure, FailureKind};
use crate::quantity::Value;
use crate::severity::Severity;
use crate::system::SystemKind;

pub static UNREACHABLE: Check = Check {
    id: "http.unreachable",
    title: "The endpoint cannot be reached",
    runbook: Runbook {
        means: "Users get no answer at all from this address.",
        confirm: "curl -v --max-time 10 URL",
        act: "Follow the fix of the finding: it depends on how the connection failed.",
    },
    source: "GET of the URL: name, connection, TLS, head of the response",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Reach(SystemKind::Http, unreachable),
};

fn unreachable(failure: &Failure) -> Draft {
    let (what, fix) = match failure.kind {
        FailureKind::Refused => {
            ("refuses connections", "start the service, or correct the port; ss -ltn shows who listens where")
        }
        FailureKind::UnknownHost => (
            "has a name that does not resolve",
            "correct the name or its DNS record; compare: dig NAME, and dig @1.1.1.1 NAME",
        ),
        FailureKind::Timeout => (
            "does not answer in time",
            "see whether the process hangs (its CPU, threads, connections to its database), then look for a firewall \
             that drops packets",
        ),
        FailureKind::Denied => ("refuses us", "check the credentials of this endpoint in groundskeeper.toml"),
        FailureKind::Exhausted => {
            ("has no connection left", "raise the limit of the server or the proxy, or add a replica")
        }
        FailureKind::Tls => (
            "cannot be talked to over TLS",
            "openssl s_client -connect HOST:PORT -servername HOST shows what the server offers; TLS 1.2 is the least \
             that we accept",
        ),
        FailureKind::NotReady => ("is not ready", "wait for its start; read its log"),
        FailureKind::Interrupted => (
            "ended the connection before it answered",
            "read the log of the service and of the proxy before it for a crash or a restart",
        ),
        FailureKind::Missing => ("is not there", "correct the URL"),
        FailureKind::Protocol => (
            "gives answers that are not HTTP",
            "another service listens there, or http and https are mixed up: correct the URL",
        ),
    };
    Draft::new(Severity::Critical, format!("{} {what}: {}", failure.address, failure.message))
        .saw("failure", Value::text(failure.message.clone()), format!("GET {}", failure.address))
        .fix(fix)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, one, unreached};
    use super::*;

    #[test]
    fn an_endpoint_that_does_not_answer_is_one_finding_and_all_else_is_unknown() {
        for kind in [FailureKind::Refused, FailureKind::UnknownHost, FailureKind::Timeout, FailureKind::Tls] {
            let judgements = unreached(kind);
            assert_eq!(failing(&judgements), one("http.unreachable", Severity::Critical));
            assert!(judgements.iter().skip(1).all(|judgement| judgement.status.as_str() == "unknown"));
        }
    }
}
