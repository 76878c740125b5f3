//! A channel to the services of this process, for the clients that are generated from the proto files.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use crate::rpc::{Door, LocalCaller};

/// A channel to the services of this process, which calls them as the caller of a request. What the caller's request has goes
/// with every call: its credential, address, trace, id, and the time that is left of its deadline.
#[derive(Clone)]
pub(crate) struct LocalChannel {
    caller: LocalCaller,
    door: Door,
}

impl LocalChannel {
    pub(super) fn new(caller: LocalCaller, door: Door) -> Self {
        Self { caller, door }
    }
}

impl Service<Request<Body>> for LocalChannel {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.caller.clone().call(self.door, request);
        Box::pin(async { Ok(answer.await) })
    }
}
