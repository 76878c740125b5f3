//! The decoder's operations, on the kernels of the CPU. Each computes at once, on the calling thread and the pool's.

use std::mem;

use super::{
    adapter::CpuAdapter,
    angles::Angles,
    compute::Compute,
    kernels::{
        self, Arena, AttentionSpan, BLOCK_TOKENS, Linear, Norm, PackedMatrix, RowGroups, RowRun, SlotMapping,
        TokenRows, add_low_rank, attention, gate, matmul_by_kind, rope_and_store, soft_cap,
    },
    kv_cache::KvCache,
};
use crate::{
    backend::{
        BatchSequence, ForwardBatch, GeneratedTokens, Readout, StepError, StepOutput,
        decoder::ops::{
            AdapterPoint, AttentionPoint, DecoderOps, Embedding, GatedFeedForward, GatedRows, LogitScaling,
            NormParameters, Output, PartError, RowSet,
        },
        reading::read_row,
    },
    model::spec::{Activation, AttentionLayer, MatrixSource, ModelConfig, Precision, Rotation, TokenKind},
};

/// A decoder's state on the CPU.
pub(super) struct CpuOps {
    compute: Compute,
    precision: Precision,
    /// Whether any product computes rows of generated tokens otherwise than rows of prompts.
    generated: GeneratedTokens,
    /// The memory that weights are packed into.
    arena: Arena,
    weight_bytes: usize,
    cache: KvCache,
    adapters: Vec<CpuAdapter>,
    /// Positions of the step's rows.
    positions: Vec<usize>,
    /// Where the keys and values of each row are stored.
    slots: SlotMapping,
    angles: Angles,
    /// How many of the leading rows that are computed now are of prompts.
    prompt_rows: usize,
    /// What the step under way has read so far.
    output: StepOutput,
}

/// The rows of a step: those of prompts first, then those of generated tokens, so that products find rows of a kind side by
/// side. A batch may have its sequences in any order.
pub(super) struct CpuStep<'a> {
    /// The sequences in the order of their rows.
    sequences: Vec<&'a BatchSequence>,
    /// The tokens in the order of their rows.
    tokens: Vec<u32>,
    all: Rows<'a>,
    read: Rows<'a>,
    /// Indices of the rows that are read among all rows.
    read_rows: Vec<usize>,
    /// What is read, in the order of the batch.
    readings: Vec<RowReading<'a>>,
}

/// A sequence of a batch.
struct BatchPart<'a> {
    /// Index in the batch.
    position: usize,
    sequence: &'a BatchSequence,
    /// Its new tokens.
    tokens: &'a [u32],
}

/// What is read of a row.
struct RowReading<'a> {
    readout: &'a Readout,
    /// Index among the rows that are read.
    row: usize,
}

/// Some rows of a step, as products, attention and adapters need to know them.
struct Rows<'a> {
    /// How many of the leading rows are of prompts.
    prompt: usize,
    spans: Vec<AttentionSpan<'a>>,
    /// The rows of each adapter.
    adapted: RowGroups,
}

impl<'a> Rows<'a> {
    /// The rows of these spans, each with its sequence.
    fn new(spans: Vec<AttentionSpan<'a>>, sequences: &[&BatchSequence]) -> Self {
        let mut adapted = RowGroups::default();
        adapted.set(spans.iter().zip(sequences).map(|(span, sequence)| RowRun {
            update: sequence.adapter.map(|adapter| adapter.0),
            count: span.rows,
        }));
        let of_prompts = spans
            .iter()
            .zip(sequences)
            .filter(|(_, s)| s.kind == TokenKind::Prompt);
        Self {
            prompt: of_prompts.map(|(span, _)| span.rows).sum(),
            adapted,
            spans,
        }
    }
}

impl<'a> CpuStep<'a> {
    fn new(batch: &'a ForwardBatch) -> Self {
        let mut rest = &batch.tokens[..];
        let parts = batch.sequences.iter().enumerate().map(|(position, sequence)| {
            let (tokens, after) = rest.split_at(sequence.new_tokens);
            rest = after;
            BatchPart {
                position,
                sequence,
                tokens,
            }
        });
        let mut parts: Vec<BatchPart<'a>> = parts.collect();
        // This keeps the order of sequences of a kind.
        parts.sort_by_key(|part| part.sequence.kind);
        let mut all = Vec::with_capacity(parts.len());
        let (mut read, mut reading, mut read_rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut first_row = 0;
        for part in &parts {
            let sequence = part.sequence;
            all.push(AttentionSpan {
                first_row,
                rows: sequence.new_tokens,
                context: sequence.context,
                block_table: &sequence.block_table,
            });
            first_row += sequence.new_tokens;
            if sequence.readout != Readout::None {
                read.push(AttentionSpan {
                    first_row: read_rows.len(),
                    rows: 1,
                    context: sequence.context + sequence.new_tokens - 1,
                    block_table: &sequence.block_table,
                });
                reading.push(part);
                read_rows.push(first_row - 1);
            }
        }
        let sequences: Vec<_> = parts.iter().map(|part| part.sequence).collect();
        let reading_sequences: Vec<_> = reading.iter().map(|part| part.sequence).collect();
        let mut order: Vec<usize> = (0..reading.len()).collect();
        order.sort_by_key(|row| reading[*row].position);
        let readings = order.into_iter().map(|row| RowReading {
            readout: &reading[row].sequence.readout,
            row,
        });
        Self {
            readings: readings.collect(),
            tokens: parts.iter().flat_map(|part| part.tokens).copied().collect(),
            all: Rows::new(all, &sequences),
            read: Rows::new(read, &reading_sequences),
            read_rows,
            sequences,
        }
    }

    fn rows(&self, set: RowSet) -> &Rows<'a> {
        match set {
            RowSet::All => &self.all,
            RowSet::Read => &self.read,
        }
    }
}

