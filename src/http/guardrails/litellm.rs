//! LiteLLM's generic guardrail API: `POST /beta/litellm_basic_guardrail_api`, which LiteLLM's proxy calls before a request goes to
//! a model (`input_type` request) and with what the model said (response). The shapes are those of LiteLLM's
//! `types/proxy/guardrails/guardrail_hooks/generic_guardrail_api.py`.
//!
//! LiteLLM knows `BLOCKED`, which it tells its own caller with the reason; every status but 2xx is a failed guardrail, which it
//! answers as its `unreachable_fallback` (502, 503 and 504) and `fail_on_error` say: both block unless configured otherwise.

use std::{marker::PhantomData, sync::Arc};

use axum::{extract::State, response::Response};
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::{
    ask::{AskedGuard, Asker, NoVerdict, Questions, Told, ask, check_count},
    chat::{self, CallerMessage, ToolCall},
    dialogue::Dialogue,
    reply::{self, GUARD_HEADER},
};
use crate::{
    config::DoorSettings,
    http::{caller::Received, json, status::Refusal},
    proto::{self, JudgeScope, Role},
    rpc::{Door, ServiceError},
};

pub(super) const DOOR: Door = Door("litellm");

/// Whether the texts go to a model or come from it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InputType {
    Request,
    Response,
}

/// What LiteLLM sends. What it says of its own caller, of the model and of the tools is passed over.
#[derive(Debug, Deserialize)]
struct CheckRequest {
    input_type: InputType,
    texts: Option<Vec<String>>,
    /// The conversation; LiteLLM sends it with requests alone.
    structured_messages: Option<Vec<CallerMessage>>,
    /// Of an answer.
    tool_calls: Option<Vec<ToolCall>>,
    images: Option<Vec<serde::de::IgnoredAny>>,
}

impl CheckRequest {
    /// Copies that are made of the conversation: for each text of an answer three, in its dialogue, in what is asked and in that as
    /// it is encoded.
    fn copies(&self) -> usize {
        let is_empty = self.structured_messages.as_ref().is_none_or(Vec::is_empty);
        match self.input_type {
            InputType::Response if !is_empty => self.texts.as_ref().map_or(0, Vec::len).saturating_mul(3),
            InputType::Request | InputType::Response => 0,
        }
    }
}

/// What LiteLLM reads. It keeps the texts as they are where `texts` is absent.
#[derive(Debug, PartialEq, Serialize)]
struct CheckAnswer {
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_reason: Option<String>,
    /// What must be told beside the action. LiteLLM passes over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Action {
    None,
    Blocked,
}

/// What of a request is judged.
#[derive(Debug, Default)]
struct Judged {
    /// None where all texts are empty.
    dialogues: Vec<Dialogue>,
    /// Fields that no guard can read, besides those in the dialogues.
    unreadable: Vec<String>,
    judge: JudgeScope,
}

pub(super) async fn check(
    State(settings): State<Arc<DoorSettings>>,
    headers: HeaderMap,
    received: Result<Received, Refusal>,
) -> Response {
    let answer = answer(&settings, &headers, received).await;
    answer.unwrap_or_else(|refusal| reply::detail(&refusal))
}

async fn answer(
    settings: &DoorSettings,
    headers: &HeaderMap,
    received: Result<Received, Refusal>,
) -> Result<Response, Refusal> {
    let mut received = received?;
    let request: CheckRequest = received.json()?;
    received.hold_copies(request.copies())?;
    let asker = Asker {
        caller: &received.caller,
        settings,
        door: DOOR,
    };
    let wrong = |error| asker.refusal(&error);
    let named = reply::text_header(headers, GUARD_HEADER).map_err(wrong)?;
    let judged = judged(request).map_err(wrong)?;
    let guard = AskedGuard::of(named, GUARD_HEADER, settings);
    let questions = Questions {
        unreadable: judged.unreadable,
        judge: judged.judge,
        ..Questions::new(guard, judged.dialogues, settings)
    };
    let answers = ask(&asker, questions).await?;
    let notes = answers.notes.clone();
    Ok(match answers.overall() {
        Told::Passed => reply::told(&notes, &passed(notes.sentence())),
        Told::Blocked(blocked) => reply::told(&notes, &self::blocked(blocked.reason())),
        // A status would make LiteLLM say that its guardrail failed, without the reason.
        Told::NoVerdict(no_verdict @ (NoVerdict::Undetermined(_) | NoVerdict::Unreadable(_))) => {
            reply::told(&notes, &self::blocked(no_verdict.message()))
        }
        Told::NoVerdict(NoVerdict::Failed(refusal)) => reply::detail(&refusal),
    })
}

/// What a body asks about.
///
/// # Errors
/// When it is no such request, or asks about nothing.
pub(super) fn dialogues(body: &[u8]) -> Result<Vec<Dialogue>, ServiceError> {
    let request = json::parse(body, PhantomData::<CheckRequest>)?;
    Ok(judged(request)?.dialogues)
}

