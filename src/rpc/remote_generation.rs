//! The answer of a target that an endpoint computes.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future;

use super::{
    access::SequenceTimes,
    call_trace::SequenceTrace,
    clock::now,
    error::ServiceError,
    pieces::{CutEnd, Delta, Finished, Piece},
    provenance::{self, ReportedBy},
    record::Record,
    remote_accounts::{BYTES_PER_TOKEN, settle},
    sequence::{Shared, WorkContext},
    validate::{GenerateWork, Prompt},
};
use crate::{
    auth::TokenReservation,
    digest,
    engine::{Priority, Stage},
    guard::Speaker,
    proto,
    registry::RemoteModel,
    remote::{
        AnswerStream, EndpointDescription, RemoteError, RemoteEvent, RemoteFinish, RemoteFinished,
        RemoteMessage, RemotePrompt, RemoteRequest, RemoteSampling, RemoteTimes, RemoteUsage,
    },
    text::{ChatRole, StopStrings},
};

/// The bits of a seed that engines take: they read it as a signed number.
const SEED_BITS: u64 = i64::MAX as u64;

/// An answer whose first piece is there, and what the endpoint says of itself.
struct Opened {
    stream: Box<AnswerStream>,
    description: EndpointDescription,
}

enum State {
    Opening(Pin<Box<dyn Future<Output = Result<Opened, RemoteError>> + Send>>),
    Open(Box<AnswerStream>),
    Done,
}

/// What has come of waiting for the endpoint.
enum Advance {
    Opened(Opened),
    Event(Option<RemoteEvent>),
}

/// A generation in progress. Dropping it closes the connection of its request.
pub(crate) struct RemoteGeneration {
    shared: Arc<Shared>,
    record: Arc<Record>,
    model: Arc<RemoteModel>,
    work: GenerateWork,
    class: Priority,
    state: State,
    reported: ReportedBy,
    /// Ends the answer at a stop string even where the endpoint does not.
    stops: StopStrings,
    pending: VecDeque<Piece>,
    /// The text that has been sent so far.
    text: String,
    admitted: Instant,
    /// When the first piece came.
    began: Option<Instant>,
    times: RemoteTimes,
    usage: Option<RemoteUsage>,
    /// Pieces with text, which are about as many as tokens.
    deltas: usize,
    /// Tokens of the tenant's quota for the prompt, as they are estimated, and the longest answer.
    reserved: TokenReservation,
    estimated_tokens: usize,
    /// See `Sequence::number`.
    number: u64,
}

impl RemoteGeneration {
    /// A generation whose request is sent when its first piece is asked for.
    pub(crate) fn start(
        context: &WorkContext,
        work: GenerateWork,
        model: Arc<RemoteModel>,
    ) -> Result<Self, ServiceError> {
        let is_conversation = matches!(*work.prompt, Prompt::Conversation(_));
        context.record.note(|tally| {
            tally.add_model(&model.id);
            if !is_conversation {
                tally.note_completion();
            }
        });
        let estimated_tokens = prompt_bytes(&work.prompt).div_ceil(BYTES_PER_TOKEN);
        let most_tokens = estimated_tokens.saturating_add(work.max_new_tokens);
        let admitted = now();
        let quotas = &context.shared.quotas;
        let reserved = quotas.reserve_tokens(&context.tenant, most_tokens, admitted);
        let reserved = reserved.map_err(ServiceError::quota)?;
        let number = context.record.trace().map(|trace| trace.begin_work(admitted));
        let (asked, request, deadline) = (Arc::clone(&model), request(&work), context.deadline.instant());
        let opening = Box::pin(async move {
            // Together, so that an endpoint which is slow to describe itself does not keep its first piece back.
            let description = async { Ok::<_, RemoteError>(asked.endpoint.description().await) };
            let (stream, description) =
                future::try_join(asked.endpoint.answer(&request, deadline), description).await?;
            Ok(Opened {
                stream: Box::new(stream),
                description,
            })
        });
        Ok(Self {
            shared: Arc::clone(&context.shared),
            record: Arc::clone(&context.record),
            class: context.priority,
            state: State::Opening(opening),
            reported: ReportedBy::default(),
            stops: StopStrings::new(&work.stop),
            pending: VecDeque::new(),
            text: String::new(),
            admitted,
            began: None,
            times: RemoteTimes::default(),
            usage: None,
            deltas: 0,
            reserved,
            estimated_tokens,
            number: number.unwrap_or_default(),
            model,
            work,
        })
    }

