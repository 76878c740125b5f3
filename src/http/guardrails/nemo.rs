//! NeMo Guardrails' checks: `POST /v1/guardrail/checks` of NVIDIA's NeMo Guardrails microservice, whose shapes are those of the types
//! `GuardrailCheckParams` and `GuardrailCheckResponse` of its Python client `nemo_microservices`.
//!
//! Clients tell `blocked` from everything else with status 200, and some take everything else as passed. So a text without a verdict is
//! `blocked` or has another status than 200, and never `unknown`, which the type has as well.

use std::{collections::BTreeMap, marker::PhantomData, sync::Arc};

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};

use super::{
    ask::{AskedGuard, Asker, NoVerdict, Questions, Told, ask},
    chat::{self, CallerMessage},
    dialogue::Dialogue,
    reply,
    ruling::Blocked,
};
use crate::{
    config::DoorSettings,
    http::{caller::Received, json, status::Refusal},
    rpc::{Door, ServiceError, label_name},
};

pub(super) const DOOR: Door = Door("nemo");

/// The field that names the guard.
pub(super) const CONFIG_ID: &str = "guardrails.config_id";

/// What a client sends. What it says of the model and of sampling is passed over: nothing is generated.
#[derive(Debug, Deserialize)]
struct CheckRequest {
    messages: Vec<CallerMessage>,
    #[serde(default)]
    guardrails: Guardrails,
}

