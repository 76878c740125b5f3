//! OpenAI's interface: moderations, chat completions, completions and models.
//!
//! A request becomes a call of our own services, whose checks, limits and errors are those of the answer. What would be ignored is
//! refused by its name. docs/openai.md is the caller's view.

mod answer;
mod categories;
mod chat;
mod completions;
mod error;
mod fields;
mod generate;
mod logprobs;
mod messages;
mod models;
mod moderation_result;
mod moderations;
mod parameters;
mod response;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{FromRequest, FromRequestParts, Path, Request, State, rejection::PathRejection},
    response::Response,
    routing::{get, post},
};
use http::request::Parts;
use prost::Message as _;

use super::{
    caller::{Caller, Received},
    record::recorded,
};
use crate::{
    config::DoorSettings,
    rpc::{Door, ServiceError},
};
use answer::AnswerHead;
use error::OpenAiError;
use fields::Problem;
use generate::Asked;
use parameters::AnswerRequest;
use response::object;

/// The paths of OpenAI's interface.
pub(super) fn router() -> Router<Arc<DoorSettings>> {
    let counted = |handlers, call| recorded(handlers, DOOR, call);
    Router::new()
        .route("/v1/moderations", counted(post(moderate), BATCH_CLASSIFY))
        .route("/v1/chat/completions", counted(post(complete_chat), GENERATE))
        .route("/v1/completions", counted(post(complete), GENERATE))
        .route(
            "/v1/models",
            counted(get(list_models), "/babelward.v1.ModelService/ListModels"),
        )
        .route(
            "/v1/models/{*id}",
            counted(get(get_model), "/babelward.v1.ModelService/GetModel"),
        )
}

/// The path of the call that chat completions and completions become.
const GENERATE: &str = "/babelward.v1.GenerationService/Generate";

/// The path of the call that moderations become.
const BATCH_CLASSIFY: &str = "/babelward.v1.SafetyService/BatchClassify";

/// The path of the call that a body at this path becomes, and its encoded message. `None` if no body is read there.
pub(super) fn message(
    path: &str,
    body: &[u8],
    settings: &DoorSettings,
) -> Option<Result<(&'static str, Vec<u8>), ServiceError>> {
    let read = match path {
        "/v1/moderations" => moderations::read(body, settings)
            .map(|request| (BATCH_CLASSIFY, request.classify.encode_to_vec())),
        "/v1/chat/completions" => {
            chat::read(body, settings).map(|request| (GENERATE, request.generate.encode_to_vec()))
        }
        "/v1/completions" => {
            completions::read(body, settings).map(|request| (GENERATE, request.generate.encode_to_vec()))
        }
        _ => return None,
    };
    Some(read.map_err(|problems| {
        let first = problems.into_iter().next();
        first.map_or_else(
            || ServiceError::field("body", "is wrong"),
            |problem| ServiceError::field(problem.param, problem.message),
        )
    }))
}

/// The name of this interface in the log.
const DOOR: Door = Door("openai");

/// A request with a JSON body, whose refusals have OpenAI's shape.
struct Body(Received);

impl FromRequest<Arc<DoorSettings>> for Body {
    type Rejection = OpenAiError;

    async fn from_request(request: Request, state: &Arc<DoorSettings>) -> Result<Self, OpenAiError> {
        Ok(Self(Received::from_request(request, state).await?))
    }
}

impl Body {
    /// Makes something of the body, and gives the body's memory back. Its texts may be in both at the same time.
    fn read<T>(
        mut self,
        settings: &DoorSettings,
        read: impl FnOnce(&[u8], &DoorSettings) -> Result<T, Vec<Problem>>,
    ) -> Result<(Caller, T), OpenAiError> {
        let bytes = self.0.bytes()?;
        match read(&bytes, settings) {
            Ok(read) => Ok((self.0.caller, read)),
            Err(problems) => Err(OpenAiError::invalid(&problems)),
        }
    }
}

/// A request without a body, whose refusals have OpenAI's shape.
struct Asker(Caller);

impl FromRequestParts<Arc<DoorSettings>> for Asker {
    type Rejection = OpenAiError;

    async fn from_request_parts(head: &mut Parts, state: &Arc<DoorSettings>) -> Result<Self, OpenAiError> {
        Ok(Self(Caller::from_request_parts(head, state).await?))
    }
}

async fn moderate(State(settings): State<Arc<DoorSettings>>, body: Body) -> Result<Response, OpenAiError> {
    let (caller, request) = body.read(&settings, moderations::read)?;
    let id = format!("modr-{}", caller.request_id());
    let moderation = moderations::answer(caller.channel(DOOR), id, request, settings.unsafe_score).await?;
    Ok(object(&moderation))
}

async fn complete_chat(
    State(settings): State<Arc<DoorSettings>>,
    body: Body,
) -> Result<Response, OpenAiError> {
    let (caller, request) = body.read(&settings, chat::read)?;
    answered(caller, request).await
}

async fn complete(State(settings): State<Arc<DoorSettings>>, body: Body) -> Result<Response, OpenAiError> {
    let (caller, request) = body.read(&settings, completions::read)?;
    answered(caller, request).await
}

/// Answers by the Generate of a request.
async fn answered(caller: Caller, request: AnswerRequest) -> Result<Response, OpenAiError> {
    let AnswerRequest {
        endpoint,
        generate,
        delivery,
        names,
    } = request;
    // A clock before 1970 is no reason to answer nothing.
    let created = SystemTime::now().duration_since(UNIX_EPOCH);
    let asked = Asked {
        head: AnswerHead {
            endpoint,
            request_id: caller.request_id().to_owned(),
            created: created.map_or(0, |since| since.as_secs()),
            has_logprobs: generate.logprobs.is_some_and(|options| options.generated),
        },
        request: generate,
        delivery,
        names,
    };
    generate::answer(caller.channel(DOOR), asked).await
}

async fn list_models(Asker(caller): Asker) -> Result<Response, OpenAiError> {
    Ok(object(&models::list(caller.channel(DOOR)).await?))
}

async fn get_model(
    Asker(caller): Asker,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, OpenAiError> {
    let Path(id) = id?;
    Ok(object(&models::get(caller.channel(DOOR), id).await?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Names of fields that some object of a request has.
    const NAMES: [&str; 24] = [
        "messages",
        "input",
        "prompt",
        "role",
        "content",
        "type",
        "text",
        "tool_calls",
        "function",
        "name",
        "stop",
        "stream",
        "stream_options",
        "babelward",
        "guard",
        "temperature",
        "seed",
        "max_tokens",
        "n",
        "logprobs",
        "tools",
        "response_format",
        "logit_bias",
        "surprise",
    ];

    /// Any JSON, whose objects have such fields.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop::sample::select(vec!["user", "tool", "text", "image_url", "", "é\u{0}"])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 48, 6, |inner| {
            let members = prop::collection::vec((prop::sample::select(NAMES.to_vec()), inner.clone()), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..6).prop_map(Value::from),
                members.prop_map(|members| {
                    Value::Object(
                        members
                            .into_iter()
                            .map(|(name, value)| (name.to_owned(), value))
                            .collect(),
                    )
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused_with_what_is_wrong(body in any_json()) {
            let (body, settings) = (body.to_string(), DoorSettings::default());
            let refusals = [
                chat::read(body.as_bytes(), &settings).err(),
                completions::read(body.as_bytes(), &settings).err(),
                moderations::read(body.as_bytes(), &settings).err(),
            ];
            for problems in refusals.into_iter().flatten() {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|problem| !problem.message.is_empty()));
            }
        }
    }
}
