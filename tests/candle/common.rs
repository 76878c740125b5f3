//! Models, batches and distances of logits.

use std::path::{Path, PathBuf};

use babelward::{
    backend::{
        Backend, BatchLimits, BatchSequence, DecodeLaunch, ForwardBatch, LanguageModel, LoadOptions,
        LoadedModel, Readout, StepOutput, candle::CandleBackend,
    },
    fetch::{self, Progress},
    model::spec::{CandleDevice, Precision, TokenKind},
};
use serde_json::Value;

/// The real model: `BABELWARD_TEST_MODEL`, or the demo's, fetched unless it is in the user's cache.
pub fn smollm2() -> PathBuf {
    match std::env::var_os("BABELWARD_TEST_MODEL") {
        Some(path) => PathBuf::from(path),
        None => fetch::smollm2(Progress::on_stderr(false)).expect("the tests need the demo's model"),
    }
}

/// A path below `tests/golden`.
pub fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden").join(path)
}

pub fn candle() -> CandleBackend {
    CandleBackend::new(CandleDevice::Cpu).unwrap()
}

pub fn load_options(precision: Precision, kv_bytes: usize) -> LoadOptions {
    LoadOptions {
        kv_bytes,
        max_context: None,
        precision,
        batch: BatchLimits {
            sequences: 64,
            tokens: 4096,
        },
        decode: DecodeLaunch::Recorded,
    }
}

/// The golden checkpoints in their formats, by name.
pub fn checkpoints() -> Vec<(String, Vec<PathBuf>)> {
    let mut found: Vec<_> = std::fs::read_dir(golden("models"))
        .unwrap()
        .map(|entry| {
            let folder = entry.unwrap().path();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            let gguf = folder.join("model.gguf");
            let formats = [folder, gguf].into_iter().filter(|path| path.exists());
            (name, formats.collect())
        })
        .collect();
    found.sort();
    assert_eq!(found.len(), 18);
    found
}

/// The golden file of a checkpoint or an adapter.
pub fn golden_file(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap()
}

pub fn tokens(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A sequence of a batch, with its logits asked for.
pub fn sequence(context: usize, new_tokens: usize, block_table: Vec<u32>) -> BatchSequence {
    BatchSequence {
        new_tokens,
        context,
        kind: TokenKind::Prompt,
        block_table,
        adapter: None,
        readout: Readout::Logits,
    }
}

/// Logits after the last of `tokens`, computed in one step on the first blocks.
pub fn whole(loaded: &mut LoadedModel, tokens: &[u32]) -> Vec<f32> {
    let blocks = tokens.len().div_ceil(loaded.model.limits().block_size) as u32;
    let batch = ForwardBatch {
        tokens: tokens.to_vec(),
        sequences: vec![sequence(0, tokens.len(), (0..blocks).collect())],
    };
    forward(&mut *loaded.model, &batch).remove(0)
}

/// The logits of each sequence that is read.
pub fn forward(model: &mut dyn LanguageModel, batch: &ForwardBatch) -> Vec<Vec<f32>> {
    let width = model.limits().vocab_size;
    let output = model.forward(batch, StepOutput::default()).unwrap();
    output.logits.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

/// The largest difference of two rows of logits.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, difference| match difference.is_nan() {
        true => f32::INFINITY,
        false => most.max(difference),
    })
}

/// Loads a model twice, with candle and on the CPU's own backend in f32.
pub fn both(path: &Path, adapters: &[PathBuf], precision: Precision) -> [LoadedModel; 2] {
    let cpu = babelward::backend::cpu::CpuBackend::new(2);
    [
        candle()
            .load(path, adapters, &load_options(precision, 4 << 20))
            .unwrap(),
        cpu.load(path, adapters, &load_options(Precision::F32, 4 << 20))
            .unwrap(),
    ]
}
