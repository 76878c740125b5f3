//! The decoder's operations, on candle's tensors. Each is given to the device at once; what fails is kept, and the operations
//! after it do nothing.

use std::mem;

use candle_core::{DType, Device, Tensor};

use super::{
    adapter::CandleAdapter,
    attention::soft_cap,
    faults::Faults,
    kv_cache::CandleCache,
    step::{CandleStep, StepTensors},
    weights::{CandleLinear, CandleNorm},
};
use crate::{
    backend::{
        ForwardBatch, Readout, StepError, StepOutput,
        decoder::ops::{
            AdapterPoint, AttentionPoint, DecoderOps, Embedding, GatedFeedForward, GatedRows, LogitScaling,
            NormParameters, Output, PartError, RowSet,
        },
        reading::read_row,
    },
    model::spec::{
        Activation, AttentionLayer, AttentionShape, MatrixSource, ModelConfig, Products, Rotation,
    },
};

/// A decoder's state on a device of candle.
pub(super) struct CandleOps {
    device: Device,
    config: ModelConfig,
    products: Products,
    weight_bytes: u64,
    cache: CandleCache,
    adapters: Vec<CandleAdapter>,
    faults: Faults,
    /// What the step under way has read so far.
    output: StepOutput,
}

/// Where a decoder's keys, values and adapters are, and how its products are computed.
pub(super) struct CandleState {
    pub device: Device,
    pub products: Products,
    pub cache: CandleCache,
    pub adapters: Vec<CandleAdapter>,
    /// Faults of loading, and then of steps.
    pub faults: Faults,
}

/// Rows of activations in f32; `None` before anything was written there.
#[derive(Default)]
pub(super) struct CandleRows(Option<Tensor>);

impl CandleRows {
    fn get(&self) -> candle_core::Result<&Tensor> {
        let empty = || candle_core::Error::Msg("an operation reads rows that none has written".to_owned());
        self.0.as_ref().ok_or_else(empty)
    }
}

impl CandleOps {
    /// A decoder's state before its weights are loaded.
    pub(super) fn new(config: &ModelConfig, state: CandleState) -> Self {
        Self {
            device: state.device,
            config: config.clone(),
            products: state.products,
            weight_bytes: 0,
            cache: state.cache,
            adapters: state.adapters,
            faults: state.faults,
            output: StepOutput::default(),
        }
    }

    /// Does some work, and keeps its fault; does nothing after a fault.
    fn run<T>(&self, work: impl FnOnce() -> candle_core::Result<T>) -> Option<T> {
        if self.faults.any() {
            return None;
        }
        work().inspect_err(|error| self.faults.keep(error)).ok()
    }

    /// Replaces rows by what `compute` makes, or adds it.
    fn write(
        &self,
        out: &mut CandleRows,
        output: Output,
        compute: impl FnOnce() -> candle_core::Result<Tensor>,
    ) {
        let written = self.run(|| match output {
            Output::Replace => compute(),
            Output::Add => out.get()? + compute()?,
        });
        if written.is_some() {
            out.0 = written;
        }
    }

    /// Replaces rows by what `compute` makes of them.
    fn change(&self, rows: &mut CandleRows, compute: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>) {
        let changed = self.run(|| compute(rows.get()?));
        if changed.is_some() {
            rows.0 = changed;
        }
    }

    fn shape(&self) -> AttentionShape {
        self.config.attention_shape()
    }

    /// Applies `change` to the heads of queries and keys, `[rows, heads + kv_heads, head_dim]`, of rows of `[queries | keys |
    /// values]`.
    fn change_heads(
        shape: AttentionShape,
        qkv: &Tensor,
        change: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        let (rows, width) = qkv.dims2()?;
        let heads = shape.heads + shape.kv_heads;
        let rotated = heads * shape.head_dim;
        let changed = change(
            &qkv.narrow(1, 0, rotated)?
                .reshape((rows, heads, shape.head_dim))?,
        )?;
        let values = qkv.narrow(1, rotated, width - rotated)?;
        Tensor::cat(&[changed.reshape((rows, rotated))?, values], 1)
    }

