//! The CPU's decoder against candle-transformers: the same file, the same logits, in f32. Where that library cannot load a
//! checkpoint or computes something else than the model's authors, the list says so, and the check is made with a file
//! that both read alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

mod ggufs;
mod safetensors;

use std::path::{Path, PathBuf};

use babelward::{
    backend::{
        Backend as _, BatchLimits, BatchSequence, DecodeLaunch, ForwardBatch, LoadOptions, LoadedModel,
        Readout, StepOutput, cpu::CpuBackend,
    },
    model::spec::{Precision, TokenKind},
};
use candle_core::{DType, Device, Tensor};

/// Prompts of so many tokens are compared.
const LENGTHS: [usize; 6] = [1, 2, 16, 23, 64, 150];

/// A path below `tests/golden/models`.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../golden/models")
        .join(name)
}

/// Our model.
fn open(path: &Path) -> LoadedModel {
    let options = LoadOptions {
        kv_bytes: 4 << 20,
        max_context: None,
        precision: Precision::F32,
        batch: BatchLimits {
            sequences: 1,
            tokens: 512,
        },
        decode: DecodeLaunch::Recorded,
    };
    CpuBackend::new(2).load(path, &[], &options).unwrap()
}

/// Our logits after the last of `tokens`.
fn ours(loaded: &mut LoadedModel, tokens: &[u32]) -> Vec<f32> {
    let blocks = tokens.len().div_ceil(loaded.model.limits().block_size) as u32;
    let batch = ForwardBatch {
        tokens: tokens.to_vec(),
        sequences: vec![BatchSequence {
            new_tokens: tokens.len(),
            context: 0,
            kind: TokenKind::Prompt,
            block_table: (0..blocks).collect(),
            adapter: None,
            readout: Readout::Logits,
        }],
    };
    loaded
        .model
        .forward(&batch, StepOutput::default())
        .unwrap()
        .logits
}

/// A prompt of tokens that every tiny vocabulary has.
fn prompt(length: usize) -> Vec<u32> {
    (0..length as u32)
        .map(|i| (i * i * 7 + i * 31 + 3) % 128)
        .collect()
}

/// Candle's logits of its last row, whatever shape they come in.
fn last_row(logits: &Tensor) -> Vec<f32> {
    let logits = logits.flatten_all().unwrap().to_dtype(DType::F32).unwrap();
    logits.to_vec1().unwrap()
}

/// The tokens as a batch of one.
fn input(tokens: &[u32]) -> Tensor {
    Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

/// The largest difference of two rows of logits.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, difference| match difference.is_nan() {
        true => f32::INFINITY,
        false => most.max(difference),
    })
}

/// How far logits may be apart. Both sides sum in f32, in different orders; logits are up to about 10.
const TOLERANCE: f32 = 2e-4;

/// Compares prompts of all lengths; `theirs` computes each from the beginning.
fn compare(path: &Path, mut theirs: impl FnMut(&[u32]) -> Vec<f32>) {
    let mut loaded = open(path);
    for length in LENGTHS {
        let tokens = prompt(length);
        let error = distance(&ours(&mut loaded, &tokens), &theirs(&tokens));
        assert!(
            error < TOLERANCE,
            "{}: {length} tokens are off by {error}",
            path.display()
        );
    }
}
