//! The certificate that a client has shown, once it has been verified.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use webpki::EndEntityCert;

use super::validity::Validity;

/// What identifies a client by its verified certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// SHA-256 of the whole certificate.
    pub sha256: [u8; 32],
    /// Its names that are URIs, such as SPIFFE ids.
    pub uris: Vec<String>,
    /// Its names that are DNS names.
    pub dns: Vec<String>,
    /// When it stops being valid. The handshake has checked that it was, and a connection may be open for longer.
    pub not_after: SystemTime,
}

impl PeerCertificate {
    /// What a certificate says. `None` if it is not an X.509 certificate, which a verified one always is.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        Some(Self {
            sha256: Sha256::digest(certificate.as_ref()).into(),
            uris: parsed.valid_uri_names().map(str::to_owned).collect(),
            dns: parsed.valid_dns_names().map(str::to_owned).collect(),
            not_after: Validity::read(certificate)?.not_after,
        })
    }
}
