//! The whole decoder over emulated kernels, on the golden checkpoints of all families.

use babelward::{
    backend::{Backend as _, LanguageModel, Readout, cpu::CpuBackend},
    model::spec::Precision,
};

use crate::{
    card::EmulatedCard,
    common::{golden, load_options},
    library::KERNELS,
    models::{self, ENOUGH, Part, checkpoints, logits, prompt},
    queue::Timing,
};

/// Sum of the squares of logits, and of how far they are off.
#[derive(Default)]
struct Errors {
    squares: f64,
    off: f64,
}

impl Errors {
    fn add(&mut self, found: &[f32], exact: &[f32]) {
        assert_eq!(found.len(), exact.len());
        for (found, exact) in found.iter().zip(exact) {
            self.squares += f64::from(*exact).powi(2);
            self.off += f64::from(found - exact).powi(2);
        }
    }

    /// The size of errors in relation to the size of logits.
    fn relative(&self) -> f64 {
        (self.off / self.squares).sqrt()
    }
}

/// Rounded in the same places, the card's logits are as far from the exact ones as the processor's.
#[test]
fn logits_are_as_exact_as_the_processors_in_bf16() {
    let cpu = CpuBackend::new(2);
    for name in checkpoints() {
        let folder = golden("models").join(&name);
        let gguf = folder.join("model.gguf");
        let tokens = prompt(&name);
        for path in [&folder, &gguf].into_iter().filter(|path| path.exists()) {
            let exact = cpu
                .load(path, &[], &load_options(Precision::F32, 1 << 20))
                .unwrap();
            let rounded = cpu
                .load(path, &[], &load_options(Precision::Bf16, 1 << 20))
                .unwrap();
            let (mut exact, mut rounded) = (exact.model, rounded.model);
            let mut card = models::open(path, Timing::Late).model;
            let (mut ours, mut theirs) = (Errors::default(), Errors::default());
            for len in [1, 17, 40, 64, 83, 100, 127, 150] {
                let tokens = &tokens[..len];
                let exact = logits(&mut *exact, tokens);
                ours.add(&logits(&mut *card, tokens), &exact);
                theirs.add(&logits(&mut *rounded, tokens), &exact);
            }
            let (ours, theirs) = (ours.relative(), theirs.relative());
            assert!(
                ours < 1.5 * theirs,
                "{}: the card is off by {ours}, the processor by {theirs}",
                path.display()
            );
            assert!(theirs < 0.05, "{}: {theirs}", path.display());
        }
    }
}

/// Bits of all rows of a prompt, read one at a time.
fn one_at_a_time(model: &mut dyn LanguageModel, tokens: &[u32], blocks: &[u32]) -> Vec<Vec<u32>> {
    let mut rows = Vec::new();
    for context in 0..tokens.len() {
        let part = Part {
            tokens: &tokens[context..=context],
            context,
            blocks,
            readout: Readout::Logits,
        };
        rows.push(bits(&models::step(model, &[part]).logits));
    }
    rows
}

fn bits(logits: &[f32]) -> Vec<u32> {
    assert!(logits.iter().all(|logit| logit.is_finite()));
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The same bits alone and in company, whole and in chunks, on scattered blocks, recorded and not, early and late.
#[test]
fn bits_do_not_depend_on_company_chunks_blocks_or_recordings() {
    for name in checkpoints() {
        let path = golden("models").join(&name);
        let tokens = prompt(&name);
        let tokens = &tokens[..50];
        let mut alone = models::open(&path, Timing::Early).model;
        let own: Vec<u32> = (0..4).collect();
        let expected = one_at_a_time(&mut *alone, tokens, &own);

        // Other orders of threads; and attention in segments, though there is little of it.
        KERNELS.set(7, true);
        let card = EmulatedCard::new(Timing::Late, ENOUGH).with_multiprocessors(1000);
        let mut model = models::backend(card)
            .load(&path, &[], &models::options())
            .unwrap()
            .model;
        let scattered = [9, 2, 11, 5];
        let other = [3, 7, 1, 8];
        // A first chunk beside another sequence's, which is not read.
        let first = Part {
            tokens: &tokens[..21],
            context: 0,
            blocks: &scattered,
            readout: Readout::Logits,
        };
        let stranger = Part {
            tokens: &tokens[3..40],
            context: 0,
            blocks: &other,
            readout: Readout::None,
        };
        let output = models::step(&mut *model, &[stranger, first]);
        assert_eq!(bits(&output.logits), expected[20], "{name}: a chunk in company");
        // The rest of the prompt but for its last tokens, in one chunk.
        let second = Part {
            tokens: &tokens[21..46],
            context: 21,
            blocks: &scattered,
            readout: Readout::Logits,
        };
        let output = models::step(&mut *model, &[second]);
        assert_eq!(bits(&output.logits), expected[45], "{name}: a second chunk");
        // Decode steps of both sequences, which are recorded.
        for (context, expected) in expected.iter().enumerate().skip(46) {
            let decode = |context: usize, blocks| Part {
                tokens: std::slice::from_ref(&tokens[context]),
                context,
                blocks,
                readout: Readout::Logits,
            };
            let others = Part {
                context: context - 9,
                ..decode(context - 6, &other)
            };
            let output = models::step(&mut *model, &[others, decode(context, &scattered)]);
            let row = output.row(1, model.limits().vocab_size).unwrap();
            assert_eq!(&bits(row), expected, "{name}: decode at {context}");
        }
    }
}
