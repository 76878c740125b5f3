//! The client's side of TLS, for engines on other machines: which authorities may have issued their certificates.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::server::TlsError;
use crate::files;

/// Most bytes of a file of authorities.
const FILE_BYTES: u64 = 1 << 20;

/// How a client speaks TLS to a server whose certificate one of these authorities has issued: those of a PEM file, or those that
/// the system trusts.
///
/// # Errors
/// When the file cannot be read, or has no certificate that can be used.
pub fn client_tls(authorities: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let unreadable = |reason| TlsError::Unreadable {
                path: path.to_owned(),
                reason,
            };
            let pem = files::read(path, FILE_BYTES).map_err(unreadable)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| unusable(path, &error))?;
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
            if roots.is_empty() {
                return Err(TlsError::NoCertificate(path.to_owned()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            roots.add_parsable_certificates(found);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable(authorities.unwrap_or(Path::new("TLS")), &error))?;
    Ok(Arc::new(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::Unusable {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("authorities.pem");
        let error = client_tls(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("authorities.pem cannot be read"), "{error}");
        std::fs::write(&path, "no certificate").unwrap();
        let error = client_tls(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("authorities.pem has no certificate"), "{error}");
    }
}
