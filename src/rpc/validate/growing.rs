//! Checks the messages of GuardStream, and the guards of answers.

use std::{fmt::Display, ops::RangeInclusive, sync::Arc, time::Duration};

use super::{
    checker::{Checker, ValidationContext},
    classifier::{self, AskedBy, ClassifierWork},
    conversation,
    decision::{DecidedBy, DecisionFields},
    policy::{self, CheckedPolicy, GuardAndPolicy},
    safety::{ClassifyWork, Judged, JudgedMessages},
};
use crate::{
    guard::{
        CADENCE_TOKENS, CONFIRMATIONS, Cadence, FailureMode, GuardMode, JudgedRole, ReleaseRules,
        SentMessage, Speaker,
    },
    proto,
    rpc::{
        decision::Decider,
        error::ServiceError,
        limits::{HEARTBEATS, Limits},
    },
};

/// Most bytes of a chunk of the text.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// The field with the start.
const START: &str = "start";

/// The field with the bytes of the text.
const CHUNK: &str = "chunk";

/// A checked start.
pub(crate) struct GuardWork {
    /// The Classify of each look, without the last message. Probabilities of categories are for the decision, which is about the
    /// complete text.
    pub(crate) before: ClassifyWork,
    /// Who writes the text.
    pub(crate) role: Speaker,
    pub(crate) cadence: Cadence,
    pub(crate) rules: ReleaseRules,
    /// Time between two heartbeats; `None` is the server's.
    pub(crate) heartbeat: Option<Duration>,
    /// Of the verdict on the complete text.
    pub(crate) decider: Decider,
    /// Who else looks at the complete text, for the decision alone.
    pub(crate) classifiers: Vec<ClassifierWork>,
}

/// A start whose fields are valid without knowing the guard.
pub(super) struct GuardFields {
    model: String,
    policy: CheckedPolicy,
    messages: Vec<Arc<SentMessage>>,
    priority: proto::Priority,
    options: CheckedOptions,
    decision: DecisionFields,
    fields: JudgedMessages,
}

/// Checked options of a growing text.
pub(super) struct CheckedOptions {
    pub(super) cadence: Cadence,
    pub(super) rules: ReleaseRules,
    /// Time between two heartbeats; `None` is the server's.
    pub(super) heartbeat: Option<Duration>,
}

pub(super) fn guard_fields(checker: &mut Checker, start: proto::GuardStart, limits: &Limits) -> GuardFields {
    checker.model_id("model", &start.model, limits);
    let priority = checker.priority(start.priority);
    let policy = policy::policy(checker, start.policy_source.into(), limits);
    let other_parts = conversation::unjudgeable(checker, start.unjudgeable);
    let messages = match start.conversation {
        // The growing text is the first message.
        None => Vec::new(),
        Some(conversation) => checker.within("conversation", |checker| {
            if conversation.messages.len() >= limits.messages {
                let most = limits.messages.saturating_sub(1);
                checker.wrong(
                    "messages",
                    format!("must have at most {most} messages, because the growing text is one more"),
                );
            }
            conversation::guard_messages(checker, conversation, limits, other_parts)
        }),
    };
    let decision = DecisionFields::checked(checker, start.decision_policy, start.language);
    let options = options(checker, start.options);
    GuardFields {
        model: start.model,
        policy,
        messages,
        priority,
        options,
        decision,
        fields: JudgedMessages {
            conversation: checker.path_of("conversation"),
            policy: checker.path_of("inline_policy"),
            judged: Judged::GrowingText {
                field: CHUNK.to_owned(),
            },
        },
    }
}

/// The guard of an answer whose fields are valid without knowing the guard.
pub(super) struct AnswerGuardFields {
    pub(super) model: String,
    /// The field that names the guard.
    pub(super) model_field: String,
    pub(super) policy: CheckedPolicy,
    /// The field that has the policy.
    pub(super) policy_field: String,
    /// The field of a policy in the request.
    pub(super) inline_policy_field: String,
    pub(super) options: CheckedOptions,
    pub(super) decision: DecisionFields,
    /// Where they are, for later errors.
    pub(super) path: String,
}

pub(super) fn answer_guard_fields(
    checker: &mut Checker,
    guard: proto::AnswerGuard,
    limits: &Limits,
) -> AnswerGuardFields {
    checker.model_id("model", &guard.model, limits);
    let policy = policy::policy(checker, guard.policy_source.into(), limits);
    let decision = DecisionFields::checked(checker, guard.decision_policy, guard.language);
    let options = options(checker, guard.options);
    AnswerGuardFields {
        model: guard.model,
        model_field: checker.path_of("model"),
        policy_field: checker.path_of(policy.field()),
        inline_policy_field: checker.path_of("inline_policy"),
        policy,
        options,
        decision,
        path: checker.path_of(""),
    }
}

fn options(checker: &mut Checker, options: Option<proto::GuardOptions>) -> CheckedOptions {
    let options = options.unwrap_or_default();
    checker.within("options", |checker| CheckedOptions {
        cadence: cadence(checker, options.cadence),
        rules: rules(checker, &options),
        heartbeat: options.heartbeat.and_then(|time| heartbeat(checker, time)),
    })
}

