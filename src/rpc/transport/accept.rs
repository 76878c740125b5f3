//! Accepts connections until the server shuts down.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::connections::{ConnectionPermit, Connections};

/// How long to wait after the system could not accept a connection, for example because no file descriptors are left.
/// Trying again at once would only keep a core busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from: a port or, in a simulation, a network in memory.
pub trait Incoming: Send + 'static {
    /// A connection, before anything was said on it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The address of a connection's other end, where it has one.
    fn peer(_stream: &Self::Stream) -> Option<SocketAddr> {
        None
    }
}

impl Incoming for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        // Small messages are sent at once. A socket without this option still works.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn peer(stream: &TcpStream) -> Option<SocketAddr> {
        stream.peer_addr().ok()
    }
}

/// The stages in which the server shuts down.
#[derive(Clone)]
pub(crate) struct Shutdown {
    /// Connections that are open at this moment are asked to close (GOAWAY), so that their clients reconnect, perhaps to
    /// another server. Later connections are still served.
    pub(crate) draining: CancellationToken,
    /// No more connections are accepted, and all are asked to close.
    pub(crate) closing: CancellationToken,
    /// All connections are closed at once.
    pub(crate) abort: CancellationToken,
}

/// How the server ends a connection.
pub(super) struct ConnectionShutdown {
    /// The peer is asked to close the connection; open calls finish.
    pub(super) close: CancellationToken,
    /// The connection ends at once.
    pub(super) abort: CancellationToken,
}

/// A connection that was accepted and admitted.
pub(crate) struct Accepted<T> {
    pub(super) stream: T,
    /// The address of its other end, where it has one.
    pub(super) address: Option<SocketAddr>,
    pub(super) permit: ConnectionPermit,
    pub(super) shutdown: ConnectionShutdown,
}

/// Accepts connections until the server closes, and serves each on a task of its own.
pub(crate) async fn listen<L: Incoming + Sync, F: Future<Output = ()> + Send + 'static>(
    listener: L,
    connections: Arc<Connections>,
    shutdown: Shutdown,
    tasks: TaskTracker,
    serve: impl Fn(Accepted<L::Stream>) -> F,
) {
    loop {
        let next = async {
            let socket = connections.acquire_socket().await;
            (listener.accept().await, socket)
        };
        let (accepted, socket) = tokio::select! {
            () = shutdown.closing.cancelled() => return,
            next = next => next,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if concerns_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                connections.evict_one();
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(permit) = connections.admit(socket) else {
            metrics::counter!("babelward_connections_refused_total").increment(1);
            continue;
        };
        let shutdown = ConnectionShutdown {
            close: if shutdown.draining.is_cancelled() {
                shutdown.closing.clone()
            } else {
                shutdown.draining.clone()
            },
            abort: shutdown.abort.clone(),
        };
        tasks.spawn(serve(Accepted {
            address: L::peer(&stream),
            stream,
            permit,
            shutdown,
        }));
    }
}

/// Whether the error is that a peer was gone before its connection was accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
