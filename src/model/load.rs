//! Opens a model from disk: a GGUF file, or a Hugging Face folder with `config.json` and safetensors. For
//! measurements, `dummy:SHAPE[:FORMAT]` makes one up.

use std::path::{Path, PathBuf};

use super::{
    LanguageModel,
    adapter::{Adapter, AdapterError, Base, HeadOrder},
    config::{FeedForward, ModelConfig},
    decoder::Decoder,
    estimate::{BatchLimits, Estimate},
    kv_cache::KvCache,
    weights::{DummyWeights, GgufWeights, SafetensorsWeights, WeightSource},
};
use crate::{
    files,
    gguf::{Gguf, GgufError},
    kernels::{Precision, ThreadPool},
};

/// Configurations have some kilobytes, indices of the largest models a few megabytes.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// How to make a model resident.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Threads of the compute pool.
    pub threads: usize,
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

/// Loads the model at `path`: a `.gguf` file, a folder, or `dummy:SHAPE[:FORMAT]`.
pub fn load(path: &Path, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    load_with_adapters(path, &[], options)
}

/// The same, with LoRA adapters: PEFT folders, GGUF files, or `dummy:RANK`.
pub fn load_with_adapters(
    path: &Path,
    adapters: &[PathBuf],
    options: &LoadOptions,
) -> Result<LoadedModel, LoadError> {
    with_source(path, |config, source| {
        // Before the weights, which take longer: what does not fit is told at once.
        let adapters = each_adapter(adapters, &config, source, Adapter::load)?;
        Ok(build(config, source, adapters, options)?)
    })
}

/// What the model at `path` will take in memory, from what its files say of themselves; `batch` are the largest
/// batches it will be given. Adapters are counted with the weights.
pub fn estimate(
    path: &Path,
    adapters: &[PathBuf],
    options: &LoadOptions,
    batch: BatchLimits,
) -> Result<Estimate, LoadError> {
    with_source(path, |mut config, source| {
        let adapters = each_adapter(adapters, &config, source, Adapter::bytes_of)?;
        config.limit_context(options.max_context);
        let mut estimate = Estimate::new(&config, source, options.precision, batch)?;
        estimate.weight_bytes += adapters.iter().map(|bytes| *bytes as u64).sum::<u64>();
        Ok(estimate)
    })
}

/// What is wrong with a model, or with an adapter of it.
enum Fault {
    Model(String),
    Adapter(PathBuf, AdapterError),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Model(reason)
    }
}

/// Opens the model at `path`, and says in errors which file was wrong.
fn with_source<T>(
    path: &Path,
    work: impl FnOnce(ModelConfig, &dyn WeightSource) -> Result<T, Fault>,
) -> Result<T, LoadError> {
    let invalid = |reason: String| LoadError::Invalid {
        path: path.display().to_string(),
        reason,
    };
    let fault = |fault: Fault| match fault {
        Fault::Model(reason) => invalid(reason),
        Fault::Adapter(path, source) => LoadError::Adapter { path, source },
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
pub(super) fn read_json(folder: &Path, name: &str) -> Result<serde_json::Value, String> {
    let text = files::read_text(&folder.join(name), MAX_JSON_BYTES).map_err(|e| format!("{name}: {e}"))?;
    serde_json::from_str(&text).map_err(|e| format!("{name}: {e}"))
}

/// Does something with each adapter, and says in errors which was wrong.
fn each_adapter<T>(
    paths: &[PathBuf],
    config: &ModelConfig,
    source: &dyn WeightSource,
    work: impl Fn(&Path, &Base<'_>) -> Result<T, AdapterError>,
) -> Result<Vec<T>, Fault> {
    if let (Some(path), FeedForward::Plain) = (paths.first(), config.feed_forward) {
        let what = format!("an adapter of a `{}` model", config.architecture);
        return Err(Fault::Adapter(path.clone(), AdapterError::Unsupported(what)));
    }
    let gguf_architecture = source.gguf_architecture();
    let base = Base {
        config,
        heads: HeadOrder::of(gguf_architecture),
        gguf_architecture,
    };
    let each = |path: &PathBuf| work(path, &base).map_err(|error| Fault::Adapter(path.clone(), error));
    paths.iter().map(each).collect()
}

fn build(
    mut config: ModelConfig,
    source: &dyn WeightSource,
    adapters: Vec<Adapter>,
    options: &LoadOptions,
) -> Result<LoadedModel, String> {
    config.limit_context(options.max_context);
    let block_bytes = KvCache::block_bytes(&config, options.precision);
    let blocks = options.kv_bytes / block_bytes;
    if blocks < 2 {
        let needed = 2 * block_bytes;
        return Err(format!(
            "the KV pool of {} bytes is too small: this model needs at least {needed}",
            options.kv_bytes
        ));
    }
    let pool = ThreadPool::new(options.threads).map_err(|e| format!("cannot start compute threads: {e}"))?;
    let (architecture, layers) = (config.architecture.clone(), config.layers.len());
    let loaded_adapters = adapters.iter().map(|adapter| LoadedAdapter {
        rank: adapter.rank,
        parameters: adapter.parameters,
        resident_bytes: adapter.bytes() as u64,
    });
    let loaded_adapters = loaded_adapters.collect();
    let (mut decoder, census) = Decoder::new(config, source, pool, blocks, options.precision)?;
    decoder.set_adapters(adapters);
    let kv_bytes = decoder.kv_bytes() as u64;
    Ok(LoadedModel {
        model: Box::new(decoder),
        architecture,
        layers,
        parameters: census.parameters,
        dtype: census.dtype,
        precision: options.precision,
        weight_bytes: census.bytes,
        kv_bytes,
        adapters: loaded_adapters,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn copy_of(checkpoint: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
        for entry in fs::read_dir(models.join(checkpoint)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        folder
    }

    /// Loads what is at `model`, and cuts `file` to `len` bytes once the headers have been read.
    fn cut_while_it_loads(model: &Path, file: &Path, len: u64) -> String {
        let options = LoadOptions {
            threads: 2,
            kv_bytes: 1 << 20,
            max_context: None,
            precision: Precision::Int8,
        };
        let loaded = with_source(model, |config, source| {
            let file = fs::OpenOptions::new().write(true).open(file).unwrap();
            file.set_len(len).unwrap();
            Ok(build(config, source, Vec::new(), &options)?)
        });
        loaded.err().expect("it cannot be whole").to_string()
    }

    #[test]
    fn a_file_that_is_cut_while_it_loads_is_an_error_that_names_the_tensor() {
        for (checkpoint, file) in [
            ("qwen2", "model.gguf"),
            ("qwen2", "model.safetensors"),
            ("linear-rope-f16-sharded", "model-00002-of-00005.safetensors"),
        ] {
            let folder = copy_of(checkpoint);
            let file = folder.path().join(file);
            let model = match file.extension().is_some_and(|extension| extension == "gguf") {
                true => file.clone(),
                false => folder.path().to_owned(),
            };
            let whole = fs::metadata(&file).unwrap().len();
            for len in [0, whole / 2, whole - 1] {
                let error = cut_while_it_loads(&model, &file, len);
                let reason = format!("was cut from {whole} to {len} bytes while it was being read");
                assert!(
                    error.contains("tensor `")
                        && error.contains(&reason)
                        && error.contains(&*model.to_string_lossy()),
                    "{error}"
                );
                fs::remove_file(&file).unwrap();
                let original = copy_of(checkpoint);
                fs::copy(original.path().join(file.file_name().unwrap()), &file).unwrap();
            }
        }
    }
}
