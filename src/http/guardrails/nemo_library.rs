//! Checks of NVIDIA's open-source library NeMo Guardrails: `POST /v1/checks` of its server, whose shapes are those of the types
//! `GuardrailCheckRequest` and `GuardrailCheckResponse` in its `server/schemas/openai.py` (version 0.24.1). [`super::nemo`] has the checks
//! of the microservice, which are others.
//!
//! Its clients tell `blocked` from `passed` and `modified`. A text without a verdict is `blocked` or has another status than 200.

use std::{marker::PhantomData, sync::Arc};

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};

use super::{
    ask::{AskedGuard, Asker, NoVerdict, Questions, Told, ask},
    chat::{self, CallerMessage},
    dialogue::Dialogue,
    nemo::{self, CONFIG_ID, DOOR},
    reply,
};
use crate::{
    config::DoorSettings,
    http::{caller::Received, json, status::Refusal},
    proto::JudgeScope,
    rpc::ServiceError,
};

/// The field that names the rails.
const RAIL_TYPES: &str = "guardrails.rail_types";

/// What a client sends. What it says of the model and of sampling is passed over: nothing is generated.
#[derive(Debug, Deserialize)]
struct CheckRequest {
    messages: Vec<CallerMessage>,
    #[serde(default)]
    guardrails: Guardrails,
}

/// What is checked, and by which configuration: the id of a guard.
#[derive(Debug, Default, Deserialize)]
struct Guardrails {
    config_id: Option<String>,
    config_ids: Option<Vec<String>>,
    /// Absent for what the messages have.
    rail_types: Option<Vec<RailType>>,
}

/// Input rails check what a user says, output rails what the model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RailType {
    Input,
    Output,
}

/// What a client reads.
#[derive(Debug, PartialEq, Serialize)]
struct CheckAnswer {
    status: Status,
    /// The text that was checked; if it is blocked, why.
    content: String,
    /// The guard that blocks, or that was to judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    rail: Option<String>,
}

/// Nothing is ever `modified`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Passed,
    Blocked,
}

/// What is judged.
#[derive(Debug)]
struct Judged {
    dialogue: Dialogue,
    judge: JudgeScope,
}

pub(super) async fn check(
    State(settings): State<Arc<DoorSettings>>,
    received: Result<Received, Refusal>,
) -> Response {
    let answer = answer(&settings, received).await;
    answer.unwrap_or_else(|refusal| reply::detail(&reply::unprocessable(refusal)))
}

async fn answer(settings: &DoorSettings, received: Result<Received, Refusal>) -> Result<Response, Refusal> {
    let mut received = received?;
    let CheckRequest { messages, guardrails } = received.json()?;
    let asker = Asker {
        caller: &received.caller,
        settings,
        door: DOOR,
    };
    let wrong = |error| asker.refusal(&error);
    let named = nemo::only_id(guardrails.config_id, guardrails.config_ids).map_err(wrong)?;
    let Judged { dialogue, judge } = judged(messages, guardrails.rail_types.as_deref()).map_err(wrong)?;
    let text = dialogue.judged_text();
    let guard = AskedGuard::of(named, CONFIG_ID, settings);
    let rail = guard.id().map(str::to_owned);
    let questions = Questions {
        judge,
        ..Questions::new(guard, vec![dialogue], settings)
    };
    let answers = ask(&asker, questions).await?;
    let notes = answers.notes.clone();
    let blocked = |why, rail| CheckAnswer {
        status: Status::Blocked,
        content: why,
        rail,
    };
    let told = match answers.overall() {
        Told::Passed => CheckAnswer {
            status: Status::Passed,
            content: text,
            rail: None,
        },
        Told::Blocked(by) => blocked(by.reason(), Some(by.guard().to_owned())),
        Told::NoVerdict(NoVerdict::Failed(refusal)) => return Ok(reply::detail(&refusal)),
        Told::NoVerdict(no_verdict) => blocked(no_verdict.message(), rail),
    };
    Ok(reply::told(&notes, &told))
}

/// What a body asks about.
///
/// # Errors
/// When it is no such request, or asks about nothing.
pub(super) fn dialogues(body: &[u8]) -> Result<Vec<Dialogue>, ServiceError> {
    let CheckRequest { messages, guardrails } = json::parse(body, PhantomData::<CheckRequest>)?;
    nemo::only_id(guardrails.config_id, guardrails.config_ids)?;
    let judged = judged(messages, guardrails.rail_types.as_deref())?;
    Ok(vec![judged.dialogue])
}

