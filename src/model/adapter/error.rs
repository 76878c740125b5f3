//! Why an adapter cannot be used.

use std::io;

use crate::model::error::{ConfigError, FileError, InvalidModel, KeyError, TensorError};

/// Why an adapter cannot be used with its base; names the file's key or tensor.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file is missing or damaged, or a tensor or key is not what the base needs.
    #[error(transparent)]
    Invalid(Box<InvalidModel>),
    /// The file could not be read.
    #[error("it could not be read: {0}")]
    Read(io::Error),
    /// A kind of adapter that would be computed wrongly: what it is, and where that is said.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// It changes what is no matrix of the model's layers.
    #[error("`{module}` is none of the matrices that an adapter can change here: {known}")]
    UnknownModule {
        /// The module, as the adapter names it.
        module: String,
        /// The modules that an adapter can change.
        known: String,
    },
    /// It changes a layer that the base does not have.
    #[error("tensor `{tensor}`: the base has {layers} layers")]
    NoLayer {
        /// The tensor's name.
        tensor: String,
        /// Layers of the base.
        layers: usize,
    },
    /// A tensor is not among the modules that the adapter's own configuration says it changes.
    #[error("tensor `{tensor}`: it is not among {config}'s target_modules")]
    NotTargeted {
        /// The tensor's name.
        tensor: String,
        /// The file that names the modules.
        config: &'static str,
    },
    /// A tensor of a GGUF adapter has a name that none of its kind has.
    #[error("tensor `{0}`: it is not part of a LoRA adapter")]
    NotLora(String),
    /// One of the two matrices of an update is not there.
    #[error("tensor `{tensor}`: `{missing}`, which belongs to it, is missing")]
    MissingHalf {
        /// Name of the matrix that is there.
        tensor: String,
        /// Name of the matrix that is not.
        missing: String,
    },
    /// An update has no rank, so it changes nothing.
    #[error("tensor `{0}`: its rank is 0")]
    NoRank(String),
    /// Two updates change the same outputs.
    #[error("tensor `{0}`: another one changes the same outputs")]
    Overlap(String),
    /// A weight is infinite or not a number.
    #[error("tensor `{0}`: it has values that are not finite")]
    NotFinite(String),
    /// It changes nothing.
    #[error("there are no tensors in it")]
    Empty,
    /// The rank of a made-up adapter is none that can be made.
    #[error("the rank of a dummy adapter is `{0}`; it has to be from 1 to 1024")]
    DummyRank(String),
    /// The system has no memory for it.
    #[error("there is no memory for it: {0}")]
    Memory(io::Error),
}

impl From<InvalidModel> for AdapterError {
    fn from(problem: InvalidModel) -> Self {
        Self::Invalid(Box::new(problem))
    }
}

impl From<TensorError> for AdapterError {
    fn from(error: TensorError) -> Self {
        InvalidModel::from(error).into()
    }
}

impl From<FileError> for AdapterError {
    fn from(error: FileError) -> Self {
        InvalidModel::from(error).into()
    }
}

impl From<KeyError> for AdapterError {
    fn from(error: KeyError) -> Self {
        InvalidModel::from(ConfigError::from(error)).into()
    }
}
