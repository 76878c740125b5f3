//! Score: the target answers a prompt and the guard judges the answer, in one call.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, future, stream};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use super::{
    call::Call,
    classifier::classify_all,
    decision::{Decided, DecidedAbout},
    error::ServiceError,
    generation::{PreparedPrompt, complete, prepare},
    judge::{judge, retry_when_full},
    pieces::Finished,
    sequence::{Shared, WorkContext},
    stream::{Action, Envelope, ItemStream, StreamRpc, drive},
    validate::{self, ClassifiedText, ClassifyWork, JudgedMessages, ScoreWork, ValidationContext},
};
use crate::{
    engine::{Priority, Sampling},
    guard::{SentMessage, Speaker},
    proto::{self, score_stream_request, score_stream_response},
};

/// Checks and answers one Score; `path` is its path in the message that the caller sent.
async fn score(
    context: WorkContext,
    request: proto::ScoreRequest,
    path: String,
) -> Result<proto::ScoreResponse, ServiceError> {
    let shared = Arc::clone(&context.shared);
    let target = request.generate.as_ref().map(|generate| &generate.model);
    let guard = request.judge.as_ref().map(|judge| &judge.model);
    for model in target.into_iter().chain(guard) {
        context.record.note_requested_model(&shared.registry, model);
    }
    shared.admit()?;
    validate::message_size(prost::Message::encoded_len(&request), &shared.limits)?;
    let validation = ValidationContext::of(&shared, context.deadline);
    let work = Arc::new(validate::score(request, &path, &validation).await?);
    let context = context.prioritised(work.generate.priority, Priority::Interactive);
    // All samples have the same prompt.
    let prompt = Arc::new(prepare(&context, &work.generate).await?);
    let samples =
        (0..work.samples).map(|index| sample(&context, Arc::clone(&work), Arc::clone(&prompt), index));
    // The first failure drops the other samples, which cancels them.
    let samples = future::try_join_all(samples).await?;
    let count_of = |label: proto::Label| {
        let labelled = samples.iter().filter(|sample| {
            sample
                .verdict
                .as_ref()
                .is_some_and(|verdict| verdict.label() == label)
        });
        super::provenance::count(labelled.count())
    };
    Ok(proto::ScoreResponse {
        safe_count: count_of(proto::Label::Safe),
        unsafe_count: count_of(proto::Label::Unsafe),
        undetermined_count: count_of(proto::Label::Undetermined),
        controversial_count: count_of(proto::Label::Controversial),
        samples,
    })
}

/// Generates and judges one sample.
async fn sample(
    context: &WorkContext,
    work: Arc<ScoreWork>,
    prompt: Arc<PreparedPrompt>,
    index: u32,
) -> Result<proto::ScoredSample, ServiceError> {
    let mut generate = work.generate.clone();
    generate.sampling = Sampling {
        seed: generate.sampling.seed.wrapping_add(u64::from(index)),
        ..generate.sampling
    };
    let answer = complete(context, generate, &prompt).await?;
    let mut messages = work.generate.messages();
    // An empty answer is judged too: the guard sees that the model said nothing.
    messages.push(Arc::new(SentMessage::plain(
        Speaker::Assistant,
        answer.text.clone(),
    )));
    let verdict = retry_when_full(context, || {
        judge(
            context,
            ClassifyWork {
                category_probabilities: work.category_probabilities,
                guard: work.guard.clone(),
                policy: work.policy.clone(),
                messages: messages.clone(),
                priority: work.generate.priority,
                fields: JudgedMessages {
                    conversation: work.generate.prompt_field.clone(),
                    policy: work.policy_field.clone(),
                    judged: work.generate.judged_answer(&work.guard_field),
                },
            },
        )
    });
    // An answer of a target is in no field of the request.
    let classified_text = ClassifiedText {
        text: answer.text.clone(),
        field: work.guard_field.clone(),
    };
    let classified = retry_when_full(context, || {
        classify_all(context, work.classifiers.clone(), &classified_text)
    });
    let (verdict, classified) = future::try_join(verdict, classified).await?;
    let Decided { decision, shadows } = work.decider.decide(DecidedAbout {
        classified: &classified.classified,
        ..DecidedAbout::verdict(&verdict)
    });
    let Finished {
        event,
        text,
        seed,
        provenance,
    } = answer;
    Ok(proto::ScoredSample {
        text: if work.keep_text { text } else { String::new() },
        text_digest: event.text_digest,
        finish_reason: event.finish_reason,
        seed,
        verdict: Some(verdict),
        usage: event.usage,
        timing: event.timing,
        generation_provenance: Some(provenance),
        decision,
        shadow_decisions: shadows,
    })
}

/// ScoringService.
pub(crate) struct ScoringApi(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl proto::scoring_service_server::ScoringService for ScoringApi {
    type ScoreStreamStream = BoxStream<proto::ScoreStreamResponse>;

    async fn score(
        &self,
        request: Request<proto::ScoreRequest>,
    ) -> Result<Response<proto::ScoreResponse>, Status> {
        let call = Call::of(&request)?;
        let context = WorkContext::of(&self.0, &call, Priority::Interactive);
        let answer = score(context, request.into_inner(), String::new());
        call.unary(answer).await
    }

    async fn score_stream(
        &self,
        request: Request<Streaming<proto::ScoreStreamRequest>>,
    ) -> Result<Response<Self::ScoreStreamStream>, Status> {
        drive::<ScoreItems>(&self.0, request)
    }
}

/// The items of ScoreStream.
struct ScoreItems;

impl StreamRpc for ScoreItems {
    type Request = proto::ScoreStreamRequest;
    type Response = proto::ScoreStreamResponse;
    type Work = proto::ScoreRequest;
    type Output = proto::ScoreResponse;

    fn unpack(request: Self::Request) -> Envelope<Self::Work> {
        Envelope {
            id: request.id,
            action: request.action.map(|action| match action {
                score_stream_request::Action::Score(work) => Action::Start(work),
                score_stream_request::Action::Cancel(proto::CancelItem {}) => Action::Cancel,
            }),
            timeout: request.timeout,
        }
    }

    fn run(context: WorkContext, work: Self::Work) -> ItemStream<Self::Output> {
        stream::once(score(context, work, "score".to_owned()).boxed()).boxed()
    }

    fn pack(id: String, result: Result<Self::Output, proto::ItemStatus>) -> Self::Response {
        let result = match result {
            Ok(response) => score_stream_response::Result::Response(response),
            Err(error) => score_stream_response::Result::Error(error),
        };
        proto::ScoreStreamResponse {
            id,
            result: Some(result),
        }
    }
}
