//! A made-up model computes a prompt alone, beside another prompt and in two chunks, and an answer alone and beside a prompt, and
//! the results are compared.

use std::path::Path;

use super::{last_logits::last_logits, verdict::unusable};
use crate::backend::{
    Backend, BatchLimits, BatchSequence, DecodeLaunch, Determinism, DeviceFinding, FindingStatus,
    ForwardBatch, LanguageModel, LoadOptions, Readout,
};
use crate::model::spec::{Precision, TokenKind};

/// The made-up model: of a shape that loads in milliseconds, with quantised weights, which every precision computes.
const MODEL: &str = "dummy:tiny:q8_0";

/// Bytes of its KV pool.
const KV_BYTES: usize = 1 << 20;

/// Tokens of the prompt that is compared: a block of the KV cache and a part of the next.
const PROMPT_TOKENS: usize = 23;

/// Tokens of its first chunk, where it is computed in two.
const CHUNK_TOKENS: usize = 9;

/// Loads the made-up model in this precision and compares what it computes. The check fails when the model promises equal
/// bits and they differ, or when a logit is not a number.
pub(super) fn of_model(backend: &dyn Backend, precision: Precision) -> DeviceFinding {
    let (found, status) = match compared(backend, precision) {
        Ok(compared) => compared,
        Err(error) => (error, unusable()),
    };
    DeviceFinding {
        subject: format!("a made-up model in {}", precision.name()),
        found,
        status,
    }
}

/// Loads the made-up model in this precision, and compares its logits with those that the host's processor computes in f32.
pub(super) fn against_processor(
    backend: &dyn Backend,
    precision: Precision,
    processor: &dyn Backend,
) -> DeviceFinding {
    let (found, status) = match difference(backend, precision, processor) {
        Ok(difference) => {
            let found = format!(
                "the logits of a prompt differ from the processor's exact ones by {:.2} % of their size",
                difference * 100.0
            );
            let status = match difference <= MOST_DIFFERENCE {
                true => FindingStatus::Ok,
                false => unusable(),
            };
            (found, status)
        }
        Err(error) => (error, unusable()),
    };
    DeviceFinding {
        subject: format!("a made-up model in {} beside the processor's", precision.name()),
        found,
        status,
    }
}

/// By how much logits may differ from the exact ones, in parts of their size. Rounding to bf16 makes about a tenth of that.
const MOST_DIFFERENCE: f64 = 0.05;

fn difference(backend: &dyn Backend, precision: Precision, processor: &dyn Backend) -> Result<f64, String> {
    let row = |backend: &dyn Backend, precision| {
        let loaded = backend.load(Path::new(MODEL), &[], &options(precision));
        let mut loaded = loaded.map_err(|error| error.to_string())?;
        last_row(loaded.model.as_mut(), &[Part::whole(0)])
    };
    let found = row(backend, precision)?;
    let exact = row(processor, Precision::F32)?;
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let off = squares(&mut found.iter().zip(&exact).map(|(a, b)| a - b));
    let difference = (off / squares(&mut exact.iter().copied())).sqrt();
    match difference.is_finite() {
        true => Ok(difference),
        false => Err("the step returned logits that are no numbers".to_owned()),
    }
}

fn options(precision: Precision) -> LoadOptions {
    LoadOptions {
        kv_bytes: KV_BYTES,
        max_context: None,
        precision,
        batch: BatchLimits {
            sequences: 2,
            tokens: 2 * PROMPT_TOKENS,
        },
        decode: DecodeLaunch::Recorded,
    }
}

