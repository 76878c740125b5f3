//! A guard's verdict on the last message of a conversation, for all calls that judge.

use std::{future::Future, sync::Arc};

use super::{
    category_probabilities, encode,
    error::{ServiceError, TextOrigin, Violation},
    generation::template_error,
    provenance,
    sequence::{Sequence, WorkContext},
    token_quota::PromptLimit,
    validate::{ClassifyWork, Judged, JudgedMessages},
};
use crate::{
    engine::Event,
    guard::{JudgedRole, Label, Policy, PromptError, Refusal},
    proto,
    registry::ModelRole,
    text::ChatMessage,
};

/// Judges the last message of a conversation.
pub(crate) async fn judge(context: &WorkContext, work: ClassifyWork) -> Result<proto::Verdict, ServiceError> {
    let ClassifyWork {
        guard: entry,
        policy,
        messages,
        fields,
        priority: _,
        category_probabilities,
    } = work;
    let Some(guard) = entry.guard.clone() else {
        return Err(ServiceError::CapabilityMissing {
            has: entry.roles.clone(),
            needs: ModelRole::Guard,
        });
    };
    context.record.note(|tally| tally.add_model(&entry.id));
    let judged = JudgedRole::last(&messages);
    let output = guard.output_spec(judged, policy.as_deref());
    let model = encode::longest_prompt(&entry.resident.limits, output.max_new_tokens);
    let limit = PromptLimit::new(&context.shared, &context.tenant, model, output.max_new_tokens)?;
    let most = limit.tokens();
    let policy_bytes = policy.as_ref().map_or(0, |policy| policy.lines().len());
    let size = encode::conversation_size(guard.tokenizer(), &messages, policy_bytes);
    let field = fields.conversation.clone();
    let (prompter, prompt_policy) = (Arc::clone(&guard), policy.clone());
    let prompt = context.with_text(size, move |watch| {
        let policy = prompt_policy.as_deref();
        let prompt = prompter.prompt_within(&messages, policy, encode::allowance(most, watch));
        prompt.map_err(|error| match error {
            PromptError::Roles { index, reason } => ServiceError::ConversationShape(vec![Violation::new(
                format!("{}.messages[{index}].role", fields.conversation),
                reason,
            )]),
            PromptError::Template(error) => template_error(&error, &fields.conversation),
            PromptError::Tokenizer(error) => {
                let texts = prompt_texts(&fields, &messages, policy);
                encode::token_error(&error, most, prompter.tokenizer(), texts)
            }
        })
    });
    let prompt = prompt.await.map_err(|error| limit.explain(error))?;
    let tree = match category_probabilities {
        true => guard.category_tree(policy.as_deref()),
        false => None,
    };
    // The verdict's own sequence takes the tokens.
    let asked = tree.as_ref().map(|_| prompt.clone());
    let mut sequence = Sequence::submit(context, &entry, prompt, output, &field)?;
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
    let (label, label_name) = match verdict.label {
        Label::Safe => (proto::Label::Safe, "safe"),
        Label::Unsafe => (proto::Label::Unsafe, "unsafe"),
        Label::Controversial => (proto::Label::Controversial, "controversial"),
        Label::Undetermined => (proto::Label::Undetermined, "undetermined"),
    };
    let refusal = match verdict.refusal {
        Some(Refusal::Refused) => proto::Refusal::Refused,
        Some(Refusal::Answered) => proto::Refusal::Answered,
        None => proto::Refusal::Unspecified,
    };
    metrics::counter!("babelward_verdicts_total", "model" => entry.id.clone(), "label" => label_name)
        .increment(1);
    let categories = match (&tree, &asked, verdict.unsafe_score) {
        (Some(tree), Some(prompt), Some(score)) => {
            let read = category_probabilities::read(context, &entry, prompt, tree, &field).await?;
            let codes = guard.category_codes(policy.as_deref()).into_iter();
            let found = codes
                .zip(read.probabilities)
                .map(|(code, given)| proto::CategoryProbability {
                    category: code.to_owned(),
                    probability: score * given,
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
            ..provenance::provenance(&entry, guard.template_digest(), None)
        }),
    })
}

/// All texts of a guard's prompt that are not its own, with the origin of each.
fn prompt_texts<'a>(
    fields: &'a JudgedMessages,
    messages: &'a [ChatMessage],
    policy: Option<&'a Policy>,
) -> Vec<(TextOrigin, &'a str)> {
    let mut texts: Vec<_> = encode::message_fields(&fields.conversation, messages).collect();
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
    use crate::text::ChatRole;

    /// The origins of the texts in which a character that cannot be encoded is looked for.
    fn origins(judged: Judged) -> Vec<TextOrigin> {
        let fields = JudgedMessages {
            conversation: "prompt".to_owned(),
            policy: "inline_policy".to_owned(),
            judged,
        };
        let messages = [ChatRole::User, ChatRole::Assistant].map(|role| ChatMessage {
            role,
            content: "words".to_owned(),
        });
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
