//! One POST to a secret address.
//!
//! The address is never shown: not by `Debug`, not in an error. What may be shown is its host.

use super::{ATTEMPT_DEADLINE, Failure, with_causes};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};
use std::net::IpAddr;
use url::Url;

#[derive(Debug)]
pub(super) struct Post {
    client: Client,
    url: SecretString,
    /// Host and port, for people.
    pub(super) host: String,
    headers: HeaderMap,
}

impl Post {
    pub(super) fn new(url: SecretString, headers: &[(String, SecretString)]) -> Result<Self, String> {
        let parsed = Url::parse(url.expose_secret()).map_err(|error| format!("its address is no URL: {error}"))?;
        let name = parsed.host_str().ok_or("its address has no host")?;
        let host = parsed.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        Ok(Self { client: client(&parsed, name)?, url, host, headers: header_map(headers)? })
    }

    pub(super) async fn json(&self, body: &impl serde::Serialize, extra: HeaderMap) -> Result<(), Failure> {
        let request =
            self.client.post(self.url.expose_secret()).headers(self.headers.clone()).headers(extra).json(body);
        match request.send().await {
            Ok(answer) => judge(&self.host, answer.status()),
            // `without_url`, because reqwest would print the whole address.
            Err(error) => Err(Failure::Unreachable(format!("{}: {}", self.host, with_causes(&error.without_url())))),
        }
    }
}

fn judge(host: &str, status: StatusCode) -> Result<(), Failure> {
    let answered = format!("{host} answered {status}");
    if status.is_success() {
        Ok(())
    } else if status.is_client_error() && !matches!(status.as_u16(), 408 | 429) {
        Err(Failure::Rejected(answered))
    } else {
        Err(Failure::Refused(answered))
    }
}

fn client(url: &Url, host: &str) -> Result<Client, String> {
    // reqwest panics without a process-wide provider. `main` installs one; whoever comes first wins, and it is the same.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    // A redirect would turn the POST into a GET, and could carry the headers elsewhere.
    let mut builder = Client::builder().timeout(ATTEMPT_DEADLINE).redirect(redirect::Policy::none());
    if is_loopback(host) {
        builder = builder.no_proxy();
    }
    if url.scheme() == "http" {
        // No certificates are needed, and a container without any must still work.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| with_causes(&error.without_url()))
}

fn header_map(headers: &[(String, SecretString)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let key: HeaderName = name.parse().map_err(|_| format!("`{name}` is no header name"))?;
        let mut value: HeaderValue =
            value.expose_secret().parse().map_err(|_| format!("the header `{name}` holds what no header may hold"))?;
        value.set_sensitive(true);
        map.append(key, value);
    }
    Ok(map)
}

pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_never_succeed_is_given_up_at_once() {
        let verdict = |code| judge("h", StatusCode::from_u16(code).unwrap());
        assert_eq!(verdict(204), Ok(()));
        for code in [400, 401, 404, 410] {
            assert!(matches!(verdict(code), Err(Failure::Rejected(_))), "{code}");
        }
        for code in [302, 408, 429, 500, 503] {
            assert!(matches!(verdict(code), Err(Failure::Refused(_))), "{code}");
        }
    }

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["example.com", "10.0.0.1", "localhost.example.com"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn the_address_is_shown_by_nothing() {
        let url = SecretString::from("https://hooks.example.com:8443/services/T0KEN?key=s3cret");
        let post = Post::new(url, &[("authorization".into(), SecretString::from("Bearer s3cret"))]).unwrap();
        let debug = format!("{post:?}");
        assert!(!debug.contains("T0KEN") && !debug.contains("s3cret"), "{debug}");
        assert_eq!(post.host, "hooks.example.com:8443");
    }
}