/// Which configuration is asked for: the id of a guard.
#[derive(Debug, Default, Deserialize)]
struct Guardrails {
    config_id: Option<String>,
    config_ids: Option<Vec<String>>,
    /// An id, or a whole configuration.
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Config {
    Id(String),
    Inline(serde::de::IgnoredAny),
}

/// What a client reads.
#[derive(Debug, PartialEq, Serialize)]
struct CheckAnswer {
    status: Status,
    /// The guard is the one rail that there is.
    rails_status: BTreeMap<String, RailStatus>,
    guardrails_data: GuardrailsData,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Success,
    Blocked,
}

#[derive(Debug, PartialEq, Serialize)]
struct RailStatus {
    status: Status,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct GuardrailsData {
    config_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_data: Option<OutputData>,
}

/// What is said of the texts.
#[derive(Debug, Default, PartialEq, Serialize)]
struct OutputData {
    /// Why they are blocked, or what must be told beside a pass.
    reason: String,
    /// The guard's label; absent without a verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsafe_score: Option<f64>,
    /// Codes of the categories that the guard names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    categories: Vec<String>,
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
    let request: CheckRequest = received.json()?;
    let asker = Asker {
        caller: &received.caller,
        settings,
        door: DOOR,
    };
    let wrong = |error| asker.refusal(&error);
    let named = config(request.guardrails).map_err(wrong)?;
    let conversation = conversation(request.messages).map_err(wrong)?;
    // As NeMo has input rails for what a user says and output rails for what the model answers.
    let judge = conversation.scope_of_prompt();
    let guard = AskedGuard::of(named, CONFIG_ID, settings);
    let config_id = guard.id().unwrap_or_default().to_owned();
    let questions = Questions {
        judge,
        ..Questions::new(guard, vec![conversation], settings)
    };
    let answers = ask(&asker, questions).await?;
    let notes = answers.notes.clone();
    let only = |reason| OutputData {
        reason,
        ..OutputData::default()
    };
    let told = match answers.overall() {
        Told::Passed => checked(config_id, Status::Success, notes.sentence().map(only)),
        Told::Blocked(blocked) => checked(config_id, Status::Blocked, Some(said(&blocked))),
        Told::NoVerdict(NoVerdict::Failed(refusal)) => return Ok(reply::detail(&refusal)),
        Told::NoVerdict(no_verdict) => checked(config_id, Status::Blocked, Some(only(no_verdict.message()))),
    };
    Ok(reply::told(&notes, &told))
}

/// What a body asks about.
///
/// # Errors
/// When it is no such request, or asks about nothing.
pub(super) fn dialogues(body: &[u8]) -> Result<Vec<Dialogue>, ServiceError> {
    let request = json::parse(body, PhantomData::<CheckRequest>)?;
    config(request.guardrails)?;
    Ok(vec![conversation(request.messages)?])
}

/// The conversation of these messages, in which there is something to judge.
pub(super) fn conversation(messages: Vec<CallerMessage>) -> Result<Dialogue, ServiceError> {
    let conversation = chat::dialogue(messages, "messages")?;
    match conversation.is_empty() {
        true => Err(chat::nothing_to_judge("messages")),
        false => Ok(conversation),
    }
}

/// The id of the guard that a client asks for; none if it names none.
fn config(guardrails: Guardrails) -> Result<Option<String>, ServiceError> {
    let config = match guardrails.config {
        Some(Config::Inline(_)) => {
            let says = "must be the id of a guard; configurations are not taken from requests";
            return Err(ServiceError::field("guardrails.config", says));
        }
        Some(Config::Id(id)) => Some(id),
        None => None,
    };
    let listed = guardrails.config_ids.unwrap_or_default();
    only_id(
        guardrails.config_id,
        Some(config.into_iter().chain(listed).collect()),
    )
}

/// The one id of these; none if there are none.
pub(super) fn only_id(
    config_id: Option<String>,
    config_ids: Option<Vec<String>>,
) -> Result<Option<String>, ServiceError> {
    let listed = config_ids.unwrap_or_default();
    let mut named: Vec<String> = config_id.into_iter().chain(listed).collect();
    named.dedup();
    if named.len() > 1 {
        let says = "must name one guard; send a request for each";
        return Err(ServiceError::field("guardrails.config_ids", says));
    }
    Ok(named.pop())
}

fn checked(config_id: String, status: Status, output_data: Option<OutputData>) -> CheckAnswer {
    CheckAnswer {
        status,
        rails_status: BTreeMap::from([(config_id.clone(), RailStatus { status })]),
        guardrails_data: GuardrailsData {
            config_ids: vec![config_id],
            output_data,
        },
    }
}

fn said(blocked: &Blocked) -> OutputData {
    let verdict = &blocked.verdict;
    OutputData {
        reason: blocked.reason(),
        label: Some(label_name(verdict.label())),
        unsafe_score: verdict.unsafe_score,
        categories: verdict
            .categories
            .iter()
            .map(|one| one.category.clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// NVIDIA's example of a check ("Checking a Guardrail" of the microservice's documentation).
    fn example() -> Value {
        json!({
            "model": "meta/llama-3.3-70b-instruct",
            "messages": [
                {"role": "user", "content": "Tell me how to collect a life insurance policy."},
                {"role": "assistant", "content": "You are stupid."},
            ],
            "guardrails": {"config_id": "demo-self-check-input-output"},
            "top_p": 1,
        })
    }

    #[test]
    fn the_documentations_example_is_read() {
        let request: CheckRequest = serde_json::from_value(example()).unwrap();
        assert_eq!(
            config(request.guardrails),
            Ok(Some("demo-self-check-input-output".to_owned()))
        );
        let conversation = chat::dialogue(request.messages, "messages").unwrap();
        assert!(conversation.ends_with_an_exchange());
    }

    #[test]
    fn a_configuration_is_one_guards_id() {
        let of = |guardrails: Value| config(serde_json::from_value(guardrails).unwrap());
        assert_eq!(of(json!({})), Ok(None));
        assert_eq!(of(json!({"config": "ward"})), Ok(Some("ward".to_owned())));
        assert_eq!(
            of(json!({"config_ids": ["ward"], "config_id": "ward"})),
            Ok(Some("ward".to_owned()))
        );
        let wrong = |guardrails, field| {
            let error = of(guardrails).unwrap_err();
            assert!(
                matches!(&error, ServiceError::InvalidFields(fields) if fields[0].field == field),
                "{error:?}"
            );
        };
        wrong(json!({"config_ids": ["a", "b"]}), "guardrails.config_ids");
        wrong(json!({"config": {"rails": {}}}), "guardrails.config");
    }

    #[test]
    fn answers_have_the_fields_of_the_clients_type() {
        assert_eq!(
            serde_json::to_value(checked("ward".to_owned(), Status::Success, None)).unwrap(),
            json!({
                "status": "success",
                "rails_status": {"ward": {"status": "success"}},
                "guardrails_data": {"config_ids": ["ward"]},
            })
        );
        let data = OutputData {
            reason: "guard ward says unsafe (S1)".to_owned(),
            label: Some("unsafe"),
            unsafe_score: Some(0.75),
            categories: vec!["S1".to_owned()],
        };
        assert_eq!(
            serde_json::to_value(checked("ward".to_owned(), Status::Blocked, Some(data))).unwrap(),
            json!({
                "status": "blocked",
                "rails_status": {"ward": {"status": "blocked"}},
                "guardrails_data": {
                    "config_ids": ["ward"],
                    "output_data": {"reason": "guard ward says unsafe (S1)", "label": "unsafe", "unsafe_score": 0.75, "categories": ["S1"]},
                },
            })
        );
    }
}
