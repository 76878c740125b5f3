//! LoRA adapters on an emulated card.

use babelward::{
    backend::{
        AdapterIndex, Backend as _, BatchSequence, ForwardBatch, LanguageModel, Readout, StepOutput,
        cpu::CpuBackend,
    },
    model::spec::{Precision, TokenKind},
};

use crate::{
    card::EmulatedCard,
    common::golden,
    models::{self, ENOUGH, options, prompt},
    queue::Timing,
};

/// Logits of four sequences: the model's own and each adapter's, one of them twice.
fn rows(model: &mut dyn LanguageModel, tokens: &[u32]) -> Vec<Vec<f32>> {
    let adapters = [
        None,
        Some(AdapterIndex(0)),
        Some(AdapterIndex(1)),
        Some(AdapterIndex(0)),
    ];
    let blocks = tokens.len().div_ceil(16) as u32;
    let sequences = adapters.iter().zip(0..).map(|(adapter, sequence)| BatchSequence {
        new_tokens: tokens.len(),
        context: 0,
        kind: TokenKind::Prompt,
        block_table: (sequence * blocks..(sequence + 1) * blocks).collect(),
        adapter: *adapter,
        readout: Readout::Logits,
    });
    let batch = ForwardBatch {
        sequences: sequences.collect(),
        tokens: tokens.repeat(adapters.len()),
    };
    let output = model.forward(&batch, StepOutput::default()).unwrap();
    let width = model.limits().vocab_size;
    (0..adapters.len())
        .map(|row| output.row(row, width).unwrap().to_vec())
        .collect()
}

#[test]
fn adapters_change_their_own_sequences_as_on_the_processor() {
    for name in ["qwen2", "phi3-window", "gemma2", "llama3-rope-tied-bf16"] {
        let base = golden("models").join(name);
        let adapters = ["dummy:4".into(), "dummy:9".into()];
        let tokens = &prompt(name)[..30];
        let cpu = CpuBackend::new(2);
        let on_cpu = |precision| {
            let options = babelward::backend::LoadOptions {
                precision,
                ..options()
            };
            let mut loaded = cpu.load(&base, &adapters, &options).unwrap();
            rows(&mut *loaded.model, tokens)
        };
        let (exact, rounded) = (on_cpu(Precision::F32), on_cpu(Precision::Bf16));
        let backend = models::backend(EmulatedCard::new(Timing::Late, ENOUGH));
        let mut loaded = backend.load(&base, &adapters, &options()).unwrap();
        assert_eq!(
            loaded
                .adapters
                .iter()
                .map(|adapter| adapter.rank)
                .collect::<Vec<_>>(),
            [4, 9]
        );
        let ours = rows(&mut *loaded.model, tokens);
        let off = |rows: &[Vec<f32>]| {
            let values = rows.iter().flatten().zip(exact.iter().flatten());
            values.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
        };
        assert!(
            off(&ours) < 2.0 * off(&rounded),
            "{name}: {} {}",
            off(&ours),
            off(&rounded)
        );
        // One adapter's two sequences have the same bits, and others have others.
        assert_eq!(ours[1], ours[3], "{name}");
        assert!(ours[0] != ours[1] && ours[1] != ours[2], "{name}");
        // The model's own sequence has the same bits beside adapters as alone.
        let mut alone = models::open(&base, Timing::Early).model;
        assert_eq!(ours[0], models::logits(&mut *alone, tokens), "{name}");
    }
}
