//! Checks Classify and BatchClassify.

use std::sync::Arc;

use super::{
    checker::{Checker, ValidationContext},
    classifier::{self, AskedBy, ClassifiedText, ClassifierQuestion, ClassifierWork},
    conversation,
    decision::{DecidedBy, DecisionFields, JudgingGuard},
    policy::{self, CheckedPolicy, GuardAndPolicy},
    request::item_ids,
};
use crate::{
    guard::{
        JudgeScope, JudgedRole, LEAST_WINDOW_TOKENS, MAX_WINDOWS, Policy, SentMessage, WindowRules,
        judged_role,
    },
    proto,
    registry::{ModelAccess, ModelRole},
    rpc::{decision::Decider, error::ServiceError, limits::Limits},
};

/// A checked Classify.
#[derive(Clone)]
pub(crate) struct ClassifyWork {
    pub(crate) guard: ModelAccess,
    /// The policy that the guard judges by; `None` is its own.
    pub(crate) policy: Option<Arc<Policy>>,
    /// The conversation, whose last message is judged.
    pub(crate) messages: Vec<Arc<SentMessage>>,
    pub(crate) priority: proto::Priority,
    /// Whether the verdict has the probability of each category.
    pub(crate) category_probabilities: bool,
    /// The fields of these texts, which later errors name.
    pub(crate) fields: JudgedMessages,
}

/// A checked Classify of one or several messages, and what is done about the answers.
pub(crate) struct CheckedClassify {
    /// What a guard judges; absent where classifiers alone answer.
    pub(crate) judging: Option<Judging>,
    pub(crate) priority: proto::Priority,
    pub(crate) decider: Decider,
    /// Who else looks at the last message.
    pub(crate) classifiers: Vec<ClassifierWork>,
    /// That message; empty where there are no classifiers.
    pub(crate) classified_text: ClassifiedText,
}

/// What a guard judges of a conversation.
pub(crate) struct Judging {
    pub(crate) work: ClassifyWork,
    pub(crate) judged: JudgedRange,
}

/// Which messages of a conversation are judged, and what is done about those that are too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JudgedRange {
    pub(crate) scope: JudgeScope,
    /// For each message that is judged, the number of messages up to it, in rising order.
    pub(crate) ends: Vec<usize>,
    /// How a message is cut that is too long; without it, it is an error.
    pub(crate) windows: Option<WindowRules>,
}

/// Where the messages that a guard judges come from, and the policy that it judges by.
#[derive(Clone)]
pub(crate) struct JudgedMessages {
    /// The field of the conversation or prompt.
    pub(crate) conversation: String,
    /// The field of a policy in the request. Policies of the configuration were encoded when the guard was loaded.
    pub(crate) policy: String,
    /// Who wrote the last message.
    pub(crate) judged: Judged,
}

/// Who wrote the message that a guard judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judged {
    /// The caller sent it as the end of a conversation.
    Conversation,
    /// A model wrote it as the answer to a conversation; `guard` is the field that names the guard.
    AnswerToConversation { guard: String },
    /// A model wrote it as the answer to raw text or tokens; `guard` is the field that names the guard.
    AnswerToText { guard: String },
    /// The caller sends it in pieces, in this field.
    GrowingText { field: String },
}

/// A Classify whose fields are valid without knowing the guard.
pub(super) struct ClassifyFields {
    model: String,
    policy: CheckedPolicy,
    messages: Vec<Arc<SentMessage>>,
    judged: JudgedRange,
    priority: proto::Priority,
    decision: DecisionFields,
    classifiers: Vec<ClassifierQuestion>,
    guard_use: GuardUse,
    fields: JudgedMessages,
}

/// Whether a guard judges, as far as it can be known without the server's models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GuardUse {
    Required,
    /// A guard judges if the server has one.
    IfServed,
    None,
}

