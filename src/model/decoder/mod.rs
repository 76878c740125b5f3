//! A decoder over packed, ragged batches. It follows a [`ModelConfig`] and knows no family.

mod angles;
mod layer;
mod loader;

use self::{
    angles::Angles,
    layer::{Activations, Entries, Layer, Rows},
    loader::Loader,
};
use super::{
    BatchSequence, ForwardBatch, LanguageModel, ModelError, ModelLimits,
    adapter::Adapter,
    census::Census,
    config::ModelConfig,
    kv_cache::KvCache,
    weights::{Tensor, WeightSource},
};
use crate::backend::cpu::kernels::{
    AttentionSpan, BLOCK_TOKENS, Isa, Linear, Norm, Output, RowGroups, ThreadPool, matmul, soft_cap,
};
use crate::model::spec::Precision;

/// A resident decoder with its KV pool and compute threads.
pub(super) struct Decoder {
    limits: ModelLimits,
    compute: Compute,
    embedding: Linear,
    embedding_scale: f32,
    /// Embeddings of positions, where nothing is rotated.
    positions: Option<Linear>,
    layers: Vec<Layer>,
    head: Head,
    cache: KvCache,
    batch: BatchRows,
    activations: Activations,
    adapters: Vec<Adapter>,
}

/// What products are computed with.
struct Compute {
    pool: ThreadPool,
    isa: Isa,
}

/// From the residual stream to logits.
struct Head {
    norm: Norm,
    /// `None` when it is the embedding.
    output: Option<Linear>,
    scale: f32,
    soft_cap: Option<f32>,
}

/// Where a batch's rows stand.
struct BatchRows {
    positions: Vec<usize>,
    slots: Vec<usize>,
    angles: Angles,
    /// Which rows run with which adapter.
    adapted: RowGroups,
    /// Rows whose logits are wanted.
    read: Vec<usize>,
    /// Which of those run with which adapter.
    read_adapted: RowGroups,
}

impl Decoder {
    /// Reads and repacks all weights. Errors name the tensor.
    pub(super) fn new(
        config: ModelConfig,
        source: &dyn WeightSource,
        mut pool: ThreadPool,
        kv_blocks: usize,
        precision: Precision,
    ) -> Result<(Self, Census), String> {
        let sizes = config.sizes;
        let mut loader = Loader::new(&config, &mut pool, source, precision);
        let mut layers = Vec::with_capacity(config.layers.len());
        for index in 0..config.layers.len() {
            layers.push(Layer::load(&mut loader, index)?);
        }
        let embedding = loader.matrix(Tensor::Embedding, sizes.vocab, sizes.hidden)?;
        let output = if config.tied_embeddings {
            None
        } else {
            Some(loader.matrix(Tensor::Output, sizes.vocab, sizes.hidden)?)
        };
        let norm = loader.norm(Tensor::OutputNorm, Tensor::OutputNormBias)?;
        let positions = config.learned_positions.then(|| loader.positions()).transpose()?;
        let tally = loader.finish()?;
        let cache = KvCache::new(&config, precision, kv_blocks)
            .map_err(|error| format!("no memory for {kv_blocks} KV blocks: {error}"))?;
        let decoder = Self {
            limits: config.limits(cache.blocks()),
            compute: Compute {
                pool,
                isa: Isa::detect(),
            },
            embedding,
            embedding_scale: config.embedding_scale,
            positions,
            layers,
            head: Head {
                norm,
                output,
                scale: config.logit_scale,
                soft_cap: config.logit_soft_cap,
            },
            cache,
            batch: BatchRows {
                positions: Vec::new(),
                slots: Vec::new(),
                angles: Angles::new(config.rope, config.local_rope),
                adapted: RowGroups::default(),
                read: Vec::new(),
                read_adapted: RowGroups::default(),
            },
            activations: Activations::default(),
            adapters: Vec::new(),
        };
        let census = tally.census(decoder.weight_bytes() as u64);
        Ok((decoder, census))
    }

    /// Sets what sequences' adapters count.
    pub(super) fn set_adapters(&mut self, adapters: Vec<Adapter>) {
        self.adapters = adapters;
    }

    /// Bytes of the weights, without adapters.
    fn weight_bytes(&self) -> usize {
        let layers = self.layers.iter().map(Layer::bytes).sum::<usize>();
        let output = self.head.output.as_ref().map_or(0, Linear::bytes);
        let norm = self.head.norm.values() * size_of::<f32>();
        let positions = self.positions.as_ref().map_or(0, Linear::bytes);
        layers + self.embedding.bytes() + positions + output + norm
    }

