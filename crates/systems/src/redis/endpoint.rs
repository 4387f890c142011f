//! Where a Redis is and how to log in, parsed once from its URL.

use crate::trust::{self, AuthorityError};
use redis::{ConnectionAddr, IntoConnectionInfo};
use rustls::ClientConfig;
use secrecy::SecretString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("this is no Redis URL ({0}); write redis://host:6379, rediss://host:6380 or unix:///path/redis.sock")]
    NotAUrl(String),
    #[error("the scheme `{0}` is not supported; use redis, rediss or unix")]
    Scheme(String),
    #[error("rediss://…#insecure is not supported; name the authority of the certificate instead")]
    Insecure,
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Cheap to clone. Neither `Debug` nor [`Endpoint::address`] contain the password.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) place: Place,
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretString>,
    address: String,
}

#[derive(Clone)]
pub(super) enum Place {
    Tcp { host: String, port: u16, tls: Option<Arc<ClientConfig>> },
    Unix(PathBuf),
}

impl Endpoint {
    /// A password given here wins over the one in the URL. The path of a socket alone (`/run/redis.sock`) will do.
    pub fn parse(url: &str, password: Option<SecretString>) -> Result<Self, EndpointError> {
        Self::parse_trusting(url, password, None)
    }

    /// As [`Endpoint::parse`], and trusts the authorities of that PEM file as well.
    pub fn parse_trusting(
        url: &str,
        password: Option<SecretString>,
        authorities: Option<&[u8]>,
    ) -> Result<Self, EndpointError> {
        if url.starts_with('/') {
            return Ok(Self { place: Place::Unix(url.into()), user: None, password, address: url.to_owned() });
        }
        let url = Url::parse(url).map_err(|error| EndpointError::NotAUrl(error.to_string()))?;
        let encrypted = match url.scheme() {
            "redis" | "valkey" | "unix" | "redis+unix" | "valkey+unix" => false,
            "rediss" | "valkeys" => true,
            other => return Err(EndpointError::Scheme(other.to_owned())),
        };
        if url.fragment().is_some() {
            return Err(EndpointError::Insecure);
        }
        // These messages are fixed sentences without a part of the URL; a test holds that.
        let info = url.into_connection_info().map_err(|error| EndpointError::NotAUrl(error.to_string()))?;
        let (place, address) = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                let tls = if encrypted { Some(Arc::new(tls(authorities)?)) } else { None };
                let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                (Place::Tcp { host: host.clone(), port: *port, tls }, shown)
            }
            ConnectionAddr::Unix(path) => (Place::Unix(path.clone()), path.display().to_string()),
            _ => return Err(EndpointError::NotAUrl("an address of a kind that is not known".into())),
        };
        let login = info.redis_settings();
        Ok(Self {
            place,
            user: login.username().map(str::to_owned),
            password: password.or_else(|| login.password().map(SecretString::from)),
            address,
        })
    }

    /// `127.0.0.1:6379`, or the path of the socket.
    pub fn address(&self) -> &str {
        &self.address
    }
}

fn tls(authorities: Option<&[u8]>) -> Result<ClientConfig, EndpointError> {
    Ok(ClientConfig::builder_with_provider(trust::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust::authorities(authorities)?)
        .with_no_client_auth())
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "<redacted>"))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn parsed(url: &str) -> Endpoint {
        Endpoint::parse(url, None).unwrap()
    }

    #[test]
    fn every_way_to_write_an_address_is_understood() {
        assert_eq!(parsed("redis://cache").address(), "cache:6379");
        assert_eq!(parsed("redis://127.0.0.1:7000/3").address(), "127.0.0.1:7000");
        assert_eq!(parsed("redis://[::1]:7000").address(), "[::1]:7000");
        assert_eq!(parsed("unix:///run/redis.sock").address(), "/run/redis.sock");
        assert_eq!(parsed("/run/redis.sock").address(), "/run/redis.sock");
        assert_eq!(parsed("rediss://cache:6380").address(), "cache:6380");
        assert!(matches!(parsed("rediss://cache").place, Place::Tcp { tls: Some(_), .. }));
    }

    #[test]
    fn a_password_is_found_and_never_shown() {
        let endpoint = parsed("redis://keeper:hunt%40er2@cache:6379");
        assert_eq!(endpoint.user.as_deref(), Some("keeper"));
        assert_eq!(endpoint.password.as_ref().unwrap().expose_secret(), "hunt@er2");
        let given = Endpoint::parse("redis://:url@cache", Some("given".into())).unwrap();
        assert_eq!(given.password.as_ref().unwrap().expose_secret(), "given");
        for shown in [format!("{endpoint:?}"), endpoint.address().to_owned()] {
            assert!(!shown.contains("hunt"), "{shown}");
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in [
            "",
            "cache:6379",
            "http://:secret@cache",
            "redis://:secret@",
            "redis://:secret@c/notanumber",
            "rediss://:secret@c#insecure",
            "redis://:secret@c:99999",
        ] {
            let error = Endpoint::parse(url, None).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
