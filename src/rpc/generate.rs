//! Generate: answers a prompt with the events Started, any number of Deltas, and Finished.

use std::{future::Future, sync::Arc};

use futures::{Stream, StreamExt as _, future, stream};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use super::{
    call::Call,
    encode,
    error::{ServiceError, TextOrigin, Violation},
    provenance,
    sequence::{Sequence, Shared, WorkContext},
    stream::{Action, Envelope, ItemStream, StreamRpc, drive},
    token_quota::PromptLimit,
    validate::{self, GenerateWork, Prompt, ValidationContext},
};
use crate::{
    digest,
    engine::{Event, FinishReason, OutputSpec, Priority, SequenceSummary, StopCondition, TokenEvent},
    proto::{self, generate_response, generate_stream_request, generate_stream_response},
    registry::ModelEntry,
    text::{Allowance, ChatRole, StopMatcher, TemplateError, TextStream, TokenizerError, strip},
};

/// One piece of an answer, in the order in which it is written.
pub(crate) enum Piece {
    Started(Box<proto::GenerateStarted>),
    Delta(proto::GenerateDelta),
    Finished(Box<Finished>),
}

/// The end of an answer.
pub(crate) struct Finished {
    pub(crate) event: proto::GenerateFinished,
    pub(crate) text: String,
    pub(crate) seed: u64,
    pub(crate) provenance: proto::Provenance,
}

/// A generation in progress.
pub(crate) struct Generation {
    sequence: Sequence,
    work: GenerateWork,
    prompt_tokens: usize,
    /// Indices of the messages whose thoughts were left out of the prompt.
    thoughts_left_out: Vec<u32>,
    decoder: TextStream,
    /// The text that has been sent so far.
    text: String,
    /// Tokens whose text has not been sent yet.
    token_ids: Vec<u32>,
    logprobs: Vec<proto::TokenLogprob>,
    summary: Option<SequenceSummary>,
    done: bool,
}

impl Generation {
    /// Queues the prompt and returns the generation.
    pub(crate) fn start(
        context: &WorkContext,
        work: GenerateWork,
        tokens: PromptTokens,
    ) -> Result<Self, ServiceError> {
        let is_conversation = matches!(*work.prompt, Prompt::Conversation(_));
        context.record.note(|tally| {
            tally.add_model(&work.entry.id);
            if !is_conversation {
                tally.note_completion();
            }
        });
        let tokenizer = &work.entry.resident.tokenizer;
        let stop = StopMatcher::new(Arc::clone(tokenizer), &work.stop);
        let output = OutputSpec {
            max_new_tokens: work.max_new_tokens,
            eos: Arc::from(tokenizer.end_tokens()),
            sampling: work.sampling.clone(),
            logprobs: work.logprobs,
            probe: None,
            score: false,
            stop: stop.map(|stop| Box::new(stop) as Box<dyn StopCondition>),
            pin_prompt: false,
        };
        let PromptTokens {
            ids,
            thoughts_left_out,
        } = tokens;
        let prompt_tokens = ids.len();
        let decoder = TextStream::new(Arc::clone(tokenizer), &work.stop);
        let sequence = Sequence::submit(context, &work.entry, ids, output, &work.prompt_field)?;
        Ok(Self {
            sequence,
            prompt_tokens,
            thoughts_left_out,
            decoder,
            text: String::new(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            summary: None,
            done: false,
            work,
        })
    }

    /// The next piece; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, ServiceError> {
        while !self.done {
            if let Some(summary) = self.summary.take() {
                self.done = true;
                return Ok(Some(self.finished(&summary)));
            }
            match self.sequence.next().await? {
                Event::Started { .. } => {
                    return Ok(Some(Piece::Started(Box::new(proto::GenerateStarted {
                        prompt_tokens: provenance::count(self.prompt_tokens),
                        seed: self.work.sampling.seed,
                        provenance: Some(self.provenance()),
                    }))));
                }
                Event::Token(token) => {
                    let text = self.token(token);
                    if !text.is_empty() {
                        return Ok(Some(self.delta(text)));
                    }
                }
                Event::Finished(summary) => {
                    let rest = self.decoder.finish();
                    self.summary = Some(summary);
                    // Every token is reported once, including those without text.
                    if !rest.is_empty() || !self.token_ids.is_empty() {
                        return Ok(Some(self.delta(rest)));
                    }
                }
                Event::Probe(_) | Event::Score(_) | Event::Failed(_) => {}
            }
        }
        Ok(None)
    }

