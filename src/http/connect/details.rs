//! Errors as the Connect protocol writes them: `{"code":…,"message":…,"details":[{"type":…,"value":…,"debug":…}]}`.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::Any;
use serde_json::{Value, json};
use tonic::Code;

use super::types::types;
use crate::http::status::Refusal;

/// The types of details.
static TYPES: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| types().ok());

/// As the Connect protocol says it, where no other protocol is asked for.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.respond(&error(&self))
    }
}

/// The error as a response says it, or the end of a stream.
pub(super) fn error(refusal: &Refusal) -> Value {
    let details: Vec<_> = refusal.details.iter().map(detail).collect();
    let mut body = json!({"code": name(refusal.code), "message": refusal.message});
    if !details.is_empty() {
        body["details"] = details.into();
    }
    body
}

/// A detail: its type and bytes, and for people the same as JSON.
fn detail(any: &Any) -> Value {
    let kind = any.type_url.rsplit('/').next().unwrap_or_default();
    let mut detail = json!({"type": kind, "value": BASE64_STANDARD_NO_PAD.encode(&any.value)});
    if let Some(readable) = readable(kind, &any.value) {
        detail["debug"] = readable;
    }
    detail
}

fn readable(kind: &str, value: &[u8]) -> Option<Value> {
    let kind = TYPES.as_ref()?.get_message_by_name(kind)?;
    serde_json::to_value(DynamicMessage::decode(kind, value).ok()?).ok()
}

/// The name of a code: that of gRPC in lower case, except for one.
fn name(code: Code) -> &'static str {
    match code {
        // An error is never OK.
        Code::Ok | Code::Unknown => "unknown",
        Code::Cancelled => "canceled",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
