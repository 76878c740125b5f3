//! Checks Generate and Score.

use std::sync::Arc;

use rand::RngExt as _;

use super::{
    checker::{Checker, ValidationContext},
    classifier::{self, ClassifierWork},
    conversation,
    decision::{DecidedBy, DecisionFields},
    growing::{AnswerGuardFields, CheckedOptions, GuardWork, answer_guard_fields, observers},
    policy::{self, CheckedPolicy, GuardAndPolicy},
    safety::{ClassifyWork, Judged, JudgedMessages},
};
use crate::{
    engine::Sampling,
    guard::{JudgedRole, Policy, SentMessage, Speaker},
    proto::{self, generate_request},
    registry::{Lease, ModelAccess, Registry},
    remote::EndpointApi,
    rpc::{decision::Decider, error::ServiceError, limits::Limits},
};

/// What the model answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// A conversation, which the model's chat template turns into text.
    Conversation(Vec<Arc<SentMessage>>),
    /// Text that is used as it is.
    Text(String),
    /// Tokens that are used as they are.
    Tokens(Vec<u32>),
}

/// A checked Generate.
#[derive(Clone)]
pub(crate) struct GenerateWork {
    pub(crate) target: ModelAccess,
    pub(crate) prompt: Arc<Prompt>,
    /// The field of the prompt, which later errors name.
    pub(crate) prompt_field: String,
    /// With a random seed if the request has none.
    pub(crate) sampling: Sampling,
    pub(crate) max_new_tokens: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) logprobs: Option<usize>,
    pub(crate) priority: proto::Priority,
}

impl GenerateWork {
    /// The prompt as a guard sees it: raw text and tokens are a message of the user.
    pub(crate) fn messages(&self) -> Vec<Arc<SentMessage>> {
        let user = |content| vec![Arc::new(SentMessage::plain(Speaker::User, content))];
        match &*self.prompt {
            Prompt::Conversation(messages) => messages.clone(),
            Prompt::Text(text) => user(text.clone()),
            Prompt::Tokens(tokens) => user(match &self.target {
                ModelAccess::Local(entry) => entry.resident.tokenizer.decode(tokens),
                // Tokens for an endpoint were refused, because only it knows its vocabulary.
                ModelAccess::Remote(_) => String::new(),
            }),
        }
    }

    /// Who wrote the answer, for the errors of its judging; `guard` is the field that names the guard.
    pub(crate) fn judged_answer(&self, guard: &str) -> Judged {
        let guard = guard.to_owned();
        match *self.prompt {
            Prompt::Conversation(_) => Judged::AnswerToConversation { guard },
            Prompt::Text(_) | Prompt::Tokens(_) => Judged::AnswerToText { guard },
        }
    }
}

/// A checked Generate, with the guard of its answer if it has one.
pub(crate) struct CheckedGenerate {
    pub(crate) work: GenerateWork,
    pub(crate) guard: Option<GuardWork>,
}

/// A checked Score.
pub(crate) struct ScoreWork {
    pub(crate) generate: GenerateWork,
    pub(crate) guard: ModelAccess,
    /// The policy that the guard judges by; `None` is its own.
    pub(crate) policy: Option<Arc<Policy>>,
    /// The field of a policy in the request, which later errors name.
    pub(crate) policy_field: String,
    /// The field that names the guard, which later errors name.
    pub(crate) guard_field: String,
    pub(crate) samples: u32,
    pub(crate) keep_text: bool,
    /// Whether the verdicts have the probability of each category.
    pub(crate) category_probabilities: bool,
    pub(crate) decider: Decider,
    /// Who else looks at each answer, for the decision.
    pub(crate) classifiers: Vec<ClassifierWork>,
}

/// Checks a Generate; `path` is its path in the message that the caller sent. Waits while target and guard are being loaded.
pub(crate) async fn generate(
    mut request: proto::GenerateRequest,
    path: &str,
    context: &ValidationContext<'_>,
) -> Result<CheckedGenerate, ServiceError> {
    let mut checker = Checker::at(path);
    let guard = take_guard(&mut checker, &mut request, context.limits);
    let fields = generate_fields(&mut checker, request, context.limits);
    checker.finish()?;
    let found = fields.resolve(path, context.registry);
    let work = context.deadline.limit(found).await?;
    let guard = match guard {
        Some(guard) => Some(guard_of(&work, guard, context).await?),
        None => None,
    };
    Ok(CheckedGenerate { work, guard })
}