fn compared(backend: &dyn Backend, precision: Precision) -> Result<(String, FindingStatus), String> {
    let loaded = backend.load(Path::new(MODEL), &[], &options(precision));
    let mut loaded = loaded.map_err(|error| error.to_string())?;
    let model = loaded.model.as_mut();
    let alone = last_row(model, &[Part::whole(0)])?;
    let beside = last_row(model, &[Part::whole(1), Part::whole(0)])?;
    last_row(model, &[Part::first_chunk(0)])?;
    let chunked = last_row(model, &[Part::second_chunk(0)])?;
    let answer = last_row(model, &[Part::answer(0)])?;
    let answer_beside = last_row(model, &[Part::whole(1), Part::answer(0)])?;
    let pairs = [(&alone, &beside), (&alone, &chunked), (&answer, &answer_beside)];
    let values = pairs.into_iter().flat_map(|(one, other)| one.iter().zip(other));
    let difference = values.fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    if difference == 0.0 {
        let found = "a prompt has the same logits alone, beside another and in two chunks, and so has an answer alone and \
                     beside a prompt";
        return Ok((found.to_owned(), FindingStatus::Ok));
    }
    let found = format!(
        "the logits of a prompt alone, beside another and in two chunks, or of an answer alone and beside a prompt, differ \
         by up to {difference:e}"
    );
    let status = match loaded.determinism {
        Determinism::BatchInvariant => unusable(),
        Determinism::BestEffort => FindingStatus::Ok,
    };
    Ok((found, status))
}

/// Tokens of a prompt, or of an answer to its beginning, that are computed in one step.
struct Part {
    /// Which prompt; each has blocks of its own.
    prompt: usize,
    kind: TokenKind,
    first: usize,
    end: usize,
}

impl Part {
    fn whole(prompt: usize) -> Self {
        Self {
            prompt,
            kind: TokenKind::Prompt,
            first: 0,
            end: PROMPT_TOKENS,
        }
    }

    fn first_chunk(prompt: usize) -> Self {
        Self {
            end: CHUNK_TOKENS,
            ..Self::whole(prompt)
        }
    }

    fn second_chunk(prompt: usize) -> Self {
        Self {
            first: CHUNK_TOKENS,
            ..Self::whole(prompt)
        }
    }

    /// The tokens of the second chunk, as if the model had written them.
    fn answer(prompt: usize) -> Self {
        Self {
            kind: TokenKind::Generated,
            ..Self::second_chunk(prompt)
        }
    }
}

/// The logits after the last of these parts, which are computed in one step.
fn last_row(model: &mut dyn LanguageModel, parts: &[Part]) -> Result<Vec<f32>, String> {
    let (vocabulary, blocks) = {
        let limits = model.limits();
        (limits.vocab_size, PROMPT_TOKENS.div_ceil(limits.block_size))
    };
    let mut batch = ForwardBatch::default();
    for part in parts {
        let tokens = (part.first..part.end).map(|position| token(part.prompt, position, vocabulary));
        batch.tokens.extend(tokens);
        let first_block = part.prompt * blocks;
        let block = |block| u32::try_from(block).unwrap_or(u32::MAX);
        batch.sequences.push(BatchSequence {
            new_tokens: part.end - part.first,
            context: part.first,
            kind: part.kind,
            block_table: (first_block..first_block + blocks).map(block).collect(),
            adapter: None,
            readout: Readout::Logits,
        });
    }
    last_logits(model, &batch)
}

/// A token of a prompt: any will do, as long as prompts differ.
fn token(prompt: usize, position: usize, vocabulary: usize) -> u32 {
    let id = (prompt * 7919 + position * 31) % vocabulary.max(1);
    u32::try_from(id).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;

    #[test]
    fn the_processor_passes_in_every_precision() {
        for finding in CpuBackend::new(2).self_test() {
            assert_eq!(finding.status, FindingStatus::Ok, "{finding:?}");
        }
    }

    #[test]
    fn a_prompt_of_other_tokens_has_other_logits() {
        let options = options(Precision::F32);
        let mut loaded = CpuBackend::new(1).load(Path::new(MODEL), &[], &options).unwrap();
        let row = |prompt| last_row(loaded.model.as_mut(), &[Part::whole(prompt)]).unwrap();
        let [first, second] = [0, 1].map(row);
        assert_ne!(first, second);
    }
}
