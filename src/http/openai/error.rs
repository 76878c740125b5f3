//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, with our reason as the code.

use axum::{
    extract::rejection::PathRejection,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::{Serialize, ser::SerializeStruct as _};
use tonic::{Code, Status};

use super::fields::Problem;
use crate::{http::status::Refusal, rpc::Reason};

/// An error of a request.
#[derive(Debug)]
pub(super) struct OpenAiError {
    refusal: Box<Refusal>,
    body: ErrorBody,
}

/// What is said of it.
#[derive(Debug, Serialize)]
struct ErrorBody {
    message: String,
    r#type: &'static str,
    /// The first parameter that is wrong.
    param: Option<String>,
    /// The reason, of docs/errors.md.
    code: Option<String>,
}

/// The body of the answer, and what stands in a stream that ends with an error.
impl Serialize for OpenAiError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("OpenAiError", 1)?;
        object.serialize_field("error", &self.body)?;
        object.end()
    }
}

/// OpenAI's word for errors with this status, by which its clients choose their exceptions where there is no status.
fn type_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    }
}

/// What is wrong, as one sentence for each field.
fn sentences(problems: &[Problem]) -> String {
    let sentences = problems.iter().map(|problem| match problem.param.as_str() {
        "" => problem.message.clone(),
        param => format!("{param} {}", problem.message),
    });
    sentences.collect::<Vec<_>>().join("; ")
}

impl OpenAiError {
    /// The error of a refusal. `param` names the parameter that a field of the call comes from.
    pub(super) fn of(refusal: Refusal, param: &dyn Fn(&str) -> String) -> Self {
        let problems: Vec<_> = refusal
            .fields
            .iter()
            .map(|violation| Problem {
                param: match violation.field.as_str() {
                    "" => String::new(),
                    field => param(field),
                },
                message: violation.description.clone(),
            })
            .collect();
        let first = problems.iter().find(|problem| !problem.param.is_empty());
        let first = first.map(|problem| problem.param.clone());
        // The message of these names the call's own fields, which the caller has not sent.
        let is_about_fields = [Reason::InvalidFields, Reason::ConversationShape]
            .iter()
            .any(|reason| refusal.reason == reason.name());
        let message = match is_about_fields && !problems.is_empty() {
            true => sentences(&problems),
            false => refusal.message.clone(),
        };
        Self {
            body: ErrorBody {
                message,
                r#type: type_of(refusal.status),
                param: first,
                code: Some(refusal.reason.clone()).filter(|reason| !reason.is_empty()),
            },
            refusal: Box::new(refusal),
        }
    }

    /// The error of a call's status.
    pub(super) fn of_status(status: Status, param: &dyn Fn(&str) -> String) -> Self {
        Self::of(status.into(), param)
    }

    fn with(code: Code, reason: Reason, message: String, param: Option<String>) -> Self {
        let refusal = Refusal {
            reason: reason.name().to_owned(),
            ..Refusal::from(Status::new(code, message.clone()))
        };
        Self {
            body: ErrorBody {
                message,
                r#type: type_of(refusal.status),
                param: param.filter(|param| !param.is_empty()),
                code: Some(reason.name().to_owned()),
            },
            refusal: Box::new(refusal),
        }
    }

    /// The error of a request that is wrong in its form.
    pub(super) fn invalid(problems: &[Problem]) -> Self {
        let first = problems.first().map(|problem| problem.param.clone());
        let reason = Reason::InvalidFields;
        Self::with(reason.code(), reason, sentences(problems), first)
    }

    /// The error of an input whose verdict says neither safe nor unsafe.
    pub(super) fn undetermined(param: String) -> Self {
        let reason = Reason::VerdictUndetermined;
        let message =
            "the guard's verdict is neither safe nor unsafe, or has no score, so there is no result"
                .to_owned();
        Self::with(reason.code(), reason, message, Some(param))
    }

    /// The error of an answer that ended without its end, which a service never gives.
    pub(super) fn broken() -> Self {
        let reason = Reason::TextFault;
        Self::with(reason.code(), reason, "the answer has no end".to_owned(), None)
    }
}

impl From<Refusal> for OpenAiError {
    fn from(refusal: Refusal) -> Self {
        Self::of(refusal, &str::to_owned)
    }
}

impl From<PathRejection> for OpenAiError {
    fn from(_: PathRejection) -> Self {
        Self::invalid(&[Problem {
            param: "model".to_owned(),
            message: "must be UTF-8".to_owned(),
        }])
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        match serde_json::to_value(&self) {
            Ok(body) => self.refusal.respond(&body),
            // Plain texts can always be written.
            Err(_) => self.refusal.status.into_response(),
        }
    }
}
