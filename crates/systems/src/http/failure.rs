//! Why a request got no answer: the client's errors, told apart by what caused them.

use groundskeeper_core::observation::{Failure, FailureKind};
use std::error::Error;
use std::io;

type Cause<'a> = &'a (dyn Error + 'static);

/// The client's message may have the URL in it, with a password or a token: only the causes below it are told.
pub(super) fn of(error: reqwest::Error, address: &str) -> Failure {
    let error = error.without_url();
    let causes: Vec<Cause<'_>> = std::iter::successors(error.source(), |cause| below(*cause)).collect();
    let message = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
    Failure { kind: kind(&error, &causes), message, address: address.to_owned() }
}

fn kind(error: &reqwest::Error, causes: &[Cause<'_>]) -> FailureKind {
    if error.is_timeout() {
        return FailureKind::Timeout;
    }
    if error.is_redirect() {
        return FailureKind::Protocol;
    }
    if causes.iter().any(|cause| cause.is::<rustls::Error>()) {
        return FailureKind::Tls;
    }
    // The resolver's error type is private; its words are not.
    if causes.iter().any(|cause| cause.to_string().starts_with("dns error")) {
        return FailureKind::UnknownHost;
    }
    match causes.iter().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => FailureKind::Refused,
        Some(io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            FailureKind::Timeout
        }
        Some(_) => FailureKind::Interrupted,
        None if causes.iter().any(|cause| is_end(&cause.to_string())) => FailureKind::Interrupted,
        None => FailureKind::Protocol,
    }
}

/// An I/O error carries others in its belly (a TLS error, another I/O error), and its `source` leads past them.
fn below(cause: Cause<'_>) -> Option<Cause<'_>> {
    match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => cause.source(),
    }
}

fn is_end(words: &str) -> bool {
    ["connection closed", "end of file", "before message completed"].iter().any(|end| words.contains(end))
}
