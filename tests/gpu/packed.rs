//! Weights that stay packed, in 8 and in 4 bits.

use std::path::Path;

use babelward::{
    backend::{Backend, BatchLimits, Determinism, LanguageModel, LoadOptions, cpu::CpuBackend},
    model::spec::Precision,
};

use crate::{
    card::EmulatedCard,
    mixed_file,
    models::{self, ENOUGH, logits, options},
    queue::Timing,
};

fn with(precision: Precision, tokens: usize) -> LoadOptions {
    LoadOptions {
        precision,
        batch: BatchLimits { sequences: 4, tokens },
        ..options()
    }
}

/// Size of the errors of logits in relation to the size of logits.
fn error(found: &[f32], exact: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let off = squares(&mut found.iter().zip(exact).map(|(a, b)| a - b));
    (off / squares(&mut exact.iter().copied())).sqrt()
}

#[test]
fn packed_weights_are_multiplied_exactly_for_few_rows_and_rounded_for_many() {
    for format in ["q8_0", "q4_1"] {
        let path = format!("dummy:tiny:{format}");
        let path = Path::new(&path);
        let cpu = CpuBackend::new(2);
        let mut exact = cpu.load(path, &[], &with(Precision::F32, 256)).unwrap().model;
        let backend = models::backend(EmulatedCard::new(Timing::Late, ENOUGH));
        let load = |precision| backend.load(path, &[], &with(precision, 256)).unwrap();
        let (packed, rounded) = (load(Precision::Int8), load(Precision::Bf16));
        assert!(packed.weight_bytes < rounded.weight_bytes, "{format}");
        assert_eq!(
            (packed.determinism, rounded.determinism),
            (Determinism::BestEffort, Determinism::BatchInvariant)
        );
        let (mut packed, mut rounded) = (packed.model, rounded.model);
        let tokens: Vec<u32> = (0..130).map(|i| i * 37 % 256).collect();
        let errors = |model: &mut dyn LanguageModel, exact: &mut dyn LanguageModel, len: usize| {
            error(&logits(model, &tokens[..len]), &logits(exact, &tokens[..len]))
        };
        for len in [1, 5, 16, 17, 40, 64] {
            let few = errors(&mut *packed, &mut *exact, len);
            assert!(few < 0.02, "{format}, {len} rows: {few}");
        }
        for len in [65, 100, 130] {
            let (ours, all) = (
                errors(&mut *packed, &mut *exact, len),
                errors(&mut *rounded, &mut *exact, len),
            );
            assert!(
                ours < 1.5 * all && all < 0.03,
                "{format}, {len} rows: {ours}, {all}"
            );
        }
    }
}

/// With batches that are small enough, all products go one way, and their bits do not depend on the batch.
#[test]
fn small_batches_of_packed_weights_are_batch_invariant() {
    let backend = models::backend(EmulatedCard::new(Timing::Late, ENOUGH));
    let path = Path::new("dummy:tiny:q4_1");
    let loaded = backend.load(path, &[], &with(Precision::Int8, 64)).unwrap();
    assert_eq!(loaded.determinism, Determinism::BatchInvariant);
    let mut model = loaded.model;
    let tokens: Vec<u32> = (0..40).map(|i| i * 11 % 256).collect();
    let whole = logits(&mut *model, &tokens);
    let mut last = Vec::new();
    for context in 0..tokens.len() {
        let part = models::Part {
            tokens: &tokens[context..=context],
            context,
            blocks: &[5, 3, 4],
            readout: babelward::backend::Readout::Logits,
        };
        last = models::step(&mut *model, &[part]).logits;
    }
    assert_eq!(whole, last);
}

/// What is told before a model is loaded is what it takes, whatever formats its matrices have.
#[test]
fn packed_models_take_what_their_footprints_say() {
    let folder = tempfile::tempdir().unwrap();
    for path in [Path::new("dummy:tiny:q8_0"), &mixed_file::write(folder.path())] {
        let card = EmulatedCard::new(Timing::Early, ENOUGH);
        let state = std::sync::Arc::clone(&card.state);
        let backend = models::backend(card);
        let options = with(Precision::Int8, 128);
        let footprint = backend.footprint(path, &[], &options).unwrap();
        let loaded = backend.load(path, &[], &options).unwrap();
        assert_eq!(loaded.weight_bytes, footprint.weight_bytes);
        let said = (footprint.weight_bytes + footprint.scratch_bytes + loaded.kv_bytes) as usize - (32 << 20);
        assert!(state.used() <= said + 8192, "{} of {said}", state.used());
    }
}

/// Matrices that are multiplied side by side are stored each by itself, where not all of them can stay packed.
#[test]
fn matrices_of_different_formats_are_multiplied_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let path = &mixed_file::write(folder.path());
    let load = |backend: &dyn Backend, precision| backend.load(path, &[], &with(precision, 256)).unwrap();
    let mut exact = load(&CpuBackend::new(2), Precision::F32).model;
    let backend = models::backend(EmulatedCard::new(Timing::Late, ENOUGH));
    let mut packed = load(&backend, Precision::Int8).model;
    let tokens: Vec<u32> = (0..100).map(|i| i * 37 % 256).collect();
    for len in [1, 40, 100] {
        let found = logits(&mut *packed, &tokens[..len]);
        let error = error(&found, &logits(&mut *exact, &tokens[..len]));
        assert!(error < 0.02, "{len} rows: {error}");
    }
}
