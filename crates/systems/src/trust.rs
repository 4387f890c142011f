//! Whom we trust over TLS: the authorities that this machine trusts, and those that the configuration adds.
//!
//! Every adapter gets its cryptography from here, so that none depends on a process-wide default that somebody may have
//! forgotten to install: that would be a panic in the middle of a reading.

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::sync::Arc;

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authority's file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the file of the authority is not PEM: {0}")]
    NotPem(rustls::pki_types::pem::Error),
    #[error("the file of the authority contains no certificate; it must have a BEGIN CERTIFICATE block")]
    Empty,
    #[error("the authority's certificate cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// This machine's authorities and those of `pem`. Reading them takes some milliseconds: do it once, not per reading.
///
/// A certificate of the machine that cannot be read is left out, as every other program does.
pub fn authorities(pem: Option<&[u8]>) -> Result<RootCertStore, AuthorityError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = pem {
        let mut added = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(AuthorityError::NotPem)?).map_err(AuthorityError::Unusable)?;
            added += 1;
        }
        if added == 0 {
            return Err(AuthorityError::Empty);
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_refused() {
        assert!(matches!(authorities(Some(b"hello")), Err(AuthorityError::Empty)));
        assert!(authorities(Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).is_err());
        assert!(authorities(None).is_ok());
    }
}
