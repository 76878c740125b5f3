//! A guard's verdict on the last message of a conversation, for all calls that judge.

use std::{future::Future, sync::Arc};

use super::{
    category_probabilities, encode,
    error::{ServiceError, TextOrigin, Violation},
    label,
    local_generation::template_error,
    provenance,
    sequence::{Sequence, WorkContext},
    text_work::TextSize,
    token_quota::PromptLimit,
    validate::{ClassifyWork, Judged, JudgedMessages},
};
use crate::{
    engine::Event,
    guard::{
        ContentKind, Guard, LeftOut, MessagePlace, MessageUse, Policy, PromptError, Refusal, SentMessage,
        TurnPlan, judged_role,
    },
    proto::{self, message_use},
    registry::ModelRole,
};

/// The prompt of a conversation, whose last message is judged.
pub(crate) struct JudgedPrompt {
    pub(crate) tokens: Vec<u32>,
    /// What became of each message of the conversation.
    pub(crate) uses: Vec<MessageUse>,
}

/// Judges the last message of a conversation.
pub(crate) async fn judge(context: &WorkContext, work: ClassifyWork) -> Result<proto::Verdict, ServiceError> {
    let prompt = judged_prompt(context, &work).await?;
    verdict(context, &work, prompt).await
}

/// The guard of a Classify.
pub(crate) fn guard_of(work: &ClassifyWork) -> Result<&Arc<Guard>, ServiceError> {
    work.guard
        .guard
        .as_ref()
        .ok_or_else(|| ServiceError::CapabilityMissing {
            has: work.guard.roles.clone(),
            needs: ModelRole::Guard,
        })
}

/// The plan of a conversation.
pub(crate) fn plan(guard: &Guard, work: &ClassifyWork) -> Result<TurnPlan, ServiceError> {
    let speakers = work.messages.iter().map(|message| message.speaker);
    TurnPlan::new(speakers, guard.conversation_form()).map_err(|nothing| {
        ServiceError::ConversationShape(vec![Violation::new(
            format!("{}.messages", work.fields.conversation),
            nothing.to_string(),
        )])
    })
}

/// The size of the text of a conversation's prompt.
pub(crate) fn prompt_size(guard: &Guard, work: &ClassifyWork) -> TextSize {
    let policy_bytes = work.policy.as_ref().map_or(0, |policy| policy.lines().len());
    let messages = work.messages.iter().map(|message| message.bytes());
    let lengths = messages.chain([policy_bytes]);
    match guard.tokenizer() {
        Some(tokenizer) => encode::parts_size(tokenizer, lengths),
        None => encode::joined_size(lengths),
    }
}

/// Waits for a turn to work on text, and makes the prompt.
pub(crate) async fn judged_prompt(
    context: &WorkContext,
    work: &ClassifyWork,
) -> Result<JudgedPrompt, ServiceError> {
    let guard = guard_of(work)?;
    context.record.note(|tally| tally.add_model(&work.guard.id));
    let plan = plan(guard, work)?;
    let output = guard.output_spec(judged_role(&work.messages), work.policy.as_deref());
    let model = encode::longest_judged_prompt(&work.guard.resident.limits, output.max_new_tokens);
    let limit = PromptLimit::new(&context.shared, &context.tenant, model, output.max_new_tokens)?;
    let most = limit.tokens();
    let size = prompt_size(guard, work);
    let (prompter, work) = (Arc::clone(guard), work.clone());
    let prompt = context.with_text(size, move |watch| {
        let allowance = encode::allowance(most, watch);
        let tokens = prompter.prompt_of(&work.messages, &plan, work.policy.as_deref(), allowance);
        Ok(JudgedPrompt {
            tokens: tokens.map_err(|error| prompt_error(error, &work, &prompter, most))?,
            uses: plan.uses(&work.messages),
        })
    });
    prompt.await.map_err(|error| limit.explain(error))
}

/// The error of a prompt that could not be made; it may have `most` tokens.
pub(crate) fn prompt_error(
    error: PromptError,
    work: &ClassifyWork,
    guard: &Guard,
    most: usize,
) -> ServiceError {
    let fields = &work.fields;
    match error {
        PromptError::Roles { reason, .. } => ServiceError::ConversationShape(vec![Violation::new(
            format!("{}.messages", fields.conversation),
            reason,
        )]),
        PromptError::Template(error) => template_error(&error, &fields.conversation),
        PromptError::Tokenizer(error) => {
            let texts = prompt_texts(fields, &work.messages, work.policy.as_deref());
            match guard.tokenizer() {
                Some(tokenizer) => encode::token_error(&error, most, tokenizer, texts),
                None => ServiceError::TextFault,
            }
        }
        PromptError::SpecialToken { token } => {
            let texts = prompt_texts(fields, &work.messages, work.policy.as_deref());
            special_token_error(&token, texts, &fields.conversation)
        }
        PromptError::NoTokenizer => ServiceError::TextFault,
    }
}

