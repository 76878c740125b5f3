//! Our classifiers of texts against transformers': tokens, windows and probabilities of tiny random checkpoints, which
//! `tests/golden/classifier_labels.py` and `tests/golden/classifier_families.py` made.

use std::{path::Path, sync::Arc};

use babelward::{
    backend::{
        Backend, BatchSequence, ForwardBatch, LanguageModel, LoadedModel, Reading, Readout, StepOutput,
        cpu::CpuBackend,
    },
    classifier::{EncoderKind, TextClassifier, labels_of},
    model::spec::{Precision, TokenKind},
    text::{Allowance, Tokenizer, Watch},
};
use serde_json::Value;

use crate::{
    classifiers_golden::{ALL, DEBERTA, GoldenClassifier, XLM_ROBERTA},
    common::load_options,
};

/// The reference computes in f32 too, in another order.
const TOLERANCE: f64 = 2e-5;

fn open(path: &Path, threads: usize, precision: Precision) -> LoadedModel {
    let options = load_options(precision, 1 << 20);
    CpuBackend::new(threads).load(path, &[], &options).unwrap()
}

fn classifier(path: &Path, loaded: &LoadedModel) -> TextClassifier {
    let tokenizer = Arc::new(Tokenizer::from_folder(path).unwrap());
    let limits = loaded.model.limits();
    let labels = labels_of(path).unwrap();
    TextClassifier::new(tokenizer, labels, limits.context_length, limits.vocab_size).unwrap()
}

/// A sequence's tokens in a step.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// Its blocks begin at twenty times this.
    sequence: usize,
    tokens: &'a [u32],
    from: usize,
    to: usize,
}

