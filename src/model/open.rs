//! Opens the files of a decoder: a GGUF file, or a Hugging Face folder with `config.json` and safetensors. For measurements,
//! `dummy:SHAPE[:FORMAT[:WINDOW]]` makes a model up.

use std::path::Path;

use super::{
    error::InvalidModel,
    json_file::{CONFIG, read_json},
    load_error::{LoadError, LoadFault},
    spec::{ModelConfig, VerdictHeads},
    weights::{DummyWeights, GgufWeights, SafetensorsWeights, WeightSource},
};
use crate::gguf::{Gguf, GgufError};

/// Reads what the files of the decoder at `path` say about it, and gives that and its weights to `work`.
///
/// # Errors
/// When a file cannot be read or is not a decoder's, and when `work` fails; names the path.
pub(crate) fn open_decoder<T>(
    path: &Path,
    work: impl FnOnce(ModelConfig, &dyn WeightSource) -> Result<T, LoadFault>,
) -> Result<T, LoadError> {
    let name = || path.display().to_string();
    let dummy = path.to_str().and_then(|path| path.strip_prefix("dummy:"));
    if let Some(spec) = dummy {
        return work_on_dummy(spec, work).map_err(|fault| fault.at(name()));
    }
    let metadata = std::fs::metadata(path).map_err(|source| LoadError::Io { path: name(), source })?;
    if metadata.is_dir() {
        return work_on_folder(path, work).map_err(|fault| fault.at(name()));
    }
    let gguf = Gguf::open(path).map_err(|error| match error {
        GgufError::Io { path, source } => LoadError::Io { path, source },
        GgufError::Invalid { path, reason } => LoadFault::from(InvalidModel::Gguf(reason)).at(path),
    })?;
    work_on_gguf(&gguf, work).map_err(|fault| fault.at(name()))
}

fn work_on_dummy<T>(
    spec: &str,
    work: impl FnOnce(ModelConfig, &dyn WeightSource) -> Result<T, LoadFault>,
) -> Result<T, LoadFault> {
    let weights = DummyWeights::parse(spec)?;
    work(weights.config().clone(), &weights)
}

fn work_on_folder<T>(
    folder: &Path,
    work: impl FnOnce(ModelConfig, &dyn WeightSource) -> Result<T, LoadFault>,
) -> Result<T, LoadFault> {
    let json = read_json(folder, CONFIG)?;
    let config = ModelConfig::from_json(&json).map_err(|error| error.of(CONFIG))?;
    let weights = SafetensorsWeights::open(folder, config.norm_placement)?;
    work(config, &weights)
}

fn work_on_gguf<T>(
    file: &Gguf,
    work: impl FnOnce(ModelConfig, &dyn WeightSource) -> Result<T, LoadFault>,
) -> Result<T, LoadFault> {
    let config = ModelConfig::from_gguf(file)?;
    let weights = GgufWeights::new(file)?;
    work(config, &weights)
}

/// The verdict heads of the model at `path`; `None` for a file, and where a folder has another model.
///
/// # Errors
/// When its `config.json` cannot be read, or the heads that it describes cannot be computed; names the key.
pub fn verdict_heads_of(path: &Path) -> Result<Option<VerdictHeads>, LoadError> {
    if !path.is_dir() {
        return Ok(None);
    }
    let read = || -> Result<_, LoadFault> {
        let json = read_json(path, CONFIG)?;
        let heads = VerdictHeads::from_json(&json);
        Ok(heads.map_err(|problem| problem.of(CONFIG))?)
    };
    read().map_err(|fault| fault.at(path.display().to_string()))
}
