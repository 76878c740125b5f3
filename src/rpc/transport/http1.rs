//! One connection of the HTTP port, from its handshake to its end. Its requests go to a router, which makes calls of them
//! that are answered in this process.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tower::ServiceExt as _;

use super::{
    accept::Accepted,
    connection::{HEADER_BYTES, until_age},
    connections::{CallKind, ConnectionPermit, OpenCall},
    peer::{Peer, PeerAddress, Protocol, secured},
    service::Transport,
    tenant_use::CallPlace,
    turns::{TurnStream, Turns},
};
use crate::rpc::{clock::now, entrance::HEALTH_CHECK};

/// Most bytes of an answer that are handed on at once, so that the request counts as open while its client does not read.
const PIECE: usize = 64 << 10;

/// The HTTP port.
pub(crate) struct HttpPort<S> {
    /// What it shares with the gRPC port.
    pub(crate) transport: Arc<Transport<S>>,
    /// Answers the requests. Each has an [`Arrived`] in its extensions.
    pub(crate) router: Router,
}

/// What a connection says of a request, in the request's extensions.
#[derive(Clone)]
pub(crate) struct Arrived<S> {
    pub(crate) transport: Arc<Transport<S>>,
    pub(crate) peer: Peer,
    /// Its place in the accounts of tenants; `None` if too many requests are open.
    pub(crate) place: Option<CallPlace>,
    pub(crate) kind: CallKind,
    /// When its headers had arrived.
    pub(crate) at: Instant,
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S, T>(accepted: Accepted<T>, port: Arc<HttpPort<S>>)
where
    S: Clone + Send + Sync + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Accepted {
        stream,
        address,
        permit,
        shutdown,
    } = accepted;
    let (permit, times) = (Arc::new(permit), &port.transport.times);
    let evicted = permit.evicted();
    let handshake = secured(stream, port.transport.tls.as_deref(), Protocol::Http1);
    let begun = tokio::select! {
        begun = timeout(times.handshake, handshake) => begun,
        () = shutdown.abort.cancelled() => return,
        () = evicted.cancelled() => return,
    };
    let Ok(Some((stream, certificate))) = begun else {
        return;
    };
    let turns = Turns::new();
    let connection = Connection {
        peer: Peer {
            address: address.map(PeerAddress),
            certificate,
        },
        permit,
        turns: turns.clone(),
        port: Arc::clone(&port),
    };
    let stream = TokioIo::new(TurnStream::new(stream, turns.clone(), times.stream_idle));
    // Without a timer of its own: the turns have the time for headers, and for the pauses between requests.
    let mut served = pin!(
        http1::Builder::new()
            .max_buf_size(HEADER_BYTES as usize)
            .serve_connection(stream, service_fn(|request| connection.answer(request)))
    );
    let mut late = pin!(turns.until_late(times.handshake, times.connection_idle));
    let mut old = pin!(until_age(times.connection_age));
    let mut is_closing = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.abort.cancelled() => return,
            () = evicted.cancelled() => return,
            () = late.as_mut() => return,
            () = shutdown.close.cancelled(), if !is_closing => is_closing = true,
            () = old.as_mut(), if !is_closing => is_closing = true,
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    // Only its kind: the text may repeat what the peer has sent.
                    tracing::debug!(is_timeout = error.is_timeout(), is_parse = error.is_parse(), "a connection failed");
                }
                return;
            }
        }
        if is_closing {
            served.as_mut().graceful_shutdown();
        }
    }
}

/// An open connection.
struct Connection<S> {
    peer: Peer,
    permit: Arc<ConnectionPermit>,
    turns: Turns,
    port: Arc<HttpPort<S>>,
}

impl<S: Clone + Send + Sync + 'static> Connection<S> {
    /// Answers a request. Ends early when the peer is gone, and the request's calls end with it.
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<AnswerBody>, Infallible>> + use<S> {
        self.turns.request();
        let kind = match request.uri().path() {
            HEALTH_CHECK => CallKind::HealthCheck,
            _ => CallKind::Counted,
        };
        let call = self.permit.begin_call(kind);
        let transport = &self.port.transport;
        let place = call
            .as_ref()
            .map(|call| CallPlace::new(&transport.tenants, call.connection()));
        let open = OpenRequest {
            turns: self.turns.clone(),
            place: place.clone(),
            _call: call,
        };
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arrived {
            transport: Arc::clone(transport),
            peer: self.peer.clone(),
            place,
            kind,
            at: now(),
        });
        let router = self.port.router.clone();
        async move {
            let Ok(response) = router.oneshot(request).await;
            Ok(response.map(|body| AnswerBody {
                body,
                rest: Bytes::new(),
                _open: open,
            }))
        }
    }
}

/// A request until its answer is written.
struct OpenRequest {
    turns: Turns,
    place: Option<CallPlace>,
    _call: Option<OpenCall>,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.turns.answered();
        if let Some(place) = &self.place {
            place.end();
        }
    }
}

/// The body of an answer, which keeps its request open until all but its last piece has been taken.
struct AnswerBody {
    body: Body,
    /// What of a frame is still to be handed on.
    rest: Bytes,
    _open: OpenRequest,
}

impl AnswerBody {
    /// The next piece of the frame.
    fn piece(&mut self) -> Frame<Bytes> {
        Frame::data(self.rest.split_to(self.rest.len().min(PIECE)))
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let next = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(next.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    self.piece()
                }
                Err(trailers) => trailers,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}
