//! Files of models and adapters.

use std::path::{Path, PathBuf};

use babelward::{
    backend::{
        Backend as _, BatchLimits, DecodeLaunch, LoadOptions,
        cpu::CpuBackend,
        speed::{Rehearsal, SpeedRun},
    },
    gguf::Gguf,
    model::spec::Precision,
};

use super::input::{Folder, part, parts};

/// Bytes that a model may take to be loaded. A server has such a budget too, and refuses a model by what its header says.
const BUDGET: u64 = 16 << 20;

/// A GGUF file, as a model and as an adapter. Every tensor begins inside of the file. A model that fits the budget by its
/// header is loaded; it takes the memory that was foretold, and computes a prompt without a panic.
pub(crate) fn gguf(input: &[u8]) {
    let folder = Folder::new();
    let path = folder.write("model.gguf", input);
    let Ok(file) = Gguf::open(&path) else {
        return;
    };
    for (name, tensor) in file.tensors() {
        assert!(
            tensor.offset <= file.pieces().len(),
            "{name} begins behind the end"
        );
        let elements = tensor
            .dimensions
            .iter()
            .try_fold(1usize, |all, size| all.checked_mul(*size));
        assert_eq!(elements, Some(tensor.elements()), "{name}");
    }
    compute(&path, &[]);
    compute(
        &super::input::repository("tests/golden/models/gemma2/model.gguf"),
        &[path],
    );
}

/// A folder with `config.json` and safetensors, and perhaps an adapter for it. The parts of the input are these files:
/// config.json, model.safetensors, adapter_config.json, adapter_model.safetensors. What must be true is as for [`gguf`].
pub(crate) fn safetensors(input: &[u8]) {
    let folder = Folder::new();
    let parts = parts(input);
    folder.write("config.json", part(&parts, 0));
    folder.write("model.safetensors", part(&parts, 1));
    let mut adapters = Vec::new();
    if parts.len() > 2 {
        folder.write("adapter_config.json", part(&parts, 2));
        folder.write("adapter_model.safetensors", part(&parts, 3));
        adapters.push(folder.path().to_owned());
    }
    compute(folder.path(), &adapters);
}

fn compute(path: &Path, adapters: &[PathBuf]) {
    let backend = CpuBackend::new(1);
    let options = LoadOptions {
        kv_bytes: 1 << 20,
        max_context: Some(64),
        precision: Precision::F32,
        batch: BatchLimits {
            sequences: 1,
            tokens: 16,
        },
        decode: DecodeLaunch::Direct,
    };
    let Ok(foretold) = backend.footprint(path, adapters, &options) else {
        return;
    };
    let needed = [
        foretold.weight_bytes,
        foretold.scratch_bytes,
        foretold.kv_block_bytes,
    ];
    let needed = needed.iter().try_fold(0u64, |all, bytes| all.checked_add(*bytes));
    if needed.is_none_or(|bytes| bytes > BUDGET) {
        return;
    }
    let Ok(mut loaded) = backend.load(path, adapters, &options) else {
        return;
    };
    let of_adapters: u64 = loaded.adapters.iter().map(|adapter| adapter.resident_bytes).sum();
    assert_eq!(
        loaded.weight_bytes + of_adapters,
        foretold.weight_bytes,
        "the weights take other memory than was foretold"
    );
    let run = SpeedRun {
        sequences: 1,
        prompt_tokens: 3,
        shared_tokens: 0,
        decode_tokens: 1,
        step_tokens: 16,
        adapters: adapters.len(),
        readout: babelward::backend::Readout::Logits,
        rehearsal: Rehearsal::FirstPrompt,
    };
    // Weights of chance may compute what is no number, which is an error.
    let _ = run.measure(&mut *loaded.model);
}
