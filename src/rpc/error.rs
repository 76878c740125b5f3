//! All errors of requests, named by what the caller can do about them.

use std::time::Duration;

use crate::{
    auth::{QuotaRefusal, Rejection, Scope, Scopes},
    calibrator::Difference,
    engine::{LateAnswer, SequenceError, Stage, SubmitError},
    model::spec::{DeviceName, Precision},
    registry::{
        DeviceLoss, LoadFailure, LoadRefusal, LookupError, MemoryShortage, ModelRole, StartProgress,
        UnknownPolicy,
    },
    remote::{RemoteError, RemotePhase},
    text::TokenCount,
};

/// One field that violates a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field from the message that the caller sent, such as
    /// `items[3].request.conversation.messages[0].content`.
    pub field: String,
    /// The rule that it violates.
    pub description: String,
}

impl Violation {
    pub(crate) fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
        }
    }
}

/// Where a text of a prompt comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextOrigin {
    /// The field of the request with this path.
    Field(String),
    /// The answer of a Score, which the target model wrote.
    Answer {
        /// Path of the field that names the guard which should judge it.
        guard: String,
    },
}

/// What is wrong with a translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TranslationFlaw {
    /// It has no text.
    Empty,
    /// It is longer than it may be.
    CutOff,
    /// Its quality score is worse than the request allows.
    Quality,
}

