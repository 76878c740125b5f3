//! A guard's verdict on the last message of a conversation, for all calls that judge.

use std::{future::Future, sync::Arc};

use super::{
    category_probabilities, encode,
    error::{ServiceError, TextOrigin, Violation},
    judged::{GuardPrompt, JudgedPrompt, guard_of, told},
    local_generation::template_error,
    provenance, remote_judge,
    sequence::{Sequence, WorkContext},
    text_work::TextSize,
    token_quota::PromptLimit,
    validate::{ClassifyWork, Judged, JudgedMessages},
};
use crate::{
    engine::Event,
    guard::{Guard, Policy, PromptError, SentMessage, TurnPlan, judged_role},
    proto,
    registry::ModelAccess,
};

/// Judges the last message of a conversation.
pub(crate) async fn judge(context: &WorkContext, work: ClassifyWork) -> Result<proto::Verdict, ServiceError> {
    let prompt = judged_prompt(context, &work).await?;
    verdict(context, &work, prompt).await
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
    context.record.note(|tally| tally.add_model(work.guard.id()));
    let plan = plan(guard, work)?;
    let answer_tokens = guard.answer_tokens(work.policy.as_deref());
    let model = match &work.guard {
        ModelAccess::Local(entry) => encode::longest_judged_prompt(&entry.resident.limits, answer_tokens),
        ModelAccess::Remote(model) => remote_judge::longest_prompt(context, model, answer_tokens).await?,
    };
    let limit = PromptLimit::new(&context.shared, &context.tenant, model, answer_tokens)?;
    let most = limit.tokens();
    let size = prompt_size(guard, work);
    let (prompter, work) = (Arc::clone(guard), work.clone());
    let prompt = context.with_text(size, move |watch| {
        let (messages, policy) = (&work.messages, work.policy.as_deref());
        let prompt = match prompter.tokenizer() {
            Some(_) => prompter
                .prompt_of(messages, &plan, policy, encode::allowance(most, watch))
                .map(GuardPrompt::Tokens),
            None => prompter
                .text_prompt_of(messages, &plan, policy)
                .map(GuardPrompt::Text),
        };
        Ok(JudgedPrompt {
            prompt: prompt.map_err(|error| prompt_error(error, &work, &prompter, most))?,
            uses: plan.uses(messages),
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
    let (policy, field) = (&work.policy, &work.fields.conversation);
    let entry = match &work.guard {
        ModelAccess::Local(entry) => entry,
        ModelAccess::Remote(model) => return remote_judge::verdict(context, work, model, prompt).await,
    };
    let judged = judged_role(&work.messages);
    let output = guard.output_spec(judged, policy.as_deref());
    let JudgedPrompt {
        prompt: GuardPrompt::Tokens(prompt),
        uses,
    } = prompt
    else {
        // Only endpoints are sent texts.
        return Err(ServiceError::TextFault);
    };
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
    let (shares, category_usage) = match (&tree, &asked, verdict.unsafe_score) {
        (Some(tree), Some(prompt), Some(_)) => {
            let read = category_probabilities::read(context, entry, prompt, tree, field).await?;
            (read.probabilities, Some(read.usage))
        }
        // Heads have said it with the label.
        (None, _, Some(_)) if work.category_probabilities => (verdict.category_shares.clone(), None),
        _ => (Vec::new(), None),
    };
    let judged_by = guard.categories(policy.as_deref()).iter();
    let category_probabilities = judged_by
        .zip(shares)
        .map(|(category, given)| proto::CategoryProbability {
            category: category.code.clone(),
            probability: verdict.unsafe_score.unwrap_or_default() * given,
            display_name: category.name.clone(),
        })
        .collect();
    Ok(proto::Verdict {
        category_probabilities,
        category_usage,
        usage: Some(provenance::usage(&summary)),
        timing: Some(provenance::timing(&summary, sequence.elapsed())),
        ..told(
            context,
            work,
            verdict,
            &uses,
            provenance::provenance(entry, guard.template_digest(), None),
        )
    })
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