    /// The next piece; `None` after the last. A call that is dropped loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, ServiceError> {
        loop {
            if let Some(piece) = self.pending.pop_front() {
                return Ok(Some(piece));
            }
            let Self { state, shared, .. } = self;
            let waiting = async {
                match state {
                    State::Opening(opening) => opening.await.map(Advance::Opened),
                    State::Open(stream) => stream.next().await.map(Advance::Event),
                    State::Done => Ok(Advance::Event(None)),
                }
            };
            let advance = tokio::select! {
                biased;
                advance = waiting => advance,
                () = shared.stopping.cancelled() => {
                    *state = State::Done;
                    return Err(ServiceError::draining());
                }
            };
            match advance {
                Ok(Advance::Opened(opened)) => self.open(opened),
                Ok(Advance::Event(Some(RemoteEvent::Delta { text }))) => self.take(&text),
                Ok(Advance::Event(Some(RemoteEvent::Finished(finished)))) => self.finish(&finished),
                Ok(Advance::Event(None)) => return Ok(None),
                Err(error) => {
                    self.state = State::Done;
                    return Err(self.failed(error));
                }
            }
        }
    }

    fn open(&mut self, opened: Opened) {
        let Opened { stream, description } = opened;
        self.times = stream.times();
        self.began = Some(now());
        self.record.note_first_token();
        let (model, class) = (self.model.id.clone(), self.class.name());
        metrics::histogram!("babelward_queue_wait_seconds", "model" => model.clone(), "class" => class)
            .record(self.times.queue);
        metrics::histogram!("babelward_ttft_seconds", "model" => model)
            .record(self.times.queue + self.times.prefill);
        self.reported = ReportedBy {
            engine: stream.reported().clone(),
            description,
        };
        self.state = State::Open(stream);
        self.pending
            .push_back(Piece::Started(Box::new(proto::GenerateStarted {
                prompt_tokens: 0,
                seed: self.work.sampling.seed,
                provenance: Some(self.provenance()),
            })));
    }

    /// Takes text. The answer ends at a stop string, and with it the request.
    fn take(&mut self, text: &str) {
        self.deltas += 1;
        let certain = self.stops.push(text);
        self.delta(certain);
        if let Some(stop) = self.stops.stopped().map(str::to_owned) {
            self.state = State::Done;
            self.end(proto::FinishReason::StopSequence, stop);
        }
    }

    fn delta(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        let offset_bytes = u64::try_from(self.text.len()).unwrap_or(u64::MAX);
        self.text.push_str(&text);
        self.pending.push_back(Piece::Delta(Delta {
            reach: self.text.len() + self.stops.held_bytes(),
            event: proto::GenerateDelta {
                text,
                offset_bytes,
                ..proto::GenerateDelta::default()
            },
        }));
    }

    fn finish(&mut self, finished: &RemoteFinished) {
        let rest = self.stops.finish();
        self.delta(rest);
        self.usage = finished.usage;
        let is_shorter = |usage: RemoteUsage| {
            usize::try_from(usage.completion_tokens).is_ok_and(|tokens| tokens < self.work.max_new_tokens)
        };
        let (reason, stop) = match &finished.reason {
            RemoteFinish::StopText(stop) if self.work.stop.contains(stop) => {
                (proto::FinishReason::StopSequence, stop.clone())
            }
            RemoteFinish::Stop | RemoteFinish::StopText(_) => (proto::FinishReason::Eos, String::new()),
            RemoteFinish::Length if finished.usage.is_some_and(is_shorter) => {
                (proto::FinishReason::ContextWindow, String::new())
            }
            RemoteFinish::Length => (proto::FinishReason::MaxTokens, String::new()),
        };
        self.end(reason, stop);
    }

    /// Makes the last piece.
    fn end(&mut self, reason: proto::FinishReason, stop_sequence: String) {
        self.shared.registry.record_remote_answer(&self.model);
        let event = proto::GenerateFinished {
            finish_reason: reason.into(),
            stop_sequence,
            usage: self.usage.map(|usage| proto::Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                cached_prompt_tokens: usage.cached_prompt_tokens,
                forward_passes: 0,
            }),
            timing: Some(self.timing()),
            text_digest: digest::of_bytes(&self.text),
            ..proto::GenerateFinished::default()
        };
        let finished = Finished {
            event,
            text: std::mem::take(&mut self.text),
            seed: self.work.sampling.seed,
            provenance: self.provenance(),
        };
        self.pending.push_back(Piece::Finished(Box::new(finished)));
    }

    fn failed(&self, error: RemoteError) -> ServiceError {
        if error.is_fault() {
            self.shared.registry.record_remote_fault(&self.model);
            tracing::warn!(model = self.model.id.as_str(), error = %error, "an endpoint gave no answer");
        }
        ServiceError::from_remote(error)
    }

    /// Ends the answer where it is, and closes the connection of its request.
    pub(crate) fn cut(&mut self) {
        self.state = State::Done;
        self.pending.clear();
    }

    /// What came of an answer that was cut. How many tokens the endpoint has computed is not known.
    pub(crate) fn cut_end(&self) -> CutEnd {
        CutEnd {
            event: proto::GenerateFinished {
                finish_reason: proto::FinishReason::Guard.into(),
                timing: Some(self.timing()),
                ..proto::GenerateFinished::default()
            },
            computed_after: None,
        }
    }

    fn provenance(&self) -> proto::Provenance {
        let is_sampled = self.work.sampling.temperature > 0.0;
        let seed = is_sampled.then_some(self.work.sampling.seed);
        provenance::remote_provenance(&self.model, &self.reported, seed)
    }

    /// The times of the phases so far. Before the first piece, all of it was waiting.
    fn phases(&self) -> SequenceTimes {
        match self.began {
            Some(began) => SequenceTimes {
                queue: self.times.queue,
                prefill: self.times.prefill,
                decode: now().saturating_duration_since(began),
            },
            None => SequenceTimes {
                queue: self.elapsed(),
                ..SequenceTimes::default()
            },
        }
    }

    fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.admitted)
    }

    fn timing(&self) -> proto::Timing {
        let SequenceTimes {
            queue,
            prefill,
            decode,
        } = self.phases();
        proto::Timing {
            queue: Some(provenance::duration(queue)),
            prefill: Some(provenance::duration(prefill)),
            decode: Some(provenance::duration(decode)),
            total: Some(provenance::duration(self.elapsed())),
            max_batch_size: 0,
        }
    }
}

