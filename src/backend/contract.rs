//! What a backend is asked to do.

use std::path::{Path, PathBuf};

use super::{batch::ForwardBatch, device::DeviceInfo, limits::ModelLimits, output::StepOutput};
use crate::model::{LoadError, spec::Precision};

/// A device that models can be loaded onto.
pub trait Backend: Send + Sync {
    /// What the device is and can do.
    fn device(&self) -> &DeviceInfo;

    /// The precision that the model at `path` is computed in when `asked` is asked for: not all models have all.
    fn effective_precision(&self, path: &Path, asked: Precision) -> Precision;

    /// The device memory that the model at `path` would take with these adapters, from what its files say of themselves.
    /// `batch` are the largest batches that it will be given. Adapters are counted with the weights.
    ///
    /// # Errors
    /// When a file cannot be read or is not a model that the device computes; names the file and the tensor or key.
    fn footprint(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
        batch: BatchLimits,
    ) -> Result<Footprint, LoadError>;

    /// Loads the model at `path`: a `.gguf` file, a Hugging Face folder, or `dummy:SHAPE[:FORMAT]`; `adapters` are PEFT
    /// folders, GGUF files, or `dummy:RANK`.
    ///
    /// # Errors
    /// As [`Backend::footprint`], and when there is no memory for it.
    fn load(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<LoadedModel, LoadError>;
}

/// How to make a model resident.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Bytes of the KV pool; the number of blocks follows.
    pub kv_bytes: usize,
    /// Upper limit on the context window; the model's own when absent or larger.
    pub max_context: Option<usize>,
    /// How activations enter products with quantised weights.
    pub precision: Precision,
}

/// A resident model and what provenance and `ModelService` say of it.
pub struct LoadedModel {
    /// The model itself.
    pub model: Box<dyn LanguageModel>,
    /// For example `llama`.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// Number of parameters.
    pub parameters: u64,
    /// Storage type of most weights, for example `q4_1`.
    pub dtype: String,
    /// How it computes.
    pub precision: Precision,
    /// Bytes of the weights, as they lie in memory.
    pub weight_bytes: u64,
    /// Bytes of the KV pool. The system gives them as blocks are first used.
    pub kv_bytes: u64,
    /// In the order in which they were asked for; [`super::AdapterIndex`] counts them.
    pub adapters: Vec<LoadedAdapter>,
}

/// What provenance and `ModelService` say of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedAdapter {
    /// The largest rank of its changes.
    pub rank: usize,
    /// Number of its parameters.
    pub parameters: u64,
    /// Bytes of its weights, beside the base's.
    pub resident_bytes: u64,
}

/// The largest batches that a model will be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of all of them.
    pub tokens: usize,
}

/// What a model will take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// For example `llama`.
    pub architecture: String,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Most tokens whose keys and values a sequence holds at a time: less than the longest sequence where every layer
    /// has a window.
    pub held_tokens: usize,
    /// Bytes of the weights as they will lie in memory, which is not how they lie in the file.
    pub weight_bytes: u64,
    /// Bytes of buffers that grow to the largest batch.
    pub scratch_bytes: u64,
    /// Bytes of one block of the KV pool, over all layers.
    pub kv_block_bytes: u64,
    /// A KV pool of more bytes is of no use; `None` where every block is.
    pub kv_most_bytes: Option<u64>,
    /// Tokens in such a block.
    pub block_tokens: usize,
}

/// A resident model with its KV pool. At most one of its steps is under way.
pub trait LanguageModel: Send {
    /// Sizes that the scheduler needs.
    fn limits(&self) -> &ModelLimits;

    /// Begins a step: the keys and values of the new tokens are written to the KV blocks, and what each sequence's
    /// [`Readout`](super::Readout) asks for is read into `output`, whose contents are forgotten. A device that computes by
    /// itself returns at once; the host's processor when the step is done.
    ///
    /// # Errors
    /// When the batch does not fit the model, or the device reports a fault. Then no step is under way.
    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError>;

    /// Waits for the step that was submitted last, and returns what it read.
    ///
    /// # Errors
    /// When the device reports a fault, or no step is under way.
    fn wait(&mut self) -> Result<StepOutput, StepError>;

    /// A whole step: [`LanguageModel::submit`] and [`LanguageModel::wait`].
    ///
    /// # Errors
    /// As both.
    fn forward(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<StepOutput, StepError> {
        self.submit(batch, output)?;
        self.wait()
    }
}

/// Why a step failed. The engine has checked sizes before, so this is the device's or the model's fault.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// The batch does not fit what the model was built for.
    #[error("invalid batch: {0}")]
    InvalidBatch(String),
    /// The device reported an error.
    #[error("device fault: {0}")]
    Device(String),
    /// [`LanguageModel::wait`] without [`LanguageModel::submit`].
    #[error("no step is under way")]
    NotSubmitted,
}
