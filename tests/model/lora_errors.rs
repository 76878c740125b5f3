//! Adapters that must be refused, each with what is wrong and where.

use std::path::Path;

use babelward::{
    backend::{Backend, cpu::CpuBackend},
    model::spec::Precision,
    model::{AdapterError, LoadError},
};
use serde_json::{Value, json};

use crate::{
    adapter_files::AdapterFiles,
    common::{golden, load_options},
};

const QUERY: &str = "base_model.model.model.layers.1.self_attn.q_proj";

fn refused(base: &Path, adapter: &Path) -> AdapterError {
    let options = load_options(Precision::F32, 1 << 20);
    match CpuBackend::new(1).load(base, &[adapter.to_owned()], &options) {
        Err(LoadError::Adapter { path, source }) => {
            assert_eq!(path, adapter);
            source
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was loaded"),
    }
}

/// What is said of the golden Llama adapter after a change of its files.
fn after(change: impl FnOnce(&mut AdapterFiles)) -> AdapterError {
    let mut files = AdapterFiles::golden("llama-bf16");
    change(&mut files);
    refused(&golden("models/llama3-rope-tied-bf16"), files.write().path())
}

fn after_setting(key: &str, value: Value) -> String {
    after(|files| files.config[key] = value).to_string()
}

#[test]
fn settings_that_would_be_computed_wrongly_are_refused() {
    for (key, value, said) in [
        (
            "peft_type",
            json!("IA3"),
            "adapter_config.json: peft_type `IA3` is not supported",
        ),
        (
            "use_dora",
            json!(true),
            "adapter_config.json: use_dora (DoRA) is not supported",
        ),
        (
            "bias",
            json!("all"),
            "adapter_config.json: bias \"all\" (a trained bias) is not supported",
        ),
        (
            "lora_bias",
            json!(true),
            "adapter_config.json: lora_bias (a trained bias) is not supported",
        ),
        (
            "modules_to_save",
            json!(["lm_head"]),
            "adapter_config.json: modules_to_save (an adapter with modules of its own) is not supported",
        ),
        (
            "fan_in_fan_out",
            json!(true),
            "adapter_config.json: fan_in_fan_out (an adapter of transposed matrices) is not supported",
        ),
        (
            "init_lora_weights",
            json!("pissa_niter_4"),
            "adapter_config.json: init_lora_weights `pissa_niter_4` (it changes the base; let PEFT convert the \
             adapter to one of the original base) is not supported",
        ),
        (
            "target_modules",
            json!(["q_proj", "k_proj", "v_proj", "o_proj", "lm_head"]),
            "`lm_head`: an adapter of embeddings or of the output layer is not supported",
        ),
    ] {
        assert_eq!(after_setting(key, value), said);
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (key, value, said) in [
        (
            "r",
            json!(0),
            "adapter_config.json: r is not a whole number above 0",
        ),
        (
            "lora_alpha",
            json!("x"),
            "adapter_config.json: lora_alpha is not a number",
        ),
        (
            "rank_pattern",
            json!([1]),
            "adapter_config.json: rank_pattern is not a table",
        ),
        (
            "rank_pattern",
            json!({"q_proj": 0}),
            "adapter_config.json: rank_pattern.q_proj is not a whole number above 0",
        ),
        (
            "target_modules",
            json!(7),
            "adapter_config.json: target_modules is not a list of names or a pattern",
        ),
        (
            "target_modules",
            json!("model.layers.0.*"),
            "tensor `base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight`: it is not among \
             adapter_config.json's target_modules",
        ),
        (
            "target_modules",
            json!(["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]),
            "adapter_config.json: target_modules names `down_proj`, but there are no tensors for it",
        ),
    ] {
        assert_eq!(after_setting(key, value), said);
    }
    let pattern = after_setting("target_modules", json!("("));
    let expected = "adapter_config.json: target_modules is not a pattern that can be used: ";
    assert!(pattern.starts_with(expected), "{pattern}");
}

#[test]
fn a_family_that_takes_no_adapters_says_so() {
    let files = AdapterFiles::golden("llama-bf16").write();
    for base in ["models/gpt-bigcode", "models/gpt-bigcode/model.gguf"] {
        let told = refused(&golden(base), files.path()).to_string();
        assert!(told.starts_with("an adapter of a `"), "{told}");
        assert!(told.ends_with("` model is not supported"), "{told}");
    }
}

#[test]
fn modules_that_the_model_does_not_have_are_named() {
    let known = "q_proj, k_proj, v_proj, qkv_proj, o_proj, gate_proj, up_proj, gate_up_proj, down_proj";
    let unknown =
        |module: &str| format!("`{module}` is none of the matrices that an adapter can change here: {known}");
    let targets = json!(["q_proj", "k_proj", "v_proj", "o_proj", "query_key_value"]);
    assert_eq!(
        after(|files| files.config["target_modules"] = targets).to_string(),
        unknown("query_key_value")
    );
    let moved = after(|files| {
        let file = files.tensors.remove(&format!("{QUERY}.lora_A.weight")).unwrap();
        let name = "base_model.model.vision.layers.1.self_attn.q_proj.lora_A.weight";
        files.tensors.insert(name.to_owned(), file);
    });
    assert_eq!(moved.to_string(), unknown("vision.layers.1.self_attn.q_proj"));
}

#[test]
fn shapes_name_the_tensor_and_both_shapes() {
    // Both halves of another model's sizes, a rank that is not the configuration's, and another base.
    let file = |files: &mut AdapterFiles, half: &str, shape: [usize; 2]| {
        let file = files.tensors.get_mut(&format!("{QUERY}.{half}.weight")).unwrap();
        file.bytes.resize(shape[0] * shape[1] * 2, 0);
        file.shape = shape.to_vec();
    };
    let shape = |half: &str, found: [usize; 2], expected: [usize; 2]| {
        format!("tensor `{QUERY}.{half}.weight`: the shape is {found:?}, expected {expected:?}")
    };
    let wide = after(|files| file(files, "lora_A", [5, 128]));
    assert_eq!(wide.to_string(), shape("lora_A", [5, 128], [5, 64]));
    let tall = after(|files| file(files, "lora_B", [96, 5]));
    assert_eq!(tall.to_string(), shape("lora_B", [96, 5], [64, 5]));
    let rank = after(|files| files.config["rank_pattern"] = json!({r"layers\.1\..*q_proj": 8}));
    assert_eq!(rank.to_string(), shape("lora_A", [5, 64], [8, 64]));
    let other = refused(Path::new("dummy:smollm2-135m"), &golden("adapters/llama-bf16"));
    assert!(other.to_string().contains("the shape is ["), "{other}");
}

#[test]
fn tensors_that_are_missing_damaged_or_of_another_kind_are_named() {
    let missing = after(|files| drop(files.tensors.remove(&format!("{QUERY}.lora_B.weight"))));
    let expected =
        format!("tensor `{QUERY}.lora_A.weight`: `{QUERY}.lora_B.weight`, which belongs to it, is missing");
    assert_eq!(missing.to_string(), expected);
    let infinite = after(|files| {
        let file = files.tensors.get_mut(&format!("{QUERY}.lora_B.weight")).unwrap();
        file.bytes[..2].copy_from_slice(&half::bf16::INFINITY.to_le_bytes());
    });
    let expected = format!("tensor `{QUERY}.lora_B.weight`: it has values that are not finite");
    assert_eq!(infinite.to_string(), expected);
    let beyond = after(|files| {
        for half in ["lora_A", "lora_B"] {
            let file = files.tensors.remove(&format!("{QUERY}.{half}.weight")).unwrap();
            let name = format!("{}.{half}.weight", QUERY.replace("layers.1", "layers.2"));
            files.tensors.insert(name, file);
        }
    });
    let said = format!(
        "tensor `{}.lora_A.weight`: the base has 2 layers",
        QUERY.replace("layers.1", "layers.2")
    );
    assert_eq!(beyond.to_string(), said);
    for (end, what) in [
        ("lora_magnitude_vector", "DoRA"),
        ("lora_embedding_A", "an adapter of embeddings"),
        ("lora_B.bias", "a trained bias"),
        ("weight", "a tensor that is no half of a low-rank change"),
    ] {
        let other = after(|files| {
            let file = files.tensors[&format!("{QUERY}.lora_A.weight")].clone();
            files.tensors.insert(format!("{QUERY}.{end}"), file);
        });
        assert_eq!(
            other.to_string(),
            format!("tensor `{QUERY}.{end}`: {what} is not supported")
        );
    }
    let both = after(|files| {
        for half in ["lora_A", "lora_B"] {
            let mut file = files.tensors[&format!("{QUERY}.{half}.weight")].clone();
            if half == "lora_B" {
                file.bytes = file.bytes.repeat(2);
                file.shape[0] = 128;
            }
            let name = format!("{}.{half}.weight", QUERY.replace("q_proj", "qkv_proj"));
            files.tensors.insert(name, file);
        }
        files.config["target_modules"] = json!("all-linear");
    });
    assert!(
        both.to_string().ends_with("another one changes the same outputs"),
        "{both}"
    );
    let nothing = after(|files| {
        files.tensors.clear();
        files.config["target_modules"] = json!("all-linear");
    });
    assert_eq!(nothing.to_string(), "there are no tensors in it");
}

#[test]
fn files_that_are_missing_or_of_another_kind_are_named() {
    let base = golden("models/llama3-rope-tied-bf16");
    let folder = tempfile::tempdir().unwrap();
    let said = || refused(&base, folder.path()).to_string();
    assert!(said().starts_with("adapter_config.json: "));
    std::fs::write(folder.path().join("adapter_config.json"), "[1]").unwrap();
    assert_eq!(said(), "adapter_config.json: it is not an object");
    let config = AdapterFiles::golden("llama-bf16").config.to_string();
    std::fs::write(folder.path().join("adapter_config.json"), config).unwrap();
    assert!(said().starts_with("adapter_model.safetensors: "));
    std::fs::write(folder.path().join("adapter_model.bin"), "x").unwrap();
    assert_eq!(
        said(),
        "adapter_model.bin (save the adapter as safetensors) is not supported"
    );
    std::fs::write(folder.path().join("adapter_model.safetensors"), "damaged").unwrap();
    assert!(said().starts_with("adapter_model.safetensors: "));
    assert_eq!(
        refused(&base, &base.join("model.gguf")).to_string(),
        "general.type is `model`, expected `adapter`"
    );
    assert_eq!(
        refused(
            &golden("models/qwen2/model.gguf"),
            &golden("adapters/llama-bf16/adapter.gguf")
        )
        .to_string(),
        "general.architecture is `llama`, expected `qwen2`"
    );
}
