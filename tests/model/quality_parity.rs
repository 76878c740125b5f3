//! Our quality estimators against their reference implementations: tokens and scores of tiny random checkpoints.
//! `tests/golden/comet_scores.py` made those of CometKiwi, with unbabel-comet itself, and
//! `tests/golden/metricx_scores.py` those of MetricX, with transformers' mT5.

use std::sync::Arc;

use babelward::{
    backend::{
        Backend, BatchSequence, ForwardBatch, LanguageModel, LoadedModel, Reading, Readout, StepOutput,
        cpu::CpuBackend,
    },
    model::spec::{Precision, TokenKind},
    quality::{EstimatorKind, PairEncoder},
    text::Tokenizer,
};
use serde_json::Value;

use crate::{
    common::{golden, load_options},
    estimators::{Case, case},
};

/// References compute in f32 too, in another order.
const TOLERANCE: f64 = 2e-5;

fn open(case: &Case, threads: usize) -> LoadedModel {
    open_in(case, threads, Precision::Int8)
}

fn open_in(case: &Case, threads: usize, precision: Precision) -> LoadedModel {
    let options = load_options(precision, 1 << 20);
    CpuBackend::new(threads)
        .load(case.folder.path(), &[], &options)
        .unwrap()
}

/// A step of the engine's: of each sequence, tokens `from..to`; sequence `i` has blocks from `i * 20` on.
fn step(model: &mut dyn LanguageModel, parts: &[(usize, &[u32], usize, usize)]) -> Vec<f32> {
    let mut batch = ForwardBatch::default();
    for &(index, tokens, from, to) in parts {
        batch.tokens.extend_from_slice(&tokens[from..to]);
        batch.sequences.push(BatchSequence {
            new_tokens: to - from,
            context: from,
            kind: TokenKind::Prompt,
            block_table: (0..20).map(|block| (index * 20 + block) as u32).collect(),
            adapter: None,
            readout: if to == tokens.len() {
                Readout::Score
            } else {
                Readout::None
            },
        });
    }
    let output = model.forward(&batch, StepOutput::default()).unwrap();
    let score = |reading: &Reading| match reading {
        Reading::Score(score) => *score,
        other => panic!("{other:?}"),
    };
    output.readings.iter().map(score).collect()
}

fn whole(model: &mut dyn LanguageModel, sequences: &[&[u32]]) -> Vec<f32> {
    let parts = sequences.iter().enumerate();
    let parts: Vec<_> = parts
        .map(|(index, tokens)| (index, *tokens, 0, tokens.len()))
        .collect();
    step(model, &parts)
}

fn check(kind: &str, name: &str) {
    let case = case(kind, name);
    let mut loaded = open(&case, 2);
    let estimator = EstimatorKind::detect(case.folder.path()).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_folder(case.folder.path()).unwrap());
    let encoder = PairEncoder::new(estimator, tokenizer, loaded.model.limits().vocab_size).unwrap();
    for pair in &case.pairs {
        let tokens = encoder.encode(&pair.source, &pair.translation).unwrap();
        assert_eq!(tokens, pair.tokens, "{name}: {:?}", pair.translation);
        let score = whole(&mut *loaded.model, &[&tokens])[0];
        let error = (f64::from(score) - pair.score).abs();
        assert!(
            error < TOLERANCE,
            "{name}: {:?}: {score}, not {}",
            pair.translation,
            pair.score
        );
    }
}

#[test]
fn comet_kiwi_mixes_layers_by_softmax() {
    check("comet", "softmax");
}

#[test]
fn comet_kiwi_mixes_normed_layers_by_sparsemax_and_ends_with_an_activation() {
    check("comet", "sparsemax-norm-sigmoid");
}

#[test]
fn comet_kiwi_xl_has_its_norms_before() {
    check("comet", "xl-softmax-norm");
    check("comet", "xl-sparsemax");
}

#[test]
fn comet_kiwi_can_use_one_layer() {
    check("comet", "one-layer");
}

#[test]
fn metricx_24_reads_the_source_first() {
    check("metricx", "v24");
}

#[test]
fn metricx_23_reads_the_translation_first_and_weights_of_16_bits() {
    check("metricx", "v23-bf16");
}

#[test]
fn metricx_scales_the_decoders_output_where_the_configuration_says_so() {
    check("metricx", "v24-rescaled");
}

