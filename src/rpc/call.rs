//! What accompanies a call from its headers to its last byte: method, request id, deadline, the span that its log
//! lines are in, and a record that counts it exactly once.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _, stream};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codegen::{
        BoxStream,
        http::{self, HeaderValue},
    },
};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{
    access::{ForeignCall, call_span, millis},
    deadline::{Deadline, grpc_timeout},
    element_counts::ElementCounts,
    error::ServiceError,
    limits::{DefaultDeadlines, TimeLimits},
    record::{InFlightCount, Record},
    request_body::{Received, ReceivedMessage, RequestBody},
    transport::Intake,
};
use crate::{
    engine::{Stage, Tenant},
    registry::Registry,
};

const REQUEST_ID: &str = "x-request-id";

/// On whose account a call's work is done; see docs/scheduling.md.
const TENANT: &str = "x-babelward-tenant";

/// The calls of our services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Generate,
    GenerateStream,
    Classify,
    BatchClassify,
    ClassifyStream,
    ListPolicies,
    Score,
    ScoreStream,
    ListModels,
    GetModel,
    WatchModels,
    CountTokens,
    LoadModel,
    UnloadModel,
    PinModel,
    EstimateModel,
    EstimateQuality,
}

impl Method {
    pub(crate) const ALL: [Self; 17] = [
        Self::Generate,
        Self::GenerateStream,
        Self::Classify,
        Self::BatchClassify,
        Self::ClassifyStream,
        Self::ListPolicies,
        Self::Score,
        Self::ScoreStream,
        Self::ListModels,
        Self::GetModel,
        Self::WatchModels,
        Self::CountTokens,
        Self::LoadModel,
        Self::UnloadModel,
        Self::PinModel,
        Self::EstimateModel,
        Self::EstimateQuality,
    ];

    /// As in the request's path and in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generate => "babelward.v1.GenerationService/Generate",
            Self::GenerateStream => "babelward.v1.GenerationService/GenerateStream",
            Self::Classify => "babelward.v1.SafetyService/Classify",
            Self::BatchClassify => "babelward.v1.SafetyService/BatchClassify",
            Self::ClassifyStream => "babelward.v1.SafetyService/ClassifyStream",
            Self::ListPolicies => "babelward.v1.SafetyService/ListPolicies",
            Self::Score => "babelward.v1.ScoringService/Score",
            Self::ScoreStream => "babelward.v1.ScoringService/ScoreStream",
            Self::ListModels => "babelward.v1.ModelService/ListModels",
            Self::GetModel => "babelward.v1.ModelService/GetModel",
            Self::WatchModels => "babelward.v1.ModelService/WatchModels",
            Self::CountTokens => "babelward.v1.ModelService/CountTokens",
            Self::LoadModel => "babelward.v1.AdminService/LoadModel",
            Self::UnloadModel => "babelward.v1.AdminService/UnloadModel",
            Self::PinModel => "babelward.v1.AdminService/PinModel",
            Self::EstimateModel => "babelward.v1.AdminService/EstimateModel",
            Self::EstimateQuality => "babelward.v1.QualityService/EstimateQuality",
        }
    }

    /// Whether its requests are a stream of items; every other call has one request message.
    pub(crate) fn takes_items(self) -> bool {
        matches!(
            self,
            Self::GenerateStream | Self::ClassifyStream | Self::ScoreStream
        )
    }

    /// The deadline that the caller asks for with `timeout`. A stream of items lives as long as its client wants; the
    /// rest has an upper limit.
    fn asked_deadline(self, arrival: Instant, timeout: Duration, longest: Duration) -> Deadline {
        if self.takes_items() || self == Self::WatchModels {
            Deadline::after(arrival, timeout)
        } else {
            Deadline::after(arrival, timeout.min(longest))
        }
    }

    fn of_path(path: &str) -> Option<Self> {
        let name = path.strip_prefix('/')?;
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    fn default_deadline(self, arrival: Instant, defaults: &DefaultDeadlines) -> Deadline {
        let timeout = match self {
            Self::Generate => defaults.generate,
            Self::Classify => defaults.classify,
            Self::BatchClassify => defaults.batch_classify,
            Self::Score => defaults.score,
            Self::EstimateQuality => defaults.estimate_quality,
            Self::ListModels | Self::GetModel | Self::CountTokens | Self::ListPolicies => defaults.models,
            Self::LoadModel | Self::UnloadModel | Self::PinModel | Self::EstimateModel => defaults.admin,
            Self::GenerateStream | Self::ClassifyStream | Self::ScoreStream | Self::WatchModels => {
                return Deadline::default();
            }
        };
        Deadline::after(arrival, timeout)
    }
}