/// Why a request, or one item of a batch or stream, was not answered. [`super::status`] turns each into a
/// status code, a reason and details; docs/errors.md is the caller's view.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceError {
    /// Fields are missing, wrong or out of range. All of them are listed; correct them.
    InvalidFields(Vec<Violation>),
    /// The roles of the messages are not in an order that this model accepts. Reorder them.
    ConversationShape(Vec<Violation>),
    /// The encoded request is too large, or its text needs more memory than there is for texts. Send less at once.
    MessageTooLarge {
        /// Most bytes that a request may have.
        limit_bytes: usize,
    },
    /// The requests of all callers use all the memory that the server has for them. Try again after the delay.
    RequestMemory {
        /// When to try again.
        retry_after: Duration,
    },
    /// As many calls are open as the server allows. Try again after the delay.
    TooManyCalls {
        /// When to try again.
        retry_after: Duration,
    },
    /// The request did not arrive completely in time. Send it without pauses, or on a faster connection.
    RequestIncomplete {
        /// Longest time that it may take.
        limit: Duration,
    },
    /// The stream had no open item and received no message for too long. Open a new one when there is work.
    StreamIdle {
        /// Longest time that a stream may be idle.
        limit: Duration,
    },
    /// A growing text has more bytes than a text may have. Shorten it.
    GrowingTextTooLong {
        /// Most bytes that it may have.
        limit_bytes: usize,
    },
    /// The guard's verdict on the complete text is neither safe nor unsafe. Use another guard.
    VerdictUndetermined,
    /// What a served model wrote as the translation of a text cannot be judged in its place. Name another translator, or send the
    /// rendering.
    TranslationUnusable {
        /// The field of the text.
        field: String,
        /// What is wrong with it.
        flaw: TranslationFlaw,
    },
    /// The prompt does not fit into the model's context window; nothing was cut off. Shorten it.
    InputTooLong {
        /// Tokens of the prompt.
        input_tokens: TokenCount,
        /// Most tokens that a prompt may have.
        limit_tokens: usize,
    },
    /// The judged message takes more windows than the request allows. Allow more, or shorten it.
    TooManyWindows {
        /// Windows that it takes.
        needed: usize,
        /// Most windows that it may take.
        limit: usize,
    },
    /// The model's vocabulary has no token for a character, and none for unknown characters, so the model would get the text
    /// without it. Leave it out, or use another model.
    TextNotEncodable {
        /// Where the text comes from.
        origin: TextOrigin,
        /// The first character that has no token.
        character: char,
        /// Number of characters before it.
        position: usize,
    },
    /// An item with this id is still open, or the id occurs twice in a batch. Use new ids.
    ItemIdOpen {
        /// Path of the field with the id.
        field: String,
    },
    /// No model has this id. See `did_you_mean` and ListModels.
    ModelNotFound {
        /// The requested id, if it is printable and short.
        model: String,
        /// A similar id, if there is one.
        did_you_mean: Option<String>,
    },
    /// No configured policy has this name. See `did_you_mean` and ListPolicies, or send the policy itself.
    PolicyNotFound {
        /// The requested name, if it is printable and short.
        policy: String,
        /// A similar name, if there is one.
        did_you_mean: Option<String>,
    },
    /// The calibrator of the policy that decides was fitted for another guard, so that its probabilities would mean nothing. Name
    /// another policy, or fit a calibrator for this guard.
    CalibratorMismatch {
        /// The decision policy, as `NAME@VERSION`.
        policy: String,
        /// The calibrator's digest.
        calibrator: String,
        /// What is not as it was; at least one.
        differences: Vec<Difference>,
    },
    /// The request names no model and the server has no default for this role. Name one.
    NoDefaultModel {
        /// The role that the request needs.
        needs: ModelRole,
    },
    /// The model does not have the role that this call needs. Use another.
    CapabilityMissing {
        /// The roles that it has.
        has: Vec<ModelRole>,
        /// The role that is needed.
        needs: ModelRole,
    },
    /// A base model has no chat template. Send `text` or `token_ids`.
    ChatTemplateMissing,
    /// Prompt and answer together need more KV blocks than the pool has. Shorten either, or enlarge the pool.
    CacheTooSmall {
        /// Blocks for the sequence.
        needed_blocks: usize,
        /// Blocks that the pool has for it.
        available_blocks: usize,
    },
    /// Too many requests are waiting. Try again after the delay.
    QueueFull {
        /// When to try again.
        retry_after: Duration,
    },
    /// The deadline of the call or item passed. Allow more time, or send less.
    Deadline {
        /// The stage that the work had reached.
        stage: Stage,
    },
    /// The deadline of the call or item would certainly pass before an answer, so nothing was computed. Allow more time, or
    /// try again after the delay, if there is one.
    DeadlineUnattainable(LateAnswer),
    /// The caller cancelled the call or item.
    ClientCancelled,
    /// The server is shutting down. Try another server, or this one after the delay.
    ServerDraining {
        /// When to try again.
        retry_after: Duration,
    },
    /// The server is still loading its eager models. Try again after the delay.
    ServerLoading {
        /// How many models are loaded.
        progress: StartProgress,
        /// When to try again.
        retry_after: Duration,
    },
    /// The model is an endpoint, with which this server cannot do what is asked. Use a model that is loaded here.
    RemoteUnsupported,
    /// The endpoint that computes the model gave no answer.
    Endpoint(RemoteError),
    /// The model is being unloaded. Try again after the delay, or on another server.
    ModelUnloading {
        /// When to try again.
        retry_after: Duration,
    },
    /// The model is not in memory, and requests do not load it. Load it, or use another.
    ModelNotLoaded {
        /// Its id, if it is printable and short.
        model: String,
    },
    /// The model could not be loaded. The operator of the server finds the reason in its log, and can load it again.
    ModelLoadFailed {
        /// The reason; only sent to callers who may load models.
        cause: Option<String>,
    },
    /// There is not enough memory for the model. Unload another, or raise the memory budget.
    DeviceMemory(MemoryShortage),
    /// The model is loaded in another precision than the requested one. Unload it first.
    PrecisionMismatch {
        /// The precision that it is loaded in.
        has: Precision,
        /// The precision that was requested.
        requested: Precision,
    },
    /// The caller has sent no credential, or none that is valid. Send one.
    Unauthenticated(Rejection),
    /// The caller's credential does not allow this call. Use another.
    ScopeMissing {
        /// Scopes of which the call needs any one.
        needs: &'static [Scope],
        /// Scopes that the credential has.
        has: Scopes,
    },
    /// The caller's tenant has used up its quota. Try again after the delay, or send less.
    Quota(QuotaRefusal),
    /// The request comes from a page of another site, in the browser of somebody who reaches the server. Call it from a program.
    PageOfAnotherSite,
    /// The request uses something of HTTP that its path does not support: the type or the coding of its body. Send it as the text
    /// says.
    HttpUnsupported(&'static str),
    /// This server answers calls of AdminService on another address. Use that.
    AdminElsewhere,
    /// This server does not allow calls of AdminService.
    AdminDisabled,
    /// The model has stopped after a fault inside of the server. Load it again, or try another server.
    ModelFailed,
    /// The model's device is lost, and no model on it answers until the server is restarted. Try another server.
    DeviceLost {
        /// The device.
        device: DeviceName,
    },
    /// The model computed a value that is not a number, from which no verdict or token may come. Report it.
    NumericFault,
    /// The forward pass failed. Report it.
    DeviceFault,
    /// A step of the model panicked, and the model is stopped until it is loaded again. Report it.
    WorkerPanic,
    /// The model's chat template or tokenizer failed on valid input. Report it.
    TextFault,
}

