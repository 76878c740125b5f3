//! Turns each [`ServiceError`] into a gRPC status: a reason, a code and google.rpc details.

use std::{collections::HashMap, time::Duration};

use prost::Message as _;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::{
    error::{ServiceError, TextOrigin, TranslationFlaw, Violation},
    violations::{for_details, for_message},
};
use crate::{
    auth::{QuotaKind, QuotaRefusal, Rejection},
    engine::Stage,
    memory::human_bytes,
    proto,
    registry::ModelRole,
    remote::RemoteError,
    text::TokenCount,
};

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "babelward";

/// Declares all reasons, with the status code of each.
macro_rules! reasons {
    ($($variant:ident = $name:literal => $code:ident;)*) => {
        /// The reason of an error, which programs rely on (`ErrorInfo.reason`). docs/errors.md lists them all.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each is documented in docs/errors.md, which a test checks")]
        pub enum Reason {
            $($variant,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// The name in `ErrorInfo.reason`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Reason::$variant => $name,)*
                }
            }

            /// The status code of errors with this reason.
            pub fn code(self) -> Code {
                match self {
                    $(Reason::$variant => Code::$code,)*
                }
            }
        }
    };
}

reasons! {
    InvalidFields = "INVALID_FIELDS" => InvalidArgument;
    ConversationShape = "CONVERSATION_SHAPE" => InvalidArgument;
    MessageTooLarge = "MESSAGE_TOO_LARGE" => InvalidArgument;
    RequestMemory = "REQUEST_MEMORY" => ResourceExhausted;
    TooManyCalls = "TOO_MANY_CALLS" => ResourceExhausted;
    RequestIncomplete = "REQUEST_INCOMPLETE" => DeadlineExceeded;
    StreamIdle = "STREAM_IDLE" => DeadlineExceeded;
    GrowingTextTooLong = "GROWING_TEXT_TOO_LONG" => InvalidArgument;
    VerdictUndetermined = "VERDICT_UNDETERMINED" => Internal;
    TranslationUnusable = "TRANSLATION_UNUSABLE" => Internal;
    InputTooLong = "INPUT_TOO_LONG" => InvalidArgument;
    TooManyWindows = "TOO_MANY_WINDOWS" => InvalidArgument;
    TextNotEncodable = "TEXT_NOT_ENCODABLE" => InvalidArgument;
    ItemIdOpen = "ITEM_ID_OPEN" => InvalidArgument;
    ModelNotFound = "MODEL_NOT_FOUND" => NotFound;
    PolicyNotFound = "POLICY_NOT_FOUND" => NotFound;
    CalibratorMismatch = "CALIBRATOR_MISMATCH" => FailedPrecondition;
    NoDefaultModel = "NO_DEFAULT_MODEL" => FailedPrecondition;
    CapabilityMissing = "CAPABILITY_MISSING" => FailedPrecondition;
    ChatTemplateMissing = "CHAT_TEMPLATE_MISSING" => FailedPrecondition;
    CacheTooSmall = "CACHE_TOO_SMALL" => FailedPrecondition;
    QueueFull = "QUEUE_FULL" => ResourceExhausted;
    Deadline = "DEADLINE" => DeadlineExceeded;
    DeadlineUnattainable = "DEADLINE_UNATTAINABLE" => DeadlineExceeded;
    ClientCancelled = "CLIENT_CANCELLED" => Cancelled;
    ServerDraining = "SERVER_DRAINING" => Unavailable;
    ServerLoading = "SERVER_LOADING" => Unavailable;
    ModelNotLoaded = "MODEL_NOT_LOADED" => FailedPrecondition;
    ModelLoadFailed = "MODEL_LOAD_FAILED" => FailedPrecondition;
    DeviceMemory = "DEVICE_MEMORY" => ResourceExhausted;
    PrecisionMismatch = "PRECISION_MISMATCH" => FailedPrecondition;
    CredentialsMissing = "CREDENTIALS_MISSING" => Unauthenticated;
    CredentialsInvalid = "CREDENTIALS_INVALID" => Unauthenticated;
    CredentialsExpired = "CREDENTIALS_EXPIRED" => Unauthenticated;
    ScopeMissing = "SCOPE_MISSING" => PermissionDenied;
    QuotaRequests = "QUOTA_REQUESTS" => ResourceExhausted;
    QuotaTokens = "QUOTA_TOKENS" => ResourceExhausted;
    AdminElsewhere = "ADMIN_ELSEWHERE" => PermissionDenied;
    AdminDisabled = "ADMIN_DISABLED" => PermissionDenied;
    RemoteUnsupported = "REMOTE_UNSUPPORTED" => FailedPrecondition;
    EndpointUnavailable = "ENDPOINT_UNAVAILABLE" => Unavailable;
    EndpointRefused = "ENDPOINT_REFUSED" => FailedPrecondition;
    EndpointInvalid = "ENDPOINT_INVALID" => Internal;
    ModelUnloading = "MODEL_UNLOADING" => Unavailable;
    ModelFailed = "MODEL_FAILED" => Unavailable;
    DeviceLost = "DEVICE_LOST" => Unavailable;
    NumericFault = "NUMERIC_FAULT" => Internal;
    DeviceFault = "DEVICE_FAULT" => Internal;
    WorkerPanic = "WORKER_PANIC" => Internal;
    TextFault = "TEXT_FAULT" => Internal;
    HttpUnsupported = "HTTP_UNSUPPORTED" => Unimplemented;
    HttpOrigin = "HTTP_ORIGIN" => PermissionDenied;
}

