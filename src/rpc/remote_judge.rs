//! Verdicts of guards that compute elsewhere: an endpoint is sent the guard's exact prompt, and the verdict is read from the text that
//! it writes and the probabilities that it lists.

use std::time::{Duration, Instant};

use super::{
    access::SequenceTimes,
    call_trace::SequenceTrace,
    clock::now,
    error::ServiceError,
    judged::{GuardPrompt, JudgedPrompt, guard_of, told},
    provenance::{self, ReportedBy},
    remote_accounts::{BYTES_PER_TOKEN, settle},
    sequence::WorkContext,
    validate::ClassifyWork,
};
use crate::{
    auth::TokenReservation,
    engine::Stage,
    guard::{Listed, ListedAnswer, ListedPosition, ListedProblem, ListedVerdict, judged_role},
    proto,
    registry::RemoteModel,
    remote::{AnswerPosition, LogprobsAnswer, LogprobsRequest, RemoteError, RemotePrompt, RemoteTimes},
};

/// Tokens that an endpoint is asked to list at each position: as many as vLLM and our own HTTP port list where nobody has raised or
/// lowered that.
const LISTED_TOKENS: usize = 20;

/// Most tokens of a prompt that is followed by an answer of `answer_tokens`. What is too long for a window that the endpoint does not
/// tell is for the endpoint to refuse.
pub(super) async fn longest_prompt(
    context: &WorkContext,
    model: &RemoteModel,
    answer_tokens: usize,
) -> Result<usize, ServiceError> {
    let described = async { Ok(model.endpoint.description().await) };
    let window = context.deadline.limit(described).await?.context_tokens;
    let window = window.and_then(|tokens| usize::try_from(tokens).ok());
    Ok(window.map_or(usize::MAX, |tokens| tokens.saturating_sub(answer_tokens)))
}

/// Lets the endpoint answer a prompt.
pub(super) async fn verdict(
    context: &WorkContext,
    work: &ClassifyWork,
    model: &RemoteModel,
    prompt: JudgedPrompt,
) -> Result<proto::Verdict, ServiceError> {
    let guard = guard_of(work)?;
    let policy = work.policy.as_deref();
    let JudgedPrompt { prompt, uses } = prompt;
    let (form, prompt, sent) = match prompt {
        GuardPrompt::Tokens(tokens) => {
            let sent = SentTokens::Exactly(tokens.len());
            (
                proto::RemotePromptForm::Tokens,
                RemotePrompt::Tokens(tokens),
                sent,
            )
        }
        GuardPrompt::Text(text) => {
            let sent = SentTokens::About(text.len().div_ceil(BYTES_PER_TOKEN));
            (proto::RemotePromptForm::Text, RemotePrompt::Text(text), sent)
        }
    };
    let request = LogprobsRequest {
        prompt,
        top: LISTED_TOKENS,
        max_tokens: guard.answer_tokens(policy),
    };
    let mut accounts = Accounts::open(context, model, sent.count().saturating_add(request.max_tokens))?;
    let answered = async {
        let answer = model
            .endpoint
            .logprobs(&request, context.deadline.instant())
            .await?;
        sent.check(&answer)?;
        let verdict = guard.listed_verdict(judged_role(&work.messages), &listed(&answer), policy);
        let verdict = verdict.map_err(|problem| match problem {
            ListedProblem::NoPositions | ListedProblem::NothingListed => RemoteError::NoLogprobs,
            ListedProblem::OtherText | ListedProblem::NoDistribution => RemoteError::Malformed {
                what: problem.to_string(),
            },
        })?;
        Ok::<_, RemoteError>((answer, verdict))
    };
    let answered = tokio::select! {
        biased;
        answered = answered => answered,
        () = context.shared.stopping.cancelled() => return Err(ServiceError::draining()),
    };
    let (answer, verdict) = answered.map_err(|error| failed(context, model, error))?;
    context.shared.registry.record_remote_answer(model);
    let usage = usage(&answer, sent);
    accounts.answered(usage, answer.times);
    let ListedVerdict {
        verdict,
        listed,
        unlisted_mass,
    } = verdict;
    let reported = ReportedBy {
        engine: answer.reported,
        description: model.endpoint.known_description(),
    };
    Ok(proto::Verdict {
        usage: Some(usage),
        timing: Some(provenance::remote_timing(&answer.times, accounts.elapsed())),
        remote_reading: Some(proto::RemoteReading {
            prompt_form: form.into(),
            listed_tokens: provenance::count(listed),
            unlisted_mass,
        }),
        ..told(
            context,
            work,
            verdict,
            &uses,
            provenance::remote_guard_provenance(model, guard, &reported),
        )
    })
}

fn failed(context: &WorkContext, model: &RemoteModel, error: RemoteError) -> ServiceError {
    if error.is_fault() {
        context.shared.registry.record_remote_fault(model);
        tracing::warn!(model = model.id.as_str(), error = %error, "an endpoint gave no verdict");
    }
    ServiceError::from_remote(error)
}

/// Adds what a request to an endpoint has used to the totals of the call, to the tenant's quota, to the metrics and to the trace,
/// when it is dropped, however the request ended.
struct Accounts<'a> {
    context: &'a WorkContext,
    model: &'a RemoteModel,
    reserved: TokenReservation,
    admitted: Instant,
    /// See `Sequence::number`.
    number: u64,
    used: proto::Usage,
    /// Absent without an answer.
    times: Option<RemoteTimes>,
}