/// Checks whether a guard judges.
fn guard_use(checker: &mut Checker, request: &proto::ClassifyRequest) -> GuardUse {
    let scope = request.judge();
    let last = [proto::JudgeScope::Unspecified, proto::JudgeScope::LastMessage];
    let about_guard = [
        ("model", !request.model.is_empty()),
        (
            "policy",
            matches!(
                request.policy_source,
                Some(proto::classify_request::PolicySource::Policy(_))
            ),
        ),
        (
            "inline_policy",
            matches!(
                request.policy_source,
                Some(proto::classify_request::PolicySource::InlinePolicy(_))
            ),
        ),
        ("category_probabilities", request.category_probabilities),
        ("judge", !last.contains(&scope)),
        ("windows", request.windows.is_some()),
    ];
    let given = about_guard.into_iter().filter(|(_, is_given)| *is_given);
    match proto::GuardUse::try_from(request.guard_use) {
        Ok(proto::GuardUse::Unspecified | proto::GuardUse::Required) => GuardUse::Required,
        Ok(proto::GuardUse::IfServed) => match given.count() {
            0 => GuardUse::IfServed,
            _ => GuardUse::Required,
        },
        Ok(proto::GuardUse::None) => {
            for (field, _) in given {
                checker.wrong(field, "is about a guard, and guard_use says that none judges");
            }
            GuardUse::None
        }
        Err(_) => {
            checker.wrong("guard_use", "is not a known value");
            GuardUse::Required
        }
    }
}

pub(super) fn classify_fields(
    checker: &mut Checker,
    mut request: proto::ClassifyRequest,
    limits: &Limits,
) -> ClassifyFields {
    let guard_use = guard_use(checker, &request);
    let named = std::mem::take(&mut request.decision_policy);
    let decision = DecisionFields::checked(checker, named, std::mem::take(&mut request.language))
        .with_category_probabilities(request.category_probabilities);
    let classifiers = classifier::questions(checker, std::mem::take(&mut request.classifiers), limits);
    checker.model_id("model", &request.model, limits);
    let priority = checker.priority(request.priority);
    let policy = policy::policy(checker, request.policy_source.into(), limits);
    let scope = conversation::scope(checker, request.judge);
    let other_parts = conversation::unjudgeable(checker, request.unjudgeable);
    let windows = request.windows.map(|windows| window_rules(checker, &windows));
    let (messages, ends) = match request.conversation {
        Some(conversation) => {
            let count = conversation.messages.len();
            let messages = checker.within("conversation", |checker| {
                conversation::guard_messages(checker, conversation, limits, other_parts)
            });
            // What is wrong with a message, or with their number, has been reported already.
            let ends = match messages.len() == count && count > 0 {
                true => conversation::ends(checker, &messages, scope),
                false => Vec::new(),
            };
            (messages, ends)
        }
        None => {
            checker.wrong("conversation", "is required");
            Default::default()
        }
    };
    ClassifyFields {
        model: request.model,
        policy,
        messages,
        judged: JudgedRange { scope, ends, windows },
        priority,
        decision,
        classifiers,
        guard_use,
        fields: JudgedMessages {
            conversation: checker.path_of("conversation"),
            policy: checker.path_of("inline_policy"),
            judged: Judged::Conversation,
        },
    }
}

fn window_rules(checker: &mut Checker, windows: &proto::Windows) -> WindowRules {
    let default = WindowRules::default();
    let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
    checker.within("windows", |checker| {
        let tokens = Some(number(windows.tokens)).filter(|tokens| *tokens > 0);
        if tokens.is_some_and(|tokens| tokens < LEAST_WINDOW_TOKENS) {
            checker.wrong(
                "tokens",
                format!(
                    "must be {LEAST_WINDOW_TOKENS} or more, or 0 for as many as fit, is {}",
                    windows.tokens
                ),
            );
        }
        let most = match number(windows.most) {
            0 => default.most,
            most => most,
        };
        if most > MAX_WINDOWS {
            checker.wrong("most", format!("must be at most {MAX_WINDOWS}, is {most}"));
        }
        WindowRules {
            tokens,
            overlap: windows.overlap_tokens.map_or(default.overlap, number),
            most,
        }
    })
}