/// The error of a text that spells a special token, for a guard whose prompts are sent as texts. `conversation` is the field of all
/// messages, which counts where it is spelled by several of them together.
fn special_token_error(token: &str, texts: Vec<(TextOrigin, &str)>, conversation: &str) -> ServiceError {
    let found = texts.into_iter().find(|(_, text)| text.contains(token));
    let (field, whose) = match found {
        Some((TextOrigin::Field(field), _)) => (field, ""),
        Some((TextOrigin::Answer { guard }, _)) => (guard, "the answer that it should judge "),
        None => (conversation.to_owned(), ""),
    };
    let reason = format!(
        "{whose}spells `{token}`, which the guard's endpoint would take for a special token, because it is sent this guard's prompts as \
         texts: leave it out, or configure the guard's tokenizer, with which it is sent tokens"
    );
    ServiceError::field(field, reason)
}

/// Lets the guard answer a prompt.
pub(crate) async fn verdict(
    context: &WorkContext,
    work: &ClassifyWork,
    prompt: JudgedPrompt,
) -> Result<proto::Verdict, ServiceError> {
    let guard = guard_of(work)?;
    let (entry, policy, field) = (&work.guard, &work.policy, &work.fields.conversation);
    let judged = judged_role(&work.messages);
    let output = guard.output_spec(judged, policy.as_deref());
    let JudgedPrompt { tokens: prompt, uses } = prompt;
    let tree = match work.category_probabilities {
        true => guard.category_tree(policy.as_deref()),
        false => None,
    };
    // The verdict's own sequence takes the tokens.
    let asked = tree.as_ref().map(|_| prompt.clone());
    let mut sequence = Sequence::submit(context, entry, prompt, output, field)?;
    let mut probes = Vec::new();
    let mut tokens = Vec::new();
    let summary = loop {
        match sequence.next().await? {
            Event::Probe(result) => probes.push(result),
            Event::Token(token) => tokens.push(token.id),
            Event::Finished(summary) => break summary,
            Event::Started { .. } | Event::Score(_) | Event::Failed(_) => {}
        }
    };
    // The sequence of a guard always has a probe. Without one there would be no verdict.
    if probes.is_empty() {
        return Err(ServiceError::DeviceFault);
    }
    let verdict = guard.verdict(judged, &probes, &tokens, policy.as_deref());
    let label = label::told(verdict.label);
    let refusal = match verdict.refusal {
        Some(Refusal::Refused) => proto::Refusal::Refused,
        Some(Refusal::Answered) => proto::Refusal::Answered,
        None => proto::Refusal::Unspecified,
    };
    metrics::counter!("babelward_verdicts_total", "model" => entry.id.clone(), "label" => label::label_name(label))
        .increment(1);
    let categories = match (&tree, &asked, verdict.unsafe_score) {
        (Some(tree), Some(prompt), Some(score)) => {
            let read = category_probabilities::read(context, entry, prompt, tree, field).await?;
            let judged_by = guard.categories(policy.as_deref()).iter();
            let found =
                judged_by
                    .zip(read.probabilities)
                    .map(|(category, given)| proto::CategoryProbability {
                        category: category.code.clone(),
                        probability: score * given,
                        display_name: category.name.clone(),
                    });
            (found.collect(), Some(read.usage))
        }
        _ => (Vec::new(), None),
    };
    let (category_probabilities, category_usage) = categories;
    let categories = verdict.categories.into_iter();
    Ok(proto::Verdict {
        label: label.into(),
        unsafe_score: verdict.unsafe_score,
        controversial_score: verdict.controversial_score,
        refusal: refusal.into(),
        category_probabilities,
        category_usage,
        label_mass: verdict.label_mass,
        categories: categories
            .map(|(category, display_name)| proto::CategoryResult {
                category,
                display_name,
            })
            .collect(),
        raw_output: verdict.raw_output,
        usage: Some(provenance::usage(&summary)),
        timing: Some(provenance::timing(&summary, sequence.elapsed())),
        provenance: Some(proto::Provenance {
            policy: policy
                .as_ref()
                .map_or_else(String::new, |policy| policy.name().to_owned()),
            policy_digest: policy
                .as_ref()
                .map_or_else(String::new, |policy| policy.digest().to_owned()),
            ..provenance::provenance(entry, guard.template_digest(), None)
        }),
        message_uses: message_uses(&uses),
        windows: Vec::new(),
        remote_reading: None,
    })
}

