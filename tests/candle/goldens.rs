//! Logits against Hugging Face transformers and PEFT, as `tests/model/parity.rs` and `tests/model/lora.rs` check the CPU's.

use std::path::{Path, PathBuf};

use babelward::{
    backend::{AdapterIndex, Backend as _, ForwardBatch, LoadOptions, cpu::CpuBackend},
    model::spec::Precision,
};
use serde_json::Value;

use crate::common::{
    both, candle, checkpoints, distance, forward, golden, golden_file, load_options, sequence, tokens, whole,
};

/// How far logits in f32 may be from transformers'. They are up to about 10, so this is some ten roundings of the largest.
const F32: f32 = 1e-4;

fn check_rows(path: &Path, max_context: Option<usize>, prompt: &[u32], rows: &Value) {
    let options = LoadOptions {
        max_context,
        ..load_options(Precision::F32, 4 << 20)
    };
    let mut loaded = candle().load(path, &[], &options).unwrap();
    assert!(!rows.as_object().unwrap().is_empty());
    for (row, expected) in rows.as_object().unwrap() {
        let row: usize = row.parse().unwrap();
        let expected: Vec<f32> = serde_json::from_value(expected.clone()).unwrap();
        let error = distance(&whole(&mut loaded, &prompt[..=row]), &expected);
        assert!(error < F32, "{}: row {row} is off by {error}", path.display());
    }
}

#[test]
fn every_checkpoint_equals_transformers_in_f32() {
    let mut files = 0;
    for (name, formats) in checkpoints() {
        let about = golden_file(&golden("models").join(name));
        let prompt = tokens(&about["tokens"]);
        for path in formats {
            check_rows(&path, None, &prompt, &about["rows"]);
            if let Some(context) = about["short"]["max_context"].as_u64() {
                check_rows(&path, Some(context as usize), &prompt, &about["short"]["rows"]);
            }
            files += 1;
        }
    }
    assert_eq!(files, 18 + 10);
}

#[test]
fn every_adapter_equals_peft_in_f32() {
    let mut files = 0;
    for entry in std::fs::read_dir(golden("adapters")).unwrap() {
        let folder = entry.unwrap().path();
        let about = golden_file(&folder);
        let base = golden("models").join(about["base"].as_str().unwrap());
        let prompt = tokens(&about["tokens"]);
        let existing = |paths: [PathBuf; 2]| -> Vec<PathBuf> {
            paths.into_iter().filter(|path| path.exists()).collect()
        };
        let adapters = existing([folder.clone(), folder.join("adapter.gguf")]);
        for base in existing([base.clone(), base.join("model.gguf")]) {
            let options = load_options(Precision::F32, 4 << 20);
            let mut loaded = candle().load(&base, &adapters, &options).unwrap();
            for (index, adapter) in adapters.iter().enumerate() {
                for (row, expected) in about["rows"].as_object().unwrap() {
                    let row: usize = row.parse().unwrap();
                    let mut read = sequence(0, row + 1, (0..(row / 16 + 1) as u32).collect());
                    read.adapter = Some(AdapterIndex(index));
                    let batch = ForwardBatch {
                        tokens: prompt[..=row].to_vec(),
                        sequences: vec![read],
                    };
                    let found = forward(&mut *loaded.model, &batch).remove(0);
                    let expected: Vec<f32> = serde_json::from_value(expected.clone()).unwrap();
                    let error = distance(&found, &expected);
                    let (base, adapter) = (base.display(), adapter.display());
                    assert!(error < F32, "{adapter} on {base}: row {row} is off by {error}");
                }
                files += 1;
            }
        }
    }
    assert!(files >= 9, "{files}");
}

/// How much farther from f32 logits in bf16 may be than those of the CPU's own backend, in the norm of a row. Candle rounds
/// what a product returns as well as what it takes, and the CPU only the latter.
const BF16: f64 = 2.0;

#[test]
fn every_checkpoint_is_as_near_to_f32_in_bf16_as_on_the_cpu() {
    let mut largest = 0.0f64;
    for (name, formats) in checkpoints() {
        let prompt = tokens(&golden_file(&golden("models").join(name))["tokens"]);
        for path in formats {
            let [mut ours, mut exact] = both(&path, &[], Precision::Bf16);
            let mut cpu = CpuBackend::new(2)
                .load(&path, &[], &load_options(Precision::Bf16, 4 << 20))
                .unwrap();
            let mut error = [0.0, 0.0];
            for length in [1, 2, 17, 64, 101, prompt.len()] {
                let exact = whole(&mut exact, &prompt[..length]);
                for (error, model) in error.iter_mut().zip([&mut ours, &mut cpu]) {
                    *error += relative(&whole(model, &prompt[..length]), &exact) / 6.0;
                }
            }
            let [ours, cpu] = error;
            assert!(
                ours > 0.0 && ours < BF16 * cpu,
                "{}: {ours}, and the CPU {cpu}",
                path.display()
            );
            largest = largest.max(ours);
        }
    }
    assert!(largest < 0.05, "{largest}");
}

/// The norm of the difference of two rows of logits over the norm of the second.
fn relative(found: &[f32], exact: &[f32]) -> f64 {
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(exact).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied())
}

/// The tiny checkpoints have rows of less than a block of most formats, so this is the real model, whose weights are q4_1 and
/// q8_0.
#[test]
fn packed_weights_give_nearly_the_logits_that_expanded_ones_give() {
    let path = crate::common::smollm2();
    let [mut packed, mut exact] = [Precision::Int8, Precision::F32].map(|precision| {
        candle()
            .load(&path, &[], &load_options(precision, 16 << 20))
            .unwrap()
    });
    assert!(packed.weight_bytes * 2 < exact.weight_bytes);
    let prompt: Vec<u32> = (0..20).map(|i| (700 + i * 37) % 49_152).collect();
    let error = relative(&whole(&mut packed, &prompt), &whole(&mut exact, &prompt));
    assert!(error > 0.0 && error < 0.1, "{error}");
}