/// A call as its handler sees it.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) deadline: Deadline,
    pub(crate) tenant: Tenant,
    request_id: Arc<str>,
    pub(crate) record: Arc<Record>,
    received: Received,
}

impl Call {
    /// The one that [`CallLayer`] put into the request.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Status::internal("the call layer is missing"))
    }

    /// What goes with the next of the messages that were received. Until it is taken, it stays with the call.
    pub(crate) fn take_received(&self) -> Option<ReceivedMessage> {
        self.received.take()
    }

    /// Notes the model that the request names, for the log.
    pub(crate) fn asks(self, registry: &Registry, model: &str) -> Self {
        self.record.note_asked(registry, model);
        self
    }

    /// Counts the failure and makes its status.
    pub(crate) fn fail(&self, error: &ServiceError) -> Status {
        self.record.fail(error);
        error.to_status(&self.request_id)
    }

    /// Counts the call as answered.
    pub(crate) fn succeed(&self) {
        self.record.finish(Code::Ok);
    }

    /// Counts the call as ended by a status that is not ours (a stream that broke).
    pub(crate) fn end_with(&self, status: &Status) {
        self.record.finish(status.code());
    }

    /// Runs a unary call's work up to the deadline.
    pub(crate) async fn unary<T>(
        self,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<Response<T>, Status> {
        match self.deadline.limit(work).await {
            Ok(answer) => {
                self.succeed();
                Ok(Response::new(answer))
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// Answers with a stream: what it does is the call's, for the log, too.
    pub(crate) fn stream<T: 'static>(
        &self,
        answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<BoxStream<T>> {
        let span = self.record.span().clone();
        let mut answers = Box::pin(answers);
        let answers = stream::poll_fn(move |context| span.in_scope(|| answers.poll_next_unpin(context)));
        Response::new(Box::pin(answers))
    }
}

/// Gives each request its [`Call`], and sees to it that the response begins before the deadline, also while
/// the request's body is still on its way.
#[derive(Clone)]
pub(crate) struct CallLayer {
    pub(crate) defaults: Arc<DefaultDeadlines>,
    pub(crate) times: TimeLimits,
    pub(crate) counts: Arc<ElementCounts>,
    pub(crate) in_flight: InFlightCount,
    /// Set when the server takes nothing new: a drain does not wait for calls that are only refused.
    pub(crate) draining: CancellationToken,
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

    fn call(&mut self, request: http::Request<Intake>) -> Self::Future {
        let receive = self.layer.times.receive;
        let request_id = request_id(request.headers().get(REQUEST_ID));
        let Some(method) = Method::of_path(request.uri().path()) else {
            let foreign = ForeignCall::new(request.uri().path(), request_id);
            let request = request.map(|intake| Body::new(RequestBody::foreign(intake, receive)));
            return self.pass_on(foreign, request);
        };
        let arrival = Instant::now();
        let deadline = match grpc_timeout(request.headers()) {
            Some(timeout) => method.asked_deadline(arrival, timeout, self.layer.times.longest_deadline),
            None => method.default_deadline(arrival, &self.layer.defaults),
        };
        let tenant = tenant(request.headers().get(TENANT));
        let span = call_span(&request_id, method.name());
        let in_flight = (!self.layer.draining.is_cancelled()).then(|| self.layer.in_flight.enter());
        let call = Call {
            deadline,
            tenant: tenant.clone(),
            request_id,
            record: Record::call(method, span.clone(), deadline, tenant, in_flight),
            received: Received::default(),
        };
        let body = (
            call.clone(),
            call.received.clone(),
            Arc::clone(&self.layer.counts),
        );
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
            // A status in the headers is the whole response: requests that reach no handler are counted too.
            if let Some(code) = whole_response(&response) {
                call.record.finish(code);
            }
            tell_id(response.headers_mut(), &call.request_id);
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
    /// A call that is not for our services.
    fn pass_on(&mut self, foreign: ForeignCall, request: http::Request<Body>) -> ResponseFuture<S::Error> {
        let (span, id) = (foreign.span().clone(), foreign.id().clone());
        let inner = self.inner.call(request);
        let answer = async move {
            let mut response = inner.await?;
            foreign.answered(whole_response(&response).unwrap_or(Code::Ok));
            tell_id(response.headers_mut(), &id);
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// The response to a call that does not begin; it is counted and logged as all others are.
pub(crate) fn refusal(call: &http::request::Parts, error: &ServiceError) -> http::Response<()> {
    let request_id = request_id(call.headers.get(REQUEST_ID));
    match Method::of_path(call.uri.path()) {
        Some(method) => {
            let span = call_span(&request_id, method.name());
            let tenant = tenant(call.headers.get(TENANT));
            Record::call(method, span, Deadline::default(), tenant, None).fail(error);
        }
        None => ForeignCall::new(call.uri.path(), Arc::clone(&request_id)).answered(error.reason().code()),
    }
    let mut response = error.to_status(&request_id).into_http();
    tell_id(response.headers_mut(), &request_id);
    response
}

/// Tells the caller the id of its call.
fn tell_id(headers: &mut http::HeaderMap, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// The status of a response that is nothing but its headers.
fn whole_response(response: &http::Response<Body>) -> Option<Code> {
    let status = response.headers().get(Status::GRPC_STATUS)?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// The tenant that the header names. Without one, or with a name that is none, the call is on the account that
/// all such calls share: nobody gets a share of its own by writing nonsense.
fn tenant(value: Option<&HeaderValue>) -> Tenant {
    value
        .and_then(|value| value.to_str().ok())
        .and_then(Tenant::named)
        .unwrap_or_default()
}

/// The caller's, when it is at most 128 visible ASCII characters; else a fresh one.
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
    fn every_method_is_found_by_its_path() {
        for method in Method::ALL {
            assert_eq!(Method::of_path(&format!("/{}", method.name())), Some(method));
        }
        assert_eq!(Method::of_path("/grpc.health.v1.Health/Check"), None);
    }

    #[test]
    fn deadlines_beyond_the_longest_count_as_that() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        let asked = |method: Method, timeout| method.asked_deadline(now, timeout, hour);
        let ages = Duration::from_secs(99_999_999 * 3600);
        assert_eq!(asked(Method::Classify, ages), Deadline::after(now, hour));
        assert_eq!(asked(Method::Generate, ages), Deadline::after(now, hour));
        let minute = Duration::from_secs(60);
        assert_eq!(asked(Method::Classify, minute), Deadline::after(now, minute));
        assert_eq!(
            asked(Method::ScoreStream, 2 * hour),
            Deadline::after(now, 2 * hour)
        );
    }

    #[test]
    fn methods_are_those_of_the_protocol() {
        use prost::Message as _;
        let set = prost_types::FileDescriptorSet::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut declared = Vec::new();
        for file in set.file {
            for service in &file.service {
                for method in &service.method {
                    declared.push(format!("{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        let mut ours: Vec<_> = Method::ALL
            .iter()
            .map(|method| method.name().to_owned())
            .collect();
        declared.sort();
        ours.sort();
        assert_eq!(ours, declared);
    }

    #[test]
    fn tenants_are_named_or_share_one_account() {
        let named = |name: &str| tenant(Some(&HeaderValue::from_str(name).unwrap()));
        assert_eq!(Some(named("team-7")), Tenant::named("team-7"));
        for name in ["", "a b", "a/b", &"x".repeat(65)] {
            assert!(named(name).is_unnamed(), "{name:?}");
        }
        assert!(tenant(None).is_unnamed());
    }

    #[test]
    fn request_ids_are_kept_when_they_are_printable_and_made_when_not() {
        let kept = HeaderValue::from_static("run-7/item-3");
        assert_eq!(&*request_id(Some(&kept)), "run-7/item-3");
        let spaced = HeaderValue::from_static("a b");
        assert_eq!(request_id(Some(&spaced)).len(), 16);
        assert_eq!(request_id(None).len(), 16);
        assert_ne!(request_id(None), request_id(None));
    }
}