/// Checks a Classify; `path` is its path in the message that the caller sent. Waits while its models are being loaded.
pub(crate) async fn classify(
    request: proto::ClassifyRequest,
    path: &str,
    context: &ValidationContext<'_>,
) -> Result<CheckedClassify, ServiceError> {
    let mut checker = Checker::at(path);
    let mut given = classify_fields(&mut checker, request, context.limits);
    checker.finish()?;
    let checker = Checker::at(path);
    let questions = std::mem::take(&mut given.classifiers);
    let has_guard = context.registry.default_of(ModelRole::Guard).is_some();
    let alone = match given.guard_use {
        GuardUse::Required => false,
        GuardUse::IfServed => !has_guard && !questions.is_empty(),
        GuardUse::None => true,
    };
    let messages = given.messages.clone();
    let conversation = given.fields.conversation.clone();
    let priority = given.priority;
    let (judging, decider) = match alone {
        true => (
            None,
            given.decision.find_without_guard(&checker, context.decisions)?,
        ),
        false => {
            let (judging, decider) = judged_by_guard(given, &checker, context).await?;
            (Some(judging), decider)
        }
    };
    let mut classifiers = classifier::find(context, questions).await?;
    let field = checker.path_of("decision_policy");
    classifier::add_asked_by_policies(context, &mut classifiers, decider.questions(), &field).await?;
    let is_asked = |work: &ClassifierWork| work.asked_by == AskedBy::Request;
    if alone && !classifiers.iter().any(is_asked) {
        let reason = "must not be empty where no guard judges and no decision policy asks classifiers";
        return Err(ServiceError::field(checker.path_of("classifiers"), reason));
    }
    let classified_text = match classifiers.is_empty() {
        true => ClassifiedText::default(),
        false => ClassifiedText::last(&messages, &conversation),
    };
    Ok(CheckedClassify {
        judging,
        priority,
        decider,
        classifiers,
        classified_text,
    })
}

/// Finds the guard and what decides about its verdict. `checker` is at the request.
async fn judged_by_guard(
    given: ClassifyFields,
    checker: &Checker,
    context: &ValidationContext<'_>,
) -> Result<(Judging, Decider), ServiceError> {
    let ClassifyFields {
        model: asked,
        policy,
        messages,
        judged,
        priority,
        decision,
        classifiers: _,
        guard_use: _,
        fields,
    } = given;
    let policy_field = checker.path_of(policy.field());
    let GuardAndPolicy { guard: model, policy } =
        policy::find_guard(context, &asked, policy, policy_field).await?;
    let Some(guard) = model.guard() else {
        return Err(ServiceError::CapabilityMissing {
            has: model.roles().to_vec(),
            needs: ModelRole::Guard,
        });
    };
    let DecidedBy {
        decider,
        category_probabilities,
    } = decision.find(
        checker,
        context.decisions,
        &JudgingGuard {
            model: &model,
            guard,
            policy: policy.as_deref(),
            roles: &judged_roles(&messages, &judged.ends),
        },
    )?;
    if judged.windows.is_some() && guard.tokenizer().is_none() {
        let reason = "cannot be had of this guard, whose endpoint is sent texts: windows are cut by its tokens, so configure its \
                      tokenizer";
        return Err(ServiceError::field(checker.path_of("windows"), reason));
    }
    let work = ClassifyWork {
        guard: model,
        policy,
        messages,
        priority,
        category_probabilities,
        fields,
    };
    Ok((Judging { work, judged }, decider))
}

/// The sides of the messages that end these beginnings of a conversation, each once.
fn judged_roles(messages: &[Arc<SentMessage>], ends: &[usize]) -> Vec<JudgedRole> {
    let mut roles = Vec::new();
    for role in ends
        .iter()
        .filter_map(|end| messages.get(..*end))
        .map(judged_role)
    {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles
}

/// Checks a batch as a whole, and returns the id of each item. The requests of the items are checked one by one, and fail
/// one by one.
pub(crate) fn batch(
    request: &proto::BatchClassifyRequest,
    limits: &Limits,
) -> Result<Vec<String>, ServiceError> {
    let given = request.items.iter().map(|item| item.id.as_str());
    item_ids(Checker::at(""), "items", given, limits)
}