fn heartbeat(checker: &mut Checker, time: prost_types::Duration) -> Option<Duration> {
    let time = Duration::try_from(time)
        .ok()
        .filter(|time| HEARTBEATS.contains(time));
    if time.is_none() {
        let (least, most) = (HEARTBEATS.start(), HEARTBEATS.end());
        checker.wrong("heartbeat", format!("must be {least:?} to {most:?}"));
    }
    time
}

fn cadence(checker: &mut Checker, cadence: Option<proto::GuardCadence>) -> Cadence {
    let (cadence, default) = (cadence.unwrap_or_default(), Cadence::default());
    checker.within("cadence", |checker| Cadence {
        tokens: match usize::try_from(cadence.tokens).unwrap_or(usize::MAX) {
            0 => default.tokens,
            tokens => within(checker, "tokens", tokens, CADENCE_TOKENS),
        },
        sentence_end: cadence.sentence_end.unwrap_or(default.sentence_end),
    })
}

fn rules(checker: &mut Checker, options: &proto::GuardOptions) -> ReleaseRules {
    let default = ReleaseRules::default();
    let mode = match proto::GuardMode::try_from(options.mode) {
        Ok(proto::GuardMode::Unspecified | proto::GuardMode::HoldBack) => GuardMode::HoldBack,
        Ok(proto::GuardMode::Optimistic) => GuardMode::Optimistic,
        Ok(proto::GuardMode::Observe) => GuardMode::Observe,
        Err(_) => {
            checker.wrong("mode", "is not a known value");
            default.mode
        }
    };
    let failure_mode = match proto::GuardFailureMode::try_from(options.failure_mode) {
        Ok(proto::GuardFailureMode::Unspecified | proto::GuardFailureMode::Closed) => FailureMode::Closed,
        Ok(proto::GuardFailureMode::Open) => FailureMode::Open,
        Err(_) => {
            checker.wrong("failure_mode", "is not a known value");
            default.failure_mode
        }
    };
    let interim_threshold = options.interim_threshold.unwrap_or(default.interim_threshold);
    checker.number("interim_threshold", interim_threshold, 0.0..=1.0);
    ReleaseRules {
        mode,
        failure_mode,
        interim_threshold,
        confirmations: match options.confirmations {
            0 => default.confirmations,
            confirmations => within(checker, "confirmations", confirmations, CONFIRMATIONS),
        },
    }
}

/// Checks a whole number that is not 0, which stands for the default.
fn within<N: PartialOrd + Copy + Display>(
    checker: &mut Checker,
    field: &str,
    value: N,
    allowed: RangeInclusive<N>,
) -> N {
    if !allowed.contains(&value) {
        checker.wrong(
            field,
            format!(
                "must be {}..={}, or 0 for the default, is {value}",
                allowed.start(),
                allowed.end()
            ),
        );
    }
    value
}

/// Checks a start, which is in the field `start`. Waits while the guard is being loaded.
pub(crate) async fn guard_start(
    start: proto::GuardStart,
    context: &ValidationContext<'_>,
) -> Result<GuardWork, ServiceError> {
    let mut checker = Checker::at(START);
    let GuardFields {
        model,
        policy,
        messages,
        priority,
        options: CheckedOptions {
            cadence,
            rules,
            heartbeat,
        },
        decision,
        fields,
    } = guard_fields(&mut checker, start, context.limits);
    let policy_field = checker.path_of(policy.field());
    checker.finish()?;
    let GuardAndPolicy { guard, policy } = policy::find_guard(context, &model, policy, policy_field).await?;
    let role = writer(&messages);
    let judged = match role {
        Speaker::Assistant => JudgedRole::Agent,
        Speaker::User | Speaker::System | Speaker::Tool => JudgedRole::User,
    };
    let DecidedBy {
        decider,
        category_probabilities,
    } = decision.find_for(START, context.decisions, &guard, policy.as_deref(), judged)?;
    Ok(GuardWork {
        role,
        before: ClassifyWork {
            guard,
            policy,
            messages,
            priority,
            category_probabilities,
            fields,
        },
        cadence,
        rules,
        heartbeat,
        classifiers: observers(context, &decider, START).await?,
        decider,
    })
}

/// The classifiers that look at a complete text for a decision. Their failures fail nothing: the text is released without them.
pub(super) async fn observers(
    context: &ValidationContext<'_>,
    decider: &Decider,
    path: &str,
) -> Result<Vec<ClassifierWork>, ServiceError> {
    let found = classifier::asked_by_policies_alone(context, decider, path).await?;
    let observing = found.into_iter().map(|work| ClassifierWork {
        asked_by: AskedBy::Observer,
        ..work
    });
    Ok(observing.collect())
}

/// Who writes the text that follows these messages.
fn writer(messages: &[Arc<SentMessage>]) -> Speaker {
    let mut speakers = messages.iter().map(|message| message.speaker);
    match speakers.rfind(|speaker| *speaker != Speaker::System) {
        Some(Speaker::User | Speaker::Tool) => Speaker::Assistant,
        Some(Speaker::Assistant | Speaker::System) | None => Speaker::User,
    }
}

/// Checks the size of a chunk.
pub(crate) fn guard_chunk(chunk: &[u8]) -> Result<(), ServiceError> {
    let mut checker = Checker::at("");
    checker.bytes(CHUNK, chunk.len(), 0..=CHUNK_BYTES);
    checker.finish()
}