    /// Bytes of the KV pool, whether the system has given them yet or not.
    pub(super) fn kv_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Embeddings of the batch's rows, whose positions are known.
    fn embed(&mut self, tokens: &[u32]) {
        let width = self.embedding.cols();
        let hidden = &mut self.activations.hidden;
        hidden.resize(tokens.len() * width, 0.0);
        for (&token, row) in tokens.iter().zip(hidden.chunks_exact_mut(width)) {
            self.embedding.read_row(token as usize, row);
            row.iter_mut().for_each(|value| *value *= self.embedding_scale);
        }
        if let Some(positions) = &self.positions {
            let mut own = vec![0.0; width];
            for (&position, row) in self.batch.positions.iter().zip(hidden.chunks_exact_mut(width)) {
                positions.read_row(position, &mut own);
                row.iter_mut().zip(&own).for_each(|(value, own)| *value += own);
            }
        }
    }
}

impl BatchRows {
    fn set(&mut self, sequences: &[BatchSequence]) {
        self.positions.clear();
        self.slots.clear();
        self.read.clear();
        for sequence in sequences {
            for position in sequence.context..sequence.context + sequence.new_tokens {
                let block = sequence.block_table[position / BLOCK_TOKENS] as usize;
                self.positions.push(position);
                self.slots.push(block * BLOCK_TOKENS + position % BLOCK_TOKENS);
            }
            if sequence.wants_logits {
                self.read.push(self.slots.len() - 1);
            }
        }
        self.angles.set(&self.positions);
        let adapter = |s: &BatchSequence| s.adapter.map(|adapter| adapter.0);
        self.adapted
            .set(sequences.iter().map(|s| (adapter(s), s.new_tokens)));
        let read = sequences.iter().filter(|s| s.wants_logits);
        self.read_adapted.set(read.map(|s| (adapter(s), 1)));
    }
}

impl Head {
    /// Logits of the rows that are left.
    fn run(&self, compute: &mut Compute, embedding: &Linear, a: &mut Activations, logits: &mut Vec<f32>) {
        let output = self.output.as_ref().unwrap_or(embedding);
        logits.resize(a.hidden.len() / output.cols() * output.rows(), 0.0);
        let Compute { pool, isa } = compute;
        a.normed.resize(a.hidden.len(), 0.0);
        let norm = &self.norm;
        norm.apply(pool, *isa, &a.hidden, &mut a.normed, Output::Replace);
        matmul(pool, *isa, &a.normed, output, logits, Output::Replace);
        if self.scale != 1.0 {
            logits.iter_mut().for_each(|logit| *logit *= self.scale);
        }
        if let Some(cap) = self.soft_cap {
            soft_cap(*isa, logits, cap);
        }
    }
}

impl LanguageModel for Decoder {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Vec<f32>) -> Result<(), ModelError> {
        batch.check(&self.limits, self.adapters.len())?;
        self.batch.set(&batch.sequences);
        self.embed(&batch.tokens);
        let mut first_row = 0;
        let mut spans = Vec::with_capacity(batch.sequences.len());
        for sequence in &batch.sequences {
            spans.push(AttentionSpan {
                first_row,
                rows: sequence.new_tokens,
                context: sequence.context,
                block_table: &sequence.block_table,
            });
            first_row += sequence.new_tokens;
        }
        let (compute, cache, a) = (&mut self.compute, &mut self.cache, &mut self.activations);
        let entries = Entries {
            slots: &self.batch.slots,
            angles: &self.batch.angles,
        };
        let rows = Rows {
            spans: &spans,
            adapters: &self.adapters,
            adapted: &self.batch.adapted,
        };
        let Some((last, others)) = self.layers.split_last() else {
            logits.clear();
            return Ok(());
        };
        for layer in others {
            layer.store(compute, &rows, &entries, cache, a);
            layer.run(compute, &rows, cache, a);
        }
        // Of the last layer, the cache takes every row; the rest of it is for those whose logits are read.
        last.store(compute, &rows, &entries, cache, a);
        if self.batch.read.is_empty() {
            logits.clear();
            return Ok(());
        }
        a.keep(&self.batch.read, self.batch.slots.len());
        let read = batch.sequences.iter().filter(|sequence| sequence.wants_logits);
        let read = read.enumerate().map(|(row, sequence)| AttentionSpan {
            first_row: row,
            rows: 1,
            context: sequence.context + sequence.new_tokens - 1,
            block_table: &sequence.block_table,
        });
        let read = Rows {
            spans: &read.collect::<Vec<_>>(),
            adapters: &self.adapters,
            adapted: &self.batch.read_adapted,
        };
        last.run(compute, &read, cache, a);
        self.head.run(compute, &self.embedding, a, logits);
        Ok(())
    }
}
