//! What a model will take in memory is known before it is loaded, as `tests/model/memory_estimate.rs` checks for the CPU.

use std::path::PathBuf;

use babelward::{
    backend::{Backend as _, Determinism},
    model::spec::{CandleDevice, DeviceName, Precision},
};

use crate::common::{candle, checkpoints, golden, load_options};

#[test]
fn estimates_are_what_loading_takes() {
    let candle = candle();
    let files = checkpoints().into_iter().flat_map(|(_, formats)| formats);
    let dummies = ["f32", "bf16", "q4_1", "q8_0"].map(|format| PathBuf::from(format!("dummy:tiny:{format}")));
    for path in files.chain(dummies) {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let options = load_options(precision, 1 << 20);
            let known = candle.footprint(&path, &[], &options).unwrap();
            let loaded = candle.load(&path, &[], &options).unwrap();
            let name = path.display();
            assert_eq!(candle.effective_precision(&path, precision), loaded.precision);
            assert_eq!(known.weight_bytes, loaded.weight_bytes, "{name}");
            assert_eq!(known.architecture, loaded.architecture, "{name}");
            let limits = loaded.model.limits();
            assert_eq!(known.block_tokens, limits.block_size, "{name}");
            let pool = known.kv_block_bytes * limits.num_blocks as u64;
            assert_eq!(pool, loaded.kv_bytes, "{name}");
            assert!(loaded.kv_bytes <= 1 << 20, "{name}");
            assert!(known.scratch_bytes > 0, "{name}");
        }
    }
}

#[test]
fn adapters_are_part_of_the_estimate() {
    let adapter = golden("adapters/llama-bf16");
    let base = golden("models/llama3-rope-tied-bf16");
    let options = load_options(Precision::F32, 1 << 20);
    let adapters = [adapter.clone(), adapter];
    let known = candle().footprint(&base, &adapters, &options).unwrap();
    let loaded = candle().load(&base, &adapters, &options).unwrap();
    let bytes = loaded.adapters.iter().map(|adapter| adapter.resident_bytes);
    assert_eq!(known.weight_bytes, loaded.weight_bytes + bytes.sum::<u64>());
    assert!(loaded.adapters[0].resident_bytes > 0);
}

#[test]
fn the_device_says_what_it_is_and_promises_no_more_than_it_keeps() {
    let candle = candle();
    let info = candle.device();
    assert_eq!(
        (info.name, info.determinism),
        (DeviceName::Candle(CandleDevice::Cpu), Determinism::BestEffort)
    );
    assert_eq!(info.architecture, std::env::consts::ARCH);
}
