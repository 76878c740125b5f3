//! The server's side of TLS, for the gRPC listeners, the HTTP port and the metrics.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;

use super::validity::{End, Validity, shown};
use crate::{
    errors::with_causes,
    files,
    reload::{Reload, Reloaded},
    secret::warn_if_exposed,
};

/// Most bytes of a file with certificates or a key.
const FILE_BYTES: u64 = 1 << 20;

/// HTTP/2, which gRPC needs, as clients name it in their first message (ALPN).
const HTTP2: &[u8] = b"h2";

/// HTTP/1.1, for the HTTP port and the metrics.
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
    /// Lists of the certificates that these authorities have revoked, in PEM form.
    pub client_crl: Option<PathBuf>,
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
    /// A file has no list of revoked certificates.
    #[error("{0} has no list of revoked certificates; one begins with -----BEGIN X509 CRL-----")]
    NoRevocationList(PathBuf),
    /// The time of the server's certificate is over.
    #[error("the certificate of {path} ended at {at}, and no client would accept it; install a new one")]
    Ended {
        /// The file.
        path: PathBuf,
        /// When it ended.
        at: String,
    },
    /// The time of the server's certificate has not begun.
    #[error(
        "the certificate of {path} is valid only from {at} on, and no client would accept it now; if that is over, check \
         the clock of this machine"
    )]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When it begins.
        at: String,
    },
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
    http: Arc<ServerConfig>,
    metrics: Arc<ServerConfig>,
    /// Of the server's certificate.
    validity: Validity,
    /// How close its end was when that was told last.
    told: Mutex<End>,
}

impl Current {
    /// Tells in the log that the certificate ends soon or has ended, once each.
    fn tell_end(&self, path: &Path, now: SystemTime) {
        let end = self.validity.end(now);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if end <= *told {
            return;
        }
        *told = end;
        let (file, at) = (path.display(), shown(self.validity.not_after));
        match end {
            End::Far => {}
            End::Soon => tracing::warn!(%file, at, "the server's certificate ends soon; install a new one"),
            End::Past => {
                tracing::error!(%file, at, "the server's certificate has ended, and clients refuse it; install a new one");
            }
        }
    }
}

/// The server's side of TLS.
pub struct ServerTls {
    files: TlsFiles,
    current: RwLock<Arc<Current>>,
    tried: Mutex<Tried>,
}

/// What was tried last, whether or not it is in force.
struct Tried {
    /// Digest of the files' content, or of the reason for which they could not be read.
    digest: [u8; 32],
    /// Whether it will be good later without a change, because the certificate's time has not begun.
    is_early: bool,
}

/// The content of the files.
struct Content {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
    client_crl: Option<Vec<u8>>,
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
            client_crl: files.client_crl.as_deref().map(read).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [
            Some(&self.certificate),
            Some(&*self.key),
            self.client_ca.as_ref(),
            self.client_crl.as_ref(),
        ] {
            // With the lengths, bytes cannot move from one file to the next unnoticed.
            hasher.update(part.map_or(0, Vec::len).to_le_bytes());
            hasher.update(part.map_or(&[][..], Vec::as_slice));
        }
        hasher.finalize().into()
    }
}

impl ServerTls {
    /// Reads the files, as they are to be used at this time.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn open(files: TlsFiles, now: SystemTime) -> Result<Self, TlsError> {
        let content = Content::read(&files)?;
        let current = configure(&files, &content, now)?;
        warn_if_exposed(&files.key);
        current.tell_end(&files.certificate, now);
        Ok(Self {
            current: RwLock::new(Arc::new(current)),
            tried: Mutex::new(Tried {
                digest: content.digest(),
                is_early: false,
            }),
            files,
        })
    }

    /// Accepts connections for gRPC.
    pub fn grpc(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current().grpc))
    }

    /// Accepts connections for the HTTP port. Clients need the same certificates as for gRPC.
    pub fn http(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current().http))
    }

    /// Accepts connections for the metrics. Clients need no certificate there, because a kubelet has none, and may show one.
    pub fn metrics(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current().metrics))
    }

    /// Seconds until the end of the server's certificate, negative after it.
    pub fn seconds_left(&self, now: SystemTime) -> f64 {
        match self.current().validity.not_after.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(past) => -past.duration().as_secs_f64(),
        }
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
        self.reload_at(SystemTime::now())
    }
}

