//! Items as requests, and answers as results.

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
    client::{RpcError, code_name},
    digest,
    proto::{
        self, ClassifyRequest, ClassifyResponse, Conversation, GenerateRequest, JudgeOptions, Message, Role,
        SamplingParams, ScoreRequest, ScoreResponse, ScoredSample, StoppingParams, Usage,
        generate_request::Prompt,
    },
};

/// What becomes of an item that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server cannot take it now: it stays open.
    Later,
    /// Nothing of this run can be done: the model is not there, or the caller may not use it.
    Run,
    /// It may be the fault of what shared a step with it: only what happens when it is alone counts.
    PerhapsCompany,
    /// It would fail again.
    Item,
}

impl FailureKind {
    pub(super) fn of(error: &RpcError) -> Self {
        if error.is_retryable() {
            return Self::Later;
        }
        let for_this_item = error.reason.as_deref() == Some("CACHE_TOO_SMALL");
        match error.code {
            // The server as it is now will never take it; another, or the same restarted, may.
            Code::Unavailable => Self::Later,
            // There is no room for the model.
            Code::ResourceExhausted => Self::Run,
            Code::NotFound | Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => {
                Self::Run
            }
            Code::FailedPrecondition if !for_this_item => Self::Run,
            Code::FailedPrecondition | Code::InvalidArgument | Code::OutOfRange | Code::AlreadyExists => {
                Self::Item
            }
            _ => Self::PerhapsCompany,
        }
    }
}

/// A result with what goes elsewhere than into its record.
pub(super) struct Received<T> {
    pub(super) result: T,
    pub(super) target: Option<ModelProvenance>,
    pub(super) guard: Option<ModelProvenance>,
    /// Prompt tokens that came from the prefix cache.
    pub(super) cached_tokens: u64,
    /// Tokens that were computed: prompts and texts, less what was cached.
    pub(super) computed_tokens: u64,
}

/// Asks the target, and the first guard about its answer.
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
        }),
        samples: 1,
        keep_text: true,
    }
}

/// Asks a guard about an answer that is there already.
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
    }
}

/// As it stands in a record.
pub(super) fn failure(error: RpcError) -> Failure {
    Failure {
        code: code_name(error.code).to_owned(),
        reason: error.reason,
        message: error.message,
    }
}

fn incomplete(what: &str) -> RpcError {
    RpcError::local(
        Code::Internal,
        "INCOMPLETE_ANSWER",
        format!("the answer has {what}"),
    )
}

/// The answer and its first verdict.
pub(super) fn scored(response: ScoreResponse) -> Result<Received<Answer>, RpcError> {
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

/// A verdict on its own.
pub(super) fn classified(response: ClassifyResponse) -> Result<Received<Verdict>, RpcError> {
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
        proto::Label::Undetermined => Label::Undetermined,
        proto::Label::Unspecified => return Err(incomplete("no label")),
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
            label_mass: Some(verdict.label_mass),
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
