//! Who may ask, and what a browser may do with the answer.
//!
//! The page binds to loopback, but every web site in a browser on that machine can send requests there. With a DNS name
//! that first points to the site and then to 127.0.0.1 (DNS rebinding) it could even read the answers. Such a request
//! carries the foreign name in its Host header, and so only names of this machine are answered.

use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_FRAME_OPTIONS};
use axum::http::header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::http::{StatusCode, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

/// Everything comes from the page's own address; nothing is inline, nothing is framed, nothing is sent anywhere.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

const PAGE_HEADERS: [(HeaderName, &str); 5] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
];

pub(super) async fn only_local_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let named = host.or_else(|| request.uri().authority().map(Authority::as_str));
    if named.is_some_and(is_local) {
        next.run(request).await
    } else {
        let text = "This page answers only to localhost, 127.0.0.1 and [::1]; open it under one of these names.\n";
        (StatusCode::FORBIDDEN, text).into_response()
    }
}

pub(super) async fn security_headers(mut response: Response) -> Response {
    for (name, value) in PAGE_HEADERS {
        // An asset may say for itself how long it keeps.
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

pub(super) async fn no_sniffing(mut response: Response) -> Response {
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A name of this machine, with or without a port.
fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "localhost:7070", "LocalHost:1", "127.0.0.1", "127.0.0.1:7070", "[::1]", "[::1]:7070"]
        {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:7070",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil@localhost",
            "10.0.0.1",
            "0.0.0.0:7070",
            "[::]",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
