//! Why a model could not be loaded.

use std::{io, path::PathBuf};

use super::{
    adapter::AdapterError,
    error::{ConfigError, FileError, InvalidModel, TensorError},
    spec::DeviceName,
};

/// Why a model could not be loaded; always names the file, and where it can the tensor or key.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Io {
        /// The file or folder.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The files are not those of a model that this program computes.
    #[error("{path}: {problem}")]
    Invalid {
        /// The model's file or folder.
        path: String,
        /// What is wrong, and where.
        problem: Box<InvalidModel>,
    },
    /// The files are sound, but the machine lacks something that the model needs.
    #[error("{path}: {problem}")]
    Resources {
        /// The model's file or folder.
        path: String,
        /// What is lacking.
        problem: ResourceProblem,
    },
    /// An adapter cannot be used with this model.
    #[error("the adapter {path} cannot be used")]
    Adapter {
        /// The adapter's folder or file.
        path: PathBuf,
        /// What is wrong with it.
        source: AdapterError,
    },
}

/// What a machine lacks to load a model.
#[derive(Debug, thiserror::Error)]
pub enum ResourceProblem {
    /// The KV pool does not hold the shortest sequence.
    #[error("the KV pool of {bytes} bytes is too small: this model needs at least {needed}")]
    KvPool {
        /// Bytes that the settings give to the pool.
        bytes: usize,
        /// Bytes of the smallest pool that this model works with.
        needed: u64,
    },
    /// The system has no memory for the KV pool.
    #[error("no memory for {blocks} KV blocks: {error}")]
    KvMemory {
        /// Blocks of the pool.
        blocks: usize,
        /// The system's reason.
        error: io::Error,
    },
    /// The device has too little free memory for the model.
    #[error(
        "{device} has {free} bytes of free memory, and the model takes {needed}: {weights} for weights, {kv} for keys and \
         values, {scratch} for buffers; use a smaller KV pool, smaller batches or a shorter context window, or unload \
         another model"
    )]
    DeviceMemory {
        /// The device.
        device: DeviceName,
        /// Bytes that the model takes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes of the weights.
        weights: u64,
        /// Bytes of the KV pool.
        kv: u64,
        /// Bytes of buffers.
        scratch: u64,
    },
    /// The device failed, or does not compute what was asked for.
    #[error("{device}: {error}")]
    Device {
        /// The device.
        device: DeviceName,
        /// The device's reason.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system starts no more threads.
    #[error("cannot start compute threads: {0}")]
    Threads(io::Error),
    /// The device does not compute such models.
    #[error("the device {device} does not compute `{what}` models: give the model `device = \"cpu\"`")]
    NotOnDevice {
        /// The kind of model.
        what: &'static str,
        /// The device.
        device: DeviceName,
    },
}

/// Why work on an opened model failed. [`LoadError`] says the same and names the model's path.
#[derive(Debug)]
pub(crate) enum LoadFault {
    /// The model's files are not sound.
    Model(Box<InvalidModel>),
    /// The machine lacks something.
    Resources(ResourceProblem),
    /// The adapter in this folder or file cannot be used.
    Adapter(PathBuf, AdapterError),
}

impl LoadFault {
    /// The error of the model at `path`.
    pub(crate) fn at(self, path: String) -> LoadError {
        match self {
            Self::Model(problem) => LoadError::Invalid { path, problem },
            Self::Resources(problem) => LoadError::Resources { path, problem },
            Self::Adapter(path, source) => LoadError::Adapter { path, source },
        }
    }
}

impl From<InvalidModel> for LoadFault {
    fn from(problem: InvalidModel) -> Self {
        Self::Model(Box::new(problem))
    }
}

impl From<TensorError> for LoadFault {
    fn from(error: TensorError) -> Self {
        InvalidModel::from(error).into()
    }
}

impl From<FileError> for LoadFault {
    fn from(error: FileError) -> Self {
        InvalidModel::from(error).into()
    }
}

impl From<ConfigError> for LoadFault {
    fn from(error: ConfigError) -> Self {
        InvalidModel::from(error).into()
    }
}

impl From<ResourceProblem> for LoadFault {
    fn from(problem: ResourceProblem) -> Self {
        Self::Resources(problem)
    }
}
