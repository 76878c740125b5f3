//! LoRA adapters: logits against Hugging Face PEFT (`tests/golden/lora.py`), in the names and orders that files
//! have, and rows that do not depend on who else is in the batch.

use std::path::{Path, PathBuf};

use babelward::{
    backend::{
        AdapterIndex, Backend, BatchSequence, ForwardBatch, LanguageModel, LoadedModel, Readout, StepOutput,
        cpu::CpuBackend,
    },
    errors::with_causes,
    model::spec::{Precision, TokenKind},
};
use serde_json::Value;

use crate::{
    adapter_files::AdapterFiles,
    common::{golden, load_options},
};

fn open(base: &Path, adapters: &[PathBuf], precision: Precision) -> LoadedModel {
    CpuBackend::new(2)
        .load(base, adapters, &load_options(precision, 16 << 20))
        .unwrap()
}

/// Logits after the last of `new` tokens that follow `context` computed ones.
fn step(
    model: &mut dyn LanguageModel,
    adapter: Option<AdapterIndex>,
    context: usize,
    new: &[u32],
) -> Vec<f32> {
    let blocks = (context + new.len()).div_ceil(model.limits().block_size) as u32;
    let batch = ForwardBatch {
        tokens: new.to_vec(),
        sequences: vec![BatchSequence {
            new_tokens: new.len(),
            context,
            kind: TokenKind::Prompt,
            block_table: (0..blocks).collect(),
            adapter,
            readout: Readout::Logits,
        }],
    };
    model.forward(&batch, StepOutput::default()).unwrap().logits
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// A golden's base, its prompt, and its logits by row.
fn case(name: &str) -> (PathBuf, Vec<u32>, Value) {
    let text = std::fs::read_to_string(golden("adapters").join(name).join("golden.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    let base = golden("models").join(json["base"].as_str().unwrap());
    let tokens = serde_json::from_value(json["tokens"].take()).unwrap();
    (base, tokens, json["rows"].take())
}

fn check_case(name: &str, gguf_bases: usize, gguf_adapters: usize) {
    let (base, tokens, rows) = case(name);
    let folder = golden("adapters").join(name);
    let existing = |paths: [PathBuf; 2]| paths.into_iter().filter(|path| path.exists()).collect();
    let bases: Vec<PathBuf> = existing([base.clone(), base.join("model.gguf")]);
    let adapters: Vec<PathBuf> = existing([folder.clone(), folder.join("adapter.gguf")]);
    assert_eq!((bases.len(), adapters.len()), (1 + gguf_bases, 1 + gguf_adapters));
    for base in &bases {
        let mut loaded = open(base, &adapters, Precision::F32);
        for (index, adapter) in adapters.iter().enumerate() {
            for (row, expected) in rows.as_object().unwrap() {
                let row: usize = row.parse().unwrap();
                let logits = step(&mut *loaded.model, Some(AdapterIndex(index)), 0, &tokens[..=row]);
                let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
                assert_eq!(logits.len(), expected.len());
                for (found, expected) in logits.iter().zip(expected) {
                    let error = (f64::from(*found) - expected).abs();
                    let (base, adapter) = (base.display(), adapter.display());
                    assert!(error < 1e-4, "{adapter} on {base}: row {row} is off by {error}");
                }
            }
        }
    }
}

#[test]
fn llama_with_patterns_equals_peft() {
    check_case("llama-patterns", 0, 0);
}

/// A GGUF file of this architecture has the rows of queries and keys in another order than the adapter.
#[test]
fn llama_from_gguf_and_safetensors_equals_peft() {
    check_case("llama-bf16", 1, 1);
}

#[test]
fn phi3_with_fused_matrices_equals_peft() {
    check_case("phi3-fused", 1, 1);
}

#[test]
fn one_layer_of_qwen2_equals_peft() {
    check_case("qwen2-one-layer", 1, 0);
}

#[test]
fn gemma2_with_norms_after_products_equals_peft() {
    check_case("gemma2", 1, 1);
}

#[test]
fn cohere_with_parts_side_by_side_equals_peft() {
    check_case("cohere", 1, 0);
}

/// Fused or not, in the adapter's names or in the base's: it is the same change.
#[test]
fn both_spellings_of_fused_matrices_give_the_same_bits() {
    let (base, tokens, _) = case("phi3-fused");
    let fused = AdapterFiles::golden("phi3-fused");
    let mut split = AdapterFiles::golden("phi3-fused");
    // 2 heads of 32, 2 kv heads; a feed-forward width of 48.
    split.split(
        "self_attn.qkv_proj",
        &[("q_proj", 64), ("k_proj", 64), ("v_proj", 64)],
    );
    split.split("mlp.gate_up_proj", &[("gate_proj", 48), ("up_proj", 48)]);
    split.config["target_modules"] = "all-linear".into();
    let folders = [fused.write(), split.write()];
    let paths = folders.each_ref().map(|folder| folder.path().to_owned());
    let mut loaded = open(&base, &paths, Precision::F32);
    let of = |index| Some(AdapterIndex(index));
    let logits = [0, 1].map(|index| bits(&step(&mut *loaded.model, of(index), 0, &tokens)));
    assert_eq!(logits[0], logits[1]);
    // A rank of 4 for one matrix, or for each of its parts.
    assert!(loaded.adapters[1].parameters > loaded.adapters[0].parameters);
}

/// Two adapters and the base, alone and together, whole and in chunks, in both precisions.
#[test]
fn rows_do_not_depend_on_company_and_the_base_stays_what_it_is() {
    let (base, tokens, _) = case("llama-bf16");
    let base = base.join("model.gguf");
    let mut other = AdapterFiles::golden("llama-bf16");
    other.config["lora_alpha"] = 3.into();
    let other = other.write();
    let adapters = [golden("adapters/llama-bf16"), other.path().to_owned()];
    for precision in [Precision::F32, Precision::Int8] {
        let of = |index: usize| [None, Some(AdapterIndex(0)), Some(AdapterIndex(1))][index % 3];
        // Seven prompts of different lengths, so that rows of an adapter do not lie side by side.
        let prompts: Vec<&[u32]> = (0..7).map(|i| &tokens[i..20 + 17 * i]).collect();
        let mut loaded = open(&base, &adapters, precision);
        let alone = prompts.iter().enumerate();
        let alone: Vec<_> = alone
            .map(|(i, prompt)| bits(&step(&mut *loaded.model, of(i), 0, prompt)))
            .collect();
        assert_ne!(alone[0], alone[1]);

        let mut plain = open(&base, &[], precision);
        assert_eq!(plain.weight_bytes, loaded.weight_bytes);
        assert_eq!(bits(&step(&mut *plain.model, None, 0, prompts[3])), alone[3]);

        let mut done = [0; 7];
        let mut together = vec![Vec::new(); 7];
        while together.iter().any(Vec::is_empty) {
            let mut batch = ForwardBatch::default();
            let mut members = Vec::new();
            for (i, prompt) in prompts.iter().enumerate() {
                if done[i] == prompt.len() {
                    continue;
                }
                let count = (3 + 5 * i).min(prompt.len() - done[i]);
                batch.tokens.extend(&prompt[done[i]..done[i] + count]);
                batch.sequences.push(BatchSequence {
                    new_tokens: count,
                    context: done[i],
                    kind: TokenKind::Prompt,
                    block_table: (0..10).map(|b| b * 7 + i as u32).collect(),
                    adapter: of(i),
                    readout: Readout::Logits,
                });
                done[i] += count;
                members.push(i);
            }
            let logits = loaded
                .model
                .forward(&batch, StepOutput::default())
                .unwrap()
                .logits;
            for (row, i) in logits.chunks_exact(logits.len() / members.len()).zip(members) {
                if done[i] == prompts[i].len() {
                    together[i] = bits(row);
                }
            }
        }
        assert_eq!(together, alone);
    }
}

#[test]
fn an_adapter_that_is_not_loaded_is_refused() {
    let (base, tokens, _) = case("llama-patterns");
    let mut loaded = open(&base, &[golden("adapters/llama-patterns")], Precision::F32);
    let batch = ForwardBatch {
        tokens: tokens[..1].to_vec(),
        sequences: vec![BatchSequence {
            new_tokens: 1,
            block_table: vec![0],
            adapter: Some(AdapterIndex(1)),
            ..BatchSequence::default()
        }],
    };
    let error = loaded.model.submit(&batch, StepOutput::default()).unwrap_err();
    assert_eq!(error.to_string(), "invalid batch: adapter 1 is not loaded");
}

/// What `engine-bench` measures with: adapters without files, over weights that are made up too.
#[test]
fn a_made_up_adapter_changes_every_product_and_its_rank_is_checked() {
    let (base, adapters) = (
        Path::new("dummy:tiny"),
        ["dummy:3", "dummy:16"].map(PathBuf::from),
    );
    let mut loaded = open(base, &adapters, Precision::Int8);
    let of = [None, Some(AdapterIndex(0)), Some(AdapterIndex(1))];
    let logits = of.map(|adapter| bits(&step(&mut *loaded.model, adapter, 0, &[5, 9, 77])));
    assert!(logits[0] != logits[1] && logits[1] != logits[2]);
    // Two layers of width 64: queries, keys and values, output, gate and up, down.
    let sizes = (64 + 64) + 2 * (64 + 32) + (64 + 64) + 3 * (64 + 128);
    assert_eq!(loaded.adapters[1].parameters, 2 * 16 * sizes);
    for rank in ["0", "x", ""] {
        let path = format!("dummy:{rank}");
        let refused = CpuBackend::new(2)
            .load(
                base,
                &[PathBuf::from(&path)],
                &load_options(Precision::Int8, 16 << 20),
            )
            .err();
        assert_eq!(
            with_causes(&refused.unwrap()),
            format!(
                "the adapter {path} cannot be used: the rank of a dummy adapter is `{rank}`; it has to be from 1 to 1024"
            )
        );
    }
}
