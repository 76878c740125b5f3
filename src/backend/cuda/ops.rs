//! The decoder's operations, as launches on a card. They return at once; a fault is kept until the step is finished.

use std::{mem, sync::Arc};

use super::{
    adapter::{Adapters, PARTS},
    arguments::{
        ActivateArgs, AddBiasArgs, AttentionArgs, EmbedArgs, GateArgs, KeepRowsArgs, LowRankDownArgs,
        LowRankUpArgs, NormHeadsArgs, NormRowsArgs, RopeStoreArgs,
    },
    attention::Attention,
    buffer::{Buffer, address_of},
    driver::{CardDescription, Consequence, DeviceAddress, DriverError, LaunchSize, Queue},
    graphs::{GraphKey, Graphs},
    inputs::{StepInputs, StepLimits, StepShape},
    kernels::Kernel,
    kv_cache::KvCache,
    launch_sizes::{ROW_THREADS, pieces, rows_of, words_of},
    launcher::Launcher,
    linear::CudaLinear,
    products::{ProductTarget, Products},
    readout::StepReadout,
    rope::RopeTables,
    rows::{CudaRows, RowFormat, RowsShape},
    scratch_sizes::ScratchSizes,
    tiles::TILE_ROWS,
};
use crate::{
    backend::{
        DecodeLaunch, Determinism, ForwardBatch, StepError, StepOutput,
        decoder::ops::{
            AdapterPoint, AttentionPoint, DecoderOps, Embedding, GatedFeedForward, GatedRows, LogitScaling,
            NormParameters, Output, PartError, RowSet,
        },
    },
    model::spec::{Activation, AttentionLayer, MatrixSource, ModelConfig, NormKind, RopeStyle, Rotation},
};

/// Threads of a block that multiplies with an adapter's first matrices.
pub(super) const LOW_RANK_THREADS: u32 = 128;

/// A decoder's state on a card.
pub(super) struct CudaOps {
    launcher: Launcher,
    products: Products,
    cache: KvCache,
    adapters: Adapters,
    rope: RopeTables,
    inputs: StepInputs,
    graphs: Graphs,
    attention: Attention,
    readout: StepReadout,
    /// `[row, part, rank]`: what adapters' first matrices compute.
    low_rank: Buffer,
    /// Bytes of norms and biases.
    vector_bytes: usize,
    /// Why there is no room for the batch of the step under way.
    refused: Option<String>,
    /// Whether a step was computed before.
    is_warm: bool,
    decode: DecodeLaunch,
    /// How the step under way is recorded.
    recording: Recording,
    output: StepOutput,
}

/// How a step is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recording {
    /// Not at all.
    None,
    /// It is being recorded for the first time.
    First(GraphKey),
    /// It is carried out by a recording of an earlier one.
    Again(GraphKey),
}

/// A norm with its weights.
#[derive(Debug)]
pub(super) struct CudaNorm {
    kind: NormKind,
    eps: f32,
    weight: Option<Buffer>,
    bias: Option<Buffer>,
}

/// The rows of a step.
#[derive(Debug, Default)]
pub(super) struct CudaStep {
    shape: StepShape,
    /// Rows that launches compute.
    rows: usize,
    /// Rows that launches compute of those that are read.
    reads: usize,
}

/// What a decoder's state is made of, beside its weights.
pub(super) struct CudaState {
    pub queue: Arc<dyn Queue>,
    pub cache: KvCache,
    pub adapters: Adapters,
    pub limits: StepLimits,
    /// Whether weights that are packed in their file stay so.
    pub keeps_packed: bool,
    /// How decode steps are given to the card.
    pub decode: DecodeLaunch,
}

