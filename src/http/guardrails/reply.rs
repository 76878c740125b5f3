//! Headers of guardrail callers, and errors in the shape that most of their protocols have.

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::ask::Notes;
use crate::{
    http::status::{JSON, Refusal},
    rpc::ServiceError,
};

/// Names the guard that is asked, for protocols without a field for it.
pub(super) const GUARD_HEADER: &str = "x-babelward-guard";

/// The header in which LiteLLM and others send a key.
const API_KEY: &str = "x-api-key";

/// Takes the key of `x-api-key` where the request has no `authorization`.
pub(super) async fn take_api_key(mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    if !headers.contains_key(AUTHORIZATION)
        && let Some(key) = headers.get(API_KEY)
        && let Ok(mut bearer) = HeaderValue::from_bytes(&[b"Bearer ", key.as_bytes()].concat())
    {
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    next.run(request).await
}

/// The text of a header.
///
/// # Errors
/// When it is not visible ASCII.
pub(super) fn text_header(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, ServiceError> {
    let text = |value: &HeaderValue| {
        let text = value.to_str().map(str::to_owned);
        text.map_err(|_| ServiceError::field(name, "must be visible ASCII"))
    };
    headers.get(name).map(text).transpose()
}

/// An answer with status 200, and what must be told beside it.
pub(super) fn told(notes: &Notes, answer: &impl Serialize) -> Response {
    // Names of fields are always texts, which is all that could fail.
    let body = serde_json::to_vec(answer).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    notes.tell(headers);
    response
}

/// The refusal in the shape of FastAPI's errors, from which these protocols come, with what programs need beside the message.
pub(super) fn detail(refusal: &Refusal) -> Response {
    let fields = refusal
        .fields
        .iter()
        .map(|one| json!({"field": one.field, "description": one.description}));
    let mut body = json!({"detail": refusal.message, "reason": refusal.reason});
    if !refusal.fields.is_empty() {
        body["fields"] = Value::Array(fields.collect());
    }
    refusal.respond(&body)
}

/// The refusal for a protocol that tells a wrong request by 422.
pub(super) fn unprocessable(refusal: Refusal) -> Refusal {
    Refusal {
        status: match refusal.status {
            StatusCode::BAD_REQUEST => StatusCode::UNPROCESSABLE_ENTITY,
            other => other,
        },
        ..refusal
    }
}
