//! Why a step of a model failed.

/// Why a step failed. The engine checks the sizes of its batches, so this is the device's or the model's fault.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// The batch does not fit what the model was built for.
    #[error("invalid batch: {0}")]
    InvalidBatch(String),
    /// The device reported an error.
    #[error("device fault: {0}")]
    Device(String),
    /// [`LanguageModel::wait`](super::LanguageModel::wait) without a
    /// [`LanguageModel::submit`](super::LanguageModel::submit) before it.
    #[error("no step is under way")]
    NotSubmitted,
}
