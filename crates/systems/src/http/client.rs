//! An endpoint and the client that asks it, made once.

use super::certificate::Witness;
use crate::trust::{self, AuthorityError};
use groundskeeper_core::observation::Expected;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use rustls::ClientConfig;
use rustls::client::Resumption;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::sync::Arc;
use url::Url;

/// A visitor's browser follows 20; a health check that needs more than this many is a loop.
const MOST_REDIRECTS: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("this is no http or https URL ({0}); write https://host/path")]
    NotAUrl(String),
    #[error("the header `{0}` cannot be sent; its name or its value has a character that HTTP does not allow")]
    Header(String),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[source] reqwest::Error),
}

/// What most endpoints do not need.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Sent with the request: (name, value). With any of them, or with a password in the URL, the request is sent only
    /// to a server whose certificate is trusted, and redirects are followed only on the same host and port.
    pub headers: Vec<(String, SecretString)>,
    /// PEM of private authorities that are trusted besides those of the machine.
    pub authorities: Option<Vec<u8>>,
}

/// Cheap to clone: the client is shared. `Debug` shows neither headers nor what in the URL is secret.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) url: Url,
    pub(super) expected: Expected,
    pub(super) client: reqwest::Client,
    pub(super) witness: Arc<Witness>,
    address: String,
}

impl Endpoint {
    pub fn new(url: &str, expected: Expected) -> Result<Self, EndpointError> {
        Self::with(url, expected, &Options::default())
    }

    pub fn with(url: &str, expected: Expected, options: &Options) -> Result<Self, EndpointError> {
        let url = Url::parse(url).map_err(|error| EndpointError::NotAUrl(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(EndpointError::NotAUrl(format!("the scheme is `{}`", url.scheme())));
        }
        let headers = headers(&options.headers)?;
        let secret = !headers.is_empty() || !url.username().is_empty() || url.password().is_some();
        let provider = trust::provider();
        let roots = trust::authorities(options.authorities.as_deref())?;
        let witness = Arc::new(Witness::new(roots, provider.clone(), secret));
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(witness.clone())
            .with_no_client_auth();
        // A resumed session shows no certificate, and a connection that is used again is faster than a visitor's.
        tls.resumption = Resumption::disabled();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .pool_max_idle_per_host(0)
            // What is watched is this address, not the way that an environment variable points to.
            .no_proxy()
            .redirect(Policy::custom(move |attempt| redirect(attempt, secret)))
            .default_headers(headers)
            .user_agent(concat!("groundskeeper/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| EndpointError::Client(error.without_url()))?;
        let address = without_secrets(&url);
        Ok(Self { url, expected, client, witness, address })
    }

    /// The URL without credentials, query and fragment: a query may hold a token.
    pub fn address(&self) -> &str {
        &self.address
    }
}

fn redirect(attempt: Attempt<'_>, secret: bool) -> reqwest::redirect::Action {
    let origin = |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    if attempt.previous().len() > MOST_REDIRECTS {
        attempt.error(format!("more than {MOST_REDIRECTS} redirects"))
    } else if secret && attempt.previous().first().is_none_or(|first| origin(first) != origin(attempt.url())) {
        // The redirect itself is then the answer. Credentials do not travel.
        attempt.stop()
    } else {
        attempt.follow()
    }
}

fn headers(given: &[(String, SecretString)]) -> Result<HeaderMap, EndpointError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let refused = || EndpointError::Header(name.clone());
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| refused())?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

fn without_secrets(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> Expected {
        Expected { statuses: Vec::new(), body_contains: None }
    }

    #[test]
    fn the_address_has_no_secret() {
        let options = Options { headers: vec![("X-Key".into(), "hunter2".into())], authorities: None };
        let endpoint =
            Endpoint::with("https://me:hunter2@api.example.com:8443/a?key=hunter2#x", any(), &options).unwrap();
        assert_eq!(endpoint.address(), "https://api.example.com:8443/a");
        assert!(!format!("{endpoint:?}").contains("hunter2"));
        assert_eq!(Endpoint::new("http://[::1]:8080/", any()).unwrap().address(), "http://[::1]:8080/");
    }

    #[test]
    fn a_wrong_url_or_header_is_refused() {
        for url in ["", "api", "ftp://host/", "http://", "redis://:secret@host", "https://:secret@ho st/"] {
            let error = Endpoint::new(url, any()).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let options = Options { headers: vec![("Authorization".into(), "se\ncret".into())], authorities: None };
        let error = Endpoint::with("https://host/", any(), &options).unwrap_err().to_string();
        assert!(error.contains("Authorization") && !error.contains("cret"), "{error}");
    }
}
