//! One connection, from its handshake to its end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use h2::{Ping, PingPong, Reason, server};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::field::debug;

use super::{
    accept::Transport,
    connections::Place,
    exchange::{CallService, exchange, refuse},
    socket::Socket,
};

/// Dead peers are found out within about twice this.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long a peer may take to answer a ping.
const PONG: Duration = Duration::from_secs(20);

/// Bytes that one call's client may send ahead of what the call has taken. Beyond a message that is being received, a
/// call never has more than this in memory.
const CALL_WINDOW: u32 = 64 << 10;

/// Bytes of an answer that wait in memory for a client that reads slowly; the rest is not made before.
const SEND_BUFFER: usize = 64 << 10;

/// Bytes of a request's headers.
const HEADER_BYTES: u32 = 16 << 10;

/// What h2's bookkeeping of small frames may take, in bytes, between two turns of the calls that take them.
const SMALL_FRAMES: usize = 8 << 20;

/// What probes ask: it is answered however many calls are open, since a server that is busy is not ill.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What ends a connection from outside.
pub(super) struct Leaving {
    /// The peer is asked to go; calls that are open finish.
    pub(super) leave: CancellationToken,
    /// It ends at once.
    pub(super) cut: CancellationToken,
}

/// Serves a connection until it ends.
pub(super) async fn serve<S: CallService>(
    stream: TcpStream,
    place: Place,
    transport: Arc<Transport<S>>,
    leaving: Leaving,
) {
    metrics::gauge!("babelward_connections").increment(1);
    let (cut, close) = (leaving.cut.clone(), place.close());
    let handshake = timeout(
        transport.times.handshake,
        builder(&transport).handshake(Socket::new(stream)),
    );
    let begun = tokio::select! {
        begun = handshake => begun,
        () = cut.cancelled() => return ended(),
        () = close.cancelled() => return ended(),
    };
    if let Ok(Ok(connection)) = begun {
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = converse(connection, place, &transport, &leaving.leave) => {}
        }
    }
    ended();
}

fn ended() {
    metrics::gauge!("babelward_connections").decrement(1);
}

fn builder<S>(transport: &Transport<S>) -> server::Builder {
    let streams = transport.limits.connection_streams;
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(streams)
        .initial_window_size(CALL_WINDOW)
        // Room for every call's window, so that calls that wait do not hold up others.
        .initial_connection_window_size(streams.saturating_mul(CALL_WINDOW).min(i32::MAX as u32))
        .max_header_list_size(HEADER_BYTES)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES);
    builder
}

/// Answers calls until the connection ends, by itself or because it must.
async fn converse<S: CallService>(
    mut connection: server::Connection<Socket, Bytes>,
    place: Place,
    transport: &Arc<Transport<S>>,
    leave: &CancellationToken,
) {
    let place = Arc::new(place);
    let close = place.close();
    let times = &transport.times;
    let Some(ping_pong) = connection.ping_pong() else {
        return;
    };
    let dead = dead(ping_pong, times.handshake, Arc::clone(&place));
    let idle = sleep(times.connection_idle);
    let old = old(times.connection_age);
    tokio::pin!(dead, idle, old);
    let mut is_leaving = false;
    loop {
        let leaves = tokio::select! {
            biased;
            () = close.cancelled() => break,
            () = &mut dead => break,
            () = leave.cancelled(), if !is_leaving => true,
            () = &mut old, if !is_leaving => true,
            () = &mut idle, if !is_leaving => match place.idle_time_left(times.connection_idle) {
                Some(left) => {
                    idle.as_mut().reset(Instant::now() + left);
                    false
                }
                None => true,
            },
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    if let Some(call) = place.call(request.uri().path() == HEALTH) {
                        tokio::spawn(exchange(Arc::clone(transport), request, respond, call));
                    } else {
                        refuse(&request.into_parts().0, respond);
                    }
                    false
                }
                Some(Err(error)) => {
                    // Its text may repeat what the peer wrote.
                    let io = error.get_io().map(|error| debug(error.kind()));
                    tracing::debug!(reason = error.reason().map(debug), io, "a connection failed");
                    return;
                }
                None => return,
            },
        };
        if leaves {
            is_leaving = true;
            connection.graceful_shutdown();
        }
    }
    // It goes at once; what can be said without waiting is said.
    connection.abrupt_shutdown(Reason::NO_ERROR);
    let _ = connection.accept().now_or_never();
}

/// Resolves when the peer does not answer: first within the time of the handshake, then to every ping.
async fn dead(mut ping_pong: PingPong, handshake: Duration, place: Arc<Place>) {
    if !answers(&mut ping_pong, handshake).await {
        return;
    }
    place.speaks();
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

/// Resolves at that age; never without one.
async fn old(age: Option<Duration>) {
    match age.and_then(|age| Instant::now().checked_add(age)) {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
