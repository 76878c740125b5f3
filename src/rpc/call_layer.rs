//! Gives every request its [`Call`]: reads its headers, bounds its time, and counts it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, codegen::http};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{
    access::{ForeignCall, millis},
    call::{Call, Received, RefusedRequest},
    clock::now,
    deadline::{Deadline, grpc_timeout},
    element_counts::ElementCounts,
    entrance::{Admitted, Entrance, RETRY},
    error::ServiceError,
    limits::{DefaultDeadlines, TimeLimits},
    method::Method,
    origin::CallOrigin,
    record::{CallStart, InFlightCount, Record},
    request_body::{CallBody, RequestBody},
    transport::Intake,
};
use crate::{
    engine::{Stage, Tenant},
    telemetry::Tracer,
};

/// Gives each request its [`Call`], and ensures that the response begins before the deadline, even while the request's
/// body is still arriving.
#[derive(Clone)]
pub(crate) struct CallLayer {
    pub(crate) defaults: Arc<DefaultDeadlines>,
    pub(crate) times: TimeLimits,
    pub(crate) counts: Arc<ElementCounts>,
    pub(crate) in_flight: InFlightCount,
    /// Cancelled when the server accepts no new work. A drain does not wait for calls that arrive after that, because they
    /// are only refused.
    pub(crate) draining: CancellationToken,
    /// Who may call.
    pub(crate) entrance: Entrance,
    /// Takes the spans of calls.
    pub(crate) tracer: Tracer,
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallService {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`CallLayer`].
#[derive(Clone)]
pub(crate) struct CallService<S> {
    inner: S,
    layer: CallLayer,
}

impl<S> CallService<S> {
    /// Who may call.
    pub(crate) fn entrance(&self) -> &Entrance {
        &self.layer.entrance
    }
}

type ResponseFuture<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> Service<http::Request<Intake>> for CallService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Intake>) -> Self::Future {
        let receive = self.layer.times.receive;
        let entrance = &self.layer.entrance;
        let method = Method::of_path(request.uri().path());
        let admitted = match method {
            Some(method) => entrance.admit(method, &request),
            None => entrance.admit_foreign(&request).map(|()| Admitted {
                tenant: Tenant::default(),
                credential: None,
            }),
        };
        let Admitted { tenant, credential } = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                let response = refusal(&request.into_parts().0, &error).map(|()| Body::empty());
                return Box::pin(async { Ok(response) });
            }
        };
        // Nothing behind this needs the header.
        request.headers_mut().remove(http::header::AUTHORIZATION);
        let origin = CallOrigin::of(request.headers(), request.extensions(), &self.layer.tracer);
        let refused = request.extensions_mut().remove::<RefusedRequest>();
        let Some(method) = method else {
            let foreign = ForeignCall::new(request.uri().path(), origin);
            if let Some(RefusedRequest(error)) = refused {
                let origin = foreign.origin().clone();
                foreign.answered(error.reason().code());
                return answered(&origin, error.to_status(&origin.request_id));
            }
            let (head, intake) = request.into_parts();
            let body = RequestBody::foreign(intake, receive, head.uri.path());
            let request = http::Request::from_parts(head, Body::new(body));
            return self.forward(foreign, request);
        };
        let arrival = now();
        let deadline = match grpc_timeout(request.headers()) {
            Some(timeout) => method.requested_deadline(arrival, timeout, self.layer.times.longest_deadline),
            None => method.default_deadline(arrival, &self.layer.defaults),
        };
        let span = origin.span(method.name());
        let in_flight = (!self.layer.draining.is_cancelled()).then(|| self.layer.in_flight.begin());
        let call = Call {
            deadline,
            tenant: tenant.clone(),
            credential,
            request_id: Arc::clone(&origin.request_id),
            record: Record::call(CallStart {
                method,
                began: arrival,
                origin: origin.clone(),
                span: span.clone(),
                deadline,
                tenant,
                tracer: self.layer.tracer.clone(),
                in_flight,
            }),
            received: Received::default(),
        };
        if let Some(RefusedRequest(error)) = refused {
            return answered(&origin, call.fail(&error));
        }
        let body = CallBody {
            call: call.clone(),
            counts: Arc::clone(&self.layer.counts),
        };
        let mut request = request.map(|intake| Body::new(RequestBody::of_call(intake, receive, body)));
        request.extensions_mut().insert(call.clone());
        let inner = span.in_scope(|| {
            let left = deadline.instant().map(|at| at.saturating_duration_since(arrival));
            tracing::debug!(deadline_ms = left.map(millis), "a call begins");
            self.inner.call(request)
        });
        let answer = async move {
            let mut response = tokio::select! {
                biased;
                response = inner => response?,
                () = deadline.passed() => {
                    let error = ServiceError::Deadline { stage: Stage::Queue };
                    call.fail(&error).into_http()
                }
            };
            // A status in the headers is the whole response. So requests that reach no handler are counted too.
            if let Some(code) = status_in_headers(&response) {
                call.record.finish(code);
            }
            origin.write(response.headers_mut());
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

impl<S> CallService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    /// Forwards a call that is not for our services.
    fn forward(&mut self, foreign: ForeignCall, request: http::Request<Body>) -> ResponseFuture<S::Error> {
        let (span, origin) = (foreign.span().clone(), foreign.origin().clone());
        let inner = self.inner.call(request);
        let answer = async move {
            let mut response = inner.await?;
            foreign.answered(status_in_headers(&response).unwrap_or(Code::Ok));
            origin.write(response.headers_mut());
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// The answer to a call that fails at once.
fn answered<E>(origin: &CallOrigin, status: Status) -> ResponseFuture<E> {
    let mut response = status.into_http();
    origin.write(response.headers_mut());
    Box::pin(async { Ok(response) })
}

/// The response to a call that is refused before it begins. The call is counted like all others, and logged like them unless
/// nobody knows who makes it.
fn refusal(call: &http::request::Parts, error: &ServiceError) -> http::Response<()> {
    let is_stranger = matches!(error, ServiceError::Unauthenticated(_));
    // Strangers whose calls are refused cannot fill the traces.
    let tracer = Tracer::off();
    let origin = CallOrigin::of(&call.headers, &call.extensions, &tracer);
    match Method::of_path(call.uri.path()) {
        Some(method) if is_stranger => {
            Record::stranger(method, origin.span(method.name())).fail(error);
        }
        Some(method) => {
            let start = CallStart {
                method,
                began: now(),
                span: origin.span(method.name()),
                origin: origin.clone(),
                deadline: Deadline::default(),
                // Nobody has checked which tenant it is.
                tenant: Tenant::default(),
                tracer,
                in_flight: None,
            };
            Record::call(start).fail(error);
        }
        None => {
            let foreign = ForeignCall::new(call.uri.path(), origin.clone());
            match is_stranger {
                true => foreign.refused(error.reason().code()),
                false => foreign.answered(error.reason().code()),
            }
        }
    }
    let mut response = error.to_status(&origin.request_id).into_http();
    origin.write(response.headers_mut());
    response
}

/// The response to a call that is refused because too many are open.
pub(crate) fn too_many_calls(call: &http::request::Parts) -> http::Response<()> {
    refusal(call, &ServiceError::TooManyCalls { retry_after: RETRY })
}

/// The status of a response that consists of headers only.
fn status_in_headers(response: &http::Response<Body>) -> Option<Code> {
    let status = response.headers().get(Status::GRPC_STATUS)?;
    Some(Code::from_bytes(status.as_bytes()))
}