impl ServiceError {
    /// The error of one invalid field.
    pub(crate) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::InvalidFields(vec![Violation::new(field, description)])
    }

    /// The error of a request that is beyond its tenant's quota. It is counted.
    pub(crate) fn quota(refusal: QuotaRefusal) -> Self {
        let kind = refusal.kind.name();
        metrics::counter!("babelward_quota_refused_total", "kind" => kind).increment(1);
        Self::Quota(refusal)
    }

    /// Whether the model has failed, which counts towards its FAILED state.
    pub(crate) fn is_model_fault(&self) -> bool {
        matches!(
            self,
            Self::ModelFailed | Self::NumericFault | Self::DeviceFault | Self::WorkerPanic
        )
    }

    /// The error of a prompt that the engine of `device` refused; `field` is the field that the prompt comes from.
    pub(crate) fn from_submit(error: SubmitError, field: &str, device: DeviceName) -> Self {
        match error {
            SubmitError::QueueFull { retry_after } => Self::QueueFull { retry_after },
            SubmitError::PromptTooLong { tokens, limit } => Self::InputTooLong {
                input_tokens: TokenCount::Exactly(tokens),
                limit_tokens: limit,
            },
            SubmitError::EmptyPrompt => Self::field(field, "makes an empty prompt; send at least one token"),
            SubmitError::TokenOutOfRange {
                position, vocab_size, ..
            } => Self::field(
                format!("{field}[{position}]"),
                format!("is not in the vocabulary of {vocab_size} tokens"),
            ),
            SubmitError::CannotFit { needed, available } => Self::CacheTooSmall {
                needed_blocks: needed,
                available_blocks: available,
            },
            SubmitError::DeadlineExceeded => Self::Deadline { stage: Stage::Queue },
            SubmitError::DeadlineUnattainable(late) => Self::DeadlineUnattainable(late),
            SubmitError::Draining => Self::draining(),
            SubmitError::DeviceLost(_) => Self::DeviceLost { device },
            SubmitError::ModelRemoved => Self::unloading(),
            SubmitError::ModelStopped | SubmitError::EngineGone => Self::ModelFailed,
        }
    }

    /// The server is shutting down. How long a restart takes is not known here, so callers are told to retry soon.
    pub(crate) fn draining() -> Self {
        Self::ServerDraining {
            retry_after: Duration::from_secs(1),
        }
    }

    /// The server is still loading. How long that takes is not known here, so callers are told to retry soon.
    pub(crate) fn loading(progress: StartProgress) -> Self {
        Self::ServerLoading {
            progress,
            retry_after: Duration::from_secs(1),
        }
    }

    /// The model is being unloaded. Callers are told to retry soon.
    pub(crate) fn unloading() -> Self {
        Self::ModelUnloading {
            retry_after: Duration::from_secs(1),
        }
    }

    /// The error of a model id that cannot be used.
    pub(crate) fn from_lookup(error: LookupError, id: &str) -> Self {
        match error {
            LookupError::NotFound { did_you_mean } => Self::ModelNotFound {
                model: printable(id),
                did_you_mean,
            },
            LookupError::NoDefault { needs } => Self::NoDefaultModel { needs },
            LookupError::RoleMissing { has, needs } => Self::CapabilityMissing { has, needs },
            LookupError::NotLoaded => Self::ModelNotLoaded { model: printable(id) },
            LookupError::LoadFailed => Self::ModelLoadFailed { cause: None },
            LookupError::Stopped => Self::ModelFailed,
            LookupError::Unloading => Self::unloading(),
            LookupError::Closed => Self::draining(),
            LookupError::Memory(shortage) => Self::DeviceMemory(shortage),
            LookupError::DeviceLost(DeviceLoss { device, .. }) => Self::DeviceLost { device },
            LookupError::Remote => Self::RemoteUnsupported,
        }
    }

    /// The error of a policy name that is not configured.
    pub(crate) fn from_unknown_policy(unknown: UnknownPolicy, name: &str) -> Self {
        Self::PolicyNotFound {
            policy: printable(name),
            did_you_mean: unknown.did_you_mean,
        }
    }

    /// The error of a model that was not loaded, for callers who may load models.
    pub(crate) fn from_load(refusal: LoadRefusal) -> Self {
        match refusal {
            LoadRefusal::Failed(LoadFailure::Memory(shortage)) => Self::DeviceMemory(shortage),
            LoadRefusal::Failed(LoadFailure::Broken(cause)) => Self::ModelLoadFailed { cause: Some(cause) },
            LoadRefusal::Failed(LoadFailure::DeviceLost(DeviceLoss { device, .. })) => {
                Self::DeviceLost { device }
            }
            LoadRefusal::Failed(LoadFailure::Closed) => Self::draining(),
            LoadRefusal::Remote => Self::RemoteUnsupported,
            LoadRefusal::Precision { has, requested } => Self::PrecisionMismatch { has, requested },
        }
    }

    /// The error of a request to an endpoint that has no answer.
    pub(crate) fn from_remote(error: RemoteError) -> Self {
        match error {
            RemoteError::QueueFull => Self::QueueFull {
                retry_after: Duration::from_secs(1),
            },
            RemoteError::Deadline { phase } => Self::Deadline {
                stage: match phase {
                    RemotePhase::Queue => Stage::Queue,
                    RemotePhase::Prefill => Stage::Prefill,
                    RemotePhase::Decode => Stage::Decode,
                },
            },
            error => Self::Endpoint(error),
        }
    }

    /// The error of a sequence that failed on `device`.
    pub(crate) fn from_sequence(error: SequenceError, device: DeviceName) -> Self {
        match error {
            SequenceError::Cancelled => Self::ClientCancelled,
            SequenceError::DeadlineExceeded { stage } => Self::Deadline { stage },
            SequenceError::NumericFault => Self::NumericFault,
            SequenceError::ModelFailed(_) => Self::DeviceFault,
            SequenceError::DeviceLost(_) => Self::DeviceLost { device },
            SequenceError::ModelPanicked => Self::WorkerPanic,
            SequenceError::ShuttingDown => Self::draining(),
            SequenceError::ModelRemoved => Self::unloading(),
            SequenceError::DeadlineUnattainable(late) => Self::DeadlineUnattainable(late),
        }
    }
}

/// An id as it may be repeated in an error: text of callers is not repeated unless it looks like an id.
fn printable(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:/@+".contains(c);
    if id.len() <= 128 && id.chars().all(plain) {
        id.to_owned()
    } else {
        String::new()
    }
}
