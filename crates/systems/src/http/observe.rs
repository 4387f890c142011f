//! Reading an endpoint: one GET, its times, the start of its body, its certificate.

use super::client::Endpoint;
use super::failure;
use crate::deadline::within;
use groundskeeper_core::observation::{Expected, Failure, Http, Reading, Tls};
use jiff::Timestamp;
use std::time::{Duration, Instant};
use url::Url;

const MOST_BODY: usize = 1 << 20;
const BODY_START: usize = 200;

/// Never an error, never later than the deadline.
pub async fn observe(endpoint: &Endpoint, now: Timestamp, deadline: Duration) -> Reading<Http> {
    let started = Instant::now();
    let outcome = within(deadline, endpoint.address(), read(endpoint, started)).await;
    let took = started.elapsed().as_secs_f64();
    let latency = outcome.as_ref().map_or(took, |seen| seen.first_byte);
    Reading { at: now, latency, took, outcome }
}

async fn read(endpoint: &Endpoint, started: Instant) -> Result<Http, Failure> {
    let failed = |error| failure::of(error, endpoint.address());
    let mut response = endpoint.client.get(endpoint.url.clone()).send().await.map_err(failed)?;
    let first_byte = started.elapsed().as_secs_f64();
    let mut body = Vec::new();
    while body.len() < MOST_BODY {
        let Some(chunk) = response.chunk().await.map_err(failed)? else { break };
        let room = MOST_BODY - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    let total = started.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&body);
    Ok(Http {
        url: endpoint.address().to_owned(),
        status: response.status().as_u16(),
        first_byte,
        total,
        body_bytes: body.len() as u64,
        body_start: start_of(&text),
        body_matches: matches(&endpoint.expected, &text),
        expected: endpoint.expected.clone(),
        tls: certificate(endpoint, response.url()),
    })
}

fn matches(expected: &Expected, body: &str) -> Option<bool> {
    expected.body_contains.as_ref().map(|wanted| body.contains(wanted.as_str()))
}

/// On one line and without control characters: it is shown in terminals and on pages.
fn start_of(body: &str) -> String {
    let shown = |c: char| if c.is_control() || c.is_whitespace() { ' ' } else { c };
    let mut start = String::new();
    for c in body.chars().map(shown) {
        if c != ' ' || !(start.is_empty() || start.ends_with(' ')) {
            start.push(c);
        }
        if start.chars().count() == BODY_START {
            break;
        }
    }
    start.trim_end().to_owned()
}

/// Of the first and the last server on the way, the certificate that troubles a visitor first.
fn certificate(endpoint: &Endpoint, last: &Url) -> Option<Tls> {
    let shown_by = |url: &Url| {
        let host = url.host_str().filter(|_| url.scheme() == "https")?;
        // rustls writes IPv6 addresses without the brackets that a URL needs.
        endpoint.witness.seen_at(host.trim_start_matches('[').trim_end_matches(']'))
    };
    match (shown_by(&endpoint.url), shown_by(last)) {
        (Some(first), Some(last)) => {
            let worse = |tls: &Tls| (tls.untrusted.is_none(), tls.not_after);
            Some(if worse(&last) < worse(&first) { last } else { first })
        }
        (first, last) => first.or(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_body_is_one_short_clean_line() {
        assert_eq!(start_of("  a\r\n\r\n\tb\u{1b}[31m "), "a b [31m");
        assert_eq!(start_of(&"é".repeat(500)).chars().count(), BODY_START);
        assert_eq!(start_of(&" ".repeat(500)), "");
        assert_eq!(start_of(""), "");
    }
}