/// Takes the guard out of a Generate and checks it, and whether it can judge an answer to the prompt.
pub(super) fn take_guard(
    checker: &mut Checker,
    request: &mut proto::GenerateRequest,
    limits: &Limits,
) -> Option<AnswerGuardFields> {
    let guard = request.guard.take()?;
    if let Some(generate_request::Prompt::Conversation(conversation)) = &request.prompt {
        checker.within("conversation", |checker| {
            conversation::ends_with_user(checker, conversation);
        });
    }
    Some(checker.within("guard", |checker| answer_guard_fields(checker, guard, limits)))
}

/// Finds the guard of an answer. Waits while it is being loaded.
async fn guard_of(
    work: &GenerateWork,
    guard: AnswerGuardFields,
    context: &ValidationContext<'_>,
) -> Result<GuardWork, ServiceError> {
    let AnswerGuardFields {
        model,
        model_field,
        policy,
        policy_field,
        inline_policy_field,
        options: CheckedOptions {
            cadence,
            rules,
            heartbeat,
        },
        decision,
        path,
    } = guard;
    let GuardAndPolicy { guard, policy } = policy::find_guard(context, &model, policy, policy_field).await?;
    let DecidedBy {
        decider,
        category_probabilities,
    } = decision.find_for(
        &path,
        context.decisions,
        &guard,
        policy.as_deref(),
        JudgedRole::Agent,
    )?;
    Ok(GuardWork {
        before: ClassifyWork {
            guard,
            policy,
            messages: work.messages(),
            priority: work.priority,
            category_probabilities,
            fields: JudgedMessages {
                conversation: work.prompt_field.clone(),
                policy: inline_policy_field,
                judged: work.judged_answer(&model_field),
            },
        },
        role: Speaker::Assistant,
        cadence,
        rules,
        heartbeat,
        classifiers: observers(context, &decider, &path).await?,
        decider,
    })
}

/// A Score whose fields are valid without knowing the models.
pub(super) struct ScoreFields {
    /// Absent when the request has none, which the checker has been told.
    generate: Option<GenerateFields>,
    generate_path: String,
    guard: String,
    guard_field: String,
    policy: CheckedPolicy,
    policy_field: String,
    decision: DecisionFields,
    samples: u32,
    keep_text: bool,
}

pub(super) fn score_fields(
    checker: &mut Checker,
    request: proto::ScoreRequest,
    limits: &Limits,
) -> ScoreFields {
    let judge = request.judge.unwrap_or_default();
    let (policy, decision) = checker.within("judge", |checker| {
        checker.model_id("model", &judge.model, limits);
        let policy = policy::policy(checker, judge.policy_source.into(), limits);
        let decision = DecisionFields::checked(checker, judge.decision_policy, judge.language);
        (policy, decision)
    });
    if request.samples > limits.samples {
        checker.wrong(
            "samples",
            format!("must be at most {}, is {}", limits.samples, request.samples),
        );
    }
    let generate = match request.generate {
        Some(generate) => checker.within("generate", |checker| {
            if let Some(generate_request::Prompt::Conversation(conversation)) = &generate.prompt {
                checker.within("conversation", |checker| {
                    conversation::ends_with_user(checker, conversation);
                });
            }
            if generate.guard.is_some() {
                checker.wrong("guard", "must not be set: a Score judges the complete answer");
            }
            Some(generate_fields(checker, generate, limits))
        }),
        None => {
            checker.wrong("generate", "is required");
            None
        }
    };
    ScoreFields {
        generate,
        generate_path: checker.path_of("generate"),
        guard: judge.model,
        guard_field: checker.path_of("judge.model"),
        policy,
        policy_field: checker.path_of("judge.inline_policy"),
        decision,
        samples: request.samples,
        keep_text: request.keep_text,
    }
}

