use serde_json::{Value as Json, json};

use crate::model::spec::Activation;
use crate::model::spec::ModelConfig;

fn base() -> Json {
    json!({
        "model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    })
}

#[test]
fn reads_old_and_new_rope_keys_alike() {
    let mut old = base();
    old["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let mut new = base();
    new["rope_parameters"] = old["rope_scaling"].clone();
    new["rope_parameters"]["rope_theta"] = json!(10000.0);
    let (old, new) = (
        ModelConfig::from_json(&old).unwrap(),
        ModelConfig::from_json(&new).unwrap(),
    );
    assert_eq!(old, new);
    assert_ne!(old.rope, ModelConfig::from_json(&base()).unwrap().rope);
}

#[test]
fn refuses_what_it_would_compute_wrongly() {
    for (key, value, expected) in [
        ("model_type", json!("gpt_neox"), "model_type"),
        ("model_type", json!("gpt_neox"), "`cohere2`"),
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("attention_bias", json!(true), "attention_bias"),
        ("num_local_experts", json!(8), "num_local_experts"),
        (
            "rope_scaling",
            json!({"rope_type": "yarn", "factor": 2.0}),
            "yarn",
        ),
        ("rope_scaling", json!({"rope_type": "llama3"}), "factor"),
        (
            "rope_scaling",
            json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
            "short_factor",
        ),
        ("partial_rotary_factor", json!(1.5), "partial_rotary_factor"),
        ("num_key_value_heads", json!(3), "kv heads"),
        ("hidden_size", json!(36), "head size"),
        ("num_attention_heads", json!(0), "head"),
        ("vocab_size", json!(0), "vocabulary"),
        ("vocab_size", json!("many"), "vocab_size"),
    ] {
        let mut config = base();
        config[key] = value;
        let error = ModelConfig::from_json(&config).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
    let mut config = base();
    config["model_type"] = json!("mistral");
    config["sliding_window"] = json!(0);
    let error = ModelConfig::from_json(&config).unwrap_err().to_string();
    assert!(error.contains("sliding window"), "{error}");
}

#[test]
fn gpt_bigcode_is_read_by_its_own_keys() {
    let own = json!({
        "model_type": "gpt_bigcode", "vocab_size": 64, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 256,
        "n_inner": null, "activation_function": "gelu_pytorch_tanh", "multi_query": true,
    });
    let config = ModelConfig::from_json(&own).unwrap();
    assert_eq!((config.sizes.ffn, config.sizes.kv_heads), (256, 1));
    assert_eq!(config.context_length, 256);
    assert_eq!(config.activation, Activation::GeluTanh);
    let mut exact = own.clone();
    exact["activation_function"] = json!("gelu");
    assert_eq!(
        ModelConfig::from_json(&exact).unwrap().activation,
        Activation::Gelu
    );
    for (key, value) in [
        ("multi_query", json!(false)),
        ("scale_attn_weights", json!(false)),
        ("add_cross_attention", json!(true)),
        ("activation_function", json!("relu")),
        ("n_positions", Json::Null),
        ("n_head", json!(0)),
        ("n_embd", json!(u64::MAX)),
    ] {
        let mut changed = own.clone();
        changed[key] = value;
        let error = ModelConfig::from_json(&changed).unwrap_err().to_string();
        let named = match key {
            "n_head" => "head count",
            "n_embd" => "hidden size",
            other => other,
        };
        assert!(error.contains(named), "{key}: {error}");
    }
}
