//! Models on an emulated card, and what tests do with them.

use std::{path::Path, sync::Arc};

use babelward::{
    backend::{
        Backend, BatchLimits, BatchSequence, ForwardBatch, LanguageModel, LoadOptions, LoadedModel, Readout,
        StepOutput,
        cuda::{CudaBackend, driver::Card},
    },
    model::spec::{Precision, TokenKind},
};
use serde_json::Value;

use crate::{
    card::EmulatedCard,
    common::{golden, load_options},
    queue::Timing,
};

/// Memory of cards that have enough.
pub const ENOUGH: usize = 1 << 30;

/// How models are loaded here.
pub fn options() -> LoadOptions {
    LoadOptions {
        batch: BatchLimits {
            sequences: 16,
            tokens: 256,
        },
        ..load_options(Precision::Bf16, 1 << 20)
    }
}

pub fn backend(card: impl Card + 'static) -> CudaBackend {
    CudaBackend::new(0, Arc::new(card)).unwrap()
}

/// A model on a card of its own.
pub fn open(path: &Path, timing: Timing) -> LoadedModel {
    backend(EmulatedCard::new(timing, ENOUGH))
        .load(path, &[], &options())
        .unwrap()
}

/// A sequence of a batch, on blocks of its own.
pub struct Part<'a> {
    pub tokens: &'a [u32],
    pub context: usize,
    pub blocks: &'a [u32],
    pub readout: Readout,
}

/// Computes a step.
pub fn step(model: &mut dyn LanguageModel, parts: &[Part<'_>]) -> StepOutput {
    let sequence = |part: &Part<'_>| BatchSequence {
        new_tokens: part.tokens.len(),
        context: part.context,
        kind: TokenKind::Prompt,
        block_table: part.blocks.to_vec(),
        adapter: None,
        readout: part.readout.clone(),
    };
    let batch = ForwardBatch {
        tokens: parts.iter().flat_map(|part| part.tokens).copied().collect(),
        sequences: parts.iter().map(sequence).collect(),
    };
    model.forward(&batch, StepOutput::default()).unwrap()
}

/// The logits after a prompt, computed whole.
pub fn logits(model: &mut dyn LanguageModel, tokens: &[u32]) -> Vec<f32> {
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(model.limits().block_size) as u32).collect();
    let part = Part {
        tokens,
        context: 0,
        blocks: &blocks,
        readout: Readout::Logits,
    };
    step(model, &[part]).logits
}

/// A golden's prompt.
pub fn prompt(checkpoint: &str) -> Vec<u32> {
    let file = golden("models").join(checkpoint).join("golden.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let tokens = golden["tokens"].as_array().unwrap();
    tokens
        .iter()
        .map(|token| u32::try_from(token.as_u64().unwrap()).unwrap())
        .collect()
}

/// All golden checkpoints.
pub fn checkpoints() -> Vec<String> {
    let folder = std::fs::read_dir(golden("models")).unwrap();
    let mut names: Vec<_> = folder
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