/// Checks a Score; `path` is its path in the message that the caller sent. Waits while target and guard are being loaded.
pub(crate) async fn score(
    request: proto::ScoreRequest,
    path: &str,
    context: &ValidationContext<'_>,
) -> Result<ScoreWork, ServiceError> {
    let registry = context.registry;
    let mut checker = Checker::at(path);
    let ScoreFields {
        generate,
        generate_path,
        guard: guard_id,
        guard_field,
        policy,
        policy_field,
        decision,
        samples,
        keep_text,
    } = score_fields(&mut checker, request, context.limits);
    let chosen_field = checker.path_of(&format!("judge.{}", policy.field()));
    let judge_path = checker.path_of("judge");
    checker.finish()?;
    let Some(fields) = generate else {
        return Err(ServiceError::field(generate_path, "is required"));
    };
    let policy = policy.find(registry)?;
    let found = async {
        let generate = fields.resolve(&generate_path, registry).await?;
        let guard = registry.guard(&guard_id).await;
        let guard = guard.map_err(|error| ServiceError::from_lookup(error, &guard_id))?;
        Ok((generate, guard))
    };
    let (generate, guard) = context.deadline.limit(found).await?;
    policy::check_guard(&guard, policy.as_ref(), chosen_field)?;
    let DecidedBy {
        decider,
        category_probabilities,
    } = decision.find_for(
        &judge_path,
        context.decisions,
        &guard,
        policy.as_deref(),
        JudgedRole::Agent,
    )?;
    Ok(ScoreWork {
        generate,
        guard,
        policy,
        policy_field,
        guard_field,
        samples: samples.max(1),
        keep_text,
        category_probabilities,
        classifiers: classifier::asked_by_policies_alone(context, &decider, &judge_path).await?,
        decider,
    })
}

/// A Generate whose fields are valid without knowing the model.
pub(super) struct GenerateFields {
    model: String,
    prompt: Prompt,
    prompt_field: String,
    sampling: Sampling,
    max_new_tokens: usize,
    stop: Vec<String>,
    logprobs: Option<usize>,
    priority: proto::Priority,
}

impl GenerateFields {
    /// Finds the model and checks what depends on it.
    async fn resolve(self, path: &str, registry: &Registry) -> Result<GenerateWork, ServiceError> {
        let target = registry
            .target(&self.model)
            .await
            .map_err(|error| ServiceError::from_lookup(error, &self.model))?;
        match &target {
            ModelAccess::Local(entry) => self.check_local(path, entry)?,
            ModelAccess::Remote(model) => self.check_remote(path, model.endpoint.options().api)?,
        }
        Ok(GenerateWork {
            target,
            prompt: Arc::new(self.prompt),
            prompt_field: self.prompt_field,
            sampling: self.sampling,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop,
            logprobs: self.logprobs,
            priority: self.priority,
        })
    }
}

impl GenerateFields {
    fn check_local(&self, path: &str, entry: &Lease) -> Result<(), ServiceError> {
        if let Prompt::Tokens(ids) = &self.prompt {
            let vocab_size = entry.resident.limits.vocab_size;
            let mut checker = Checker::at(path);
            for (position, id) in ids.iter().enumerate() {
                if usize::try_from(*id).is_ok_and(|id| id >= vocab_size) {
                    checker.wrong(
                        &format!("token_ids.ids[{position}]"),
                        format!("is not in the vocabulary of {vocab_size} tokens"),
                    );
                }
            }
            checker.finish()?;
        }
        if matches!(self.prompt, Prompt::Conversation(_)) && entry.resident.template.is_none() {
            return Err(ServiceError::ChatTemplateMissing);
        }
        Ok(())
    }

    /// Refuses what an endpoint could not be asked for, or would ignore without saying so.
    fn check_remote(&self, path: &str, api: EndpointApi) -> Result<(), ServiceError> {
        let mut checker = Checker::at(path);
        match &self.prompt {
            Prompt::Conversation(_) if !api.has_chat() => checker.wrong(
                "conversation",
                "must not be set: the model's endpoint has no chat completions (models.ID.endpoint_api); send text",
            ),
            Prompt::Text(_) if !api.has_completions() => checker.wrong(
                "text",
                "must not be set: the model's endpoint has no completions (models.ID.endpoint_api); send a conversation",
            ),
            Prompt::Tokens(_) => checker.wrong(
                "token_ids",
                "must not be set: the model's endpoint alone knows its vocabulary; send a conversation or text",
            ),
            Prompt::Conversation(messages) => {
                if let Some(index) = messages.iter().position(|message| message.uses_tools()) {
                    checker.wrong(
                        &format!("conversation.messages[{index}]"),
                        "must not call a tool or be a tool's result: the model is at an endpoint, which is sent texts alone",
                    );
                }
            }
            Prompt::Text(_) => {}
        }
        if self.sampling.repetition_penalty != 1.0 {
            checker.wrong(
                "sampling.repetition_penalty",
                "must be 1: endpoints have no such parameter in common",
            );
        }
        if self.logprobs.is_some() {
            checker.wrong(
                "logprobs.generated",
                "must not be set: tokens of an endpoint have no ids here",
            );
        }
        checker.finish()
    }
}