/// Log-probabilities of the labels of the sequences that are complete.
fn step(model: &mut dyn LanguageModel, labels: usize, parts: &[Part<'_>]) -> Vec<Vec<f64>> {
    let labels: Vec<u32> = (0..).take(labels).collect();
    let mut batch = ForwardBatch::default();
    for part in parts {
        batch.tokens.extend_from_slice(&part.tokens[part.from..part.to]);
        let blocks = 20 * part.sequence..20 * (part.sequence + 1);
        batch.sequences.push(BatchSequence {
            new_tokens: part.to - part.from,
            context: part.from,
            kind: TokenKind::Prompt,
            block_table: blocks.map(|block| block as u32).collect(),
            adapter: None,
            readout: match part.to == part.tokens.len() {
                true => Readout::Probe {
                    tokens: labels.clone(),
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

fn whole(model: &mut dyn LanguageModel, labels: usize, sequences: &[&[u32]]) -> Vec<Vec<f64>> {
    let parts = sequences.iter().enumerate().map(|(sequence, tokens)| Part {
        sequence,
        tokens,
        from: 0,
        to: tokens.len(),
    });
    step(model, labels, &parts.collect::<Vec<_>>())
}

#[test]
fn windows_and_probabilities_equal_transformers() {
    for golden in ALL {
        let folder = golden.served();
        assert_eq!(EncoderKind::detect(folder.path()), Some(EncoderKind::Classifier));
        let mut loaded = open(folder.path(), 2, Precision::Int8);
        assert_eq!(loaded.precision, Precision::F32);
        let classifier = classifier(folder.path(), &loaded);
        let expected = golden.expected();
        assert_eq!(classifier.labels(), expected.labels);
        let watch = Watch::default();
        for text in &expected.texts {
            let allowance = Allowance {
                tokens: classifier.most_tokens(),
                watch: &watch,
            };
            let tokens = classifier.encode_within(&text.text, allowance).unwrap();
            let windows = classifier.windows(tokens.len());
            assert_eq!(windows.len(), text.windows.len(), "{golden:?}: {:?}", text.text);
            for (window, expected) in windows.into_iter().zip(&text.windows) {
                let sequence = classifier.sequence(&tokens[window]);
                assert_eq!(sequence, expected.tokens, "{golden:?}: {:?}", text.text);
                let labels = expected.probabilities.len();
                let found = &whole(&mut *loaded.model, labels, &[&sequence])[0];
                assert_eq!(found.len(), labels);
                for (found, expected) in found.iter().zip(&expected.probabilities) {
                    let error = (found.exp() - expected).abs();
                    assert!(error < TOLERANCE, "{golden:?}: {:?}: off by {error}", text.text);
                }
            }
        }
    }
}

#[test]
fn probabilities_have_the_same_bits_alone_in_company_and_in_chunks() {
    for golden in ALL {
        let folder = golden.served();
        let expected = golden.expected();
        let labels = expected.labels.len();
        let windows = expected.texts.iter().flat_map(|text| &text.windows);
        let sequences: Vec<&[u32]> = windows.map(|window| window.tokens.as_slice()).collect();
        let bits = |read: Vec<Vec<f64>>| -> Vec<Vec<u64>> {
            let row = |row: Vec<f64>| row.into_iter().map(f64::to_bits).collect();
            read.into_iter().map(row).collect()
        };
        for precision in [Precision::F32, Precision::Bf16] {
            let mut alone = open(folder.path(), 1, precision);
            let each = sequences
                .iter()
                .flat_map(|tokens| whole(&mut *alone.model, labels, &[tokens]));
            let alone = bits(each.collect());
            let mut loaded = open(folder.path(), 3, precision);
            assert_eq!(bits(whole(&mut *loaded.model, labels, &sequences)), alone);
            let begun = sequences.iter().enumerate().map(|(sequence, tokens)| Part {
                sequence,
                tokens,
                from: 0,
                to: tokens.len() / 2,
            });
            let begun: Vec<Part<'_>> = begun.collect();
            assert_eq!(step(&mut *loaded.model, labels, &begun), Vec::<Vec<f64>>::new());
            let rest = begun.iter().rev().map(|part| Part {
                from: part.to,
                to: part.tokens.len(),
                ..*part
            });
            let mut found = bits(step(&mut *loaded.model, labels, &rest.collect::<Vec<_>>()));
            found.reverse();
            assert_eq!(found, alone, "{golden:?}");
        }
    }
}

#[test]
fn what_is_loaded_takes_what_was_estimated() {
    for golden in ALL {
        let folder = golden.served();
        let options = load_options(Precision::Int8, 1 << 20);
        let estimate = CpuBackend::new(1)
            .footprint(folder.path(), &[], &options)
            .unwrap();
        let loaded = open(folder.path(), 1, Precision::Int8);
        assert!(loaded.weight_bytes <= estimate.weight_bytes, "{golden:?}");
        assert!(estimate.weight_bytes < 2 * loaded.weight_bytes, "{golden:?}");
        let windows = golden.expected().texts.into_iter().flat_map(|text| text.windows);
        let longest = windows.map(|window| window.tokens.len()).max();
        assert_eq!(Some(estimate.context_length), longest);
        assert_eq!(loaded.architecture, golden.architecture);
    }
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let refusal_of = |golden: GoldenClassifier, change: &dyn Fn(&mut Value)| {
        let folder = golden.served();
        let path = folder.path().join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        let options = load_options(Precision::Int8, 1 << 20);
        let loaded = CpuBackend::new(1).load(folder.path(), &[], &options);
        loaded.err().unwrap().to_string()
    };
    let refusal = |change: &dyn Fn(&mut Value)| refusal_of(XLM_ROBERTA, change);
    let cases = [
        (
            refusal(&|json| json["id2label"]["3"] = "other".into()),
            "tensor `classifier.out_proj.weight`: the shape is [3, 32]",
        ),
        (
            refusal(&|json| json["problem_type"] = "multi_label_classification".into()),
            "config.json: problem_type is `multi_label_classification`",
        ),
        (
            refusal(&|json| json["num_hidden_layers"] = 1.into()),
            "it is not part of the model",
        ),
        (
            refusal(&|json| json["model_type"] = "roberta".into()),
            "config.json: model_type is `roberta`",
        ),
        (
            refusal_of(DEBERTA, &|json| json["conv_kernel_size"] = 3.into()),
            "config.json: conv_kernel_size is 3",
        ),
        (
            refusal_of(DEBERTA, &|json| json["position_buckets"] = 16.into()),
            "tensor `deberta.encoder.rel_embeddings.weight`: the shape is [16, 32]",
        ),
        (
            refusal_of(DEBERTA, &|json| json["norm_rel_ebd"] = "none".into()),
            "tensor `deberta.encoder.LayerNorm.",
        ),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected), "{found}");
    }
}
