//! Connections to an endpoint: plain ones, or encrypted ones to the host that its certificate must name.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use super::{error::EndpointError, options::EndpointOptions};
use crate::{errors::with_causes, tls::client_tls};

/// Longest time for a connection, and for its handshake.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectFailure {
    #[error("{0}")]
    Tcp(String),
    #[error("{0}")]
    Tls(String),
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    tls: Option<Encryption>,
}

#[derive(Clone)]
struct Encryption {
    connector: TlsConnector,
    host: ServerName<'static>,
}

impl Connector {
    pub(super) fn new(options: &EndpointOptions) -> Result<Self, EndpointError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIME));
        let tls = match options.url.is_encrypted() {
            true => {
                let host = options.url.host().to_owned();
                let name = ServerName::try_from(host.clone()).map_err(|_| EndpointError::Host(host))?;
                let config = client_tls(options.ca_file.as_deref())?;
                Some(Encryption {
                    connector: TlsConnector::from(config),
                    host: name,
                })
            }
            false => None,
        };
        Ok(Self { tcp, tls })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<EndpointSocket>;
    type Error = ConnectFailure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectFailure>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectFailure>> {
        let ready = self.tcp.poll_ready(context);
        ready.map_err(|error| ConnectFailure::Tcp(with_causes(&error)))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.tcp.call(to);
        let tls = self.tls.clone();
        Box::pin(async move {
            let plain = connecting
                .await
                .map_err(|error| ConnectFailure::Tcp(with_causes(&error)))?
                .into_inner();
            let Some(Encryption { connector, host }) = tls else {
                return Ok(TokioIo::new(EndpointSocket::Plain(plain)));
            };
            let shaken = timeout(CONNECT_TIME, connector.connect(host, plain)).await;
            let shaken =
                shaken.map_err(|_| ConnectFailure::Tls("the handshake takes too long".to_owned()))?;
            let encrypted = shaken.map_err(|error| ConnectFailure::Tls(with_causes(&error)))?;
            Ok(TokioIo::new(EndpointSocket::Encrypted(Box::new(encrypted))))
        })
    }
}

/// A connection.
pub(super) enum EndpointSocket {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Connection for EndpointSocket {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(socket) => socket.connected(),
            Self::Encrypted(stream) => stream.get_ref().0.connected(),
        }
    }
}

impl AsyncRead for EndpointSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, into),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for EndpointSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
