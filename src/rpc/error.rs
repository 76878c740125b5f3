//! Everything that can go wrong with a request, named by what the caller can do next.

use std::time::Duration;

use crate::{
    engine::{SequenceError, Stage, SubmitError},
    model::spec::Precision,
    registry::{
        LoadFailure, LoadRefusal, LookupError, MemoryShortage, ModelRole, StartProgress, UnknownPolicy,
    },
    text::TokenCount,
};

/// One violated field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its path from the message that the caller sent, such as
    /// `items[3].request.conversation.messages[0].content`.
    pub field: String,
    /// What must be so.
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

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextPlace {
    /// A field of the request.
    Field(String),
    /// The answer of a Score, which another model wrote; the field names the guard that should judge it.
    Answer {
        /// Its path.
        guard: String,
    },
}

/// Why a request, or one item of a batch or stream, was not answered. [`super::status`] turns each into a
/// status code, a reason and details; docs/errors.md is the caller's view.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceError {
    /// Fields are missing, wrong or out of range; all of them are listed. Correct them.
    InvalidFields(Vec<Violation>),
    /// The messages' roles are not in an order that this model takes. Reorder them.
    ConversationShape(Vec<Violation>),
    /// The encoded request is too large, or its text takes more memory than there is for texts. Send less at once.
    MessageTooLarge {
        /// Most bytes.
        limit_bytes: usize,
    },
    /// The requests of all callers hold as many bytes as the server gives them. Try again after the delay.
    RequestMemory {
        /// When.
        retry_after: Duration,
    },
    /// As many calls are open as the server takes. Try again after the delay.
    TooManyCalls {
        /// When.
        retry_after: Duration,
    },
    /// The request did not arrive to its end in time. Send it without pauses, or on a faster line.
    RequestIncomplete {
        /// How long it may take.
        limit: Duration,
    },
    /// The stream had no open item, and no message came for it. Open a new one when there is work.
    StreamIdle {
        /// How long it may be so.
        limit: Duration,
    },
    /// The prompt does not fit the model's window; nothing was cut. Shorten it.
    InputTooLong {
        /// Tokens of the prompt.
        input_tokens: TokenCount,
        /// Most tokens.
        limit_tokens: usize,
    },
    /// The model's vocabulary has no token for a character, and none for unknown ones: the text would reach the model
    /// without it. Leave it out, or use another model.
    TextNotEncodable {
        /// Where.
        place: TextPlace,
        /// What.
        character: char,
        /// Characters in front of it.
        position: usize,
    },
    /// The id is that of an item which is still open (or twice in a batch). Use fresh ids.
    ItemIdOpen {
        /// Where.
        field: String,
    },
    /// No model has this id. See `did_you_mean` and ListModels.
    ModelNotFound {
        /// The id, when it is printable and short.
        model: String,
        /// A similar id.
        did_you_mean: Option<String>,
    },
    /// No configured policy has this name. See `did_you_mean` and ListPolicies, or send the policy itself.
    PolicyNotFound {
        /// The name, when it is printable and short.
        policy: String,
        /// A similar one.
        did_you_mean: Option<String>,
    },
    /// The request names no model and the server has no default for this role. Name one.
    NoDefaultModel {
        /// The role.
        needs: ModelRole,
    },
    /// The model is not configured for this call. Use another.
    CapabilityMissing {
        /// What the model can do.
        has: Vec<ModelRole>,
        /// What was needed.
        needs: ModelRole,
    },
    /// A base model has no chat template. Send `text` or `token_ids`.
    ChatTemplateMissing,
    /// Prompt and answer together need more KV blocks than the pool has. Shorten either, or enlarge the pool.
    CacheTooSmall {
        /// Blocks for the sequence.
        needed_blocks: usize,
        /// Blocks there are.
        available_blocks: usize,
    },
    /// Too much is waiting. Try again after the delay.
    QueueFull {
        /// When.
        retry_after: Duration,
    },
    /// The call's or item's time ran out. Allow more time, or send less.
    Deadline {
        /// Where the work was.
        stage: Stage,
    },
    /// The call's or item's time would certainly run out before an answer: nothing was started. Allow more time,
    /// or try again after the delay, where there is one.
    DeadlineUnattainable {
        /// Least time to its end.
        predicted: Duration,
        /// How much of that is waiting for what the same tenant has sent before.
        wait: Duration,
        /// Time to the deadline.
        remaining: Duration,
        /// When, if it would have been in time alone.
        retry_after: Option<Duration>,
    },
    /// The caller cancelled it.
    ClientCancelled,
    /// The server is going away. Try another one, or this one after the delay.
    ServerDraining {
        /// When.
        retry_after: Duration,
    },
    /// The models that are loaded at the start are not all in memory yet. Try again after the delay.
    ServerLoading {
        /// How far it is.
        progress: StartProgress,
        /// When.
        retry_after: Duration,
    },
    /// The model is on its way out of memory. Try again after the delay, or elsewhere.
    ModelUnloading {
        /// When.
        retry_after: Duration,
    },
    /// The model is not in memory, and requests do not load it. Load it, or use another.
    ModelNotLoaded {
        /// Its id, when it is printable and short.
        model: String,
    },
    /// The model could not be loaded. Whoever runs the server finds out why, and asks for another try.
    ModelLoadFailed {
        /// What is wrong; told to those who may load models.
        cause: Option<String>,
    },
    /// There is no room for the model. Unload another, or make the budget larger.
    DeviceMemory(MemoryShortage),
    /// The model is in memory with another precision than it was asked for in. Unload it first.
    PrecisionMismatch {
        /// How it computes.
        has: Precision,
        /// How it was asked for.
        asked: Precision,
    },
    /// Calls of AdminService are not allowed here.
    AdminDisabled,
    /// The model's engine has stopped. Try another server.
    ModelFailed,
    /// A logit was not a number. Report it: no verdict or token comes from such a row.
    NumericFault,
    /// The forward pass failed. Report it.
    DeviceFault,
    /// The engine panicked in a step this request was part of, and restarted. Report it.
    WorkerPanic,
    /// The model's own template or tokenizer failed on input that should be fine. Report it.
    TextFault,
}

