//! Answers that are one object.

use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header::CONTENT_TYPE};
use serde::Serialize;

use crate::http::status::JSON;

/// The response with an object.
pub(super) fn object(object: &impl Serialize) -> Response {
    match serde_json::to_vec(object) {
        Ok(body) => ([(CONTENT_TYPE, JSON)], body).into_response(),
        // Plain fields can always be written.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