pub(super) fn generate_fields(
    checker: &mut Checker,
    request: proto::GenerateRequest,
    limits: &Limits,
) -> GenerateFields {
    checker.model_id("model", &request.model, limits);
    let (prompt, field) = prompt(checker, request.prompt, limits);
    let prompt_field = checker.path_of(field);
    let sampling = checker.within("sampling", |checker| sampling(checker, request.sampling));
    let stopping = request.stopping.unwrap_or_default();
    checker.within("stopping", |checker| check_stopping(checker, &stopping, limits));
    let max_new_tokens = match stopping.max_new_tokens {
        0 => limits.default_new_tokens,
        tokens => tokens,
    };
    let logprobs = checker.within("logprobs", |checker| logprobs(checker, request.logprobs, limits));
    GenerateFields {
        model: request.model,
        prompt,
        prompt_field,
        sampling,
        max_new_tokens: usize::try_from(max_new_tokens).unwrap_or(usize::MAX),
        stop: stopping.stop_sequences,
        logprobs,
        priority: checker.priority(request.priority),
    }
}

fn prompt(
    checker: &mut Checker,
    prompt: Option<generate_request::Prompt>,
    limits: &Limits,
) -> (Prompt, &'static str) {
    match prompt {
        Some(generate_request::Prompt::Conversation(conversation)) => {
            let messages = checker.within("conversation", |checker| {
                conversation::messages(checker, conversation, limits)
            });
            (Prompt::Conversation(messages), "conversation")
        }
        Some(generate_request::Prompt::Text(text)) => {
            checker.bytes("text", text.len(), 1..=limits.content_bytes);
            (Prompt::Text(text), "text")
        }
        Some(generate_request::Prompt::TokenIds(tokens)) => {
            let count = tokens.ids.len();
            if count == 0 || count > limits.token_ids {
                checker.wrong(
                    "token_ids.ids",
                    format!("must have 1..={} tokens, has {count}", limits.token_ids),
                );
            }
            (Prompt::Tokens(tokens.ids), "token_ids.ids")
        }
        None => {
            checker.wrong("prompt", "is required: set conversation, text or token_ids");
            (Prompt::Tokens(Vec::new()), "prompt")
        }
    }
}

fn sampling(checker: &mut Checker, params: Option<proto::SamplingParams>) -> Sampling {
    let params = params.unwrap_or_default();
    let temperature = params.temperature.unwrap_or(1.0);
    checker.number("temperature", temperature, 0.0..=2.0);
    let top_p = params.top_p.unwrap_or(1.0);
    // Written so that not-a-number is refused.
    if !(top_p > 0.0 && top_p <= 1.0) {
        checker.wrong("top_p", format!("must be above 0 and at most 1, is {top_p}"));
    }
    let repetition_penalty = params.repetition_penalty.unwrap_or(1.0);
    checker.number("repetition_penalty", repetition_penalty, 1.0..=2.0);
    Sampling {
        temperature,
        top_k: usize::try_from(params.top_k.unwrap_or(0)).unwrap_or(usize::MAX),
        top_p,
        repetition_penalty,
        seed: params.seed.unwrap_or_else(|| rand::rng().random()),
    }
}

fn check_stopping(checker: &mut Checker, stopping: &proto::StoppingParams, limits: &Limits) {
    if stopping.max_new_tokens > limits.max_new_tokens {
        checker.wrong(
            "max_new_tokens",
            format!(
                "must be at most {}, is {}",
                limits.max_new_tokens, stopping.max_new_tokens
            ),
        );
    }
    let count = stopping.stop_sequences.len();
    if count > limits.stop_sequences {
        checker.wrong(
            "stop_sequences",
            format!("must be at most {}, are {count}", limits.stop_sequences),
        );
    }
    for (index, stop) in stopping
        .stop_sequences
        .iter()
        .take(limits.stop_sequences)
        .enumerate()
    {
        let field = format!("stop_sequences[{index}]");
        checker.bytes(&field, stop.len(), 1..=limits.stop_sequence_bytes);
    }
}

fn logprobs(checker: &mut Checker, options: Option<proto::LogprobOptions>, limits: &Limits) -> Option<usize> {
    let options = options.unwrap_or_default();
    if options.top_n > limits.top_n {
        checker.wrong(
            "top_n",
            format!("must be at most {}, is {}", limits.top_n, options.top_n),
        );
    }
    if options.top_n > 0 && !options.generated {
        checker.wrong("generated", "must be true for alternatives (top_n)");
    }
    options
        .generated
        .then(|| usize::try_from(options.top_n).unwrap_or(usize::MAX))
}