/// The conversation of a request is judged at its end, with what that answers if it is an answer. Texts that come without one are
/// judged each by itself: of a request as a user's, of a response as an answer, whose prompt LiteLLM does not send.
fn judged(request: CheckRequest) -> Result<Judged, ServiceError> {
    let images = request.images.is_some_and(|images| !images.is_empty());
    let messages = request.structured_messages.unwrap_or_default();
    let conversation = chat::dialogue(messages, "structured_messages")?;
    let texts = request.texts.unwrap_or_default();
    check_count("texts", texts.len())?;
    let calls: Vec<proto::ToolCall> = request
        .tool_calls
        .into_iter()
        .flatten()
        .map(chat::tool_call)
        .collect();
    if conversation.is_empty() && texts.is_empty() && calls.is_empty() && !images {
        let says = "there is nothing to judge: send texts, structured_messages or tool_calls";
        return Err(ServiceError::field("texts", says));
    }
    let judge = match request.input_type {
        InputType::Request => conversation.scope_of_prompt(),
        InputType::Response => JudgeScope::LastMessage,
    };
    let dialogues = match request.input_type {
        InputType::Request if !conversation.is_empty() => vec![conversation],
        InputType::Request => with_calls(said(texts, Role::User, &conversation), calls, &conversation),
        InputType::Response => with_calls(said(texts, Role::Assistant, &conversation), calls, &conversation),
    };
    let unread = images && dialogues.iter().all(|dialogue| dialogue.unreadable().is_empty());
    let unreadable = if unread {
        vec!["images".to_owned()]
    } else {
        Vec::new()
    };
    Ok(Judged {
        dialogues,
        unreadable,
        judge,
    })
}

/// Each text as the last message after the same ones. Empty texts say nothing.
fn said(texts: Vec<String>, role: Role, before: &Dialogue) -> Vec<Dialogue> {
    let texts = texts.into_iter().enumerate().filter(|(_, text)| !text.is_empty());
    let dialogue = |(index, text)| {
        let mut dialogue = before.clone();
        dialogue.push_text(role, text, format!("texts[{index}]"));
        dialogue
    };
    texts.map(dialogue).collect()
}

/// The same with the calls of tools: those of the only answer, or else by themselves, because LiteLLM does not say which of
/// several answers makes them.
fn with_calls(mut said: Vec<Dialogue>, calls: Vec<proto::ToolCall>, before: &Dialogue) -> Vec<Dialogue> {
    match said.as_mut_slice() {
        _ if calls.is_empty() => {}
        [only] if only.ends_with_an_answer() => only.call_tools(calls),
        _ => {
            let mut alone = before.clone();
            alone.push_text(Role::Assistant, String::new(), "tool_calls".to_owned());
            alone.call_tools(calls);
            said.push(alone);
        }
    }
    said
}

fn passed(note: Option<String>) -> CheckAnswer {
    CheckAnswer {
        action: Action::None,
        blocked_reason: None,
        note,
    }
}