impl CudaOps {
    /// A decoder's state before its weights are loaded.
    ///
    /// # Errors
    /// When the card has no memory for its buffers, or a kernel cannot be compiled.
    pub(super) fn new(
        config: &ModelConfig,
        card: &CardDescription,
        state: CudaState,
    ) -> Result<Self, DriverError> {
        let CudaState {
            queue,
            cache,
            adapters,
            limits,
            keeps_packed,
            decode,
        } = state;
        let shape = config.attention_shape();
        let mut launcher = Launcher::new(Arc::clone(&queue));
        let kernels = KERNELS
            .into_iter()
            .chain(Products::KERNELS)
            .chain(Attention::kernels(shape));
        for kernel in kernels {
            launcher.load(kernel)?;
        }
        let sizes = ScratchSizes::new(config, &limits, adapters.max_rank);
        Ok(Self {
            launcher,
            products: Products::new(&queue, limits.rows, keeps_packed),
            cache,
            low_rank: Buffer::new(&queue, sizes.inner)?,
            adapters,
            rope: RopeTables::new(&queue, config)?,
            inputs: StepInputs::new(&queue, limits)?,
            graphs: Graphs::default(),
            attention: Attention::new(&queue, card, shape, sizes.partial)?,
            readout: StepReadout::new(&queue, &sizes, config.sizes.vocab, limits.sequences)?,
            vector_bytes: 0,
            refused: None,
            is_warm: false,
            decode,
            recording: Recording::None,
            output: StepOutput::default(),
        })
    }

    /// Ends loading: frees what only that needs.
    ///
    /// # Errors
    /// When a call failed while norms or biases were loaded.
    pub(super) fn loaded(&mut self) -> Result<(), DriverError> {
        self.products.loaded();
        self.launcher.wait()
    }

    /// Which results are equal to the bit, by what was measured of each product.
    pub(super) fn determinism(&self) -> Determinism {
        self.products.determinism()
    }

    fn holding(&mut self, values: &[f32]) -> Option<Buffer> {
        self.vector_bytes += size_of_val(values);
        match Buffer::holding(self.launcher.queue(), values) {
            Ok(buffer) => Some(buffer),
            Err(error) => {
                self.launcher.keep(Err(error));
                None
            }
        }
    }

    fn prepare(&mut self, rows: &mut CudaRows, shape: RowsShape) {
        self.launcher.prepare(rows, shape, self.inputs.limits.rows);
    }
}

/// The kernels that the operations here launch.
const KERNELS: [Kernel; 12] = [
    Kernel::Embed,
    Kernel::NormRows,
    Kernel::NormHeads,
    Kernel::RopeStore,
    Kernel::Gate,
    Kernel::Activate,
    Kernel::AddBias,
    Kernel::KeepRows,
    Kernel::LowRankDown,
    Kernel::LowRankUp,
    Kernel::ReadLogits,
    Kernel::TopLogits,
];

/// As in `rows.cu`.
pub(super) fn kind_number(kind: NormKind) -> u32 {
    match kind {
        NormKind::Rms => 0,
        NormKind::Layer => 1,
    }
}

/// As in `rows.cu`.
pub(super) fn activation_number(activation: Activation) -> u32 {
    match activation {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
    }
}

impl DecoderOps for CudaOps {
    type Linear = CudaLinear;
    type Norm = CudaNorm;
    type Bias = Option<Buffer>;
    type Rows = CudaRows;
    type Step<'a> = CudaStep;

