//! One HTTP or HTTPS endpoint, asked once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// Without credentials and query.
    pub url: String,
    pub status: u16,
    /// Seconds until the response's head.
    pub first_byte: f64,
    /// Seconds until its end (or until 1 MiB was read).
    pub total: f64,
    pub body_bytes: u64,
    /// The start of the body, at most 200 characters; evidence when the status or the body is wrong.
    pub body_start: String,
    pub expected: Expected,
    /// Whether the body contains the expected text; none when none is expected.
    pub body_matches: Option<bool>,
    /// Only for https.
    pub tls: Option<Tls>,
}

/// What the configuration says that a good answer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Empty: any 2xx or 3xx is good.
    pub statuses: Vec<u16>,
    pub body_contains: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// `notBefore`: with `notAfter` it gives the lifetime, which decides how many days left are few.
    pub not_before: Timestamp,
    /// `notAfter` of the certificate that the server shows.
    pub not_after: Timestamp,
    pub subject: String,
    pub issuer: String,
    /// Why a client would not trust it (unknown issuer, wrong name, expired); none when it would.
    pub untrusted: Option<String>,
}