#[test]
fn every_checkpoint_is_checked() {
    let source = include_str!("quality_parity.rs");
    for kind in ["comet", "metricx"] {
        let folder = golden(kind);
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.path().is_dir() {
                assert!(
                    source.contains(&format!("check(\"{kind}\", \"{name}\")")),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn a_score_has_the_same_bits_alone_in_company_and_in_chunks() {
    for precision in [Precision::F32, Precision::Bf16] {
        company("comet", "sparsemax-norm-sigmoid", precision);
        company("metricx", "v24", precision);
    }
}

#[test]
fn bf16_is_f32_but_for_rounding() {
    for (kind, name, most) in [
        ("comet", "softmax", 0.05),
        ("comet", "xl-sparsemax", 0.05),
        ("metricx", "v24", 1.0),
    ] {
        let case = case(kind, name);
        let score = |precision| {
            let mut loaded = open_in(&case, 2, precision);
            assert_eq!(loaded.precision, precision);
            let sequences: Vec<&[u32]> = case.pairs.iter().map(|pair| pair.tokens.as_slice()).collect();
            whole(&mut *loaded.model, &sequences)
        };
        let (exact, rounded) = (score(Precision::F32), score(Precision::Bf16));
        let off = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0, f32::max);
        assert!(off > 0.0 && off < most, "{name}: {off}");
    }
}

fn company(kind: &str, name: &str, precision: Precision) {
    let case = case(kind, name);
    let sequences: Vec<&[u32]> = case.pairs.iter().map(|pair| pair.tokens.as_slice()).collect();
    let bits = |scores: Vec<f32>| scores.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let mut alone = open_in(&case, 1, precision);
    let expected: Vec<u32> = sequences
        .iter()
        .flat_map(|tokens| bits(whole(&mut *alone.model, &[tokens])))
        .collect();
    for threads in [1, 3] {
        let mut loaded = open_in(&case, threads, precision);
        assert_eq!(bits(whole(&mut *loaded.model, &sequences)), expected);
        // First tokens of all, then the rest: the estimator runs when a sequence is complete.
        let starts: Vec<_> = sequences
            .iter()
            .enumerate()
            .map(|(index, tokens)| (index, *tokens, 0, tokens.len() / 2))
            .collect();
        assert_eq!(step(&mut *loaded.model, &starts), Vec::<f32>::new());
        let ends: Vec<_> = starts
            .iter()
            .rev()
            .map(|&(index, tokens, _, half)| (index, tokens, half, tokens.len()))
            .collect();
        let mut found = bits(step(&mut *loaded.model, &ends));
        found.reverse();
        assert_eq!(found, expected);
    }
}

#[test]
fn what_is_loaded_takes_what_was_estimated() {
    let cases = [
        ("comet", "softmax", 3),
        ("comet", "xl-softmax-norm", 3),
        ("metricx", "v24", 5),
    ];
    for (family, name, layers) in cases {
        let case = case(family, name);
        let estimate = CpuBackend::new(1)
            .footprint(case.folder.path(), &[], &load_options(Precision::Int8, 1 << 20))
            .unwrap();
        let loaded = open(&case, 1);
        assert!(loaded.weight_bytes <= estimate.weight_bytes, "{name}");
        assert!(estimate.weight_bytes < 2 * loaded.weight_bytes, "{name}");
        assert_eq!(
            Some(estimate.kv_most_bytes.unwrap().min(1 << 20)),
            Some(loaded.kv_bytes)
        );
        assert_eq!(estimate.context_length, loaded.model.limits().context_length);
        assert_eq!(
            (loaded.dtype.as_str(), loaded.layers, loaded.parameters > 0),
            ("f32", layers, true)
        );
    }
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let edit_of = |kind: &str, name: &str, change: &dyn Fn(&mut Value)| {
        let case = case(kind, name);
        let path = case.folder.path().join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        case
    };
    let edit = |change: &dyn Fn(&mut Value)| edit_of("comet", "softmax", change);
    let edit_metricx = |change: &dyn Fn(&mut Value)| edit_of("metricx", "v24", change);
    let refusal = |case: &Case| {
        let loaded =
            CpuBackend::new(1).load(case.folder.path(), &[], &load_options(Precision::Int8, 1 << 20));
        loaded.err().unwrap().to_string()
    };
    let cases = [
        (
            edit(&|json| json["encoder"]["hidden_act"] = "relu".into()),
            "config.json: encoder.hidden_act is `relu`",
        ),
        (
            edit(&|json| json["encoder"]["num_hidden_layers"] = 4.into()),
            "layer.3.attention.self.query.bias`: it is missing",
        ),
        (
            edit(&|json| json["encoder"]["num_hidden_layers"] = 2.into()),
            "it is not part of the model",
        ),
        (
            edit(&|json| json["hidden_sizes"][0] = 25.into()),
            "tensor `estimator.ff.0.weight`: the shape is [24, 32]",
        ),
        (
            edit(&|json| json["encoder"]["vocab_size"] = 111.into()),
            "word_embeddings.weight`: the shape is",
        ),
        (edit(&|json| json["encoder"] = Value::Null), "config.json: "),
        (
            edit_metricx(&|json| json["metricx_version"] = Value::Null),
            "config.json: metricx_version is missing",
        ),
        (
            edit_metricx(&|json| json["num_decoder_layers"] = 2.into()),
            "tensor `decoder.block.2.layer.0.SelfAttention.o.weight`: it is not part of the model",
        ),
        (
            edit_metricx(&|json| json["d_kv"] = 32.into()),
            "tensor `encoder.block.0.layer.0.SelfAttention.q.weight`: the shape is [32, 16]",
        ),
        (
            edit_metricx(&|json| json["relative_attention_num_buckets"] = 16.into()),
            "relative_attention_bias.weight`: the shape is [32, 2]",
        ),
    ];
    for (case, expected) in &cases {
        let found = refusal(case);
        assert!(found.contains(expected), "{found}");
    }
    let truncated = case("comet", "softmax");
    let weights = truncated.folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        refusal(&truncated).contains("model.safetensors: "),
        "{}",
        refusal(&truncated)
    );
}
