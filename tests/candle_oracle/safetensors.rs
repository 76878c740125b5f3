//! Folders with `config.json` and safetensors.
//!
//! What candle-transformers 0.11.1 computes otherwise, by family:
//! - All: a sliding window of n lets a token attend to n + 1 tokens, itself included; transformers has n. Here its
//!   configuration gets a window of one less. With a KV cache its mask forgets windows, so whole prompts are compared.
//! - Llama: heads are always hidden / heads wide, and linear scaling is not known, so `linear-rope-f16-sharded` cannot be
//!   loaded.
//! - Qwen2 and Gemma 2: the window is applied to all layers, where only some have one. They are compared without windows.
//! - Gemma 3: the scaling of the global layers' rotary frequencies is not known. Both sides read a file without it.
//! - Phi-3: there are no windows, and the factors of LongRoPE multiply frequencies instead of dividing them. Both sides read
//!   files without either.

use std::{fs, path::Path};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{LENGTHS, TOLERANCE, compare, distance, golden, input, last_row, open, ours, prompt};

/// A copy of a golden checkpoint whose `config.json` is changed.
fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut config = config(folder.path());
    edit(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

/// The configuration as candle reads it: what transformers keeps in `rope_parameters` stood at the top before.
fn theirs<C: DeserializeOwned>(folder: &Path, edit: impl FnOnce(&mut Value)) -> C {
    let mut config = config(folder);
    config["rope_theta"] = config["rope_parameters"]["rope_theta"].clone();
    if config["rope_parameters"]["rope_type"] == "llama3" {
        config["rope_scaling"] = config["rope_parameters"].clone();
    }
    edit(&mut config);
    serde_json::from_value(config).unwrap()
}

fn weights(folder: &Path) -> VarBuilder<'static> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn llama() {
    for name in ["gqa-untied-f32", "llama3-rope-tied-bf16"] {
        let folder = golden(name);
        let config = theirs::<llama::LlamaConfig>(&folder, |_| {}).into_config(false);
        let model = llama::Llama::load(weights(&folder), &config).unwrap();
        compare(&folder, |tokens| {
            let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
            last_row(&model.forward(&input(tokens), 0, &mut cache).unwrap())
        });
    }
}

#[test]
fn mistral() {
    let folder = golden("mistral-window");
    let config = theirs(&folder, |config| {
        config["sliding_window"] = json!(config["sliding_window"].as_u64().unwrap() - 1);
    });
    let mut model = mistral::Model::new(&config, weights(&folder)).unwrap();
    compare(&folder, |tokens| {
        model.clear_kv_cache();
        last_row(&model.forward(&input(tokens), 0).unwrap())
    });
}

#[test]
fn qwen2() {
    let folders = [
        edited("qwen2", |_| {}),
        edited("qwen2-window", |config| {
            config["use_sliding_window"] = json!(false);
            config["sliding_window"] = Value::Null;
            config["layer_types"] = json!(["full_attention", "full_attention"]);
        }),
    ];
    for folder in folders {
        let config = theirs(folder.path(), |config| config["sliding_window"] = json!(1 << 20));
        let mut model = qwen2::ModelForCausalLM::new(&config, weights(folder.path())).unwrap();
        compare(folder.path(), |tokens| {
            model.clear_kv_cache();
            last_row(&model.forward(&input(tokens), 0).unwrap())
        });
    }
}

#[test]
fn qwen3() {
    let folder = golden("qwen3");
    let config = theirs(&folder, |_| {});
    let mut model = qwen3::ModelForCausalLM::new(&config, weights(&folder)).unwrap();
    compare(&folder, |tokens| {
        model.clear_kv_cache();
        last_row(&model.forward(&input(tokens), 0).unwrap())
    });
}

#[test]
fn gemma2() {
    let folder = edited("gemma2", |config| config["sliding_window"] = json!(512));
    let config = theirs(folder.path(), |_| {});
    let mut model = gemma2::Model::new(false, &config, weights(folder.path())).unwrap();
    compare(folder.path(), |tokens| {
        model.clear_kv_cache();
        last_row(&model.forward(&input(tokens), 0).unwrap())
    });
}

#[test]
fn gemma3_with_its_windows() {
    let folder = edited("gemma3", |config| {
        let global = &mut config["rope_parameters"]["full_attention"];
        *global = json!({"rope_type": "default", "rope_theta": global["rope_theta"]});
    });
    let config = theirs(folder.path(), |config| {
        config["rope_theta"] = config["rope_parameters"]["full_attention"]["rope_theta"].clone();
        config["rope_local_base_freq"] = config["rope_parameters"]["sliding_attention"]["rope_theta"].clone();
        config["sliding_window_pattern"] = json!(6);
        config["sliding_window"] = json!(config["sliding_window"].as_u64().unwrap() - 1);
    });
    let mut model = gemma3::Model::new(false, &config, weights(folder.path())).unwrap();
    compare(folder.path(), |tokens| {
        model.clear_kv_cache();
        last_row(&model.forward(&input(tokens), 0).unwrap())
    });
}

#[test]
fn phi3_rotating_all_dimensions_and_some() {
    let folders = [
        edited("phi3-window", |config| config["sliding_window"] = Value::Null),
        edited("phi3-longrope", |config| {
            config["rope_parameters"] = json!({
                "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            });
            config
                .as_object_mut()
                .unwrap()
                .remove("original_max_position_embeddings");
        }),
    ];
    for folder in folders {
        let config = theirs(folder.path(), |config| {
            config["partial_rotary_factor"] = config["rope_parameters"]["partial_rotary_factor"].clone();
        });
        let mut model = phi3::Model::new(&config, weights(folder.path())).unwrap();
        compare(folder.path(), |tokens| {
            model.clear_kv_cache();
            last_row(&model.forward(&input(tokens), 0).unwrap())
        });
    }
}

/// What the list above says of windows and factors, so that it is taken off the list when it is no longer so.
#[test]
fn what_candle_computes_otherwise_is_still_so() {
    let longest = LENGTHS[LENGTHS.len() - 1];
    let tokens = prompt(longest);
    let folder = golden("mistral-window");
    let mut model = mistral::Model::new(&theirs(&folder, |_| {}), weights(&folder)).unwrap();
    let wider = last_row(&model.forward(&input(&tokens), 0).unwrap());
    assert!(distance(&ours(&mut open(&folder), &tokens), &wider) > TOLERANCE);

    let folder = golden("phi3-longrope");
    let config = theirs(&folder, |config| {
        let parameters = config["rope_parameters"].clone();
        config["partial_rotary_factor"] = parameters["partial_rotary_factor"].clone();
        config["rope_scaling"] = json!({
            "type": "longrope",
            "short_factor": parameters["short_factor"], "long_factor": parameters["long_factor"],
        });
    });
    let mut model = phi3::Model::new(&config, weights(&folder)).unwrap();
    let multiplied = last_row(&model.forward(&input(&tokens), 0).unwrap());
    assert!(distance(&ours(&mut open(&folder), &tokens), &multiplied) > TOLERANCE);

    // Heads of 32 in a residual stream of 64 with four of them.
    let folder = golden("linear-rope-f16-sharded");
    let config = theirs::<llama::LlamaConfig>(&folder, |_| {}).into_config(false);
    assert_ne!(config.hidden_size / config.num_attention_heads, 32);
}
