//! Does the certificate hold, and for how long?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold};
use crate::finding::Draft;
use crate::observation::{Http, Tls};
use crate::quantity::{Unit, Value, format_number, seconds_between};
use crate::severity::Severity;
use jiff::Timestamp;

const DAY: f64 = 86_400.0;

pub static CERTIFICATE_EXPIRING: Check = Check {
    id: "http.certificate_expiring",
    title: "The certificate expires soon",
    runbook: Runbook {
        means: "From the day of expiry every client refuses the connection.",
        confirm: "openssl s_client -connect HOST:443 -servername HOST </dev/null 2>/dev/null | openssl x509 -noout -dates",
        act: "See why it was not renewed: the log of certbot, cert-manager or the proxy; DNS and port 80 for the \
              challenge; limits of the authority. A renewed certificate must also be loaded: reload the server and \
              look again.",
    },
    source: "the certificate that the server shows: notBefore, notAfter",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 21.0,
            unit: Unit::Days,
            why: "ACME clients renew a 90-day certificate 30 days before its end: at 21 they have failed for nine days. \
                  Of a shorter certificate a quarter of its life counts",
        },
        Threshold {
            name: "critical",
            default: 7.0,
            unit: Unit::Days,
            why: "a week is what a person needs who must ask somebody else. Of a shorter certificate a twelfth of its \
                  life counts",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Http(certificate_expiring),
};

fn expired(tls: &Tls, now: Timestamp) -> bool {
    now >= tls.not_after
}

fn certificate_expiring(sight: &Sight<'_, Http>) -> Judged {
    let Some(tls) = &sight.seen.tls else { return Ok(Vec::new()) };
    let days_left = seconds_between(sight.now, tls.not_after) / DAY;
    let lifetime = (seconds_between(tls.not_before, tls.not_after) / DAY).max(0.0);
    let critical = sight.limit("critical").min(lifetime / 12.0);
    let warning = sight.limit("warning").min(lifetime / 4.0);
    let (severity, limit) = if expired(tls, sight.now) || days_left < critical {
        (Severity::Critical, critical)
    } else if days_left < warning {
        (Severity::Warning, warning)
    } else {
        return Ok(Vec::new());
    };
    let summary = if expired(tls, sight.now) {
        format!("The certificate of {} expired {} ago", sight.seen.url, format_number(-days_left, Unit::Days))
    } else {
        format!("The certificate of {} expires in {}", sight.seen.url, format_number(days_left, Unit::Days))
    };
    let source = format!("certificate shown by {}", sight.seen.url);
    Ok(vec![
        Draft::new(severity, summary)
            .against(
                "days left",
                Value::number(days_left, Unit::Days),
                Value::number(limit, Unit::Days),
                source.clone(),
            )
            .saw("expires", Value::Time { at: tls.not_after }, source.clone())
            .saw("subject", Value::text(tls.subject.clone()), source.clone())
            .saw("issuer", Value::text(tls.issuer.clone()), source)
            .fix("renew it (certbot renew, or kubectl describe certificate), reload the server, and look again"),
    ])
}

pub static CERTIFICATE_UNTRUSTED: Check = Check {
    id: "http.certificate_untrusted",
    title: "The certificate is not trusted",
    runbook: Runbook {
        means: "Browsers and clients refuse the connection or warn their users.",
        confirm: "curl -v --max-time 10 URL 2>&1 | grep -iE 'certificate|SSL'",
        act: "Unknown issuer: the server does not send its intermediate certificates, or a private authority signed it; \
              name that authority's file for this endpoint in groundskeeper.toml. Wrong name: the certificate lacks \
              this host among its alternative names.",
    },
    source: "verification of the certificate against the system's authorities and the host name",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Http(certificate_untrusted),
};

fn certificate_untrusted(sight: &Sight<'_, Http>) -> Judged {
    let Some(tls) = &sight.seen.tls else { return Ok(Vec::new()) };
    let Some(reason) = tls.untrusted.as_ref().filter(|_| !expired(tls, sight.now)) else { return Ok(Vec::new()) };
    let source = format!("certificate shown by {}", sight.seen.url);
    Ok(vec![
        Draft::new(Severity::Critical, format!("Clients do not trust the certificate of {}: {reason}", sight.seen.url))
            .saw("reason", Value::text(reason.clone()), source.clone())
            .saw("subject", Value::text(tls.subject.clone()), source.clone())
            .saw("issuer", Value::text(tls.issuer.clone()), source)
            .fix("let the server send the full chain for this host name, or name the private authority in the configuration"),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, healthy, judged, now, one};
    use super::*;
    use crate::quantity::after;

    fn found(lifetime: f64, left: f64, untrusted: Option<&str>) -> Vec<(String, Severity)> {
        let mut seen = healthy();
        let tls = seen.tls.as_mut().unwrap();
        tls.not_after = after(now(), left * DAY);
        tls.not_before = after(tls.not_after, -lifetime * DAY);
        tls.untrusted = untrusted.map(str::to_owned);
        failing(&judged(seen))
    }

    #[test]
    fn days_left_are_graded() {
        assert_eq!(found(90.0, 30.0, None), []);
        assert_eq!(found(90.0, 20.0, None), one("http.certificate_expiring", Severity::Warning));
        assert_eq!(found(365.0, 6.0, None), one("http.certificate_expiring", Severity::Critical));
    }

    #[test]
    fn a_short_lived_certificate_is_judged_by_its_own_life() {
        assert_eq!(found(6.0, 3.0, None), []);
        assert_eq!(found(6.0, 1.0, None), one("http.certificate_expiring", Severity::Warning));
        assert_eq!(found(6.0, 0.2, None), one("http.certificate_expiring", Severity::Critical));
        assert_eq!(found(0.0, 3.0, None), []);
    }

    #[test]
    fn an_expired_certificate_is_one_finding_whatever_the_verification_says() {
        for reason in [None, Some("certificate expired"), Some("unknown issuer")] {
            assert_eq!(found(90.0, -0.5, reason), one("http.certificate_expiring", Severity::Critical));
        }
        assert_eq!(found(90.0, 0.0, None), one("http.certificate_expiring", Severity::Critical));
    }

    #[test]
    fn an_untrusted_certificate_is_one_finding() {
        assert_eq!(found(90.0, 60.0, Some("unknown issuer")), one("http.certificate_untrusted", Severity::Critical));
    }

    #[test]
    fn plain_http_has_no_certificate_to_judge() {
        let mut seen = healthy();
        seen.tls = None;
        assert_eq!(failing(&judged(seen)), []);
    }
}
