//! What a model will take in memory is known before it is loaded.

use std::path::{Path, PathBuf};

use babelward::{
    backend::{Backend, LoadOptions, cpu::CpuBackend},
    model::spec::Precision,
};

use crate::{
    adapter_files::AdapterFiles,
    common::{golden, load_options},
};

/// The models that are held to transformers, in both formats, and made-up ones in the formats these lack.
fn models() -> Vec<PathBuf> {
    let mut models = Vec::new();
    for entry in std::fs::read_dir(golden("models")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("config.json").exists() {
            models.push(folder.clone());
        }
        models.push(folder.join("model.gguf"));
    }
    models.retain(|path| path.exists());
    assert!(models.len() > 15, "{models:?}");
    models
        .extend(["f32", "bf16", "q4_1", "q8_0"].map(|format| PathBuf::from(format!("dummy:tiny:{format}"))));
    models
}

#[test]
fn estimates_are_what_loading_takes() {
    let cpu = CpuBackend::new(1);
    for path in models() {
        for precision in Precision::ALL {
            let options = load_options(precision, 1 << 20);
            let known = cpu.footprint(&path, &[], &options).unwrap();
            let loaded = cpu.load(&path, &[], &options).unwrap();
            let name = path.display();
            assert_eq!(known.weight_bytes, loaded.weight_bytes, "{name}");
            assert_eq!(known.architecture, loaded.architecture, "{name}");
            let limits = loaded.model.limits();
            assert_eq!(known.block_tokens, limits.block_size, "{name}");
            assert_eq!(
                known.kv_block_bytes * limits.num_blocks as u64,
                loaded.kv_bytes,
                "{name}"
            );
            assert!(loaded.kv_bytes <= 1 << 20, "{name}");
            assert!(known.context_length >= limits.context_length, "{name}");
            assert!(known.scratch_bytes > 0, "{name}");
        }
    }
}

#[test]
fn estimates_of_estimators_are_what_loading_takes() {
    let cpu = CpuBackend::new(1);
    let mut folders = Vec::new();
    for kind in ["comet", "metricx"] {
        let entries = std::fs::read_dir(golden(kind)).unwrap().map(Result::unwrap);
        folders.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    assert!(folders.len() > 5, "{folders:?}");
    for folder in folders {
        for precision in [Precision::Bf16, Precision::F32] {
            let options = load_options(precision, 1 << 20);
            let known = cpu.footprint(&folder, &[], &options).unwrap();
            let loaded = cpu.load(&folder, &[], &options).unwrap();
            assert_eq!(known.weight_bytes, loaded.weight_bytes, "{}", folder.display());
        }
    }
}

#[test]
fn adapters_are_part_of_the_estimate() {
    let cpu = CpuBackend::new(1);
    let adapter = golden("adapters/llama-bf16");
    let about = std::fs::read_to_string(adapter.join("golden.json")).unwrap();
    let about: serde_json::Value = serde_json::from_str(&about).unwrap();
    let base = golden("models").join(about["base"].as_str().unwrap());
    let options = load_options(Precision::Int8, 1 << 20);
    let adapters = [adapter.clone(), adapter];
    let known = cpu.footprint(&base, &adapters, &options).unwrap();
    let loaded = cpu.load(&base, &adapters, &options).unwrap();
    let bytes = loaded.adapters.iter().map(|adapter| adapter.resident_bytes);
    assert_eq!(known.weight_bytes, loaded.weight_bytes + bytes.sum::<u64>());
    assert!(loaded.adapters[0].resident_bytes > 0);

    // Values are looked at when it is loaded, and only then.
    let mut files = AdapterFiles::golden("llama-bf16");
    for file in files.tensors.values_mut() {
        file.bytes.fill(0xff);
    }
    let folder = files.write();
    let adapters = [folder.path().to_owned(), folder.path().to_owned()];
    assert_eq!(cpu.footprint(&base, &adapters, &options).unwrap(), known);
    assert!(cpu.load(&base, &adapters, &options).is_err());
}

/// Large made-up models are not made up to be counted.
#[test]
fn an_estimate_of_eight_billion_parameters_reads_no_weights() {
    let options = LoadOptions {
        max_context: Some(4096),
        ..load_options(Precision::Int8, 0)
    };
    let known = CpuBackend::new(1)
        .footprint(Path::new("dummy:llama-guard-3-8b:q8_0"), &[], &options)
        .unwrap();
    // 8.03 billion weights of eight bits with a scale of two bytes to every 32, and f32 norms.
    let expected = 8_030_000_000.0 * (1.0 + 2.0 / 32.0);
    assert!((known.weight_bytes as f64 / expected - 1.0).abs() < 0.001);
    assert_eq!(known.context_length, 4096);
    // 32 layers, keys and values of 8 heads of 128, two bytes each.
    assert_eq!(
        known.kv_block_bytes / known.block_tokens as u64,
        32 * 2 * 8 * 128 * 2
    );
}
