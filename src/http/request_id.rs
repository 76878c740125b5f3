//! The id of each request, which all of its calls have and its answer says.

use axum::{extract::Request, middleware::Next, response::Response};
use http::HeaderValue;

use crate::rpc::{REQUEST_ID, http_request_id};

/// Gives the request its id, the caller's own if it has a sound one, and writes it into the answer.
pub(super) async fn carry(mut request: Request, next: Next) -> Response {
    let id = http_request_id(request.headers());
    // Its characters are visible ASCII.
    let value = HeaderValue::from_str(&id).ok();
    if let Some(value) = &value {
        request.headers_mut().insert(REQUEST_ID, value.clone());
    }
    let mut response = next.run(request).await;
    if let Some(value) = value {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