/// What an endpoint's error is to a caller, and when to try again. An endpoint that is not there or is busy may be later; what one
/// refuses, or says wrongly, stays so until somebody changes it.
fn endpoint_reason(error: &RemoteError) -> (Reason, Option<Duration>) {
    const SOON: Duration = Duration::from_secs(1);
    match error {
        RemoteError::Status {
            code, retry_after, ..
        } if *code >= 500 || *code == 429 => (Reason::EndpointUnavailable, Some(retry_after.unwrap_or(SOON))),
        RemoteError::Connect { .. }
        | RemoteError::Tls { .. }
        | RemoteError::Broken
        | RemoteError::Failed { .. }
        | RemoteError::Stalled { .. }
        | RemoteError::QueueFull
        | RemoteError::Deadline { .. } => (Reason::EndpointUnavailable, Some(SOON)),
        RemoteError::Status { .. } | RemoteError::Filtered | RemoteError::NoLogprobs => {
            (Reason::EndpointRefused, None)
        }
        RemoteError::Malformed { .. } | RemoteError::TooLarge { .. } => (Reason::EndpointInvalid, None),
    }
}

/// What an error says to its caller.
struct Report {
    reason: Reason,
    message: String,
    metadata: HashMap<String, String>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
}

impl ServiceError {
    /// The reason that programs rely on, from which the status code follows.
    pub(crate) fn reason(&self) -> Reason {
        self.report().reason
    }

