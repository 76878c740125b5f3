//! `engine-bench`: raw speed of prefill and batched decode, without server or sampling, as llama-bench
//! measures it. One JSON object on standard output.

use std::{path::PathBuf, time::Instant};

use anyhow::Context as _;
use serde_json::json;

use super::devices::{Machine as _, ThisMachine};
use crate::{
    backend::{AdapterIndex, BatchLimits, BatchSequence, ForwardBatch, LoadOptions, Readout, StepOutput},
    model::spec::{DeviceName, Precision},
};

/// Arguments of `engine-bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A GGUF file, a folder with safetensors, or `dummy:SHAPE[:FORMAT]`.
    #[arg(long)]
    model: PathBuf,
    /// A LoRA adapter, a PEFT folder, a GGUF file, or `dummy:RANK`; may be repeated. Sequences take turns: each
    /// adapter, then the model itself.
    #[arg(long = "adapter")]
    adapters: Vec<PathBuf>,
    /// The device: cpu, cuda:N, candle:cpu, candle:metal or candle:cuda:N.
    #[arg(long, default_value_t = DeviceName::Cpu)]
    device: DeviceName,
    /// Compute threads of the processor.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How the model computes: int8, bf16 or f32.
    #[arg(long, default_value = "int8")]
    precision: Precision,
    /// Prompt tokens of each sequence.
    #[arg(long, default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens decoded by each sequence.
    #[arg(long, default_value_t = 64)]
    decode_tokens: usize,
    /// Sequences decoded together.
    #[arg(long, default_value_t = 1)]
    sequences: usize,
}

/// Measures, and prints one JSON object.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let options = LoadOptions {
        kv_bytes: 2 << 30,
        max_context: None,
        precision: args.precision,
        batch: BatchLimits {
            sequences: args.sequences,
            tokens: args.sequences * args.prompt_tokens.max(1),
        },
    };
    let machine = ThisMachine {
        threads: args.threads,
    };
    let backend = machine.open(args.device)?;
    let started = Instant::now();
    let mut loaded = backend.load(&args.model, &args.adapters, &options)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let limits = loaded.model.limits().clone();
    let length = args.prompt_tokens + args.decode_tokens;
    let blocks = length.div_ceil(limits.block_size);
    anyhow::ensure!(
        length <= limits.context_length,
        "{length} tokens exceed the window of {}",
        limits.context_length
    );
    anyhow::ensure!(
        blocks * args.sequences <= limits.num_blocks,
        "the KV pool is too small for {} sequences",
        args.sequences
    );

    let mut batch = ForwardBatch::default();
    for sequence in 0..args.sequences {
        let first = (sequence * blocks) as u32;
        batch.sequences.push(BatchSequence {
            new_tokens: args.prompt_tokens,
            context: 0,
            block_table: (first..first + blocks as u32).collect(),
            adapter: adapter_of(sequence, args.adapters.len()),
            readout: Readout::Logits,
        });
        batch
            .tokens
            .extend((0..args.prompt_tokens).map(|i| pseudo_token(sequence * 7919 + i, limits.vocab_size)));
    }
    let output = StepOutput::default();
    // One short pass before the measurement, so that page faults and growing buffers are not part of it.
    let warm = ForwardBatch {
        tokens: batch.tokens[..args.prompt_tokens].to_vec(),
        sequences: batch.sequences[..1].to_vec(),
    };
    let output = loaded.model.forward(&warm, output).context("warm-up")?;
    let started = Instant::now();
    let mut output = loaded.model.forward(&batch, output).context("prefill")?;
    let prefill = started.elapsed().as_secs_f64();

    let started = Instant::now();
    for step in 0..args.decode_tokens {
        for (index, sequence) in batch.sequences.iter_mut().enumerate() {
            sequence.context = args.prompt_tokens + step;
            sequence.new_tokens = 1;
            batch.tokens[index] = pseudo_token(step * 31 + index, limits.vocab_size);
        }
        batch.tokens.truncate(args.sequences);
        output = loaded.model.forward(&batch, output).context("decode")?;
    }
    let decode = started.elapsed().as_secs_f64();
    let report = json!({
        "model": args.model, "dtype": loaded.dtype, "precision": args.precision.name(), "device": args.device.to_string(), "threads": args.threads, "sequences": args.sequences,
        "adapters": args.adapters.len(),
        "load_s": load_seconds,
        "prefill_tok_s": (args.prompt_tokens * args.sequences) as f64 / prefill,
        "decode_tok_s": if args.decode_tokens == 0 { 0.0 } else { (args.decode_tokens * args.sequences) as f64 / decode },
        "resident_bytes": loaded.weight_bytes + loaded.kv_bytes,
        "adapter_bytes": loaded.adapters.iter().map(|adapter| adapter.resident_bytes).sum::<u64>(),
    });
    println!("{report}");
    Ok(())
}

/// The adapter of a sequence. Sequences take turns: each adapter, then the model itself.
fn adapter_of(sequence: usize, adapters: usize) -> Option<AdapterIndex> {
    let turn = sequence % (adapters + 1);
    (turn < adapters).then_some(AdapterIndex(turn))
}

fn pseudo_token(index: usize, vocab_size: usize) -> u32 {
    (index.wrapping_mul(2_654_435_761) % vocab_size) as u32
}
