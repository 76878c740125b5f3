//! What `mixed` computes for each kind of token, beside what `bf16` computes.

use std::path::PathBuf;

use babelward::{
    backend::{
        Backend, BatchSequence, ForwardBatch, GeneratedTokens, LanguageModel, Reading, Readout, StepOutput,
        cpu::CpuBackend,
    },
    model::spec::{Precision, TokenKind},
};

use crate::common::{golden, load_options};

/// Blocks of the KV pool that a sequence has.
const BLOCKS: u32 = 4;

/// Tokens of a sequence that are computed in a step.
#[derive(Clone, Copy)]
struct Part {
    /// Which sequence; each has blocks of its own.
    sequence: u32,
    kind: TokenKind,
    context: usize,
    new_tokens: usize,
    is_read: bool,
}

impl Part {
    fn prompt(sequence: u32, new_tokens: usize) -> Self {
        Self {
            sequence,
            kind: TokenKind::Prompt,
            context: 0,
            new_tokens,
            is_read: true,
        }
    }

    fn generated(sequence: u32, context: usize, new_tokens: usize) -> Self {
        Self {
            kind: TokenKind::Generated,
            context,
            ..Self::prompt(sequence, new_tokens)
        }
    }

    fn unread(self) -> Self {
        Self {
            is_read: false,
            ..self
        }
    }
}

fn open(path: impl Into<PathBuf>, precision: Precision) -> Box<dyn LanguageModel> {
    let path: PathBuf = path.into();
    let loaded = CpuBackend::new(2).load(&path, &[], &load_options(precision, 1 << 20));
    loaded.unwrap().model
}

/// The logits after each part that is read, in the order of the parts.
fn step(model: &mut dyn LanguageModel, parts: &[Part]) -> Vec<Vec<f32>> {
    let vocabulary = model.limits().vocab_size;
    let mut batch = ForwardBatch::default();
    for part in parts {
        let positions = part.context..part.context + part.new_tokens;
        let token = |position| ((part.sequence as usize * 7919 + position * 31) % vocabulary) as u32;
        batch.tokens.extend(positions.map(token));
        batch.sequences.push(BatchSequence {
            new_tokens: part.new_tokens,
            context: part.context,
            kind: part.kind,
            block_table: (part.sequence * BLOCKS..(part.sequence + 1) * BLOCKS).collect(),
            adapter: None,
            readout: match part.is_read {
                true => Readout::Logits,
                false => Readout::None,
            },
        });
    }
    let output = model.forward(&batch, StepOutput::default()).unwrap();
    let rows = output.readings.iter().map(|reading| match reading {
        Reading::Logits { row } => output.row(*row, vocabulary).unwrap().to_vec(),
        other => panic!("{other:?}"),
    });
    rows.collect()
}

#[test]
fn prompts_have_the_bits_of_bf16_and_generated_tokens_bits_of_their_own() {
    let [mut bf16, mut mixed] =
        [Precision::Bf16, Precision::Mixed].map(|precision| open("dummy:tiny:q8_0", precision));
    assert_eq!(bf16.generated_tokens(), GeneratedTokens::AsInPrompts);
    assert_eq!(mixed.generated_tokens(), GeneratedTokens::Apart);
    let prompt = [Part::prompt(0, 23)];
    assert_eq!(step(&mut *mixed, &prompt), step(&mut *bf16, &prompt));
    let as_prompt = [Part {
        kind: TokenKind::Prompt,
        ..Part::generated(0, 23, 1)
    }];
    let expected = step(&mut *bf16, &as_prompt);
    assert_eq!(step(&mut *mixed, &as_prompt), expected);
    let found = step(&mut *mixed, &[Part::generated(0, 23, 1)]);
    assert_ne!(found, expected);
    let norm =
        |row: &mut dyn Iterator<Item = f32>| row.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let off = norm(&mut found[0].iter().zip(&expected[0]).map(|(a, b)| a - b));
    assert!(
        off < 0.05 * norm(&mut expected[0].iter().copied()),
        "off by {off}"
    );
}

/// There is nothing to compute in integers, so a generated token is what it is in a prompt.
#[test]
fn weights_that_are_floats_are_computed_as_in_bf16_for_both_kinds() {
    let path = golden("models/llama3-rope-tied-bf16/model.gguf");
    let [mut bf16, mut mixed] = [Precision::Bf16, Precision::Mixed].map(|precision| open(&path, precision));
    assert_eq!(mixed.generated_tokens(), GeneratedTokens::AsInPrompts);
    for part in [
        Part::prompt(0, 20),
        Part::generated(0, 20, 5),
        Part::generated(0, 25, 1),
    ] {
        assert_eq!(step(&mut *mixed, &[part]), step(&mut *bf16, &[part]));
    }
}

/// The order of a batch is not that of the rows that products read. Readings come in the batch's order.
#[test]
fn a_batch_has_its_parts_of_both_kinds_in_any_order() {
    let mut model = open("dummy:tiny:q8_0", Precision::Mixed);
    let prompts = [0, 2, 4].map(|sequence| Part::prompt(sequence, 17 + sequence as usize));
    let parts = [
        Part::generated(2, 19, 3),
        Part::prompt(1, 30),
        Part::generated(0, 17, 1),
        Part::prompt(3, 9).unread(),
        Part::prompt(5, 1),
        Part::generated(4, 21, 2).unread(),
    ];
    let mut alone = Vec::new();
    for part in parts {
        step(&mut *model, &prompts);
        alone.extend(step(&mut *model, &[part]));
    }
    step(&mut *model, &prompts);
    // What is not read has other keys and values in its places now, so that it has to be stored again.
    let as_generated = Part::generated(3, 0, 9).unread();
    let as_prompt = Part {
        kind: TokenKind::Prompt,
        ..Part::generated(4, 21, 2)
    };
    step(&mut *model, &[as_generated, as_prompt.unread()]);
    let together = step(&mut *model, &parts);
    assert_eq!(together.len(), 4);
    assert_eq!(together, alone);
    // What was not read was stored all the same.
    let next = [Part::prompt(3, 9).unread(), Part::generated(4, 21, 2).unread()];
    let last = [Part::generated(3, 9, 1), Part::generated(4, 23, 1)];
    let after_all = step(&mut *model, &last);
    for part in next {
        step(&mut *model, &[part]);
    }
    let after_each: Vec<_> = last.iter().flat_map(|part| step(&mut *model, &[*part])).collect();
    assert_eq!(after_all, after_each);
}