    /// The status that ends a call.
    pub(crate) fn to_status(&self, request_id: &str) -> Status {
        let report = self.report();
        let mut details = ErrorDetails::with_error_info(report.reason.name(), DOMAIN, report.metadata);
        if !report.violations.is_empty() {
            let violations = report.violations.into_iter();
            details.set_bad_request(
                violations
                    .map(|violation| FieldViolation::new(violation.field, violation.description))
                    .collect::<Vec<_>>(),
            );
        }
        if let Self::ModelNotFound { model, .. } = self {
            details.set_resource_info("babelward.v1.Model", model.clone(), "", "no such model id");
        }
        if let Self::PolicyNotFound { policy, .. } = self {
            details.set_resource_info("babelward.v1.Policy", policy.clone(), "", "no such policy");
        }
        if report.retry_after.is_some() {
            details.set_retry_info(report.retry_after);
        }
        if !request_id.is_empty() {
            details.set_request_info(request_id, "");
        }
        let mut status = Status::with_error_details(report.reason.code(), report.message, details);
        if let Some(retry_after) = report.retry_after {
            let millis = MetadataValue::from(u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX));
            status.metadata_mut().insert("grpc-retry-pushback-ms", millis);
        }
        status
    }

    /// The status of one item of a batch or stream.
    pub(crate) fn to_item(&self) -> proto::ItemStatus {
        let status = self.to_status("");
        // The details have just been encoded. If they could not be decoded, code and message would still be there.
        let details = tonic_types::pb::Status::decode(status.details())
            .map(|decoded| decoded.details)
            .unwrap_or_default();
        proto::ItemStatus {
            code: i32::from(status.code()),
            message: status.message().to_owned(),
            details,
        }
    }

    fn report(&self) -> Report {
        match self {
            Self::InvalidFields(violations) => {
                let message = format!("invalid fields: {}", for_message(violations));
                Report::new(Reason::InvalidFields, message).violations(for_details(violations))
            }
            Self::ConversationShape(violations) => {
                let message = format!(
                    "the conversation has a shape that the model does not accept: {}",
                    for_message(violations)
                );
                Report::new(Reason::ConversationShape, message).violations(for_details(violations))
            }
            Self::MessageTooLarge { limit_bytes } => Report::new(
                Reason::MessageTooLarge,
                format!("the request is larger than {}", human_bytes(*limit_bytes as u64)),
            )
            .with("limitBytes", limit_bytes),
            Self::RequestMemory { retry_after } => Report::new(
                Reason::RequestMemory,
                "the requests that the server is receiving and working on use all the memory that it has for them; \
                 try again"
                    .to_owned(),
            )
            .retry(*retry_after),
            Self::TooManyCalls { retry_after } => Report::new(
                Reason::TooManyCalls,
                "as many calls are open as the server allows (limits.calls); try again".to_owned(),
            )
            .retry(*retry_after),
            Self::RequestIncomplete { limit } => Report::new(
                Reason::RequestIncomplete,
                format!(
                    "the request did not arrive completely within {} ms (deadlines.receive)",
                    limit.as_millis()
                ),
            )
            .with("limitMs", limit.as_millis()),
            Self::StreamIdle { limit } => Report::new(
                Reason::StreamIdle,
                format!(
                    "the stream had no open item and received no message for {} ms (deadlines.stream_idle)",
                    limit.as_millis()
                ),
            )
            .with("limitMs", limit.as_millis()),
            Self::GrowingTextTooLong { limit_bytes } => Report::new(
                Reason::GrowingTextTooLong,
                format!("the growing text is longer than {limit_bytes} bytes (limits.content_bytes)"),
            )
            .with("limitBytes", limit_bytes)
            .violations(vec![Violation::new(
                "chunk",
                format!("makes the text longer than {limit_bytes} bytes"),
            )]),
            Self::VerdictUndetermined => Report::new(
                Reason::VerdictUndetermined,
                "the guard's verdict on the complete text is neither safe nor unsafe: use another guard".to_owned(),
            ),
            Self::TranslationUnusable { field, flaw } => {
                let (problem, what) = match flaw {
                    TranslationFlaw::Empty => ("empty", "is empty"),
                    TranslationFlaw::CutOff => ("cut_off", "is longer than translation.max_new_tokens or the context window"),
                    TranslationFlaw::Quality => ("quality", "has a worse quality score than translation.quality.bound"),
                };
                Report::new(
                    Reason::TranslationUnusable,
                    format!(
                        "the translation of {field} {what}, so it is not judged: name another translator, or send the \
                         rendering"
                    ),
                )
                .with("field", field)
                .with("problem", problem)
            }
            Self::InputTooLong {
                input_tokens,
                limit_tokens,
            } => {
                let (count, key, tokens) = match input_tokens {
                    TokenCount::Exactly(tokens) => ("", "inputTokens", tokens),
                    TokenCount::AtLeast(tokens) => ("at least ", "inputTokensAtLeast", tokens),
                };
                Report::new(
                    Reason::InputTooLong,
                    format!("the prompt has {count}{tokens} tokens, the limit is {limit_tokens}"),
                )
                .with(key, tokens)
                .with("limitTokens", limit_tokens)
            }
            Self::TooManyWindows { needed, limit } => Report::new(
                Reason::TooManyWindows,
                format!("the judged message takes {needed} windows, the limit is {limit} (windows.most)"),
            )
            .with("neededWindows", needed)
            .with("limitWindows", limit),
            Self::TextNotEncodable {
                origin,
                character,
                position,
            } => {
                let character = format!("U+{:04X}", u32::from(*character));
                let (field, text, fix) = match origin {
                    TextOrigin::Field(field) => (field, field.as_str(), "leave it out, or use another model"),
                    TextOrigin::Answer { guard } => (guard, "the answer that it should judge", "use another guard"),
                };
                Report::new(
                    Reason::TextNotEncodable,
                    format!(
                        "the model's vocabulary has no token for {character}, which stands behind {position} \
                         characters of {text}: {fix}"
                    ),
                )
                .with("character", &character)
                .with("position", position)
                .violations(vec![Violation::new(
                    field,
                    format!(
                        "has {character} behind {position} characters, for which the model's vocabulary has no token"
                    ),
                )])
            }
            Self::ItemIdOpen { field } => Report::new(
                Reason::ItemIdOpen,
                format!("{field} is the id of another item that is not answered yet"),
            )
            .violations(vec![Violation::new(field, "must be unique among the open items")]),
            Self::ModelNotFound { model, did_you_mean } => {
                let report = Report::new(
                    Reason::ModelNotFound,
                    match (did_you_mean, model.as_str()) {
                        (Some(id), "") => format!("no model has this id; did you mean `{id}`?"),
                        (Some(id), _) => format!("no model has the id `{model}`; did you mean `{id}`?"),
                        (None, "") => "no model has this id".to_owned(),
                        (None, _) => format!("no model has the id `{model}`"),
                    },
                );
                match did_you_mean {
                    Some(id) => report.with("didYouMean", id),
                    None => report,
                }
            }
            Self::PolicyNotFound { did_you_mean, .. } => {
                let report = Report::new(
                    Reason::PolicyNotFound,
                    match did_you_mean {
                        Some(name) => format!("no policy has this name; did you mean `{name}`?"),
                        None => "no policy has this name".to_owned(),
                    },
                );
                match did_you_mean {
                    Some(name) => report.with("didYouMean", name),
                    None => report,
                }
            }
            Self::CalibratorMismatch {
                policy,
                calibrator,
                differences,
            } => {
                let differing = differences.iter().map(|one| one.what).collect::<Vec<_>>().join(",");
                Report::new(
                    Reason::CalibratorMismatch,
                    format!(
                        "the calibrator of the decision policy `{policy}` was fitted for another guard or judged side \
                         ({differing}): name another policy, or fit a calibrator for what is judged here"
                    ),
                )
                .with("policy", policy)
                .with("calibrator", calibrator)
                .with("differs", differing)
            }
            Self::NoDefaultModel { needs } => Report::new(
                Reason::NoDefaultModel,
                format!("the server has no model that can {}", capability(*needs)),
            )
            .with("needs", capability(*needs)),
            Self::CapabilityMissing { has, needs } => {
                let has: Vec<&str> = has.iter().map(|role| capability(*role)).collect();
                Report::new(
                    Reason::CapabilityMissing,
                    format!("the model cannot {}", capability(*needs)),
                )
                .with("has", has.join(","))
                .with("needs", capability(*needs))
            }
            Self::ChatTemplateMissing => Report::new(
                Reason::ChatTemplateMissing,
                "the model has no chat template: send text or token_ids".to_owned(),
            ),
            Self::CacheTooSmall {
                needed_blocks,
                available_blocks,
            } => Report::new(
                Reason::CacheTooSmall,
                format!("prompt and answer need {needed_blocks} KV blocks, the pool has {available_blocks}"),
            )
            .with("neededBlocks", needed_blocks)
            .with("availableBlocks", available_blocks),
            Self::QueueFull { retry_after } => {
                Report::new(Reason::QueueFull, "the queue is full".to_owned()).retry(*retry_after)
            }
            Self::Deadline { stage } => Report::new(
                Reason::Deadline,
                format!("the deadline passed (stage: {})", stage_name(*stage)),
            )
            .with("stage", stage_name(*stage)),
            Self::DeadlineUnattainable(late) => {
                let [predicted, wait, remaining] =
                    [late.predicted, late.wait, late.remaining].map(|time| time.as_millis().to_string());
                let report = Report::new(
                    Reason::DeadlineUnattainable,
                    format!(
                        "an answer takes at least {predicted} ms, the deadline is in {remaining} ms"
                    ),
                )
                .with("predictedMs", predicted)
                .with("waitMs", wait)
                .with("remainingMs", remaining);
                match late.retry_after {
                    Some(retry_after) => report.retry(retry_after),
                    None => report,
                }
            }
            Self::ClientCancelled => {
                Report::new(Reason::ClientCancelled, "cancelled by the client".to_owned())
            }
            Self::ServerDraining { retry_after } => {
                Report::new(Reason::ServerDraining, "the server is draining".to_owned()).retry(*retry_after)
            }
            Self::ServerLoading { progress, retry_after } => Report::new(
                Reason::ServerLoading,
                format!(
                    "the server is still loading: {} of {} models are ready",
                    progress.ready, progress.models
                ),
            )
            .with("readyModels", progress.ready)
            .with("models", progress.models)
            .retry(*retry_after),
            Self::ModelNotLoaded { model } => Report::new(
                Reason::ModelNotLoaded,
                "the model is not loaded: load it with AdminService/LoadModel (`babelward models load ID`), or \
                 configure it with load = \"lazy\""
                    .to_owned(),
            )
            .with("model", model),
            Self::RemoteUnsupported => Report::new(
                Reason::RemoteUnsupported,
                "the model is an endpoint on another machine, with which this server cannot do this: use a model that is \
                 loaded here"
                    .to_owned(),
            ),
            Self::Endpoint(error) => {
                let (reason, retry_after) = endpoint_reason(error);
                let report = Report::new(reason, format!("the model's endpoint gave no answer: {error}"));
                match retry_after {
                    Some(retry_after) => report.retry(retry_after),
                    None => report,
                }
            }
            Self::ModelLoadFailed { cause } => {
                let report = Report::new(
                    Reason::ModelLoadFailed,
                    "the model could not be loaded: the server's log says why, and LoadModel tries again".to_owned(),
                );
                match cause {
                    Some(cause) => report.with("cause", cause),
                    None => report,
                }
            }
            Self::DeviceMemory(shortage) => {
                let report = Report::new(Reason::DeviceMemory, format!("there is no room for the model: {shortage}"))
                    .with("device", shortage.place.device)
                    .with("neededBytes", shortage.needed)
                    .with("weightBytes", shortage.need.weights)
                    .with("scratchBytes", shortage.need.scratch)
                    .with("kvMinimumBytes", shortage.need.kv_min)
                    .with("availableBytes", shortage.available)
                    .with("budgetBytes", shortage.budget)
                    .with("couldUnload", shortage.could_unload.join(","));
                // The models that could be evicted are busy now.
                if shortage.is_temporary {
                    report.retry(Duration::from_secs(1))
                } else {
                    report
                }
            }
            Self::PrecisionMismatch { has, requested } => Report::new(
                Reason::PrecisionMismatch,
                format!(
                    "the model is loaded in {}, not in {}: unload it first",
                    has.name(),
                    requested.name()
                ),
            )
            .with("precision", has.name())
            .with("asked", requested.name()),
            Self::Unauthenticated(rejection) => unauthenticated(*rejection),
            Self::ScopeMissing { needs, has } => {
                let names: Vec<_> = needs.iter().map(|scope| scope.name()).collect();
                Report::new(
                    Reason::ScopeMissing,
                    format!("the credential does not allow this call, which needs the scope {}", names.join(" or ")),
                )
                .with("needs", names.join(","))
                .with("has", has)
            }
            Self::Quota(refusal) => quota(refusal),
            Self::PageOfAnotherSite => Report::new(
                Reason::HttpOrigin,
                "this server has no authentication, and pages of sites with a name may not call it: call it from a program, or \
                 start it with auth.keys_file"
                    .to_owned(),
            ),
            Self::HttpUnsupported(says) => Report::new(Reason::HttpUnsupported, (*says).to_owned()),
            Self::AdminElsewhere => Report::new(
                Reason::AdminElsewhere,
                "this server answers AdminService on an address of its own (server.admin_listen)".to_owned(),
            ),
            Self::AdminDisabled => Report::new(
                Reason::AdminDisabled,
                "this server does not let clients manage models: start it with --allow-admin \
                 (server.allow_admin = true)"
                    .to_owned(),
            ),
            Self::ModelUnloading { retry_after } => {
                Report::new(Reason::ModelUnloading, "the model is being unloaded".to_owned())
                    .retry(*retry_after)
            }
            Self::ModelFailed => {
                Report::new(Reason::ModelFailed, "the model has stopped after a fault inside of the server: use another \
                     server, or load it again with AdminService/LoadModel (`babelward models load ID`)".to_owned())
            }
            Self::DeviceLost { device } => Report::new(
                Reason::DeviceLost,
                format!(
                    "the model's device `{device}` is lost, and no model on it answers until the server is restarted: \
                     use another server"
                ),
            )
            .with("device", device),
            Self::NumericFault => Report::new(
                Reason::NumericFault,
                "the model produced a value that is not a number".to_owned(),
            ),
            Self::DeviceFault => Report::new(Reason::DeviceFault, "the forward pass failed".to_owned()),
            Self::WorkerPanic => Report::new(
                Reason::WorkerPanic,
                "the model stopped unexpectedly: the server's log says where, and LoadModel brings it back".to_owned(),
            ),
            Self::TextFault => Report::new(
                Reason::TextFault,
                "the model's tokenizer or template failed".to_owned(),
            ),
        }
    }
}