impl ServerTls {
    fn reload_at(&self, now: SystemTime) -> Reloaded {
        let reloaded = self.read_again(now);
        self.current().tell_end(&self.files.certificate, now);
        reloaded
    }

    fn read_again(&self, now: SystemTime) -> Reloaded {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let content = Content::read(&self.files);
        let digest = match &content {
            Ok(content) => content.digest(),
            // A file that is back with its old content is told too.
            Err(error) => Sha256::digest(error.to_string()).into(),
        };
        let is_known = std::mem::replace(&mut tried.digest, digest) == digest;
        let was_early = std::mem::replace(&mut tried.is_early, false);
        if is_known && !was_early {
            return Reloaded::Unchanged;
        }
        match content.and_then(|content| configure(&self.files, &content, now)) {
            Ok(current) => {
                warn_if_exposed(&self.files.key);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
                Reloaded::Replaced
            }
            Err(error) => {
                tried.is_early = matches!(error, TlsError::NotYetValid { .. });
                // The same failure is told once.
                match is_known {
                    true => Reloaded::Unchanged,
                    false => Reloaded::Kept(error.to_string()),
                }
            }
        }
    }
}

fn configure(files: &TlsFiles, content: &Content, now: SystemTime) -> Result<Current, TlsError> {
    let chain = certificates(&files.certificate, &content.certificate)?;
    let validity = usable(&files.certificate, &chain, now)?;
    let configured = |certificates_are: ClientCertificates, protocol: &[u8]| -> Result<_, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions(files.min_version))
            .map_err(|error| unusable(&files.certificate, &error))?;
        let verifier = client_verifier(files, content, certificates_are, provider)?;
        let verifies = verifier.is_some();
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let key =
            PrivateKeyDer::from_pem_slice(&content.key).map_err(|_| TlsError::NoKey(files.key.clone()))?;
        let mut config = builder
            .with_single_cert(chain.clone(), key)
            .map_err(|error| unusable(&files.key, &error))?;
        if verifies {
            // A resumed session has the certificate of the first handshake, which is not verified again: neither that its
            // authority is still trusted, nor that it has not ended or been revoked.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    };
    Ok(Current {
        grpc: configured(files.client_certificates, HTTP2)?,
        http: configured(files.client_certificates, HTTP1)?,
        metrics: configured(ClientCertificates::Optional, HTTP1)?,
        validity,
        told: Mutex::new(End::Far),
    })
}

/// From when to when the server's certificate is valid, if it is at this time. Those between it and its authority are not
/// checked: clients may know another way.
fn usable(path: &Path, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Validity, TlsError> {
    let own = chain.first().and_then(Validity::read);
    let validity = own.ok_or_else(|| TlsError::NoCertificate(path.to_owned()))?;
    let path = path.to_owned();
    if now > validity.not_after {
        let at = shown(validity.not_after);
        return Err(TlsError::Ended { path, at });
    }
    if now < validity.not_before {
        let at = shown(validity.not_before);
        return Err(TlsError::NotYetValid { path, at });
    }
    Ok(validity)
}

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    static FROM_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    match min {
        MinVersion::Tls12 => FROM_12,
        MinVersion::Tls13 => FROM_13,
    }
}