/// What became of each message, for the answer.
pub(crate) fn message_uses(uses: &[MessageUse]) -> Vec<proto::MessageUse> {
    let number = provenance::count;
    let uses = uses.iter().enumerate();
    uses.map(|(index, one)| {
        let (place, turn, reason) = match one.place {
            MessagePlace::Judged { turn } => (message_use::Use::Judged, Some(turn), None),
            MessagePlace::Context { turn } => (message_use::Use::Context, Some(turn), None),
            MessagePlace::LeftOut(reason) => (message_use::Use::LeftOut, None, Some(reason)),
        };
        let reason = match reason {
            None => message_use::Reason::Unspecified,
            Some(LeftOut::System) => message_use::Reason::System,
            Some(LeftOut::EarlierExchange) => message_use::Reason::EarlierExchange,
            Some(LeftOut::NoRoom) => message_use::Reason::NoRoom,
        };
        let omitted = one.omitted.iter().map(|kind| match kind {
            ContentKind::Image => proto::ContentKind::Image,
            ContentKind::Audio => proto::ContentKind::Audio,
            ContentKind::Video => proto::ContentKind::Video,
            ContentKind::File => proto::ContentKind::File,
        });
        proto::MessageUse {
            message: number(index),
            r#use: place.into(),
            turn: turn.map(number),
            reason: reason.into(),
            omitted_parts: omitted.map(i32::from).collect(),
            cut_bytes: one.cut_bytes as u64,
        }
    })
    .collect()
}

/// All texts of a guard's prompt that are not its own, with the origin of each.
fn prompt_texts<'a>(
    fields: &'a JudgedMessages,
    messages: &'a [Arc<SentMessage>],
    policy: Option<&'a Policy>,
) -> Vec<(TextOrigin, &'a str)> {
    let sent = messages.iter().enumerate();
    let mut texts: Vec<_> = sent
        .flat_map(|(index, message)| {
            let found = message.fields().into_iter();
            found.map(move |(name, text)| {
                let path = format!("{}.messages[{index}].{name}", fields.conversation);
                (TextOrigin::Field(path), text)
            })
        })
        .collect();
    if let (Judged::AnswerToText { .. }, Some((origin, _))) = (&fields.judged, texts.first_mut()) {
        *origin = TextOrigin::Field(fields.conversation.clone());
    }
    if let (Judged::AnswerToConversation { guard } | Judged::AnswerToText { guard }, Some((origin, _))) =
        (&fields.judged, texts.last_mut())
    {
        *origin = TextOrigin::Answer { guard: guard.clone() };
    }
    if let (Judged::GrowingText { field }, Some((origin, _))) = (&fields.judged, texts.last_mut()) {
        *origin = TextOrigin::Field(field.clone());
    }
    for (index, category) in policy.iter().flat_map(|policy| policy.categories()).enumerate() {
        let origin = |name: &str| TextOrigin::Field(format!("{}.categories[{index}].{name}", fields.policy));
        texts.push((origin("name"), &category.name));
        texts.push((origin("description"), &category.description));
    }
    texts
}

/// Runs work, and retries it until the deadline while the queue is full. A text that has been generated, or released in part,
/// should not be lost because the queue is full when it is to be judged.
pub(crate) async fn retry_when_full<T, F>(
    context: &WorkContext,
    work: impl Fn() -> F,
) -> Result<T, ServiceError>
where
    F: Future<Output = Result<T, ServiceError>>,
{
    loop {
        match work().await {
            Err(ServiceError::QueueFull { retry_after }) => {
                let wait = async {
                    tokio::select! {
                        () = tokio::time::sleep(retry_after) => Ok(()),
                        () = context.shared.stopping.cancelled() => Err(ServiceError::draining()),
                    }
                };
                context.deadline.limit(wait).await?;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Speaker;

    /// The origins of the texts in which a character that cannot be encoded is looked for.
    fn origins(judged: Judged) -> Vec<TextOrigin> {
        let fields = JudgedMessages {
            conversation: "prompt".to_owned(),
            policy: "inline_policy".to_owned(),
            judged,
        };
        let messages = [Speaker::User, Speaker::Assistant]
            .map(|speaker| Arc::new(SentMessage::plain(speaker, "words".to_owned())));
        let texts = prompt_texts(&fields, &messages, None);
        texts.into_iter().map(|(origin, _)| origin).collect()
    }

    #[test]
    fn an_answer_that_a_model_wrote_is_no_field_of_the_request() {
        let field = |path: &str| TextOrigin::Field(path.to_owned());
        let guard = "judge.model".to_owned();
        let answer = TextOrigin::Answer { guard: guard.clone() };
        assert_eq!(
            origins(Judged::Conversation),
            [
                field("prompt.messages[0].content"),
                field("prompt.messages[1].content")
            ]
        );
        assert_eq!(
            origins(Judged::AnswerToConversation { guard: guard.clone() }),
            [field("prompt.messages[0].content"), answer.clone()]
        );
        assert_eq!(origins(Judged::AnswerToText { guard }), [field("prompt"), answer]);
        let growing = Judged::GrowingText {
            field: "chunk".to_owned(),
        };
        assert_eq!(
            origins(growing),
            [field("prompt.messages[0].content"), field("chunk")]
        );
    }
}
