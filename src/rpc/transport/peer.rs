//! The other end of a connection: its address, TLS with it, and the certificate that it has shown.

use std::{net::SocketAddr, sync::Arc};

use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::either::Either;

use super::socket::MaybeTls;
use crate::tls::{PeerCertificate, ServerTls};

/// The address of the other end of a call's connection, in the extensions of the call's request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

/// The other end of a connection.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(super) address: Option<PeerAddress>,
    /// Its certificate, if it has shown one.
    pub(super) certificate: Option<Arc<PeerCertificate>>,
}

impl Peer {
    /// The certificate that it has shown, if it has shown one.
    pub(crate) fn certificate(&self) -> Option<&PeerCertificate> {
        self.certificate.as_deref()
    }

    /// Adds what is known of the peer to a request of it.
    pub(crate) fn mark<B>(&self, request: &mut Request<B>) {
        if let Some(address) = self.address {
            request.extensions_mut().insert(address);
        }
        if let Some(certificate) = &self.certificate {
            request.extensions_mut().insert(Arc::clone(certificate));
        }
    }
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, which clients need not name.
    Http1,
    /// HTTP/2, which clients must name.
    Http2,
}

/// Agrees on TLS, where the server speaks it. `None` when the peer does not, or has no certificate that it must have.
pub(super) async fn secured<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
    tls: Option<&ServerTls>,
    protocol: Protocol,
) -> Option<(MaybeTls<T>, Option<Arc<PeerCertificate>>)> {
    let Some(tls) = tls else {
        return Some((Either::Left(stream), None));
    };
    let failed = |reason: &str| {
        metrics::counter!("babelward_tls_failures_total").increment(1);
        tracing::debug!(reason, "a connection with TLS failed");
    };
    let acceptor = match protocol {
        Protocol::Http1 => tls.http(),
        Protocol::Http2 => tls.grpc(),
    };
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            failed(&error.to_string());
            return None;
        }
    };
    let (_, session) = stream.get_ref();
    if protocol == Protocol::Http2 && !ServerTls::is_http2(session.alpn_protocol()) {
        failed("the client does not name HTTP/2 (ALPN)");
        return None;
    }
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let certificate = shown.and_then(PeerCertificate::read).map(Arc::new);
    Some((Either::Right(Box::new(stream)), certificate))
}
