//! Our decoder against Hugging Face transformers: logits of tiny random checkpoints, and SmolLM2's greedy
//! continuations. The scripts that made the goldens lie beside them in `tests/golden`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

mod common;

use std::path::{Path, PathBuf};

use babelward::kernels::Precision;
use babelward::model::{
    BatchSequence, ForwardBatch, LanguageModel,
    load::{LoadOptions, LoadedModel, load},
};
use serde_json::Value;

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn open(path: &Path) -> LoadedModel {
    load(
        path,
        &LoadOptions {
            threads: 2,
            kv_bytes: 256 << 20,
            max_context: None,
            precision: Precision::F32,
        },
    )
    .unwrap()
}

fn tokens(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|t| u32::try_from(t.as_u64().unwrap()).unwrap())
        .collect()
}

/// Logits after the last of `new` tokens that follow `context` computed ones.
fn step(model: &mut dyn LanguageModel, context: usize, new: &[u32]) -> Vec<f32> {
    let blocks = (context + new.len()).div_ceil(model.limits().block_size) as u32;
    let sequence = BatchSequence {
        new_tokens: new.len(),
        context,
        block_table: (0..blocks).collect(),
        wants_logits: true,
    };
    let mut logits = Vec::new();
    model
        .forward(
            &ForwardBatch {
                tokens: new.to_vec(),
                sequences: vec![sequence],
            },
            &mut logits,
        )
        .unwrap();
    logits
}

#[test]
fn logits_equal_transformers_on_tiny_random_checkpoints() {
    let mut cases = 0;
    for entry in std::fs::read_dir(golden_folder().join("models")).unwrap() {
        let folder = entry.unwrap().path();
        let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let golden: Value = serde_json::from_str(&golden).unwrap();
        let prompt = tokens(&golden["tokens"]);
        let mut loaded = open(&folder);
        for (row, expected) in golden["rows"].as_object().unwrap() {
            let row: usize = row.parse().unwrap();
            let logits = step(&mut *loaded.model, 0, &prompt[..=row]);
            for (index, (found, expected)) in logits.iter().zip(expected.as_array().unwrap()).enumerate() {
                let error = (f64::from(*found) - expected.as_f64().unwrap()).abs();
                assert!(
                    error < 1e-4,
                    "{}: row {row}, logit {index}: off by {error}",
                    folder.display()
                );
            }
        }
        cases += 1;
    }
    assert_eq!(cases, 3);
}

#[test]
fn smollm2_continues_eight_prompts_as_transformers_does() {
    let golden = std::fs::read_to_string(golden_folder().join("smollm2_greedy.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let mut loaded = open(&common::smollm2());
    for case in golden["cases"].as_array().unwrap() {
        let (mut sequence, expected) = (tokens(&case["tokens"]), tokens(&case["answer"]));
        let mut answer = Vec::new();
        let mut context = 0;
        while answer.len() < expected.len() {
            let logits = step(&mut *loaded.model, context, &sequence[context..]);
            context = sequence.len();
            let best = (0..logits.len())
                .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
                .unwrap() as u32;
            answer.push(best);
            sequence.push(best);
        }
        assert_eq!(answer, expected, "{}", case["prompt"]);
    }
}

#[test]
fn rows_do_not_depend_on_company_chunks_or_threads() {
    let path = common::smollm2();
    let prompts: Vec<Vec<u32>> = (0..5u32)
        .map(|s| {
            (0..20 + 37 * s)
                .map(|i| (i * 2_654_435 + s * 977) % 49_152)
                .collect()
        })
        .collect();
    let mut alone = Vec::new();
    let mut loaded = open(&path);
    for prompt in &prompts {
        alone.push(step(&mut *loaded.model, 0, prompt));
    }
    // All together, in chunks of different sizes, on scattered blocks, with one thread.
    let mut loaded = load(
        &path,
        &LoadOptions {
            threads: 1,
            kv_bytes: 256 << 20,
            max_context: None,
            precision: Precision::F32,
        },
    )
    .unwrap();
    let mut done = vec![0usize; prompts.len()];
    let mut finals: Vec<Vec<f32>> = vec![Vec::new(); prompts.len()];
    let vocab = loaded.model.limits().vocab_size;
    while finals.iter().any(Vec::is_empty) {
        let mut batch = ForwardBatch::default();
        let mut members = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            let count = (7 + 13 * index).min(prompt.len() - done[index]);
            if count == 0 {
                continue;
            }
            batch.tokens.extend(&prompt[done[index]..done[index] + count]);
            batch.sequences.push(BatchSequence {
                new_tokens: count,
                context: done[index],
                block_table: (0..16).map(|b| (b * 5 + index as u32) % 80).collect(),
                wants_logits: true,
            });
            done[index] += count;
            members.push(index);
        }
        let mut logits = Vec::new();
        loaded.model.forward(&batch, &mut logits).unwrap();
        for (row, &index) in logits.chunks_exact(vocab).zip(&members) {
            if done[index] == prompts[index].len() {
                finals[index] = row.to_vec();
            }
        }
    }
    for (alone, together) in alone.iter().zip(&finals) {
        let same = alone
            .iter()
            .zip(together)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "logits differ");
    }
}
