//! What `engine-bench` measures of a card: speeds of a loaded model, the limits of the card, and made-up weights.

use std::{collections::HashMap, path::Path, sync::Arc};

use babelward::{
    backend::{
        Backend as _, CeilingsError, DecodeLaunch, LanguageModel, LoadOptions, LoadedModel, Readout,
        speed::{Rehearsal, SpeedError, SpeedRun},
    },
    model::spec::{Noise, StoredBytes as _, TensorFormat},
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::{
    card::{CardState, EmulatedCard},
    common::golden,
    models::{self, ENOUGH, Part, backend, logits, options, step},
    queue::Timing,
};

/// A model on a card of its own.
fn open(path: &Path, options: &LoadOptions) -> (LoadedModel, Arc<CardState>) {
    let card = EmulatedCard::new(Timing::Late, ENOUGH);
    let state = Arc::clone(&card.state);
    (backend(card).load(path, &[], options).unwrap(), state)
}

fn run() -> SpeedRun {
    SpeedRun {
        sequences: 3,
        prompt_tokens: 40,
        shared_tokens: 0,
        decode_tokens: 2,
        step_tokens: 1 << 10,
        adapters: 0,
        readout: Readout::Probe { tokens: Vec::new() },
        rehearsal: Rehearsal::Everything,
    }
}

#[test]
fn speeds_are_measured_with_shared_prefixes_and_in_steps_of_any_size() {
    let path = golden("tiny-chat");
    let runs = [
        run(),
        SpeedRun {
            shared_tokens: 32,
            ..run()
        },
        SpeedRun {
            step_tokens: 50,
            ..run()
        },
    ];
    for run in runs {
        // The pool and the buffers are no larger than the run needs.
        let card = backend(EmulatedCard::new(Timing::Late, ENOUGH));
        let footprint = card.footprint(&path, &[], &options()).unwrap();
        let blocks = run.blocks(footprint.block_tokens);
        let options = LoadOptions {
            kv_bytes: blocks * footprint.kv_block_bytes as usize,
            batch: run.batch_limits(),
            ..options()
        };
        let (mut loaded, card) = open(&path, &options);
        assert_eq!(loaded.model.limits().num_blocks, blocks);
        let speed = run.measure(loaded.model.as_mut()).unwrap();
        assert!(speed.prefill_tokens_per_second > 0.0 && speed.decode_tokens_per_second > 0.0);
        // Each decode step, in the rehearsal and in the measurement, is carried out by a recording.
        assert_eq!(card.replays(), 4);
        let more = SpeedRun {
            sequences: run.sequences + 1,
            ..run
        };
        let refused = more.measure(loaded.model.as_mut());
        assert!(matches!(refused, Err(SpeedError::Pool { found, .. }) if found == blocks));
    }
}

/// A prompt, and the logits of the two tokens after it.
fn decoded(model: &mut dyn LanguageModel) -> Vec<f32> {
    let mut all = logits(model, &[5, 6, 7]);
    for context in [3, 4] {
        let part = Part {
            tokens: &[9],
            context,
            blocks: &[0],
            readout: Readout::Logits,
        };
        all.extend(step(model, &[part]).logits);
    }
    all
}

#[test]
fn steps_that_are_launched_kernel_by_kernel_have_the_same_bits() {
    let path = golden("tiny-chat");
    let (mut recorded, card) = open(&path, &options());
    let expected = decoded(recorded.model.as_mut());
    assert_eq!(card.replays(), 2);
    let direct = LoadOptions {
        decode: DecodeLaunch::Direct,
        ..options()
    };
    let (mut direct, card) = open(&path, &direct);
    let found = decoded(direct.model.as_mut());
    assert_eq!(card.replays(), 0);
    let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&found), bits(&expected));
}

