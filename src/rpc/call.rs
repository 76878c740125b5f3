//! A call as its handler sees it: its deadline, tenant and request id, the record that counts it exactly once, and what
//! has been received for it.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, StreamExt as _, stream};
use tonic::{Code, Request, Response, Status, codegen::BoxStream};

use super::{
    deadline::Deadline, entrance::Credential, error::ServiceError, record::Record, transport::HeldBytes,
};
use crate::{engine::Tenant, registry::Registry};

/// A call as its handler sees it.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) deadline: Deadline,
    pub(crate) tenant: Tenant,
    /// What its caller has shown, where there is authentication.
    pub(crate) credential: Option<Credential>,
    pub(crate) request_id: Arc<str>,
    pub(crate) record: Arc<Record>,
    pub(crate) received: Received,
}

impl Call {
    /// The call that [`CallLayer`](super::call_layer::CallLayer) has put into the request.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Status::internal("the call layer is missing"))
    }

    /// Checks again what its caller has shown, because more is asked for on a call that has been open for a while.
    pub(crate) fn check_credential(&self) -> Result<(), ServiceError> {
        self.credential.as_ref().map_or(Ok(()), Credential::check)
    }

    /// Takes what accompanies the next received message. Until then it is kept with the call.
    pub(crate) fn take_received(&self) -> Option<ReceivedMessage> {
        self.received.take()
    }

    /// Records the model that the request names, for the access log.
    pub(crate) fn names_model(self, registry: &Registry, model: &str) -> Self {
        self.record.note_requested_model(registry, model);
        self
    }

    /// Counts the call as failed, and returns the status to answer with.
    pub(crate) fn fail(&self, error: &ServiceError) -> Status {
        self.record.fail(error);
        error.to_status(&self.request_id)
    }

    /// Counts the call as answered.
    pub(crate) fn succeed(&self) {
        self.record.finish(Code::Ok);
    }

    /// Counts the call as ended by a status that is not of our making, such as that of a broken stream.
    pub(crate) fn end_with(&self, status: &Status) {
        self.record.finish(status.code());
    }

    /// Runs the work of a unary call until the deadline.
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

    /// Answers with a stream. Its log lines are those of the call.
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

/// Why a request could not be made into the request of a call. The call that has this in its extensions fails with it, and is
/// counted and logged like any other.
#[derive(Debug, Clone)]
pub(crate) struct RefusedRequest(pub(crate) ServiceError);

/// What accompanies a received message.
pub(crate) struct ReceivedMessage {
    /// Its bytes of the memory for requests, released when this is dropped.
    pub(crate) held: HeldBytes,
    /// Why the message was refused before it was decoded. The service gets a message with its id alone in its place.
    pub(crate) refusal: Option<ServiceError>,
}

/// What accompanies the messages of a call that have been received and not yet taken, in their order.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<VecDeque<ReceivedMessage>>>);

impl Received {
    fn take(&self) -> Option<ReceivedMessage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(crate) fn add(&self, message: ReceivedMessage) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(message);
    }
}