fn blocked(reason: String) -> CheckAnswer {
    CheckAnswer {
        action: Action::Blocked,
        blocked_reason: Some(reason),
        note: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(request: Value) -> CheckRequest {
        serde_json::from_value(request).unwrap()
    }

    fn translated(request: Value) -> Vec<Vec<(Role, String)>> {
        let judged = judged(read(request)).unwrap();
        let messages = |dialogue: &Dialogue| {
            let messages = dialogue.conversation().messages;
            messages
                .into_iter()
                .map(|message| (message.role(), message.content))
                .collect()
        };
        judged.dialogues.iter().map(messages).collect()
    }

    fn text(role: Role, text: &str) -> (Role, String) {
        (role, text.to_owned())
    }

    /// What LiteLLM 1.108.7 sends before the model is asked, as its `GenericGuardrailAPIRequest` writes it.
    fn sent_with_a_request() -> Value {
        json!({
            "input_type": "request",
            "litellm_call_id": "b2f6", "litellm_trace_id": "77aa",
            "structured_messages": [
                {"content": "You are a cook.", "role": "system"},
                {"content": "How do I bake bread?", "role": "user"},
            ],
            "images": null, "tools": null,
            "texts": ["You are a cook.", "How do I bake bread?"],
            "request_data": {"user_api_key_alias": null},
            "request_headers": {"host": "localhost:4000", "authorization": "[present]"},
            "litellm_version": "1.108.7",
            "additional_provider_specific_params": {},
            "tool_calls": null, "model": "gpt-4",
        })
    }

    #[test]
    fn a_requests_conversation_is_judged_and_its_texts_are_not_judged_again() {
        assert_eq!(
            translated(sent_with_a_request()),
            [vec![
                text(Role::System, "You are a cook."),
                text(Role::User, "How do I bake bread?")
            ]]
        );
    }

    #[test]
    fn what_a_request_asks_is_judged_also_where_its_answer_has_begun() {
        let scope = |input_type: &str| {
            let request = json!({
                "input_type": input_type,
                "texts": ["A text"],
                "structured_messages": [
                    {"role": "user", "content": "How?"}, {"role": "assistant", "content": "Sure: "},
                ],
            });
            judged(read(request)).unwrap().judge
        };
        assert_eq!(scope("request"), JudgeScope::Exchange);
        assert_eq!(scope("response"), JudgeScope::LastMessage);
        assert_eq!(
            judged(read(sent_with_a_request())).unwrap().judge,
            JudgeScope::LastMessage
        );
    }

    #[test]
    fn copies_of_a_conversation_are_counted() {
        let copies = |request: Value| read(request).copies();
        let messages = json!([{"role": "user", "content": "How?"}]);
        assert_eq!(copies(sent_with_a_request()), 0);
        assert_eq!(copies(json!({"input_type": "response", "texts": ["a", "b"]})), 0);
        let with_prompt =
            json!({"input_type": "response", "texts": ["a", "b"], "structured_messages": messages});
        assert_eq!(copies(with_prompt), 6);
    }

    #[test]
    fn a_requests_texts_without_a_conversation_are_judged_each_as_a_users() {
        let request =
            json!({"input_type": "request", "texts": ["one", "", "three"], "structured_messages": []});
        assert_eq!(
            translated(request),
            [[text(Role::User, "one")], [text(Role::User, "three")]]
        );
    }

    #[test]
    fn a_responses_texts_are_judged_each_as_an_answer() {
        // As LiteLLM 1.108.7 sends them: without the prompt.
        let request = json!({"input_type": "response", "texts": ["First answer", "Second"], "request_data": {}, "model": "gpt-4"});
        assert_eq!(
            translated(request),
            [
                [text(Role::Assistant, "First answer")],
                [text(Role::Assistant, "Second")]
            ]
        );
        let with_prompt = json!({
            "input_type": "response",
            "texts": ["An answer"],
            "structured_messages": [{"role": "user", "content": "A question"}],
        });
        assert_eq!(
            translated(with_prompt),
            [[text(Role::User, "A question"), text(Role::Assistant, "An answer")]]
        );
    }

    #[test]
    fn an_answers_tool_calls_are_judged_with_it_or_by_themselves() {
        let call = json!({"id": "c1", "type": "function", "index": 0, "function": {"name": "rm", "arguments": "{}"}});
        let of = |texts: Value| {
            let request = json!({"input_type": "response", "texts": texts, "tool_calls": [call]});
            let dialogues = judged(read(request)).unwrap().dialogues;
            let called = |dialogue: &Dialogue| {
                let last = dialogue.conversation().messages.pop().unwrap();
                (
                    last.content,
                    last.tool_calls
                        .iter()
                        .map(|call| call.name.clone())
                        .collect::<Vec<_>>(),
                )
            };
            dialogues.iter().map(called).collect::<Vec<_>>()
        };
        assert_eq!(
            of(json!(["Deleting."])),
            [("Deleting.".to_owned(), vec!["rm".to_owned()])]
        );
        assert_eq!(of(json!([])), [(String::new(), vec!["rm".to_owned()])]);
        assert_eq!(
            of(json!(["a", "b"])),
            [
                ("a".to_owned(), vec![]),
                ("b".to_owned(), vec![]),
                (String::new(), vec!["rm".to_owned()])
            ]
        );
    }

    #[test]
    fn calls_that_come_with_a_request_are_judged_too() {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "rm", "arguments": "{}"}});
        let request = json!({"input_type": "request", "texts": ["Delete it"], "tool_calls": [call]});
        assert_eq!(
            translated(request),
            [[text(Role::User, "Delete it")], [text(Role::Assistant, "")]]
        );
    }

    #[test]
    fn images_are_named_where_they_stand() {
        let alone = judged(read(
            json!({"input_type": "request", "texts": ["What is it?"], "images": ["data:image/png;base64,AA=="]}),
        ));
        assert_eq!(alone.unwrap().unreadable, ["images"]);
        let within = judged(read(json!({
            "input_type": "request",
            "texts": ["What is it?"],
            "images": ["https://example.org/a.png"],
            "structured_messages": [{"role": "user", "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ]}],
        })))
        .unwrap();
        assert!(within.unreadable.is_empty());
        assert_eq!(
            within.dialogues[0].unreadable(),
            ["structured_messages[0].content[1] (image)"]
        );
    }

    #[test]
    fn a_request_without_anything_is_refused() {
        for nothing in [
            json!({"input_type": "request"}),
            json!({"input_type": "response", "texts": [], "structured_messages": null, "images": []}),
        ] {
            let error = judged(read(nothing)).unwrap_err();
            assert!(
                matches!(&error, ServiceError::InvalidFields(fields) if fields[0].field == "texts"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn answers_are_those_that_litellm_reads() {
        assert_eq!(
            serde_json::to_value(passed(None)).unwrap(),
            json!({"action": "NONE"})
        );
        assert_eq!(
            serde_json::to_value(blocked("guard ward says unsafe".to_owned())).unwrap(),
            json!({"action": "BLOCKED", "blocked_reason": "guard ward says unsafe"})
        );
    }
}