impl Drop for RemoteGeneration {
    /// Adds what was used to the totals of the call, to the tenant's quota and to the metrics, however it ended.
    fn drop(&mut self) {
        let size = |tokens: u32| usize::try_from(tokens).unwrap_or(usize::MAX);
        let prompt_tokens = match (self.usage, self.began) {
            (Some(usage), _) => size(usage.prompt_tokens),
            (None, Some(_)) => self.estimated_tokens,
            (None, None) => 0,
        };
        let answer_tokens = self
            .usage
            .map_or(self.deltas, |usage| size(usage.completion_tokens));
        let cached_tokens = self.usage.map_or(0, |usage| size(usage.cached_prompt_tokens));
        let times = self.phases();
        let used = SequenceTrace {
            number: self.number,
            model: &self.model.id,
            class: self.class.name(),
            admitted: self.admitted,
            times,
            reached: match (self.began, self.deltas) {
                (None, _) => Stage::Queue,
                (Some(_), 0) => Stage::Prefill,
                (Some(_), _) => Stage::Decode,
            },
            prompt_tokens,
            cached_tokens,
            answer_tokens,
        };
        settle(&self.record, &mut self.reserved, &used);
    }
}

fn prompt_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Conversation(messages) => messages.iter().map(|message| message.bytes()).sum(),
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => tokens.len().saturating_mul(BYTES_PER_TOKEN),
    }
}

fn request(work: &GenerateWork) -> RemoteRequest {
    let prompt = match &*work.prompt {
        Prompt::Conversation(messages) => {
            let messages = messages.iter().map(|message| RemoteMessage {
                role: match message.speaker {
                    Speaker::System => ChatRole::System,
                    // No tool's result comes here: endpoints are not sent any.
                    Speaker::User | Speaker::Tool => ChatRole::User,
                    Speaker::Assistant => ChatRole::Assistant,
                }
                .name(),
                content: message.said(),
            });
            RemotePrompt::Conversation(messages.collect())
        }
        Prompt::Text(text) => RemotePrompt::Text(text.clone()),
        Prompt::Tokens(tokens) => RemotePrompt::Tokens(tokens.clone()),
    };
    let sampling = &work.sampling;
    RemoteRequest {
        prompt,
        sampling: RemoteSampling {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            seed: sampling.seed & SEED_BITS,
        },
        max_tokens: work.max_new_tokens,
        stop: work.stop.clone(),
    }
}