    fn token(&mut self, token: TokenEvent) -> String {
        self.token_ids.push(token.id);
        let tokenizer = &self.work.entry.resident.tokenizer;
        if let Some(logprobs) = token.logprobs {
            let alternatives = logprobs
                .top
                .iter()
                .map(|&(id, logprob)| proto::token_logprob::Alternative {
                    token_id: id,
                    token: tokenizer.token_bytes(id).to_vec(),
                    logprob,
                });
            self.logprobs.push(proto::TokenLogprob {
                token_id: token.id,
                token: tokenizer.token_bytes(token.id).to_vec(),
                logprob: logprobs.chosen,
                alternatives: alternatives.collect(),
            });
        }
        self.decoder.push(token.id)
    }

    fn delta(&mut self, text: String) -> Piece {
        let offset_bytes = u64::try_from(self.text.len()).unwrap_or(u64::MAX);
        self.text.push_str(&text);
        Piece::Delta(proto::GenerateDelta {
            text,
            token_ids: std::mem::take(&mut self.token_ids),
            logprobs: std::mem::take(&mut self.logprobs),
            offset_bytes,
        })
    }

    fn finished(&mut self, summary: &SequenceSummary) -> Piece {
        let stop_sequence = self.decoder.stopped().unwrap_or_default().to_owned();
        Piece::Finished(Box::new(Finished {
            event: proto::GenerateFinished {
                finish_reason: finish_reason(summary.reason).into(),
                stop_sequence,
                usage: Some(provenance::usage(summary)),
                timing: Some(provenance::timing(summary, self.sequence.elapsed())),
                text_digest: digest::of_bytes(&self.text),
            },
            text: std::mem::take(&mut self.text),
            seed: self.work.sampling.seed,
            provenance: self.provenance(),
        }))
    }

    fn provenance(&self) -> proto::Provenance {
        let template = match (&*self.work.prompt, &self.work.entry.resident.template) {
            (Prompt::Conversation(_), Some(template)) => template.digest(),
            _ => "",
        };
        let sampled = self.work.sampling.temperature > 0.0;
        proto::Provenance {
            thoughts_left_out: self.thoughts_left_out.clone(),
            ..provenance::provenance(
                &self.work.entry,
                template,
                sampled.then_some(self.work.sampling.seed),
            )
        }
    }
}

/// Generates a whole answer.
pub(crate) async fn complete(
    context: &WorkContext,
    work: GenerateWork,
    tokens: &PromptTokens,
) -> Result<Finished, ServiceError> {
    let mut generation = Generation::start(context, work, tokens.clone())?;
    while let Some(piece) = generation.next().await? {
        if let Piece::Finished(finished) = piece {
            return Ok(*finished);
        }
    }
    // `next` ends with Finished or an error.
    Err(ServiceError::ModelFailed)
}

/// Generates an answer as a stream of events, which ends with the first error.
fn events(
    context: WorkContext,
    work: impl Future<Output = Result<GenerateWork, ServiceError>> + Send,
) -> impl Stream<Item = Result<proto::GenerateResponse, ServiceError>> + Send {
    enum State<W> {
        New(WorkContext, W),
        Open(Box<Generation>),
        Done,
    }
    stream::unfold(State::New(context, Box::pin(work)), |state| async move {
        let mut generation = match state {
            State::New(context, work) => {
                let started = match work.await {
                    Ok(work) => {
                        let context = context.prioritised(work.priority, Priority::Interactive);
                        let tokens = prompt_tokens(&context, &work).await;
                        tokens.and_then(|tokens| Generation::start(&context, work, tokens))
                    }
                    Err(error) => Err(error),
                };
                match started {
                    Ok(generation) => Box::new(generation),
                    Err(error) => return Some((Err(error), State::Done)),
                }
            }
            State::Open(generation) => generation,
            State::Done => return None,
        };
        match generation.next().await {
            Ok(Some(piece)) => Some((Ok(response(piece)), State::Open(generation))),
            Ok(None) => None,
            Err(error) => Some((Err(error), State::Done)),
        }
    })
}

fn response(piece: Piece) -> proto::GenerateResponse {
    let event = match piece {
        Piece::Started(started) => generate_response::Event::Started(*started),
        Piece::Delta(delta) => generate_response::Event::Delta(delta),
        Piece::Finished(finished) => generate_response::Event::Finished(finished.event),
    };
    proto::GenerateResponse { event: Some(event) }
}

/// A prompt as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PromptTokens {
    ids: Vec<u32>,
    /// Indices of the messages whose thoughts were left out of it.
    thoughts_left_out: Vec<u32>,
}

impl PromptTokens {
    /// The tokens of a prompt from which nothing was left out.
    fn whole(ids: Vec<u32>) -> Self {
        Self {
            ids,
            thoughts_left_out: Vec::new(),
        }
    }
}

