//! One connection, from its handshake to its end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use h2::{Ping, PingPong, Reason, server};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::field::debug;

use super::{
    accept::Accepted,
    connections::{CallKind, ConnectionPermit},
    exchange::{exchange, refuse},
    peer::{Peer, PeerAddress, Protocol, secured},
    service::{CallService, Transport},
    socket::Socket,
};
use crate::{rpc::entrance::HEALTH_CHECK, tls::PeerCertificate};

/// Time between pings. A dead peer is detected within about twice this.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long a peer may take to answer a ping.
const PONG: Duration = Duration::from_secs(20);

/// Bytes that the client of a call may send ahead of what the call has read. Besides the message that is being received,
/// a call never has more than this in memory.
const CALL_WINDOW: u32 = 64 << 10;

/// Most bytes of an answer that wait in memory for a client that reads slowly. The rest is not produced before.
const SEND_BUFFER: usize = 64 << 10;

/// Most bytes of a request's headers.
pub(super) const HEADER_BYTES: u32 = 16 << 10;

/// Most bytes that h2 may use for its records of small frames, before the calls read them.
const SMALL_FRAMES: usize = 8 << 20;

/// Serves a connection until it ends.
pub(crate) async fn serve<S: CallService, T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    accepted: Accepted<T>,
    transport: Arc<Transport<S>>,
) {
    let Accepted {
        stream,
        address,
        permit,
        shutdown,
    } = accepted;
    let (abort, evicted) = (shutdown.abort.clone(), permit.evicted());
    let handshake = timeout(transport.times.handshake, handshake(stream, &transport));
    let begun = tokio::select! {
        begun = handshake => begun,
        () = abort.cancelled() => return,
        () = evicted.cancelled() => return,
    };
    if let Ok(Some((connection, certificate))) = begun {
        let peer = Peer {
            address: address.map(PeerAddress),
            certificate,
        };
        tokio::select! {
            biased;
            () = abort.cancelled() => {}
            () = serve_calls(connection, peer, permit, &transport, &shutdown.close) => {}
        }
    }
}

/// Agrees on TLS, where the server speaks it, and on HTTP/2. `None` when the peer speaks something else.
async fn handshake<S, T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
    transport: &Transport<S>,
) -> Option<(server::Connection<Socket<T>, Bytes>, Option<Arc<PeerCertificate>>)> {
    let (stream, certificate) = secured(stream, transport.tls.as_deref(), Protocol::Http2).await?;
    let connection = builder(transport).handshake(Socket::new(stream)).await.ok()?;
    Some((connection, certificate))
}

fn builder<S>(transport: &Transport<S>) -> server::Builder {
    let streams = transport.limits.connection_streams;
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(streams)
        .initial_window_size(CALL_WINDOW)
        // Room for the window of every call, so that waiting calls do not block others.
        .initial_connection_window_size(streams.saturating_mul(CALL_WINDOW).min(i32::MAX as u32))
        .max_header_list_size(HEADER_BYTES)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES);
    builder
}

/// Answers calls until the peer or the server ends the connection.
async fn serve_calls<S: CallService, T: AsyncRead + AsyncWrite + Unpin>(
    mut connection: server::Connection<Socket<T>, Bytes>,
    peer: Peer,
    permit: ConnectionPermit,
    transport: &Arc<Transport<S>>,
    close: &CancellationToken,
) {
    let permit = Arc::new(permit);
    let evicted = permit.evicted();
    let times = &transport.times;
    let Some(ping_pong) = connection.ping_pong() else {
        return;
    };
    let dead = until_dead(ping_pong, times.handshake, Arc::clone(&permit));
    let idle = sleep(times.connection_idle);
    let old = until_age(times.connection_age);
    tokio::pin!(dead, idle, old);
    let mut is_closing = false;
    loop {
        let must_close = tokio::select! {
            biased;
            () = evicted.cancelled() => break,
            () = &mut dead => break,
            () = close.cancelled(), if !is_closing => true,
            () = &mut old, if !is_closing => true,
            () = &mut idle, if !is_closing => match permit.idle_time_left(times.connection_idle) {
                Some(left) => {
                    idle.as_mut().reset(Instant::now() + left);
                    false
                }
                None => true,
            },
            accepted = connection.accept() => match accepted {
                Some(Ok((mut request, respond))) => {
                    peer.mark(&mut request);
                    let kind = match request.uri().path() {
                        HEALTH_CHECK => CallKind::HealthCheck,
                        _ => CallKind::Counted,
                    };
                    if let Some(call) = permit.begin_call(kind) {
                        tokio::spawn(exchange(Arc::clone(transport), request, respond, call));
                    } else {
                        refuse(transport.refuse, &request.into_parts().0, respond);
                    }
                    false
                }
                Some(Err(error)) => {
                    // The text of the error is not logged, because it may repeat what the peer has sent.
                    let io = error.get_io().map(|error| debug(error.kind()));
                    tracing::debug!(reason = error.reason().map(debug), io, "a connection failed");
                    return;
                }
                None => return,
            },
        };
        if must_close {
            is_closing = true;
            connection.graceful_shutdown();
        }
    }
    // The connection is closed at once. What can be sent without waiting is sent.
    connection.abrupt_shutdown(Reason::NO_ERROR);
    let _ = connection.accept().now_or_never();
}

/// Resolves when the peer does not answer: the first ping within the time of the handshake, and every later one.
async fn until_dead(mut ping_pong: PingPong, handshake: Duration, permit: Arc<ConnectionPermit>) {
    if !answers(&mut ping_pong, handshake).await {
        return;
    }
    permit.has_spoken();
    loop {
        sleep(KEEPALIVE).await;
        if !answers(&mut ping_pong, PONG).await {
            return;
        }
    }
}

async fn answers(ping_pong: &mut PingPong, within: Duration) -> bool {
    matches!(timeout(within, ping_pong.ping(Ping::opaque())).await, Ok(Ok(_)))
}

/// Resolves when the connection has this age; without one, never.
pub(super) async fn until_age(age: Option<Duration>) {
    match age.and_then(|age| Instant::now().checked_add(age)) {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
