//! The certificate that a server shows, as evidence.
//!
//! A client refuses a certificate that it does not trust, and then nobody sees why. This verifier asks the usual one,
//! writes down the certificate and the verdict, and lets the handshake go on, so that an expired certificate is a finding
//! about the certificate and not a server that cannot be reached. The server must still prove that it has the key.
//!
//! Only where nothing is at stake: for a request that carries credentials the verdict stands.

use groundskeeper_core::observation::Tls;
use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use x509_parser::prelude::{FromDer, X509Certificate};

#[derive(Debug)]
pub(super) struct Witness {
    /// None on a machine that trusts nobody.
    usual: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    strict: bool,
    /// By host name, because a redirect may lead to another one.
    seen: Mutex<BTreeMap<String, Tls>>,
}

impl Witness {
    pub(super) fn new(roots: RootCertStore, provider: Arc<CryptoProvider>, strict: bool) -> Self {
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok();
        Self { usual, provider, strict, seen: Mutex::default() }
    }

    pub(super) fn seen_at(&self, host: &str) -> Option<Tls> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&host.to_ascii_lowercase()).cloned()
    }

    fn note(&self, host: &ServerName<'_>, certificate: &CertificateDer<'_>, untrusted: Option<String>) {
        let Some(tls) = describe(certificate, untrusted) else { return };
        let host = host.to_str().to_ascii_lowercase();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(host, tls);
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = match &self.usual {
            Some(usual) => usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Err(Error::General("this machine trusts no authority; install ca-certificates".into())),
        };
        self.note(server_name, end_entity, verdict.as_ref().err().map(reason));
        match verdict {
            Err(error) if self.strict => Err(error),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The commonest verdicts in words that say what to look at.
fn reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => {
                "its issuer is not known here (a private authority, or intermediate certificates are missing)".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it is for another host name".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".into(),
            CertificateError::Revoked => "it was revoked".into(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

fn describe(certificate: &CertificateDer<'_>, untrusted: Option<String>) -> Option<Tls> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    // A date beyond the end of our calendar is as good as its end.
    let moment = |seconds: i64| {
        Timestamp::from_second(seconds).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
    };
    Some(Tls {
        not_before: moment(validity.not_before.timestamp()),
        not_after: moment(validity.not_after.timestamp()),
        subject: shown(&parsed.subject().to_string()),
        issuer: shown(&parsed.issuer().to_string()),
        untrusted,
    })
}

/// Anybody may write anything into a certificate, and this is shown in terminals.
fn shown(name: &str) -> String {
    name.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
