//! Reads the metrics of a server over HTTP, as Prometheus does, with the authorities, the certificate and the key that its
//! calls are made with.

use tonic::metadata::AsciiMetadataValue;
use ureq::{
    http::{StatusCode, header},
    tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem},
};

use super::{
    channel::{ClientOptions, PlaintextToken, is_private},
    credentials::ClientIdentity,
    error,
};

/// Most bytes of a server's metrics. A server with a hundred models has about a megabyte.
const BYTES: u64 = 16 << 20;

/// Reads the metrics of one server.
#[derive(Clone)]
pub struct MetricsReader {
    agent: ureq::Agent,
    url: String,
    authorization: Option<AsciiMetadataValue>,
}

/// Why metrics cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricsReadError {
    /// Nothing answers at the address, or not as it should.
    #[error("{url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The key or token would be sent to another machine where others can read it.
    #[error(
        "{url}: a key or token is not sent there without encryption; say https://, or --insecure-plaintext-token"
    )]
    PlaintextToken {
        /// The address.
        url: String,
    },
    /// The server wants a credential, or another one.
    #[error("{url}: send a key or token that has the scope metrics (--token-file)")]
    Unauthorised {
        /// The address.
        url: String,
    },
    /// Something else answers there.
    #[error("{url}: HTTP status {status}; is it the address of the metrics?")]
    Status {
        /// The address.
        url: String,
        /// The status of the answer.
        status: u16,
    },
}

impl MetricsReader {
    /// A reader for this address: `http://` or `https://`, host, port and path.
    ///
    /// # Errors
    /// [`MetricsReadError::Unreachable`] when a certificate or key of the options is none;
    /// [`MetricsReadError::PlaintextToken`].
    pub fn new(url: &str, options: &ClientOptions) -> Result<Self, MetricsReadError> {
        let failed = |reason: String| MetricsReadError::Unreachable {
            url: url.to_owned(),
            reason,
        };
        let may_send = options.plaintext_token == PlaintextToken::Sent
            || url.parse().is_ok_and(|address| is_private(&address));
        if options.token.is_some() && !may_send {
            return Err(MetricsReadError::PlaintextToken { url: url.to_owned() });
        }
        let tls = TlsConfig::builder()
            .root_certs(roots(options.authorities.as_deref()).map_err(failed)?)
            .client_cert(
                options
                    .identity
                    .as_ref()
                    .map(identity)
                    .transpose()
                    .map_err(failed)?,
            )
            .build();
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(options.call_timeout)
            .tls_config(tls)
            .user_agent(concat!("babelward/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: agent.into(),
            url: url.to_owned(),
            authorization: options.token.as_ref().map(|token| token.header()),
        })
    }

    /// The address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The metrics in Prometheus's text format. Waits, so it must not be called on a thread of the runtime.
    ///
    /// # Errors
    /// [`MetricsReadError`].
    pub fn read(&self) -> Result<String, MetricsReadError> {
        let failed = |error: ureq::Error| MetricsReadError::Unreachable {
            url: self.url.clone(),
            reason: error::innermost(&error),
        };
        let request = self.agent.get(&self.url);
        let request = match &self.authorization {
            Some(value) => request.header(header::AUTHORIZATION, value.as_encoded_bytes()),
            None => request,
        };
        let mut response = request.call().map_err(failed)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(MetricsReadError::Unauthorised {
                    url: self.url.clone(),
                });
            }
            status => {
                return Err(MetricsReadError::Status {
                    url: self.url.clone(),
                    status: status.as_u16(),
                });
            }
        }
        let body = response.body_mut().with_config().limit(BYTES);
        body.read_to_string().map_err(failed)
    }
}

/// The authorities in this PEM text; those that the system trusts, as for calls, where there is none.
fn roots(authorities: Option<&[u8]>) -> Result<RootCerts, String> {
    let certificates = match authorities {
        Some(pem) => certificates(pem)?,
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            let owned = found.iter().map(|der| Certificate::from_der(der).to_owned());
            owned.collect()
        }
    };
    Ok(RootCerts::new_with_certs(&certificates))
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let items = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(error.to_string())),
    });
    items.collect()
}

fn identity(identity: &ClientIdentity) -> Result<ClientCert, String> {
    let chain = certificates(&identity.certificates)?;
    let key = PrivateKey::from_pem(identity.key.expose().as_bytes()).map_err(|error| error.to_string())?;
    Ok(ClientCert::new_with_certs(&chain, key))
}
