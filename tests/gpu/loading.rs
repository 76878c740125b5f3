//! What cards take, and what they refuse.

use std::{path::Path, sync::Arc};

use babelward::{
    backend::{
        Backend as _, BatchLimits, BatchSequence, ForwardBatch, LoadOptions, Readout, StepError, StepOutput,
        cuda::{CudaBackend, OpenError, driver::Architecture},
    },
    model::{
        LoadError,
        spec::{Precision, TokenKind},
    },
};

use crate::{
    card::EmulatedCard,
    common::golden,
    models::{self, ENOUGH, checkpoints, options},
    queue::Timing,
};

/// A model takes no more of a card than was said before it was loaded, and not much less.
#[test]
fn models_take_what_their_footprints_say() {
    for name in checkpoints() {
        let path = golden("models").join(name);
        for batch in [(1, 16), (40, 100), (16, 700)] {
            let options = LoadOptions {
                batch: BatchLimits {
                    sequences: batch.0,
                    tokens: batch.1,
                },
                ..options()
            };
            let card = EmulatedCard::new(Timing::Early, ENOUGH);
            let state = Arc::clone(&card.state);
            let backend = models::backend(card);
            let footprint = backend.footprint(&path, &[], &options).unwrap();
            let loaded = backend.load(&path, &[], &options).unwrap();
            assert_eq!(loaded.weight_bytes, footprint.weight_bytes, "{}", path.display());
            let said = footprint.weight_bytes + footprint.scratch_bytes + loaded.kv_bytes;
            let (said, used) = (said as usize, state.used());
            // The workspace of products is the real queue's own; allocations are rounded up to 16 bytes.
            let workspace = 32 << 20;
            assert!(
                used <= said - workspace + 8192,
                "{}: {used} of {said}",
                path.display()
            );
            assert!(
                used + (said - workspace) / 50 >= said - workspace,
                "{}: {used} of {said}",
                path.display()
            );
        }
    }
}

#[test]
fn a_model_that_is_too_large_is_refused_with_numbers_before_anything_is_allocated() {
    let card = EmulatedCard::new(Timing::Early, 10 << 20);
    let state = Arc::clone(&card.state);
    let backend = models::backend(card);
    let refused = backend
        .load(&golden("models").join("qwen2"), &[], &options())
        .err()
        .unwrap();
    let text = refused.to_string();
    assert!(matches!(refused, LoadError::Resources { .. }), "{text}");
    for part in [
        "cuda:0 has 10485760 bytes of free memory",
        "for weights",
        "1048576 for keys and values",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(state.used(), 0);
}

#[test]
fn other_precisions_small_pools_and_old_cards_are_refused() {
    let backend = models::backend(EmulatedCard::new(Timing::Early, ENOUGH));
    let path = golden("models").join("qwen2");
    let with = |options: LoadOptions| backend.load(&path, &[], &options).err().unwrap().to_string();
    let text = with(LoadOptions {
        precision: Precision::F32,
        ..options()
    });
    assert!(text.contains("set the precision to auto, bf16 or int8"), "{text}");
    let text = with(LoadOptions {
        kv_bytes: 100,
        ..options()
    });
    assert!(text.contains("KV pool"), "{text}");
    let estimator = golden("comet").join("one-layer");
    let refused = backend
        .load(&estimator, &[], &options())
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("give the model `device = \"cpu\"`"), "{refused}");
    let missing = backend
        .load(Path::new("no-such-model"), &[], &options())
        .err()
        .unwrap();
    assert!(missing.to_string().contains("no-such-model"), "{missing}");

    let old = Architecture { major: 7, minor: 5 };
    let card = EmulatedCard::new(Timing::Early, ENOUGH).with_architecture(old);
    let refused = CudaBackend::new(0, Arc::new(card)).err().unwrap();
    assert!(matches!(refused, OpenError::TooOld { found, .. } if found == old));
    assert!(refused.to_string().contains("sm_75") && refused.to_string().contains("sm_80"));
}

#[test]
fn a_batch_that_there_is_no_room_for_is_refused_and_the_next_one_is_computed() {
    let mut model = models::open(&golden("models").join("qwen2"), Timing::Late).model;
    let sequence = |new_tokens, readout| BatchSequence {
        new_tokens,
        context: 0,
        kind: TokenKind::Prompt,
        block_table: vec![0, 1, 2, 3, 4, 5, 6, 7],
        adapter: None,
        readout,
    };
    let batch = |sequences: Vec<BatchSequence>| ForwardBatch {
        tokens: vec![1; sequences.iter().map(|sequence| sequence.new_tokens).sum()],
        sequences,
    };
    let many_rows = batch(vec![
        sequence(120, Readout::None),
        sequence(120, Readout::None),
        sequence(120, Readout::None),
    ]);
    let many_sequences = batch(vec![sequence(1, Readout::None); 17]);
    let many_probes = batch(vec![sequence(
        1,
        Readout::Probe {
            tokens: vec![1; 100_000],
        },
    )]);
    let score = batch(vec![sequence(1, Readout::Score)]);
    for refused in [many_rows, many_sequences, many_probes, score] {
        let outcome = model.forward(&refused, StepOutput::default());
        assert!(matches!(outcome, Err(StepError::InvalidBatch(_))), "{outcome:?}");
        let sound = batch(vec![sequence(3, Readout::Logits)]);
        let output = model.forward(&sound, StepOutput::default()).unwrap();
        assert_eq!(output.logits.len(), model.limits().vocab_size);
    }
    assert!(matches!(model.wait(), Err(StepError::NotSubmitted)));
}
