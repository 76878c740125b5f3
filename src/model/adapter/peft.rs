//! Adapters as Hugging Face PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

mod config;

use std::path::Path;

use self::config::{CONFIG, PeftConfig};
use super::{
    base::HeadOrder,
    contents::{Contents, Extent, LoraFactor, Side},
    error::AdapterError,
    module::{Module, unknown_module},
};
use crate::model::{json_file::read_json, weights::read_safetensors};

const WEIGHTS: &str = "adapter_model.safetensors";

/// What the paths of layers begin with: in a model by itself, or inside of one that also sees pictures.
const LAYERS: [&str; 3] = [
    "model.layers.",
    "language_model.model.layers.",
    "model.language_model.layers.",
];

/// Reads all tensors, or what their headers say.
pub(super) fn read(folder: &Path, extent: Extent) -> Result<Contents, AdapterError> {
    let config = PeftConfig::read(&read_json(folder, CONFIG)?)?;
    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        let what = "adapter_model.bin (save the adapter as safetensors)";
        return Err(AdapterError::Unsupported(what.into()));
    }
    let tensors = read_safetensors(&path).map_err(|problem| problem.of(WEIGHTS))?;
    let mut names: Vec<_> = tensors.keys().collect();
    names.sort_unstable();
    let mut factors = Vec::with_capacity(names.len());
    let mut paths = Vec::new();
    for name in names {
        let (path, side) = split(name)?;
        let (layer, module) = layer_and_module(path)?;
        if !config.targets(path)? {
            return Err(AdapterError::NotTargeted {
                tensor: name.clone(),
                config: CONFIG,
            });
        }
        let data = tensors[name].data().map_err(|problem| problem.of(name))?;
        let (rank, scaling) = config.scaling(path)?;
        factors.push(LoraFactor {
            name: name.clone(),
            layer,
            module,
            side,
            values: extent.values(&data).map_err(|problem| problem.of(name))?,
            shape: data.shape,
            rank: Some(rank),
            scaling,
        });
        paths.push(path);
    }
    config.expect_all_of(&paths)?;
    Ok(Contents {
        heads: HeadOrder::Halves,
        factors,
    })
}

/// The path of the module that a tensor changes, and which matrix of the update it is.
fn split(name: &str) -> Result<(&str, Side), AdapterError> {
    let path = name.strip_prefix("base_model.model.").unwrap_or(name);
    let sides = [(".lora_A.weight", Side::A), (".lora_B.weight", Side::B)];
    let found = sides
        .into_iter()
        .find_map(|(end, side)| Some((path.strip_suffix(end)?, side)));
    found.ok_or_else(|| {
        let unsupported = |what: &str| AdapterError::Unsupported(format!("tensor `{name}`: {what}"));
        let kinds = [
            (".lora_embedding_", "an adapter of embeddings"),
            (".lora_magnitude_vector", "DoRA"),
            (".bias", "a trained bias"),
        ];
        match kinds.into_iter().find(|(part, _)| name.contains(part)) {
            Some((_, what)) => unsupported(what),
            None => unsupported("a tensor that is no half of a low-rank change"),
        }
    })
}

/// The layer of the module with this path, and which of the layer's matrices it is.
fn layer_and_module(path: &str) -> Result<(usize, Module), AdapterError> {
    let below = LAYERS.into_iter().find_map(|prefix| path.strip_prefix(prefix));
    let found = below
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(layer, name)| {
            let module = Module::ALL.into_iter().find(|module| module.hf_name() == name)?;
            Some((layer.parse().ok()?, module))
        });
    found.ok_or_else(|| unknown_module(path))
}
