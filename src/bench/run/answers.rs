//! Turns items into requests to the server, and its responses into what a record of the results holds.

use tonic::Code;

use crate::{
    bench::{
        plan::PlanItem,
        results::{
            Answer, AnswerTokens, Failure, FinishReason, GuardOutcome, GuardTokens, Label, ModelProvenance,
            Verdict,
        },
        settings::{Prompting, RunSettings},
    },
    client::RpcError,
    digest,
    proto::{
        self, ClassifyRequest, ClassifyResponse, Conversation, GenerateRequest, JudgeOptions, Message, Role,
        SamplingParams, ScoreRequest, ScoreResponse, ScoredSample, StoppingParams, Usage,
        generate_request::Prompt,
    },
    status_code::code_name,
};

/// What a failure of one item means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server cannot take the item for the moment: it is sent again later.
    Retry,
    /// No item of the run can succeed: the model is missing, or the caller may not use it.
    StopsRun,
    /// Another item of the same batch may be the cause: the item is sent again alone, and only that result counts.
    MaybeBatch,
    /// The item would fail again: its failure is a result.
    Final,
}

impl FailureKind {
    pub(super) fn of(error: &RpcError) -> Self {
        if error.is_retryable() {
            return Self::Retry;
        }
        let for_this_item = error.reason.as_deref() == Some("CACHE_TOO_SMALL");
        match error.code {
            // The server as it is now will never take the item; another server, or this one after a restart, may.
            Code::Unavailable => Self::Retry,
            // The server has no memory for the model.
            Code::ResourceExhausted => Self::StopsRun,
            Code::NotFound | Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => {
                Self::StopsRun
            }
            Code::FailedPrecondition if !for_this_item => Self::StopsRun,
            Code::FailedPrecondition | Code::InvalidArgument | Code::OutOfRange | Code::AlreadyExists => {
                Self::Final
            }
            _ => Self::MaybeBatch,
        }
    }
}

/// A result, with what the journal keeps beside its record.
pub(super) struct Received<T> {
    pub(super) result: T,
    pub(super) target: Option<ModelProvenance>,
    pub(super) guard: Option<ModelProvenance>,
    /// Prompt tokens that the server took from its prefix cache.
    pub(super) cached_tokens: u64,
    /// Tokens that the server computed: prompts and completions, less those from the cache.
    pub(super) computed_tokens: u64,
}

/// The request for an answer of the target and for the first guard's verdict on it.
pub(super) fn score_request(item: &PlanItem, seed: u64, settings: &RunSettings) -> ScoreRequest {
    let prompt = match settings.prompting {
        Prompting::Raw => Prompt::Text(item.prompt.clone()),
        Prompting::Template | Prompting::Unknown => Prompt::Conversation(Conversation {
            messages: vec![message(Role::User, &item.prompt)],
        }),
    };
    ScoreRequest {
        generate: Some(GenerateRequest {
            model: settings.target.clone(),
            prompt: Some(prompt),
            sampling: Some(SamplingParams {
                temperature: settings.sampling.map(|sampling| sampling.temperature),
                top_p: settings.sampling.map(|sampling| sampling.top_p),
                seed: Some(item.seed(seed)),
                ..SamplingParams::default()
            }),
            stopping: settings.sampling.map(|sampling| StoppingParams {
                max_new_tokens: sampling.max_new_tokens,
                ..StoppingParams::default()
            }),
            ..GenerateRequest::default()
        }),
        judge: Some(JudgeOptions {
            model: settings.guards.first().cloned().unwrap_or_default(),
            policy_source: settings.policy.for_score(),
            ..JudgeOptions::default()
        }),
        samples: 1,
        keep_text: true,
    }
}

/// The request for a guard's verdict on an answer that exists already.
pub(super) fn classify_request(
    prompt: &str,
    answer: &str,
    guard: usize,
    settings: &RunSettings,
) -> ClassifyRequest {
    ClassifyRequest {
        model: settings.guards.get(guard).cloned().unwrap_or_default(),
        policy_source: settings.policy.for_classify(),
        conversation: Some(Conversation {
            messages: vec![message(Role::User, prompt), message(Role::Assistant, answer)],
        }),
        ..ClassifyRequest::default()
    }
}