#[test]
fn the_limits_of_a_card_are_those_of_its_copies_and_of_the_models_products() {
    let card = EmulatedCard::new(Timing::Late, ENOUGH);
    let state = Arc::clone(&card.state);
    let ceilings = backend(card).ceilings(&golden("tiny-chat")).unwrap();
    assert!(ceilings.copy_bytes_per_second > 0.0);
    assert!(ceilings.row_bits_agree);
    let mut rows: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    for product in &ceilings.products {
        assert!(product.flop_per_second > 0.0);
        let shape = (product.outputs, product.inputs);
        rows.entry(shape).or_default().push(product.rows);
    }
    // Queries, keys and values; the output of attention; gates and what they gate; the way down; logits of few rows.
    for layer in [(64, 32), (32, 32), (96, 32), (32, 48)] {
        assert_eq!(rows[&layer], [1, 16, 64, 256, 2048]);
    }
    assert_eq!(rows[&(900, 32)], [1, 16, 64, 256]);
    assert_eq!(rows.len(), 5);
    assert_eq!(state.allocations(), (0, 0));
    assert_eq!(state.used(), 0);
}

#[test]
fn a_card_that_is_too_small_to_be_measured_is_refused_with_numbers() {
    let card = EmulatedCard::new(Timing::Late, 1 << 20);
    let state = Arc::clone(&card.state);
    let refused = backend(card).ceilings(&golden("tiny-chat")).unwrap_err();
    assert!(
        matches!(refused, CeilingsError::Memory { free: 0x10_0000, .. }),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains("cuda:0 has 1048576 bytes of free memory"),
        "{refused}"
    );
    assert_eq!(state.used(), 0);
    let missing = backend(EmulatedCard::new(Timing::Late, ENOUGH)).ceilings(Path::new("no-such-model"));
    assert!(missing.unwrap_err().to_string().contains("no-such-model"));
}

/// Writes the model that `dummy:tiny` makes up to a folder, as the host makes it.
fn write_dummy(folder: &Path) {
    let (hidden, ffn, queries, keys, vocab) = (64, 128, 64, 32, 256);
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut matrix = |name: &str, made_of: String, shape: [usize; 2]| {
        let noise = Noise::new(&made_of, TensorFormat::Bf16, shape[0], shape[1]).unwrap();
        let mut bytes = vec![0; noise.len()];
        noise.read_at(0, &mut bytes).unwrap();
        tensors.push((format!("model.{name}.weight"), Dtype::BF16, shape.to_vec(), bytes));
    };
    matrix("embed_tokens", "Embedding".to_owned(), [vocab, hidden]);
    for layer in 0..2 {
        for (name, part, shape) in [
            ("self_attn.q_proj", "Query", [queries, hidden]),
            ("self_attn.k_proj", "Key", [keys, hidden]),
            ("self_attn.v_proj", "Value", [keys, hidden]),
            ("self_attn.o_proj", "AttentionOutput", [hidden, queries]),
            ("mlp.gate_proj", "Gate", [ffn, hidden]),
            ("mlp.up_proj", "Up", [ffn, hidden]),
            ("mlp.down_proj", "Down", [hidden, ffn]),
        ] {
            matrix(
                &format!("layers.{layer}.{name}"),
                format!("Layer({layer}, {part})"),
                shape,
            );
        }
    }
    let ones = 1f32.to_le_bytes().repeat(hidden);
    let norms = (0..2).flat_map(|layer| {
        ["input_layernorm", "post_attention_layernorm"]
            .map(|norm| format!("model.layers.{layer}.{norm}.weight"))
    });
    for name in norms.chain(["model.norm.weight".to_owned()]) {
        tensors.push((name, Dtype::F32, vec![hidden], ones.clone()));
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": ffn, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "hidden_act": "silu", "tie_word_embeddings": true,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn weights_that_a_card_makes_up_have_the_bits_of_the_hosts() {
    let folder = tempfile::tempdir().unwrap();
    write_dummy(folder.path());
    let bits = |path: &Path| {
        let mut loaded = models::open(path, Timing::Late);
        let logits = logits(loaded.model.as_mut(), &[1, 2, 3, 250]);
        logits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let expected = bits(folder.path());
    assert!(expected.iter().any(|bits| *bits != expected[0]));
    assert_eq!(bits(Path::new("dummy:tiny")), expected);
    // Floats in f32 are rounded to the same weights.
    assert_eq!(bits(Path::new("dummy:tiny:f32")), expected);
}
