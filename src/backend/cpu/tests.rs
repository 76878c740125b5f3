use std::{fs, path::Path};

use super::CpuBackend;
use crate::{
    backend::{BatchLimits, DecodeLaunch, LoadOptions},
    model::{open_decoder, spec::Precision},
};

fn copy_of(checkpoint: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
    for entry in fs::read_dir(models.join(checkpoint)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Loads what is at `model`, and cuts `file` to `len` bytes once the headers have been read.
fn cut_while_it_loads(model: &Path, file: &Path, len: u64) -> String {
    let options = LoadOptions {
        kv_bytes: 1 << 20,
        max_context: None,
        precision: Precision::Int8,
        batch: BatchLimits {
            sequences: 1,
            tokens: 1,
        },
        decode: DecodeLaunch::Recorded,
    };
    let loaded = open_decoder(model, |config, source| {
        let file = fs::OpenOptions::new().write(true).open(file).unwrap();
        file.set_len(len).unwrap();
        CpuBackend::new(2).load_decoder(config, source, Vec::new(), &options)
    });
    loaded.err().expect("the file is not whole").to_string()
}

#[test]
fn a_file_that_is_cut_while_it_loads_is_an_error_that_names_the_tensor() {
    for (checkpoint, file) in [
        ("qwen2", "model.gguf"),
        ("qwen2", "model.safetensors"),
        ("linear-rope-f16-sharded", "model-00002-of-00005.safetensors"),
    ] {
        let folder = copy_of(checkpoint);
        let file = folder.path().join(file);
        let model = match file.extension().is_some_and(|extension| extension == "gguf") {
            true => file.clone(),
            false => folder.path().to_owned(),
        };
        let whole = fs::metadata(&file).unwrap().len();
        for len in [0, whole / 2, whole - 1] {
            let error = cut_while_it_loads(&model, &file, len);
            let reason = format!("was cut from {whole} to {len} bytes while it was being read");
            assert!(
                error.contains("tensor `")
                    && error.contains(&reason)
                    && error.contains(&*model.to_string_lossy()),
                "{error}"
            );
            fs::remove_file(&file).unwrap();
            let original = copy_of(checkpoint);
            fs::copy(original.path().join(file.file_name().unwrap()), &file).unwrap();
        }
    }
}
