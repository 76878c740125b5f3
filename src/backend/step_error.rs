//! Why a step of a model failed.

/// Why a step failed. The engine checks the sizes of its batches, so this is the device's or the model's fault.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// The batch does not fit what the model was built for.
    #[error("invalid batch: {0}")]
    InvalidBatch(String),
    /// The device reported an error, and this step failed. Later steps may succeed.
    #[error("device fault: {0}")]
    Device(String),
    /// The device is lost: no step of any of its models can succeed any more. For example, the device has gone, or an error
    /// of it cannot be cleared within this process. The text says what happened.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// [`LanguageModel::wait`](super::LanguageModel::wait) without a
    /// [`LanguageModel::submit`](super::LanguageModel::submit) before it.
    #[error("no step is under way")]
    NotSubmitted,
}
