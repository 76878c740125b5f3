//! What a backend is asked to do.

use std::path::{Path, PathBuf};

use super::{
    batch::ForwardBatch,
    ceilings::{Ceilings, CeilingsError},
    device::{Determinism, DeviceInfo, DeviceMemory},
    finding::DeviceFinding,
    limits::{GeneratedTokens, ModelLimits},
    output::StepOutput,
    step_error::StepError,
};
use crate::model::{LoadError, spec::Precision};

/// A device that models can be loaded onto.
pub trait Backend: Send + Sync {
    /// What the device is and can do.
    fn device(&self) -> &DeviceInfo;

    /// The precision that the model at `path` is computed in when the settings ask for `requested`: not every model can be
    /// computed in every precision.
    fn effective_precision(&self, path: &Path, requested: Precision) -> Precision;

    /// The device's own memory as it is now; `None` when models are loaded into the host's memory.
    fn memory(&self) -> Option<DeviceMemory>;

    /// Checks that the device computes what it should, and reports each check. It may take seconds and memory of the device.
    fn self_test(&self) -> Vec<DeviceFinding>;

    /// Measures what the device can do at best for the model at `path`: its copies, and products in the model's shapes. The
    /// model's weights are not read.
    ///
    /// # Errors
    /// When the device has no such measurement, the path is no decoder's, or there is no memory for it.
    fn ceilings(&self, _path: &Path) -> Result<Ceilings, CeilingsError> {
        Err(CeilingsError::NotMeasured(self.device().name))
    }

    /// The device memory that the model at `path` would take with these adapters, from the headers of its files. Adapters
    /// are counted with the weights. The size of the KV pool in `options` does not matter.
    ///
    /// # Errors
    /// When a file cannot be read or is not a model that the device computes; names the file and the tensor or key.
    fn footprint(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<Footprint, LoadError>;

    /// Loads the model at `path`: a `.gguf` file, a Hugging Face folder, or `dummy:SHAPE[:FORMAT[:WINDOW]]`;
    /// `adapters` are PEFT folders, GGUF files, or `dummy:RANK`.
    ///
    /// # Errors
    /// As [`Backend::footprint`], and when there is no memory for the model.
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
    /// Size of the KV pool, in bytes, which decides how many blocks it has.
    pub kv_bytes: usize,
    /// Upper limit on the context window, in tokens; the model's own window counts when there is no limit or it is larger.
    pub max_context: Option<usize>,
    /// How products are computed, and how keys and values are stored.
    pub precision: Precision,
    /// The largest batches that it will be given, for which its buffers must be large enough.
    pub batch: BatchLimits,
    /// How decode steps are given to a device that can record them. Other devices compute them in one way.
    pub decode: DecodeLaunch,
}

/// How a device that can record decode steps is given them. The results have the same bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DecodeLaunch {
    /// The first step of each size is recorded, and later ones are carried out by one call.
    #[default]
    Recorded,
    /// Kernel by kernel, each time: for profilers, and to measure what recording saves.
    Direct,
}

/// A resident model and what provenance and `ModelService` say of it.
pub struct LoadedModel {
    /// The model itself.
    pub model: Box<dyn LanguageModel>,
    /// Name of the architecture, for example `llama`.
    pub architecture: String,
    /// Number of layers.
    pub layers: usize,
    /// Number of parameters.
    pub parameters: u64,
    /// Storage type of most weights, for example `q4_1`.
    pub dtype: String,
    /// The precision that it is computed in.
    pub precision: Precision,
    /// Which of its results are equal to the bit: what the device promises, or what was measured when it was loaded.
    pub determinism: Determinism,
    /// Bytes that the weights take in memory.
    pub weight_bytes: u64,
    /// Bytes of the KV pool. The system provides them when blocks are first used.
    pub kv_bytes: u64,
    /// Its adapters, in the order of their paths in [`Backend::load`]; an [`AdapterIndex`](super::AdapterIndex) is an index
    /// into this list.
    pub adapters: Vec<LoadedAdapter>,
}

/// What provenance and `ModelService` say of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedAdapter {
    /// The largest rank of its updates.
    pub rank: usize,
    /// Number of its parameters.
    pub parameters: u64,
    /// Bytes that its weights take in memory beside the base's.
    pub resident_bytes: u64,
}

/// The largest batches that a model will be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Number of sequences.
    pub sequences: usize,
    /// Number of new tokens of all sequences together.
    pub tokens: usize,
}

/// The device memory that a model will take, and the sizes that it follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Name of the architecture, for example `llama`.
    pub architecture: String,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Most tokens whose keys and values a sequence holds at a time: less than the longest sequence where every layer
    /// has a window.
    pub held_tokens: usize,
    /// Bytes that the weights will take in memory, which are not those in the file, for weights are repacked.
    pub weight_bytes: u64,
    /// Bytes of buffers that grow to the largest batch.
    pub scratch_bytes: u64,
    /// Bytes of one block of the KV pool, over all layers.
    pub kv_block_bytes: u64,
    /// Size of the KV pool, in bytes, beyond which it is of no further use; `None` where every block is of use.
    pub kv_most_bytes: Option<u64>,
    /// Tokens in a block of the KV pool.
    pub block_tokens: usize,
}

/// A resident model with its KV pool. At most one of its steps is under way.
///
/// A step is under way from a [`LanguageModel::submit`] that succeeds to the return of [`LanguageModel::wait`], whatever it
/// returns. The device reads and writes the step's KV blocks only in this time, so that they may be given to other sequences
/// after it. Steps of several models of a device may be under way, and are waited for in the order of their submission. A
/// model that is dropped while its step is under way waits for it first.
pub trait LanguageModel: Send {
    /// Sizes that the scheduler needs.
    fn limits(&self) -> &ModelLimits;

    /// Whether generated tokens are computed otherwise than the same tokens in a prompt. A model for which that is so is told
    /// of each part of a batch what its tokens are ([`BatchSequence::kind`](super::BatchSequence::kind)).
    fn generated_tokens(&self) -> GeneratedTokens {
        GeneratedTokens::AsInPrompts
    }

    /// Begins a step: the keys and values of the new tokens are written to the KV blocks, and what each sequence's
    /// [`Readout`](super::Readout) asks for is read into `output`, whose contents are forgotten. When it returns depends on
    /// the device's [`Execution`](super::Execution). `batch` is not read after that.
    ///
    /// # Errors
    /// When the batch does not fit the model, or the device reports a fault. No step is under way then, and nothing of this
    /// one is computed later.
    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError>;

    /// Waits for the step that was submitted last, and returns what it read.
    ///
    /// # Errors
    /// When the device reports a fault, or no step is under way.
    fn wait(&mut self) -> Result<StepOutput, StepError>;

    /// A whole step: [`LanguageModel::submit`] and [`LanguageModel::wait`].
    ///
    /// # Errors
    /// As [`LanguageModel::submit`] and [`LanguageModel::wait`].
    fn forward(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<StepOutput, StepError> {
        self.submit(batch, output)?;
        self.wait()
    }
}
