//! Generate: answers a prompt with the events Started, any number of Deltas, and Finished.

use std::{future::Future, sync::Arc};

use futures::{Stream, StreamExt as _, future, stream};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use super::{
    call::Call,
    error::ServiceError,
    generation::{Generation, prepare},
    guarded_generation::{GuardedGeneration, event_of},
    sequence::{Shared, WorkContext},
    stream::{Action, Envelope, ItemStream, StreamRpc, drive},
    validate::{self, CheckedGenerate, ValidationContext},
};
use crate::{
    auth::Scope,
    engine::Priority,
    proto::{self, generate_stream_request, generate_stream_response},
};

/// What a caller needs for a guard, besides what it needs for the answer.
const GUARD_SCOPES: &[Scope] = &[Scope::Classify];

/// An answer that is being written.
enum Open {
    Unguarded(Box<Generation>),
    Guarded(Box<GuardedGeneration>),
}

impl Open {
    /// Queues the prompt.
    async fn start(context: WorkContext, checked: CheckedGenerate) -> Result<Self, ServiceError> {
        let CheckedGenerate { work, guard } = checked;
        let context = context.prioritised(work.priority, Priority::Interactive);
        let prompt = prepare(&context, &work).await?;
        let generation = Generation::start(&context, work, prompt)?;
        Ok(match guard {
            None => Self::Unguarded(Box::new(generation)),
            Some(guard) => Self::Guarded(Box::new(GuardedGeneration::new(&context, generation, guard))),
        })
    }

    /// The next event; `None` at the end. Nothing follows an error.
    async fn next(&mut self) -> Option<Result<proto::GenerateResponse, ServiceError>> {
        let event = match self {
            Self::Unguarded(generation) => generation.next().await.transpose()?.map(event_of),
            Self::Guarded(generation) => generation.next().await?,
        };
        Some(event.map(|event| proto::GenerateResponse { event: Some(event) }))
    }
}

/// Generates an answer as a stream of events, which ends with the first error.
fn events(
    context: WorkContext,
    work: impl Future<Output = Result<CheckedGenerate, ServiceError>> + Send,
) -> impl Stream<Item = Result<proto::GenerateResponse, ServiceError>> + Send {
    enum State<W> {
        New(WorkContext, W),
        Open(Open),
        Done,
    }
    stream::unfold(State::New(context, Box::pin(work)), |state| async move {
        let mut open = match state {
            State::New(context, work) => {
                let started = match work.await {
                    Ok(checked) => Open::start(context, checked).await,
                    Err(error) => Err(error),
                };
                match started {
                    Ok(open) => open,
                    Err(error) => return Some((Err(error), State::Done)),
                }
            }
            State::Open(open) => open,
            State::Done => return None,
        };
        match open.next().await? {
            Ok(response) => Some((Ok(response), State::Open(open))),
            Err(error) => Some((Err(error), State::Done)),
        }
    })
}

/// GenerationService.
pub(crate) struct GenerationApi(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl proto::generation_service_server::GenerationService for GenerationApi {
    type GenerateStream = BoxStream<proto::GenerateResponse>;
    type GenerateStreamStream = BoxStream<proto::GenerateStreamResponse>;

    async fn generate(
        &self,
        request: Request<proto::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let call = Call::of(&request)?;
        let context = WorkContext::of(&self.0, &call, Priority::Interactive);
        let work = checked(&context, request.into_inner(), "").await;
        let work = work.map_err(|error| call.fail(&error))?;
        let (answered, ended) = (call.clone(), call.clone());
        let answer = events(context, future::ready(Ok(work)))
            .map(move |event| event.map_err(|error| call.fail(&error)))
            // This is only reached if no error has ended the stream, or after the error was counted.
            .chain(stream::poll_fn(move |_| {
                ended.succeed();
                std::task::Poll::Ready(None)
            }));
        Ok(answered.stream(answer))
    }

    async fn generate_stream(
        &self,
        request: Request<Streaming<proto::GenerateStreamRequest>>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        drive::<GenerateItems>(&self.0, request)
    }
}

/// Checks a request.
async fn checked(
    context: &WorkContext,
    request: proto::GenerateRequest,
    path: &str,
) -> Result<CheckedGenerate, ServiceError> {
    let shared = &context.shared;
    let guard = request.guard.as_ref().map(|guard| &guard.model);
    for model in std::iter::once(&request.model).chain(guard) {
        context.record.note_requested_model(&shared.registry, model);
    }
    if guard.is_some() {
        context.check_scope(GUARD_SCOPES)?;
    }
    shared.admit()?;
    validate::message_size(prost::Message::encoded_len(&request), &shared.limits)?;
    let validation = ValidationContext::of(shared, context.deadline);
    validate::generate(request, path, &validation).await
}

/// The items of GenerateStream.
struct GenerateItems;

impl StreamRpc for GenerateItems {
    type Request = proto::GenerateStreamRequest;
    type Response = proto::GenerateStreamResponse;
    type Work = proto::GenerateRequest;
    type Output = proto::GenerateResponse;

    fn unpack(request: Self::Request) -> Envelope<Self::Work> {
        Envelope {
            id: request.id,
            action: request.action.map(|action| match action {
                generate_stream_request::Action::Generate(work) => Action::Start(work),
                generate_stream_request::Action::Cancel(proto::CancelItem {}) => Action::Cancel,
            }),
            timeout: request.timeout,
        }
    }

    fn run(context: WorkContext, work: Self::Work) -> ItemStream<Self::Output> {
        let checking = context.clone();
        let work = async move { checked(&checking, work, "generate").await };
        events(context, work).boxed()
    }

    fn pack(id: String, result: Result<Self::Output, proto::ItemStatus>) -> Self::Response {
        let result = match result {
            Ok(response) => generate_stream_response::Result::Response(response),
            Err(error) => generate_stream_response::Result::Error(error),
        };
        proto::GenerateStreamResponse {
            id,
            result: Some(result),
        }
    }
}
