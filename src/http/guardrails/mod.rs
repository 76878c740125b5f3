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
mod reply;
mod ruling;

use std::sync::Arc;

use axum::{Router, middleware, routing::post};

use crate::config::DoorSettings;

/// The paths of all guardrail callers' protocols.
pub(super) fn router() -> Router<Arc<DoorSettings>> {
    Router::new()
        .route("/beta/litellm_basic_guardrail_api", post(litellm::check))
        .route(
            "/api/v1/text/contents",
            post(detectors::detect::<detectors::ContentsRequest>),
        )
        .route(
            "/api/v1/text/chat",
            post(detectors::detect::<detectors::ChatRequest>),
        )
        .route(
            "/api/v1/text/generation",
            post(detectors::detect::<detectors::GenerationRequest>),
        )
        .route("/api/v1/text/context/doc", post(detectors::documents))
        .route("/request", post(agentgateway::request))
        .route("/response", post(agentgateway::response))
        .route("/v1/guardrail/checks", post(nemo::check))
        .route_layer(middleware::from_fn(reply::take_api_key))
}
