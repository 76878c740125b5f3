//! Qwen3Guard-Stream's heads against PyTorch's: probabilities of a tiny random checkpoint, which `tests/golden/verdict_heads.py` made.

use std::path::Path;

use babelward::{
    backend::{
        Backend, BatchSequence, ForwardBatch, LanguageModel, LoadedModel, Reading, Readout, StepOutput,
        cpu::CpuBackend,
    },
    model::{
        spec::{HeadSide, Precision, TokenKind},
        verdict_heads_of,
    },
};
use serde_json::Value;

use crate::{
    common::load_options,
    verdict_heads_golden::{GoldenCase, expected, folder},
};

/// The reference computes in f32 too, in another order.
const TOLERANCE: f64 = 2e-5;

fn open(path: &Path, threads: usize, precision: Precision) -> LoadedModel {
    let options = load_options(precision, 16 << 20);
    CpuBackend::new(threads).load(path, &[], &options).unwrap()
}

/// A conversation, and the logits of the side that it is judged by.
struct Asked {
    tokens: Vec<u32>,
    logits: Vec<u32>,
}

fn asked(path: &Path, cases: &[GoldenCase]) -> Vec<Asked> {
    let heads = verdict_heads_of(path).unwrap().unwrap();
    let asked = cases.iter().map(|case| {
        let side = match case.judges_an_answer() {
            true => HeadSide::Answer,
            false => HeadSide::Request,
        };
        Asked {
            tokens: case.tokens.clone(),
            logits: heads.logits(side).map(|logit| logit as u32).collect(),
        }
    });
    asked.collect()
}

/// Computes the tokens of each conversation from one position to another, and reads those that are complete.
fn step(
    model: &mut dyn LanguageModel,
    all: &[Asked],
    part: impl Fn(usize) -> (usize, usize),
) -> Vec<Vec<f64>> {
    let mut batch = ForwardBatch::default();
    for (place, asked) in all.iter().enumerate() {
        let (from, to) = part(asked.tokens.len());
        batch.tokens.extend_from_slice(&asked.tokens[from..to]);
        let blocks = 20 * place..20 * (place + 1);
        batch.sequences.push(BatchSequence {
            new_tokens: to - from,
            context: from,
            kind: TokenKind::Prompt,
            block_table: blocks.map(|block| block as u32).collect(),
            adapter: None,
            readout: match to == asked.tokens.len() {
                true => Readout::Probe {
                    tokens: asked.logits.clone(),
                },
                false => Readout::None,
            },
        });
    }
    let output = model.forward(&batch, StepOutput::default()).unwrap();
    let read = |reading: &Reading| match reading {
        Reading::Probe(probe) => probe.log_probabilities.clone(),
        other => panic!("{other:?}"),
    };
    output.readings.iter().map(read).collect()
}

fn bits(read: &[Vec<f64>]) -> Vec<Vec<u64>> {
    let row = |row: &Vec<f64>| row.iter().map(|value| value.to_bits()).collect();
    read.iter().map(row).collect()
}

#[test]
fn probabilities_of_both_sides_equal_the_reference() {
    let folder = folder();
    let mut loaded = open(folder.path(), 2, Precision::F32);
    let cases = expected().cases;
    let found = step(&mut *loaded.model, &asked(folder.path(), &cases), |tokens| {
        (0, tokens)
    });
    for (case, found) in cases.iter().zip(&found) {
        let expected: Vec<f64> = case.risk.iter().chain(&case.category).copied().collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let error = (found.exp() - expected).abs();
            assert!(error < TOLERANCE, "{:?}: off by {error}", case.contents);
        }
    }
}

#[test]
fn verdicts_have_the_same_bits_alone_in_company_and_in_chunks() {
    let folder = folder();
    let all = asked(folder.path(), &expected().cases);
    for precision in [Precision::F32, Precision::Bf16] {
        let mut alone = open(folder.path(), 1, precision);
        let each = all
            .iter()
            .flat_map(|one| step(&mut *alone.model, std::slice::from_ref(one), |tokens| (0, tokens)));
        let alone = bits(&each.collect::<Vec<_>>());
        let mut loaded = open(folder.path(), 3, precision);
        assert_eq!(bits(&step(&mut *loaded.model, &all, |tokens| (0, tokens))), alone);
        let begun = step(&mut *loaded.model, &all, |tokens| (0, tokens / 2));
        assert_eq!(begun, Vec::<Vec<f64>>::new());
        let rest = step(&mut *loaded.model, &all, |tokens| (tokens / 2, tokens));
        assert_eq!(bits(&rest), alone);
    }
}

#[test]
fn what_is_loaded_takes_what_was_estimated_and_writes_no_text() {
    let folder = folder();
    let options = load_options(Precision::F32, 16 << 20);
    let estimate = CpuBackend::new(1)
        .footprint(folder.path(), &[], &options)
        .unwrap();
    let mut loaded = open(folder.path(), 1, Precision::F32);
    assert_eq!(loaded.weight_bytes, estimate.weight_bytes);
    let batch = ForwardBatch {
        tokens: vec![1],
        sequences: vec![BatchSequence {
            new_tokens: 1,
            block_table: vec![0],
            readout: Readout::Logits,
            ..BatchSequence::default()
        }],
    };
    let refused = loaded.model.forward(&batch, StepOutput::default()).unwrap_err();
    assert!(refused.to_string().contains("labels only"), "{refused}");
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let refusal = |change: &dyn Fn(&mut Value)| {
        let folder = folder();
        let path = folder.path().join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        let options = load_options(Precision::F32, 16 << 20);
        let loaded = CpuBackend::new(1).load(folder.path(), &[], &options);
        loaded.err().unwrap().to_string()
    };
    for (found, expected) in [
        (
            refusal(&|json| json["guard_inner_size"] = 12.into()),
            "tensor `risk_level_head.weight`: the shape is [3, 24], expected [3, 12]",
        ),
        (
            refusal(&|json| json["query_category_map"]["9"] = "other".into()),
            "tensor `query_category_head.weight`: the shape is [9, 24]",
        ),
        (
            refusal(&|json| json["response_risk_level_map"]["1"] = "High Risk".into()),
            "config.json: response_risk_level_map is `High Risk`",
        ),
    ] {
        assert!(found.contains(expected), "{found}");
    }
}
