//! Opens the files of a model: a GGUF file, or a Hugging Face folder with `config.json` and safetensors. For measurements,
//! `dummy:SHAPE[:FORMAT]` makes one up.

use std::path::{Path, PathBuf};

use super::{
    adapter::AdapterError,
    spec::ModelConfig,
    weights::{DummyWeights, GgufWeights, SafetensorsWeights, WeightSource},
};
use crate::{
    files,
    gguf::{Gguf, GgufError},
};

/// Configurations have some kilobytes, indices of the largest models a few megabytes.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// Why a model could not be opened; always names the file and the field or tensor.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// An adapter cannot be used with this model.
    #[error("the adapter {path} cannot be used")]
    Adapter {
        /// Its folder or file.
        path: PathBuf,
        /// Why.
        source: AdapterError,
    },
}

/// What is wrong with a model, or with an adapter of it.
pub(crate) enum ModelFault {
    /// What is wrong with it, and where.
    Model(String),
    /// The adapter's folder or file, and what is wrong with it.
    Adapter(PathBuf, AdapterError),
}

impl From<String> for ModelFault {
    fn from(reason: String) -> Self {
        Self::Model(reason)
    }
}

/// Reads what the files of the decoder at `path` say about it, and gives that and its weights to `work`. Errors say which
/// file is wrong.
pub(crate) fn open_decoder<T>(
    path: &Path,
    work: impl FnOnce(ModelConfig, &dyn WeightSource) -> Result<T, ModelFault>,
) -> Result<T, LoadError> {
    let invalid = |reason: String| LoadError::Invalid {
        path: path.display().to_string(),
        reason,
    };
    let fault = |fault: ModelFault| match fault {
        ModelFault::Model(reason) => invalid(reason),
        ModelFault::Adapter(path, source) => LoadError::Adapter { path, source },
    };
    let io = |source| LoadError::Io {
        path: path.display().to_string(),
        source,
    };
    if let Some(spec) = path.to_str().and_then(|p| p.strip_prefix("dummy:")) {
        let weights = DummyWeights::parse(spec).map_err(invalid)?;
        return work(weights.config().clone(), &weights).map_err(fault);
    }
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        let json = read_config(path).map_err(invalid)?;
        let config = ModelConfig::from_json(&json).map_err(|e| invalid(format!("config.json: {e}")))?;
        let weights = SafetensorsWeights::open(path, config.norm_placement).map_err(invalid)?;
        return work(config, &weights).map_err(fault);
    }
    let gguf = Gguf::open(path).map_err(|error| match error {
        GgufError::Io { path, source } => LoadError::Io { path, source },
        GgufError::Invalid { path, reason } => LoadError::Invalid {
            path,
            reason: format!("not a valid GGUF file: {reason}"),
        },
    })?;
    let config = ModelConfig::from_gguf(&gguf).map_err(invalid)?;
    let weights = GgufWeights::new(&gguf).map_err(invalid)?;
    work(config, &weights).map_err(fault)
}

/// `config.json` of a Hugging Face folder; errors name the file.
pub(crate) fn read_config(folder: &Path) -> Result<serde_json::Value, String> {
    read_json(folder, "config.json")
}

/// A JSON file of a folder; errors name the file.
pub(crate) fn read_json(folder: &Path, name: &str) -> Result<serde_json::Value, String> {
    let text = files::read_text(&folder.join(name), MAX_JSON_BYTES).map_err(|e| format!("{name}: {e}"))?;
    serde_json::from_str(&text).map_err(|e| format!("{name}: {e}"))
}
