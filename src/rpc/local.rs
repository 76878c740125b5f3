//! The services for callers in this process: the same stack that answers the gRPC port. Requests of the HTTP port become
//! calls of it, so that whatever the stack checks, limits, counts and logs is so for them too.

use std::{
    future::{Future, poll_fn},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, Request, Response, Uri,
    header::{AUTHORIZATION, EXPECT, HeaderName, HeaderValue, ORIGIN},
    request::Parts,
};
use http_body::{Frame, SizeHint};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::Service as _;

use super::{
    call_layer::CallService,
    clock::now,
    deadline::Deadline,
    entrance::{RETRY, TENANT},
    envelopes::{EnvelopeLimits, Envelopes},
    error::ServiceError,
    limits::Limits,
    method::Method,
    origin::{CallOrigin, Door, REQUEST_ID},
    received_body::{ReceivedBody, collect, discard},
    record::{CallStart, Record},
    status::Reason,
    transport::{Arrived, Beyond, CallKind, CallPlace, HeldBytes, Intake, MadeMessages, Source},
};
use crate::{
    engine::Stage,
    telemetry::Tracer,
    trace_context::{TRACEPARENT, TRACESTATE},
};

/// What answers calls.
pub(super) type Stack = CallService<Routes>;

/// Headers of a request that its calls have too.
const PASSED_ON: [HeaderName; 5] = [
    AUTHORIZATION,
    HeaderName::from_static(TENANT),
    REQUEST_ID,
    HeaderName::from_static(TRACEPARENT),
    HeaderName::from_static(TRACESTATE),
];

/// Longest that the request of a health check may take to arrive. Strangers may send it.
const CHECK_RECEIVE: Duration = Duration::from_secs(5);

/// Whether a request of the HTTP port has become a call, in the request's extensions. Each call is counted and logged by itself.
#[derive(Clone, Default)]
pub(crate) struct CallsMade(Arc<AtomicBool>);

impl CallsMade {
    /// Whether there was any.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Who has sent a request to the HTTP port, and what its calls share.
#[derive(Clone)]
pub(crate) struct LocalCaller {
    arrived: Arrived<Stack>,
    /// Those of [`PASSED_ON`].
    headers: HeaderMap,
    /// Is told of its calls.
    made: CallsMade,
    /// Whether a page of a site with a name makes the request.
    is_page: bool,
    /// Whether the body comes without being asked for (`expect`).
    sends_at_once: bool,
    /// How much time the caller gives its request, from the arrival of its headers on.
    timeout: Option<Duration>,
}

impl LocalCaller {
    /// The caller of a request with these headers and extensions. `None` if it is not one of the HTTP port.
    pub(crate) fn of(
        headers: &HeaderMap,
        extensions: &Extensions,
        timeout: Option<Duration>,
    ) -> Option<Self> {
        let arrived = extensions.get::<Arrived<Stack>>()?.clone();
        let mut passed_on = HeaderMap::new();
        for name in PASSED_ON {
            for value in headers.get_all(&name) {
                passed_on.append(name.clone(), value.clone());
            }
        }
        Some(Self {
            arrived,
            headers: passed_on,
            made: extensions.get::<CallsMade>().cloned().unwrap_or_default(),
            is_page: headers.get_all(ORIGIN).iter().any(has_name),
            sends_at_once: !headers.contains_key(EXPECT),
            timeout,
        })
    }

    /// The limits that its requests have.
    pub(crate) fn limits(&self) -> &Limits {
        &self.arrived.transport.limits
    }

    /// The id of the request in the log.
    pub(crate) fn request_id(&self) -> &str {
        let id = self.headers.get(REQUEST_ID);
        id.and_then(|id| id.to_str().ok()).unwrap_or_default()
    }