impl Report {
    fn new(reason: Reason, message: String) -> Self {
        Self {
            reason,
            message,
            metadata: HashMap::new(),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    fn violations(mut self, violations: Vec<Violation>) -> Self {
        self.violations = violations;
        self
    }

    fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

/// The error of a caller that is not known. It does not say how far a wrong credential was right: only whoever has a token
/// with a valid signature learns what else is wrong with it.
fn unauthenticated(rejection: Rejection) -> Report {
    let (reason, message) = match rejection {
        Rejection::Missing => (
            Reason::CredentialsMissing,
            "this server answers callers with a credential: send an API key or token as `authorization: Bearer KEY`, or \
             a client certificate",
        ),
        Rejection::Malformed => (
            Reason::CredentialsInvalid,
            "`authorization` must be sent once, as `Bearer` and a key or token",
        ),
        Rejection::Unknown => (
            Reason::CredentialsInvalid,
            "the key, token or certificate is not one that this server knows",
        ),
        Rejection::Expired => (Reason::CredentialsExpired, "the key or token is no longer valid"),
        Rejection::NotYetValid => (Reason::CredentialsInvalid, "the token is not valid yet (nbf)"),
        Rejection::Issuer => (
            Reason::CredentialsInvalid,
            "the token was issued by somebody else (iss)",
        ),
        Rejection::Audience => (
            Reason::CredentialsInvalid,
            "the token is for another service (aud)",
        ),
        Rejection::Claims => (
            Reason::CredentialsInvalid,
            "the token lacks a claim that it must have, or has one of another form: exp, iss, aud, the tenant \
             (auth.jwt_tenant_claim) and the scopes (auth.jwt_scope_claim)",
        ),
    };
    Report::new(reason, message.to_owned()).with("problem", rejection.name())
}

fn quota(refusal: &QuotaRefusal) -> Report {
    let QuotaRefusal {
        kind,
        per_minute,
        needed,
        retry_after,
    } = *refusal;
    let (reason, what) = match kind {
        QuotaKind::Requests => (Reason::QuotaRequests, "requests"),
        QuotaKind::Tokens => (Reason::QuotaTokens, "tokens"),
    };
    let message = match retry_after {
        Some(_) => format!("the tenant has used up its {per_minute} {what} a minute; try again"),
        None => {
            format!("this needs {needed} {what}, and the tenant has {per_minute} a minute: send less at once")
        }
    };
    let report = Report::new(reason, message)
        .with("perMinute", per_minute)
        .with("needed", needed);
    match retry_after {
        Some(retry_after) => report.retry(retry_after),
        None => report,
    }
}

fn capability(role: ModelRole) -> &'static str {
    match role {
        ModelRole::Target => "generate",
        ModelRole::Guard => "classify",
        ModelRole::Quality => "estimate_quality",
        ModelRole::Classifier => "classify_text",
    }
}

/// The name of a stage in `ErrorInfo.metadata` and in metrics.
pub(crate) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Queue => "queue",
        Stage::Prefill => "prefill",
        Stage::Decode => "decode",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_error_decodes_as_google_rpc_status() {
        let error = ServiceError::QueueFull {
            retry_after: Duration::from_millis(250),
        };
        let item = error.to_item();
        let status = tonic_types::pb::Status::decode(item.encode_to_vec().as_slice()).unwrap();
        assert_eq!(status.code, i32::from(Code::ResourceExhausted));
        assert_eq!(status.details.len(), 2);
        let status = error.to_status("");
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "250");
        assert_eq!(
            status.get_error_details().retry_info().unwrap().retry_delay,
            Some(Duration::from_millis(250))
        );
    }

    #[test]
    fn a_model_id_is_repeated_only_if_it_looks_like_one() {
        use crate::registry::LookupError;
        let missing = LookupError::NotFound { did_you_mean: None };
        let named = |id| match ServiceError::from_lookup(missing.clone(), id) {
            ServiceError::ModelNotFound { model, .. } => model,
            other => panic!("{other:?}"),
        };
        assert_eq!(named("llama-guard-3-8b"), "llama-guard-3-8b");
        assert_eq!(named("how do I pick a lock?"), "");
    }
}