    fn linear(&mut self, parts: &[MatrixSource<'_>]) -> Result<CudaLinear, PartError> {
        self.products.linear(&mut self.launcher, parts)
    }

    fn table(&mut self, matrix: MatrixSource<'_>) -> Result<CudaLinear, PartError> {
        self.products.table(&mut self.launcher, matrix)
    }

    fn norm_weights(&mut self, weights: NormParameters) -> CudaNorm {
        CudaNorm {
            kind: weights.kind,
            eps: weights.eps,
            weight: self.holding(&weights.weight),
            bias: weights.bias.and_then(|bias| self.holding(&bias)),
        }
    }

    fn bias(&mut self, values: Vec<f32>) -> Option<Buffer> {
        self.holding(&values)
    }

    fn weight_bytes(&self) -> u64 {
        (self.products.weight_bytes() + self.vector_bytes) as u64
    }

    fn kv_bytes(&self) -> u64 {
        self.cache.bytes() as u64
    }

    fn adapters(&self) -> usize {
        self.adapters.count()
    }

    fn begin(&mut self, batch: &ForwardBatch, mut output: StepOutput) -> CudaStep {
        output.clear();
        self.output = output;
        self.recording = Recording::None;
        self.refused = self.inputs.refusal(batch);
        if self.refused.is_some() {
            // Nothing of the step is launched.
            self.launcher.begin_replaying();
            return CudaStep::default();
        }
        self.readout.begin(batch);
        let limits = self.inputs.limits;
        let padded = batch.tokens.len().next_power_of_two().min(limits.sequences);
        let shape = self.inputs.pack(batch, padded.max(batch.tokens.len()));
        let bytes = self.inputs.bytes(&shape);
        self.launcher
            .upload(&self.inputs.device, &self.inputs.host, 0, bytes);
        let key = GraphKey::of(&shape, batch.sequences.len(), limits.sequences);
        // The first step allocates rows, which cannot be recorded.
        let key = key.filter(|_| self.is_warm && self.decode == DecodeLaunch::Recorded);
        let mut step = CudaStep {
            rows: shape.rows,
            reads: shape.reads,
            shape,
        };
        if let Some(key) = key {
            (step.rows, step.reads) = (key.rows, key.rows);
            for set in [&mut step.shape.tiles, &mut step.shape.read_tiles] {
                set.count = key.rows * limits.group.div_ceil(TILE_ROWS);
                set.segments = key.segments;
            }
            self.recording = match self.graphs.get(key) {
                Some(_) => {
                    self.launcher.begin_replaying();
                    Recording::Again(key)
                }
                None => {
                    self.launcher.begin_recording();
                    Recording::First(key)
                }
            };
        }
        step
    }

    fn embed(&mut self, step: &CudaStep, tables: Embedding<'_, CudaLinear>, hidden: &mut CudaRows) {
        let width = tables.tokens.shape.inputs;
        let shape = RowsShape {
            count: step.rows,
            width,
            format: RowFormat::F32,
        };
        self.prepare(hidden, shape);
        let argument = EmbedArgs {
            table: tables.tokens.table(),
            position_table: tables.positions.map_or(DeviceAddress::NULL, CudaLinear::table),
            tokens: self.inputs.tokens(),
            positions: self.inputs.positions(),
            hidden: hidden.address(),
            width: width as u32,
            scale: tables.scale,
        };
        self.launcher.launch(Kernel::Embed, rows_of(step.rows), &argument);
    }

    fn norm(&mut self, norm: &CudaNorm, x: &CudaRows, out: &mut CudaRows, output: Output) {
        if output == Output::Replace {
            let shape = RowsShape {
                count: x.count,
                width: x.width,
                format: RowFormat::Bf16,
            };
            self.prepare(out, shape);
        }
        let (rounded, sum) = match output {
            Output::Replace => (out.address(), DeviceAddress::NULL),
            Output::Add => (DeviceAddress::NULL, out.address()),
        };
        let argument = NormRowsArgs {
            x: x.address(),
            weight: address_of(norm.weight.as_ref()),
            bias: address_of(norm.bias.as_ref()),
            rounded,
            sum,
            width: x.width as u32,
            kind: kind_number(norm.kind),
            eps: norm.eps,
            padding: 0,
        };
        self.launcher
            .launch(Kernel::NormRows, rows_of(x.count), &argument);
    }

    fn norm_heads(&mut self, norm: &CudaNorm, layer: &AttentionLayer, qkv: &mut CudaRows) {
        let shape = layer.shape;
        let argument = NormHeadsArgs {
            qkv: qkv.address(),
            weight: address_of(norm.weight.as_ref()),
            qkv_width: shape.qkv_width() as u32,
            head_dim: shape.head_dim as u32,
            kind: kind_number(norm.kind),
            eps: norm.eps,
        };
        let size = LaunchSize {
            grid: [qkv.count as u32, (shape.heads + shape.kv_heads) as u32, 1],
            threads: 32,
            shared_bytes: 0,
        };
        self.launcher.launch(Kernel::NormHeads, size, &argument);
    }

    fn product(&mut self, weights: &CudaLinear, x: &CudaRows, out: &mut CudaRows, output: Output) {
        if output == Output::Replace {
            let shape = RowsShape {
                count: x.count,
                width: weights.shape.outputs,
                format: RowFormat::F32,
            };
            self.prepare(out, shape);
        }
        let target = ProductTarget {
            out: out.address(),
            output,
        };
        self.products.multiply(&mut self.launcher, weights, x, target);
    }

    fn add_bias(&mut self, bias: &Option<Buffer>, rows: &mut CudaRows) {
        let Some(bias) = bias else {
            // It could not be loaded, which was kept as a fault.
            return;
        };
        let argument = AddBiasArgs {
            rows: rows.address(),
            bias: bias.address(),
            width: rows.width as u32,
            padding: 0,
        };
        self.launcher
            .launch(Kernel::AddBias, pieces(rows.count, rows.width), &argument);
    }

    fn any_adapted(&self, step: &CudaStep, rows: RowSet) -> bool {
        match rows {
            RowSet::All => step.shape.adapted,
            RowSet::Read => step.shape.read_adapted,
        }
    }

    fn add_low_rank(&mut self, step: &CudaStep, at: AdapterPoint, x: &CudaRows, out: &mut CudaRows) {
        let Some(parts) = self.adapters.at(at.layer, at.site) else {
            return;
        };
        if !self.any_adapted(step, at.rows) {
            return;
        }
        let adapters = match at.rows {
            RowSet::All => self.inputs.adapters(),
            RowSet::Read => self.inputs.read_adapters(),
        };
        let (table, most_outputs) = (parts.table(), parts.most_outputs);
        let x_address = self.products.operand(&mut self.launcher, x);
        let max_rank = self.adapters.max_rank as u32;
        let down = LowRankDownArgs {
            x: x_address,
            parts: table,
            adapters,
            inner: self.low_rank.address(),
            inputs: x.width as u32,
            max_rank,
        };
        let size = LaunchSize {
            grid: [x.count as u32, PARTS as u32, 1],
            threads: LOW_RANK_THREADS,
            shared_bytes: 0,
        };
        self.launcher.launch(Kernel::LowRankDown, size, &down);
        let up = LowRankUpArgs {
            inner: self.low_rank.address(),
            parts: table,
            adapters,
            out: out.address(),
            out_width: out.width as u32,
            max_rank,
        };
        let size = LaunchSize {
            grid: [
                x.count as u32,
                PARTS as u32,
                most_outputs.div_ceil(ROW_THREADS as usize) as u32,
            ],
            threads: ROW_THREADS,
            shared_bytes: 0,
        };
        self.launcher.launch(Kernel::LowRankUp, size, &up);
    }

    fn rotate_and_store(&mut self, _step: &CudaStep, layer: usize, rotation: Rotation, qkv: &mut CudaRows) {
        let (angles, cache, shape) = (
            self.rope.of(rotation),
            self.cache.layer(layer),
            self.attention.shape,
        );
        let argument = RopeStoreArgs {
            qkv: qkv.address(),
            cos: angles.cos,
            sin: angles.sin,
            positions: self.inputs.positions(),
            slots: self.inputs.slots(),
            keys: cache.keys,
            values: cache.values,
            heads: shape.heads as u32,
            kv_heads: shape.kv_heads as u32,
            head_dim: shape.head_dim as u32,
            pairs: angles.pairs as u32,
            interleaved: u32::from(angles.style == RopeStyle::Interleaved),
            padding: 0,
        };
        self.launcher
            .launch(Kernel::RopeStore, rows_of(qkv.count), &argument);
    }

    fn attention(&mut self, step: &CudaStep, at: AttentionPoint, qkv: &CudaRows, out: &mut CudaRows) {
        let AttentionLayer {
            shape,
            scale,
            soft_cap,
            window,
        } = at.attention;
        let rows = RowsShape {
            count: qkv.count,
            width: shape.heads * shape.head_dim,
            format: RowFormat::Bf16,
        };
        self.prepare(out, rows);
        let set = match at.rows {
            RowSet::All => step.shape.tiles,
            RowSet::Read => step.shape.read_tiles,
        };
        let cache = self.cache.layer(at.layer);
        let argument = AttentionArgs {
            qkv: qkv.address(),
            keys: cache.keys,
            values: cache.values,
            tables: self.inputs.tail(),
            tiles: set.at(0),
            out: out.address(),
            // Set where segments are computed by themselves.
            partial: DeviceAddress::NULL,
            heads: shape.heads as u32,
            kv_heads: shape.kv_heads as u32,
            qkv_width: shape.qkv_width() as u32,
            window: window.unwrap_or(0) as u32,
            segments: set.segments as u32,
            scale,
            soft_cap: soft_cap.unwrap_or(0.0),
            padding: 0,
        };
        self.attention
            .run(&mut self.launcher, &self.inputs, set, argument);
    }

    fn gated_feed_forward(
        &mut self,
        weights: GatedFeedForward<'_, CudaLinear>,
        x: &CudaRows,
        scratch: &mut GatedRows<CudaRows>,
        out: &mut CudaRows,
        output: Output,
    ) {
        self.product(weights.gate_up, x, &mut scratch.gate_up, Output::Replace);
        self.gate(weights.activation, weights.gate_up.shape.outputs / 2, scratch);
        self.product(weights.down, &scratch.gated, out, output);
    }

    fn gate(&mut self, activation: Activation, width: usize, scratch: &mut GatedRows<CudaRows>) {
        let GatedRows { gate_up, gated } = scratch;
        let shape = RowsShape {
            count: gate_up.count,
            width,
            format: RowFormat::Bf16,
        };
        self.prepare(gated, shape);
        let argument = GateArgs {
            gate_up: gate_up.address(),
            gated: gated.address(),
            width: width as u32,
            activation: activation_number(activation),
        };
        self.launcher
            .launch(Kernel::Gate, pieces(gate_up.count, width), &argument);
    }

    fn activate(&mut self, activation: Activation, width: usize, rows: &mut CudaRows) {
        let argument = ActivateArgs {
            rows: rows.address(),
            width: width as u32,
            activation: activation_number(activation),
        };
        self.launcher
            .launch(Kernel::Activate, pieces(rows.count, width), &argument);
    }

    fn keep_read_rows(&mut self, step: &CudaStep, rows: &mut CudaRows) {
        if step.reads == step.rows {
            return;
        }
        let argument = KeepRowsArgs {
            rows: rows.address(),
            indices: self.inputs.read_rows(),
            count: step.reads as u32,
            words: rows.words() as u32,
        };
        self.launcher
            .launch(Kernel::KeepRows, words_of(rows.words()), &argument);
        rows.count = step.reads;
    }

    fn read_logits(&mut self, step: &CudaStep, weights: &CudaLinear, x: &CudaRows, scaling: LogitScaling) {
        let target = ProductTarget {
            out: self.readout.logits(),
            output: Output::Replace,
        };
        self.products.multiply(&mut self.launcher, weights, x, target);
        self.readout
            .launch(&mut self.launcher, &self.inputs, x.count, scaling);
        debug_assert_eq!(x.count, step.reads);
    }

    fn launch(&mut self, step: &CudaStep) {
        if self.refused.is_some() {
            return;
        }
        match self.recording {
            Recording::None => {}
            Recording::First(key) => {
                if let Some(graph) = self.launcher.end_recording() {
                    self.graphs.insert(key, graph);
                    self.launcher.replay(graph);
                }
            }
            Recording::Again(key) => {
                if let Some(graph) = self.graphs.get(key) {
                    self.launcher.replay(graph);
                }
            }
        }
        self.is_warm = true;
        self.readout
            .download(&mut self.launcher, &self.inputs, &step.shape);
    }

    fn finish(&mut self) -> Result<StepOutput, StepError> {
        let waited = self.launcher.wait();
        if let Some(reason) = self.refused.take() {
            return Err(StepError::InvalidBatch(reason));
        }
        waited.map_err(step_error)?;
        self.readout.fetch_rows(&mut self.launcher).map_err(step_error)?;
        let mut output = mem::take(&mut self.output);
        self.readout.read(&mut output);
        Ok(output)
    }
}

/// What a failed call means for a step.
fn step_error(error: DriverError) -> StepError {
    match error.consequence {
        Consequence::ThisCall | Consequence::OutOfMemory => StepError::Device(error.to_string()),
        Consequence::Lasting => StepError::DeviceLost(error.to_string()),
    }
}
