//! What `sslmode` asks for, as libpq understands it, in terms of rustls.
//!
//! `prefer` and `require` encrypt without looking at the certificate; `verify-ca` asks for a trusted issuer;
//! `verify-full` also for the right name. A certificate that names its host only in its common name is refused by
//! `verify-full`, unlike libpq: rustls reads subject alternative names alone.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use tokio_postgres::config::SslMode;

/// How far the server's certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Not at all: against listening in, not against someone in the middle.
    Anything,
    /// A trusted issuer, whatever the name.
    Issuer,
    Full,
}

/// What `sslmode` and `sslrootcert` mean together. A root certificate makes `require` verify the issuer, as in libpq.
pub(super) fn mode(sslmode: Option<&str>, root: Option<&str>) -> Result<(SslMode, Trust), String> {
    Ok(match sslmode {
        None | Some("prefer" | "allow") => (SslMode::Prefer, Trust::Anything),
        Some("disable") => (SslMode::Disable, Trust::Anything),
        Some("require") if root.is_none() => (SslMode::Require, Trust::Anything),
        Some("require" | "verify-ca") if root != Some("system") => (SslMode::Require, Trust::Issuer),
        Some("require" | "verify-ca" | "verify-full") => (SslMode::Require, Trust::Full),
        Some(other) => {
            return Err(format!(
                "sslmode `{other}` is unknown; use disable, prefer, require, verify-ca or verify-full"
            ));
        }
    })
}

/// `root` is a PEM file; none or `system` means the certificates that this machine trusts.
pub(super) fn encryption(trust: Trust, root: Option<&str>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(match trust {
        Trust::Full => builder.with_root_certificates(roots(root)?).with_no_client_auth(),
        Trust::Issuer => {
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(root)?), provider)
                .build()
                .map_err(|error| error.to_string())?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(IssuerOnly { inner })).with_no_client_auth()
        }
        Trust::Anything => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
            .with_no_client_auth(),
    })
}

fn roots(file: Option<&str>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match file.filter(|path| *path != "system") {
        None => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                return Err(
                    "this machine has no trusted certificates; install ca-certificates or set sslrootcert".into()
                );
            }
        }
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| format!("{path}: {error}"))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| format!("{path}: {error}"))?;
                store.add(certificate).map_err(|error| format!("{path}: {error}"))?;
            }
            if store.is_empty() {
                return Err(format!("{path} holds no certificate"));
            }
        }
    }
    Ok(store)
}

/// `prefer` and `require`: what libpq promises for them is encryption, and nothing about who is at the other end.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `verify-ca`: everything but the name.
#[derive(Debug)]
struct IssuerOnly {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for IssuerOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is the last thing that is looked at: the chain was good by then.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_mean_what_they_mean_to_libpq() {
        for (sslmode, root, ssl, trust) in [
            (None, None, SslMode::Prefer, Trust::Anything),
            (Some("disable"), Some("ca.pem"), SslMode::Disable, Trust::Anything),
            (Some("allow"), None, SslMode::Prefer, Trust::Anything),
            (Some("require"), None, SslMode::Require, Trust::Anything),
            (Some("require"), Some("ca.pem"), SslMode::Require, Trust::Issuer),
            (Some("verify-ca"), None, SslMode::Require, Trust::Issuer),
            (Some("verify-full"), None, SslMode::Require, Trust::Full),
            (Some("verify-full"), Some("ca.pem"), SslMode::Require, Trust::Full),
            (Some("require"), Some("system"), SslMode::Require, Trust::Full),
        ] {
            assert_eq!(mode(sslmode, root).unwrap(), (ssl, trust), "{sslmode:?} {root:?}");
        }
        assert!(mode(Some("verify"), None).unwrap_err().contains("verify-full"));
    }

    #[test]
    fn a_root_certificate_that_is_not_there_is_named() {
        let Err(error) = encryption(Trust::Full, Some("/nowhere/ca.pem")) else { panic!() };
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }
}
