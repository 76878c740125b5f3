//! Where the time of a decoder's steps goes: the operations that it is made of, each timed as it is called.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    adapter::CpuAdapter,
    device::CpuBackend,
    kernels::{Linear, Norm},
    ops::{CpuOps, CpuStep},
};
use crate::{
    backend::{
        ForwardBatch, GeneratedTokens, LoadOptions, StepError, StepOutput,
        decoder::{
            Decoder,
            adapters::adapters_of,
            ops::{
                AdapterPoint, AttentionPoint, DecoderOps, Embedding, GatedFeedForward, GatedRows,
                LogitScaling, NormParameters, Output, PartError, RowSet,
            },
        },
        speed::{Phase, Speed, SpeedError, SpeedRun},
    },
    model::{
        AdapterWeights, EncoderKind, Extent, LoadError, open_decoder,
        spec::{Activation, AttentionLayer, MatrixSource, Rotation, VerdictHeads},
    },
};

/// One operation in the steps of a phase.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationTime {
    /// What was computed. A product is named with the numbers of its outputs and inputs.
    pub operation: String,
    /// How often.
    pub calls: u64,
    /// How long all calls together took.
    pub time: Duration,
}

/// The operations of a run, those that took longest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// How fast the run was, with the clock read twice for each operation.
    pub speed: Speed,
    /// Operations of the steps that computed prompts.
    pub prefill: Vec<OperationTime>,
    /// Operations of the steps that decoded.
    pub decode: Vec<OperationTime>,
}

/// Why a model has no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It has scores or labels in place of logits.
    #[error("{} has no logits of tokens: only models that write text have profiles", .0.display())]
    NoLogits(PathBuf),
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It cannot be measured.
    #[error(transparent)]
    Speed(#[from] SpeedError),
}

impl CpuBackend {
    /// Measures the decoder at `path`, and where the time of its steps goes.
    ///
    /// # Errors
    /// When it is no decoder with logits of tokens, cannot be loaded, or the run does not suit it.
    pub fn profile(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
        run: &SpeedRun,
    ) -> Result<Profile, ProfileError> {
        if EncoderKind::detect(path).is_some() || VerdictHeads::are_in(path) {
            return Err(ProfileError::NoLogits(path.to_owned()));
        }
        let times = Times::default();
        let mut decoder = open_decoder(path, |mut config, source| {
            let adapters = adapters_of(adapters, &config, source, |path, base| {
                CpuAdapter::pack(AdapterWeights::read(path, base, Extent::Whole)?)
            })?;
            let (ops, limits) = self.ops(&mut config, adapters, options)?;
            let ops = ProfiledOps {
                ops,
                times: times.clone(),
            };
            Ok(Decoder::load(&config, source, ops, limits)?.0)
        })?;
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        let speed = run.measure_phases(&mut decoder, &mut |phase| match phase {
            Phase::WarmUp => drop(times.take()),
            Phase::Prefill => prefill = times.take(),
            Phase::Decode => decode = times.take(),
        })?;
        Ok(Profile {
            speed,
            prefill,
            decode,
        })
    }
}

/// Calls of an operation, and the time that they took.
#[derive(Default)]
struct Total {
    calls: u64,
    time: Duration,
}

/// The times of all operations since they were last taken.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<HashMap<String, Total>>>);

impl Times {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Total>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, operation: String, time: Duration) {
        let mut totals = self.lock();
        let total = totals.entry(operation).or_default();
        total.calls += 1;
        total.time += time;
    }

    /// Takes the times, the longest first.
    fn take(&self) -> Vec<OperationTime> {
        let totals = std::mem::take(&mut *self.lock()).into_iter();
        let mut operations: Vec<_> = totals
            .map(|(operation, Total { calls, time })| OperationTime {
                operation,
                calls,
                time,
            })
            .collect();
        operations.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.operation.cmp(&b.operation)));
        operations
    }
}

/// The operations of the processor, each timed.
struct ProfiledOps {
    ops: CpuOps,
    times: Times,
}

impl ProfiledOps {
    /// Computes an operation with this name.
    fn timed<R>(&mut self, operation: impl Into<String>, compute: impl FnOnce(&mut CpuOps) -> R) -> R {
        let begun = Instant::now();
        let result = compute(&mut self.ops);
        self.times.add(operation.into(), begun.elapsed());
        result
    }
}

/// The name of a product with these weights.
fn product_name(weights: &Linear) -> String {
    format!("product {} x {}", weights.rows(), weights.cols())
}

impl DecoderOps for ProfiledOps {
    type Linear = Linear;
    type Norm = Norm;
    type Bias = Vec<f32>;
    type Rows = Vec<f32>;
    type Step<'a> = CpuStep<'a>;

