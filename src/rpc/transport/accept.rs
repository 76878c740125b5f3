//! Taking connections.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    budget::RequestBytes,
    connection::{self, Leaving},
    connections::Connections,
    exchange::CallService,
};
use crate::rpc::limits::{Limits, TimeLimits};

/// How long to wait when the system gives no connection, as when there are no file descriptors left: trying at once
/// would only keep a core busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
pub(crate) struct Transport<S> {
    pub(crate) service: S,
    pub(crate) limits: Limits,
    pub(crate) times: TimeLimits,
    pub(crate) connections: Arc<Connections>,
    pub(crate) request_bytes: Arc<RequestBytes>,
}

/// How serving ends.
#[derive(Clone)]
pub(crate) struct Ends {
    /// Connections that are open when this comes are asked to go, so that their clients connect anew, perhaps elsewhere.
    /// Those that come later are served too.
    pub(crate) draining: CancellationToken,
    /// No connection is taken any more, and all are asked to go.
    pub(crate) closing: CancellationToken,
    /// All are cut off.
    pub(crate) cut: CancellationToken,
}

/// Takes connections until the end, each with a task of its own.
pub(crate) async fn listen<S: CallService>(
    listener: TcpListener,
    transport: Arc<Transport<S>>,
    ends: Ends,
    tasks: TaskTracker,
) {
    loop {
        let next = async {
            let socket = transport.connections.socket().await;
            (listener.accept().await, socket)
        };
        let (accepted, socket) = tokio::select! {
            () = ends.closing.cancelled() => return,
            next = next => next,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                transport.connections.shed();
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = transport.connections.admit(socket) else {
            metrics::counter!("babelward_connections_refused_total").increment(1);
            continue;
        };
        // Small messages leave at once; a socket that cannot do so still works.
        let _ = stream.set_nodelay(true);
        let leaving = Leaving {
            leave: if ends.draining.is_cancelled() {
                ends.closing.clone()
            } else {
                ends.draining.clone()
            },
            cut: ends.cut.clone(),
        };
        tasks.spawn(connection::serve(stream, place, Arc::clone(&transport), leaving));
    }
}

/// Its peer was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