impl<'a> Accounts<'a> {
    /// For a request of at most so many tokens with its answer.
    fn open(context: &'a WorkContext, model: &'a RemoteModel, most: usize) -> Result<Self, ServiceError> {
        let admitted = now();
        let quotas = &context.shared.quotas;
        let reserved = quotas.reserve_tokens(&context.tenant, most, admitted);
        let reserved = reserved.map_err(ServiceError::quota)?;
        // What has begun is ended when this is dropped.
        let number = context.record.trace().map(|trace| trace.begin_work(admitted));
        Ok(Self {
            context,
            model,
            reserved,
            admitted,
            number: number.unwrap_or_default(),
            used: proto::Usage::default(),
            times: None,
        })
    }

    fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.admitted)
    }

    fn answered(&mut self, used: proto::Usage, times: RemoteTimes) {
        self.used = used;
        self.times = Some(times);
        self.context.record.note_first_token();
        let (model, class) = (self.model.id.clone(), self.context.priority.name());
        metrics::histogram!("babelward_queue_wait_seconds", "model" => model, "class" => class)
            .record(times.queue);
    }
}

impl Drop for Accounts<'_> {
    fn drop(&mut self) {
        let size = |tokens: u32| usize::try_from(tokens).unwrap_or(usize::MAX);
        let prompt_tokens = size(self.used.prompt_tokens);
        let cached_tokens = size(self.used.cached_prompt_tokens);
        let answer_tokens = size(self.used.completion_tokens);
        let times = match self.times {
            Some(times) => SequenceTimes {
                queue: times.queue,
                prefill: times.prefill,
                ..SequenceTimes::default()
            },
            None => SequenceTimes {
                queue: self.elapsed(),
                ..SequenceTimes::default()
            },
        };
        let used = SequenceTrace {
            number: self.number,
            model: &self.model.id,
            class: self.context.priority.name(),
            admitted: self.admitted,
            times,
            reached: match self.times {
                None => Stage::Queue,
                Some(_) => Stage::Decode,
            },
            prompt_tokens,
            cached_tokens,
            answer_tokens,
        };
        settle(&self.context.record, &mut self.reserved, &used);
    }
}

/// How many tokens an endpoint was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SentTokens {
    Exactly(usize),
    /// It was sent a text.
    About(usize),
}

impl SentTokens {
    fn count(self) -> usize {
        match self {
            Self::Exactly(count) | Self::About(count) => count,
        }
    }

    /// Refuses an answer to another prompt than the one that was sent.
    fn check(self, answer: &LogprobsAnswer) -> Result<(), RemoteError> {
        let (Self::Exactly(sent), Some(usage)) = (self, answer.usage) else {
            return Ok(());
        };
        match usize::try_from(usage.prompt_tokens) == Ok(sent) {
            true => Ok(()),
            false => Err(RemoteError::Malformed {
                what: format!(
                    "it counts {} tokens in a prompt of {sent}, so it has not read this prompt",
                    usage.prompt_tokens
                ),
            }),
        }
    }
}

/// What an answer took. What the endpoint does not say is counted here.
fn usage(answer: &LogprobsAnswer, sent: SentTokens) -> proto::Usage {
    match answer.usage {
        Some(usage) => proto::Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_prompt_tokens: usage.cached_prompt_tokens,
            forward_passes: 0,
        },
        None => proto::Usage {
            prompt_tokens: provenance::count(sent.count()),
            completion_tokens: provenance::count(answer.positions.len()),
            ..proto::Usage::default()
        },
    }
}

/// An answer in the guard's words.
fn listed(answer: &LogprobsAnswer) -> ListedAnswer {
    let position = |position: &AnswerPosition| {
        let likely = position.candidates.iter().map(|candidate| Listed {
            id: candidate.id,
            bytes: candidate
                .bytes
                .clone()
                .unwrap_or_else(|| candidate.text.clone().into_bytes()),
            logprob: candidate.logprob,
        });
        ListedPosition {
            token: position.written.clone(),
            likely: likely.collect(),
        }
    };
    ListedAnswer {
        text: answer.text.clone(),
        positions: answer.positions.iter().map(position).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::{RemoteTimes, RemoteUsage, ReportedEngine};

    fn answer(usage: Option<RemoteUsage>) -> LogprobsAnswer {
        LogprobsAnswer {
            positions: Vec::new(),
            text: String::new(),
            usage,
            reported: ReportedEngine::default(),
            times: RemoteTimes::default(),
        }
    }

    #[test]
    fn an_answer_to_another_number_of_tokens_is_refused_where_the_number_is_known() {
        let told = answer(Some(RemoteUsage {
            prompt_tokens: 7,
            completion_tokens: 1,
            cached_prompt_tokens: 0,
        }));
        assert_eq!(SentTokens::Exactly(7).check(&told), Ok(()));
        assert_eq!(SentTokens::About(3).check(&told), Ok(()));
        let refused = SentTokens::Exactly(8).check(&told).unwrap_err();
        assert!(
            refused.to_string().contains("7 tokens in a prompt of 8"),
            "{refused}"
        );
        assert_eq!(SentTokens::Exactly(8).check(&answer(None)), Ok(()));
    }

    #[test]
    fn what_an_endpoint_does_not_count_is_counted_here() {
        let counted = usage(&answer(None), SentTokens::About(12));
        assert_eq!((counted.prompt_tokens, counted.completion_tokens), (12, 0));
    }
}
