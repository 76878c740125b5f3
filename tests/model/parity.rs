//! Our decoder against Hugging Face transformers: logits of tiny random checkpoints, from safetensors and as
//! converted to GGUF by llama.cpp, and SmolLM2's greedy continuations. The scripts that made the goldens lie
//! beside them in `tests/golden`.

use std::path::Path;

use babelward::backend::{
    Backend, BatchSequence, ForwardBatch, LanguageModel, LoadOptions, LoadedModel, Readout, StepOutput,
    cpu::CpuBackend,
};
use babelward::model::spec::{Precision, TokenKind};
use serde_json::Value;

use crate::common::{self, golden, load_options};

fn open(path: &Path) -> LoadedModel {
    open_with(path, None)
}

fn open_with(path: &Path, max_context: Option<usize>) -> LoadedModel {
    let options = LoadOptions {
        max_context,
        ..load_options(Precision::F32, 256 << 20)
    };
    CpuBackend::new(2).load(path, &[], &options).unwrap()
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
        kind: TokenKind::Prompt,
        block_table: (0..blocks).collect(),
        adapter: None,
        readout: Readout::Logits,
    };
    let batch = ForwardBatch {
        tokens: new.to_vec(),
        sequences: vec![sequence],
    };
    model.forward(&batch, StepOutput::default()).unwrap().logits
}

/// Compares the logits after each of the golden's rows.
fn check_rows(path: &Path, max_context: Option<usize>, prompt: &[u32], rows: &Value) {
    let mut loaded = open_with(path, max_context);
    for (row, expected) in rows.as_object().unwrap() {
        let row: usize = row.parse().unwrap();
        let logits = step(&mut *loaded.model, 0, &prompt[..=row]);
        let expected = expected.as_array().unwrap();
        assert_eq!(logits.len(), expected.len());
        for (index, (found, expected)) in logits.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected.as_f64().unwrap()).abs();
            assert!(
                error < 1e-4,
                "{}: row {row}, logit {index}: off by {error}",
                path.display()
            );
        }
    }
}

fn check_case(name: &str) {
    let folder = golden("models").join(name);
    let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let prompt = tokens(&golden["tokens"]);
    let gguf = folder.join("model.gguf");
    for path in [&folder, &gguf].into_iter().filter(|path| path.exists()) {
        check_rows(path, None, &prompt, &golden["rows"]);
        if let Some(context) = golden["short"]["max_context"].as_u64() {
            check_rows(path, Some(context as usize), &prompt, &golden["short"]["rows"]);
        }
    }
}

/// A test for each tiny random checkpoint, and one that none is left out.
macro_rules! checkpoints {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                check_case($name);
            }
        )*

        #[test]
        fn every_checkpoint_is_checked() {
            let folder = std::fs::read_dir(golden("models")).unwrap();
            let mut found: Vec<_> = folder
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            assert_eq!(found, [$($name),*]);
            let gguf = |name: &&String| golden("models").join(name).join("model.gguf").exists();
            assert_eq!(found.iter().filter(gguf).count(), 10);
        }
    };
}

checkpoints! {
    cohere_equals_transformers: "cohere",
    cohere2_equals_transformers: "cohere2",
    gemma2_equals_transformers: "gemma2",
    gemma3_equals_transformers: "gemma3",
    gemma3_with_pictures_equals_transformers: "gemma3-pictures",
    gpt_bigcode_equals_transformers: "gpt-bigcode",
    gpt_bigcode_with_exact_gelu_equals_transformers: "gpt-bigcode-gelu",
    llama_equals_transformers: "gqa-untied-f32",
    granite_equals_transformers: "granite",
    linear_rope_equals_transformers: "linear-rope-f16-sharded",
    llama3_rope_equals_transformers: "llama3-rope-tied-bf16",
    ministral_equals_transformers: "ministral-mixed",
    mistral_equals_transformers: "mistral-window",
    phi3_longrope_equals_transformers: "phi3-longrope",
    phi3_equals_transformers: "phi3-window",
    qwen2_equals_transformers: "qwen2",
    qwen2_with_a_window_equals_transformers: "qwen2-window",
    qwen3_equals_transformers: "qwen3",
}

/// Compares greedy continuations of a golden's prompts.
fn check_continuations(model: &Path, golden: &str) {
    let golden = std::fs::read_to_string(common::golden(golden)).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let mut loaded = open(model);
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
fn smollm2_continues_eight_prompts_as_transformers_does() {
    check_continuations(&common::smollm2(), "smollm2_greedy.json");
}

#[test]
#[ignore = "needs gemma-3-270m-q4_k_m.gguf (240 MB) in BABELWARD_TEST_GEMMA3, see tests/golden/greedy.py"]
fn gemma3_270m_continues_four_prompts_as_transformers_does() {
    let path = std::env::var_os("BABELWARD_TEST_GEMMA3").expect("BABELWARD_TEST_GEMMA3");
    check_continuations(Path::new(&path), "gemma3_greedy.json");
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
    let options = load_options(Precision::F32, 256 << 20);
    let mut loaded = CpuBackend::new(1).load(&path, &[], &options).unwrap();
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
                kind: TokenKind::Prompt,
                block_table: (0..16).map(|b| (b * 5 + index as u32) % 80).collect(),
                adapter: None,
                readout: Readout::Logits,
            });
            done[index] += count;
            members.push(index);
        }
        let logits = loaded
            .model
            .forward(&batch, StepOutput::default())
            .unwrap()
            .logits;
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