    fn read(
        &mut self,
        step: &CandleStep<'_>,
        logits: &Tensor,
        scaling: LogitScaling,
    ) -> candle_core::Result<()> {
        let mut logits = logits.clone();
        if scaling.scale != 1.0 {
            logits = (logits * f64::from(scaling.scale))?;
        }
        if let Some(cap) = scaling.soft_cap {
            logits = soft_cap(&logits, cap)?;
        }
        let width = logits.dim(1)?;
        self.output.logits = logits.flatten_all()?.to_vec1()?;
        let readouts = step.batch.sequences.iter().map(|sequence| &sequence.readout);
        let readouts = readouts.filter(|readout| **readout != Readout::None);
        let rows = self.output.logits.chunks_exact(width).enumerate().zip(readouts);
        let readings = rows.filter_map(|((row, logits), readout)| read_row(readout, row, logits));
        self.output.readings.extend(readings);
        Ok(())
    }
}

fn activated(activation: Activation, x: &Tensor) -> candle_core::Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
    }
}

/// The gate's half of rows of `[gate | up]`, activated, times the other.
fn gated(activation: Activation, width: usize, gate_up: &Tensor) -> candle_core::Result<Tensor> {
    let gate = activated(activation, &gate_up.narrow(1, 0, width)?.contiguous()?)?;
    gate * gate_up.narrow(1, width, width)?
}

/// A tensor that loading could not bring to the device. No step sees it, for loading fails.
fn not_loaded() -> candle_core::Error {
    candle_core::Error::Msg("a weight is not on the device".to_owned())
}

impl DecoderOps for CandleOps {
    type Linear = CandleLinear;
    type Norm = Option<CandleNorm>;
    type Bias = Option<Tensor>;
    type Rows = CandleRows;
    type Step<'a> = CandleStep<'a>;

    fn linear(&mut self, parts: &[MatrixSource<'_>]) -> Result<CandleLinear, PartError> {
        let linear = CandleLinear::load(parts, self.products, &self.device)?;
        self.weight_bytes += linear.bytes();
        Ok(linear)
    }

    fn norm_weights(&mut self, weights: NormParameters) -> Option<CandleNorm> {
        let norm = self.run(|| CandleNorm::load(weights, &self.device))?;
        self.weight_bytes += norm.bytes();
        Some(norm)
    }

    fn bias(&mut self, values: Vec<f32>) -> Option<Tensor> {
        let len = values.len();
        let bias = self.run(|| Tensor::from_vec(values, len, &self.device))?;
        self.weight_bytes += 4 * len as u64;
        Some(bias)
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    fn kv_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    fn adapters(&self) -> usize {
        self.adapters.len()
    }

    fn begin<'a>(&mut self, batch: &'a ForwardBatch, output: StepOutput) -> CandleStep<'a> {
        self.output = output;
        self.output.clear();
        self.faults.take();
        CandleStep {
            batch,
            tensors: self.run(|| StepTensors::new(&self.config, batch, &self.device)),
        }
    }

    fn embed(&mut self, step: &CandleStep<'_>, tables: Embedding<'_, CandleLinear>, hidden: &mut CandleRows) {
        self.write(hidden, Output::Replace, || {
            let step = step.tensors()?;
            let tokens = (tables.tokens.rows(&step.tokens)? * f64::from(tables.scale))?;
            match tables.positions {
                Some(table) => tokens + table.rows(&step.positions)?,
                None => Ok(tokens),
            }
        });
    }

    fn norm(&mut self, norm: &Option<CandleNorm>, x: &CandleRows, out: &mut CandleRows, output: Output) {
        self.write(out, output, || {
            let norm = norm.as_ref().ok_or_else(not_loaded)?;
            norm.apply(x.get()?)
        });
    }

    fn norm_heads(&mut self, norm: &Option<CandleNorm>, layer: &AttentionLayer, qkv: &mut CandleRows) {
        self.change(qkv, |qkv| {
            let norm = norm.as_ref().ok_or_else(not_loaded)?;
            Self::change_heads(layer.shape, qkv, |heads| norm.apply(heads))
        });
    }

    fn product(&mut self, weights: &CandleLinear, x: &CandleRows, out: &mut CandleRows, output: Output) {
        self.write(out, output, || weights.product(x.get()?));
    }

    fn add_bias(&mut self, bias: &Option<Tensor>, rows: &mut CandleRows) {
        self.change(rows, |rows| {
            rows.broadcast_add(bias.as_ref().ok_or_else(not_loaded)?)
        });
    }

