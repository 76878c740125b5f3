//! What rounding costs: next-token distributions of real text against those of f32.

use babelward::{
    backend::{Backend, BatchSequence, ForwardBatch, LoadedModel, Readout, StepOutput, cpu::CpuBackend},
    model::spec::{Precision, TokenKind},
    text::Tokenizer,
};
use serde_json::Value;

use crate::common::{self, load_options};

/// One row in so many of the demo's prompts, in all five languages.
const EVERY: usize = 13;
const LANGUAGES: [&str; 5] = ["en", "de", "es", "fr", "it"];

fn open(precision: Precision) -> LoadedModel {
    let options = load_options(precision, 64 << 20);
    CpuBackend::new(2)
        .load(&common::smollm2(), &[], &options)
        .unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    let tokenizer = Tokenizer::open(&common::smollm2()).unwrap();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/demo_prompts.jsonl");
    let lines = std::fs::read_to_string(data).unwrap();
    let rows = lines.lines().step_by(EVERY);
    let texts = rows.flat_map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        LANGUAGES.map(|language| row[language].as_str().unwrap().to_owned())
    });
    texts.map(|text| tokenizer.encode_plain(&text).unwrap()).collect()
}

/// Natural logarithms of the next token's probabilities.
fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let total: f64 = logits.iter().map(|&v| f64::from(v - top).exp()).sum();
    logits.iter().map(|&v| f64::from(v - top) - total.ln()).collect()
}

fn best(values: &[f64]) -> usize {
    (0..values.len())
        .max_by(|&a, &b| values[a].total_cmp(&values[b]))
        .unwrap()
}

#[test]
fn integers_stay_close_to_f32_on_real_text() {
    let (mean, agreement) = compare(Precision::Int8);
    assert!(
        mean < 0.02 && agreement > 0.9,
        "KL {mean}, same best token {agreement}"
    );
}

#[test]
fn bf16_stays_closer_to_f32_on_real_text() {
    let (mean, agreement) = compare(Precision::Bf16);
    assert!(
        mean < 0.005 && agreement > 0.95,
        "KL {mean}, same best token {agreement}"
    );
}

/// The second half of each text counts as generated, so that in mixed half of the rows are of each kind.
#[test]
fn mixed_stays_as_close_to_f32_as_the_coarser_of_its_two_on_real_text() {
    let (mean, agreement) = compare(Precision::Mixed);
    assert!(
        mean < 0.02 && agreement > 0.9,
        "KL {mean}, same best token {agreement}"
    );
}

/// The mean divergence from f32, and in what share of positions the most likely token is the same.
fn compare(precision: Precision) -> (f64, f64) {
    let (mut exact, mut rounded) = (open(Precision::F32), open(precision));
    let (mut divergences, mut agreements) = (Vec::new(), 0usize);
    for tokens in prompts() {
        for (context, &token) in tokens.iter().enumerate() {
            let batch = ForwardBatch {
                tokens: vec![token],
                sequences: vec![BatchSequence {
                    new_tokens: 1,
                    context,
                    kind: match context < tokens.len() / 2 {
                        true => TokenKind::Prompt,
                        false => TokenKind::Generated,
                    },
                    block_table: (0..32).collect(),
                    adapter: None,
                    readout: Readout::Logits,
                }],
            };
            let step = |loaded: &mut LoadedModel| {
                let logits = loaded
                    .model
                    .forward(&batch, StepOutput::default())
                    .unwrap()
                    .logits;
                log_probabilities(&logits)
            };
            let (p, q) = (step(&mut exact), step(&mut rounded));
            // Kullback-Leibler divergence from f32, in nats.
            divergences.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
            agreements += usize::from(best(&p) == best(&q));
        }
    }
    divergences.sort_by(f64::total_cmp);
    let count = divergences.len();
    let mean = divergences.iter().sum::<f64>() / count as f64;
    let agreement = agreements as f64 / count as f64;
    println!(
        "{}: {count} tokens: KL mean {mean:.5}, median {:.5}, 99th percentile {:.5}, largest {:.5}; same best token {agreement:.4}",
        precision.name(),
        divergences[count / 2],
        divergences[count * 99 / 100],
        divergences[count - 1]
    );
    assert!(count > 300);
    assert!(divergences[0] > -1e-6, "a divergence is never negative");
    (mean, agreement)
}
