//! Adapters as Hugging Face PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

mod config;

use std::path::Path;

use self::config::PeftConfig;
use super::{AdapterError, Contents, Extent, Half, HeadOrder, Module, Side};
use crate::model::{open::read_json, weights::read_safetensors};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Where layers are: in a model by itself, or inside of one that also sees pictures.
const LAYERS: [&str; 3] = [
    "model.layers.",
    "language_model.model.layers.",
    "model.language_model.layers.",
];

/// Reads all tensors, or what their headers say.
pub(super) fn read(folder: &Path, extent: Extent) -> Result<Contents, AdapterError> {
    let config = read_json(folder, CONFIG).map_err(AdapterError::Invalid)?;
    let config = PeftConfig::read(&config)?;
    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        let what = "adapter_model.bin (save the adapter as safetensors)";
        return Err(AdapterError::Unsupported(what.into()));
    }
    let tensors = read_safetensors(&path).map_err(|e| AdapterError::Invalid(format!("{WEIGHTS}: {e}")))?;
    let mut names: Vec<_> = tensors.keys().collect();
    names.sort_unstable();
    let mut halves = Vec::with_capacity(names.len());
    let mut paths = Vec::new();
    for name in names {
        let (path, side) = split(name)?;
        let (layer, module) = place(path)?;
        let named = |e: String| AdapterError::Invalid(format!("tensor `{name}`: {e}"));
        if !config.targets(path).map_err(named)? {
            return Err(named(format!("it is not among {CONFIG}'s target_modules")));
        }
        let data = tensors[name].data().map_err(named)?;
        let (rank, scaling) = config.scaling(path).map_err(named)?;
        halves.push(Half {
            name: name.clone(),
            layer,
            module,
            side,
            values: extent.values(&data).map_err(named)?,
            shape: data.shape,
            rank: Some(rank),
            scaling,
        });
        paths.push(path);
    }
    config.expect_all_of(&paths)?;
    Ok(Contents {
        heads: HeadOrder::Halves,
        halves,
    })
}

/// A tensor's module, and which half of its change it is.
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

/// A module's layer, and what it is there.
fn place(path: &str) -> Result<(usize, Module), AdapterError> {
    let below = LAYERS.into_iter().find_map(|prefix| path.strip_prefix(prefix));
    let found = below
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(layer, name)| {
            let module = Module::ALL.into_iter().find(|module| module.hf_name() == name)?;
            Some((layer.parse().ok()?, module))
        });
    found.ok_or_else(|| unknown(path))
}

/// The error for what is no module of a layer.
pub(super) fn unknown(module: &str) -> AdapterError {
    let last = module.rsplit('.').next().unwrap_or(module);
    if ["embed_tokens", "lm_head", "token_embd", "output"].contains(&last) {
        return AdapterError::Unsupported(format!(
            "`{module}`: an adapter of embeddings or of the output layer"
        ));
    }
    let known = Module::ALL.map(|known| known.hf_name().rsplit('.').next().unwrap_or_default());
    AdapterError::UnknownModule {
        module: module.to_owned(),
        known: known.join(", "),
    }
}
