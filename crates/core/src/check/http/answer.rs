//! Is the answer right, and does it come in time?

use super::status_is_good;
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::Draft;
use crate::observation::Http;
use crate::quantity::{Unit, Value, format_seconds};
use crate::severity::Severity;

pub static STATUS_UNEXPECTED: Check = Check {
    id: "http.status_unexpected",
    title: "The endpoint answers with the wrong status",
    runbook: Runbook {
        means: "The service is there but fails: users get an error page or an error body.",
        confirm: "curl -i --max-time 10 URL",
        act: "5xx: read the log of the service at the time of the finding. 502, 503, 504: the proxy does not get an \
              answer from the service behind it. 401, 403: the credentials of the check. 404: the path of the check.",
    },
    source: "status line of the response",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Http(status_unexpected),
};

fn status_unexpected(sight: &Sight<'_, Http>) -> Judged {
    let seen = sight.seen;
    if status_is_good(seen) {
        return Ok(Vec::new());
    }
    let wanted = if seen.expected.statuses.is_empty() {
        "2xx or 3xx".to_owned()
    } else {
        seen.expected.statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ")
    };
    let source = format!("GET {}", seen.url);
    let mut draft = Draft::new(
        Severity::Critical,
        format!("{} answered {} instead of {wanted}", seen.url, seen.status),
    )
    .against("status", Value::text(seen.status.to_string()), Value::text(wanted), source.clone());
    if !seen.body_start.is_empty() {
        draft = draft.saw("start of the body", Value::text(seen.body_start.clone()), source);
    }
    Ok(vec![draft.fix(match seen.status {
        502..=504 => "the service behind the proxy does not answer: see whether it runs, then read its log",
        500.. => "read the log of the service",
        401 | 403 => "check the credentials that the configuration sends to this endpoint",
        404 | 410 => "check the path, and whether the service was deployed where the proxy looks for it",
        429 => "the service limits us: raise its limit for the check, or check less often",
        _ => "see what the service answers: curl -i URL; then mend it, or the expected statuses in the configuration",
    })])
}

pub static BODY_UNEXPECTED: Check = Check {
    id: "http.body_unexpected",
    title: "The answer does not contain what it should",
    runbook: Runbook {
        means: "The status is good but the content is not: a maintenance page, an empty result, another application.",
        confirm: "curl -s --max-time 10 URL | grep -F 'the expected text'",
        act: "Read the start of the body in the evidence. If the page was changed on purpose, change the expected text \
              in groundskeeper.toml.",
    },
    source: "body of the response, its first 1 MiB",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Http(body_unexpected),
};

fn body_unexpected(sight: &Sight<'_, Http>) -> Judged {
    let seen = sight.seen;
    if seen.body_matches != Some(false) || !status_is_good(seen) {
        return Ok(Vec::new());
    }
    let source = format!("GET {}", seen.url);
    let wanted = seen.expected.body_contains.clone().unwrap_or_default();
    Ok(vec![
        Draft::new(Severity::Critical, format!("The answer of {} does not contain “{wanted}”", seen.url))
            .against("start of the body", Value::text(seen.body_start.clone()), Value::text(wanted), source.clone())
            .saw("size of the body", Value::bytes(seen.body_bytes), source)
            .fix("see what is served: curl -s URL | head; mend the service, or the expected text in the configuration"),
    ])
}

pub static SLOW: Check = Check {
    id: "http.slow",
    title: "The endpoint is slow",
    runbook: Runbook {
        means: "Users wait. The time is that of one request on a new connection, as a new visitor sees it.",
        confirm: "curl -o /dev/null -s -w '%{time_connect} %{time_starttransfer} %{time_total}\\n' URL",
        act: "A late first byte is the service (its database, its model, its CPU); a late end is the size of the answer \
              or the network. Look at what the service waits for before adding replicas.",
    },
    source: "time of the whole request, connection included",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 1.0,
            unit: Unit::Seconds,
            why: "after one second people notice that they wait (Nielsen, Usability Engineering)",
        },
        Threshold {
            name: "critical",
            default: 5.0,
            unit: Unit::Seconds,
            why: "health checks and clients commonly give up between 5 and 10 s",
        },
    ],
    hold: Hold::minutes(1.0, 1.0),
    judge: Judge::Http(slow),
};

fn slow(sight: &Sight<'_, Http>) -> Judged {
    let seen = sight.seen;
    if !status_is_good(seen) {
        return Ok(Vec::new());
    }
    let Some((severity, limit)) = sight.graded(seen.total) else { return Ok(Vec::new()) };
    let (value, limit) = measured(seen.total, limit, Unit::Seconds);
    let source = format!("GET {}", seen.url);
    let fix = if seen.first_byte * 2.0 >= seen.total {
        "the service is late with its first byte: see what it waits for (database, model, CPU, queue)"
    } else {
        "the body takes longest: see its size, compression, and the network between"
    };
    Ok(vec![
        Draft::new(severity, format!("{} took {} to answer", seen.url, format_seconds(seen.total)))
            .against("whole request", value, limit, source.clone())
            .saw("first byte", Value::seconds(seen.first_byte), source)
            .fix(fix),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, healthy, judged, one};
    use super::*;

    fn found(change: impl FnOnce(&mut Http)) -> Vec<(String, Severity)> {
        let mut seen = healthy();
        change(&mut seen);
        failing(&judged(seen))
    }

    #[test]
    fn an_error_is_exactly_one_finding_even_when_it_is_slow_and_has_another_body() {
        let error = |seen: &mut Http| {
            seen.status = 500;
            seen.total = 9.0;
            seen.body_matches = Some(false);
            seen.body_start = "stack trace".into();
        };
        assert_eq!(found(error), one("http.status_unexpected", Severity::Critical));
    }

    #[test]
    fn the_configuration_decides_which_status_is_good() {
        assert_eq!(found(|seen| seen.status = 301), []);
        assert_eq!(found(|seen| (seen.status, seen.expected.statuses) = (401, vec![200, 401])), []);
        let strict = |seen: &mut Http| (seen.status, seen.expected.statuses) = (204, vec![200]);
        assert_eq!(found(strict), one("http.status_unexpected", Severity::Critical));
    }

    #[test]
    fn a_missing_text_is_one_finding() {
        assert_eq!(found(|seen| seen.body_matches = Some(false)), one("http.body_unexpected", Severity::Critical));
        assert_eq!(found(|seen| seen.body_matches = None), []);
    }

    #[test]
    fn slowness_is_graded() {
        assert_eq!(found(|seen| seen.total = 0.99), []);
        assert_eq!(found(|seen| seen.total = 1.0), one("http.slow", Severity::Warning));
        assert_eq!(found(|seen| seen.total = 6.0), one("http.slow", Severity::Critical));
    }
}