    fn linear(&mut self, parts: &[MatrixSource<'_>]) -> Result<Linear, PartError> {
        self.ops.linear(parts)
    }

    fn norm_weights(&mut self, weights: NormParameters) -> Norm {
        self.ops.norm_weights(weights)
    }

    fn bias(&mut self, values: Vec<f32>) -> Vec<f32> {
        self.ops.bias(values)
    }

    fn weight_bytes(&self) -> u64 {
        self.ops.weight_bytes()
    }

    fn kv_bytes(&self) -> u64 {
        self.ops.kv_bytes()
    }

    fn adapters(&self) -> usize {
        self.ops.adapters()
    }

    fn generated_tokens(&self) -> GeneratedTokens {
        self.ops.generated_tokens()
    }

    fn begin<'a>(&mut self, batch: &'a ForwardBatch, output: StepOutput) -> CpuStep<'a> {
        self.timed("positions", |ops| ops.begin(batch, output))
    }

    fn embed(&mut self, step: &CpuStep<'_>, tables: Embedding<'_, Linear>, hidden: &mut Vec<f32>) {
        self.timed("embeddings", |ops| ops.embed(step, tables, hidden));
    }

    fn norm(&mut self, norm: &Norm, x: &Vec<f32>, out: &mut Vec<f32>, output: Output) {
        self.timed("norms", |ops| ops.norm(norm, x, out, output));
    }

    fn norm_heads(&mut self, norm: &Norm, layer: &AttentionLayer, qkv: &mut Vec<f32>) {
        self.timed("norms of heads", |ops| ops.norm_heads(norm, layer, qkv));
    }

    fn product(&mut self, weights: &Linear, x: &Vec<f32>, out: &mut Vec<f32>, output: Output) {
        let name = product_name(weights);
        self.timed(name, |ops| ops.product(weights, x, out, output));
    }

    fn add_bias(&mut self, bias: &Vec<f32>, rows: &mut Vec<f32>) {
        self.timed("biases", |ops| ops.add_bias(bias, rows));
    }

    fn any_adapted(&self, step: &CpuStep<'_>, rows: RowSet) -> bool {
        self.ops.any_adapted(step, rows)
    }

    fn add_low_rank(&mut self, step: &CpuStep<'_>, at: AdapterPoint, x: &Vec<f32>, out: &mut Vec<f32>) {
        self.timed("adapters", |ops| ops.add_low_rank(step, at, x, out));
    }

    fn rotate_and_store(&mut self, step: &CpuStep<'_>, layer: usize, rotation: Rotation, qkv: &mut Vec<f32>) {
        self.timed("rotation and KV write", |ops| {
            ops.rotate_and_store(step, layer, rotation, qkv);
        });
    }

    fn attention(&mut self, step: &CpuStep<'_>, at: AttentionPoint, qkv: &Vec<f32>, out: &mut Vec<f32>) {
        self.timed("attention", |ops| ops.attention(step, at, qkv, out));
    }

    fn gated_feed_forward(
        &mut self,
        weights: GatedFeedForward<'_, Linear>,
        x: &Vec<f32>,
        scratch: &mut GatedRows<Vec<f32>>,
        out: &mut Vec<f32>,
        output: Output,
    ) {
        self.timed("gated feed-forward", |ops| {
            ops.gated_feed_forward(weights, x, scratch, out, output);
        });
    }

    fn gate(&mut self, activation: Activation, width: usize, scratch: &mut GatedRows<Vec<f32>>) {
        self.timed("activations", |ops| ops.gate(activation, width, scratch));
    }

    fn activate(&mut self, activation: Activation, width: usize, rows: &mut Vec<f32>) {
        self.timed("activations", |ops| ops.activate(activation, width, rows));
    }

    fn keep_read_rows(&mut self, step: &CpuStep<'_>, rows: &mut Vec<f32>) {
        self.timed("rows that are read", |ops| ops.keep_read_rows(step, rows));
    }

    fn read_logits(&mut self, step: &CpuStep<'_>, weights: &Linear, x: &Vec<f32>, scaling: LogitScaling) {
        self.timed("logits", |ops| ops.read_logits(step, weights, x, scaling));
    }

    fn launch(&mut self, step: &CpuStep<'_>) {
        self.ops.launch(step);
    }

    fn finish(&mut self) -> Result<StepOutput, StepError> {
        self.ops.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{DecodeLaunch, Readout, speed::Rehearsal},
        model::spec::Precision,
    };

    #[test]
    fn a_profile_has_the_operations_of_each_phase_and_how_often_they_ran() {
        let run = SpeedRun {
            sequences: 2,
            prompt_tokens: 20,
            shared_tokens: 0,
            decode_tokens: 3,
            step_tokens: usize::MAX,
            adapters: 0,
            readout: Readout::Logits,
            rehearsal: Rehearsal::FirstPrompt,
        };
        let options = LoadOptions {
            kv_bytes: 1 << 20,
            max_context: None,
            precision: Precision::Mixed,
            batch: run.batch_limits(),
            decode: DecodeLaunch::Recorded,
        };
        let cpu = CpuBackend::new(1);
        let profile = cpu
            .profile(Path::new("dummy:tiny:q8_0"), &[], &options, &run)
            .unwrap();
        let calls = |operations: &[OperationTime], name: &str| -> u64 {
            let of_name = operations.iter().filter(|one| one.operation == name);
            of_name.map(|one| one.calls).sum()
        };
        // Two layers, and one step of prompts before three of one token of each sequence.
        for (operations, steps) in [(&profile.prefill, 1), (&profile.decode, 3)] {
            assert_eq!(calls(operations, "attention"), 2 * steps, "{operations:?}");
            assert_eq!(calls(operations, "gated feed-forward"), 2 * steps);
            assert_eq!(calls(operations, "logits"), steps);
            assert!(operations.is_sorted_by(|a, b| a.time >= b.time));
        }
        assert!(profile.speed.decode_tokens_per_second > 0.0);
        let error = cpu
            .profile(Path::new("no/such/model.gguf"), &[], &options, &run)
            .unwrap_err();
        assert!(matches!(error, ProfileError::Load(_)), "{error}");
    }
}
