//! Damaged and unsuitable model files: a typed error that names the file and the place, never a panic.

use std::{fs, path::Path};

use babelward::backend::{Backend, cpu::CpuBackend};
use babelward::errors::with_causes;
use babelward::model::spec::Precision;

use crate::common::{self, golden, load_options};

fn error(path: &Path, kv_bytes: usize) -> String {
    let options = load_options(Precision::Int8, kv_bytes);
    match CpuBackend::new(1).load(path, &[], &options) {
        Ok(_) => panic!("{} loaded", path.display()),
        Err(error) => {
            let text = with_causes(&error);
            assert!(
                text.contains(&path.display().to_string()),
                "the file is not named: {text}"
            );
            text
        }
    }
}

/// A copy of a tiny checkpoint to damage.
fn checkpoint(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("models").join(name);
    for entry in fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn edit_config(folder: &Path, key: &str, value: serde_json::Value) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    assert!(error(Path::new("no-such-model.gguf"), 1 << 20).contains("No such file"));
}

#[test]
fn a_gguf_that_ends_early_names_the_tensor() {
    let whole = fs::read(common::smollm2()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    fs::write(&path, &whole[..20 << 20]).unwrap();
    let text = error(&path, 64 << 20);
    assert!(
        text.contains("tensor `") && text.contains("outside the file"),
        "{text}"
    );
    for cut in [0, 3, 4, 23, 1000, 100_000] {
        fs::write(&path, &whole[..cut]).unwrap();
        error(&path, 64 << 20);
    }
}

#[test]
fn a_checkpoint_that_disagrees_with_its_config_names_the_tensor() {
    let folder = checkpoint("gqa-untied-f32");
    edit_config(folder.path(), "intermediate_size", 128.into());
    let text = error(folder.path(), 1 << 20);
    assert!(
        text.contains("model.layers.0.mlp.gate_proj.weight") && text.contains("[128, 64]"),
        "{text}"
    );

    let folder = checkpoint("gqa-untied-f32");
    edit_config(folder.path(), "num_hidden_layers", 3.into());
    let text = error(folder.path(), 1 << 20);
    assert!(
        text.contains("model.layers.2.") && text.contains("missing"),
        "{text}"
    );
}

#[test]
fn a_missing_or_damaged_shard_is_named() {
    let folder = checkpoint("linear-rope-f16-sharded");
    fs::remove_file(folder.path().join("model-00002-of-00005.safetensors")).unwrap();
    assert!(error(folder.path(), 1 << 20).contains("model-00002-of-00005.safetensors"));
    fs::write(
        folder.path().join("model-00002-of-00005.safetensors"),
        b"not a safetensors file",
    )
    .unwrap();
    assert!(error(folder.path(), 1 << 20).contains("model-00002-of-00005.safetensors"));
}

#[test]
fn an_index_cannot_lead_out_of_its_folder() {
    let folder = checkpoint("linear-rope-f16-sharded");
    let index = folder.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index)
        .unwrap()
        .replace("model-00002-of-00005", "../model-00002-of-00005");
    fs::write(&index, text).unwrap();
    assert!(error(folder.path(), 1 << 20).contains("plain file name"));
}

#[test]
fn a_kv_pool_that_is_too_small_says_how_much_is_needed() {
    let folder = checkpoint("gqa-untied-f32");
    let text = error(folder.path(), 100);
    assert!(text.contains("too small") && text.contains("at least"), "{text}");
}

#[test]
fn tensors_that_nothing_asks_for_are_named() {
    // Qwen's checkpoints have all that a Llama has, and more.
    for (name, extra) in [("qwen2", "_proj.bias"), ("qwen3", "_norm.weight")] {
        let folder = checkpoint(name);
        edit_config(folder.path(), "model_type", "llama".into());
        let text = error(folder.path(), 1 << 20);
        assert!(text.contains(extra) && text.contains("`llama`"), "{text}");
    }
    let folder = checkpoint("gqa-untied-f32");
    edit_config(folder.path(), "num_hidden_layers", 1.into());
    let text = error(folder.path(), 1 << 20);
    assert!(text.contains("model.layers.1."), "{text}");
}

