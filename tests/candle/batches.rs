//! Ragged batches on scattered blocks, in chunks, with windows and adapters, beside the CPU's own backend.

use std::path::PathBuf;

use babelward::{
    backend::{
        AdapterIndex, BatchSequence, ForwardBatch, LanguageModel, NULL_BLOCK, Reading, Readout, StepOutput,
    },
    model::spec::Precision,
};

use crate::common::{
    both, candle, checkpoints, distance, forward, golden, golden_file, load_options, sequence, tokens, whole,
};
use babelward::backend::Backend as _;

/// How far logits of both backends may be apart in f32: both are that near to transformers.
const F32: f32 = 2e-4;
/// Blocks that each sequence has for itself, of the pool's.
const BLOCKS: usize = 10;

/// A sequence that is computed in chunks.
struct Chunked {
    tokens: Vec<u32>,
    done: usize,
    chunk: usize,
    blocks: Vec<u32>,
    adapter: Option<AdapterIndex>,
}

impl Chunked {
    /// Prompts of different lengths, cut into chunks of different sizes, whose blocks are strewn over the pool.
    fn some(prompt: &[u32], adapters: usize) -> Vec<Self> {
        let lengths = [1, 16, 33, 70, 110, 150];
        lengths
            .iter()
            .enumerate()
            .map(|(index, &length)| Self {
                tokens: prompt[..length].iter().rev().copied().collect(),
                done: 0,
                chunk: 5 + 11 * index,
                // Another order of blocks for each, and no block twice.
                blocks: (0..BLOCKS)
                    .map(|block| ((block * 7 + 3) % BLOCKS * lengths.len() + index) as u32)
                    .collect(),
                adapter: (index % (adapters + 1)).checked_sub(1).map(AdapterIndex),
            })
            .collect()
    }

    /// The next chunk of a sequence in a batch, and its tokens; `None` when all is done. Blocks that no window reaches any more
    /// are not named.
    fn next(&mut self, model: &dyn LanguageModel) -> Option<(BatchSequence, &[u32])> {
        let context = self.done;
        let count = self.chunk.min(self.tokens.len() - context);
        if count == 0 {
            return None;
        }
        self.done += count;
        let mut blocks = self.blocks.clone();
        blocks[..model.limits().unseen_blocks(context)].fill(NULL_BLOCK);
        let sequence = BatchSequence {
            adapter: self.adapter,
            readout: match self.done == self.tokens.len() {
                true => Readout::Logits,
                false => Readout::None,
            },
            ..sequence(context, count, blocks)
        };
        Some((sequence, &self.tokens[context..self.done]))
    }
}

/// The last logits of all sequences, in batches of a chunk of each.
fn in_batches(model: &mut dyn LanguageModel, mut sequences: Vec<Chunked>) -> Vec<Vec<f32>> {
    let mut logits = vec![Vec::new(); sequences.len()];
    loop {
        let mut batch = ForwardBatch::default();
        let mut read = Vec::new();
        for (index, sequence) in sequences.iter_mut().enumerate() {
            if let Some((next, tokens)) = sequence.next(model) {
                if next.readout == Readout::Logits {
                    read.push(index);
                }
                batch.tokens.extend(tokens);
                batch.sequences.push(next);
            }
        }
        if batch.sequences.is_empty() {
            return logits;
        }
        for (index, row) in read.into_iter().zip(forward(model, &batch)) {
            logits[index] = row;
        }
    }
}

fn check(path: PathBuf, adapters: &[PathBuf], prompt: &[u32]) {
    let [mut ours, mut cpu] = both(&path, adapters, Precision::F32);
    let sequences = || Chunked::some(prompt, adapters.len());
    let found = in_batches(&mut *ours.model, sequences());
    let expected = in_batches(&mut *cpu.model, sequences());
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = distance(found, expected);
        assert!(
            error < F32,
            "{}: sequence {index} is off by {error}",
            path.display()
        );
    }
    // The same batches again: the same bits.
    assert!(
        found == in_batches(&mut *ours.model, sequences()),
        "{}",
        path.display()
    );
}

#[test]
fn every_checkpoint_in_ragged_batches_of_chunks_on_scattered_blocks() {
    for (name, formats) in checkpoints() {
        let prompt = tokens(&golden_file(&golden("models").join(name))["tokens"]);
        for path in formats {
            check(path, &[], &prompt);
        }
    }
}

#[test]
fn sequences_with_and_without_adapters_share_batches() {
    let mut bases = 0;
    for names in [
        &["llama-bf16", "llama-patterns"][..],
        &["gemma2"],
        &["phi3-fused"],
        &["qwen2-one-layer"],
    ] {
        let adapters: Vec<PathBuf> = names.iter().map(|name| golden("adapters").join(name)).collect();
        let about = golden_file(&adapters[0]);
        let base = golden("models").join(about["base"].as_str().unwrap());
        check(base, &adapters, &tokens(&about["tokens"]));
        bases += 1;
    }
    assert_eq!(bases, 4);
}

/// A prefix that one sequence has computed is read by another, as the engine's prefix cache has it.
#[test]
fn a_cached_prefix_is_as_good_as_one_that_is_computed() {
    for name in ["gqa-untied-f32", "gemma3", "phi3-longrope", "cohere2"] {
        let folder = golden("models").join(name);
        let prompt = tokens(&golden_file(&folder)["tokens"]);
        let mut loaded = candle()
            .load(&folder, &[], &load_options(Precision::F32, 4 << 20))
            .unwrap();
        let whole = whole(&mut loaded, &prompt[..100]);
        // The first 64 tokens stay in blocks 0 to 3; the rest is computed once more elsewhere.
        let batch = ForwardBatch {
            tokens: prompt[64..100].to_vec(),
            sequences: vec![sequence(64, 36, vec![0, 1, 2, 3, 17, 11, 14])],
        };
        let error = distance(&forward(&mut *loaded.model, &batch)[0], &whole);
        assert!(error < F32, "{name}: {error}");
    }
}

#[test]
fn probes_and_rows_that_are_not_read_come_as_asked() {
    let folder = golden("models/qwen3");
    let prompt = tokens(&golden_file(&folder)["tokens"]);
    let [ours, cpu] = both(&folder, &[], Precision::F32).map(|mut loaded| {
        let readouts = [
            Readout::None,
            Readout::Probe {
                tokens: vec![3, 77, 1 << 20],
            },
            Readout::Logits,
        ];
        let sequences = readouts
            .into_iter()
            .enumerate()
            .map(|(index, readout)| BatchSequence {
                readout,
                ..sequence(0, 10, vec![index as u32])
            });
        let batch = ForwardBatch {
            tokens: prompt[..30].to_vec(),
            sequences: sequences.collect(),
        };
        loaded.model.forward(&batch, StepOutput::default()).unwrap()
    });
    let [Reading::Probe(found), Reading::Logits { row: 1 }] = &ours.readings[..] else {
        panic!("{:?}", ours.readings);
    };
    let Reading::Probe(expected) = &cpu.readings[0] else {
        panic!("{:?}", cpu.readings);
    };
    assert_eq!(found.most_likely, expected.most_likely);
    assert_eq!(found.log_probabilities[2], f64::NEG_INFINITY);
    for (a, b) in found
        .log_probabilities
        .iter()
        .zip(&expected.log_probabilities)
        .take(2)
    {
        assert!((a - b).abs() < f64::from(F32), "{a} {b}");
    }
    let width = 128;
    assert!(distance(ours.row(1, width).unwrap(), cpu.row(1, width).unwrap()) < F32);
}