impl ServiceError {
    /// One violated field.
    pub(crate) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::InvalidFields(vec![Violation::new(field, description)])
    }

    /// Whether the model is to blame (feeds its FAILED state).
    pub(crate) fn is_model_fault(&self) -> bool {
        matches!(
            self,
            Self::ModelFailed | Self::NumericFault | Self::DeviceFault | Self::WorkerPanic
        )
    }

    /// Why the engine did not queue a prompt; `field` is where the prompt came from.
    pub(crate) fn from_submit(error: SubmitError, field: &str) -> Self {
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
            SubmitError::Draining => Self::draining(),
            SubmitError::ModelRemoved => Self::unloading(),
            SubmitError::EngineGone => Self::ModelFailed,
        }
    }

    /// The server is going away; how long a restart may take is not known here.
    pub(crate) fn draining() -> Self {
        Self::ServerDraining {
            retry_after: Duration::from_secs(1),
        }
    }

    /// The server is not ready yet; how long the rest takes is not known here.
    pub(crate) fn loading(progress: StartProgress) -> Self {
        Self::ServerLoading {
            progress,
            retry_after: Duration::from_secs(1),
        }
    }

    /// The model is going away; what comes after it is not known here.
    pub(crate) fn unloading() -> Self {
        Self::ModelUnloading {
            retry_after: Duration::from_secs(1),
        }
    }

    /// Why a model id cannot be used.
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
            LookupError::Unloading => Self::unloading(),
            LookupError::Closed => Self::draining(),
            LookupError::Memory(shortage) => Self::DeviceMemory(shortage),
        }
    }

    /// Why a policy's name cannot be used.
    pub(crate) fn from_unknown_policy(unknown: UnknownPolicy, name: &str) -> Self {
        Self::PolicyNotFound {
            policy: printable(name),
            did_you_mean: unknown.did_you_mean,
        }
    }

    /// Why a model was not loaded, for those who may load models.
    pub(crate) fn from_load(refusal: LoadRefusal) -> Self {
        match refusal {
            LoadRefusal::Failed(LoadFailure::Memory(shortage)) => Self::DeviceMemory(shortage),
            LoadRefusal::Failed(LoadFailure::Broken(cause)) => Self::ModelLoadFailed { cause: Some(cause) },
            LoadRefusal::Failed(LoadFailure::Closed) => Self::draining(),
            LoadRefusal::Precision { has, asked } => Self::PrecisionMismatch { has, asked },
        }
    }
}

impl From<SequenceError> for ServiceError {
    fn from(error: SequenceError) -> Self {
        match error {
            SequenceError::Cancelled => Self::ClientCancelled,
            SequenceError::DeadlineExceeded { stage } => Self::Deadline { stage },
            SequenceError::NumericFault => Self::NumericFault,
            SequenceError::ModelFailed(_) => Self::DeviceFault,
            SequenceError::EnginePanicked => Self::WorkerPanic,
            SequenceError::ShuttingDown => Self::draining(),
            SequenceError::ModelRemoved => Self::unloading(),
            SequenceError::DeadlineUnattainable {
                predicted,
                wait,
                remaining,
                retry_after,
            } => Self::DeadlineUnattainable {
                predicted,
                wait,
                remaining,
                retry_after,
            },
        }
    }
}

/// An id as it may stand in an error: callers' text is not repeated unless it looks like an id.
fn printable(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:/@+".contains(c);
    if id.len() <= 128 && id.chars().all(plain) {
        id.to_owned()
    } else {
        String::new()
    }
}
