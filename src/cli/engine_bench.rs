//! `engine-bench`: raw speed of prefill and batched decode, without server or sampling, as llama-bench
//! measures it; and what a card can do at best. JSON objects on standard output, each on a line.

use std::{path::PathBuf, time::Instant};

use serde_json::json;

use super::devices::{Machine as _, ThisMachine};
use crate::{
    backend::{
        Backend, BatchLimits, DecodeLaunch, DeviceMemory, Footprint, LoadOptions, Readout,
        cpu::CpuBackend,
        speed::{Rehearsal, SpeedRun},
    },
    memory,
    model::spec::{DeviceName, PrecisionChoice},
};

/// Arguments of `engine-bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A GGUF file, a folder with safetensors, or `dummy:SHAPE[:FORMAT[:WINDOW]]`, which makes weights up; WINDOW is the longest
    /// sequence in tokens, 8192 unless given.
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
    /// How the model computes: auto, mixed, int8, bf16 or f32. auto is the fastest on the device.
    #[arg(long, value_name = "PRECISION", default_value = "int8")]
    precision: PrecisionChoice,
    /// Prompt tokens of each sequence.
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    prompt_tokens: usize,
    /// Tokens that all prompts begin with: a multiple of the KV blocks of the device. They are computed before the clock
    /// starts, and not counted.
    #[arg(long, value_name = "TOKENS", default_value_t = 0, value_parser = number, conflicts_with = "adapters")]
    shared_tokens: usize,
    /// Tokens decoded by each sequence.
    #[arg(long, default_value_t = 64, value_parser = number)]
    decode_tokens: usize,
    /// Sequences decoded together. Several numbers, separated by commas, are measured one after the other with the model
    /// loaded once, and each has a line.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = at_least_one)]
    sequences: Vec<usize>,
    /// Most tokens of a step: prompts with more of them take several. Without it, all prompts are computed in one step.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    max_batch_tokens: Option<usize>,
    /// Launch the kernels of each decode step one by one, where a card would carry out a recording of an earlier step.
    #[arg(long)]
    no_graphs: bool,
    /// Measure what the card can do at best, in place of the model: copies inside of its memory, and products in the model's
    /// shapes. No weights are read.
    #[arg(
        long,
        conflicts_with_all = [
            "adapters", "prompt_tokens", "shared_tokens", "decode_tokens", "sequences", "max_batch_tokens", "no_graphs",
            "profile",
        ]
    )]
    ceilings: bool,
    /// Print where the time goes, too: behind the measurements, for each one a line with the operations of prefill and one with
    /// those of decode, each with its share of the time. Of the processor only.
    #[arg(long)]
    profile: bool,
}

/// Measures, and prints JSON objects.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.no_graphs && !matches!(args.device, DeviceName::Cuda(_)) {
        anyhow::bail!(
            "--no-graphs: only NVIDIA cards record decode steps, and the device is {}; leave it out, or name a card with \
             --device cuda:N",
            args.device
        );
    }
    if args.profile && args.device != DeviceName::Cpu {
        anyhow::bail!(
            "--profile: only operations of the processor are timed, and the device is {}; leave it out, or use --device cpu",
            args.device
        );
    }
    let machine = ThisMachine {
        threads: args.threads,
    };
    let backend = machine.open(args.device)?;
    match args.ceilings {
        true => measure_ceilings(args, &*backend),
        false => measure_speeds(args, &*backend),
    }
}

fn measure_ceilings(args: &Args, backend: &dyn Backend) -> anyhow::Result<()> {
    let ceilings = backend.ceilings(&args.model)?;
    let products: Vec<_> = ceilings
        .products
        .iter()
        .map(|product| {
            json!({
                "outputs": product.outputs, "inputs": product.inputs, "rows": product.rows,
                "flop_s": product.flop_per_second,
            })
        })
        .collect();
    let report = json!({
        "model": args.model, "device": args.device.to_string(), "architecture": backend.device().architecture,
        "copy_bytes_s": ceilings.copy_bytes_per_second, "products": products,
        "row_bits_agree": ceilings.row_bits_agree,
    });
    println!("{report}");
    Ok(())
}

