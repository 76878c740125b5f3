//! Damaged and unsuitable model files: a typed error that names the file and the place, never a panic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

mod common;

use std::{fs, path::Path};

use babelward::kernels::Precision;
use babelward::model::load::{LoadOptions, load};

fn error(path: &Path, kv_bytes: usize) -> String {
    let options = LoadOptions {
        threads: 1,
        kv_bytes,
        max_context: None,
        precision: Precision::Int8,
    };
    match load(path, &options) {
        Ok(_) => panic!("{} loaded", path.display()),
        Err(error) => {
            let text = error.to_string();
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
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/models")
        .join(name);
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