fn message(role: Role, content: &str) -> Message {
    Message {
        role: role.into(),
        content: content.to_owned(),
        ..Message::default()
    }
}

/// The error of a call, as a record keeps it.
pub(super) fn failure(error: RpcError) -> Failure {
    Failure {
        code: code_name(error.code).to_owned(),
        reason: error.reason,
        message: error.message,
    }
}

/// The failure of an item that a run which was ended early did not ask.
pub(super) fn not_asked(reason: &str) -> Failure {
    failure(RpcError::local(Code::Cancelled, "NOT_ASKED", reason))
}

/// The error for a response that lacks something; `what` completes "the answer has".
fn incomplete(what: &str) -> RpcError {
    RpcError::local(
        Code::Internal,
        "INCOMPLETE_ANSWER",
        format!("the answer has {what}"),
    )
}

/// Reads an answer and the first guard's verdict on it.
pub(super) fn read_score(response: ScoreResponse) -> Result<Received<Answer>, RpcError> {
    let sample = only_sample(response)?;
    let verdict = sample.verdict.ok_or_else(|| incomplete("no verdict"))?;
    let judged = verdict_of(verdict)?;
    if digest::of_bytes(&sample.text) != sample.text_digest {
        return Err(incomplete("a text that does not fit its digest"));
    }
    let usage = sample.usage.unwrap_or_default();
    let provenance = sample.generation_provenance.as_ref();
    Ok(Received {
        target: provenance.map(ModelProvenance::from_proto),
        guard: judged.guard,
        cached_tokens: judged.cached_tokens + u64::from(usage.cached_prompt_tokens),
        computed_tokens: judged.computed_tokens + computed(&usage),
        result: Answer {
            finish_reason: FinishReason::from_proto(sample.finish_reason),
            tokens: AnswerTokens {
                prompt: usage.prompt_tokens,
                completion: usage.completion_tokens,
            },
            text_digest: Some(sample.text_digest),
            text: Some(sample.text),
            verdicts: vec![GuardOutcome::Judged(judged.result)],
        },
    })
}

/// Reads a verdict on an answer that existed already.
pub(super) fn read_verdict(response: ClassifyResponse) -> Result<Received<Verdict>, RpcError> {
    verdict_of(response.verdict.ok_or_else(|| incomplete("no verdict"))?)
}

fn only_sample(response: ScoreResponse) -> Result<ScoredSample, RpcError> {
    let count = response.samples.len();
    let mut samples = response.samples.into_iter();
    match (samples.next(), samples.next()) {
        (Some(sample), None) => Ok(sample),
        _ => Err(incomplete(&format!("{count} samples, not 1"))),
    }
}

fn verdict_of(verdict: proto::Verdict) -> Result<Received<Verdict>, RpcError> {
    let label = match verdict.label() {
        proto::Label::Safe => Label::Safe,
        proto::Label::Unsafe => Label::Unsafe,
        proto::Label::Controversial => Label::Controversial,
        proto::Label::Undetermined => Label::Undetermined,
        proto::Label::Unspecified => return Err(incomplete("no label")),
    };
    let refused = match verdict.refusal() {
        proto::Refusal::Refused => Some(true),
        proto::Refusal::Answered => Some(false),
        proto::Refusal::Unspecified => None,
    };
    let usage = verdict.usage.unwrap_or_default();
    let categories = verdict.categories.into_iter();
    Ok(Received {
        target: None,
        guard: verdict.provenance.as_ref().map(ModelProvenance::from_proto),
        cached_tokens: usage.cached_prompt_tokens.into(),
        computed_tokens: computed(&usage),
        result: Verdict {
            label,
            unsafe_score: verdict.unsafe_score.filter(|score| score.is_finite()),
            controversial_score: verdict.controversial_score.filter(|score| score.is_finite()),
            label_mass: Some(verdict.label_mass),
            refused,
            raw_output: verdict.raw_output,
            categories: categories.map(|named| named.category).collect(),
            tokens: GuardTokens {
                prompt: usage.prompt_tokens,
                completion: usage.completion_tokens,
            },
        },
    })
}

fn computed(usage: &Usage) -> u64 {
    let all = u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens);
    all.saturating_sub(usage.cached_prompt_tokens.into())
}
