//! Gives every request its [`Call`]: reads its headers, bounds its time, and counts it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{self, HeaderValue},
};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{
    access::{ForeignCall, call_span, millis},
    call::{Call, Received},
    clock::now,
    deadline::{Deadline, grpc_timeout},
    element_counts::ElementCounts,
    entrance::Entrance,
    error::ServiceError,
    limits::{DefaultDeadlines, TimeLimits},
    method::Method,
    record::{InFlightCount, Record},
    request_body::{CallBody, RequestBody},
    transport::Intake,
};
use crate::engine::{Stage, Tenant};

/// The header with the id of a call.
const REQUEST_ID: &str = "x-request-id";

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
            None => entrance.admit_foreign(&request).map(|()| Tenant::default()),
        };
        let tenant = match admitted {
            Ok(tenant) => tenant,
            Err(error) => {
                let response = refusal(&request.into_parts().0, &error).map(|()| Body::empty());
                return Box::pin(async { Ok(response) });
            }
        };
        // Nothing behind this needs the credential.
        request.headers_mut().remove(http::header::AUTHORIZATION);
        let request_id = request_id(request.headers().get(REQUEST_ID));
        let Some(method) = method else {
            let foreign = ForeignCall::new(request.uri().path(), request_id);
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
        let span = call_span(&request_id, method.name());
        let in_flight = (!self.layer.draining.is_cancelled()).then(|| self.layer.in_flight.begin());
        let call = Call {
            deadline,
            tenant: tenant.clone(),
            request_id,
            record: Record::call(method, span.clone(), deadline, tenant, in_flight),
            received: Received::default(),
        };
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
            set_request_id(response.headers_mut(), &call.request_id);
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
        let (span, id) = (foreign.span().clone(), foreign.id().clone());
        let inner = self.inner.call(request);
        let answer = async move {
            let mut response = inner.await?;
            foreign.answered(status_in_headers(&response).unwrap_or(Code::Ok));
            set_request_id(response.headers_mut(), &id);
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// The response to a call that is refused before it begins. The call is counted and logged like all others.
fn refusal(call: &http::request::Parts, error: &ServiceError) -> http::Response<()> {
    let request_id = request_id(call.headers.get(REQUEST_ID));
    match Method::of_path(call.uri.path()) {
        Some(method) => {
            let span = call_span(&request_id, method.name());
            // Nobody has checked which tenant it is.
            Record::call(method, span, Deadline::default(), Tenant::default(), None).fail(error);
        }
        None => ForeignCall::new(call.uri.path(), Arc::clone(&request_id)).answered(error.reason().code()),
    }
    let mut response = error.to_status(&request_id).into_http();
    set_request_id(response.headers_mut(), &request_id);
    response
}

/// When to try again if too many calls are open: about as long as it takes until one ends.
const RETRY: Duration = Duration::from_secs(1);

/// The response to a call that is refused because too many are open.
pub(crate) fn too_many_calls(call: &http::request::Parts) -> http::Response<()> {
    refusal(call, &ServiceError::TooManyCalls { retry_after: RETRY })
}

/// Writes the id of a call into the headers of its response.
fn set_request_id(headers: &mut http::HeaderMap, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// The status of a response that consists of headers only.
fn status_in_headers(response: &http::Response<Body>) -> Option<Code> {
    let status = response.headers().get(Status::GRPC_STATUS)?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// The caller's request id if it has at most 128 visible ASCII characters; otherwise a random one.
fn request_id(value: Option<&HeaderValue>) -> Arc<str> {
    value
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()))
        .map_or_else(
            || Arc::from(format!("{:016x}", rand::rng().random::<u64>())),
            Arc::from,
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_kept_if_printable_and_generated_if_not() {
        let kept = HeaderValue::from_static("run-7/item-3");
        assert_eq!(&*request_id(Some(&kept)), "run-7/item-3");
        let spaced = HeaderValue::from_static("a b");
        assert_eq!(request_id(Some(&spaced)).len(), 16);
        assert_eq!(request_id(None).len(), 16);
        assert_ne!(request_id(None), request_id(None));
    }
}
