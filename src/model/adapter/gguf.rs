//! Adapters as llama.cpp's `convert_lora_to_gguf.py` writes them.

use std::path::Path;

use super::{AdapterError, Contents, Extent, Half, HeadOrder, Module, Scaling, Side, peft::unknown};
use crate::{
    gguf::{Gguf, GgufError},
    model::weights::{GgufWeights, WeightSource as _},
};

/// Reads all tensors, or what their headers say. The architecture must be the base's, when that is a GGUF file.
pub(super) fn read(path: &Path, base: Option<&str>, extent: Extent) -> Result<Contents, AdapterError> {
    let file = Gguf::open(path).map_err(|error| match error {
        GgufError::Io { source, .. } => AdapterError::Invalid(source.to_string()),
        GgufError::Invalid { reason, .. } => {
            AdapterError::Invalid(format!("not a valid GGUF file: {reason}"))
        }
    })?;
    let expect = |key: &str, expected: &str| match file.get_str(key) {
        Some(found) if found == expected => Ok(()),
        found => Err(AdapterError::Invalid(format!(
            "{key} is `{}`, expected `{expected}`",
            found.unwrap_or_default()
        ))),
    };
    expect("general.type", "adapter")?;
    expect("adapter.type", "lora")?;
    if file.get("adapter.alora.invocation_tokens").is_some() {
        let what = "adapter.alora.invocation_tokens (an adapter that begins amid a sequence)";
        return Err(AdapterError::Unsupported(what.into()));
    }
    if let Some(base) = base {
        expect("general.architecture", base)?;
    }
    let architecture = file.get_str("general.architecture").unwrap_or_default();
    let scaling = match file.get_f64("adapter.lora.alpha") {
        // As llama.cpp takes it.
        None | Some(0.0) => Scaling::One,
        Some(alpha) => Scaling::Rank(alpha),
    };
    let weights = GgufWeights::new(&file).map_err(AdapterError::Invalid)?;
    let mut halves = Vec::new();
    for (name, _) in file.tensors() {
        let (layer, module, side) = parse(name, architecture)?;
        let named = |e: String| AdapterError::Invalid(format!("tensor `{name}`: {e}"));
        let Some(data) = weights.named(name).map_err(named)? else {
            continue;
        };
        halves.push(Half {
            name: name.to_owned(),
            layer,
            module,
            side,
            values: extent.values(&data).map_err(named)?,
            shape: data.shape,
            rank: None,
            scaling,
        });
    }
    let heads = HeadOrder::of(Some(architecture));
    Ok(Contents { heads, halves })
}

fn parse(name: &str, architecture: &str) -> Result<(usize, Module, Side), AdapterError> {
    let sides = [(".weight.lora_a", Side::A), (".weight.lora_b", Side::B)];
    let found = sides
        .into_iter()
        .find_map(|(end, side)| Some((name.strip_suffix(end)?, side)));
    let Some((module, side)) = found else {
        let reason = format!("tensor `{name}`: it is not part of a LoRA adapter");
        return Err(AdapterError::Invalid(reason));
    };
    let found = module
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(layer, part)| Some((layer.parse().ok()?, Module::from_gguf_name(part, architecture)?)));
    match found {
        Some((layer, module)) => Ok((layer, module, side)),
        None => Err(unknown(module)),
    }
}
