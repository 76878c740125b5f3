//! Adapters as llama.cpp's `convert_lora_to_gguf.py` writes them.

use std::path::Path;

use super::{
    base::HeadOrder,
    contents::{Contents, Extent, LoraFactor, Scaling, Side},
    error::AdapterError,
    module::{Module, unknown_module},
};
use crate::{
    gguf::{Gguf, GgufError},
    model::{
        error::{InvalidModel, KeyProblem},
        weights::{GgufWeights, WeightSource as _},
    },
};

/// Reads all tensors, or what their headers say. The architecture must be `base`, the base's own, when that is a GGUF file.
pub(super) fn read(path: &Path, base: Option<&str>, extent: Extent) -> Result<Contents, AdapterError> {
    let file = Gguf::open(path).map_err(|error| match error {
        GgufError::Io { source, .. } => AdapterError::Read(source),
        GgufError::Invalid { reason, .. } => InvalidModel::Gguf(reason).into(),
    })?;
    expect(&file, "general.type", "adapter")?;
    expect(&file, "adapter.type", "lora")?;
    if file.get("adapter.alora.invocation_tokens").is_some() {
        let what = "adapter.alora.invocation_tokens (an adapter that begins amid a sequence)";
        return Err(AdapterError::Unsupported(what.into()));
    }
    if let Some(base) = base {
        expect(&file, "general.architecture", base)?;
    }
    let architecture = file.get_str("general.architecture").unwrap_or_default();
    let scaling = match file.get_f64("adapter.lora.alpha") {
        // llama.cpp, too, multiplies with nothing then.
        None | Some(0.0) => Scaling::One,
        Some(alpha) => Scaling::Rank(alpha),
    };
    let weights = GgufWeights::new(&file)?;
    let mut factors = Vec::new();
    for (name, _) in file.tensors() {
        let (layer, module, side) = parse(name, architecture)?;
        let Some(data) = weights.named(name).map_err(|problem| problem.of(name))? else {
            continue;
        };
        factors.push(LoraFactor {
            name: name.to_owned(),
            layer,
            module,
            side,
            values: extent.values(&data).map_err(|problem| problem.of(name))?,
            shape: data.shape,
            rank: None,
            scaling,
        });
    }
    let heads = HeadOrder::of(Some(architecture));
    Ok(Contents { heads, factors })
}

/// # Errors
/// When the text at `key` is another one than `expected`, or none.
fn expect(file: &Gguf, key: &str, expected: &str) -> Result<(), AdapterError> {
    let problem = match file.get_str(key) {
        Some(found) if found == expected => return Ok(()),
        Some(found) => KeyProblem::Differs {
            found: format!("`{found}`"),
            expected: format!("`{expected}`"),
        },
        None => KeyProblem::Missing,
    };
    Err(problem.of(key).into())
}

/// The layer and the matrix of it that a tensor changes, and which matrix of the update it is.
fn parse(name: &str, architecture: &str) -> Result<(usize, Module, Side), AdapterError> {
    let sides = [(".weight.lora_a", Side::A), (".weight.lora_b", Side::B)];
    let found = sides
        .into_iter()
        .find_map(|(end, side)| Some((name.strip_suffix(end)?, side)));
    let Some((module, side)) = found else {
        return Err(AdapterError::NotLora(name.to_owned()));
    };
    let found = module
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(layer, part)| Some((layer.parse().ok()?, Module::from_gguf_name(part, architecture)?)));
    match found {
        Some((layer, module)) => Ok((layer, module, side)),
        None => Err(unknown_module(module)),
    }
}