/// Metadata of a GGUF file.
enum Meta {
    Text(&'static str),
    Number(u32),
    Real(f32),
}

/// A GGUF file with an embedding and this metadata below the architecture's name.
fn gguf(folder: &Path, architecture: &'static str, metadata: &[(&str, Meta)]) -> std::path::PathBuf {
    gguf_with(folder, architecture, metadata, &[("token_embd.weight", 0)])
}

/// The same with tensors of 64 times 8 F32 values at these places of the data, which has room for one and a half.
fn gguf_with(
    folder: &Path,
    architecture: &'static str,
    metadata: &[(&str, Meta)],
    tensors: &[(&str, u64)],
) -> std::path::PathBuf {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64 + 1).to_le_bytes());
    let first = ("general.architecture".to_owned(), &Meta::Text(architecture));
    let rest = metadata
        .iter()
        .map(|(key, value)| (format!("{architecture}.{key}"), value));
    for (key, value) in [first].into_iter().chain(rest) {
        bytes.extend(string(&key));
        match value {
            Meta::Text(text) => bytes.extend([8u32.to_le_bytes().to_vec(), string(text)].concat()),
            Meta::Number(number) => bytes.extend([4u32.to_le_bytes(), number.to_le_bytes()].concat()),
            Meta::Real(real) => bytes.extend([6u32.to_le_bytes(), real.to_le_bytes()].concat()),
        }
    }
    for (name, offset) in tensors {
        bytes.extend(string(name));
        bytes.extend(2u32.to_le_bytes());
        bytes.extend([64u64.to_le_bytes(), 8u64.to_le_bytes()].concat());
        // F32.
        bytes.extend([0; 4]);
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + 64 * 8 * 6, 0);
    let path = folder.join("model.gguf");
    fs::write(&path, bytes).unwrap();
    path
}

fn complete() -> Vec<(&'static str, Meta)> {
    vec![
        ("embedding_length", Meta::Number(64)),
        ("feed_forward_length", Meta::Number(64)),
        ("block_count", Meta::Number(1)),
        ("context_length", Meta::Number(64)),
        ("attention.head_count", Meta::Number(4)),
        ("attention.layer_norm_rms_epsilon", Meta::Real(1e-5)),
        ("attention.layer_norm_epsilon", Meta::Real(1e-5)),
    ]
}

#[test]
fn tensors_that_lie_where_none_can_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (offset, expected) in [
        (
            4,
            "tensor `output.weight`: its offset 4 is not a multiple of general.alignment",
        ),
        (1024, "inside of tensor `token_embd.weight`"),
        (0, "inside of tensor `"),
        (2048, "tensor `output.weight`: its data lies outside the file"),
        (1 << 40, "tensor `output.weight` lies outside the file"),
    ] {
        let tensors = [("token_embd.weight", 0), ("output.weight", offset)];
        let path = gguf_with(folder.path(), "llama", &complete(), &tensors);
        let text = error(&path, 1 << 20);
        assert!(text.contains(expected), "{offset}: {text}");
    }
}

/// Nobody writes into such a pipe: whoever opened it to read would wait for ever.
#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_at_once() {
    for name in [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model.gguf",
    ] {
        let folder = checkpoint("qwen2");
        let path = folder.path().join(name);
        let _ = fs::remove_file(&path);
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let model = if name == "model.gguf" {
            &path
        } else {
            folder.path()
        };
        let text = error(model, 1 << 20);
        assert!(
            text.contains(name) && text.contains("not a regular file"),
            "{text}"
        );
    }
}

#[test]
fn a_configuration_beyond_any_size_is_refused() {
    let folder = checkpoint("qwen2");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join("config.json"))
        .unwrap();
    // Of nothing but zeros, which take no room on the disk.
    file.set_len(1 << 40).unwrap();
    assert!(error(folder.path(), 1 << 20).contains("config.json: it has more than 16777216 bytes"));
}

#[test]
fn what_a_gguf_model_needs_and_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (architecture, key, value, expected) in [
        (
            "gptneox",
            "any",
            Meta::Number(1),
            "general.architecture is `gptneox`; `llama`",
        ),
        (
            "llama",
            "expert_count",
            Meta::Number(8),
            "llama.expert_count is 8",
        ),
        (
            "mistral3",
            "attention.temperature_scale",
            Meta::Real(0.1),
            "mistral3.attention.temperature_scale",
        ),
        (
            "qwen2",
            "rope.scaling.type",
            Meta::Text("yarn"),
            "qwen2.rope.scaling.type is `yarn`",
        ),
        (
            "phi3",
            "rope.scaling.type",
            Meta::Text("longrope"),
            "phi3.rope.scaling.type is `longrope`",
        ),
        (
            "llama",
            "attention.head_count_kv",
            Meta::Text("2"),
            "llama.attention.head_count_kv is not one number",
        ),
        (
            "qwen3",
            "attention.value_length",
            Meta::Number(32),
            "qwen3.attention.value_length is 32",
        ),
        (
            "phi3",
            "rope.dimension_count",
            Meta::Number(17),
            "phi3.rope.dimension_count is 17",
        ),
        (
            "gemma3",
            "final_logit_softcapping",
            Meta::Real(-1.0),
            "soft cap is -1",
        ),
        (
            "cohere2",
            "logit_scale",
            Meta::Real(1.0),
            "cohere2.attention.sliding_window is missing",
        ),
        (
            "llama",
            "rope.freq_base",
            Meta::Real(1e4),
            "tensor `blk.0.ffn_norm.weight`: it is missing",
        ),
    ] {
        let mut metadata = complete();
        metadata.push((key, value));
        let text = error(&gguf(folder.path(), architecture, &metadata), 1 << 20);
        assert!(text.contains(expected), "{key}: {text}");
    }
}