/// Verifies clients' certificates, where there are authorities that may have issued them.
fn client_verifier(
    files: &TlsFiles,
    content: &Content,
    certificates_are: ClientCertificates,
    provider: Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let (Some(path), Some(text)) = (&files.client_ca, &content.client_ca) else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(path, text)? {
        roots.add(authority).map_err(|error| unusable(path, &error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let (builder, path) = match (&files.client_crl, &content.client_crl) {
        (Some(path), Some(text)) => {
            let lists = revocation_lists(path, text)?;
            (builder.with_crls(lists).only_check_end_entity_revocation(), path)
        }
        _ => (builder, path),
    };
    let builder = match certificates_are {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        ClientCertificates::Required => builder,
    };
    builder.build().map(Some).map_err(|error| unusable(path, &error))
}

/// All lists of revoked certificates of a text in PEM form, of which there must be one.
fn revocation_lists(
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsError::NoRevocationList(path.to_owned())),
        Err(error) => Err(unusable(path, &error)),
    }
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
            client_crl: None,
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
        let tls = ServerTls::open(files.clone(), SystemTime::now()).unwrap();
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
            let error = ServerTls::open(files.clone(), SystemTime::now())
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("PRIVATE KEY-----\nM"), "{error}");
        }
        fs::write(&files.key, &key).unwrap();
        let with_authorities = TlsFiles {
            client_ca: Some(folder.path().join("clients.pem")),
            ..files
        };
        let error = ServerTls::open(with_authorities.clone(), SystemTime::now())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("clients.pem cannot be read"), "{error}");
        fs::write(folder.path().join("clients.pem"), "").unwrap();
        let error = ServerTls::open(with_authorities, SystemTime::now())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("clients.pem has no certificate"), "{error}");
    }

    #[test]
    fn a_certificate_out_of_its_time_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let identity = |from: i32, to: i32| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(to, 1, 1);
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let write = |(certificate, key): &(String, String)| {
            fs::write(&files.certificate, certificate).unwrap();
            fs::write(&files.key, key).unwrap();
        };
        let (old, good, future) = (identity(2000, 2020), identity(2000, 2090), identity(2080, 2090));
        let now = SystemTime::now();
        for (bad, says) in [
            (&old, "ended at 2020-01-01T00:00:00Z"),
            (&future, "valid only from 2080-01-01T00:00:00Z"),
        ] {
            write(bad);
            let error = ServerTls::open(files.clone(), now).err().unwrap().to_string();
            assert!(error.contains(says) && error.contains("server.pem"), "{error}");
        }
        write(&good);
        let tls = ServerTls::open(files.clone(), now).unwrap();
        let before = tls.current();
        for bad in [&old, &future] {
            write(bad);
            assert!(matches!(tls.reload_at(now), Reloaded::Kept(reason) if reason.contains("server.pem")));
        }
        assert!(Arc::ptr_eq(&before, &tls.current()));
        // The last one is good once its time begins, which no file tells.
        assert_eq!(tls.reload_at(now), Reloaded::Unchanged, "it is told once");
        let begin = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(3_471_292_800);
        assert_eq!(tls.reload_at(begin), Reloaded::Replaced);
        assert_eq!(tls.reload_at(begin), Reloaded::Unchanged);
        write(&identity(2000, 2091));
        assert_eq!(tls.reload_at(now), Reloaded::Replaced);
    }

    #[test]
    fn the_end_of_the_certificate_comes_closer_and_passes() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let (certificate, key) = identity();
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.key, key).unwrap();
        let tls = ServerTls::open(files, SystemTime::now()).unwrap();
        let end = tls.current().validity.not_after;
        let second = std::time::Duration::from_secs(1);
        assert_eq!(tls.seconds_left(end - second), 1.0);
        assert_eq!(tls.seconds_left(end + second), -1.0);
        let told = || *tls.current().told.lock().unwrap();
        assert_eq!(told(), End::Far);
        for (at, expected) in [
            (end - second, End::Soon),
            (end + second, End::Past),
            (end - second, End::Past),
        ] {
            assert_eq!(tls.reload_at(at), Reloaded::Unchanged);
            assert_eq!(told(), expected, "each is told once");
        }
    }
}