/// Waits for a turn to work on text, and turns a prompt into tokens.
pub(crate) async fn prompt_tokens(
    context: &WorkContext,
    work: &GenerateWork,
) -> Result<PromptTokens, ServiceError> {
    let tokenizer = &work.entry.resident.tokenizer;
    let size = match &*work.prompt {
        Prompt::Conversation(messages) => encode::conversation_size(tokenizer, messages, 0),
        Prompt::Text(text) => encode::text_size(tokenizer, text),
        Prompt::Tokens(ids) => {
            return Ok(PromptTokens::whole(ids.clone()));
        }
    };
    let model = encode::longest_prompt(&work.entry.resident.limits, work.max_new_tokens);
    let limit = PromptLimit::new(&context.shared, &context.tenant, model, work.max_new_tokens)?;
    let most = limit.tokens();
    let (entry, prompt, field) = (
        work.entry.clone(),
        Arc::clone(&work.prompt),
        work.prompt_field.clone(),
    );
    let tokens = context.with_text(size, move |watch| {
        tokens(&entry, &prompt, &field, encode::allowance(most, watch))
    });
    tokens.await.map_err(|error| limit.explain(error))
}

fn tokens(
    entry: &ModelEntry,
    prompt: &Prompt,
    field: &str,
    allowance: Allowance<'_>,
) -> Result<PromptTokens, ServiceError> {
    let resident = &entry.resident;
    let tokenizer = &resident.tokenizer;
    match prompt {
        Prompt::Conversation(messages) => {
            let template = resident
                .template
                .as_ref()
                .ok_or(ServiceError::ChatTemplateMissing)?;
            let failed = |error: TokenizerError| {
                let fields = encode::message_fields(field, messages);
                encode::token_error(&error, allowance.tokens, tokenizer, fields)
            };
            // The chat template may leave out parts of the assistant's messages only, so all other messages bound the prompt
            // from below before it is rendered.
            let kept = messages
                .iter()
                .filter(|message| message.role != ChatRole::Assistant);
            let least = kept.map(|message| tokenizer.least_tokens(strip(&message.content)));
            allowance.least(least).map_err(failed)?;
            let rendered = template
                .render_turns(messages, true)
                .map_err(|error| template_error(&error, field))?;
            let ids = tokenizer.encode_within(&rendered.segments, allowance);
            let thoughts = rendered.thoughts_left_out.into_iter();
            Ok(PromptTokens {
                ids: ids.map_err(failed)?,
                thoughts_left_out: thoughts.map(provenance::count).collect(),
            })
        }
        Prompt::Text(text) => {
            let mut ids: Vec<u32> = tokenizer.bos_for_raw().into_iter().collect();
            let encoded = tokenizer.encode_plain_within(text, allowance);
            ids.extend(encoded.map_err(|error| {
                let origin = TextOrigin::Field(field.to_owned());
                encode::token_error(&error, allowance.tokens, tokenizer, [(origin, text.as_str())])
            })?);
            Ok(PromptTokens::whole(ids))
        }
        Prompt::Tokens(ids) => Ok(PromptTokens::whole(ids.clone())),
    }
}

/// The error of a conversation that a chat template refuses. The template's own text is not repeated, because it may quote
/// a message.
pub(crate) fn template_error(error: &TemplateError, field: &str) -> ServiceError {
    let violation = |field: String, description: &str| {
        ServiceError::ConversationShape(vec![Violation::new(field, description)])
    };
    match error {
        TemplateError::Invalid(_) => ServiceError::TextFault,
        TemplateError::TooLong => violation(
            format!("{field}.messages"),
            "the model's chat template takes too many steps, or makes too much text, for this conversation",
        ),
        TemplateError::Refused(_) => violation(
            format!("{field}.messages"),
            "the model's chat template refuses this order of roles",
        ),
        TemplateError::MessageDropped(index) => violation(
            format!("{field}.messages[{index}]"),
            "the model's chat template leaves this message out",
        ),
    }
}

fn finish_reason(reason: FinishReason) -> proto::FinishReason {
    match reason {
        FinishReason::Eos => proto::FinishReason::Eos,
        FinishReason::MaxTokens => proto::FinishReason::MaxTokens,
        FinishReason::Stop => proto::FinishReason::StopSequence,
        FinishReason::ContextWindow => proto::FinishReason::ContextWindow,
        // Only sequences with a probe end like this, and a generation has none.
        FinishReason::Probe => proto::FinishReason::Unspecified,
    }
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
) -> Result<GenerateWork, ServiceError> {
    let shared = &context.shared;
    context
        .record
        .note_requested_model(&shared.registry, &request.model);
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
