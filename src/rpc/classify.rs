//! Classify: a guard judges conversations, one at a time, in a batch, or on a stream.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, future, stream};
use tonic::{Code, Request, Response, Status, Streaming, codegen::BoxStream};

use super::{
    call::Call,
    category_probabilities,
    decision::{self, Decided},
    encode,
    error::{ServiceError, TextOrigin, Violation},
    generate::template_error,
    provenance,
    record::Record,
    sequence::{Sequence, Shared, WorkContext},
    stream::{Action, Envelope, ItemStream, StreamRpc, drive},
    token_quota::PromptLimit,
    validate::{self, CheckedClassify, ClassifyWork, Judged, JudgedMessages, ValidationContext},
};
use crate::{
    engine::{Event, Priority},
    guard::{JudgedRole, Label, Policy, PolicyCategory, PromptError, Refusal},
    proto::{self, batch_classify_result, classify_stream_request, classify_stream_response},
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
        category_probabilities,
        category_usage,
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
    for (index, category) in policy.iter().flat_map(|policy| policy.categories()).enumerate() {
        let origin = |name: &str| TextOrigin::Field(format!("{}.categories[{index}].{name}", fields.policy));
        texts.push((origin("name"), &category.name));
        texts.push((origin("description"), &category.description));
    }
    texts
}

/// Checks and answers one Classify; `path` is its path in the message that the caller sent.
async fn classify(
    context: WorkContext,
    request: proto::ClassifyRequest,
    path: String,
) -> Result<proto::ClassifyResponse, ServiceError> {
    let shared = Arc::clone(&context.shared);
    context
        .record
        .note_requested_model(&shared.registry, &request.model);
    shared.admit()?;
    validate::message_size(prost::Message::encoded_len(&request), &shared.limits)?;
    let validation = ValidationContext::of(&shared, context.deadline);
    let CheckedClassify { work, decider } = validate::classify(request, &path, &validation).await?;
    let context = context.prioritised(work.priority, Priority::Urgent);
    let verdict = judge(&context, work).await?;
    let Decided { decision, shadows } = decider.decide(&verdict);
    Ok(proto::ClassifyResponse {
        verdict: Some(verdict),
        decision,
        shadow_decisions: shadows,
    })
}

/// SafetyService.
pub(crate) struct SafetyApi(pub(crate) Arc<Shared>);

impl SafetyApi {
    fn list_policies(&self) -> Result<proto::ListPoliciesResponse, ServiceError> {
        self.0.admit()?;
        let category = |category: &PolicyCategory| proto::PolicyCategory {
            code: category.code.clone(),
            name: category.name.clone(),
            description: category.description.clone(),
        };
        let policy = |policy: &Arc<Policy>| proto::ConfiguredPolicy {
            policy: Some(proto::Policy {
                name: policy.name().to_owned(),
                categories: policy.categories().iter().map(category).collect(),
            }),
            digest: policy.digest().to_owned(),
        };
        let decisions = &self.0.decisions;
        Ok(proto::ListPoliciesResponse {
            policies: self.0.registry.policies().map(policy).collect(),
            decision_policies: decisions
                .iter()
                .map(|policy| decision::listed(policy, decisions))
                .collect(),
        })
    }

    async fn batch(
        &self,
        call: &Call,
        request: proto::BatchClassifyRequest,
    ) -> Result<proto::BatchClassifyResponse, ServiceError> {
        self.0.admit()?;
        // The call is a request also where it has no items, and its first item is no further one.
        self.0.count_request(&call.tenant)?;
        let ids = validate::batch(&request, &self.0.limits)?;
        let context = WorkContext::of(&self.0, call, Priority::Batch);
        let items = (0..).zip(request.items.into_iter().zip(ids));
        let results = items.map(|(number, (item, id))| {
            let path = format!("items[{number}].request");
            let record = Record::item(&call.record, number, call.deadline);
            let context = context.item(&record);
            let answer = async move {
                if number > 0 {
                    context.shared.count_request(&context.tenant)?;
                }
                classify(context, item.request.unwrap_or_default(), path).await
            };
            async move {
                let result = match answer.await {
                    Ok(response) => {
                        record.finish(Code::Ok);
                        batch_classify_result::Result::Response(response)
                    }
                    Err(error) => {
                        record.fail(&error);
                        batch_classify_result::Result::Error(error.to_item())
                    }
                };
                proto::BatchClassifyResult {
                    id,
                    result: Some(result),
                }
            }
        });
        Ok(proto::BatchClassifyResponse {
            results: future::join_all(results).await,
        })
    }
}

#[tonic::async_trait]
impl proto::safety_service_server::SafetyService for SafetyApi {
    type ClassifyStreamStream = BoxStream<proto::ClassifyStreamResponse>;

    async fn classify(
        &self,
        request: Request<proto::ClassifyRequest>,
    ) -> Result<Response<proto::ClassifyResponse>, Status> {
        let call = Call::of(&request)?;
        let context = WorkContext::of(&self.0, &call, Priority::Urgent);
        let answer = classify(context, request.into_inner(), String::new());
        call.unary(answer).await
    }

    async fn batch_classify(
        &self,
        request: Request<proto::BatchClassifyRequest>,
    ) -> Result<Response<proto::BatchClassifyResponse>, Status> {
        let call = Call::of(&request)?;
        let answer = self.batch(&call, request.into_inner());
        call.clone().unary(answer).await
    }

    async fn list_policies(
        &self,
        request: Request<proto::ListPoliciesRequest>,
    ) -> Result<Response<proto::ListPoliciesResponse>, Status> {
        let call = Call::of(&request)?;
        call.unary(async { self.list_policies() }).await
    }

    async fn classify_stream(
        &self,
        request: Request<Streaming<proto::ClassifyStreamRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        drive::<ClassifyItems>(&self.0, request)
    }
}

/// The items of ClassifyStream.
struct ClassifyItems;

impl StreamRpc for ClassifyItems {
    type Request = proto::ClassifyStreamRequest;
    type Response = proto::ClassifyStreamResponse;
    type Work = proto::ClassifyRequest;
    type Output = proto::ClassifyResponse;

    fn unpack(request: Self::Request) -> Envelope<Self::Work> {
        Envelope {
            id: request.id,
            action: request.action.map(|action| match action {
                classify_stream_request::Action::Classify(work) => Action::Start(work),
                classify_stream_request::Action::Cancel(proto::CancelItem {}) => Action::Cancel,
            }),
            timeout: request.timeout,
        }
    }

    fn run(context: WorkContext, work: Self::Work) -> ItemStream<Self::Output> {
        stream::once(classify(context, work, "classify".to_owned()).boxed()).boxed()
    }

    fn pack(id: String, result: Result<Self::Output, proto::ItemStatus>) -> Self::Response {
        let result = match result {
            Ok(response) => classify_stream_response::Result::Response(response),
            Err(error) => classify_stream_response::Result::Error(error),
        };
        proto::ClassifyStreamResponse {
            id,
            result: Some(result),
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
    }
}
