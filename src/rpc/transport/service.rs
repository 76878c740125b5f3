//! What all connections share: the service that answers calls, and the limits.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use super::{
    budget::RequestBudget,
    connections::{CallKind, Connections},
    intake::Intake,
    tenant_use::TenantUses,
};
use crate::{
    rpc::limits::{Limits, TimeLimits},
    tls::ServerTls,
};

/// Most bytes of the request of a health check, which has the name of a service.
const CHECK_BYTES: usize = 1 << 10;

/// Answers calls.
pub(crate) trait CallService:
    Service<Request<Intake>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> CallService for S where
    S: Service<Request<Intake>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What all connections share.
pub(crate) struct Transport<S> {
    pub(crate) service: S,
    /// Makes the response to a call that is refused because too many are open.
    pub(crate) refuse: fn(&http::request::Parts) -> Response<()>,
    /// TLS, if connections speak it.
    pub(crate) tls: Option<Arc<ServerTls>>,
    pub(crate) limits: Limits,
    pub(crate) times: TimeLimits,
    pub(crate) connections: Arc<Connections>,
    pub(crate) request_budget: Arc<RequestBudget>,
    /// For the requests of health checks.
    pub(crate) check_budget: Arc<RequestBudget>,
    /// What each tenant holds.
    pub(crate) tenants: Arc<TenantUses>,
}

impl<S> Transport<S> {
    /// The budget for the request of a call, and the most bytes of its message.
    pub(crate) fn room(&self, kind: CallKind) -> (&Arc<RequestBudget>, usize) {
        match kind {
            CallKind::Counted => (&self.request_budget, self.limits.message_bytes),
            // Strangers cannot use up what callers need.
            CallKind::HealthCheck => (&self.check_budget, CHECK_BYTES),
        }
    }
}
