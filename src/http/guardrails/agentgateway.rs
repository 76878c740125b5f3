//! agentgateway's guardrail webhook: `POST /request` with the messages of a prompt, and `POST /response` with what the model said.
//! The shapes are those of agentgateway's `webhook` types (version 0.1.0 of its Guardrail Webhook API).
//!
//! agentgateway tells actions apart by the fields that they have: `body` and `status_code` reject, an object without them passes,
//! whatever else is in it. So nothing but an answer that passes or rejects may ever have a field `action`. A status but 200, or a
//! body without `action`, is a failed webhook, which agentgateway answers as its `failureMode` says: closed unless configured otherwise.

use std::{marker::PhantomData, sync::Arc};

use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    ask::{AskedGuard, Asker, NoVerdict, Questions, Told, ask, check_count},
    chat::{self, CallerMessage},
    dialogue::Dialogue,
    reply::{self, GUARD_HEADER},
};
use crate::{
    config::DoorSettings,
    http::{caller::Received, json, status::Refusal},
    proto::{JudgeScope, Role},
    rpc::{Door, ServiceError},
};

pub(super) const DOOR: Door = Door("agentgateway");

/// What goes to the model.
#[derive(Debug, Deserialize)]
struct PromptRequest {
    body: PromptMessages,
}

#[derive(Debug, Deserialize)]
struct PromptMessages {
    messages: Vec<CallerMessage>,
}

/// What comes from the model.
#[derive(Debug, Deserialize)]
struct ResponseRequest {
    body: ResponseChoices,
}

#[derive(Debug, Deserialize)]
struct ResponseChoices {
    choices: Vec<ResponseChoice>,
}

#[derive(Debug, Deserialize)]
struct ResponseChoice {
    message: ResponseMessage,
}

/// An answer, or a window of one: agentgateway guards a stream in windows of its text.
#[derive(Debug, Deserialize)]
struct ResponseMessage {
    content: String,
}

#[derive(Debug, Serialize)]
struct WebhookAnswer {
    action: Action,
}

