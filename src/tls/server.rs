//! The server's side of TLS, for the gRPC listeners and for the metrics.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;

use crate::{
    errors::with_causes,
    files,
    reload::{Reload, Reloaded},
};

/// Most bytes of a file with certificates or a key.
const FILE_BYTES: u64 = 1 << 20;

/// HTTP/2, which gRPC needs, as clients name it in their first message (ALPN).
const HTTP2: &[u8] = b"h2";

/// HTTP/1.1, for the metrics.
const HTTP1: &[u8] = b"http/1.1";

/// The oldest version of TLS that clients may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MinVersion {
    /// TLS 1.2, with key exchanges that keep old connections secret when a key is lost later, and authenticated ciphers.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertificates {
    /// A client without a certificate is served if it has another credential. One that is shown must be valid.
    Optional,
    /// A client without a valid certificate gets no connection.
    Required,
}

/// The files of a server with TLS, and how it speaks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and those between it and its authority, in PEM form.
    pub certificate: PathBuf,
    /// The certificate's private key, in PEM form.
    pub key: PathBuf,
    /// Authorities that may have issued clients' certificates, in PEM form. Without it, clients are not asked for any.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate, where there is `client_ca`.
    pub client_certificates: ClientCertificates,
    /// The oldest version that clients may speak.
    pub min_version: MinVersion,
}

/// Why the files cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A file has no certificate.
    #[error("{0} has no certificate; one begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate(PathBuf),
    /// A file has no private key.
    #[error(
        "{0} has no private key; one begins with -----BEGIN PRIVATE KEY-----, and may not be encrypted with a password"
    )]
    NoKey(PathBuf),
    /// A certificate or key has a form that is not supported, or key and certificate do not belong together.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is in force.
struct Current {
    grpc: Arc<ServerConfig>,
    metrics: Arc<ServerConfig>,
}

/// The server's side of TLS.
pub struct ServerTls {
    files: TlsFiles,
    current: RwLock<Arc<Current>>,
    /// Digest of the content that was tried last, whether or not it is in force.
    tried: Mutex<[u8; 32]>,
}

/// The content of the files.
struct Content {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl Content {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            files::read(path, FILE_BYTES).map_err(|reason| TlsError::Unreadable {
                path: path.to_owned(),
                reason,
            })
        };
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?.into(),
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [Some(&self.certificate), Some(&*self.key), self.client_ca.as_ref()] {
            // With the lengths, bytes cannot move from one file to the next unnoticed.
            hasher.update(part.map_or(0, Vec::len).to_le_bytes());
            hasher.update(part.map_or(&[][..], Vec::as_slice));
        }
        hasher.finalize().into()
    }
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let content = Content::read(&files)?;
        let current = configure(&files, &content)?;
        Ok(Self {
            current: RwLock::new(Arc::new(current)),
            tried: Mutex::new(content.digest()),
            files,
        })
    }

    /// Accepts connections for gRPC.
    pub fn grpc(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current().grpc))
    }

    /// Accepts connections for the metrics. Clients are not asked for certificates there, because a kubelet has none.
    pub fn metrics(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current().metrics))
    }

    /// Whether clients' certificates are verified.
    pub fn verifies_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// Whether HTTP/2 was agreed on. It must be, as RFC 9113 (section 3.3) says.
    pub fn is_http2(agreed: Option<&[u8]>) -> bool {
        agreed == Some(HTTP2)
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reload for ServerTls {
    fn name(&self) -> &'static str {
        "certificates"
    }

    fn reload(&self) -> Reloaded {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let content = match Content::read(&self.files) {
            Ok(content) => content,
            Err(error) => {
                // The same failure is told once, and a file that is back with its old content is told too.
                let digest = Sha256::digest(error.to_string()).into();
                return match std::mem::replace(&mut *tried, digest) == digest {
                    true => Reloaded::Unchanged,
                    false => Reloaded::Kept(error.to_string()),
                };
            }
        };
        let digest = content.digest();
        if std::mem::replace(&mut *tried, digest) == digest {
            return Reloaded::Unchanged;
        }
        match configure(&self.files, &content) {
            Ok(current) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
                Reloaded::Replaced
            }
            Err(error) => Reloaded::Kept(error.to_string()),
        }
    }
}

