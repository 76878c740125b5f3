//! A decoder over packed, ragged batches. It follows a [`ModelConfig`] and knows no family.

mod angles;
mod layer;
mod loader;

use self::{
    angles::Angles,
    layer::{Activations, Layer, Rows},
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
use crate::kernels::{
    AttentionSpan, BLOCK_TOKENS, Fused, Isa, Norm, Output, Precision, RowGroups, ThreadPool, matmul, soft_cap,
};

/// A resident decoder with its KV pool and compute threads.
pub(super) struct Decoder {
    limits: ModelLimits,
    compute: Compute,
    embedding: Fused,
    embedding_scale: f32,
    /// Embeddings of positions, where nothing is rotated.
    positions: Option<Fused>,
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
    output: Option<Fused>,
    scale: f32,
    soft_cap: Option<f32>,
    last_rows: Vec<f32>,
}

/// Where a batch's rows stand.
struct BatchRows {
    positions: Vec<usize>,
    slots: Vec<usize>,
    angles: Angles,
    /// Which rows run with which adapter.
    adapted: RowGroups,
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
        let limits = ModelLimits {
            vocab_size: sizes.vocab,
            context_length: config.context_length.min(cache.tokens()),
            block_size: BLOCK_TOKENS,
            num_blocks: cache.blocks(),
        };
        let decoder = Self {
            limits,
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
                last_rows: Vec::new(),
            },
            cache,
            batch: BatchRows {
                positions: Vec::new(),
                slots: Vec::new(),
                angles: Angles::new(config.rope, config.local_rope),
                adapted: RowGroups::default(),
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
        let output = self.head.output.as_ref().map_or(0, Fused::bytes);
        let norm = self.head.norm.values() * size_of::<f32>();
        let positions = self.positions.as_ref().map_or(0, Fused::bytes);
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
        for sequence in sequences {
            for position in sequence.context..sequence.context + sequence.new_tokens {
                let block = sequence.block_table[position / BLOCK_TOKENS] as usize;
                self.positions.push(position);
                self.slots.push(block * BLOCK_TOKENS + position % BLOCK_TOKENS);
            }
        }
        self.angles.set(&self.positions);
        let runs = sequences.iter();
        self.adapted
            .set(runs.map(|s| (s.adapter.map(|adapter| adapter.0), s.new_tokens)));
    }
}

impl Head {
    /// Logits of the rows that are wanted.
    fn run(
        &mut self,
        compute: &mut Compute,
        embedding: &Fused,
        sequences: &[BatchSequence],
        a: &mut Activations,
        logits: &mut Vec<f32>,
    ) {
        let output = self.output.as_ref().unwrap_or(embedding);
        let hidden = output.cols();
        self.last_rows.clear();
        let mut end = 0;
        for sequence in sequences {
            end += sequence.new_tokens;
            if sequence.wants_logits {
                let row = &a.hidden[(end - 1) * hidden..end * hidden];
                self.last_rows.extend_from_slice(row);
            }
        }
        logits.clear();
        logits.resize(self.last_rows.len() / hidden * output.rows(), 0.0);
        if logits.is_empty() {
            return;
        }
        let Compute { pool, isa } = compute;
        a.normed.resize(self.last_rows.len(), 0.0);
        let norm = &self.norm;
        norm.apply(pool, *isa, &self.last_rows, &mut a.normed, Output::Replace);
        matmul(pool, *isa, &a.normed, output, logits, Output::Replace);
        logits.iter_mut().for_each(|logit| *logit *= self.scale);
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
        let rows = Rows {
            spans: &spans,
            slots: &self.batch.slots,
            angles: &self.batch.angles,
            adapters: &self.adapters,
            adapted: &self.batch.adapted,
        };
        for layer in &self.layers {
            layer.run(&mut self.compute, &rows, &mut self.cache, &mut self.activations);
        }
        let (embedding, a) = (&self.embedding, &mut self.activations);
        self.head
            .run(&mut self.compute, embedding, &batch.sequences, a, logits);
        Ok(())
    }
}