/// Passing and rejecting. Masking, which agentgateway knows, is not asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Action {
    Reject {
        /// What agentgateway's own caller reads.
        body: String,
        status_code: u16,
        reason: String,
    },
    Pass {
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

pub(super) async fn request(
    State(settings): State<Arc<DoorSettings>>,
    headers: HeaderMap,
    received: Result<Received, Refusal>,
) -> Response {
    let answer = answer(&settings, &headers, received, prompt).await;
    answer.unwrap_or_else(|refusal| reply::detail(&reply::unprocessable(refusal)))
}

pub(super) async fn response(
    State(settings): State<Arc<DoorSettings>>,
    headers: HeaderMap,
    received: Result<Received, Refusal>,
) -> Response {
    let answer = answer(&settings, &headers, received, answers).await;
    answer.unwrap_or_else(|refusal| reply::detail(&reply::unprocessable(refusal)))
}

/// The conversation, judged at its end, with what that answers if it is an answer.
fn prompt(request: PromptRequest) -> Result<Vec<Dialogue>, ServiceError> {
    let conversation = chat::dialogue(request.body.messages, "body.messages")?;
    if conversation.is_empty() {
        return Err(chat::nothing_to_judge("body.messages"));
    }
    Ok(vec![conversation])
}

/// Each answer by itself; agentgateway does not send its prompt. Empty ones say nothing.
fn answers(request: ResponseRequest) -> Result<Vec<Dialogue>, ServiceError> {
    check_count("body.choices", request.body.choices.len())?;
    let choices = request.body.choices.into_iter().enumerate();
    let texts = choices.map(|(index, choice)| {
        (
            format!("body.choices[{index}].message.content"),
            choice.message.content,
        )
    });
    let said = texts.filter(|(_, text)| !text.is_empty());
    Ok(said
        .map(|(field, text)| Dialogue::of_text(Role::Assistant, text, field))
        .collect())
}

/// What a body with a prompt asks about.
///
/// # Errors
/// When it is no such request, or asks about nothing.
pub(super) fn dialogues_of_prompt(body: &[u8]) -> Result<Vec<Dialogue>, ServiceError> {
    prompt(json::parse(body, PhantomData::<PromptRequest>)?)
}

/// What a body with answers asks about.
///
/// # Errors
/// When it is no such request, or has too many answers.
pub(super) fn dialogues_of_answers(body: &[u8]) -> Result<Vec<Dialogue>, ServiceError> {
    answers(json::parse(body, PhantomData::<ResponseRequest>)?)
}

/// Asks about what `dialogues` finds in the request.
async fn answer<T: DeserializeOwned>(
    settings: &DoorSettings,
    headers: &HeaderMap,
    received: Result<Received, Refusal>,
    dialogues: fn(T) -> Result<Vec<Dialogue>, ServiceError>,
) -> Result<Response, Refusal> {
    let mut received = received?;
    let request: T = received.json()?;
    let asker = Asker {
        caller: &received.caller,
        settings,
        door: DOOR,
    };
    let wrong = |error| asker.refusal(&error);
    let named = reply::text_header(headers, GUARD_HEADER).map_err(wrong)?;
    let dialogues = dialogues(request).map_err(wrong)?;
    let judge = dialogues
        .first()
        .map_or(JudgeScope::LastMessage, Dialogue::scope_of_prompt);
    let guard = AskedGuard::of(named, GUARD_HEADER, settings);
    let questions = Questions {
        judge,
        ..Questions::new(guard, dialogues, settings)
    };
    let answers = ask(&asker, questions).await?;
    let notes = answers.notes.clone();
    Ok(match answers.overall() {
        Told::Passed => reply::told(&notes, &pass(notes.sentence())),
        Told::Blocked(blocked) => reply::told(&notes, &reject(blocked.reason(), StatusCode::FORBIDDEN)),
        Told::NoVerdict(NoVerdict::Failed(refusal)) => reply::detail(&refusal),
        Told::NoVerdict(no_verdict) => reply::told(
            &notes,
            &reject(no_verdict.message(), StatusCode::INTERNAL_SERVER_ERROR),
        ),
    })
}

fn pass(reason: Option<String>) -> WebhookAnswer {
    WebhookAnswer {
        action: Action::Pass { reason },
    }
}

fn reject(reason: String, status: StatusCode) -> WebhookAnswer {
    WebhookAnswer {
        action: Action::Reject {
            body: reason.clone(),
            status_code: status.as_u16(),
            reason,
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn prompted(request: Value) -> Result<Vec<(Role, String)>, ServiceError> {
        let dialogue = prompt(serde_json::from_value(request).unwrap())?.remove(0);
        let messages = dialogue.conversation().messages;
        Ok(messages
            .into_iter()
            .map(|message| (message.role(), message.content))
            .collect())
    }

    #[test]
    fn a_prompts_messages_are_one_conversation() {
        let sent = json!({"body": {"messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is 1 + 2?"},
        ]}});
        assert_eq!(
            prompted(sent).unwrap(),
            [
                (Role::System, "You are a helpful assistant.".to_owned()),
                (Role::User, "What is 1 + 2?".to_owned())
            ]
        );
        let wrong = |request, field| {
            let error = prompted(request).unwrap_err();
            assert!(
                matches!(&error, ServiceError::InvalidFields(fields) if fields[0].field == field),
                "{error:?}"
            );
        };
        wrong(json!({"body": {"messages": []}}), "body.messages");
        let oracle = json!({"body": {"messages": [{"role": "oracle", "content": "?"}]}});
        wrong(oracle, "body.messages[0].role");
    }

    #[test]
    fn choices_are_judged_each_by_itself() {
        // The example of the webhook's OpenAPI description (GuardRail Webhook API 0.1.0), with an empty choice.
        let sent = json!({"body": {"choices": [
            {"message": {"role": "assistant", "content": "1 + 2 is 3"}},
            {"message": {"role": "assistant", "content": ""}},
            {"message": {"role": "assistant", "content": "The result of adding 1 to 2 is 3"}},
        ]}});
        let dialogues = answers(serde_json::from_value(sent).unwrap()).unwrap();
        let texts: Vec<String> = dialogues
            .iter()
            .map(|one| one.conversation().messages[0].content.clone())
            .collect();
        assert_eq!(texts, ["1 + 2 is 3", "The result of adding 1 to 2 is 3"]);
        assert_eq!(
            dialogues[1].field("conversation.messages[0].content"),
            "body.choices[2].message.content"
        );
    }

    #[test]
    fn the_fields_of_an_action_are_those_that_agentgateway_tells_it_by() {
        assert_eq!(serde_json::to_value(pass(None)).unwrap(), json!({"action": {}}));
        assert_eq!(
            serde_json::to_value(reject("guard ward says unsafe".to_owned(), StatusCode::FORBIDDEN)).unwrap(),
            json!({"action": {"body": "guard ward says unsafe", "status_code": 403, "reason": "guard ward says unsafe"}})
        );
    }
}