fn measure_speeds(args: &Args, backend: &dyn Backend) -> anyhow::Result<()> {
    let runs: Vec<SpeedRun> = args
        .sequences
        .iter()
        .map(|count| args.run(*count, backend))
        .collect();
    let largest = runs.iter().map(SpeedRun::batch_limits).reduce(larger);
    let mut options = LoadOptions {
        kv_bytes: 0,
        max_context: None,
        precision: backend
            .effective_precision(&args.model, args.precision.or(backend.device().best_precision)),
        batch: largest.unwrap_or(BatchLimits {
            sequences: 1,
            tokens: 1,
        }),
        decode: match args.no_graphs {
            true => DecodeLaunch::Direct,
            false => DecodeLaunch::Recorded,
        },
    };
    let footprint = backend.footprint(&args.model, &args.adapters, &options)?;
    for run in &runs {
        run.check(footprint.block_tokens, footprint.context_length)?;
    }
    options.kv_bytes = pool_bytes(&runs, &footprint)?;
    let before = backend.memory();
    if before.is_none() {
        check_host_memory(options.kv_bytes, &footprint)?;
    }
    let started = Instant::now();
    let mut loaded = backend.load(&args.model, &args.adapters, &options)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let device_bytes = taken(before, backend.memory());
    for run in &runs {
        let speed = run.measure(loaded.model.as_mut())?;
        let report = json!({
            "model": args.model, "dtype": loaded.dtype, "precision": loaded.precision.name(), "device": args.device.to_string(), "threads": args.threads, "sequences": run.sequences,
            "adapters": args.adapters.len(), "window": footprint.context_length,
            "prompt_tokens": run.prompt_tokens, "shared_tokens": run.shared_tokens, "decode_tokens": run.decode_tokens,
            "graphs": matches!(args.device, DeviceName::Cuda(_)) && !args.no_graphs,
            "load_s": load_seconds,
            "prefill_tok_s": speed.prefill_tokens_per_second,
            "decode_tok_s": speed.decode_tokens_per_second,
            "resident_bytes": loaded.weight_bytes + loaded.kv_bytes,
            "kv_bytes": loaded.kv_bytes,
            "device_bytes": device_bytes,
            "adapter_bytes": loaded.adapters.iter().map(|adapter| adapter.resident_bytes).sum::<u64>(),
        });
        println!("{report}");
    }
    // The model is loaded again for its profile.
    drop(loaded);
    if args.profile {
        for run in &runs {
            print_profile(args, &options, run)?;
        }
    }
    Ok(())
}

/// Measures a run once more, with a clock around each operation, and prints the operations of each phase.
fn print_profile(args: &Args, options: &LoadOptions, run: &SpeedRun) -> anyhow::Result<()> {
    let cpu = CpuBackend::new(args.threads);
    let profile = cpu.profile(&args.model, &args.adapters, options, run)?;
    for (phase, operations) in [("prefill", &profile.prefill), ("decode", &profile.decode)] {
        let all: f64 = operations.iter().map(|one| one.time.as_secs_f64()).sum();
        let operations = operations.iter().map(|one| {
            let seconds = one.time.as_secs_f64();
            json!({"operation": one.operation, "calls": one.calls, "seconds": seconds, "share": seconds / all})
        });
        let report = json!({
            "profile": phase, "sequences": run.sequences, "operations": operations.collect::<Vec<_>>(),
        });
        println!("{report}");
    }
    Ok(())
}

impl Args {
    fn run(&self, sequences: usize, backend: &dyn Backend) -> SpeedRun {
        SpeedRun {
            sequences,
            prompt_tokens: self.prompt_tokens,
            shared_tokens: self.shared_tokens,
            decode_tokens: self.decode_tokens,
            step_tokens: self.max_batch_tokens.unwrap_or(usize::MAX),
            adapters: self.adapters.len(),
            readout: match backend.memory() {
                // Rows of logits are in the host's memory anyhow.
                None => Readout::Logits,
                // Only the most likely token leaves the device, as in the service for greedy answers and for verdicts.
                Some(_) => Readout::Probe { tokens: Vec::new() },
            },
            rehearsal: Rehearsal::of(backend.device().execution),
        }
    }
}

/// The most that any number of sequences or tokens may be.
const MOST: usize = 1 << 20;

/// A number of tokens, or of sequences, that may be 0.
fn number(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(number) if number <= MOST => Ok(number),
        Ok(_) => Err(format!("it has to be at most {MOST}")),
        Err(error) => Err(error.to_string()),
    }
}

/// The same, where 0 would measure nothing.
fn at_least_one(text: &str) -> Result<usize, String> {
    match number(text)? {
        0 => Err("it has to be at least 1".to_owned()),
        number => Ok(number),
    }
}

fn larger(one: BatchLimits, other: BatchLimits) -> BatchLimits {
    BatchLimits {
        sequences: one.sequences.max(other.sequences),
        tokens: one.tokens.max(other.tokens),
    }
}

/// Bytes of the KV pool that the largest run needs.
fn pool_bytes(runs: &[SpeedRun], footprint: &Footprint) -> anyhow::Result<usize> {
    let blocks = runs.iter().map(|run| run.blocks(footprint.block_tokens)).max();
    // No pool has fewer than two.
    let blocks = blocks.unwrap_or(0).max(2);
    let bytes = (blocks as u64).checked_mul(footprint.kv_block_bytes);
    bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| {
            anyhow::anyhow!(
                "{blocks} KV blocks of {} bytes are more than any memory has; lower --sequences",
                footprint.kv_block_bytes
            )
        })
}

/// Refuses a run that the host has no memory for. Devices with memory of their own refuse it by themselves.
fn check_host_memory(kv_bytes: usize, footprint: &Footprint) -> anyhow::Result<()> {
    let needed = footprint.weight_bytes + footprint.scratch_bytes + kv_bytes as u64;
    let Some(available) = memory::available() else {
        return Ok(());
    };
    anyhow::ensure!(
        needed <= available.bytes,
        "{} bytes of memory are available, and this takes {needed}: {} for weights, {kv_bytes} for keys and values, {} for \
         buffers; lower --sequences, the numbers of tokens, or --max-batch-tokens",
        available.bytes,
        footprint.weight_bytes,
        footprint.scratch_bytes,
    );
    Ok(())
}

/// Bytes of a device's own memory that are taken since it was looked at before, as the device says; what other processes took
/// or freed meanwhile is in it.
fn taken(before: Option<DeviceMemory>, after: Option<DeviceMemory>) -> Option<u64> {
    Some(before?.free.saturating_sub(after?.free))
}