    fn any_adapted(&self, step: &CandleStep<'_>, rows: RowSet) -> bool {
        let tensors = step.tensors.as_ref();
        tensors.is_some_and(|tensors| !tensors.adapted(rows).is_empty())
    }

    fn add_low_rank(
        &mut self,
        step: &CandleStep<'_>,
        at: AdapterPoint,
        x: &CandleRows,
        out: &mut CandleRows,
    ) {
        self.change(out, |out| {
            let (x, width) = (x.get()?, out.dim(1)?);
            let mut out = out.clone();
            for group in step.tensors()?.adapted(at.rows) {
                let Some(adapter) = self.adapters.get(group.adapter) else {
                    candle_core::bail!("adapter {} is not loaded", group.adapter);
                };
                let x = x.index_select(&group.rows, 0)?;
                if let Some(update) = adapter.update(at.layer, at.site, &x, width)? {
                    out = out.index_add(&group.rows, &update, 0)?;
                }
            }
            Ok(out)
        });
    }

    fn rotate_and_store(
        &mut self,
        step: &CandleStep<'_>,
        layer: usize,
        rotation: Rotation,
        qkv: &mut CandleRows,
    ) {
        let shape = self.shape();
        self.change(qkv, |qkv| {
            let step = step.tensors()?;
            let qkv = match step.angles(rotation) {
                Some(angles) => Self::change_heads(shape, qkv, |heads| angles.rotate(heads))?,
                None => qkv.clone(),
            };
            let (queries, width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
            let keys = qkv.narrow(1, queries, width)?;
            let values = qkv.narrow(1, queries + width, width)?;
            self.cache.store(layer, &step.slots, &keys, &values)?;
            Ok(qkv)
        });
    }

    fn attention(
        &mut self,
        step: &CandleStep<'_>,
        at: AttentionPoint,
        qkv: &CandleRows,
        out: &mut CandleRows,
    ) {
        self.write(out, Output::Replace, || {
            let pieces = step.tensors()?.attention(at.rows, at.attention.window)?;
            let mut attended = Vec::with_capacity(pieces.len());
            for piece in pieces {
                let cached = self.cache.gather(at.layer, &piece.tokens)?;
                attended.push(piece.attend(&at.attention, qkv.get()?, &cached)?);
            }
            Tensor::cat(&attended, 0)
        });
    }

    fn gated_feed_forward(
        &mut self,
        weights: GatedFeedForward<'_, CandleLinear>,
        x: &CandleRows,
        _scratch: &mut GatedRows<CandleRows>,
        out: &mut CandleRows,
        output: Output,
    ) {
        self.write(out, output, || {
            let gate_up = weights.gate_up.product(x.get()?)?;
            let gated = gated(weights.activation, gate_up.dim(1)? / 2, &gate_up)?;
            weights.down.product(&gated)
        });
    }

    fn gate(&mut self, activation: Activation, width: usize, scratch: &mut GatedRows<CandleRows>) {
        let GatedRows { gate_up, gated: out } = scratch;
        self.write(out, Output::Replace, || gated(activation, width, gate_up.get()?));
    }

    fn activate(&mut self, activation: Activation, _width: usize, rows: &mut CandleRows) {
        self.change(rows, |rows| activated(activation, rows));
    }

    fn keep_read_rows(&mut self, step: &CandleStep<'_>, rows: &mut CandleRows) {
        self.change(rows, |rows| match &step.tensors()?.read_rows {
            Some(read) => rows.index_select(read, 0),
            None => Ok(rows.clone()),
        });
    }

    fn read_logits(
        &mut self,
        step: &CandleStep<'_>,
        weights: &CandleLinear,
        x: &CandleRows,
        scaling: LogitScaling,
    ) {
        let Some(logits) = self.run(|| weights.product(x.get()?)?.to_dtype(DType::F32)) else {
            return;
        };
        if let Err(error) = self.read(step, &logits, scaling) {
            self.faults.keep(&error);
        }
    }

    fn launch(&mut self, _step: &Self::Step<'_>) {
        // Candle began with each operation when it was called.
    }

    fn finish(&mut self) -> Result<StepOutput, StepError> {
        // Also after a fault: the device may still read what the next step writes.
        if let Err(error) = self.device.synchronize() {
            self.faults.keep(&error);
        }
        let output = mem::take(&mut self.output);
        match self.faults.take() {
            Some(reason) => Err(StepError::Device(reason)),
            None => Ok(output),
        }
    }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