    /// Whether the caller may send a body. Its calls check this again, and what they need beyond it.
    ///
    /// # Errors
    /// When too many requests are open, when nobody knows the caller, when its tenant holds too much of the port already, or when
    /// it is a page of another site.
    pub(crate) fn admit(&self) -> Result<(), ServiceError> {
        let Some(place) = &self.arrived.place else {
            return Err(ServiceError::TooManyCalls { retry_after: RETRY });
        };
        if self.arrived.kind == CallKind::HealthCheck {
            return Ok(());
        }
        let entrance = self.arrived.transport.service.entrance();
        if self.is_page && entrance.is_open() {
            return Err(ServiceError::PageOfAnotherSite);
        }
        let known = entrance.tenant(&self.headers, self.arrived.peer.certificate());
        match known.map_err(ServiceError::Unauthenticated)? {
            None => Ok(()),
            Some(tenant) => match place.charge(&tenant) {
                Ok(_) => Ok(()),
                Err(beyond) => Err(too_much(beyond)),
            },
        }
    }

    /// Reads the body of the request.
    ///
    /// # Errors
    /// When it is too large, does not arrive in time or not as a whole, or when the memory for requests is used up.
    pub(crate) async fn read(&self, mut body: axum::body::Body) -> Result<ReceivedBody, ServiceError> {
        let Arrived { transport, kind, .. } = &self.arrived;
        let (_, limit_bytes) = transport.room(*kind);
        let held = self.memory();
        let times = &transport.times;
        let receive = match kind {
            CallKind::Counted => times.receive,
            CallKind::HealthCheck => times.receive.min(CHECK_RECEIVE),
        };
        let (limit, late) = match self.time_left() {
            Some(left) if left < receive => (left, ServiceError::Deadline { stage: Stage::Queue }),
            _ => (receive, ServiceError::RequestIncomplete { limit: receive }),
        };
        let collected = timeout(limit, collect(&mut body, held, limit_bytes)).await;
        let received = collected.unwrap_or(Err(late));
        if let Err(ServiceError::MessageTooLarge { .. } | ServiceError::RequestMemory { .. }) = received
            && self.sends_at_once
        {
            // A client that is still sending would not see the answer if the connection were closed under it.
            tokio::spawn(timeout(times.handshake, discard(body)));
        }
        received
    }

    /// Reads the body of the request as messages in envelopes, of which each has the time and the size of a message over gRPC.
    pub(crate) fn envelopes(&self, body: axum::body::Body) -> Envelopes {
        let Arrived { transport, kind, .. } = &self.arrived;
        let times = &transport.times;
        let limits = EnvelopeLimits {
            limit_bytes: transport.room(*kind).1,
            receive: times.receive,
            linger: self.sends_at_once.then_some(times.handshake),
        };
        Envelopes::new(body, self.memory(), limits)
    }

    /// No bytes yet of the memory for requests, of which the caller may hold some.
    pub(crate) fn memory(&self) -> HeldBytes {
        let Arrived {
            transport,
            place,
            kind,
            ..
        } = &self.arrived;
        let part = place.as_ref().and_then(CallPlace::part);
        HeldBytes::none(part.as_ref().unwrap_or(transport.room(*kind).0))
    }

    /// The time that the caller still gives its request; `None` without a limit.
    fn time_left(&self) -> Option<Duration> {
        let passed = now().saturating_duration_since(self.arrived.at);
        self.timeout.map(|timeout| timeout.saturating_sub(passed))
    }

    /// Makes a call. It ends when its answer is dropped.
    pub(crate) async fn call(self, door: Door, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        self.answer(door, head, Source::Local(body)).await
    }

    /// Makes a call whose messages are made as they arrive. It ends when its answer is dropped.
    pub(crate) async fn call_with(self, door: Door, head: Parts, messages: MadeMessages) -> Response<Body> {
        self.answer(door, head, Source::Made(messages)).await
    }

    /// Counts and logs the request, which has become no call, as a call of the method with this path that ended so.
    pub(crate) fn record(&self, door: Door, path: &str, code: Code, reason: Option<Reason>) {
        let Some(method) = Method::of_path(path) else {
            return;
        };
        let Arrived {
            transport, peer, at, ..
        } = &self.arrived;
        let mut request = Request::new(());
        request.extensions_mut().insert(door);
        peer.mark(&mut request);
        // As for calls that are refused before they begin: they cannot fill the traces.
        let tracer = Tracer::off();
        let origin = CallOrigin::of(&self.headers, request.extensions(), &tracer);
        let span = origin.span(method.name());
        let entrance = transport.service.entrance();
        let Some(tenant) = entrance.tenant_for_log(&self.headers, peer.certificate()) else {
            return Record::stranger(method, span).end(code, reason);
        };
        let start = CallStart {
            method,
            began: *at,
            span,
            origin,
            deadline: Deadline::default(),
            tenant,
            tracer,
            in_flight: None,
        };
        Record::call(start).end(code, reason);
    }

