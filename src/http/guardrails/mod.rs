//! The doors of guardrail callers: gateways and frameworks that ask whether a text may pass, before it goes to a model or
//! after it has come from one.
//!
//! Each protocol has a file, which translates its requests into [`dialogue::Dialogue`]s and what [`ask`] says of them into its answers.
//! A text passes only if a guard has said so, or if the server is configured to fail open, which the answer and a metric then say.

mod agentgateway;
mod ask;
mod chat;
mod detectors;
mod dialogue;
mod litellm;
mod nemo;
mod nemo_library;
mod reply;
mod ruling;

use std::sync::Arc;

use axum::{Router, middleware, routing::post};

use super::record::recorded;
use crate::{
    config::DoorSettings,
    proto,
    rpc::{Limits, ServiceError},
};
use dialogue::Dialogue;

/// The paths of all guardrail callers' protocols.
pub(super) fn router() -> Router<Arc<DoorSettings>> {
    let (contents, chat, generation) = (
        post(detectors::detect::<detectors::ContentsRequest>),
        post(detectors::detect::<detectors::ChatRequest>),
        post(detectors::detect::<detectors::GenerationRequest>),
    );
    let counted = |handlers, door| recorded(handlers, door, CLASSIFY);
    Router::new()
        .route(
            "/beta/litellm_basic_guardrail_api",
            counted(post(litellm::check), litellm::DOOR),
        )
        .route("/api/v1/text/contents", counted(contents, detectors::DOOR))
        .route("/api/v1/text/chat", counted(chat, detectors::DOOR))
        .route("/api/v1/text/generation", counted(generation, detectors::DOOR))
        .route(
            "/api/v1/text/context/doc",
            counted(post(detectors::documents), detectors::DOOR),
        )
        .route(
            "/request",
            counted(post(agentgateway::request), agentgateway::DOOR),
        )
        .route(
            "/response",
            counted(post(agentgateway::response), agentgateway::DOOR),
        )
        .route("/v1/guardrail/checks", counted(post(nemo::check), nemo::DOOR))
        .route("/v1/checks", counted(post(nemo_library::check), nemo::DOOR))
        .route_layer(middleware::from_fn(reply::take_api_key))
}

/// The path of the call that a question about one text becomes. Those about several become one BatchClassify.
const CLASSIFY: &str = "/babelward.v1.SafetyService/Classify";

/// The path of the call that a question about several texts becomes.
pub(super) const BATCH_CLASSIFY: &str = "/babelward.v1.SafetyService/BatchClassify";

/// What a body at this path asks about, each conversation as an item, up to as many as a batch may have. `None` if no body is read
/// there.
pub(super) fn conversations(
    path: &str,
    body: &[u8],
) -> Option<Result<proto::BatchClassifyRequest, ServiceError>> {
    let dialogues = match path {
        "/beta/litellm_basic_guardrail_api" => litellm::dialogues(body),
        "/api/v1/text/contents" => detectors::dialogues::<detectors::ContentsRequest>(body),
        "/api/v1/text/chat" => detectors::dialogues::<detectors::ChatRequest>(body),
        "/api/v1/text/generation" => detectors::dialogues::<detectors::GenerationRequest>(body),
        "/request" => agentgateway::dialogues_of_prompt(body),
        "/response" => agentgateway::dialogues_of_answers(body),
        "/v1/guardrail/checks" => nemo::dialogues(body),
        "/v1/checks" => nemo_library::dialogues(body),
        _ => return None,
    };
    let item = |dialogue: &Dialogue| proto::BatchClassifyItem {
        request: Some(proto::ClassifyRequest {
            conversation: Some(dialogue.conversation()),
            ..proto::ClassifyRequest::default()
        }),
        ..proto::BatchClassifyItem::default()
    };
    Some(dialogues.map(|dialogues| {
        proto::BatchClassifyRequest {
            items: dialogues
                .iter()
                .take(Limits::default().batch_items)
                .map(item)
                .collect(),
        }
    }))
}