/// The end of the conversation, with what that answers; only what is asked, or only the answer, where one kind of rails is named.
fn judged(messages: Vec<CallerMessage>, rails: Option<&[RailType]>) -> Result<Judged, ServiceError> {
    let dialogue = nemo::conversation(messages)?;
    let has = |rail| rails.is_none_or(|rails| rails.contains(&rail));
    match (has(RailType::Input), has(RailType::Output)) {
        (true, true) => Ok(Judged {
            judge: dialogue.scope_of_prompt(),
            dialogue,
        }),
        (true, false) => {
            let dialogue = dialogue.without_answer();
            match dialogue.is_empty() {
                true => Err(chat::nothing_to_judge("messages")),
                false => Ok(Judged {
                    dialogue,
                    judge: JudgeScope::LastMessage,
                }),
            }
        }
        (false, true) if dialogue.ends_with_an_answer() => Ok(Judged {
            dialogue,
            judge: JudgeScope::LastMessage,
        }),
        (false, true) => {
            let says = "asks for output rails, and messages does not end with one of the assistant";
            Err(ServiceError::field(RAIL_TYPES, says))
        }
        (false, false) => Err(ServiceError::field(RAIL_TYPES, "must name input, output or both")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::proto::Role;

    fn judged_of(rails: Value) -> Result<(Role, JudgeScope), ServiceError> {
        let body = json!({
            "model": "m",
            "messages": [
                {"role": "user", "content": "Hello!"},
                {"role": "assistant", "content": "Hi there!"},
            ],
            "guardrails": {"config_id": "ward", "rail_types": rails, "context": {"a": 1}},
        });
        let request: CheckRequest = serde_json::from_value(body).unwrap();
        let judged = judged(request.messages, request.guardrails.rail_types.as_deref())?;
        let last = judged.dialogue.conversation().messages.pop().unwrap();
        Ok((last.role(), judged.judge))
    }

    #[test]
    fn rails_choose_what_is_judged() {
        let both = Ok((Role::Assistant, JudgeScope::Exchange));
        assert_eq!(judged_of(Value::Null), both);
        assert_eq!(judged_of(json!(["input", "output"])), both);
        assert_eq!(
            judged_of(json!(["input"])),
            Ok((Role::User, JudgeScope::LastMessage))
        );
        assert_eq!(
            judged_of(json!(["output"])),
            Ok((Role::Assistant, JudgeScope::LastMessage))
        );
        assert!(judged_of(json!([])).is_err(), "nothing would be checked");
    }

    #[test]
    fn input_rails_judge_what_is_asked_also_where_instructions_follow_the_answer() {
        let messages: Vec<CallerMessage> = serde_json::from_value(json!([
            {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there!"}]},
            {"role": "assistant", "content": "Hi!"},
            {"role": "system", "content": "Be brief."},
        ]))
        .unwrap();
        let asked = judged(messages.clone(), Some(&[RailType::Input])).unwrap();
        let left = asked.dialogue.conversation().messages;
        let roles: Vec<Role> = left.iter().map(crate::proto::Message::role).collect();
        assert_eq!(roles, [Role::User]);
        assert_eq!(asked.dialogue.judged_text(), "Hello\nthere!");
        let all = judged(messages, None).unwrap();
        assert_eq!(all.dialogue.judged_text(), "Hi!");
    }

    #[test]
    fn what_the_rails_are_for_must_be_there() {
        for (body, field) in [
            (
                json!({"messages": [{"role": "user", "content": "a"}], "guardrails": {"rail_types": ["output"]}}),
                RAIL_TYPES,
            ),
            (
                json!({"messages": [{"role": "assistant", "content": "a"}], "guardrails": {"rail_types": ["input"]}}),
                "messages",
            ),
            (json!({"messages": []}), "messages"),
        ] {
            let error = dialogues(body.to_string().as_bytes()).unwrap_err();
            assert!(
                matches!(&error, ServiceError::InvalidFields(fields) if fields[0].field == field),
                "{error:?}"
            );
        }
    }
}