impl CpuOps {
    /// A decoder's state before its weights are loaded.
    pub(super) fn new(
        config: &ModelConfig,
        compute: Compute,
        precision: Precision,
        cache: KvCache,
        adapters: Vec<CpuAdapter>,
    ) -> Self {
        Self {
            compute,
            precision,
            generated: GeneratedTokens::AsInPrompts,
            arena: Arena::default(),
            weight_bytes: 0,
            cache,
            adapters,
            positions: Vec::new(),
            slots: SlotMapping::default(),
            angles: Angles::new(config.rope.clone(), config.local_rope.clone()),
            prompt_rows: 0,
            output: StepOutput::default(),
        }
    }
}

impl From<Output> for kernels::Output {
    fn from(output: Output) -> Self {
        match output {
            Output::Replace => Self::Replace,
            Output::Add => Self::Add,
        }
    }
}

impl DecoderOps for CpuOps {
    type Linear = Linear;
    type Norm = Norm;
    type Bias = Vec<f32>;
    type Rows = Vec<f32>;
    type Step<'a> = CpuStep<'a>;

    fn linear(&mut self, parts: &[MatrixSource<'_>]) -> Result<Linear, PartError> {
        let mut packed = Vec::with_capacity(parts.len());
        for (part, matrix) in parts.iter().enumerate() {
            let matrix = PackedMatrix::pack(&mut self.compute.pool, &mut self.arena, matrix);
            packed.push(matrix.map_err(|error| PartError {
                part,
                problem: error.into(),
            })?);
        }
        let linear = Linear::by_kind(packed, |kind| self.precision.products(kind));
        if !linear.is_uniform() {
            self.generated = GeneratedTokens::Apart;
        }
        self.weight_bytes += linear.bytes();
        Ok(linear)
    }

    fn norm_weights(&mut self, weights: NormParameters) -> Norm {
        let norm = Norm {
            kind: weights.kind,
            eps: weights.eps,
            weight: weights.weight,
            bias: weights.bias,
        };
        self.weight_bytes += norm.values() * size_of::<f32>();
        norm
    }

    fn bias(&mut self, values: Vec<f32>) -> Vec<f32> {
        self.weight_bytes += size_of_val(&values[..]);
        values
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes as u64
    }

    fn kv_bytes(&self) -> u64 {
        self.cache.bytes() as u64
    }

    fn adapters(&self) -> usize {
        self.adapters.len()
    }

    fn generated_tokens(&self) -> GeneratedTokens {
        self.generated
    }

    fn begin<'a>(&mut self, batch: &'a ForwardBatch, mut output: StepOutput) -> CpuStep<'a> {
        output.clear();
        self.output = output;
        let step = CpuStep::new(batch);
        self.prompt_rows = step.all.prompt;
        self.positions.clear();
        let slots = step.sequences.iter().flat_map(|sequence| {
            let positions = sequence.context..sequence.context + sequence.new_tokens;
            self.positions.extend(positions.clone());
            positions.map(move |position| {
                let block = sequence.block_table[position / BLOCK_TOKENS] as usize;
                block * BLOCK_TOKENS + position % BLOCK_TOKENS
            })
        });
        self.slots.set(slots);
        self.angles.set(&self.positions);
        step
    }

    fn embed(&mut self, step: &CpuStep<'_>, tables: Embedding<'_, Linear>, hidden: &mut Vec<f32>) {
        let (tokens, width) = (&step.tokens, tables.tokens.cols());
        hidden.resize(tokens.len() * width, 0.0);
        tables
            .tokens
            .read_rows(&mut self.compute, tokens, tables.scale, hidden);
        if let Some(table) = tables.positions {
            let mut own = vec![0.0; width];
            for (&position, row) in self.positions.iter().zip(hidden.chunks_exact_mut(width)) {
                table.read_row(position, &mut own);
                row.iter_mut().zip(&own).for_each(|(value, own)| *value += own);
            }
        }
    }

    fn norm(&mut self, norm: &Norm, x: &Vec<f32>, out: &mut Vec<f32>, output: Output) {
        out.resize(x.len(), 0.0);
        norm.apply(&mut self.compute, x, out, output.into());
    }

    fn norm_heads(&mut self, norm: &Norm, layer: &AttentionLayer, qkv: &mut Vec<f32>) {
        norm.apply_to_heads(
            &mut self.compute,
            qkv,
            layer.shape.qkv_width(),
            layer.shape.head_dim,
        );
    }

    fn product(&mut self, weights: &Linear, x: &Vec<f32>, out: &mut Vec<f32>, output: Output) {
        out.resize(x.len() / weights.cols() * weights.rows(), 0.0);
        let x = TokenRows {
            values: x,
            prompt: self.prompt_rows,
        };
        matmul_by_kind(&mut self.compute, x, weights, out, output.into());
    }

    fn add_bias(&mut self, bias: &Vec<f32>, rows: &mut Vec<f32>) {
        kernels::add_bias(rows, bias);
    }

    fn any_adapted(&self, step: &CpuStep<'_>, rows: RowSet) -> bool {
        !step.rows(rows).adapted.is_empty()
    }

    fn add_low_rank(&mut self, step: &CpuStep<'_>, at: AdapterPoint, x: &Vec<f32>, out: &mut Vec<f32>) {
        let update = |adapter: usize| self.adapters.get(adapter)?.update(at.layer, at.site);
        add_low_rank(&mut self.compute, &step.rows(at.rows).adapted, &update, x, out);
    }

    fn rotate_and_store(
        &mut self,
        _step: &CpuStep<'_>,
        layer: usize,
        rotation: Rotation,
        qkv: &mut Vec<f32>,
    ) {
        let (angles, cache) = (self.angles.of(rotation), self.cache.layer(layer));
        rope_and_store(&mut self.compute, qkv, &self.slots, angles, cache);
    }

    fn attention(&mut self, step: &CpuStep<'_>, at: AttentionPoint, qkv: &Vec<f32>, out: &mut Vec<f32>) {
        let shape = at.attention.shape;
        out.resize(qkv.len() / shape.qkv_width() * shape.heads * shape.head_dim, 0.0);
        let (spans, cache) = (&step.rows(at.rows).spans, self.cache.layer(at.layer));
        attention(&mut self.compute, at.attention, qkv, spans, cache, out);
    }

    fn gated_feed_forward(
        &mut self,
        weights: GatedFeedForward<'_, Linear>,
        x: &Vec<f32>,
        scratch: &mut GatedRows<Vec<f32>>,
        out: &mut Vec<f32>,
        output: Output,
    ) {
        out.resize(x.len() / weights.gate_up.cols() * weights.down.rows(), 0.0);
        let products = kernels::GatedFeedForward {
            gate_up: weights.gate_up,
            activation: weights.activation,
            down: weights.down,
        };
        let mut buffers = kernels::GatedBuffers {
            gate_up: mem::take(&mut scratch.gate_up),
            gated: mem::take(&mut scratch.gated),
        };
        let x = TokenRows {
            values: x,
            prompt: self.prompt_rows,
        };
        products.run(&mut self.compute, x, &mut buffers, out, output.into());
        (scratch.gate_up, scratch.gated) = (buffers.gate_up, buffers.gated);
    }

    fn gate(&mut self, activation: Activation, width: usize, scratch: &mut GatedRows<Vec<f32>>) {
        let GatedRows { gate_up, gated } = scratch;
        gated.resize(gate_up.len() / 2, 0.0);
        gate(&mut self.compute, activation, gate_up, width, gated);
    }

    fn activate(&mut self, activation: Activation, width: usize, rows: &mut Vec<f32>) {
        activation.apply(&mut self.compute, rows, width);
    }

    fn keep_read_rows(&mut self, step: &CpuStep<'_>, rows: &mut Vec<f32>) {
        self.prompt_rows = step.read.prompt;
        let count = step.tokens.len();
        if step.read_rows.len() == count {
            return;
        }
        let width = rows.len() / count;
        for (to, from) in step.read_rows.iter().enumerate() {
            rows.copy_within(from * width..(from + 1) * width, to * width);
        }
        rows.truncate(step.read_rows.len() * width);
    }

    fn read_logits(&mut self, step: &CpuStep<'_>, weights: &Linear, x: &Vec<f32>, scaling: LogitScaling) {
        let StepOutput { logits, readings } = &mut self.output;
        logits.resize(x.len() / weights.cols() * weights.rows(), 0.0);
        let x = TokenRows {
            values: x,
            prompt: self.prompt_rows,
        };
        matmul_by_kind(&mut self.compute, x, weights, logits, kernels::Output::Replace);
        if scaling.scale != 1.0 {
            logits.iter_mut().for_each(|logit| *logit *= scaling.scale);
        }
        if let Some(cap) = scaling.soft_cap {
            soft_cap(self.compute.isa, logits, cap);
        }
        let width = weights.rows();
        readings.extend(step.readings.iter().filter_map(|RowReading { readout, row }| {
            read_row(readout, *row, &logits[row * width..][..width])
        }));
    }

    fn launch(&mut self, _step: &CpuStep<'_>) {
        // Every operation has computed its results when it was called.
    }

    fn finish(&mut self) -> Result<StepOutput, StepError> {
        Ok(mem::take(&mut self.output))
    }
}