fn configure(files: &TlsFiles, content: &Content) -> Result<Current, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let grpc = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(files.min_version))
        .map_err(|error| unusable(&files.certificate, &error))?;
    let metrics = grpc.clone().with_no_client_auth();
    let grpc = match (&files.client_ca, &content.client_ca) {
        (Some(path), Some(text)) => {
            let verifier = client_verifier(path, text, files.client_certificates, provider)?;
            grpc.with_client_cert_verifier(verifier)
        }
        _ => grpc.with_no_client_auth(),
    };
    let chain = certificates(&files.certificate, &content.certificate)?;
    let key = || PrivateKeyDer::from_pem_slice(&content.key).map_err(|_| TlsError::NoKey(files.key.clone()));
    let (mut grpc, mut metrics) = (
        grpc.with_single_cert(chain.clone(), key()?)
            .map_err(|error| unusable(&files.key, &error))?,
        metrics
            .with_single_cert(chain, key()?)
            .map_err(|error| unusable(&files.key, &error))?,
    );
    grpc.alpn_protocols = vec![HTTP2.to_vec()];
    metrics.alpn_protocols = vec![HTTP1.to_vec()];
    Ok(Current {
        grpc: Arc::new(grpc),
        metrics: Arc::new(metrics),
    })
}

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    static FROM_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    match min {
        MinVersion::Tls12 => FROM_12,
        MinVersion::Tls13 => FROM_13,
    }
}

fn client_verifier(
    path: &Path,
    text: &[u8],
    certificates_are: ClientCertificates,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path, text)? {
        roots.add(authority).map_err(|error| unusable(path, &error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match certificates_are {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        ClientCertificates::Required => builder,
    };
    builder.build().map_err(|error| unusable(path, &error))
}

/// All certificates of a text in PEM form, of which there must be one.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsError::NoCertificate(path.to_owned())),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::Unusable {
        path: path.to_owned(),
        reason: with_causes(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Certificate and key of a server, in PEM form.
    fn identity() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn files(folder: &Path) -> TlsFiles {
        TlsFiles {
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
            client_ca: None,
            client_certificates: ClientCertificates::Required,
            min_version: MinVersion::Tls12,
        }
    }

    #[test]
    fn a_new_certificate_is_taken_once_its_key_is_there_too() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let [old, new] = [identity(), identity()];
        fs::write(&files.certificate, &old.0).unwrap();
        fs::write(&files.key, &old.1).unwrap();
        let tls = ServerTls::open(files.clone()).unwrap();
        assert_eq!(tls.reload(), Reloaded::Unchanged);
        let before = tls.current();
        fs::write(&files.certificate, &new.0).unwrap();
        assert!(matches!(tls.reload(), Reloaded::Kept(reason) if reason.contains("server.key")));
        assert_eq!(tls.reload(), Reloaded::Unchanged, "it is told once");
        assert!(Arc::ptr_eq(&before, &tls.current()));
        fs::write(&files.key, &new.1).unwrap();
        assert_eq!(tls.reload(), Reloaded::Replaced);
        assert!(!Arc::ptr_eq(&before, &tls.current()));
        fs::remove_file(&files.key).unwrap();
        assert!(matches!(tls.reload(), Reloaded::Kept(reason) if reason.contains("cannot be read")));
        assert_eq!(tls.reload(), Reloaded::Unchanged, "it is told once");
    }

    #[test]
    fn files_that_are_not_what_they_should_be_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let (certificate, key) = identity();
        let (_, other_key) = identity();
        let cases = [
            ("words", key.as_str(), "server.pem has no certificate"),
            (&certificate, "words", "server.key has no private key"),
            (&certificate, &other_key, "server.key cannot be used"),
        ];
        for (certificate, key, says) in cases {
            fs::write(&files.certificate, certificate).unwrap();
            fs::write(&files.key, key).unwrap();
            let error = ServerTls::open(files.clone()).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("PRIVATE KEY-----\nM"), "{error}");
        }
        fs::write(&files.key, &key).unwrap();
        let with_authorities = TlsFiles {
            client_ca: Some(folder.path().join("clients.pem")),
            ..files
        };
        let error = ServerTls::open(with_authorities.clone())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("clients.pem cannot be read"), "{error}");
        fs::write(folder.path().join("clients.pem"), "").unwrap();
        let error = ServerTls::open(with_authorities).err().unwrap().to_string();
        assert!(error.contains("clients.pem has no certificate"), "{error}");
    }
}