    async fn answer(self, door: Door, mut head: Parts, source: Source) -> Response<Body> {
        self.made.0.store(true, Ordering::Release);
        for (name, value) in &self.headers {
            head.headers.append(name.clone(), value.clone());
        }
        if let Some(left) = self.time_left() {
            head.headers.insert("grpc-timeout", grpc_timeout(left));
        }
        let Arrived {
            transport,
            peer,
            place,
            kind,
            ..
        } = self.arrived;
        let Some(place) = place else {
            return (transport.refuse)(&head).map(|()| Body::empty());
        };
        let (budget, limit_bytes) = transport.room(kind);
        let (intake, arriving) = Intake::new(source, budget, limit_bytes);
        head.extensions.insert(place);
        head.extensions.insert(door);
        let mut request = Request::from_parts(head, intake);
        peer.mark(&mut request);
        let mut service = transport.service.clone();
        let mut arriving = Box::pin(arriving);
        let Ok(()) = poll_fn(|context| service.poll_ready(context)).await;
        let response = tokio::select! {
            biased;
            never = arriving.as_mut() => match never {},
            response = service.call(request) => response,
        };
        let Ok(response) = response;
        response.map(|body| Body::new(Answer { body, arriving }))
    }
}

/// Whether the origin of a page is a site with a name. Whoever owns a name can let it lead to any address, also to one that only
/// this machine reaches; a page from an address or from localhost has come from there.
fn has_name(origin: &HeaderValue) -> bool {
    let uri = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let Some(host) = uri.as_ref().and_then(Uri::host) else {
        // `null`, which pages without a site of their own have.
        return true;
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host != "localhost" && address.parse::<IpAddr>().is_err()
}

/// The refusal of a caller whose tenant holds too much of the port.
fn too_much(beyond: Beyond) -> ServiceError {
    match beyond {
        Beyond::Calls => ServiceError::TooManyCalls { retry_after: RETRY },
        Beyond::Bytes => ServiceError::RequestMemory { retry_after: RETRY },
    }
}

/// A duration as the header says it, in at most eight digits.
fn grpc_timeout(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let text = match (left.as_micros(), left.as_millis()) {
        (micros, _) if micros <= MOST => format!("{micros}u"),
        (_, millis) if millis <= MOST => format!("{millis}m"),
        _ => format!("{}S", u128::from(left.as_secs()).min(MOST)),
    };
    // Digits and a letter are always a value.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0u"))
}

/// The body of an answer. While it is read, the rest of a request that is a stream is read too.
struct Answer<F> {
    body: Body,
    arriving: Pin<Box<F>>,
}

impl<F: Future<Output = std::convert::Infallible>> http_body::Body for Answer<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(never) = this.arriving.as_mut().poll(context) {
            match never {}
        }
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::deadline::grpc_timeout as parsed;

    #[test]
    fn sites_with_a_name_are_known_by_their_origin() {
        let has_name = |origin: &'static str| has_name(&HeaderValue::from_static(origin));
        for name in [
            "https://example.com",
            "http://rebound.example:8080",
            "null",
            "localhost.example",
            "",
        ] {
            assert!(has_name(name), "{name}");
        }
        for address in [
            "http://localhost:8080",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "https://10.0.0.7",
        ] {
            assert!(!has_name(address), "{address}");
        }
    }

    #[test]
    fn the_time_that_is_left_becomes_a_timeout_of_the_call() {
        for (left, text) in [
            (Duration::ZERO, "0u"),
            (Duration::from_millis(250), "250000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::MAX, "99999999S"),
        ] {
            let value = grpc_timeout(left);
            assert_eq!(value, text);
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value);
            assert_eq!(parsed(&headers), Some(left.min(Duration::from_secs(99_999_999))));
        }
    }
}
